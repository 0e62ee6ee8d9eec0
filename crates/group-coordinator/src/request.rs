//! What a group is asked. Plain types: the broker's handlers know the wire and its versions.

use std::collections::BTreeSet;

use bytes::Bytes;
use ottla_model::{
    GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicId,
};

use crate::effects::TransactionEnd;
use crate::topics::VisibleTopics;

/// One request to one shard. All groups that it names belong to the shard; batched requests are split by shard before.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    JoinGroup(JoinGroup),
    SyncGroup(SyncGroup),
    Heartbeat(Heartbeat),
    LeaveGroup(LeaveGroup),
    CommitOffsets(CommitOffsets),
    /// TxnOffsetCommit.
    CommitInTransaction(CommitInTransaction),
    /// WriteTxnMarkers.
    EndTransaction(TransactionEnd),
    FetchOffsets(FetchOffsets),
    DeleteOffsets(DeleteOffsets),
    DescribeGroup(GroupId),
    DeleteGroup(GroupId),
    ListGroups(ListGroups),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeat),
    ConsumerGroupDescribe(GroupId),
}

impl Request {
    /// The group that is asked; none for a request to all of them.
    pub fn group(&self) -> Option<&GroupId> {
        match self {
            Self::JoinGroup(request) => Some(&request.group),
            Self::SyncGroup(request) => Some(&request.group),
            Self::Heartbeat(request) => Some(&request.group),
            Self::LeaveGroup(request) => Some(&request.group),
            Self::CommitOffsets(request) => Some(&request.group),
            Self::CommitInTransaction(request) => Some(&request.commit.group),
            Self::FetchOffsets(request) => Some(&request.group),
            Self::DeleteOffsets(request) => Some(&request.group),
            Self::ConsumerGroupHeartbeat(request) => Some(&request.group),
            Self::DescribeGroup(group) | Self::DeleteGroup(group) | Self::ConsumerGroupDescribe(group) => Some(group),
            Self::ListGroups(_) | Self::EndTransaction(_) => None,
        }
    }

    /// What members keep of it holds no more than itself: byte strings are slices of the frame that the request came
    /// in, or of what was read with it, and that may be very much larger.
    pub(crate) fn detached(mut self) -> Self {
        let detach = |bytes: &mut Bytes| *bytes = Bytes::copy_from_slice(bytes);
        match &mut self {
            Self::JoinGroup(request) => request.protocols.iter_mut().for_each(|(_, metadata)| detach(metadata)),
            Self::SyncGroup(request) => request.assignments.iter_mut().for_each(|(_, assigned)| detach(assigned)),
            _ => {}
        }
        self
    }
}

/// TxnOffsetCommit (28): a commit that counts when the producer's transaction is committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitInTransaction {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub commit: CommitOffsets,
}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientInfo {
    pub client_id: String,
    /// The peer's address, as Kafka shows it: `/10.0.0.7`.
    pub client_host: String,
}

/// What a protocol takes besides its texts: places in the member's list and among the group's votes.
const PROTOCOL_BYTES: usize = 128;

/// What a member says in its protocols, in bytes.
pub(crate) fn bytes_of_protocols(protocols: &[(String, Bytes)]) -> usize {
    protocols.iter().map(|(name, metadata)| PROTOCOL_BYTES + name.len() + metadata.len()).sum()
}

/// What a member says of itself beside its subscription, in bytes.
pub(crate) fn bytes_of_client(client: &ClientInfo, instance: Option<&InstanceId>) -> usize {
    client.client_id.len() + instance.map_or(0, |instance| instance.as_str().len())
}

/// JoinGroup (11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinGroup {
    pub group: GroupId,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub client: ClientInfo,
    /// A fresh id from the host, for a member that has none yet: a UUID's text.
    pub fresh_id: String,
    pub session_timeout_ms: i32,
    /// The session timeout where the version has no such field.
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    /// Name and metadata, those that the member prefers first.
    pub protocols: Vec<(String, Bytes)>,
    /// Version 4 and above: a dynamic member without an id gets one with MEMBER_ID_REQUIRED first (KIP-394).
    pub requires_known_member_id: bool,
    /// Version 9 and above: a static leader that comes back may skip the assignment (KIP-814).
    pub supports_skip_assignment: bool,
    pub reason: Option<String>,
}

