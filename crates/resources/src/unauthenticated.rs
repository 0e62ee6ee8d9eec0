//! Connections whose client has not shown yet who it is: bounded in number, per address and in all.
//!
//! An address of IPv6 counts with its network of 64 bits. At a bound the connection is closed whose client has sent no
//! complete request for the longest time: of the network of the new connection if that has as many as it may, else of
//! the network with the most. So a client that goes on with its login is not disconnected for clients that do nothing,
//! however many there are and even if they share its address. A connection that is younger than [`PATIENCE`], or whose
//! client has gone on with its login since, stays, and the new connection is refused: a crowd that connects at once
//! does not keep itself from logging in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::connections::ConnectionRefused;
use crate::network::network_of;

/// Between two steps of a login a client needs a round trip: this is one around the world.
const PATIENCE: Duration = Duration::from_millis(250);
/// Steps of a login that count: the end of the TLS handshake, ApiVersions twice, SaslHandshake and up to four tokens
/// are eight. A client that sends ApiVersions again and again would never be the one to go.
const STEPS_MAX: u8 = 8;

/// The unauthenticated connections of one process.
pub struct Unauthenticated {
    /// The most at this time.
    ceiling: Box<dyn Fn() -> usize + Send + Sync>,
    state: Mutex<State>,
    refused: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Of each network, in the order of the last step.
    networks: BTreeMap<IpAddr, BTreeMap<u64, Entry>>,
    /// The networks by the number of their connections.
    by_count: BTreeSet<(usize, IpAddr)>,
    /// All connections, in the order of the last step.
    order: BTreeMap<u64, IpAddr>,
    /// Steps so far; the number of a connection is that of its last one.
    steps: u64,
}

struct Entry {
    last_step: Instant,
    close: oneshot::Sender<()>,
}

/// The place of one connection; given back when dropped.
pub struct UnauthenticatedPermit {
    all: Arc<Unauthenticated>,
    network: IpAddr,
    number: u64,
    steps_left: u8,
    has_to_close: oneshot::Receiver<()>,
    is_over: bool,
}

