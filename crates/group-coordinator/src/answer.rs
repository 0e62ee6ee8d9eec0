//! What a group answers.

use bytes::Bytes;
use ottla_model::{ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, TopicId};

use crate::request::GroupTopic;

/// The answer to one [`Request`](crate::Request).
#[derive(Clone, PartialEq, Debug)]
pub enum GroupAnswer {
    JoinGroup(Joined),
    SyncGroup(Synced),
    Heartbeat(ErrorCode),
    LeaveGroup(Left),
    CommitOffsets(Vec<(GroupTopic, Vec<(PartitionId, ErrorCode)>)>),
    FetchOffsets(FetchedOffsets),
    /// The marker is replicated.
    EndTransaction,
    DeleteOffsets(DeletedOffsets),
    DescribeGroup(Described),
    DeleteGroup(ErrorCode),
    ListGroups(Vec<ListedGroup>),
    ConsumerGroupHeartbeat(ConsumerHeartbeatAnswer),
    ConsumerGroupDescribe(ConsumerGroupDescribed),
    /// The request as a whole failed in a way that every API knows how to say: the shard is being unloaded, the log
    /// refused the write, and so on. The host turns it into the API's own answer.
    Failed(ErrorCode),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    pub error: ErrorCode,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub leader: MemberId,
    pub skip_assignment: bool,
    pub member: MemberId,
    /// For the leader only.
    pub members: Vec<JoinedMember>,
}

impl Joined {
    /// No member of any generation.
    pub fn refused(member: MemberId, error: ErrorCode) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol_name: None,
            leader: MemberId::new(""),
            skip_assignment: false,
            member,
            members: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinedMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub metadata: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synced {
    pub error: ErrorCode,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub assignment: Bytes,
}

impl Synced {
    /// No assignment.
    pub fn refused(error: ErrorCode) -> Self {
        Self { error, protocol_type: None, protocol_name: None, assignment: Bytes::new() }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Left {
    pub error: ErrorCode,
    pub members: Vec<(MemberId, Option<InstanceId>, ErrorCode)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedOffsets {
    pub error: ErrorCode,
    pub topics: Vec<(GroupTopic, Vec<FetchedOffset>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedOffset {
    pub partition: PartitionId,
    /// −1: nothing is committed.
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: String,
    pub error: ErrorCode,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeletedOffsets {
    pub error: ErrorCode,
    pub topics: Vec<(String, Vec<(PartitionId, ErrorCode)>)>,
}

/// A classic group, for DescribeGroups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    pub error: ErrorCode,
    pub message: Option<String>,
    pub group: GroupId,
    pub state: &'static str,
    pub protocol_type: String,
    pub protocol: String,
    pub members: Vec<DescribedMember>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedGroup {
    pub group: GroupId,
    pub protocol_type: String,
    pub state: &'static str,
    /// `classic` or `consumer`.
    pub group_type: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerHeartbeatAnswer {
    pub error: ErrorCode,
    pub message: Option<String>,
    pub member: Option<MemberId>,
    pub member_epoch: i32,
    pub heartbeat_interval_ms: i32,
    /// None: unchanged.
    pub assignment: Option<Vec<(TopicId, Vec<PartitionId>)>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerGroupDescribed {
    pub error: ErrorCode,
    pub message: Option<String>,
    pub group: GroupId,
    pub state: &'static str,
    pub group_epoch: i32,
    pub assignment_epoch: i32,
    pub assignor: String,
    pub members: Vec<ConsumerGroupMember>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerGroupMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    pub member_epoch: i32,
    pub client_id: String,
    pub client_host: String,
    pub subscribed_topics: Vec<String>,
    pub subscribed_regex: Option<String>,
    pub assignment: Vec<(TopicId, String, Vec<PartitionId>)>,
    pub target_assignment: Vec<(TopicId, String, Vec<PartitionId>)>,
    /// `true` for a member of the classic protocol in a consumer group (version 1's member type).
    pub is_classic: bool,
}
