//! Replication throttles (KIP-73): how many bytes of the throttled replicas a broker sends as a leader, and fetches as
//! a follower. Replicas in the ISR are counted, but never held back, and neither are those that are about to join it:
//! the leader's high watermark, and with it every write, waits for both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ottla_metrics::{Counter, Registry};
use ottla_model::{BrokerId, MonotonicMs, PartitionId};
use ottla_quotas::{Rate, Windows};
use parking_lot::Mutex;

use crate::live_config::LiveConfig;

/// The longest pause of a partition that a follower holds back: the limit may be raised or go meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The shortest one: each pause costs a request.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The replicas of a topic that are throttled on one side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ThrottledReplicas {
    #[default]
    None,
    All,
    Listed(BTreeSet<(PartitionId, BrokerId)>),
}

impl ThrottledReplicas {
    /// From `*`, or entries `partition:broker`. Others were refused when they were set.
    pub fn parse(entries: &[String]) -> Self {
        if entries.iter().any(|entry| entry == "*") {
            return Self::All;
        }
        let replica = |entry: &String| {
            let (partition, broker) = entry.split_once(':')?;
            Some((PartitionId(partition.trim().parse().ok()?), BrokerId(broker.trim().parse().ok()?)))
        };
        let listed: BTreeSet<_> = entries.iter().filter_map(replica).collect();
        if listed.is_empty() { Self::None } else { Self::Listed(listed) }
    }

    pub fn contains(&self, partition: PartitionId, broker: BrokerId) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Listed(listed) => listed.contains(&(partition, broker)),
        }
    }
}

/// Record bytes of throttled replicas, while their side has a rate.
#[derive(Debug)]
pub struct ThrottledBytes {
    pub sent: Counter,
    pub fetched: Counter,
}

impl ThrottledBytes {
    pub fn new(registry: &Registry) -> Self {
        Self {
            sent: registry.counter(
                "replication_throttled_sent_bytes_total",
                "Record bytes of throttled replicas that this broker sent as their leader",
            ),
            fetched: registry.counter(
                "replication_throttled_fetched_bytes_total",
                "Record bytes of throttled replicas that this broker fetched as their follower",
            ),
        }
    }
}

/// One side's limit, and what went by it.
struct Throttle {
    /// The broker's configuration.
    key: &'static str,
    live: Arc<LiveConfig>,
    windows: Windows,
    rate: Mutex<Rate>,
    bytes: Counter,
}

impl Throttle {
    fn new(key: &'static str, live: &Arc<LiveConfig>, bytes: &Counter) -> Self {
        let config = live.fixed();
        let windows =
            Windows { count: config.replication_quota_window_num, length: config.replication_quota_window_size };
        Self { key, live: live.clone(), windows, rate: Mutex::default(), bytes: bytes.clone() }
    }

    /// Bytes per second; none: no limit is set.
    fn limit(&self) -> Option<f64> {
        let live = self.live.current();
        live.properties.text(self.key)?.parse::<i64>().ok().map(|bytes| bytes.max(0) as f64)
    }

    fn record(&self, now: MonotonicMs, bytes: usize) {
        if bytes > 0 && self.limit().is_some() {
            self.rate.lock().record(self.windows, now, bytes as f64);
            self.bytes.add(bytes as u64);
        }
    }

    fn allowance(&self, now: MonotonicMs) -> Option<usize> {
        let limit = self.limit()?;
        Some(self.rate.lock().allowance(self.windows, now, limit) as usize)
    }

    /// Until when nothing goes; none: something may go now.
    fn held_until(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        let limit = self.limit()?;
        let mut rate = self.rate.lock();
        if rate.allowance(self.windows, now, limit) >= 1.0 {
            return None;
        }
        Some(now + rate.throttle(self.windows, now, limit).clamp(PAUSE_MIN, PAUSE_MAX))
    }
}

/// See the module.
pub struct ReplicationThrottles {
    leader: Throttle,
    follower: Throttle,
}

impl ReplicationThrottles {
    pub fn new(live: &Arc<LiveConfig>, bytes: &ThrottledBytes) -> Self {
        Self {
            leader: Throttle::new("leader.replication.throttled.rate", live, &bytes.sent),
            follower: Throttle::new("follower.replication.throttled.rate", live, &bytes.fetched),
        }
    }

    /// How many bytes may be sent now to followers that are not in sync; none: as many as there are.
    pub fn leader_allowance(&self, now: MonotonicMs) -> Option<usize> {
        self.leader.allowance(now)
    }

    /// A leader has answered with so many bytes of throttled replicas.
    pub fn sent(&self, now: MonotonicMs, bytes: usize) {
        self.leader.record(now, bytes);
    }

    /// A follower has received so many bytes of throttled replicas.
    pub fn fetched(&self, now: MonotonicMs, bytes: usize) {
        self.follower.record(now, bytes);
    }

    /// Until when a follower that is not in sync does not fetch throttled replicas.
    pub fn follower_held_until(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        self.follower.held_until(now)
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::ConfigEntity;

    use super::*;
    use crate::live_config::tests::{image, live};

    /// Each side has its own limit and its own counter; without a limit nothing is throttled, and nothing counts.
    #[test]
    fn bytes_count_where_a_limit_is_set() {
        let me = BrokerId(1);
        let (live, bytes) = (Arc::new(live()), ThrottledBytes::new(&Registry::new("test")));
        let throttles = ReplicationThrottles::new(&live, &bytes);
        let counted = || (bytes.sent.get(), bytes.fetched.get());
        let both = |now| {
            throttles.sent(now, 700);
            throttles.fetched(now, 50);
        };
        both(MonotonicMs(0));
        assert_eq!((counted(), throttles.leader_allowance(MonotonicMs(0))), ((0, 0), None));
        live.follow(&image(1, &[(ConfigEntity::broker(me), &[("leader.replication.throttled.rate", "100")])]), me);
        both(MonotonicMs(0));
        assert_eq!((counted(), throttles.leader_allowance(MonotonicMs(0))), ((700, 0), Some(300)));
        live.follow(&image(2, &[(ConfigEntity::broker(me), &[("follower.replication.throttled.rate", "5")])]), me);
        both(MonotonicMs(0));
        assert_eq!(counted(), (700, 50));
        assert!(throttles.follower_held_until(MonotonicMs(0)).is_some());
    }

    #[test]
    fn replicas_are_listed_by_partition_and_broker() {
        let parse =
            |text: &[&str]| ThrottledReplicas::parse(&text.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), ThrottledReplicas::None);
        assert_eq!(parse(&[""]), ThrottledReplicas::None);
        assert!(parse(&["*"]).contains(PartitionId(7), BrokerId(1)));
        let listed = parse(&["0:1", "1:2"]);
        assert!(listed.contains(PartitionId(0), BrokerId(1)) && listed.contains(PartitionId(1), BrokerId(2)));
        assert!(!listed.contains(PartitionId(0), BrokerId(2)) && !listed.contains(PartitionId(2), BrokerId(1)));
    }
}
