//! The memory of responses that wait to be read, over all connections. When it is used up, the connection gives way
//! whose client has read nothing for the longest time, then the one that holds the most: a client that reads is not
//! closed for one that does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use ottla_resources::{Ledger, Share};
use parking_lot::Mutex;

/// A client that has read nothing for this time gives way before any that reads. A network that serves its clients
/// delivers something sooner.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// The memory of one broker.
pub struct ResponseMemory {
    ledger: Arc<Ledger>,
    start: Instant,
    holders: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    next: u64,
    by_number: BTreeMap<u64, Arc<Holder>>,
}

struct Holder {
    bytes: AtomicU64,
    /// When bytes left last, in milliseconds since the start.
    sent_at_ms: AtomicU64,
    has_to_go: AtomicBool,
    /// Of the connection's task.
    waker: Waker,
}

impl Holder {
    /// The greatest gives way first.
    fn expendability(&self, now_ms: u64) -> (u64, u64) {
        let silent_ms = now_ms.saturating_sub(self.sent_at_ms.load(Ordering::Relaxed));
        let is_stalled = u128::from(silent_ms) >= STALLED_AFTER.as_millis();
        (if is_stalled { silent_ms } else { 0 }, self.bytes.load(Ordering::Relaxed))
    }
}

impl ResponseMemory {
    pub fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { ledger, start: Instant::now(), holders: Mutex::default() })
    }

    /// A connection has responses that count; it holds nothing yet.
    pub fn open(self: &Arc<Self>, now: Instant, waker: &Waker) -> ResponsePermit {
        let holder = Arc::new(Holder {
            bytes: AtomicU64::new(0),
            sent_at_ms: AtomicU64::new(self.ms(now)),
            has_to_go: AtomicBool::new(false),
            waker: waker.clone(),
        });
        let mut holders = self.holders.lock();
        let number = holders.next;
        holders.next += 1;
        holders.by_number.insert(number, Arc::clone(&holder));
        drop(holders);
        ResponsePermit { memory: Arc::clone(self), number, holder, share: self.ledger.take(0) }
    }

    /// Whether more than half is used.
    pub fn is_scarce(&self) -> bool {
        self.ledger.used() > self.ledger.ceiling() / 2
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets others go until `missing` bytes are on their way back. False if `asker` is the next to go.
    fn relieve(&self, asker: u64, missing: u64, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let holders = self.holders.lock();
        let has_to_go = |holder: &Holder| holder.has_to_go.load(Ordering::Relaxed);
        let bytes = |holder: &Arc<Holder>| holder.bytes.load(Ordering::Relaxed);
        let mut leaving: u64 = holders.by_number.values().filter(|holder| has_to_go(holder)).map(bytes).sum();
        let mut staying: Vec<_> = holders.by_number.iter().filter(|(_, holder)| !has_to_go(holder)).collect();
        staying.sort_unstable_by_key(|(number, holder)| (holder.expendability(now_ms), **number));
        while leaving < missing {
            let Some((number, holder)) = staying.pop() else { return false };
            if *number == asker {
                return false;
            }
            leaving += bytes(holder);
            holder.has_to_go.store(true, Ordering::Relaxed);
            holder.waker.wake_by_ref();
        }
        true
    }
}

/// What one connection's responses hold; given back when dropped.
pub struct ResponsePermit {
    memory: Arc<ResponseMemory>,
    number: u64,
    holder: Arc<Holder>,
    share: Option<Share>,
}

impl ResponsePermit {
    /// The client has read something.
    pub fn sent(&self, now: Instant) {
        self.holder.sent_at_ms.store(self.memory.ms(now), Ordering::Relaxed);
    }

    /// So many bytes wait now. False: the connection gives way. While others are on their way out for it, it may hold
    /// more than is counted.
    pub fn resize(&mut self, bytes: u64, now: Instant) -> bool {
        self.holder.bytes.store(bytes, Ordering::Relaxed);
        let Some(share) = &mut self.share else { return false };
        let missing = bytes.saturating_sub(share.amount());
        share.resize(bytes) || self.memory.relieve(self.number, missing, now)
    }

    /// Another connection needs the room more.
    pub fn has_to_go(&self) -> bool {
        self.holder.has_to_go.load(Ordering::Relaxed)
    }
}

impl Drop for ResponsePermit {
    fn drop(&mut self) {
        self.memory.holders.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: u64) -> (Arc<ResponseMemory>, impl Fn(u64) -> Instant) {
        let memory = ResponseMemory::new(Ledger::new(bytes));
        let start = memory.start;
        (memory, move |ms| start + Duration::from_millis(ms))
    }

    /// G9: connections that read nothing held the memory, and the one that read was closed.
    #[test]
    fn g9_a_client_that_reads_is_not_closed_for_those_that_do_not() {
        let (memory, at) = memory(1_000);
        let silent: Vec<_> = (0..10)
            .map(|number| {
                let mut permit = memory.open(at(number), Waker::noop());
                assert!(permit.resize(100, at(number)));
                permit
            })
            .collect();
        let mut reader = memory.open(at(5_000), Waker::noop());
        assert!(reader.resize(450, at(5_000)), "larger than any other, and it reads");
        let gone: Vec<bool> = silent.iter().map(ResponsePermit::has_to_go).collect();
        assert_eq!(gone.iter().filter(|gone| **gone).count(), 5);
        assert!(gone[..5].iter().all(|gone| *gone), "the longest silent go: {gone:?}");
        // They have not gone yet: nobody else is asked.
        assert!(reader.resize(500, at(5_001)));
        assert_eq!(silent.iter().filter(|permit| permit.has_to_go()).count(), 5);
        drop(silent);
        assert!(reader.resize(1_000, at(5_002)));
        assert_eq!(memory.ledger.used(), 1_000);
        drop(reader);
        assert_eq!(memory.ledger.used(), 0);
    }

    #[test]
    fn g9_among_clients_that_read_the_largest_gives_way() {
        let (memory, at) = memory(1_000);
        let mut large = memory.open(at(0), Waker::noop());
        assert!(large.resize(900, at(0)));
        let mut small = memory.open(at(0), Waker::noop());
        assert!(small.resize(200, at(1)) && large.has_to_go() && !small.has_to_go());
        drop(large);
        let mut other = memory.open(at(2), Waker::noop());
        assert!(other.resize(700, at(2)));
        assert!(!other.resize(1_200, at(3)), "it is the largest itself");
    }
}
