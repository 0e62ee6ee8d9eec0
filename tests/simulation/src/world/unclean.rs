//! Elections of replicas that may lack committed records: only where they are enabled or demanded, of the replica that
//! lacks least, and told.

use ottla_metadata::PartitionState;

use super::*;

/// A demand that was answered may still be on its way a second time, and then be decided, for so long.
const LATE_DEMAND_MS: u64 = 15_000;

/// What is known of them.
#[derive(Default)]
pub(super) struct UncleanElections {
    demanded_until: Option<SimTime>,
    /// What the log of a coordinator has to say of each.
    to_tell: BTreeSet<String>,
    /// What the logs say, as far as it is of unclean elections.
    told: Vec<String>,
}

impl UncleanElections {
    pub fn demanded(&mut self, now: SimTime) {
        self.demanded_until = Some(now.plus_ms(LATE_DEMAND_MS));
    }

    pub fn heard(&mut self, note: &str) {
        if note.contains("unclean election: ") {
            self.told.push(note.to_owned());
        }
    }

    /// An election that no coordinator has told.
    pub fn untold(&self) -> Option<&String> {
        self.to_tell.iter().find(|what| !self.told.iter().any(|told| told.contains(what.as_str())))
    }
}

/// Whether there was an unclean election between two states: none of those who are in sync now was a member of the ISR,
/// with its log, or of the ELR. The leader may have gone again: a coordinator can apply several changes at once.
fn is_unclean_election(old: &PartitionState, new: &PartitionState) -> bool {
    let is_trusted =
        |broker: BrokerId| old.isr_member(broker).is_some_and(|member| !member.is_lost()) || old.elr.contains(&broker);
    new.is_recovering()
        && new.leader_epoch != old.leader_epoch
        && !new.isr.is_empty()
        && !new.isr.iter().any(|member| is_trusted(member.broker))
}

impl World {
    /// How many unclean elections there were.
    pub fn unclean_elections(&self) -> usize {
        self.unclean.to_tell.len()
    }

    /// Whether partitions get leaders that may lack records without a demand.
    pub(super) fn elects_uncleanly(&self) -> bool {
        self.config.unclean_election.unwrap_or(self.config.leaders.unclean_election)
    }

    /// The unclean elections between two images; what they give up is not promised any more.
    pub(super) fn see_unclean_elections(&mut self, before: &Image, now: &Image) -> Result<(), Violation> {
        for topic in now.topics() {
            let Some(known) = before.topic_by_id(topic.id) else { continue };
            for (number, new) in topic.partitions() {
                let Some(old) = known.partition(number).filter(|old| is_unclean_election(old, new)) else { continue };
                let id = TopicIdPartition { topic_id: topic.id, partition: number };
                let what = format!(
                    "broker {} leads {}-{number} in leader epoch {};",
                    new.leader, topic.name, new.leader_epoch
                );
                self.trace.line(self.now, format_args!("unclean election: {what}"));
                let is_demanded = self.admin.iter().any(|task| matches!(task, AdminTask::ElectUnclean))
                    || self.unclean.demanded_until.is_some_and(|until| self.now < until);
                if !is_demanded && !self.elects_uncleanly() {
                    return Err(Violation(format!("an unclean election that nobody allowed: {what} {old:?}")));
                }
                // Of several changes at once, only what they come to is seen.
                if old.partition_epoch.next() == new.partition_epoch && new.has_leader() {
                    self.check_choice(id, before, now, old, new)?;
                    self.unclean.to_tell.insert(what);
                }
                self.invariants.elected_uncleanly(id, (old.leader_epoch.next(), new.leader_epoch));
            }
        }
        Ok(())
    }

    /// No replica that comes before the new leader, and could lead, has more of what was committed: members of the ISR
    /// and ELR, the last known leader, the last known ELR.
    fn check_choice(
        &mut self,
        id: TopicIdPartition,
        before: &Image,
        now: &Image,
        old: &PartitionState,
        new: &PartitionState,
    ) -> Result<(), Violation> {
        let held = |broker: BrokerId| {
            let replica = self.brokers.get(&broker.0)?.replica(id).filter(|replica| !replica.is_offline())?;
            Some(self.invariants.committed_in(id, &replica.content))
        };
        // A leader that gives up its leadership has its reasons.
        let has_resigned = |broker: BrokerId| old.has_leader() && old.leader == broker;
        let rank = |broker: BrokerId| {
            let is_counted_on =
                old.isr_member(broker).is_some_and(|member| !member.is_lost()) || old.elr.contains(&broker);
            (!is_counted_on, broker != old.last_known_leader, !old.last_known_elr.contains(&broker))
        };
        let could_lead = |broker: BrokerId| {
            let is_active = |image: &Image| image.broker(broker).is_some_and(|known| known.is_active());
            let is_lost = old.isr_member(broker).is_some_and(|member| member.is_lost());
            let is_offline = [old, new].iter().any(|state| state.offline.iter().any(|one| one.broker == broker));
            is_active(before) && is_active(now) && !is_lost && !is_offline && !has_resigned(broker)
        };
        let Some(chosen) = held(new.leader) else { return Ok(()) };
        let others = old.replicas.iter().copied().filter(|broker| *broker != new.leader && could_lead(*broker));
        for other in others.filter(|other| rank(*other) < rank(new.leader)) {
            if let Some(more) = held(other).filter(|more| *more > chosen) {
                return Err(Violation(format!(
                    "an unclean election takes b{} with {chosen} committed records, and b{other}, which comes before \
                     it, has {more}: {old:?}",
                    new.leader
                )));
            }
        }
        self.invariants.checks += 1;
        Ok(())
    }

    /// What is lost is told.
    pub fn check_told(&self) -> Result<(), Violation> {
        match self.unclean.untold() {
            Some(what) => Err(Violation(format!("no coordinator tells of an unclean election: {what}"))),
            None => Ok(()),
        }
    }
}
