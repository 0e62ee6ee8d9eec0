//! TLS handshakes under way: bounded in number, per address and in all.
//!
//! An address of IPv6 counts with its network of 64 bits. A handshake costs memory and CPU for a client that has not
//! shown yet who it is. One whose client has had [`PATIENCE`] to go on gives way to a new one, so that clients that
//! begin handshakes and do not end them keep nobody out; if no client has had that long, the new connection is refused,
//! so that a crowd that reconnects at once does not keep itself from getting done. What a handshake waits for its turn
//! is not its client's time: where turns are long, each would have given way to the next before it was done.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::network::network_of;

/// Handshakes under way in all. Mostly 20 KiB each; a client that sends a message of the greatest size in pieces makes
/// it 64 KiB, 16 MiB for all of them.
const TOTAL_MAX: usize = 256;
/// A machine's worth of clients behind one address, at some milliseconds each.
const PER_ADDRESS_MAX: usize = 64;
/// A handshake across continents takes two round trips, below a second.
const PATIENCE: Duration = Duration::from_secs(1);

struct UnderWay {
    number: u64,
    /// Since when the client has to go on.
    since: Instant,
    waits_for_turn: bool,
    /// Dropped: the handshake has to end.
    _cancel: oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    by_address: BTreeMap<IpAddr, VecDeque<UnderWay>>,
    total: usize,
    next: u64,
}

#[derive(Default)]
pub struct Handshakes {
    state: Mutex<State>,
}

/// One handshake under way.
pub struct HandshakePermit {
    pub place: HandshakePlace,
    /// Completes when the handshake has to give way.
    pub cancelled: oneshot::Receiver<()>,
}

/// The place of one handshake; given back when dropped.
pub struct HandshakePlace {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
    number: u64,
}

impl Handshakes {
    pub fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<HandshakePermit> {
        let address = network_of(address);
        let mut state = self.state.lock();
        let own = state.by_address.get(&address).map_or(0, VecDeque::len);
        let has_room = match (own >= PER_ADDRESS_MAX, state.total >= TOTAL_MAX) {
            (true, _) => state.end_oldest(|of| of == address, now),
            (false, true) => state.end_oldest(|_| true, now),
            (false, false) => true,
        };
        if !has_room {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.total += 1;
        let (cancel, cancelled) = oneshot::channel();
        let under_way = UnderWay { number, since: now, waits_for_turn: false, _cancel: cancel };
        state.by_address.entry(address).or_default().push_back(under_way);
        drop(state);
        let place = HandshakePlace { handshakes: Arc::clone(self), address, number };
        Some(HandshakePermit { place, cancelled })
    }
}

impl State {
    /// Ends a handshake that has had its time: the oldest of the address that has the most. An address whose handshakes
    /// are all young does not keep those of others in place.
    fn end_oldest(&mut self, is_of: impl Fn(IpAddr) -> bool, now: Instant) -> bool {
        let of_each = self.by_address.iter().filter(|(address, _)| is_of(**address));
        let oldest = of_each.filter_map(|(address, all)| {
            let with_clients = all.iter().filter(|under_way| !under_way.waits_for_turn);
            Some((*address, all.len(), with_clients.min_by_key(|under_way| under_way.since)?))
        });
        let timely = oldest.filter(|(.., oldest)| now.saturating_duration_since(oldest.since) >= PATIENCE);
        let most = timely.max_by_key(|(_, count, _)| *count);
        let Some((address, number)) = most.map(|(address, _, oldest)| (address, oldest.number)) else { return false };
        self.remove(address, number);
        true
    }

    fn remove(&mut self, address: IpAddr, number: u64) {
        let Some(all) = self.by_address.get_mut(&address) else { return };
        let before = all.len();
        all.retain(|under_way| under_way.number != number);
        self.total -= before - all.len();
        if all.is_empty() {
            self.by_address.remove(&address);
        }
    }
}

impl HandshakePlace {
    /// The client has sent something: until its turn the handshake does not give way.
    pub fn waits_for_turn(&self) {
        self.alter(|under_way| under_way.waits_for_turn = true);
    }

    /// The client has to go on: since `calculated`, or as before where what it had sent was of no use.
    pub fn had_turn(&self, calculated: Option<Instant>) {
        self.alter(|under_way| {
            under_way.waits_for_turn = false;
            under_way.since = calculated.unwrap_or(under_way.since);
        });
    }

