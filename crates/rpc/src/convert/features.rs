//! Levels of features.

use ottla_metadata::controller::{FeatureChange, FeatureUpdate, Refusal, UpdateFeatures, UpdatedFeatures};
use ottla_model::Revision;

use super::{InvalidField, Wire, refusal_from_proto, refusal_to_proto};
use crate::cluster;

impl Wire for UpdateFeatures {
    type Message = cluster::UpdateFeaturesRequest;

    fn into_proto(self) -> Self::Message {
        let update = |update: FeatureUpdate| {
            let change = match update.change {
                FeatureChange::Upgrade => cluster::FeatureChange::Upgrade,
                FeatureChange::SafeDowngrade => cluster::FeatureChange::SafeDowngrade,
                FeatureChange::UnsafeDowngrade => cluster::FeatureChange::UnsafeDowngrade,
            };
            cluster::FeatureUpdate { name: update.name, level: update.level.into(), change: change.into() }
        };
        cluster::UpdateFeaturesRequest {
            updates: self.updates.into_iter().map(update).collect(),
            validate_only: self.validate_only,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let update = |update: cluster::FeatureUpdate| {
            let change = match update.change() {
                cluster::FeatureChange::Unspecified => {
                    return Err(InvalidField::new("change", update.change.to_string()));
                }
                cluster::FeatureChange::Upgrade => FeatureChange::Upgrade,
                cluster::FeatureChange::SafeDowngrade => FeatureChange::SafeDowngrade,
                cluster::FeatureChange::UnsafeDowngrade => FeatureChange::UnsafeDowngrade,
            };
            let level =
                i16::try_from(update.level).map_err(|_| InvalidField::new("level", update.level.to_string()))?;
            Ok(FeatureUpdate { name: update.name, level, change })
        };
        let updates = message.updates.into_iter().map(update).collect::<Result<_, _>>()?;
        Ok(Self { updates, validate_only: message.validate_only })
    }
}

impl Wire for Result<UpdatedFeatures, Refusal> {
    type Message = cluster::UpdateFeaturesResponse;

    fn into_proto(self) -> Self::Message {
        let revision = self.as_ref().map_or(0, |updated| updated.revision.0);
        let (error_code, error_message) = refusal_to_proto(self.err());
        cluster::UpdateFeaturesResponse { error_code, error_message, revision }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(match refusal_from_proto(message.error_code, message.error_message) {
            Some(refusal) => Err(refusal),
            None => Ok(UpdatedFeatures { revision: Revision(message.revision) }),
        })
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;

    use super::*;

    #[test]
    fn updates_and_their_answers_travel() {
        let changes = [FeatureChange::Upgrade, FeatureChange::SafeDowngrade, FeatureChange::UnsafeDowngrade];
        for (change, level) in changes.into_iter().zip([i16::MIN, 0, i16::MAX]) {
            let updates = vec![FeatureUpdate { name: "f".to_owned(), level, change }];
            let request = UpdateFeatures { updates, validate_only: level == 0 };
            assert_eq!(UpdateFeatures::from_proto(request.clone().into_proto()), Ok(request));
        }
        let refused = Err(Refusal::new(ErrorCode::InvalidUpdateVersion, "no"));
        for answer in [Ok(UpdatedFeatures { revision: Revision(7) }), refused] {
            assert_eq!(Wire::from_proto(answer.clone().into_proto()), Ok(answer));
        }
        let update = |level, change| cluster::FeatureUpdate { name: String::new(), level, change };
        for bad in [update(1, 0), update(1, 9), update(40_000, 1)] {
            let message = cluster::UpdateFeaturesRequest { updates: vec![bad], validate_only: false };
            assert!(UpdateFeatures::from_proto(message).is_err());
        }
    }
}
