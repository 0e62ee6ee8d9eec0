//! What a consumer group consists of. It stands apart from what the group does, because a step of a group may end with
//! a group of the other protocol ([`crate::shard::Fate`]): each protocol would need the other one's files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{InstanceId, MemberId, MonotonicMs, PartitionId, TopicId, TopicName};

use super::member::Member;
use super::metadata_hash::TopicHashes;
use crate::assignor::Partitions;

/// See [`super`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ConsumerGroup {
    pub(super) epoch: i32,
    /// Of the group's topics when the epoch was last raised.
    pub(super) metadata_hash: i64,
    pub(super) assignment_epoch: i32,
    pub(super) members: BTreeMap<MemberId, Member>,
    /// What each member shall own.
    pub(super) targets: BTreeMap<MemberId, Partitions>,
    /// What the group's regular expressions matched.
    pub(super) expressions: BTreeMap<String, Expression>,
    /// A record of Kafka 4.0 or before still lists the group's topics; the next change of the epoch removes it.
    pub(super) has_partition_metadata: bool,

    pub(super) statics: BTreeMap<InstanceId, MemberId>,
    /// Who has each partition, or has not confirmed that it gave it up.
    pub(super) owners: BTreeMap<TopicId, BTreeMap<PartitionId, MemberId>>,
    /// How many members name each set of topics; the empty set is not counted.
    pub(super) subscriptions: BTreeMap<Arc<BTreeSet<String>>, usize>,
    /// How many of these sets name each topic.
    pub(super) named: BTreeMap<String, usize>,
    /// How many members subscribe by each expression.
    pub(super) by_regex: BTreeMap<String, usize>,
    /// How many members speak the classic protocol.
    pub(super) classic_members: usize,

    /// What is not in the records.
    pub(super) soft: Soft,
}

/// Of this coordinator only: another one begins anew.
#[derive(Clone, Debug, Default)]
pub(super) struct Soft {
    /// The version of the topics at the last look; none: not looked yet.
    pub(super) seen_topics: Option<u64>,
    /// Topics are not looked at again before: a look costs as much as the group and its expressions read.
    pub(super) look_again: MonotonicMs,
    /// No target is computed before: the log would not have taken the last one.
    pub(super) put_off: MonotonicMs,
    /// When the group's epoch was last raised here; members are told to hurry for a while after.
    pub(super) moved: MonotonicMs,
    pub(super) hashes: TopicHashes,
    /// The expressions are being matched against topics that changed.
    pub(super) resolution: Option<Resolution>,
    pub(super) reports: BTreeMap<MemberId, Report>,
}

/// What an expression matched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Expression {
    /// The names are shared with the image, however many groups have matched them.
    pub(super) topics: BTreeSet<TopicName>,
}

/// The group's expressions on their way to topics that changed. Their matches are kept until all of them are there, so
/// that one change of topics is one change of the group.
#[derive(Clone, Debug)]
pub(super) struct Resolution {
    /// Of the topics when it began; they are compared again if they change meanwhile.
    pub(super) version: u64,
    pub(super) matched: BTreeMap<String, BTreeSet<TopicName>>,
    pub(super) names: usize,
}

/// What a member last said that it owns. Kept by this coordinator only: members say everything to the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Of what it was given.
    pub(super) owned: BTreeSet<(TopicId, PartitionId)>,
    /// It was given nothing since it said so. One that was, and says nothing, may be taking what it was given.
    pub(super) is_fresh: bool,
    /// It was given more before it had said that it owns what it was given before: what it says next may be about the
    /// former, while it takes the latter.
    pub(super) is_behind: bool,
    /// When it was told to give something up.
    pub(super) told: Option<MonotonicMs>,
    /// How many heartbeats in a row have said everything since then.
    pub(super) full_since_told: u8,
    /// When these became `FULL_IN_A_ROW`.
    pub(super) always_full_since: Option<MonotonicMs>,
    /// When it was last told what it shall own, unless it has said since that it owns just that.
    pub(super) unconfirmed_since: Option<MonotonicMs>,
}
