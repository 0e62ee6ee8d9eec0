//! The brokers that have just left the image: fenced, or shut down.
//!
//! Clients are told of a broker's end and of the next leaders of its partitions by the same Metadata response.
//! librdkafka ends its connection to a broker that the response does not list, and while that connection still has the
//! partitions, takes them away from their new leader again: they stall until its next look a second later. Metadata
//! therefore lists a broker for [`KEPT_FOR`] after it has left. A broker that restarts at once is registered before
//! that time is up, and not ready yet: it stays listed until it is.
//!
//! Invariants:
//! - a broker that is ready is not among them;
//! - none stays longer than [`KEPT_FOR`] after it has left or has registered again, whether images arrive or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_metadata::{BrokerRegistration, Image};
use ottla_model::MonotonicMs;
use parking_lot::Mutex;

use crate::clock;

/// How long Metadata lists a broker after its end: long enough for every client that learns of the next leaders at once
/// to have moved its partitions, short enough that clients which start later do not try a dead broker.
pub const KEPT_FOR: Duration = Duration::from_secs(3);

/// The decisions: synchronous, with the time as an argument.
#[derive(Debug, Default)]
struct Core {
    departed: Vec<(Arc<BrokerRegistration>, MonotonicMs)>,
}

impl Core {
    fn image_changed(&mut self, now: MonotonicMs, old: &Image, new: &Image) {
        let is_back = |broker: &BrokerRegistration| new.broker(broker.id).is_some_and(|broker| broker.ready);
        self.departed.retain(|(broker, until)| now < *until && !is_back(broker));
        for (broker, until) in &mut self.departed {
            if old.broker(broker.id).is_none() && new.broker(broker.id).is_some() {
                *until = now + KEPT_FOR;
            }
        }
        let left = old.brokers().filter(|broker| broker.ready && !is_back(broker));
        self.departed.extend(left.map(|broker| (broker.clone(), now + KEPT_FOR)));
        self.departed.sort_by_key(|(broker, _)| broker.id);
    }

    fn listed(&self, now: MonotonicMs) -> Vec<Arc<BrokerRegistration>> {
        self.departed.iter().filter(|(_, until)| now < *until).map(|(broker, _)| broker.clone()).collect()
    }

    fn last_end(&self) -> MonotonicMs {
        self.departed.iter().map(|(_, until)| *until).max().unwrap_or_default()
    }
}

/// The departed brokers: the metadata cache compares images, handlers look.
#[derive(Debug, Default)]
pub struct Departed {
    core: Mutex<Core>,
    /// When the last of them goes; zero without any, so that a look costs nothing else.
    last_end_ms: AtomicU64,
}

impl Departed {
    /// A newer image takes the place of the old one.
    pub fn image_changed(&self, old: &Image, new: &Image) {
        if old.has_same_brokers(new) {
            return;
        }
        let mut core = self.core.lock();
        core.image_changed(clock::monotonic(), old, new);
        self.last_end_ms.store(core.last_end().0, Ordering::Relaxed);
    }

    /// Those that are still listed, by id; none at almost any time.
    pub fn listed(&self) -> Vec<Arc<BrokerRegistration>> {
        let end = MonotonicMs(self.last_end_ms.load(Ordering::Relaxed));
        let now = clock::monotonic();
        if now >= end {
            return Vec::new();
        }
        self.core.lock().listed(now)
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::image::LeaderSettings;
    use ottla_metadata::{Node, nodes};
    use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, ListenerName, Revision, TimestampMs};

    use super::*;

    /// Ready brokers, and one that has registered and is not ready yet.
    fn image(revision: u64, ready: &[i32], not_ready: &[i32]) -> Image {
        let registration = |id: i32, ready| BrokerRegistration {
            id: BrokerId(id),
            epoch: BrokerEpoch::NONE,
            incarnation: IncarnationId([1; 16]),
            endpoints: Vec::new(),
            inter_broker_listener: ListenerName::new("INTERNAL"),
            rack: None,
            ready,
            shutting_down: false,
            awaits_clients: false,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
            registered_at: TimestampMs(0),
        };
        let node = |broker: &BrokerRegistration| {
            let (created, payload) = (Revision(revision), nodes::broker::encode(broker));
            (nodes::broker::path(broker.id), Node { payload, created, modified: created, version: 0 })
        };
        let brokers = ready.iter().map(|id| registration(*id, true));
        let brokers = brokers.chain(not_ready.iter().map(|id| registration(*id, false)));
        let tree: Vec<_> = brokers.map(|broker| node(&broker)).collect();
        Image::from_nodes(Revision(revision), tree.iter().map(|(path, node)| (path, node))).0
    }

    fn listed(core: &Core, now_ms: u64) -> Vec<i32> {
        core.listed(MonotonicMs(now_ms)).iter().map(|broker| broker.id.0).collect()
    }

    #[test]
    fn a_broker_that_left_is_listed_for_a_while() {
        let (both, one) = (image(1, &[1, 2], &[]), image(2, &[2], &[]));
        let mut core = Core::default();
        core.image_changed(MonotonicMs(1_000), &both, &one);
        assert_eq!((listed(&core, 1_000), listed(&core, 3_999), listed(&core, 4_000)), (vec![1], vec![1], vec![]));
        assert_eq!(core.last_end(), MonotonicMs(4_000));
        // Further images do not keep it longer, and the one after its end forgets it.
        core.image_changed(MonotonicMs(3_000), &one, &image(3, &[2, 3], &[]));
        assert_eq!(listed(&core, 4_000), Vec::<i32>::new());
        core.image_changed(MonotonicMs(4_000), &one, &image(4, &[2], &[]));
        assert!(core.departed.is_empty());
    }

    #[test]
    fn a_broker_that_registers_again_is_departed_until_it_is_ready() {
        let (one, none, again, ready) =
            (image(1, &[1], &[]), image(2, &[], &[]), image(3, &[], &[1]), image(4, &[1], &[]));
        let mut core = Core::default();
        core.image_changed(MonotonicMs(0), &one, &none);
        core.image_changed(MonotonicMs(2_000), &none, &again);
        assert_eq!((listed(&core, 2_000), listed(&core, 4_999), listed(&core, 5_000)), (vec![1], vec![1], vec![]));
        core.image_changed(MonotonicMs(4_000), &again, &ready);
        assert_eq!(listed(&core, 4_000), Vec::<i32>::new());
        // Both changes in one image.
        core.image_changed(MonotonicMs(6_000), &ready, &image(6, &[], &[1]));
        assert_eq!(listed(&core, 6_000), [1]);
        // It was never ready: no client was told of it.
        let mut core = Core::default();
        core.image_changed(MonotonicMs(7_000), &again, &image(7, &[], &[]));
        assert_eq!(listed(&core, 7_000), Vec::<i32>::new());
    }
}
