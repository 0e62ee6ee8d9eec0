//! `ottla.admin.v1`: the requests of tools. Any coordinator answers reads; it forwards changes to the quorum leader, so
//! that a user need not know the leader.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::controller::{CreateTopics, DeleteTopics, NewTopic, TopicOutcomes, TopicRef};
use ottla_metadata::image::{Image, TopicImage};
use ottla_metadata::nodes;
use ottla_metadata::tree::{Path, Tree};
use ottla_model::{BrokerId, ErrorCode, Revision};
use ottla_quorum_node::{Changes, View, WatchUpdate};
use ottla_rpc::admin::admin_client::AdminClient;
use ottla_rpc::admin::admin_server::Admin;
use ottla_rpc::admin::{
    Broker, CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest,
    DescribeTopicResponse, GetNodeRequest, GetNodeResponse, ListBrokersRequest, ListBrokersResponse, ListNodesRequest,
    ListNodesResponse, ListTopicsRequest, ListTopicsResponse, Node, NodeEvent, Partition, QuorumMember,
    QuorumStatusRequest, QuorumStatusResponse, Topic, TopicSummary, WatchNodesRequest, WatchNodesResponse,
};
use ottla_rpc::cluster_metadata::ClusterChannel;
use ottla_rpc::coordinators::channel;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;

use tonic::{Request, Response, Status};

use super::requests::{FORWARD_TIMEOUT, stopping};
use super::watching::deliver;
use super::{EVENT_BYTES_MAX, caller};
use crate::driver::Watching;
use crate::shared::Shared;

/// Timeout of a linearizable read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Marks a forwarded request: it is not forwarded again.
const FORWARDED: &str = "ottla-forwarded";
/// Names that one answer lists at most: some megabytes.
const NAMES_MAX: usize = 50_000;
/// Events between a watcher's task and its connection.
const EVENTS_IN_TRANSIT_MAX: usize = 16;

pub struct AdminService {
    shared: Arc<Shared>,
}

impl AdminService {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn view(&self) -> Result<Arc<View>, Status> {
        Ok(self.shared.require_formed()?.view.get())
    }

    async fn view_for(&self, linearizable: bool) -> Result<Arc<View>, Status> {
        if !linearizable {
            return self.view();
        }
        let driver = &self.shared.require_formed()?.driver;
        match tokio::time::timeout(READ_TIMEOUT, driver.linearizable_view()).await {
            Ok(view) => view.map_err(|_| stopping()),
            Err(_) => Err(Status::unavailable("no quorum confirmed the read")),
        }
    }

    /// The leader's client, for a request that this coordinator cannot decide and has not been passed already.
    fn leader<T>(&self, request: &Request<T>) -> Result<Option<AdminClient<ClusterChannel>>, Status> {
        if self.shared.leads() {
            return Ok(None);
        }
        let not_leader = self.shared.not_leader();
        match &not_leader.leader {
            Some(leader) if request.metadata().get(FORWARDED).is_none() => {
                let channel = channel(&leader.address).map_err(|error| Status::unavailable(error.to_string()))?;
                Ok(Some(AdminClient::new(self.shared.cluster_channel(channel))))
            }
            _ => Err(not_leader.into_status()),
        }
    }
}

fn forwarded<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(FORWARD_TIMEOUT);
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request
}

/// The only outcome of a request for one topic; a status if it was refused.
fn only_outcome(outcomes: TopicOutcomes) -> Result<Revision, Status> {
    let revision = outcomes.revision;
    let outcome = outcomes.topics.into_iter().next().ok_or_else(|| Status::internal("no outcome"))?;
    let Some(refusal) = outcome.refusal else { return Ok(revision) };
    let text = if refusal.message.is_empty() { format!("{:?}", refusal.error) } else { refusal.message };
    Err(match refusal.error {
        ErrorCode::TopicAlreadyExists => Status::already_exists(text),
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => Status::not_found(text),
        ErrorCode::TopicDeletionDisabled => Status::permission_denied(text),
        _ => Status::invalid_argument(text),
    })
}

fn ids(brokers: impl IntoIterator<Item = BrokerId>) -> Vec<i32> {
    brokers.into_iter().map(|broker| broker.0).collect()
}

