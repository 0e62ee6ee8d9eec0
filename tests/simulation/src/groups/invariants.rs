//! What must hold at every step of a run.
//!
//! Judged by the committed records of the log, which are read here a second time and without the shards' code, and by
//! what members believe:
//! - The records of one request are in one batch, whole.
//! - A commit was let pass only from a member of the generation, or of the epoch, that the log knows at that point.
//! - A commit that was answered is committed; what OffsetFetch answers is exactly what the committed log says.
//! - Generations and epochs only grow, as long as their group lives.
//! - A partition is in the current assignment of one member at most, and no two members that the log knows believe that
//!   they own it (KIP-848). Within a generation of a classic group assignments do not overlap.

use std::collections::{BTreeMap, BTreeSet};

use ottla_group_coordinator::Record;
use ottla_group_coordinator::answer::FetchedOffsets;
use ottla_group_coordinator::record::TopicPartitions;
use ottla_group_coordinator::request::FetchOffsets;
use ottla_model::{ErrorCode, GroupId, MemberId, TopicId};

use super::client::Issued;
use super::topics::{IdTp, TopicIds, Tp};
use crate::coordinator_log::StoredBatch;
use crate::invariants::Violation;

macro_rules! violated {
    ($($text:tt)*) => { return Err(Violation(format!($($text)*))) };
}

/// What the committed records say of one group.
#[derive(Clone, Debug, Default)]
pub struct GroupView {
    pub classic: Option<(i32, BTreeSet<MemberId>)>,
    /// The epoch that a consumer group had when it became this classic one: its record says the next generation, and
    /// its members are in this one until they have joined a round.
    adopted_in: Option<i32>,
    /// The generation of the classic group that this consumer group was upgraded from. A classic member that missed
    /// later rounds may believe in an earlier generation: it is fenced when it next speaks, and its belief counts no
    /// more than before the upgrade.
    upgraded_from: i32,
    /// The epoch of the consumer group that the batch at hand has ended.
    ended_in: Option<i32>,
    pub epoch: Option<i32>,
    assignment_epoch: i32,
    pub members: BTreeMap<MemberId, MemberView>,
    /// Each with the id of the topic that it was committed for.
    pub offsets: BTreeMap<Tp, (i64, TopicId)>,
    /// No generation or epoch was higher since the group began.
    highest: i32,
}

#[derive(Clone, Debug, Default)]
pub struct MemberView {
    pub epoch: i32,
    /// Each with the epoch in which it was assigned; what is being revoked too.
    owned: BTreeMap<(TopicId, i32), i32>,
}

#[derive(Clone, Debug)]
struct Belief {
    member: MemberId,
    generation: i32,
    owned: BTreeSet<IdTp>,
}

#[derive(Debug, Default)]
pub struct Invariants {
    views: BTreeMap<GroupId, GroupView>,
    issued: BTreeMap<u64, Issued>,
    committed: BTreeSet<u64>,
    /// By group and client.
    beliefs: BTreeMap<GroupId, BTreeMap<u32, Belief>>,
    pub acknowledged: u64,
    pub fetches: u64,
    pub checks: u64,
    pub refused_commits: u64,
}

impl Invariants {
    pub fn view(&self, group: &GroupId) -> Option<&GroupView> {
        self.views.get(group)
    }

    /// What a member has committed in a generation or epoch: so many commits were sent, so many are in the log.
    pub fn commits_of(&self, member: &MemberId, generation_or_epoch: i32) -> (usize, usize) {
        let theirs = self
            .issued
            .values()
            .filter(|issued| issued.member == *member && issued.generation_or_epoch == generation_or_epoch);
        let numbers: Vec<u64> = theirs.map(|issued| issued.number).collect();
        (numbers.len(), numbers.iter().filter(|number| self.committed.contains(number)).count())
    }

    pub fn issue(&mut self, issued: Issued) {
        self.issued.insert(issued.number, issued);
    }

