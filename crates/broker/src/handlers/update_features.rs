//! UpdateFeatures (57): the levels of features are part of the release. To ask for the level in force changes nothing;
//! every other level is refused.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use ottla_protocol::kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use ottla_protocol::kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use ottla_protocol::messages::api_versions::FEATURES;

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

/// From this version on a response has one outcome for all updates.
const ONE_OUTCOME_FROM: i16 = 2;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let is_allowed = broker.access(context).cluster(Operation::Alter);
    Answer::respond::<UpdateFeaturesRequest>(&header, body, |request| match is_allowed {
        true => answer(header.api_version, request),
        false => UpdateFeaturesResponse::default()
            .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
            .with_error_message(None),
    })
}

fn answer(version: i16, request: &UpdateFeaturesRequest) -> UpdateFeaturesResponse {
    let outcomes: Vec<_> = request.feature_updates.iter().map(|update| (update, refusal(update))).collect();
    if version >= ONE_OUTCOME_FROM {
        let refused = outcomes.into_iter().find_map(|(_, refusal)| refusal);
        let code = if refused.is_some() { ErrorCode::InvalidUpdateVersion } else { ErrorCode::None };
        return UpdateFeaturesResponse::default()
            .with_error_code(code.code())
            .with_error_message(refused.as_deref().map(wire::text));
    }
    let result = |(update, refusal): (&FeatureUpdateKey, Option<String>)| {
        let code = if refusal.is_some() { ErrorCode::InvalidUpdateVersion } else { ErrorCode::None };
        UpdatableFeatureResult::default()
            .with_feature(update.feature.clone())
            .with_error_code(code.code())
            .with_error_message(refusal.as_deref().map(wire::text))
    };
    UpdateFeaturesResponse::default().with_results(outcomes.into_iter().map(result).collect())
}

/// Why the update is refused; none where the feature has that level.
fn refusal(update: &FeatureUpdateKey) -> Option<String> {
    let (name, level) = (update.feature.as_str(), update.max_version_level);
    let refuse = |why: String| Some(format!("Invalid update version {level} for feature {name}. {why}"));
    match FEATURES.iter().find(|feature| feature.name == name) {
        None => refuse("The brokers do not support this feature.".to_owned()),
        Some(feature) if feature.finalized_level == level => None,
        Some(feature) => refuse(format!("This release works at level {} only.", feature.finalized_level)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(name: &str, level: i16) -> FeatureUpdateKey {
        FeatureUpdateKey::default().with_feature(wire::text(name)).with_max_version_level(level)
    }

    #[test]
    fn only_the_level_in_force_is_accepted() {
        let updates = vec![update("metadata.version", 30), update("metadata.version", 29), update("share.version", 1)];
        let request = UpdateFeaturesRequest::default().with_feature_updates(updates);
        let codes: Vec<_> = answer(1, &request).results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, ErrorCode::InvalidUpdateVersion.code(), ErrorCode::InvalidUpdateVersion.code()]);
        assert_eq!(answer(2, &request).error_code, ErrorCode::InvalidUpdateVersion.code());
        let good = UpdateFeaturesRequest::default().with_feature_updates(vec![update("group.version", 1)]);
        assert_eq!(answer(2, &good).error_code, 0);
    }
}
