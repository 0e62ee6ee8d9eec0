//! Connections whose client has not shown yet who it is: bounded in number, per address and in all.
//!
//! An address of IPv6 counts with its network of 64 bits. At a ceiling the connection gives way that has been silent
//! for the longest time: of the network of the newcomer where that has as many as it may, else of the network with the
//! most. So a client that goes on with its login is not disconnected for clients that do nothing, however many there
//! are and whichever address they share with it. What has been silent for less than [`PATIENCE`] stays, and the
//! newcomer is refused: a crowd that connects at once does not keep itself from getting done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::network::network_of;

/// A round trip around the world: between two steps of a login a client needs one.
const PATIENCE: Duration = Duration::from_millis(250);

/// What the newcomers of one process are counted in.
pub struct Newcomers {
    /// The most at this time.
    ceiling: Box<dyn Fn() -> usize + Send + Sync>,
    state: Mutex<State>,
    turned_away: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Of each network, in the order of the last step.
    networks: BTreeMap<IpAddr, BTreeMap<u64, Newcomer>>,
    /// The networks by the number of their newcomers.
    by_count: BTreeSet<(usize, IpAddr)>,
    /// All, in the order of the last step.
    order: BTreeMap<u64, IpAddr>,
    /// Steps so far; the number of a newcomer is that of its last one.
    steps: u64,
}

struct Newcomer {
    silent_since: Instant,
    give_way: oneshot::Sender<()>,
}

/// The place of one newcomer; given back when dropped.
pub struct NewcomerPermit {
    newcomers: Arc<Newcomers>,
    network: IpAddr,
    number: u64,
    gives_way: oneshot::Receiver<()>,
    is_over: bool,
}

