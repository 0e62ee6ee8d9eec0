//! What `kafka-topics` asks: brokers, or the coordinators.

use ottla_metadata::ConfigEntity;
use ottla_metadata::controller::ConfigOp;

use super::Quorum;
use crate::kafka::{Kafka, ListedTopic, NewTopic, TopicDescription};
use crate::kafka_tools::ToolError;

pub enum Cluster {
    Brokers(Kafka),
    Quorum(Quorum),
}

impl Cluster {
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<(), ToolError> {
        match self {
            Self::Brokers(kafka) => Ok(kafka.create_topic(topic).await?),
            Self::Quorum(quorum) => quorum.create_topic(topic).await,
        }
    }

    pub async fn topics(&self) -> Result<Vec<ListedTopic>, ToolError> {
        match self {
            Self::Brokers(kafka) => Ok(kafka.topics().await?),
            Self::Quorum(quorum) => quorum.topics().await,
        }
    }

    pub async fn describe(&self, names: &[String]) -> Result<Vec<TopicDescription>, ToolError> {
        match self {
            Self::Brokers(kafka) => Ok(kafka.describe(names).await?),
            Self::Quorum(quorum) => quorum.describe(names).await,
        }
    }

    pub async fn grow_topic(&self, name: &str, total: i32, assignments: &[Vec<i32>]) -> Result<(), ToolError> {
        match self {
            Self::Brokers(kafka) => Ok(kafka.grow_topic(name, total, assignments).await?),
            Self::Quorum(quorum) => quorum.grow_topic(name, total, assignments).await,
        }
    }

    pub async fn delete_topic(&self, name: &str) -> Result<(), ToolError> {
        match self {
            Self::Brokers(kafka) => Ok(kafka.delete_topic(name).await?),
            Self::Quorum(quorum) => quorum.delete_topic(name).await,
        }
    }

    /// `kafka-topics --alter --config`, which only the tools of the ZooKeeper era can do.
    pub async fn alter_topic_config(
        &self,
        name: &str,
        set: &[(String, String)],
        removed: &[String],
    ) -> Result<(), ToolError> {
        let set = set.iter().map(|(name, value)| (name.clone(), ConfigOp::Set(value.clone())));
        let removed = removed.iter().map(|name| (name.clone(), ConfigOp::Delete));
        match self {
            Self::Brokers(_) => Err(ToolError::Usage("--alter --config needs --zookeeper".to_owned())),
            Self::Quorum(quorum) => quorum.alter_config(ConfigEntity::topic(name), set.chain(removed).collect()).await,
        }
    }
}
