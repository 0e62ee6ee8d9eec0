//! From a classic group to a consumer group and back, while the members read on.
//!
//! Up: a member that speaks the consumer protocol joins a classic group of consumers. The classic members become
//! members of the consumer group, with what their leader last assigned them, and are served by
//! [`super::classic_members`] from then on. Down: the last member that speaks the consumer protocol leaves, or a static
//! one comes back with the classic protocol. The group is handed over with what its members own, and a round begins, so
//! that one of them learns that it leads. (Kafka begins none when a static member came back: nobody picks up new
//! partitions then, until something else begins one.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ErrorCode, MemberId, PartitionId, TopicId};

use super::classic_members::{by_id, by_name};
use super::error::HeartbeatError;
use super::heartbeat::decided;
use super::member::{JOINING, Member, Owned};
use super::reconcile::partitions_of;
use super::validate::validate;
use super::{ConsumerGroup, timestamp};
use crate::answer::ConsumerHeartbeatAnswer;
use crate::config::MigrationPolicy;
use crate::effects::RequestId;
use crate::group::Group;
use crate::group::classic::{self, ClassicGroup};
use crate::group::embedded::{self, Assignment, NamedPartitions, Subscription};
use crate::record::{
    ClassicMemberMetadata, ConsumerGroupMetadata, MemberState, Record, TargetAssignment, TopicPartitions,
};
use crate::request::ConsumerGroupHeartbeat;
use crate::shard::{Context, Decision, Fate};
use crate::timer::Timer;

/// For how long after an assignment a topic in it that this broker does not know counts as one that it will hear of.
/// The image is behind the quorum by milliseconds, and by less than this on a broker that is not about to be fenced.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

impl ConsumerGroup {
    /// A heartbeat to a classic group: it takes the place of an empty one, and turns one of consumers into a consumer
    /// group.
    pub(crate) fn heartbeat_to_classic(
        classic: &mut ClassicGroup,
        cx: &mut Context<'_>,
        id: RequestId,
        request: ConsumerGroupHeartbeat,
    ) -> Decision {
        let done = validate(&request, cx.config).and_then(|()| {
            if request.member_epoch != JOINING {
                return Err(not_found(format!("Group {} is not a consumer group.", cx.group)));
            }
            if classic.is_empty() {
                let (mut decision, answer) = Self::default().founded(cx, &request)?;
                decision.records.insert(0, ClassicGroup::tombstone(cx.group));
                return Ok((decision, answer));
            }
            Self::upgrade(classic, cx, &request)
        });
        decided(id, done)
    }

    /// A group's first member joins; there is no group if it is refused.
    pub(super) fn founded(
        mut self,
        cx: &mut Context<'_>,
        request: &ConsumerGroupHeartbeat,
    ) -> Result<(Decision, ConsumerHeartbeatAnswer), HeartbeatError> {
        let (mut decision, answer) = self.beat(cx, request)?;
        decision.fate = Fate::Become(Box::new(Group::Consumer(self)));
        Ok((decision, answer))
    }

    fn upgrade(
        classic: &mut ClassicGroup,
        cx: &mut Context<'_>,
        request: &ConsumerGroupHeartbeat,
    ) -> Result<(Decision, ConsumerHeartbeatAnswer), HeartbeatError> {
        let refused = |why: &str| {
            not_found(format!("Cannot upgrade classic group {} to consumer group because {why}.", cx.group))
        };
        let policy = cx.config.consumer_migration_policy;
        if !matches!(policy, MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade) {
            return Err(refused("online upgrade is disabled"));
        }
        if !classic.has_consumers() {
            return Err(refused("the group does not use the consumer embedded protocol"));
        }
        if classic.members().len() > usize::try_from(cx.config.consumer_max_size).unwrap_or(0) {
            return Err(refused("the group size exceeds the consumer group maximum size"));
        }
        let (mut group, records) = Self::converted(classic, cx).map_err(|error| match error {
            Unconvertible::UnknownTopic => HeartbeatError::new(
                ErrorCode::CoordinatorLoadInProgress,
                format!("Group {} has partitions of a topic that this broker does not know yet.", cx.group),
            ),
            Unconvertible::Malformed => refused("the embedded consumer protocol is malformed"),
            Unconvertible::UserData => not_found(format!(
                "Cannot upgrade classic group {} to consumer group because an unsupported custom assignor is in use. Please refer to \
                 the documentation or switch to a default assignor before re-attempting the upgrade.",
                cx.group
            )),
        })?;
        let (mut decision, answer) = group.beat(cx, request)?;
        cx.cancel(Timer::Join);
        cx.cancel(Timer::PendingSync);
        for (id, member) in group.members.iter().filter(|(_, member)| member.is_classic()) {
            cx.schedule(Timer::Session(id.clone()), member.session_timeout_ms(cx));
        }
        // Those that wait for the end of a round learn that there is another one.
        classic.refuse_waiting(ErrorCode::RebalanceInProgress, &mut decision);
        let mut all = records;
        all.append(&mut decision.records);
        decision.records = all;
        decision.fate = Fate::Become(Box::new(Group::Consumer(group)));
        Ok((decision, answer))
    }

