//! Configurations of topics, brokers, groups and subscriptions to clients' metrics: the current values, and changes.

use std::time::{Duration, Instant};

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest};
use ottla_model::{BrokerId, ErrorCode};
use ottla_protocol::Api;

use crate::cluster::Client;
use crate::convert::{error_of, text};
use crate::error::{ClientError, Outcome};

/// Whose configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigResource {
    Topic(String),
    /// One broker. The request goes to that broker: only it knows its static settings.
    Broker(BrokerId),
    /// The log levels of one broker's process.
    BrokerLogger(BrokerId),
    /// The default for every broker without an own value.
    AllBrokers,
    Group(String),
    ClientMetrics(String),
}

/// How far the image of a broker may be behind a topic that was just created. After that the topic does not exist:
/// Kafka's client asks once, and nobody who misspelt a name waits for the whole retry timeout.
const NEW_TOPIC_PATIENCE: Duration = Duration::from_secs(1);

/// Kafka's `ConfigResource.Type` of a [`ConfigResource::ClientMetrics`].
pub const CONFIG_CLIENT_METRICS: i8 = 16;

impl ConfigResource {
    /// Kafka's `ConfigResource.Type` and the name that goes with it.
    fn to_wire(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (2, name.clone()),
            Self::Broker(id) => (4, id.to_string()),
            Self::BrokerLogger(id) => (8, id.to_string()),
            Self::AllBrokers => (4, String::new()),
            Self::ClientMetrics(name) => (CONFIG_CLIENT_METRICS, name.clone()),
            Self::Group(name) => (32, name.clone()),
        }
    }

    fn broker(&self) -> Option<BrokerId> {
        match self {
            Self::Broker(id) | Self::BrokerLogger(id) => Some(*id),
            _ => None,
        }
    }
}

/// One configuration entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigEntry {
    pub name: String,
    /// None for one that is not shown.
    pub value: Option<String>,
    pub is_read_only: bool,
    pub is_sensitive: bool,
    /// Kafka's `ConfigSource`: 1 topic, 2 broker, 3 default broker, 4 static broker, 5 default, 6 logger, 7 client
    /// metrics, 8 group.
    pub source: i8,
    /// Where the value would come from, strongest first: name, value and source.
    pub synonyms: Vec<(String, Option<String>, i8)>,
}

/// A change to one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigChange {
    Set { name: String, value: String },
    Delete { name: String },
}

impl Client {
    /// The configuration of a topic.
    pub async fn describe_topic_configs(&self, topic: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        self.describe_configs(&ConfigResource::Topic(topic.to_owned())).await
    }

    /// The configuration of a resource, with its synonyms.
    pub async fn describe_configs(&self, resource: &ConfigResource) -> Result<Vec<ConfigEntry>, ClientError> {
        let (kind, name) = resource.to_wire();
        let asked = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(&name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![asked]).with_include_synonyms(true);
        let attempt = || async {
            let link = self.link_for(resource).await?;
            let response = link.call(&request).await?;
            let result = response.results.into_iter().next().ok_or(ClientError::Incomplete(Api::DescribeConfigs))?;
            match error_of(result.error_code) {
                ErrorCode::None => Ok(result.configs),
                code => {
                    Err(ClientError::Refused { code, message: result.error_message.map(|message| message.to_string()) })
                }
            }
        };
        let may_appear = until_topic_must_exist();
        let configs = self.retry(None, may_appear, attempt).await?;
        let entries = configs.into_iter().map(|config| ConfigEntry {
            name: config.name.to_string(),
            value: config.value.map(|value| value.to_string()),
            is_read_only: config.read_only,
            is_sensitive: config.is_sensitive,
            source: config.config_source,
            synonyms: config
                .synonyms
                .into_iter()
                .map(|synonym| (synonym.name.to_string(), synonym.value.map(|value| value.to_string()), synonym.source))
                .collect(),
        });
        Ok(entries.collect())
    }

    /// Changes the named entries of a resource and leaves the others as they are.
    pub async fn alter_configs(&self, resource: &ConfigResource, changes: &[ConfigChange]) -> Result<(), ClientError> {
        /// Kafka's `AlterConfigOp.OpType`.
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let (kind, name) = resource.to_wire();
        let configs = changes.iter().map(|change| match change {
            ConfigChange::Set { name, value } => AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(SET)
                .with_value(Some(text(value))),
            ConfigChange::Delete { name } => {
                AlterableConfig::default().with_name(text(name)).with_config_operation(DELETE).with_value(None)
            }
        });
        let asked = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(&name))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![asked]);
        let attempt = || async {
            let response = self.link_for(resource).await?.call(&request).await?;
            let api = Api::IncrementalAlterConfigs;
            let result = response.responses.into_iter().next().ok_or(ClientError::Incomplete(api))?;
            match error_of(result.error_code) {
                ErrorCode::None => Ok(()),
                code => {
                    Err(ClientError::Refused { code, message: result.error_message.map(|message| message.to_string()) })
                }
            }
        };
        // Setting the same value again is harmless, but a retry must not undo a later change by another client.
        let may_appear = until_topic_must_exist();
        self.retry(None, |error| error.outcome() != Outcome::Unknown && may_appear(error), attempt).await
    }

    /// The names of the resources of a kind that have, or could have, configurations. A broker whose version of the
    /// request names no kinds lists client metrics only.
    pub async fn list_config_resources(&self, kind: i8) -> Result<Vec<String>, ClientError> {
        let attempt = || async {
            let response = self.admin_link().await?.call(&ListConfigResourcesRequest::default()).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response.config_resources),
                code => Err(ClientError::Refused { code, message: None }),
            }
        };
        let resources = self.retry(None, |_| true, attempt).await?;
        let of_kind = resources.into_iter().filter(|resource| resource.resource_type == kind);
        Ok(of_kind.map(|resource| resource.resource_name.to_string()).collect())
    }

    async fn link_for(&self, resource: &ConfigResource) -> Result<std::sync::Arc<crate::cluster::Link>, ClientError> {
        match resource.broker() {
            Some(broker) => {
                // Only the broker itself answers for its configuration: waiting for one that is down would not help.
                if !self.metadata(Some(&[])).await?.brokers.contains_key(&broker) {
                    let message = Some(format!("broker {broker} does not run, or is none of this cluster"));
                    return Err(ClientError::Refused { code: ErrorCode::BrokerNotAvailable, message });
                }
                self.link_to(broker).await
            }
            None => self.admin_link().await,
        }
    }
}

/// Whether an error may pass: that a topic does not exist, only for [`NEW_TOPIC_PATIENCE`] from now on.
fn until_topic_must_exist() -> impl Fn(&ClientError) -> bool {
    let began = Instant::now();
    move |error| error.code() != Some(ErrorCode::UnknownTopicOrPartition) || began.elapsed() < NEW_TOPIC_PATIENCE
}
