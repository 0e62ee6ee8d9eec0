//! What replication throttles mean for one partition: see [`crate::replication_throttles`].

use ottla_model::{BrokerId, MonotonicMs};
use ottla_partition::Errand;
use ottla_replication::Leader;

use super::Partition;

/// What a leader may send to one follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaderThrottle {
    /// The partition is not throttled.
    Free,
    /// The bytes count, but the follower is in sync and must remain so.
    Counted,
    /// At most so many bytes now.
    Limited(usize),
}

impl Partition {
    pub fn leader_throttle(&self, follower: BrokerId, now: MonotonicMs) -> LeaderThrottle {
        let me = self.context.identity.id();
        if !self.settings.load().leader_throttled.contains(self.id.partition, me) {
            return LeaderThrottle::Free;
        }
        let Some(allowance) = self.context.throttles.leader_allowance(now) else { return LeaderThrottle::Free };
        let Some(state) = self.lock_for(Errand::Fetch) else { return LeaderThrottle::Free };
        // Writes wait for a follower that is about to join, too.
        let is_needed =
            |leader: &Leader| leader.isr().maximal_member(follower).is_some() || leader.is_about_to_join(follower, now);
        if state.replica.leader().is_none_or(is_needed) {
            return LeaderThrottle::Counted;
        }
        LeaderThrottle::Limited(allowance)
    }

    fn is_follower_throttled(&self) -> bool {
        let me = self.context.identity.id();
        self.settings.load().follower_throttled.contains(self.id.partition, me)
    }

    /// This follower has received records.
    pub fn count_fetched(&self, bytes: usize, now: MonotonicMs) {
        if self.is_follower_throttled() {
            self.context.throttles.fetched(now, bytes);
        }
    }

    /// Until when this follower does not fetch: it is throttled, and writes do not wait for it.
    pub fn held_until(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        if !self.is_follower_throttled() {
            return None;
        }
        let me = self.context.identity.id();
        let mut state = self.lock_for(Errand::Fetch)?;
        let assigned = state.replica.assigned()?;
        let is_in_sync = assigned.isr.iter().any(|member| member.broker == me);
        // Asked each time: it remembers when it had caught up.
        let is_awaited = state.replica.is_awaited(now, self.context.replica_lag_time_max);
        if is_in_sync || is_awaited { None } else { self.context.throttles.follower_held_until(now) }
    }
}