impl Unauthenticated {
    /// `ceiling`: the most in all. One network may have half of it, and one at least.
    pub fn new(ceiling: impl Fn() -> usize + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { ceiling: Box::new(ceiling), state: Mutex::default(), refused: AtomicU64::new(0) })
    }

    /// None: all that could be closed for it are too young.
    pub fn enter(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Option<UnauthenticatedPermit> {
        let network = network_of(ip);
        let ceiling = self.ceiling();
        let mut state = self.state.lock();
        let own = state.networks.get(&network).map_or(0, BTreeMap::len);
        let has_room = if own >= (ceiling / 2).max(1) {
            self.close_eldest(&mut state, network, now)
        } else if state.order.len() >= ceiling {
            let of_eldest = state.order.values().next().copied();
            [state.largest(), of_eldest].into_iter().flatten().any(|it| self.close_eldest(&mut state, it, now))
        } else {
            true
        };
        if !has_room {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let (close, has_to_close) = oneshot::channel();
        let number = state.insert(network, Entry { last_step: now, close });
        drop(state);
        let all = Arc::clone(self);
        Some(UnauthenticatedPermit { all, network, number, steps_left: STEPS_MAX, has_to_close, is_over: false })
    }

    /// Another bound of connections has refused a client: closes a connection, so that the client finds room when it
    /// comes again.
    pub fn make_room(&self, ip: IpAddr, refused: ConnectionRefused, now: Instant) {
        let mut state = self.state.lock();
        let (own, largest) = (Some(network_of(ip)), state.largest());
        let networks = match refused {
            ConnectionRefused::Total | ConnectionRefused::OfListener => [own, largest],
            ConnectionRefused::OfAddress => [own, None],
            // There is room; the client came too often.
            ConnectionRefused::Rate => return,
        };
        let _ = networks.into_iter().flatten().any(|network| self.close_eldest(&mut state, network, now));
    }

    /// Closes the connection of a network whose last step was first, unless that was a moment ago.
    fn close_eldest(&self, state: &mut State, network: IpAddr, now: Instant) -> bool {
        let eldest = state.networks.get(&network).and_then(BTreeMap::first_key_value);
        let silent = eldest.filter(|(_, it)| now.saturating_duration_since(it.last_step) >= PATIENCE);
        let Some(number) = silent.map(|(number, _)| *number) else { return false };
        if let Some(entry) = state.remove(network, number) {
            // A connection that is about to end does not hear it.
            let _ = entry.close.send(());
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.state.lock().order.len()
    }

    pub fn ceiling(&self) -> usize {
        (self.ceiling)().max(1)
    }

    /// Connections that were refused, or closed for others.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl State {
    /// The network with the most connections.
    fn largest(&self) -> Option<IpAddr> {
        self.by_count.last().map(|(_, network)| *network)
    }

    fn insert(&mut self, network: IpAddr, entry: Entry) -> u64 {
        let number = self.steps;
        self.steps += 1;
        let of_network = self.networks.entry(network).or_default();
        let before = of_network.len();
        of_network.insert(number, entry);
        self.by_count.remove(&(before, network));
        self.by_count.insert((before + 1, network));
        self.order.insert(number, network);
        number
    }

    fn remove(&mut self, network: IpAddr, number: u64) -> Option<Entry> {
        let of_network = self.networks.get_mut(&network)?;
        let before = of_network.len();
        let entry = of_network.remove(&number)?;
        if of_network.is_empty() {
            self.networks.remove(&network);
        }
        self.by_count.remove(&(before, network));
        if before > 1 {
            self.by_count.insert((before - 1, network));
        }
        self.order.remove(&number);
        Some(entry)
    }
}

impl UnauthenticatedPermit {
    /// The client has gone on with its login: others are closed before it.
    pub fn stepped(&mut self, now: Instant) {
        let Some(left) = self.steps_left.checked_sub(1) else { return };
        self.steps_left = left;
        let mut state = self.all.state.lock();
        if let Some(entry) = state.remove(self.network, self.number) {
            self.number = state.insert(self.network, Entry { last_step: now, ..entry });
        }
    }

    /// Ready when the connection has to be closed.
    pub fn poll_has_to_close(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.is_over = self.is_over || Pin::new(&mut self.has_to_close).poll(context).is_ready();
        if self.is_over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Completes when the connection has to be closed.
    pub async fn has_to_close(&mut self) {
        std::future::poll_fn(|context| self.poll_has_to_close(context)).await;
    }
}

impl Drop for UnauthenticatedPermit {
    fn drop(&mut self) {
        self.all.state.lock().remove(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn has_to_close(permit: &mut UnauthenticatedPermit) -> bool {
        permit.poll_has_to_close(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    /// Which of them have to be closed.
    fn gone(permits: &mut [UnauthenticatedPermit]) -> Vec<usize> {
        permits.iter_mut().enumerate().filter_map(|(at, permit)| has_to_close(permit).then_some(at)).collect()
    }

    #[test]
    fn of_one_address_the_one_that_was_silent_for_the_longest_time_is_closed() {
        let all = Unauthenticated::new(|| 8);
        let start = Instant::now();
        let mut own: Vec<_> = (0..4).map(|_| all.enter(address(1), start).expect("room")).collect();
        assert!(all.enter(address(1), start).is_none(), "all have just come");
        let other = all.enter(address(2), start).expect("another address is not concerned");
        let later = start + PATIENCE;
        own[0].stepped(later);
        let newest = all.enter(address(1), later).expect("one is closed");
        assert_eq!(gone(&mut own), [1], "the first has gone on with its login");
        assert_eq!((all.open(), all.refused()), (5, 2));
        drop((own, other, newest));
        let state = all.state.lock();
        assert!(state.networks.is_empty() && state.by_count.is_empty() && state.order.is_empty());
    }

    #[test]
    fn of_several_addresses_the_one_with_the_most_loses_a_connection() {
        let all = Unauthenticated::new(|| 8);
        let start = Instant::now();
        let first = all.enter(address(1), start).expect("room");
        let mut crowd: Vec<_> = (0..4).map(|_| all.enter(address(2), start).expect("room")).collect();
        let mut others: Vec<_> = (3..6).map(|last| all.enter(address(last), start).expect("room")).collect();
        assert!(all.enter(address(9), start).is_none());
        let later = start + PATIENCE;
        let good = all.enter(address(9), later).expect("one of the crowd is closed");
        assert_eq!(gone(&mut crowd), [0]);
        // The crowd goes on with its logins: then whoever was silent for the longest time.
        crowd.iter_mut().skip(1).for_each(|permit| permit.stepped(later));
        let mut alone = vec![first];
        assert!(all.enter(address(10), later).is_some());
        assert_eq!((gone(&mut alone), gone(&mut others)), (vec![0], vec![]));
        drop(good);
    }

    /// `max.connections` of a listener, for example: before, it was full for 30 s.
    #[test]
    fn where_another_bound_refuses_a_client_a_silent_connection_is_closed() {
        let all = Unauthenticated::new(|| 8);
        let start = Instant::now();
        let mut crowd: Vec<_> = (0..3).map(|_| all.enter(address(1), start).expect("room")).collect();
        let refused_by = |bound, last, now| all.make_room(address(last), bound, now);
        refused_by(ConnectionRefused::Total, 2, start);
        assert!(gone(&mut crowd).is_empty(), "they have just come");
        let later = start + PATIENCE;
        refused_by(ConnectionRefused::OfAddress, 2, later);
        refused_by(ConnectionRefused::Rate, 1, later);
        assert!(gone(&mut crowd).is_empty(), "those of others do not help");
        refused_by(ConnectionRefused::Total, 2, later);
        refused_by(ConnectionRefused::OfAddress, 1, later);
        assert_eq!((gone(&mut crowd), all.open()), (vec![0, 1], 1));
    }

    /// ApiVersions can be asked again and again without a login.
    #[test]
    fn a_login_that_never_ends_does_not_stay_young() {
        let all = Unauthenticated::new(|| 4);
        let start = Instant::now();
        let mut own: Vec<_> = (0..2).map(|_| all.enter(address(1), start).expect("room")).collect();
        (0..STEPS_MAX).for_each(|_| own[0].stepped(start));
        own[1].stepped(start + PATIENCE);
        own[0].stepped(start + PATIENCE);
        let newest = all.enter(address(1), start + PATIENCE);
        assert!(newest.is_some());
        assert_eq!(gone(&mut own), [0]);
    }

    /// An attacker has as many addresses as it likes in its network of IPv6.
    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let all = Unauthenticated::new(|| 8);
        let start = Instant::now();
        let own = |at: usize| format!("2001:db8::{at:x}").parse::<IpAddr>().expect("an address");
        let permits: Vec<_> = (0..4).map(|at| all.enter(own(at), start).expect("room")).collect();
        assert!(all.enter(own(4), start).is_none());
        assert!(all.enter("2001:db8:0:1::1".parse().expect("an address"), start).is_some());
        drop(permits);
    }

    /// As if it had never been there, also after the connection has heard that it is to be closed.
    #[test]
    fn a_permit_that_was_taken_away_takes_no_place_of_another() {
        let all = Unauthenticated::new(|| 2);
        let start = Instant::now();
        let mut first = all.enter(address(1), start).expect("room");
        let second = all.enter(address(1), start + PATIENCE).expect("the first is closed");
        assert!(has_to_close(&mut first) && has_to_close(&mut first));
        first.stepped(start + PATIENCE);
        drop(first);
        assert_eq!(all.open(), 1);
        drop(second);
        assert_eq!(all.open(), 0);
    }
}