    /// The next batch of a partition is committed.
    pub fn commit(&mut self, batch: &StoredBatch) -> Result<(), Violation> {
        self.checks += 1;
        let mut groups = BTreeSet::new();
        let mut commits: BTreeMap<u64, BTreeSet<Tp>> = BTreeMap::new();
        let mut records = Vec::new();
        for raw in &batch.records {
            match Record::decode(&raw.key, raw.value.as_deref()) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => violated!("a record of a type that nobody knows: {raw:?}"),
                Err(error) => violated!("a record that nobody can read: {error}"),
            }
        }
        for record in &records {
            groups.insert(record.group().clone());
            if let Record::Offset { key, value: Some(value) } = record {
                let number = u64::try_from(value.offset.0).unwrap_or(0);
                commits.entry(number).or_default().insert((key.topic.clone(), key.partition.0));
            }
        }
        for (number, partitions) in commits {
            let Some(issued) = self.issued.get(&number) else { violated!("nobody sent commit {number}") };
            if issued.partitions != partitions {
                violated!("commit {number} of {:?} is in the log with {partitions:?}", issued.partitions);
            }
            self.may_commit(issued)?;
            self.committed.insert(number);
        }
        let before: BTreeMap<_, _> =
            groups.iter().filter_map(|id| Some((id.clone(), self.views.get(id)?.clone()))).collect();
        for record in records {
            self.apply(record)?;
        }
        for id in groups {
            if let Some(view) = self.views.get_mut(&id) {
                view.ended_in = None;
                view.hold(&id, before.get(&id))?;
            }
            self.believe(&id)?;
        }
        Ok(())
    }

    /// Whether the member could commit, by what the log says up to here (scenario 28).
    fn may_commit(&self, issued: &Issued) -> Result<(), Violation> {
        let none = GroupView::default();
        let view = self.views.get(&issued.group).unwrap_or(&none);
        let Issued { number, member, generation_or_epoch, .. } = issued;
        if *generation_or_epoch < 0 {
            let readers = view.members.len() + view.classic.as_ref().map_or(0, |(_, members)| members.len());
            if readers > 0 {
                violated!("commit {number} of no member was let pass into {} with members", issued.group);
            }
            return Ok(());
        }
        if let Some((generation, members)) = &view.classic {
            let is_theirs = generation == generation_or_epoch || view.adopted_in == Some(*generation_or_epoch);
            if !is_theirs || !members.contains(member) {
                violated!(
                    "commit {number} of {member} in generation {generation_or_epoch} was let pass in generation {generation} \
                     of {members:?}"
                );
            }
            return Ok(());
        }
        let Some(known) = view.members.get(member) else {
            violated!("commit {number} of {member}, whom {} does not know, was let pass", issued.group)
        };
        let holds = |tp: &Tp| {
            let id = issued.ids.get(&tp.0).copied().unwrap_or_default();
            known.owned.get(&(id, tp.1)).is_some_and(|assigned| assigned <= generation_or_epoch)
        };
        if known.epoch != *generation_or_epoch
            && (known.epoch < *generation_or_epoch || !issued.partitions.iter().all(holds))
        {
            violated!(
                "commit {number} of {member} in epoch {generation_or_epoch} was let pass in epoch {}: {known:?}",
                known.epoch
            );
        }
        Ok(())
    }

    fn apply(&mut self, record: Record) -> Result<(), Violation> {
        let view = self.views.entry(record.group().clone()).or_default();
        match record {
            Record::Offset { key, value } => {
                let at = (key.topic, key.partition.0);
                match value {
                    Some(value) => view.offsets.insert(at, (value.offset.0, value.topic_id)),
                    None => view.offsets.remove(&at),
                };
            }
            Record::ClassicGroup { value, .. } => {
                view.adopted_in = view.ended_in.take().filter(|_| value.is_some());
                let ended = view.classic.take().map(|(generation, _)| generation);
                view.upgraded_from = ended.filter(|_| value.is_none()).unwrap_or(0);
                view.classic = value
                    .map(|group| (group.generation, group.members.into_iter().map(|member| member.member).collect()));
                view.forget_if_gone();
            }
            Record::ConsumerGroup { value, .. } => {
                view.ended_in = view.epoch.filter(|_| value.is_none());
                view.epoch = value.map(|group| group.epoch);
                view.forget_if_gone();
            }
            Record::TargetAssignment { value, .. } => view.assignment_epoch = value.map_or(0, |target| target.epoch),
            Record::ConsumerMember { member, value, .. } => match value {
                Some(_) => drop(view.members.entry(member).or_default()),
                None => drop(view.members.remove(&member)),
            },
            Record::CurrentAssignment { member, value: Some(value), .. } => {
                let mut owned = BTreeMap::new();
                for topic in value.assigned.iter().chain(&value.pending_revocation) {
                    let TopicPartitions { topic, partitions, assignment_epochs } = topic;
                    for (at, partition) in partitions.iter().enumerate() {
                        let assigned = assignment_epochs.get(at).copied().unwrap_or(value.member_epoch);
                        owned.insert((*topic, partition.0), assigned);
                    }
                }
                view.members.insert(member, MemberView { epoch: value.member_epoch, owned });
            }
            Record::CurrentAssignment { member, value: None, .. } => {
                if let Some(known) = view.members.get_mut(&member) {
                    *known = MemberView::default();
                }
            }
            Record::PartitionMetadata { .. } | Record::TargetMember { .. } | Record::RegularExpression { .. } => {}
        }
        Ok(())
    }

    /// A client has come to believe that it owns these, in this generation or epoch.
    pub fn believes(
        &mut self,
        client: u32,
        group: &GroupId,
        member: &MemberId,
        generation: i32,
        owned: &BTreeSet<IdTp>,
    ) -> Result<(), Violation> {
        let beliefs = self.beliefs.entry(group.clone()).or_default();
        if owned.is_empty() {
            beliefs.remove(&client);
            return Ok(());
        }
        beliefs.insert(client, Belief { member: member.clone(), generation, owned: owned.clone() });
        self.believe(group)
    }

    /// The client's process is gone, and its beliefs with it.
    pub fn forgets(&mut self, client: u32, group: &GroupId) {
        if let Some(beliefs) = self.beliefs.get_mut(group) {
            beliefs.remove(&client);
        }
    }

    fn believe(&self, group: &GroupId) -> Result<(), Violation> {
        let (Some(beliefs), Some(view)) = (self.beliefs.get(group), self.views.get(group)) else { return Ok(()) };
        let mut owners: BTreeMap<&IdTp, (u32, &Belief)> = BTreeMap::new();
        for (client, belief) in beliefs {
            let counts = match &view.classic {
                Some((generation, members)) => {
                    (*generation == belief.generation || view.adopted_in == Some(belief.generation))
                        && members.contains(&belief.member)
                }
                None => belief.generation >= view.upgraded_from && view.members.contains_key(&belief.member),
            };
            if !counts {
                continue;
            }
            for tp in &belief.owned {
                if let Some((other, theirs)) = owners.insert(tp, (*client, belief)) {
                    violated!(
                        "two owners of {tp:?} in {group}: client {other} as {} in {} and client {client} as {} in {}",
                        theirs.member,
                        theirs.generation,
                        belief.member,
                        belief.generation
                    );
                }
            }
        }
        Ok(())
    }

    /// A commit was answered without an error.
    pub fn acknowledge(&mut self, number: u64) -> Result<(), Violation> {
        self.acknowledged += 1;
        if !self.committed.contains(&number) {
            violated!("commit {number} was answered and is not committed");
        }
        Ok(())
    }

    /// The leader of the partition, whose image had the topics `ids`, answered an OffsetFetch.
    pub fn fetched(
        &mut self,
        request: &FetchOffsets,
        ids: &TopicIds,
        answer: &FetchedOffsets,
    ) -> Result<(), Violation> {
        if answer.error != ErrorCode::None {
            return Ok(());
        }
        self.fetches += 1;
        let none = GroupView::default();
        let view = self.views.get(&request.group).unwrap_or(&none);
        let mut told = BTreeSet::new();
        for (topic, partitions) in &answer.topics {
            for found in partitions {
                let tp = (topic.name.clone(), found.partition.0);
                let committed = view.offsets.get(&tp).filter(|(_, of)| {
                    // What was committed for a deleted topic is nothing for the topic that has its name now.
                    of.is_zero() || topic.id.is_zero() || *of == topic.id
                });
                let committed = committed.map_or(-1, |(offset, _)| *offset);
                // A write over it is in flight.
                let is_unstable = request.require_stable && found.error == ErrorCode::UnstableOffsetCommit;
                if !is_unstable && (found.error != ErrorCode::None || found.offset.0 != committed) {
                    violated!("{} has committed {committed} for {tp:?}, and {found:?} was answered", request.group);
                }
                told.insert(tp);
            }
        }
        // Where another topic has the name by now, what was committed for the former one is left out.
        let of_another = |name: &str, of: TopicId| !of.is_zero() && ids.get(name).is_some_and(|id| *id != of);
        let expected = view.offsets.iter().filter(|((name, _), (_, of))| !of_another(name, *of)).map(|(tp, _)| tp);
        if request.topics.is_none() && !told.iter().eq(expected) {
            violated!("{} has committed {:?}, and {told:?} was answered", request.group, view.offsets);
        }
        Ok(())
    }
}

