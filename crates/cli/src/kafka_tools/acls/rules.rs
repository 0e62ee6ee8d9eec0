//! The rules of a cluster: asked for at its brokers, or at its coordinators.

use ottla_authorizer::{AclBinding, AclFilter};

use crate::kafka::{Kafka, KafkaError};
use crate::kafka_tools::ToolError;
use crate::kafka_tools::zookeeper::Quorum;

pub enum Rules {
    Brokers(Kafka),
    Quorum(Quorum),
}

impl Rules {
    pub async fn matching(&self, filter: &AclFilter) -> Result<Vec<AclBinding>, ToolError> {
        match self {
            Self::Brokers(kafka) => Ok(kafka.client().describe_acls(filter).await.map_err(KafkaError::from)?),
            Self::Quorum(quorum) => quorum.acls(filter).await,
        }
    }

    pub async fn create(&self, rules: &[AclBinding]) -> Result<(), ToolError> {
        match self {
            Self::Brokers(kafka) => kafka.client().create_acls(rules).await.map_err(KafkaError::from)?,
            Self::Quorum(quorum) => quorum.create_acls(rules).await?,
        };
        Ok(())
    }

    pub async fn delete(&self, filters: &[AclFilter]) -> Result<(), ToolError> {
        match self {
            Self::Brokers(kafka) => drop(kafka.client().delete_acls(filters).await.map_err(KafkaError::from)?),
            Self::Quorum(quorum) => quorum.delete_acls(filters).await?,
        }
        Ok(())
    }
}
