//! UpdateFeatures (57): the quorum decides about the levels of features. All updates apply, or none.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::controller::{FeatureChange, FeatureUpdate, Refusal, UpdateFeatures};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use ottla_protocol::kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use ottla_protocol::kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};
use crate::request::wire;

/// From this version on a request names the kind of change, and can be checked only.
const CHANGES_FROM: i16 = 1;
/// From this version on a response has one outcome for all updates.
const ONE_OUTCOME_FROM: i16 = 2;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<UpdateFeaturesRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).validating(request.validate_only).cluster(Operation::Alter) {
        let denied = UpdateFeaturesResponse::default()
            .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
            .with_error_message(None);
        return Reply::encode::<UpdateFeaturesRequest>(&header, &denied);
    }
    let version = header.api_version;
    let updates: Result<Vec<_>, _> =
        request.feature_updates.iter().map(|update| feature_update(version, update)).collect();
    let updates = match updates {
        Ok(updates) => updates,
        Err(refusal) => {
            return Reply::encode::<UpdateFeaturesRequest>(&header, &response(version, &request, Some(&refusal)));
        }
    };
    let patience = Patience::of(Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into()));
    let decision =
        broker.quorum.submit(UpdateFeatures { updates, validate_only: request.validate_only }, patience.remaining());
    let broker = Arc::clone(broker);
    Reply::later(async move {
        let refusal = match decision.await {
            Ok(Ok(updated)) => {
                patience.await_image(&broker.metadata, updated.revision).await;
                None
            }
            Ok(Err(refusal)) => Some(refusal),
            Err(error) => Some(admin::no_answer(&error)),
        };
        let response = response(version, &request, refusal.as_ref());
        Response::encode_or_close::<UpdateFeaturesRequest>(&header, &response)
    })
}

fn feature_update(version: i16, update: &FeatureUpdateKey) -> Result<FeatureUpdate, Refusal> {
    let (name, level) = (update.feature.to_string(), update.max_version_level);
    let change = match update.upgrade_type {
        _ if version < CHANGES_FROM && update.allow_downgrade => FeatureChange::SafeDowngrade,
        _ if version < CHANGES_FROM => FeatureChange::Upgrade,
        1 => FeatureChange::Upgrade,
        2 => FeatureChange::SafeDowngrade,
        3 => FeatureChange::UnsafeDowngrade,
        _ => {
            let text = format!(
                "Invalid update version {level} for feature {name}. The controller does not support the given upgrade \
                 type."
            );
            return Err(Refusal::new(ErrorCode::InvalidUpdateVersion, text));
        }
    };
    Ok(FeatureUpdate { name, level, change })
}

fn response(version: i16, request: &UpdateFeaturesRequest, refusal: Option<&Refusal>) -> UpdateFeaturesResponse {
    let (code, message) = admin::told(refusal);
    let of_request = || UpdateFeaturesResponse::default().with_error_code(code).with_error_message(message.clone());
    if version >= ONE_OUTCOME_FROM {
        let all = "The update failed for all features since the following feature had an error: ";
        let is_of_a_feature = |refusal: &&Refusal| refusal.error == ErrorCode::InvalidUpdateVersion;
        return match refusal.filter(is_of_a_feature) {
            Some(refusal) => of_request().with_error_message(Some(wire::text(&format!("{all}{}", refusal.message)))),
            None => of_request(),
        };
    }
    let result = |update: &FeatureUpdateKey| {
        UpdatableFeatureResult::default()
            .with_feature(update.feature.clone())
            .with_error_code(code)
            .with_error_message(message.clone())
    };
    UpdateFeaturesResponse::default().with_results(request.feature_updates.iter().map(result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(upgrade_type: i8) -> FeatureUpdateKey {
        FeatureUpdateKey::default()
            .with_feature(wire::text("ottla.version"))
            .with_max_version_level(2)
            .with_upgrade_type(upgrade_type)
    }

    #[test]
    fn a_change_is_that_of_the_requests_version() {
        let change = |version, update: FeatureUpdateKey| feature_update(version, &update).map(|update| update.change);
        assert_eq!(change(0, update(1)), Ok(FeatureChange::Upgrade));
        assert_eq!(change(0, update(1).with_allow_downgrade(true)), Ok(FeatureChange::SafeDowngrade));
        let all = [FeatureChange::Upgrade, FeatureChange::SafeDowngrade, FeatureChange::UnsafeDowngrade];
        for (code, expected) in [1, 2, 3].into_iter().zip(all) {
            assert_eq!(change(2, update(code)), Ok(expected));
        }
        for bad in [0, 4, -1] {
            assert_eq!(change(1, update(bad)).map_err(|refusal| refusal.error), Err(ErrorCode::InvalidUpdateVersion));
        }
    }

    #[test]
    fn a_refusal_is_of_every_feature_or_of_the_request() {
        let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update(1), update(1)]);
        let refusal = Refusal::new(ErrorCode::InvalidUpdateVersion, "no");
        let old = response(1, &request, Some(&refusal));
        assert_eq!((old.error_code, old.results.len()), (0, 2));
        assert!(old.results.iter().all(|result| result.error_message.as_deref() == Some("no")));
        let new = response(2, &request, Some(&refusal));
        assert_eq!((new.error_code, new.results.len()), (refusal.error.code(), 0));
        assert!(new.error_message.is_some_and(|message| message.ends_with("had an error: no")));
        let good = response(2, &request, None);
        assert_eq!((good.error_code, good.error_message), (0, None));
        let unknown = response(2, &request, Some(&Refusal::new(ErrorCode::RequestTimedOut, "late")));
        assert_eq!(unknown.error_message.as_deref(), Some("late"));
    }
}
