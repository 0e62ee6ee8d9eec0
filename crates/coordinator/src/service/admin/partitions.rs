//! Partitions: lists by condition, other replicas, elections on demand.

use std::collections::BTreeMap;

use ottla_metadata::controller::{AlterReassignments, ElectLeaders, ElectionType, ReassignmentTargets};
use ottla_metadata::image::{Image, PartitionState, TopicImage};
use ottla_model::{BrokerId, PartitionId};
use ottla_rpc::admin::{
    ElectLeadersRequest, ElectLeadersResponse, ListPartitionsRequest, ListPartitionsResponse, Partition,
    PartitionCondition, ReassignPartitionsRequest, ReassignPartitionsResponse,
};
use tonic::Status;

use super::AdminService;
use super::decisions::partition_outcomes;
use super::errors::invalid;
use super::paging::{Mask, Masked as _, Page, masked, token};
use super::partition_counts::{is_under_min_isr, is_under_replicated};
use super::topics::no_topic;

/// Partitions that one call looks at: some milliseconds. A page of a rare condition may be short, and the next one
/// goes on.
const SCANNED_MAX: usize = 20_000;

masked!(
    Partition: topic, partition, leader, leader_epoch, partition_epoch, replicas, isr, elr, last_known_elr, adding,
    removing
);

fn ids(brokers: impl IntoIterator<Item = BrokerId>) -> Vec<i32> {
    brokers.into_iter().map(|broker| broker.0).collect()
}

pub fn shown(topic: &str, partition: PartitionId, state: &PartitionState) -> Partition {
    Partition {
        topic: topic.to_owned(),
        partition: partition.0,
        leader: state.leader.0,
        leader_epoch: state.leader_epoch.0,
        partition_epoch: state.partition_epoch.0,
        replicas: ids(state.replicas.iter().copied()),
        isr: ids(state.isr_ids()),
        elr: ids(state.elr.iter().copied()),
        last_known_elr: ids(state.last_known_elr.iter().copied()),
        adding: ids(state.adding().iter().copied()),
        removing: ids(state.removing().iter().copied()),
    }
}

fn meets(
    condition: PartitionCondition,
    image: &Image,
    topic: &TopicImage,
    number: PartitionId,
    state: &PartitionState,
) -> bool {
    match condition {
        PartitionCondition::Unspecified => true,
        PartitionCondition::Leaderless => !state.has_leader(),
        PartitionCondition::UnderReplicated => is_under_replicated(state),
        PartitionCondition::UnderMinIsr => is_under_min_isr(image, topic, state),
        PartitionCondition::NotPreferredLeader => state.is_imbalanced(),
        PartitionCondition::Reassigning => state.is_reassigning() || topic.queued(number).is_some(),
    }
}

/// The topic and the partition of a page token; no topic's name has a slash.
fn position(page: &Page) -> Result<(&str, i32), Status> {
    let Some(after) = &page.after else { return Ok(("", -1)) };
    let parsed = after.split_once('/').and_then(|(topic, partition)| Some((topic, partition.parse().ok()?)));
    parsed.ok_or_else(|| invalid("INVALID_PAGE_TOKEN", "page_token is of another list"))
}

impl AdminService {
    pub(super) fn list_partitions_of(&self, request: ListPartitionsRequest) -> Result<ListPartitionsResponse, Status> {
        let unknown = |_| invalid("INVALID_CONDITION", "the condition is none that this release knows");
        let condition = PartitionCondition::try_from(request.condition).map_err(unknown)?;
        let asked = Page::new(request.page_size, &request.page_token)?;
        let mask = Mask::new(request.read_mask, Partition::FIELDS)?;
        let (from_topic, from_partition) = position(&asked)?;
        let view = self.view()?;
        let image = &view.image;
        if !request.topic.is_empty() && image.topic(&request.topic).is_none() {
            return Err(no_topic(&request.topic));
        }
        let topics = image.topics_from(from_topic.max(request.topic.as_str()));
        let topics = topics.take_while(|topic| request.topic.is_empty() || *topic.name.as_str() == request.topic);
        let all = topics.flat_map(|topic| topic.partitions().map(move |(id, state)| (topic, id, state)));
        let is_seen = |topic: &TopicImage, id: PartitionId| topic.name.as_str() == from_topic && id.0 <= from_partition;
        let mut rest = all.skip_while(|(topic, id, _)| is_seen(topic, *id)).peekable();
        let (mut partitions, mut last) = (Vec::new(), None);
        for _ in 0..SCANNED_MAX {
            let Some((topic, id, state)) = rest.next_if(|_| partitions.len() < asked.size) else { break };
            last = Some((topic, id));
            if meets(condition, image, topic, id, state) {
                let mut partition = shown(topic.name.as_str(), id, state);
                partition.keep(&mask);
                partitions.push(partition);
            }
        }
        let next = rest.peek().and(last).map(|(topic, id)| token(&format!("{}/{}", topic.name, id.0)));
        Ok(ListPartitionsResponse { partitions, next_page_token: next.unwrap_or_default(), revision: view.revision.0 })
    }

    pub(super) async fn reassign(
        &self,
        request: ReassignPartitionsRequest,
    ) -> Result<ReassignPartitionsResponse, Status> {
        let mut topics: BTreeMap<String, ReassignmentTargets> = BTreeMap::new();
        for one in request.reassignments {
            let replicas = one.replicas.map(|replicas| replicas.brokers.into_iter().map(BrokerId).collect());
            topics.entry(one.topic).or_default().push((PartitionId(one.partition), replicas));
        }
        let alter = AlterReassignments {
            topics: topics.into_iter().collect(),
            allow_replication_factor_change: request.allow_replication_factor_change,
        };
        let outcomes = self.decide(alter, None).await?;
        let revision = outcomes.revision.0;
        Ok(ReassignPartitionsResponse { outcomes: partition_outcomes(outcomes), revision })
    }

    pub(super) async fn elect(&self, request: ElectLeadersRequest) -> Result<ElectLeadersResponse, Status> {
        if request.partitions.is_empty() != request.all {
            return Err(invalid("INVALID_PARTITIONS", "an election is of the named partitions, or of all: name one"));
        }
        let mut topics: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
        for one in request.partitions {
            topics.entry(one.topic).or_default().push(PartitionId(one.partition));
        }
        let election = if request.unclean { ElectionType::Unclean } else { ElectionType::Preferred };
        let elect = ElectLeaders { election, topics: (!request.all).then(|| topics.into_iter().collect()) };
        let outcomes = self.decide(elect, None).await?;
        let revision = outcomes.revision.0;
        Ok(ElectLeadersResponse { outcomes: partition_outcomes(outcomes), revision })
    }
}