    /// The consumer group that a classic group becomes, and the records that make it.
    fn converted(classic: &ClassicGroup, cx: &Context<'_>) -> Result<(Self, Vec<Record>), Unconvertible> {
        let epoch = classic.generation();
        let is_recent = cx.now.monotonic < classic.assigned_at() + NEWS_PATIENCE;
        let mut members = Vec::with_capacity(classic.members().len());
        for (id, member) in classic.members() {
            members.push((id.clone(), converted_member(member, classic.protocol(), epoch, is_recent, cx)?));
        }
        keep_what_is_still_read(&mut members);
        let mut group = Self::default();
        let mut records = vec![ClassicGroup::tombstone(cx.group)];
        for (id, member) in &members {
            group.write(&mut records, member.metadata_record(cx.group, id));
        }
        let value = ConsumerGroupMetadata { epoch, metadata_hash: 0 };
        group.write(&mut records, Record::ConsumerGroup { group: cx.group.clone(), value: Some(value) });
        for (id, member) in &members {
            let target = member.assigned.iter().map(|(topic, partitions)| TopicPartitions {
                topic: *topic,
                partitions: partitions.keys().copied().collect(),
                assignment_epochs: Vec::new(),
            });
            let value = Some(target.collect());
            group.write(&mut records, Record::TargetMember { group: cx.group.clone(), member: id.clone(), value });
        }
        let value = TargetAssignment { epoch, timestamp: timestamp(cx) };
        group.write(&mut records, Record::TargetAssignment { group: cx.group.clone(), value: Some(value) });
        for (id, member) in &members {
            group.write(&mut records, member.assignment_record(cx.group, id));
        }
        Ok((group, records))
    }

    /// Becomes a classic group if only members of the classic protocol are left without these.
    pub(super) fn downgrade_without(&self, cx: &mut Context<'_>, leaving: &BTreeSet<MemberId>) -> Option<Decision> {
        let left = self.members.len() - self.members.keys().filter(|id| leaving.contains(*id)).count();
        let mut rest = self.members.iter().filter(|(id, _)| !leaving.contains(*id));
        if left == 0 || !rest.all(|(_, member)| member.is_classic()) || !may_downgrade(cx, left) {
            return None;
        }
        Some(self.downgraded(cx, leaving))
    }

    /// Becomes a classic group if the static member that came back was the last one of the consumer protocol.
    pub(super) fn downgrade_after_replacement(&self, cx: &mut Context<'_>) -> Option<Decision> {
        let all_classic = self.classic_members == self.members.len();
        (all_classic && may_downgrade(cx, self.members.len())).then(|| self.downgraded(cx, &BTreeSet::new()))
    }

    fn downgraded(&self, cx: &mut Context<'_>, leaving: &BTreeSet<MemberId>) -> Decision {
        let members = self.members.iter().filter(|(id, _)| !leaving.contains(*id)).filter_map(|(id, member)| {
            let classic = member.classic.as_ref()?;
            let mut converted = classic::Member::new(
                member.instance.clone(),
                member.client.clone(),
                member.rebalance_timeout_ms,
                classic.session_timeout_ms,
                classic.protocols.clone(),
            );
            let version = classic
                .protocols
                .first()
                .and_then(|(_, metadata)| Subscription::read(metadata).ok())
                .map_or(0, |subscription| subscription.version);
            // Until a member has joined the round that begins it owns what it owns: if the group becomes a consumer
            // group again before that, nobody else may have it.
            let mut owned = member.assigned.clone();
            for (topic, partitions) in &member.pending_revocation {
                owned.entry(*topic).or_default().extend(partitions);
            }
            converted.assignment = embedded::write_assignment(version, &by_name(&owned, cx.topics));
            Some((id.clone(), converted))
        });
        let mut classic = ClassicGroup::adopted(timestamp(cx), self.epoch, members);
        let mut decision = Decision { records: self.tombstones(cx.group), ..Decision::default() };
        decision.records.push(classic.record(cx.group));
        cx.cancel_all();
        decision.extend(classic.loaded(cx));
        classic.prepare_rebalance(cx, &mut decision);
        decision.fate = Fate::Become(Box::new(Group::Classic(classic)));
        decision
    }
}

