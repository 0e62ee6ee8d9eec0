//! The leaders that a fetcher or a coordinator of this broker has just lost: their connection broke, or was refused.
//!
//! The quorum elects others within a fraction of a second; a client that is told of the dead leader meanwhile finds
//! nobody there and waits for a second or two before it asks again. Answers that would name a suspect therefore wait
//! for the next image, each suspect's for [`HOLD_MAX`] at most.
//!
//! Invariants:
//! - a suspicion belongs to one registration: that of the broker's next life has none;
//! - further failures do not make a hold longer: who is unreachable from here alone delays answers once;
//! - suspects are at most as many as brokers: one that has left the image goes with the first image after its hold.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_metadata::Image;
use ottla_model::{BrokerEpoch, BrokerId, MonotonicMs};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;

/// How long answers wait for a suspect's successor. After a leader's death one is elected within 50 to 200 ms; other
/// answers of the connection wait behind a held one.
pub const HOLD_MAX: Duration = Duration::from_millis(300);

/// Whether the error says that nobody is there (any more): a process that has ended, not one that is slow.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

/// The decisions: synchronous, with the time as an argument.
#[derive(Debug)]
struct Core {
    hold_max: Duration,
    suspects: BTreeMap<BrokerId, Suspicion>,
}

#[derive(Debug)]
struct Suspicion {
    epoch: BrokerEpoch,
    held_until: MonotonicMs,
}

impl Core {
    fn new(hold_max: Duration) -> Self {
        Self { hold_max, suspects: BTreeMap::new() }
    }

    /// The broker that registered with this epoch does not answer.
    fn suspect(&mut self, now: MonotonicMs, broker: BrokerId, epoch: BrokerEpoch) {
        if self.suspects.get(&broker).is_none_or(|known| known.epoch < epoch) {
            self.suspects.insert(broker, Suspicion { epoch, held_until: now + self.hold_max });
        }
    }

    /// Returns whether it was a suspect.
    fn reached(&mut self, broker: BrokerId) -> bool {
        self.suspects.remove(&broker).is_some()
    }

    /// A broker that is not registered stays a suspect to the end of its hold: its partitions get their leaders by
    /// several transactions if they are many.
    fn image_changed(&mut self, now: MonotonicMs, registered: impl Fn(BrokerId) -> Option<BrokerEpoch>) {
        self.suspects.retain(|broker, suspicion| match registered(*broker) {
            Some(epoch) => epoch == suspicion.epoch,
            None => now < suspicion.held_until,
        });
    }

    /// The suspects whose successors are worth a wait now.
    fn held(&self, now: MonotonicMs, registered: impl Fn(BrokerId) -> Option<BrokerEpoch>) -> Held {
        let concerns = |(broker, suspicion): (&BrokerId, &Suspicion)| {
            let is_same = registered(*broker).is_none_or(|epoch| epoch == suspicion.epoch);
            (is_same && now < suspicion.held_until).then_some((*broker, suspicion.held_until))
        };
        Held(self.suspects.iter().filter_map(concerns).collect())
    }

    fn last_hold_end(&self) -> MonotonicMs {
        self.suspects.values().map(|suspicion| suspicion.held_until).max().unwrap_or_default()
    }
}

/// The suspects at one moment.
#[derive(Debug)]
pub struct Held(Vec<(BrokerId, MonotonicMs)>);

impl Held {
    pub fn contains(&self, broker: BrokerId) -> bool {
        self.0.iter().any(|(suspect, _)| *suspect == broker)
    }

    /// When the first of the holds ends; none without a suspect.
    pub fn next_end(&self) -> Option<MonotonicMs> {
        self.0.iter().map(|(_, end)| *end).min()
    }
}

/// The suspects of this broker: fetchers and coordinators report, the metadata cache compares, handlers look.
#[derive(Debug)]
pub struct Suspects {
    core: Mutex<Core>,
    /// When the last hold ends; zero without suspects, so that a look costs nothing else.
    last_hold_end_ms: AtomicU64,
    cleared: watch::Sender<()>,
}

impl Suspects {
    pub fn new(hold_max: Duration) -> Self {
        let (cleared, _) = watch::channel(());
        Self { core: Mutex::new(Core::new(hold_max)), last_hold_end_ms: AtomicU64::new(0), cleared }
    }

    /// The broker that registered with this epoch does not answer.
    pub fn suspect(&self, broker: BrokerId, epoch: BrokerEpoch) {
        self.change(|core| core.suspect(clock::monotonic(), broker, epoch));
    }

    /// A connection to the broker was made: what waits for its successor need not.
    pub fn reached(&self, broker: BrokerId) {
        if self.is_any() && self.change(|core| core.reached(broker)) {
            self.cleared.send_replace(());
        }
    }

    /// A newer image is in place.
    pub fn image_changed(&self, image: &Image) {
        if self.is_any() {
            self.change(|core| core.image_changed(clock::monotonic(), |broker| image.broker_epoch(broker)));
        }
    }