/// SyncGroup (14).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncGroup {
    pub group: GroupId,
    pub generation: i32,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    /// From the leader only.
    pub assignments: Vec<(MemberId, Bytes)>,
}

/// Heartbeat (12).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    pub group: GroupId,
    pub generation: i32,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
}

/// LeaveGroup (13).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaveGroup {
    pub group: GroupId,
    pub members: Vec<LeavingMember>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeavingMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub reason: Option<String>,
}

/// A topic as a request names it: by name below version 10 of OffsetCommit and OffsetFetch, by id from there on.
/// Where the request names an id, the host resolves the name before (UNKNOWN_TOPIC_ID never reaches the shard).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupTopic {
    pub name: String,
    /// Zero where it is not known.
    pub id: TopicId,
}

/// OffsetCommit (8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitOffsets {
    pub group: GroupId,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    /// The generation, or the member epoch of a consumer group's member; −1: not a member ("simple" consumer, admin
    /// client).
    pub generation_or_epoch: i32,
    /// The version is 9 or above: STALE_MEMBER_EPOCH and GROUP_ID_NOT_FOUND are known.
    pub knows_member_epochs: bool,
    /// Versions 2 to 4: how long from the commit; none means the broker's retention.
    pub retention_ms: Option<i64>,
    pub topics: Vec<(GroupTopic, Vec<CommitPartition>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitPartition {
    pub partition: PartitionId,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: Option<String>,
    /// Version 1's own timestamp; none in later versions.
    pub timestamp: Option<TimestampMs>,
    /// The host has refused this partition already (unknown topic, and so on): it is not committed, the answer carries
    /// the code.
    pub refused: Option<ottla_model::ErrorCode>,
}

/// One group of OffsetFetch (9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchOffsets {
    pub group: GroupId,
    /// Version 9 and above: who asks, and in which member epoch (−1: no member).
    pub member: Option<MemberId>,
    pub member_epoch: i32,
    /// Do not answer from offsets that a transaction may still change.
    pub require_stable: bool,
    /// None: all topics.
    pub topics: Option<Vec<(GroupTopic, Vec<PartitionId>)>>,
}

/// OffsetDelete (47).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteOffsets {
    pub group: GroupId,
    pub topics: Vec<(String, Vec<PartitionId>)>,
}

/// The states and types of groups of both protocols, by which they are filtered.
const STATES: [&str; 6] = ["Empty", "PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling", "Stable"];
const TYPES: [&str; 2] = ["classic", "consumer"];

/// ListGroups (16). A filter of none takes everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListGroups {
    states: Option<BTreeSet<&'static str>>,
    types: Option<BTreeSet<&'static str>>,
}

impl ListGroups {
    /// Filters of a client: one without names takes everything; they are compared without case. Names that no group has
    /// are left out: a client may send very many, and each of them would be compared with every group.
    pub fn new<'a>(states: impl Iterator<Item = &'a str>, types: impl Iterator<Item = &'a str>) -> Self {
        Self { states: known(states, &STATES), types: known(types, &TYPES) }
    }

    pub(crate) fn takes(&self, state: &str, group_type: &str) -> bool {
        self.states.as_ref().is_none_or(|states| states.contains(state))
            && self.types.as_ref().is_none_or(|types| types.contains(group_type))
    }
}

fn known<'a>(named: impl Iterator<Item = &'a str>, known: &[&'static str]) -> Option<BTreeSet<&'static str>> {
    let mut named = named.map(str::trim).peekable();
    named.peek()?;
    Some(named.filter_map(|name| known.iter().find(|known| known.eq_ignore_ascii_case(name))).copied().collect())
}

/// ConsumerGroupHeartbeat (68).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerGroupHeartbeat {
    pub group: GroupId,
    pub member: MemberId,
    /// A fresh id from the host, for a member of version 0 that sends none.
    pub fresh_id: String,
    /// 0 joins, −1 leaves, −2 leaves for a while (static members).
    pub member_epoch: i32,
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    /// −1: unchanged.
    pub rebalance_timeout_ms: i32,
    pub client: ClientInfo,
    pub subscribed_topics: Option<Vec<String>>,
    pub subscribed_regex: Option<String>,
    /// Expressions match no other topics: an assignment tells which topics there are.
    pub visible_topics: VisibleTopics,
    pub server_assignor: Option<String>,
    /// What the member owns; none: unchanged.
    pub owned: Option<Vec<(TopicId, Vec<PartitionId>)>>,
}
