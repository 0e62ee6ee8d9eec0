//! How soon a member is to send its next heartbeat, and how long it may be silent.
//!
//! A member hears of a change only in the answer to its next heartbeat, so the interval is what a rebalance takes. It
//! follows how many members the shard has, so that all their heartbeats together stay below [`AT_REST_PER_SECOND`], and
//! below [`SETTLING_PER_SECOND`] while a group is on its way to a new assignment. The default of
//! `group.consumer.heartbeat.interval.ms` is the longest; where somebody set an interval, for all groups or for one,
//! that is what members are told.

use super::ConsumerGroup;
use super::member::Member;
use crate::shard::Context;

/// Of one shard, all groups together.
const AT_REST_PER_SECOND: usize = 200;
const SETTLING_PER_SECOND: usize = 1_000;
/// The shortest intervals, however few members there are.
const AT_REST_MIN_MS: i32 = 250;
const SETTLING_MIN_MS: i32 = 100;
/// A group that has not settled so long after its last change waits for a member that takes its time: hurrying helps
/// nobody.
const SETTLING_MAX_MS: u64 = 10_000;

/// The interval of each of `members` that makes `per_second` of them all.
fn share_ms(members: usize, per_second: usize) -> i32 {
    i32::try_from(members.saturating_mul(1_000) / per_second).unwrap_or(i32::MAX)
}

impl ConsumerGroup {
    pub(super) fn heartbeat_interval_ms(&self, cx: &Context<'_>) -> i32 {
        if let Some(interval_ms) = cx.config.consumer_heartbeat_interval_of(cx.group) {
            return interval_ms;
        }
        // Each member of the shard has a timer, of whichever protocol it is.
        let members = cx.timers.len();
        let settling = self.soft.moved_within(cx.now.monotonic, SETTLING_MAX_MS)
            && !(self.epoch == self.assignment_epoch
                && self.members.values().all(|member| member.is_reconciled_to(self.assignment_epoch)));
        let (least, share) = if settling {
            (SETTLING_MIN_MS, share_ms(members, SETTLING_PER_SECOND))
        } else {
            (AT_REST_MIN_MS, share_ms(members, AT_REST_PER_SECOND))
        };
        share.max(least).min(cx.config.consumer_heartbeat_interval_ms)
    }
}

impl Member {
    /// How long the member may be silent.
    pub(super) fn session_timeout_ms(&self, cx: &Context<'_>) -> i32 {
        match &self.classic {
            Some(classic) => classic.session_timeout_ms,
            None => cx.config.consumer_session_timeout_of(cx.group),
        }
    }
}
