//! Features of the cluster and their levels (KIP-584), as brokers name them in their answer to ApiVersions.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{ApiVersionsRequest, UpdateFeaturesRequest};
use ottla_model::{BrokerId, ErrorCode};

use crate::cluster::Client;
use crate::convert::{checked, error_of, millis, text};
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

/// How a feature's level may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureChange {
    Upgrade,
    /// Nothing may be lost.
    Downgrade,
    UnsafeDowngrade,
}

impl FeatureChange {
    fn code(self) -> i8 {
        match self {
            Self::Upgrade => 1,
            Self::Downgrade => 2,
            Self::UnsafeDowngrade => 3,
        }
    }
}

/// How long the cluster may take.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(60);

impl Client {
    /// Sets the levels of features, or only checks whether they could be set. All of them apply, or none.
    pub async fn update_features(
        &self,
        levels: &BTreeMap<String, i16>,
        change: FeatureChange,
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let updates = levels.iter().map(|(name, level)| {
            FeatureUpdateKey::default()
                .with_feature(text(name))
                .with_max_version_level(*level)
                .with_upgrade_type(change.code())
        });
        let request = UpdateFeaturesRequest::default()
            .with_timeout_ms(millis(UPDATE_TIMEOUT))
            .with_feature_updates(updates.collect())
            .with_validate_only(validate_only);
        let response = self.admin_link().await?.call(&request).await?;
        let refused = |code: i16, message: Option<kafka_protocol::protocol::StrBytes>| match error_of(code) {
            ErrorCode::None => Ok(()),
            code => Err(ClientError::Refused { code, message: message.map(|message| message.to_string()) }),
        };
        refused(response.error_code, response.error_message)?;
        response.results.into_iter().try_for_each(|result| refused(result.error_code, result.error_message))
    }

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
