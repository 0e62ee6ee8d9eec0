//! What all clients of the simulation have in common.

use std::collections::BTreeSet;

use ottla_group_coordinator::request::{CommitOffsets, CommitPartition, GroupTopic};
use ottla_group_coordinator::{GroupAnswer, Request};
use ottla_model::{ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId};

use super::topics::{SimTopics, TopicIds, Tp};
use crate::clock::SimTime;
use crate::random::Random;

/// A client that has no coordinator, or none that is ready, asks again after this long.
pub const BACKOFF_MS: u64 = 50;
/// Requests that no coordinator makes wait are given up after this long.
pub const REQUEST_TIMEOUT_MS: u64 = 1_000;

/// A commit that was sent. Every partition of it carries `number` as its offset, so that a record tells which commit it
/// is of.
#[derive(Clone, Debug)]
pub struct Issued {
    pub number: u64,
    pub group: GroupId,
    pub member: MemberId,
    pub generation_or_epoch: i32,
    pub partitions: BTreeSet<Tp>,
    /// The ids under which the client knows the topics.
    pub ids: TopicIds,
}

/// One turn of one client: what it may look at, and what it wants done.
pub struct Turn<'a> {
    pub now: SimTime,
    pub topics: &'a SimTopics,
    pub random: &'a mut Random,
    pub next_call: &'a mut u64,
    pub next_commit: &'a mut u64,
    /// The coordinator that it knew is not the one, or is gone.
    pub forgets_coordinator: bool,
    pub sends: Vec<(u64, Request)>,
    pub commits: Vec<Issued>,
    pub notes: Vec<String>,
}

impl Turn<'_> {
    pub fn send(&mut self, request: Request) -> u64 {
        *self.next_call += 1;
        self.sends.push((*self.next_call, request));
        *self.next_call
    }

    /// Commits the same number for all of the partitions.
    pub fn commit(
        &mut self,
        group: &GroupId,
        member: &MemberId,
        instance: Option<&InstanceId>,
        generation_or_epoch: i32,
        partitions: &BTreeSet<Tp>,
        ids: &TopicIds,
    ) -> u64 {
        *self.next_commit += 1;
        let number = *self.next_commit;
        let mut topics: Vec<(GroupTopic, Vec<CommitPartition>)> = Vec::new();
        for (topic, partition) in partitions {
            if topics.last().is_none_or(|(last, _)| last.name != *topic) {
                topics.push((
                    GroupTopic { name: topic.clone(), id: ids.get(topic).copied().unwrap_or_default() },
                    Vec::new(),
                ));
            }
            if let Some((_, committed)) = topics.last_mut() {
                committed.push(CommitPartition {
                    partition: PartitionId(*partition),
                    offset: Offset(i64::try_from(number).unwrap_or(i64::MAX)),
                    leader_epoch: LeaderEpoch(0),
                    metadata: None,
                    timestamp: None,
                    refused: None,
                });
            }
        }
        self.commits.push(Issued {
            number,
            group: group.clone(),
            member: member.clone(),
            generation_or_epoch,
            partitions: partitions.clone(),
            ids: ids.clone(),
        });
        self.send(Request::CommitOffsets(CommitOffsets {
            group: group.clone(),
            member: member.clone(),
            instance: instance.cloned(),
            generation_or_epoch,
            knows_member_epochs: true,
            retention_ms: None,
            topics,
        }))
    }
}

/// The code of an answer, where it has one.
pub fn error_of(answer: &GroupAnswer) -> ErrorCode {
    match answer {
        GroupAnswer::JoinGroup(joined) => joined.error,
        GroupAnswer::SyncGroup(synced) => synced.error,
        GroupAnswer::Heartbeat(error) | GroupAnswer::Failed(error) | GroupAnswer::DeleteGroup(error) => *error,
        GroupAnswer::LeaveGroup(left) => left.error,
        GroupAnswer::ConsumerGroupHeartbeat(answer) => answer.error,
        GroupAnswer::CommitOffsets(topics) => topics
            .iter()
            .flat_map(|(_, partitions)| partitions)
            .map(|(_, error)| *error)
            .find(|error| *error != ErrorCode::None)
            .unwrap_or(ErrorCode::None),
        GroupAnswer::FetchOffsets(fetched) => fetched.error,
        GroupAnswer::DeleteOffsets(deleted) => deleted.error,
        GroupAnswer::DescribeGroup(described) => described.error,
        GroupAnswer::ConsumerGroupDescribe(described) => described.error,
        GroupAnswer::ListGroups(_) | GroupAnswer::EndTransaction => ErrorCode::None,
    }
}

/// The client looks for the coordinator again.
pub fn is_about_the_coordinator(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable | ErrorCode::CoordinatorLoadInProgress
    )
}

/// How a member of either protocol behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub instance: Option<InstanceId>,
    pub topics: BTreeSet<String>,
    /// Instead of `topics`, where the protocol knows it.
    pub regex: Option<String>,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    /// How long it takes to give partitions up.
    pub revocation_ms: (u64, u64),
    /// How long it takes to begin to read partitions (KIP-848).
    pub taking_ms: (u64, u64),
    pub rack: Option<String>,
    /// The assignor that it asks for (KIP-848).
    pub assignor: Option<String>,
    /// It says everything in each heartbeat (KIP-848), as franz-go does.
    pub says_all: bool,
    /// It keeps its partitions while it joins a round, and gives up what it was not assigned after that (classic
    /// protocol).
    pub is_cooperative: bool,
    pub commit_every_ms: (u64, u64),
}