impl GroupView {
    fn is_gone(&self) -> bool {
        self.classic.is_none() && self.epoch.is_none()
    }

    /// A group that was deleted counts from the beginning when it comes back, even in the same batch.
    fn forget_if_gone(&mut self) {
        if self.is_gone() {
            self.highest = 0;
            self.members.clear();
        }
    }

    /// What holds at the end of a batch.
    fn hold(&mut self, id: &GroupId, before: Option<&Self>) -> Result<(), Violation> {
        if self.is_gone() {
            self.upgraded_from = 0;
            return Ok(());
        }
        let generation = self.classic.as_ref().map_or(0, |(generation, _)| *generation);
        let epoch = self.epoch.unwrap_or(0);
        // A group that changes its protocol goes on counting where it stood.
        let now = generation.max(epoch);
        if now < self.highest {
            violated!("{id} fell from {} to {now}", self.highest);
        }
        self.highest = now;
        if self.epoch.is_some() && self.assignment_epoch > epoch {
            violated!("{id} has an assignment of epoch {} in epoch {epoch}", self.assignment_epoch);
        }
        let mut owners: BTreeMap<&(TopicId, i32), &MemberId> = BTreeMap::new();
        for (member, known) in &self.members {
            if known.epoch > epoch {
                violated!("{member} of {id} is in epoch {} of {epoch}", known.epoch);
            }
            // A static member that has left for a while counts backwards: -2.
            let last = before.and_then(|before| before.members.get(member)).map_or(0, |known| known.epoch);
            if known.epoch >= 0 && known.epoch < last {
                violated!("{member} of {id} fell from epoch {last} to {}", known.epoch);
            }
            for partition in known.owned.keys() {
                if let Some(other) = owners.insert(partition, member) {
                    violated!("{partition:?} is assigned to {other} and {member} of {id}");
                }
            }
        }
        Ok(())
    }
}
