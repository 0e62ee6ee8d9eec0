//! Leaderships that return to brokers by themselves.

use super::*;

/// A broker that ended without a controlled shutdown gets no leadership back within this time. It is less than
/// [`ottla_metadata::controller::RETURN_PAUSE`], which begins when the controller decides that the broker is ready: the
/// entry that says so may take seconds to be committed.
const SEEN_PAUSE_MS: u64 = 3_000;

/// What is known of the brokers' ends.
#[derive(Default)]
pub(super) struct Returns {
    /// Their last sessions ended without a controlled shutdown, or before clients had found them again.
    abrupt: BTreeSet<BrokerId>,
    /// Those of them that are back, and since when.
    since: BTreeMap<BrokerId, SimTime>,
    /// The admin has asked for preferred leaders: any election may be its work.
    pub may_be_demanded: bool,
}

impl Returns {
    /// The tree became `now`: brokers have gone or come.
    pub fn see(&mut self, before: &Image, now: &Image, at: SimTime) {
        for old in before.brokers().filter(|old| now.broker_epoch(old.id) != Some(old.epoch)) {
            self.since.remove(&old.id);
            if old.shutting_down && !old.awaits_clients {
                self.abrupt.remove(&old.id);
            } else {
                self.abrupt.insert(old.id);
            }
        }
        for new in now.brokers().filter(|new| new.ready && self.abrupt.contains(&new.id)) {
            let was_ready = before.broker(new.id).is_some_and(|old| old.epoch == new.epoch && old.ready);
            if !was_ready {
                self.since.insert(new.id, at);
            }
        }
    }

    /// A broker that ended abruptly does not lead again at once where another replica can.
    pub fn check(&self, before: &Image, now: &Image, at: SimTime) -> Result<(), Violation> {
        if self.may_be_demanded || self.since.is_empty() {
            return Ok(());
        }
        let states =
            now.topics().flat_map(|topic| topic.partitions().map(move |(number, state)| (topic, number, state)));
        for (topic, number, new) in states {
            let old = before.topic_by_id(topic.id).and_then(|topic| topic.partition(number));
            let Some(old) = old.filter(|old| old.partition_epoch.next() == new.partition_epoch) else { continue };
            let has_returned = old.is_imbalanced() && new.has_leader() && !new.is_imbalanced();
            // Without the former leader, or with other replicas, somebody else has to lead.
            let is_active = |image: &Image| image.broker(old.leader).is_some_and(|broker| broker.is_active());
            let could_stay = new.in_isr(old.leader) && is_active(before) && is_active(now);
            if !has_returned || !could_stay || old.is_reassigning() || old.replicas != new.replicas {
                continue;
            }
            if let Some(since) = self.since.get(&new.leader).filter(|since| at < since.plus_ms(SEEN_PAUSE_MS)) {
                return Err(Violation(format!(
                    "b{} leads {}-{number} again by itself; it is back since {since}, and clients may still wait \
                     before they connect to it",
                    new.leader, topic.name
                )));
            }
        }
        Ok(())
    }
}
