//! AlterUserScramCredentials (51): the broker checks and derives the keys, the quorum keeps them as the configuration
//! of the user. Salted passwords go no further than here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp, Refusal};
use ottla_metadata::{ConfigEntity, ConfigKind, Image};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use ottla_protocol::kafka_protocol::messages::{AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_sasl::scram::{ITERATIONS_MAX, ITERATIONS_MIN};
use ottla_sasl::{ScramCredential, ScramHash};

use crate::broker::Broker;
use crate::credentials;
use crate::request::admin::{self, Patience};
use crate::request::{RequestContext, wire};

/// What is to become of one user: the change of the credential of a mechanism, or why there is none.
type Planned = Result<(&'static str, ConfigOp), Refusal>;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AlterUserScramCredentialsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let mut planned = plan(&broker.metadata.current(), &request);
    if !broker.access(context).cluster(Operation::Alter) {
        let denied = Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new());
        planned.values_mut().for_each(|user| *user = Err(denied.clone()));
    }
    let entities: Vec<AlterConfig> = planned
        .iter()
        .filter_map(|(user, planned)| {
            let entity = ConfigEntity { kind: ConfigKind::Users, name: user.clone() };
            let (mechanism, op) = planned.as_ref().ok()?.clone();
            Some(AlterConfig { entity, changes: vec![(mechanism.to_owned(), op)], replace_all: false })
        })
        .collect();
    let patience = Patience::of(broker.config.request_timeout);
    let decision = (!entities.is_empty())
        .then(|| broker.quorum.submit(AlterConfigs { entities, validate_only: false }, patience.remaining()));
    let broker = Arc::clone(broker);
    Reply::later(async move {
        let mut decided = BTreeMap::new();
        let mut failure = None;
        match decision {
            None => {}
            Some(decision) => match decision.await {
                Ok(outcomes) => {
                    patience.await_image(&broker.metadata, outcomes.revision).await;
                    decided = outcomes.entities.into_iter().map(|(entity, refusal)| (entity.name, refusal)).collect();
                }
                Err(error) => failure = Some(admin::no_answer(&error)),
            },
        }
        let results = planned.into_iter().map(|(user, planned)| {
            let refusal = planned.err().or_else(|| failure.clone()).or_else(|| decided.remove(&user).flatten());
            let (code, message) = admin::told(refusal.as_ref());
            AlterUserScramCredentialsResult::default()
                .with_user(wire::text(&user))
                .with_error_code(code)
                .with_error_message(message)
        });
        let response = AlterUserScramCredentialsResponse::default().with_results(results.collect());
        Response::encode_or_close::<AlterUserScramCredentialsRequest>(&header, &response)
    })
}

/// As Kafka's controller has it: one change of each user, deletions first. A second one refuses the user, also one of
/// another mechanism; what a refused user asks for besides says no more.
fn plan(image: &Image, request: &AlterUserScramCredentialsRequest) -> BTreeMap<String, Planned> {
    let mut planned: BTreeMap<String, Planned> = BTreeMap::new();
    let mut add = |user: &str, change: Planned| match planned.entry(user.to_owned()) {
        Entry::Vacant(first) => {
            first.insert(change);
        }
        Entry::Occupied(mut first) if first.get().is_ok() => {
            let text = "A user credential cannot be altered twice in the same request";
            *first.get_mut() = Err(Refusal::new(ErrorCode::DuplicateResource, text));
        }
        Entry::Occupied(_) => {}
    };
    for deletion in &request.deletions {
        add(&deletion.name, plan_deletion(image, &deletion.name, deletion.mechanism));
    }
    for upsertion in &request.upsertions {
        let hash = hash_for(&upsertion.name, upsertion.mechanism);
        let change = hash.and_then(|hash| {
            let iterations = checked_iterations(upsertion.iterations)?;
            if upsertion.salted_password.len() != hash.key_bytes() || upsertion.salt.is_empty() {
                let text = "The salted password or the salt has no size of this mechanism";
                return Err(Refusal::new(ErrorCode::UnacceptableCredential, text));
            }
            let salt = upsertion.salt.to_vec();
            let credential = ScramCredential::of_salted_password(hash, &upsertion.salted_password, salt, iterations);
            Ok((hash.mechanism_name(), ConfigOp::Set(credential.to_text())))
        });
        add(&upsertion.name, change);
    }
    planned
}

fn plan_deletion(image: &Image, user: &str, mechanism: i8) -> Planned {
    let hash = hash_for(user, mechanism)?;
    if !credentials::of_user(image, user).contains_key(&hash) {
        let text = "Attempt to delete a user credential that does not exist";
        return Err(Refusal::new(ErrorCode::ResourceNotFound, text));
    }
    Ok((hash.mechanism_name(), ConfigOp::Delete))
}

fn hash_for(user: &str, mechanism: i8) -> Result<ScramHash, Refusal> {
    if user.is_empty() {
        return Err(Refusal::new(ErrorCode::UnacceptableCredential, "Username must not be empty"));
    }
    ScramHash::from_code(mechanism)
        .ok_or_else(|| Refusal::new(ErrorCode::UnsupportedSaslMechanism, "Unknown SCRAM mechanism"))
}

