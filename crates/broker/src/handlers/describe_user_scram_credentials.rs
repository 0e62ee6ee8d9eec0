//! DescribeUserScramCredentials (50): which mechanisms users have, and the iterations; never a key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::{ConfigKind, Image};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult,
};
use ottla_protocol::kafka_protocol::messages::{
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
};
use ottla_sasl::{ScramCredential, ScramHash};

use crate::broker::Broker;
use crate::credentials;
use crate::request::{RequestContext, wire};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let image = broker.metadata.current();
    let is_allowed = broker.access(context).cluster(Operation::Describe);
    Reply::respond::<DescribeUserScramCredentialsRequest>(&header, body, |request| match is_allowed {
        true => answer(&image, request),
        false => DescribeUserScramCredentialsResponse::default()
            .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
            .with_error_message(Some(wire::text("Cluster authorization failed."))),
    })
}

fn answer(image: &Image, request: &DescribeUserScramCredentialsRequest) -> DescribeUserScramCredentialsResponse {
    let wanted = request.users.as_deref().unwrap_or_default();
    let mut seen = BTreeMap::new();
    for user in wanted {
        *seen.entry(user.name.as_str()).or_insert(0) += 1;
    }
    let results = if wanted.is_empty() {
        let all: BTreeSet<&str> = image
            .configs()
            .filter(|(entity, config)| {
                entity.kind == ConfigKind::Users && !credentials::of_entries(&config.entries).is_empty()
            })
            .map(|(entity, _)| entity.name.as_str())
            .collect();
        all.into_iter().map(|user| described(user, &credentials::of_user(image, user))).collect()
    } else {
        seen.into_iter()
            .map(|(user, times)| match times {
                1 => described(user, &credentials::of_user(image, user)),
                _ => {
                    let text = format!(
                        "Cannot describe SCRAM credentials for the same user twice in a single request: {user}"
                    );
                    refused(user, ErrorCode::DuplicateResource, &text)
                }
            })
            .collect()
    };
    DescribeUserScramCredentialsResponse::default().with_results(results)
}

fn described(user: &str, found: &BTreeMap<ScramHash, ScramCredential>) -> DescribeUserScramCredentialsResult {
    if found.is_empty() {
        let text = format!("Attempt to describe a user credential that does not exist: {user}");
        return refused(user, ErrorCode::ResourceNotFound, &text);
    }
    let infos = found.iter().map(|(hash, credential)| {
        CredentialInfo::default()
            .with_mechanism(hash.code())
            .with_iterations(i32::try_from(credential.iterations).unwrap_or(i32::MAX))
    });
    DescribeUserScramCredentialsResult::default().with_user(wire::text(user)).with_credential_infos(infos.collect())
}

fn refused(user: &str, error: ErrorCode, text: &str) -> DescribeUserScramCredentialsResult {
    DescribeUserScramCredentialsResult::default()
        .with_user(wire::text(user))
        .with_error_code(error.code())
        .with_error_message(Some(wire::text(text)))
}