impl Newcomers {
    /// `ceiling`: the most in all; of one network half of it, and one at least.
    pub fn new(ceiling: impl Fn() -> usize + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { ceiling: Box::new(ceiling), state: Mutex::default(), turned_away: AtomicU64::new(0) })
    }

    /// None: all who would have to give way have just taken a step.
    pub fn enter(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Option<NewcomerPermit> {
        let network = network_of(ip);
        let ceiling = self.ceiling();
        let mut state = self.state.lock();
        let own = state.networks.get(&network).map_or(0, BTreeMap::len);
        let has_room = if own >= (ceiling / 2).max(1) {
            self.turn_away(&mut state, network, now)
        } else if state.order.len() >= ceiling {
            let eldest = state.order.values().next().copied();
            [state.crowd(), eldest].into_iter().flatten().any(|network| self.turn_away(&mut state, network, now))
        } else {
            true
        };
        if !has_room {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let (give_way, gives_way) = oneshot::channel();
        let number = state.insert(network, Newcomer { silent_since: now, give_way });
        drop(state);
        Some(NewcomerPermit { newcomers: Arc::clone(self), network, number, gives_way, is_over: false })
    }

    /// A client was refused by another limit of connections: lets one go that has not logged in, so that the client
    /// finds room when it comes again.
    pub fn make_room(&self, ip: IpAddr, now: Instant) {
        let mut state = self.state.lock();
        let own = Some(network_of(ip));
        let _ = [own, state.crowd()].into_iter().flatten().any(|network| self.turn_away(&mut state, network, now));
    }

    /// Lets the eldest of a network go, if it has been silent for long enough.
    fn turn_away(&self, state: &mut State, network: IpAddr, now: Instant) -> bool {
        let eldest = state.networks.get(&network).and_then(BTreeMap::first_key_value);
        let silent = eldest.filter(|(_, it)| now.saturating_duration_since(it.silent_since) >= PATIENCE);
        let Some(number) = silent.map(|(number, _)| *number) else { return false };
        if let Some(newcomer) = state.remove(network, number) {
            // A connection that is about to end does not hear it.
            let _ = newcomer.give_way.send(());
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// The connections whose client has not shown who it is.
    pub fn open(&self) -> usize {
        self.state.lock().order.len()
    }

    pub fn ceiling(&self) -> usize {
        (self.ceiling)().max(1)
    }

    /// Connections that were refused, or had to give way.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }
}

impl State {
    /// The network with the most.
    fn crowd(&self) -> Option<IpAddr> {
        self.by_count.last().map(|(_, network)| *network)
    }

    fn insert(&mut self, network: IpAddr, newcomer: Newcomer) -> u64 {
        let number = self.steps;
        self.steps += 1;
        let of_network = self.networks.entry(network).or_default();
        let before = of_network.len();
        of_network.insert(number, newcomer);
        self.by_count.remove(&(before, network));
        self.by_count.insert((before + 1, network));
        self.order.insert(number, network);
        number
    }

    fn remove(&mut self, network: IpAddr, number: u64) -> Option<Newcomer> {
        let of_network = self.networks.get_mut(&network)?;
        let before = of_network.len();
        let newcomer = of_network.remove(&number)?;
        if of_network.is_empty() {
            self.networks.remove(&network);
        }
        self.by_count.remove(&(before, network));
        if before > 1 {
            self.by_count.insert((before - 1, network));
        }
        self.order.remove(&number);
        Some(newcomer)
    }
}

impl NewcomerPermit {
    /// The client has gone on with its login: others give way first.
    pub fn stepped(&mut self, now: Instant) {
        let mut state = self.newcomers.state.lock();
        if let Some(newcomer) = state.remove(self.network, self.number) {
            self.number = state.insert(self.network, Newcomer { silent_since: now, ..newcomer });
        }
    }

    /// Ready when the connection has to give way.
    pub fn poll_gives_way(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.is_over = self.is_over || Pin::new(&mut self.gives_way).poll(context).is_ready();
        if self.is_over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Completes when the connection has to give way.
    pub async fn gives_way(&mut self) {
        std::future::poll_fn(|context| self.poll_gives_way(context)).await;
    }
}

impl Drop for NewcomerPermit {
    fn drop(&mut self) {
        self.newcomers.state.lock().remove(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn gives_way(permit: &mut NewcomerPermit) -> bool {
        permit.poll_gives_way(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    /// Which of them give way.
    fn gone(permits: &mut [NewcomerPermit]) -> Vec<usize> {
        permits.iter_mut().enumerate().filter_map(|(at, permit)| gives_way(permit).then_some(at)).collect()
    }

    #[test]
    fn of_one_address_the_one_that_was_silent_for_the_longest_time_gives_way() {
        let newcomers = Newcomers::new(|| 8);
        let start = Instant::now();
        let mut own: Vec<_> = (0..4).map(|_| newcomers.enter(address(1), start).expect("room")).collect();
        assert!(newcomers.enter(address(1), start).is_none(), "all have just come");
        let other = newcomers.enter(address(2), start).expect("another address is not concerned");
        let later = start + PATIENCE;
        own[0].stepped(later);
        let newest = newcomers.enter(address(1), later).expect("one gives way");
        assert_eq!(gone(&mut own), [1], "the first has gone on with its login");
        assert_eq!((newcomers.open(), newcomers.turned_away()), (5, 2));
        drop((own, other, newest));
        let state = newcomers.state.lock();
        assert!(state.networks.is_empty() && state.by_count.is_empty() && state.order.is_empty());
    }

    #[test]
    fn of_several_addresses_the_one_with_the_most_gives_way() {
        let newcomers = Newcomers::new(|| 8);
        let start = Instant::now();
        let first = newcomers.enter(address(1), start).expect("room");
        let mut crowd: Vec<_> = (0..4).map(|_| newcomers.enter(address(2), start).expect("room")).collect();
        let mut others: Vec<_> = (3..6).map(|last| newcomers.enter(address(last), start).expect("room")).collect();
        assert!(newcomers.enter(address(9), start).is_none());
        let later = start + PATIENCE;
        let good = newcomers.enter(address(9), later).expect("one of the crowd gives way");
        assert_eq!(gone(&mut crowd), [0]);
        // The crowd goes on with its logins: then whoever was silent for the longest time.
        crowd.iter_mut().skip(1).for_each(|permit| permit.stepped(later));
        let mut all = vec![first];
        assert!(newcomers.enter(address(10), later).is_some());
        assert_eq!((gone(&mut all), gone(&mut others)), (vec![0], vec![]));
        drop(good);
    }

    /// `max.connections` of a listener, for example: before, it was full for 30 s.
    #[test]
    fn where_another_limit_refuses_a_client_one_that_is_silent_gives_way() {
        let newcomers = Newcomers::new(|| 8);
        let start = Instant::now();
        let mut crowd: Vec<_> = (0..3).map(|_| newcomers.enter(address(1), start).expect("room")).collect();
        newcomers.make_room(address(2), start);
        assert!(gone(&mut crowd).is_empty(), "they have just come");
        newcomers.make_room(address(2), start + PATIENCE);
        newcomers.make_room(address(1), start + PATIENCE);
        assert_eq!((gone(&mut crowd), newcomers.open()), (vec![0, 1], 1));
    }

    /// An attacker has as many addresses as it likes in its network of IPv6.
    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let newcomers = Newcomers::new(|| 8);
        let start = Instant::now();
        let own = |at: usize| format!("2001:db8::{at:x}").parse::<IpAddr>().expect("an address");
        let all: Vec<_> = (0..4).map(|at| newcomers.enter(own(at), start).expect("room")).collect();
        assert!(newcomers.enter(own(4), start).is_none());
        assert!(newcomers.enter("2001:db8:0:1::1".parse().expect("an address"), start).is_some());
        drop(all);
    }

    /// As if it had never been there, also after the connection has heard that it gives way.
    #[test]
    fn a_permit_that_gave_way_takes_no_place_of_another() {
        let newcomers = Newcomers::new(|| 2);
        let start = Instant::now();
        let mut first = newcomers.enter(address(1), start).expect("room");
        let second = newcomers.enter(address(1), start + PATIENCE).expect("the first gives way");
        assert!(gives_way(&mut first) && gives_way(&mut first));
        first.stepped(start + PATIENCE);
        drop(first);
        assert_eq!(newcomers.open(), 1);
        drop(second);
        assert_eq!(newcomers.open(), 0);
    }
}
