//! What replication throttles mean for one partition: see [`crate::replication_throttles`].

use ottla_model::{BrokerId, MonotonicMs};
use ottla_partition::Errand;

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
        let leader = state.replica.leader();
        if leader.is_none_or(|leader| leader.isr().maximal_member(follower).is_some()) {
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

    /// Until when this follower does not fetch: it is throttled, and not in sync.
    pub fn held_until(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        if !self.is_follower_throttled() {
            return None;
        }
        let until = self.context.throttles.follower_held_until(now)?;
        let me = self.context.identity.id();
        let state = self.lock_for(Errand::Fetch)?;
        let assigned = state.replica.assigned()?;
        let is_in_sync = assigned.isr.iter().any(|member| member.broker == me);
        (!is_in_sync).then_some(until)
    }
}