    fn alter(&self, change: impl FnOnce(&mut UnderWay)) {
        let mut state = self.handshakes.state.lock();
        let all = state.by_address.get_mut(&self.address);
        // One that has to give way has no place any more.
        if let Some(under_way) = all.and_then(|all| all.iter_mut().find(|it| it.number == self.number)) {
            change(under_way);
        }
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.handshakes.state.lock().remove(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_oldest_gives_way_once_it_has_had_its_time() {
        let handshakes = Arc::new(Handshakes::default());
        let start = Instant::now();
        let mut silent: Vec<_> =
            (0..PER_ADDRESS_MAX).map(|_| handshakes.enter(address(1), start).expect("room")).collect();
        assert!(handshakes.enter(address(1), start).is_none(), "all are young");
        let other = handshakes.enter(address(2), start);
        assert!(other.is_some(), "another address is not concerned");
        let good = handshakes.enter(address(1), start + PATIENCE).expect("the oldest gives way");
        assert!(silent[0].cancelled.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(silent[1].cancelled.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop((silent, good, other));
        let state = handshakes.state.lock();
        assert_eq!((state.total, state.by_address.len()), (0, 0));
    }

    #[test]
    fn the_address_with_the_most_gives_way_to_others() {
        let handshakes = Arc::new(Handshakes::default());
        let start = Instant::now();
        let mut all = Vec::new();
        for at in 0..TOTAL_MAX {
            let last = u8::try_from(at / PER_ADDRESS_MAX).expect("few addresses");
            all.push(handshakes.enter(address(last), start).expect("room"));
        }
        assert!(handshakes.enter(address(99), start).is_none());
        assert!(handshakes.enter(address(99), start + PATIENCE).is_some());
    }

    /// A crowd that waited for its turns for more than a second ended each of its handshakes for the next one.
    #[test]
    fn a_handshake_that_waits_for_its_turn_does_not_give_way() {
        let handshakes = Arc::new(Handshakes::default());
        let start = Instant::now();
        let mut crowd: Vec<_> =
            (0..PER_ADDRESS_MAX).map(|_| handshakes.enter(address(1), start).expect("room")).collect();
        crowd.iter().for_each(|permit| permit.place.waits_for_turn());
        let (later, last) = (start + PATIENCE, start + 2 * PATIENCE);
        assert!(handshakes.enter(address(1), later).is_none(), "it is not their fault");
        crowd[5].place.had_turn(Some(later));
        assert!(handshakes.enter(address(1), later).is_none(), "its client has all of its time");
        crowd[6].place.waits_for_turn();
        crowd[6].place.had_turn(None);
        let mut ended = |at: usize| crowd[at].cancelled.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        let other = handshakes.enter(address(1), later);
        assert!(other.is_some() && ended(6) && !ended(5), "what it sent was of no use");
        other.as_ref().expect("room").place.waits_for_turn();
        let another = handshakes.enter(address(1), last);
        assert!(another.is_some() && ended(5));
        drop((crowd, other, another));
        assert_eq!(handshakes.state.lock().total, 0);
    }

    /// An attacker has as many addresses as it likes in its network of IPv6.
    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let handshakes = Arc::new(Handshakes::default());
        let start = Instant::now();
        let own = |at: usize| format!("2001:db8::{at:x}").parse::<IpAddr>().expect("an address");
        let all: Vec<_> = (0..PER_ADDRESS_MAX).map(|at| handshakes.enter(own(at), start).expect("room")).collect();
        assert!(handshakes.enter(own(PER_ADDRESS_MAX), start).is_none());
        assert!(handshakes.enter("2001:db8:0:1::1".parse().expect("an address"), start).is_some());
        drop(all);
    }

    /// One address that begins its handshakes again and again kept everybody out, whatever the age of the others'.
    #[test]
    fn an_address_with_young_handshakes_does_not_shield_the_old_ones() {
        let handshakes = Arc::new(Handshakes::default());
        let start = Instant::now();
        let machine = |at: usize| IpAddr::from([10, 1, u8::try_from(at / 256).expect("few"), (at % 256) as u8]);
        let mut all: Vec<_> =
            (0..TOTAL_MAX - 2).map(|at| handshakes.enter(machine(at), start).expect("room")).collect();
        let later = start + PATIENCE;
        all.extend((0..2).map(|_| handshakes.enter(address(200), later).expect("room")));
        assert!(handshakes.enter(address(99), later).is_some());
    }
}
