//! Features of the cluster and their levels (KIP-584), as brokers name them in their answer to ApiVersions.

use std::collections::BTreeMap;

use kafka_protocol::messages::ApiVersionsRequest;
use ottla_model::BrokerId;

use crate::cluster::Client;
use crate::convert::{checked, text};
use crate::error::ClientError;

/// The features of a cluster, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Features {
    pub levels: BTreeMap<String, FeatureLevels>,
    /// None if the broker does not send it.
    pub finalized_epoch: Option<i64>,
}

/// The levels of one feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureLevels {
    /// What the broker works with.
    pub min: i16,
    pub max: i16,
    /// What the cluster is at; 0 where the feature is off.
    pub finalized: i16,
}

impl Client {
    /// The features of the cluster, as a broker names them; none: as any does.
    pub async fn features(&self, broker: Option<BrokerId>) -> Result<Features, ClientError> {
        let link = match broker {
            Some(broker) => self.link_to(broker).await?,
            None => self.any_link().await?,
        };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("ottla"))
            .with_client_software_version(text(env!("CARGO_PKG_VERSION")));
        let response = link.call(&request).await?;
        checked(response.error_code)?;
        let finalized = |name: &str| response.finalized_features.iter().find(|feature| feature.name.as_str() == name);
        let levels = response.supported_features.iter().map(|feature| {
            let name = feature.name.to_string();
            let finalized = finalized(&name).map_or(0, |feature| feature.max_version_level);
            (name, FeatureLevels { min: feature.min_version, max: feature.max_version, finalized })
        });
        let epoch = response.finalized_features_epoch;
        Ok(Features { levels: levels.collect(), finalized_epoch: Some(epoch).filter(|epoch| *epoch >= 0) })
    }
}