/// Why a classic group cannot become a consumer group.
enum Unconvertible {
    Malformed,
    /// An assignor sent user data to the members, which the group coordinator cannot reproduce.
    UserData,
    /// The leader has just named a topic that this broker does not know: it may have heard of a new topic first. If the
    /// group became a consumer group now, that member would own nothing of it, and another one would be given what it
    /// reads (seed 10772).
    UnknownTopic,
}

/// Assignors whose members read nothing but partitions from their assignments. librdkafka's leader hands each member's
/// own user data back with them all the same, which for Kafka is a custom assignor's, so that groups of its sticky
/// assignors cannot be upgraded there.
const PLAIN_ASSIGNORS: [&str; 4] = ["range", "roundrobin", "sticky", "cooperative-sticky"];

fn converted_member(
    member: &classic::Member,
    protocol: Option<&str>,
    epoch: i32,
    is_recent: bool,
    cx: &Context<'_>,
) -> Result<Member, Unconvertible> {
    let malformed = |_| Unconvertible::Malformed;
    // A group in its first round has no protocol yet.
    let metadata = match protocol {
        Some(protocol) => member.metadata(protocol),
        None => member.protocols.first().map(|(_, metadata)| metadata.clone()).unwrap_or_default(),
    };
    let subscription = Subscription::read(&metadata).map_err(malformed)?;
    // One that has never asked for its assignment has none.
    let assignment = if member.assignment.is_empty() {
        Assignment::default()
    } else {
        Assignment::read(&member.assignment).map_err(malformed)?
    };
    if assignment.has_user_data && !protocol.is_some_and(|name| PLAIN_ASSIGNORS.contains(&name)) {
        return Err(Unconvertible::UserData);
    }
    let is_known =
        |(name, partitions): &(String, Vec<PartitionId>)| partitions.is_empty() || cx.topics.by_name(name).is_some();
    // What a cooperative member said that it reads was assigned before that.
    if is_recent && !assignment.partitions.iter().chain(&subscription.owned).all(is_known) {
        return Err(Unconvertible::UnknownTopic);
    }
    let owned = |partitions: &NamedPartitions| {
        let mut owned = Owned::new();
        for (topic, partitions) in by_id(partitions, cx.topics) {
            if !partitions.is_empty() {
                owned.entry(topic).or_default().extend(partitions.into_iter().map(|partition| (partition, epoch)));
            }
        }
        owned
    };
    Ok(Member {
        epoch,
        previous_epoch: epoch,
        state: MemberState::Stable,
        instance: member.instance.clone(),
        rack: subscription.rack.filter(|rack| !rack.is_empty()),
        client: member.client.clone(),
        topics: Arc::new(subscription.topics.into_iter().collect()),
        regex: None,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        assignor: None,
        classic: Some(ClassicMemberMetadata {
            session_timeout_ms: member.session_timeout_ms,
            protocols: member.protocols.clone(),
        }),
        assigned: owned(&assignment.partitions),
        pending_revocation: owned(&subscription.owned),
    })
}

/// A cooperative member reads what it said to own when it joined, until it has heard that this is not assigned to it
/// any more: that is left to it as what it must give up, unless its leader has given it to somebody.
fn keep_what_is_still_read(members: &mut [(MemberId, Member)]) {
    let assigned = members.iter().flat_map(|(_, member)| partitions_of(&member.assigned));
    let mut taken: BTreeSet<(TopicId, PartitionId)> = assigned.collect();
    for (_, member) in members {
        for (topic, partitions) in &mut member.pending_revocation {
            partitions.retain(|partition, _| taken.insert((*topic, *partition)));
        }
        member.pending_revocation.retain(|_, partitions| !partitions.is_empty());
        if !member.pending_revocation.is_empty() {
            member.state = MemberState::UnrevokedPartitions;
        }
    }
}

fn may_downgrade(cx: &Context<'_>, members: usize) -> bool {
    matches!(cx.config.consumer_migration_policy, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade)
        && members <= usize::try_from(cx.config.group_max_size).unwrap_or(0)
}

fn not_found(message: String) -> HeartbeatError {
    HeartbeatError::new(ErrorCode::GroupIdNotFound, message)
}