fn checked_iterations(iterations: i32) -> Result<u32, Refusal> {
    match u32::try_from(iterations) {
        Ok(iterations) if iterations > ITERATIONS_MAX => {
            Err(Refusal::new(ErrorCode::UnacceptableCredential, "Too many iterations"))
        }
        Ok(iterations) if iterations >= ITERATIONS_MIN => Ok(iterations),
        _ => Err(Refusal::new(ErrorCode::UnacceptableCredential, "Too few iterations")),
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::{Node, nodes};
    use ottla_model::Revision;
    use ottla_protocol::kafka_protocol::messages::alter_user_scram_credentials_request::{
        ScramCredentialDeletion, ScramCredentialUpsertion,
    };

    use super::*;

    fn upsertion(user: &str, mechanism: i8, iterations: i32) -> ScramCredentialUpsertion {
        ScramCredentialUpsertion::default()
            .with_name(wire::text(user))
            .with_mechanism(mechanism)
            .with_iterations(iterations)
            .with_salt("salt".into())
            .with_salted_password(vec![7; if mechanism == 1 { 32 } else { 64 }].into())
    }

    fn codes(request: &AlterUserScramCredentialsRequest) -> Vec<(String, ErrorCode)> {
        let planned = plan(&Image::empty(), request);
        planned.into_iter().map(|(user, planned)| (user, planned.err().map_or(ErrorCode::None, |r| r.error))).collect()
    }

    #[test]
    fn what_is_no_credential_is_refused_by_its_user() {
        let upsertions = vec![
            upsertion("a", 2, 16_384),
            upsertion("b", 1, 4095),
            upsertion("c", 2, 16_385),
            upsertion("d", 3, 4096),
            upsertion("e", 1, 4096),
            upsertion("e", 1, 4096),
            upsertion("f", 1, 4096).with_salted_password(vec![7; 31].into()),
        ];
        let deletions = vec![deletion("g", 1)];
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(upsertions).with_deletions(deletions);
        let expected = [
            ("a", ErrorCode::None),
            ("b", ErrorCode::UnacceptableCredential),
            ("c", ErrorCode::UnacceptableCredential),
            ("d", ErrorCode::UnsupportedSaslMechanism),
            ("e", ErrorCode::DuplicateResource),
            ("f", ErrorCode::UnacceptableCredential),
            ("g", ErrorCode::ResourceNotFound),
        ];
        assert_eq!(codes(&request), expected.map(|(user, code)| (user.to_owned(), code)));
    }

    fn deletion(user: &str, mechanism: i8) -> ScramCredentialDeletion {
        ScramCredentialDeletion::default().with_name(wire::text(user)).with_mechanism(mechanism)
    }

    /// Kafka 4.3 counts the changes of a user, whatever their mechanisms, before it looks at the second one.
    #[test]
    fn a_user_is_changed_once_in_a_request() {
        let credential =
            |hash: ScramHash| ScramCredential::of_password(hash, "secret", b"salt".to_vec(), 4096).to_text();
        let entity = ConfigEntity { kind: ConfigKind::Users, name: "known".to_owned() };
        let entries = ScramHash::ALL.map(|hash| (hash.mechanism_name().to_owned(), credential(hash))).into();
        let revision = Revision(1);
        let payload = nodes::config::encode(&entries);
        let node = Node { payload, created: revision, modified: revision, version: 0 };
        let (image, _) = Image::from_nodes(revision, [(&entity.path(), &node)]);
        let planned = |deletions: &[ScramCredentialDeletion], upsertions: &[ScramCredentialUpsertion]| {
            let request = AlterUserScramCredentialsRequest::default()
                .with_deletions(deletions.to_vec())
                .with_upsertions(upsertions.to_vec());
            let planned = plan(&image, &request);
            planned["known"].as_ref().err().map_or(ErrorCode::None, |refusal| refusal.error)
        };
        let good = upsertion("known", 1, 4096);
        assert_eq!(planned(&[deletion("known", 1)], &[]), ErrorCode::None);
        assert_eq!(planned(&[], std::slice::from_ref(&good)), ErrorCode::None);
        let twice = ErrorCode::DuplicateResource;
        assert_eq!(planned(&[], &[good.clone(), upsertion("known", 2, 4096)]), twice);
        assert_eq!(planned(&[deletion("known", 1), deletion("known", 2)], &[]), twice);
        assert_eq!(planned(&[deletion("known", 2)], std::slice::from_ref(&good)), twice);
        assert_eq!(planned(&[], &[good.clone(), upsertion("known", 3, 4096)]), twice, "the second is not looked at");
        assert_eq!(planned(&[], &[good.clone(), good.clone(), good.clone()]), twice);
        assert_eq!(planned(&[], &[upsertion("known", 3, 4096), good]), ErrorCode::UnsupportedSaslMechanism);
    }

    #[test]
    fn the_quorum_gets_keys_and_no_password() {
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(vec![upsertion("a", 1, 4096)]);
        let planned = plan(&Image::empty(), &request);
        let Ok((name, ConfigOp::Set(text))) = &planned["a"] else { panic!("{:?}", planned["a"]) };
        let credential = ScramCredential::from_text(ScramHash::Sha256, text).expect("Kafka's text");
        assert_eq!((*name, credential.iterations), ("SCRAM-SHA-256", 4096));
    }
}
