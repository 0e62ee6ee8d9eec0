//! AddRaftVoter (80) and RemoveRaftVoter (81): coordinators come and go (KIP-853). The directory id is the id of a
//! coordinator's disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::Image;
use ottla_metadata::controller::{ChangeQuorum, Refusal};
use ottla_metadata::image::Standing;
use ottla_model::{CoordinatorId, ErrorCode, IncarnationId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::{RequestHeader, decode_request};
use uuid::Uuid;

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};

/// RemoveRaftVoter has no timeout of its own; Kafka's clients wait for 30 s.
const TIMEOUT: Duration = Duration::from_secs(25);

pub fn add(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AddRaftVoterRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let patience = Patience::of_request(request.timeout_ms);
    let change = check(broker, context, request.cluster_id.as_ref()).and_then(|()| to_add(&request));
    let outcome = decide(broker, patience, change);
    Reply::later(async move {
        let (code, message) = admin::told(outcome.await.err().as_ref());
        let response = AddRaftVoterResponse::default().with_error_code(code).with_error_message(message);
        Response::encode_or_close::<AddRaftVoterRequest>(&header, &response)
    })
}

pub fn remove(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<RemoveRaftVoterRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let change =
        check(broker, context, request.cluster_id.as_ref()).and_then(|()| to_remove(&broker.metadata.peek(), &request));
    let outcome = decide(broker, Patience::of(TIMEOUT), change);
    Reply::later(async move {
        let (code, message) = admin::told(outcome.await.err().as_ref());
        let response = RemoveRaftVoterResponse::default().with_error_code(code).with_error_message(message);
        Response::encode_or_close::<RemoveRaftVoterRequest>(&header, &response)
    })
}

/// Kafka's checks before anything else.
fn check(broker: &Broker, context: &RequestContext, cluster_id: Option<&StrBytes>) -> Result<(), Refusal> {
    if !broker.access(context).cluster(Operation::Alter) {
        return Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new()));
    }
    let image = broker.metadata.peek();
    let ours = image.cluster_id().map(ToString::to_string).unwrap_or_default();
    match cluster_id.filter(|named| named.as_str() != ours) {
        Some(_) => Err(Refusal::new(ErrorCode::InconsistentClusterId, String::new())),
        None => Ok(()),
    }
}

fn to_add(request: &AddRaftVoterRequest) -> Result<ChangeQuorum, Refusal> {
    let coordinator = coordinator(request.voter_id)?;
    let Some(listener) = request.listeners.first() else {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "The request names no listener of the voter"));
    };
    let host = listener.host.as_str();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let disk = disk(request.voter_directory_id).unwrap_or(IncarnationId::ZERO);
    Ok(ChangeQuorum::Add { coordinator, disk, address: format!("{host}:{}", listener.port) })
}

/// With the disk that the member has now where the request names none: a try that comes late removes nobody who was
/// added again under the same id.
fn to_remove(image: &Image, request: &RemoveRaftVoterRequest) -> Result<ChangeQuorum, Refusal> {
    let coordinator = coordinator(request.voter_id)?;
    let disk = disk(request.voter_directory_id).or_else(|| {
        let known = image.coordinator(coordinator).map(|known| &known.node);
        known.filter(|known| known.standing != Standing::Removed).map(|known| known.disk)
    });
    Ok(ChangeQuorum::Remove { coordinator, disk, force: false })
}

fn coordinator(id: i32) -> Result<CoordinatorId, Refusal> {
    match u64::try_from(id) {
        Ok(id) if id > 0 => Ok(CoordinatorId(id)),
        _ => Err(Refusal::new(ErrorCode::InvalidRequest, format!("{id} is not a coordinator's id"))),
    }
}

/// None for the id that says nothing.
fn disk(directory: Uuid) -> Option<IncarnationId> {
    (!directory.is_nil()).then(|| IncarnationId(*directory.as_bytes()))
}

fn decide(
    broker: &Arc<Broker>,
    patience: Patience,
    change: Result<ChangeQuorum, Refusal>,
) -> impl Future<Output = Result<(), Refusal>> + use<> {
    let broker = Arc::clone(broker);
    let decision = change.map(|change| broker.quorum.submit(change, patience.remaining()));
    async move {
        match decision?.await {
            Ok(Ok(changed)) => {
                patience.await_image(&broker.metadata, changed.revision).await;
                Ok(())
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(error) => Err(admin::no_answer(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::image::CoordinatorNode;
    use ottla_metadata::{Node, nodes};
    use ottla_model::Revision;
    use ottla_protocol::kafka_protocol::messages::add_raft_voter_request::Listener;

    use super::*;

    #[test]
    fn a_voter_is_named_by_id_disk_and_listener() {
        let listener = Listener::default().with_host(StrBytes::from_static_str("::1")).with_port(2181);
        let mut request = AddRaftVoterRequest::default().with_voter_id(4).with_listeners(vec![listener]);
        let zero = IncarnationId::ZERO;
        let expected =
            |disk| ChangeQuorum::Add { coordinator: CoordinatorId(4), disk, address: "[::1]:2181".to_owned() };
        assert_eq!(to_add(&request), Ok(expected(zero)));
        request.voter_directory_id = Uuid::from_bytes([7; 16]);
        assert_eq!(to_add(&request), Ok(expected(IncarnationId([7; 16]))));
        assert!(to_add(&request.clone().with_listeners(Vec::new())).is_err());
        assert!(to_add(&request.with_voter_id(0)).is_err());
    }

    #[test]
    fn a_voter_that_is_removed_by_its_id_is_the_one_of_now() {
        let of = |id, standing| {
            let node = CoordinatorNode {
                disk: IncarnationId([7; 16]),
                address: String::new(),
                standing,
                is_live_change: true,
            };
            let payload = nodes::coordinator::encode(&node);
            let node = Node { payload, created: Revision(1), modified: Revision(1), version: 0 };
            (nodes::coordinator::path(CoordinatorId(id)), node)
        };
        let tree = [of(3, Standing::Voter), of(4, Standing::Removed)];
        let image = Image::from_nodes(Revision(1), tree.iter().map(|(path, node)| (path, node))).0;
        let remove = |coordinator, disk| {
            Ok(ChangeQuorum::Remove { coordinator: CoordinatorId(coordinator), disk, force: false })
        };
        let by_id = |id| RemoveRaftVoterRequest::default().with_voter_id(id);
        assert_eq!(to_remove(&image, &by_id(3)), remove(3, Some(IncarnationId([7; 16]))));
        for unknown in [4, 5] {
            let id = u64::try_from(unknown).expect("small");
            assert_eq!(to_remove(&image, &by_id(unknown)), remove(id, None));
        }
        let named = by_id(3).with_voter_directory_id(Uuid::from_bytes([8; 16]));
        assert_eq!(to_remove(&image, &named), remove(3, Some(IncarnationId([8; 16]))));
    }
}