fn topic(image: &Image, topic: &TopicImage) -> Topic {
    let partitions = topic.partitions().map(|(partition, state)| Partition {
        partition: partition.0,
        leader: state.leader.0,
        leader_epoch: state.leader_epoch.0,
        partition_epoch: state.partition_epoch.0,
        replicas: ids(state.replicas.iter().copied()),
        isr: ids(state.isr_ids()),
        elr: ids(state.elr.iter().copied()),
        last_known_elr: ids(state.last_known_elr.iter().copied()),
    });
    Topic {
        name: topic.name.to_string(),
        topic_id: topic.id.to_string(),
        partitions: partitions.collect(),
        configs: image.topic_overrides(topic.name.as_str()).into_iter().collect::<HashMap<_, _>>(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn path(text: &str) -> Result<Path, Status> {
    Path::new(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn node(tree: &Tree, path: &Path) -> Option<Node> {
    let children = count(tree.children(path).len());
    match tree.get(path) {
        Some(found) => Some(Node {
            path: path.as_str().to_owned(),
            json: nodes::json(path, found).unwrap_or_default(),
            created_revision: found.created.0,
            modified_revision: found.modified.0,
            version: found.version,
            children,
        }),
        // A parent path without a node, as ZooKeeper would show it.
        None => tree.exists(path).then(|| Node { path: path.as_str().to_owned(), children, ..Node::default() }),
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<CreateTopicResponse>, Status> {
        if let Some(mut leader) = self.leader(&request)? {
            return leader.create_topic(forwarded(request.into_inner())).await;
        }
        let request = request.into_inner();
        let or_one = |number: i32| if number == 0 { 1 } else { number };
        let new = NewTopic {
            name: request.name.clone(),
            partitions: or_one(request.partitions),
            replication_factor: or_one(request.replication_factor),
            grows_to: 0,
            assignments: Vec::new(),
            configs: request.configs.into_iter().map(|(name, value)| (name, Some(value))).collect(),
        };
        let create = CreateTopics {
            topics: vec![new],
            validate_only: request.validate_only,
            default_partitions: 1,
            default_replication_factor: 1,
        };
        let revision = only_outcome(self.shared.submit(create).await?)?;
        let view = self.view()?;
        let topic = view.image.topic(&request.name).map(|found| topic(&view.image, found));
        Ok(Response::new(CreateTopicResponse { topic, revision: revision.0 }))
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        if let Some(mut leader) = self.leader(&request)? {
            return leader.delete_topic(forwarded(request.into_inner())).await;
        }
        let delete = DeleteTopics { topics: vec![TopicRef::Name(request.into_inner().name)] };
        let revision = only_outcome(self.shared.submit(delete).await?)?;
        Ok(Response::new(DeleteTopicResponse { revision: revision.0 }))
    }

    async fn list_topics(&self, _: Request<ListTopicsRequest>) -> Result<Response<ListTopicsResponse>, Status> {
        let view = self.view()?;
        let summary = |topic: &Arc<TopicImage>| TopicSummary {
            name: topic.name.to_string(),
            topic_id: topic.id.to_string(),
            partitions: count(topic.partition_count()),
            replication_factor: count(topic.replication_factor()),
        };
        let topics = view.image.topics().map(summary).collect();
        Ok(Response::new(ListTopicsResponse { topics, revision: view.revision.0 }))
    }

    async fn describe_topic(
        &self,
        request: Request<DescribeTopicRequest>,
    ) -> Result<Response<DescribeTopicResponse>, Status> {
        let view = self.view()?;
        let name = request.into_inner().name;
        let found = view.image.topic(&name).ok_or_else(|| Status::not_found(format!("no topic {name}")))?;
        let topic = Some(topic(&view.image, found));
        Ok(Response::new(DescribeTopicResponse { topic, revision: view.revision.0 }))
    }

    async fn list_brokers(&self, _: Request<ListBrokersRequest>) -> Result<Response<ListBrokersResponse>, Status> {
        let view = self.view()?;
        let image = &view.image;
        let live = image.brokers().map(|b| (b.id, b.epoch, &b.rack, &b.endpoints, !b.ready));
        let down = image.fenced_brokers().map(|b| (b.id, b.epoch, &b.rack, &b.endpoints, true));
        let brokers = live.chain(down).map(|(id, epoch, rack, endpoints, fenced)| Broker {
            id: id.0,
            epoch: epoch.0,
            rack: rack.clone().unwrap_or_default(),
            endpoints: endpoints
                .iter()
                .map(|endpoint| format!("{}://{}:{}", endpoint.listener, endpoint.host, endpoint.port))
                .collect(),
            fenced,
        });
        let mut brokers: Vec<_> = brokers.collect();
        brokers.sort_by_key(|broker| broker.id);
        Ok(Response::new(ListBrokersResponse {
            brokers,
            controller_id: image.controller().unwrap_or(BrokerId::NONE).0,
            cluster_id: image.cluster_id().map(ToString::to_string).unwrap_or_default(),
            revision: view.revision.0,
        }))
    }

    async fn quorum_status(&self, _: Request<QuorumStatusRequest>) -> Result<Response<QuorumStatusResponse>, Status> {
        let formed = self.shared.require_formed()?;
        let status = formed.driver.status().await.map_err(|_| stopping())?;
        let matched = |id| status.peers.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.matched.0);
        let members = formed.voters.iter().map(|(&id, voter)| QuorumMember {
            coordinator_id: id.0,
            address: voter.address.clone(),
            matched_revision: matched(id),
        });
        let cluster_id = formed.view.get().image.cluster_id().map(ToString::to_string);
        Ok(Response::new(QuorumStatusResponse {
            coordinator_id: self.shared.id.0,
            leader_id: status.role.leader.map_or(0, |leader| leader.0),
            term: status.role.term,
            committed_revision: status.committed.0,
            applied_revision: status.applied.0,
            members: members.collect(),
            cluster_id: cluster_id.unwrap_or_default(),
        }))
    }

    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        let request = request.into_inner();
        let path = path(&request.path)?;
        let view = self.view_for(request.linearizable).await?;
        let node = node(&view.tree, &path).ok_or_else(|| Status::not_found(format!("no node {path}")))?;
        Ok(Response::new(GetNodeResponse { node: Some(node), revision: view.revision.0 }))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let request = request.into_inner();
        let path = path(&request.path)?;
        let view = self.view_for(request.linearizable).await?;
        if !view.tree.exists(&path) {
            return Err(Status::not_found(format!("no node {path}")));
        }
        let names: Vec<String> = if request.recursive {
            view.tree.below(&path).take(NAMES_MAX + 1).map(|(path, _)| path.as_str().to_owned()).collect()
        } else {
            view.tree.children(&path)
        };
        if names.len() > NAMES_MAX {
            return Err(Status::out_of_range(format!("more than {NAMES_MAX} names: list a deeper path")));
        }
        Ok(Response::new(ListNodesResponse { names, revision: view.revision.0 }))
    }

    type WatchNodesStream = ReceiverStream<Result<WatchNodesResponse, Status>>;

    async fn watch_nodes(
        &self,
        request: Request<WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let prefix = path(&request.prefix)?;
        let formed = self.shared.require_formed()?;
        let permit = self.shared.watch_permit(caller)?;
        let from = match request.from_revision {
            0 => formed.view.get().revision,
            from => Revision(from),
        };
        let watching = formed.driver.watch(from).await.map_err(|_| stopping())?;
        let (events, receiver) = mpsc::channel(EVENTS_IN_TRANSIT_MAX);
        tokio::spawn(async move {
            forward_events(prefix, from, watching, events).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type NodeEvents = mpsc::Sender<Result<WatchNodesResponse, Status>>;

async fn forward_events(prefix: Path, from: Revision, mut watching: Watching, events: NodeEvents) {
    loop {
        let update = tokio::select! {
            () = events.closed() => return,
            update = watching.next() => update,
        };
        let ended = match update {
            Some(WatchUpdate::Changes(item)) => {
                for response in node_events(&prefix, &item) {
                    if !deliver(&events, Ok(response)).await {
                        return;
                    }
                }
                continue;
            }
            Some(WatchUpdate::Snapshot(_)) => {
                Status::out_of_range(format!("the changes since revision {from} are no longer available"))
            }
            None => Status::aborted("too slow: watch again"),
        };
        deliver(&events, Err(ended)).await;
        return;
    }
}

/// The changes of one revision at or below `prefix`, in messages of bounded size; none if there are none.
fn node_events(prefix: &Path, item: &Changes) -> Vec<WatchNodesResponse> {
    let mut responses: Vec<WatchNodesResponse> = Vec::new();
    let mut bytes = 0;
    for change in item.changes.iter().filter(|change| is_at_or_below(&change.path, prefix)) {
        let event = NodeEvent {
            path: change.path.as_str().to_owned(),
            deleted: change.node.is_none(),
            json: change.node.as_ref().and_then(|node| nodes::json(&change.path, node)).unwrap_or_default(),
        };
        let size = event.path.len() + event.json.len();
        match responses.last_mut().filter(|_| bytes + size <= EVENT_BYTES_MAX) {
            Some(response) => response.events.push(event),
            None => {
                bytes = 0;
                responses.push(WatchNodesResponse { revision: item.revision.0, events: vec![event] });
            }
        }
        bytes += size;
    }
    responses
}

fn is_at_or_below(path: &Path, prefix: &Path) -> bool {
    if prefix.as_str() == "/" {
        return true;
    }
    path.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_names() {
        let path = |text| Path::new(text).expect("a path");
        assert!(is_at_or_below(&path("/a/b"), &path("/")));
        assert!(is_at_or_below(&path("/a/b"), &path("/a")));
        assert!(is_at_or_below(&path("/a"), &path("/a")));
        assert!(!is_at_or_below(&path("/ab"), &path("/a")));
    }
}