    /// The suspects that answers wait for now; none at almost any time.
    pub fn held(&self, image: &Image) -> Option<Held> {
        let end = self.last_hold_end_ms.load(Ordering::Relaxed);
        if end == 0 {
            return None;
        }
        let now = clock::monotonic();
        if now >= MonotonicMs(end) {
            return None;
        }
        let held = self.core.lock().held(now, |broker| image.broker_epoch(broker));
        (!held.0.is_empty()).then_some(held)
    }

    /// Changes each time a suspect has turned out to be there.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.cleared.subscribe()
    }

    fn is_any(&self) -> bool {
        self.last_hold_end_ms.load(Ordering::Relaxed) != 0
    }

    fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.lock();
        let result = change(&mut core);
        self.last_hold_end_ms.store(core.last_hold_end().0, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: BrokerId = BrokerId(1);
    const EPOCH: BrokerEpoch = BrokerEpoch(10);
    const NEXT_LIFE: BrokerEpoch = BrokerEpoch(20);

    fn registered(epoch: BrokerEpoch) -> impl Fn(BrokerId) -> Option<BrokerEpoch> + Copy {
        move |broker| (broker == LEADER).then_some(epoch)
    }

    fn suspecting_at_0() -> Core {
        let mut core = Core::new(HOLD_MAX);
        core.suspect(MonotonicMs(0), LEADER, EPOCH);
        core
    }

    #[test]
    fn further_failures_do_not_make_a_hold_longer() {
        let mut core = suspecting_at_0();
        core.suspect(MonotonicMs(250), LEADER, EPOCH);
        assert_eq!(core.held(MonotonicMs(299), registered(EPOCH)).next_end(), Some(MonotonicMs(300)));
        assert!(!core.held(MonotonicMs(300), registered(EPOCH)).contains(LEADER));
        core.suspect(MonotonicMs(400), LEADER, EPOCH);
        assert!(!core.held(MonotonicMs(401), registered(EPOCH)).contains(LEADER));
    }

    #[test]
    fn who_is_reached_is_no_suspect_until_the_next_failure() {
        let mut core = suspecting_at_0();
        assert!(!core.reached(BrokerId(2)));
        assert!(core.held(MonotonicMs(1), registered(EPOCH)).contains(LEADER));
        assert!(core.reached(LEADER));
        assert!(!core.held(MonotonicMs(1), registered(EPOCH)).contains(LEADER));
        assert_eq!(core.last_hold_end(), MonotonicMs(0));
        core.suspect(MonotonicMs(500), LEADER, EPOCH);
        assert_eq!(core.held(MonotonicMs(500), registered(EPOCH)).next_end(), Some(MonotonicMs(800)));
    }

    #[test]
    fn the_next_life_is_no_suspect_and_an_older_one_does_not_replace_it() {
        let mut core = suspecting_at_0();
        assert!(!core.held(MonotonicMs(1), registered(NEXT_LIFE)).contains(LEADER));
        core.image_changed(MonotonicMs(1), registered(NEXT_LIFE));
        assert!(core.suspects.is_empty());
        core.suspect(MonotonicMs(2), LEADER, NEXT_LIFE);
        core.suspect(MonotonicMs(3), LEADER, EPOCH);
        assert!(core.held(MonotonicMs(4), registered(NEXT_LIFE)).contains(LEADER));
        core.image_changed(MonotonicMs(5), registered(NEXT_LIFE));
        assert!(core.held(MonotonicMs(5), registered(NEXT_LIFE)).contains(LEADER));
    }

    #[test]
    fn a_fenced_suspect_is_kept_to_the_end_of_its_hold() {
        let mut core = suspecting_at_0();
        let nobody = |_| None;
        core.image_changed(MonotonicMs(299), nobody);
        assert!(core.held(MonotonicMs(299), nobody).contains(LEADER));
        core.image_changed(MonotonicMs(300), nobody);
        assert!(core.suspects.is_empty());
    }

    #[test]
    fn the_first_of_several_holds_ends_first() {
        let mut core = suspecting_at_0();
        core.suspect(MonotonicMs(100), BrokerId(2), EPOCH);
        let everyone = |_| Some(EPOCH);
        assert_eq!(core.held(MonotonicMs(200), everyone).next_end(), Some(MonotonicMs(300)));
        let second = core.held(MonotonicMs(300), everyone);
        assert!(second.contains(BrokerId(2)) && !second.contains(LEADER));
        assert_eq!((second.next_end(), core.last_hold_end()), (Some(MonotonicMs(400)), MonotonicMs(400)));
    }

    #[test]
    fn only_the_end_of_a_process_makes_a_suspect() {
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof] {
            assert!(is_gone(&kind.into()), "{kind}");
        }
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::InvalidData, io::ErrorKind::NotFound] {
            assert!(!is_gone(&kind.into()), "{kind}");
        }
    }
}
