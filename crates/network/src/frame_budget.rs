//! The memory of frames that are being read, over all connections: one budget for large frames, and a small one for
//! everything that strangers send ([`FrameBudget::of_strangers`]).
//!
//! A frame is counted by the room that its connection needs for what has arrived, not by the size that it claims. A
//! connection that finds no room waits. If it has waited for [`PATIENCE`], the holders that give the least for what
//! they hold are closed: those of a network with more than its share first, then the slowest. So neither a client that
//! trickles nor two half-read frames that wait for each other can hold up the others.
//!
//! A frame of a stranger never waits for its first [`LOGIN_CHUNK_BYTES`]: most logins are not longer. While it waited,
//! its rate would be 0, so that a login would be the first to go where strangers come in crowds, whoever was slow.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ottla_resources::network_of;
use parking_lot::Mutex;

use crate::frame_reader::LOGIN_CHUNK_BYTES;

/// How long a connection waits for room before another one is closed for it, and for how long a new holder is safe.
/// Longer than a frame of a megabyte takes on a network that serves its clients.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// A look for holders that give way goes over all of them: at most so often, however many wait.
const RELIEF_INTERVAL: Duration = Duration::from_millis(20);
/// Strangers that hold or await room at a time. A grant looks at all of them, some 20 µs; a client's login is in here
/// for as long as its bytes are on their way.
const STRANGERS_MAX: usize = 1024;

/// Who of a network's connections gets room first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// Whose frame began first.
    Arrival,
    /// Who asks for the least: a login of some hundred bytes goes before the large frames of an attacker that has the
    /// same address.
    Smallest,
}

/// The budget of one broker.
pub struct FrameBudget {
    capacity_bytes: usize,
    holders_max: usize,
    /// What each holder may have beside the capacity: bounded by the number of holders.
    free_bytes: usize,
    order: Order,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used_bytes: usize,
    next: u64,
    /// By number: in the order in which their frames began to count.
    holders: BTreeMap<u64, Holder>,
    /// What the holders of each network hold.
    networks: BTreeMap<IpAddr, Held>,
    waiting: usize,
    relieved_at: Option<Instant>,
    /// Holders that had to give way, since the start.
    evicted: u64,
    /// Looks at all holders for one that may be granted.
    #[cfg(test)]
    looks: usize,
}

#[derive(Default)]
struct Held {
    holders: usize,
    bytes: usize,
}

struct Holder {
    network: IpAddr,
    held_bytes: usize,
    wait: Option<Wait>,
    granted_at: Instant,
    arrived_at_grant: usize,
    progress: Arc<Progress>,
    /// Of the connection's task.
    waker: Waker,
}

struct Wait {
    wanted_bytes: usize,
    since: Instant,
}

#[derive(Default)]
struct Progress {
    arrived_bytes: AtomicUsize,
    evicted: AtomicBool,
}

impl Holder {
    /// Bytes a second since the last grant.
    fn rate(&self, now: Instant) -> u64 {
        let arrived = self.progress.arrived_bytes.load(Ordering::Relaxed).saturating_sub(self.arrived_at_grant);
        let millis = u64::try_from(now.duration_since(self.granted_at).as_millis()).unwrap_or(u64::MAX).max(1);
        (arrived as u64).saturating_mul(1_000) / millis
    }

    fn is_evicted(&self) -> bool {
        self.progress.evicted.load(Ordering::Relaxed)
    }

    fn missing_bytes(&self) -> usize {
        self.wait.as_ref().map_or(0, |wait| wait.wanted_bytes.saturating_sub(self.held_bytes))
    }
}

impl FrameBudget {
    /// For large frames.
    pub fn new(capacity_bytes: usize) -> Self {
        let (holders_max, order) = (usize::MAX, Order::Arrival);
        Self { capacity_bytes, holders_max, free_bytes: 0, order, patience: PATIENCE, state: Mutex::default() }
    }

    /// For all frames of connections whose client has not shown yet that it belongs.
    pub fn of_strangers(capacity_bytes: usize) -> Self {
        let (holders_max, free_bytes) = (STRANGERS_MAX, LOGIN_CHUNK_BYTES);
        Self { holders_max, free_bytes, order: Order::Smallest, ..Self::new(capacity_bytes) }
    }

    /// A frame of a client at `ip` has begun; it holds nothing yet.
    pub fn open(self: &Arc<Self>, ip: IpAddr, waker: &Waker) -> FramePermit {
        let progress = Arc::<Progress>::default();
        let network = network_of(ip);
        let mut state = self.state.lock();
        if state.holders.len() >= self.holders_max {
            state.make_place(Instant::now());
        }
        let number = state.next;
        state.next += 1;
        state.networks.entry(network).or_default().holders += 1;
        let holder = Holder {
            network,
            held_bytes: 0,
            wait: None,
            granted_at: Instant::now(),
            arrived_at_grant: 0,
            progress: Arc::clone(&progress),
            waker: waker.clone(),
        };
        state.holders.insert(number, holder);
        FramePermit { budget: Arc::clone(self), number, held_bytes: 0, progress }
    }

    /// How long a connection waits before [`FramePermit::relieve`] may help.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Bytes that connections hold.
    pub fn used_bytes(&self) -> usize {
        self.state.lock().used_bytes
    }

    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Connections that wait for room.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting
    }

    /// Connections that were closed because others waited.
    pub fn evicted(&self) -> u64 {
        self.state.lock().evicted
    }
}

impl State {
    fn held_by(&self, network: IpAddr) -> usize {
        self.networks.get(&network).map_or(0, |held| held.bytes)
    }

    fn set_held(&mut self, number: u64, held_bytes: usize) {
        let Some(holder) = self.holders.get_mut(&number) else { return };
        let before = std::mem::replace(&mut holder.held_bytes, held_bytes);
        self.used_bytes = self.used_bytes - before + held_bytes;
        if let Some(held) = self.networks.get_mut(&holder.network) {
            held.bytes = held.bytes - before + held_bytes;
        }
    }

    fn remove(&mut self, number: u64) {
        self.set_held(number, 0);
        let Some(holder) = self.holders.remove(&number) else { return };
        if holder.wait.is_some() {
            self.waiting -= 1;
        }
        if let Some(held) = self.networks.get_mut(&holder.network) {
            held.holders -= 1;
            if held.holders == 0 {
                self.networks.remove(&holder.network);
            }
        }
    }

    fn evict(&mut self, number: u64) {
        if let Some(holder) = self.holders.get(&number) {
            holder.progress.evicted.store(true, Ordering::Relaxed);
            holder.waker.wake_by_ref();
            self.evicted += 1;
        }
    }

    /// As many hold as may: of the network with the most holders the slowest gives way, the eldest of equals.
    fn make_place(&mut self, now: Instant) {
        let remaining = self.holders.iter().filter(|(_, holder)| !holder.is_evicted());
        let crowd = |holder: &Holder| self.networks.get(&holder.network).map_or(0, |held| held.holders);
        let last = remaining.min_by_key(|(number, it)| (std::cmp::Reverse(crowd(it)), it.rate(now), **number));
        if let Some(number) = last.map(|(number, _)| *number) {
            self.evict(number);
        }
    }

    /// A frame that is larger than the whole budget is read alone.
    fn fits(&self, holder: &Holder, wanted_bytes: usize, capacity_bytes: usize) -> bool {
        let others = self.used_bytes.saturating_sub(holder.held_bytes);
        others == 0 || others + wanted_bytes <= capacity_bytes
    }

    fn grant(&mut self, number: u64, wanted_bytes: usize, now: Instant) {
        self.set_held(number, wanted_bytes);
        let Some(holder) = self.holders.get_mut(&number) else { return };
        holder.granted_at = now;
        holder.arrived_at_grant = holder.progress.arrived_bytes.load(Ordering::Relaxed);
        if holder.wait.take().is_some() {
            self.waiting -= 1;
        }
    }

    /// The connection that is next: of the network that holds the least, the first by `order`.
    fn first_waiting(&self, order: Order) -> Option<u64> {
        let waiting = self.holders.iter().filter(|(_, holder)| !holder.is_evicted());
        let waiting = waiting.filter_map(|(number, holder)| Some((*number, holder, holder.wait.as_ref()?)));
        let size = |wait: &Wait| if order == Order::Smallest { wait.wanted_bytes } else { 0 };
        let first = waiting.min_by_key(|(number, holder, wait)| (self.held_by(holder.network), size(wait), *number));
        first.map(|(number, ..)| number)
    }

    fn grant_waiting(&mut self, capacity_bytes: usize, order: Order, now: Instant) {
        while self.waiting > 0 {
            #[cfg(test)]
            {
                self.looks += 1;
            }
            let Some(number) = self.first_waiting(order) else { return };
            let Some(holder) = self.holders.get(&number) else { return };
            let Some(wait) = &holder.wait else { return };
            let wanted_bytes = wait.wanted_bytes;
            if !self.fits(holder, wanted_bytes, capacity_bytes) {
                return;
            }
            holder.waker.wake_by_ref();
            self.grant(number, wanted_bytes, now);
        }
    }

    /// The holders that give way so that those get room who have waited for too long, the most expendable first.
    fn victims(&self, budget: &FrameBudget, now: Instant) -> Vec<u64> {
        let (capacity_bytes, patience) = (budget.capacity_bytes, budget.patience);
        let is_over = |since: Instant| now.duration_since(since) >= patience;
        let leaving: usize = self.holders.values().filter(|it| it.is_evicted()).map(|it| it.held_bytes).sum();
        let free = (capacity_bytes + leaving).saturating_sub(self.used_bytes);
        let overdue = self.holders.values().filter(|it| it.wait.as_ref().is_some_and(|wait| is_over(wait.since)));
        let mut missing = overdue.map(Holder::missing_bytes).sum::<usize>().min(capacity_bytes).saturating_sub(free);
        let share = capacity_bytes / self.networks.len().max(1);
        let first = self.first_waiting(budget.order);
        let holds = |holder: &Holder| holder.held_bytes > 0 && !holder.is_evicted();
        // Where all who hold something wait for more, the last of them gives way; else those who read and are slow.
        let all_wait = self.holders.values().filter(|it| holds(it)).all(|it| it.wait.is_some());
        let mut candidates: Vec<_> = self
            .holders
            .iter()
            .filter(|(number, it)| holds(it) && Some(**number) != first && it.wait.is_some() == all_wait)
            .filter(|(_, it)| all_wait || is_over(it.granted_at))
            .map(|(number, it)| {
                let within_share = self.held_by(it.network) <= share;
                let worth = if all_wait { u64::MAX - number } else { it.rate(now) };
                (within_share, worth, *number, it.held_bytes)
            })
            .collect();
        candidates.sort_unstable();
        let mut victims = Vec::new();
        for (_, _, number, held_bytes) in candidates {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(held_bytes);
            victims.push(number);
        }
        victims
    }
}

/// What one frame holds; given back when dropped.
pub struct FramePermit {
    budget: Arc<FrameBudget>,
    number: u64,
    /// As last seen: a grant that others made may not be in it yet.
    held_bytes: usize,
    progress: Arc<Progress>,
}

impl FramePermit {
    /// Ready once this frame holds at least `wanted_bytes`. Otherwise its task is woken when it does.
    pub fn poll_grow(&mut self, wanted_bytes: usize, now: Instant, context: &Context<'_>) -> Poll<()> {
        if self.held_bytes >= wanted_bytes {
            return Poll::Ready(());
        }
        let capacity_bytes = self.budget.capacity_bytes;
        let mut guard = self.budget.state.lock();
        let state = &mut *guard;
        let Some(holder) = state.holders.get(&self.number) else { return Poll::Pending };
        self.held_bytes = holder.held_bytes;
        if self.held_bytes >= wanted_bytes {
            return Poll::Ready(());
        }
        let goes_first = state.waiting == usize::from(holder.wait.is_some());
        let is_free = wanted_bytes <= self.budget.free_bytes;
        if is_free || (goes_first && state.fits(holder, wanted_bytes, capacity_bytes)) {
            state.grant(self.number, wanted_bytes, now);
            self.held_bytes = wanted_bytes;
            return Poll::Ready(());
        }
        let Some(holder) = state.holders.get_mut(&self.number) else { return Poll::Pending };
        if !holder.waker.will_wake(context.waker()) {
            holder.waker = context.waker().clone();
        }
        match &mut holder.wait {
            // Whoever gives back room looks at all that wait: thousands that look again in vain would do nothing else.
            Some(wait) if wait.wanted_bytes == wanted_bytes => return Poll::Pending,
            Some(wait) => wait.wanted_bytes = wanted_bytes,
            None => {
                holder.wait = Some(Wait { wanted_bytes, since: now });
                state.waiting += 1;
            }
        }
        state.grant_waiting(capacity_bytes, self.budget.order, now);
        let held_bytes = state.holders.get(&self.number).map_or(0, |holder| holder.held_bytes);
        self.held_bytes = held_bytes;
        if held_bytes >= wanted_bytes { Poll::Ready(()) } else { Poll::Pending }
    }

    /// So much of the frame has arrived.
    pub fn arrived(&self, bytes: usize) {
        self.progress.arrived_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The connection has waited for too long: makes others give way.
    pub fn relieve(&self, now: Instant) {
        let mut state = self.budget.state.lock();
        if state.relieved_at.is_some_and(|at| now.saturating_duration_since(at) < RELIEF_INTERVAL) {
            return;
        }
        state.relieved_at = Some(now);
        for number in state.victims(&self.budget, now) {
            state.evict(number);
        }
        // Who had to give way may have been the first that waited.
        state.grant_waiting(self.budget.capacity_bytes, self.budget.order, now);
    }

    /// What the connection holds, more or less than it was granted. More: what TLS has taken of a record before it is
    /// complete can only be counted afterwards.
    pub fn set_held(&mut self, held_bytes: usize) {
        if held_bytes == self.held_bytes {
            return;
        }
        self.held_bytes = held_bytes;
        let mut state = self.budget.state.lock();
        state.set_held(self.number, held_bytes);
        state.grant_waiting(self.budget.capacity_bytes, self.budget.order, Instant::now());
    }

    /// Others wait, and this connection has to end.
    pub fn is_evicted(&self) -> bool {
        self.progress.evicted.load(Ordering::Relaxed)
    }
}

impl Drop for FramePermit {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.remove(self.number);
        state.grant_waiting(self.budget.capacity_bytes, self.budget.order, Instant::now());
    }
}

#[cfg(test)]
impl FrameBudget {
    /// A budget whose holders are never made to give way.
    pub fn patient(capacity_bytes: usize) -> Self {
        Self { patience: Duration::from_secs(3_600), ..Self::new(capacity_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;
    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn grow(permit: &mut FramePermit, wanted: usize, now: Instant) -> bool {
        permit.poll_grow(wanted, now, &Context::from_waker(Waker::noop())).is_ready()
    }

    fn open(budget: &Arc<FrameBudget>, ip: IpAddr) -> FramePermit {
        budget.open(ip, Waker::noop())
    }

    #[test]
    fn room_is_given_back_and_goes_to_who_waits() {
        let (budget, now) = (Arc::new(FrameBudget::new(100)), Instant::now());
        let (mut first, mut second, mut third) = (open(&budget, OWN), open(&budget, OWN), open(&budget, OWN));
        assert!(grow(&mut first, 60, now) && !grow(&mut second, 60, now));
        assert!(!grow(&mut third, 10, now), "who waits longer goes first");
        assert_eq!((budget.used_bytes(), budget.waiting()), (60, 2));
        drop(first);
        assert!(grow(&mut second, 60, now) && grow(&mut third, 10, now));
        drop((second, third));
        assert_eq!((budget.used_bytes(), budget.waiting()), (0, 0));
    }

    /// Each of some thousand frames that waited looked at all others, again and again: nothing else was done.
    #[test]
    fn those_that_wait_do_not_look_at_each_other_again_and_again() {
        let (budget, now) = (Arc::new(FrameBudget::new(100)), Instant::now());
        let mut holder = open(&budget, OWN);
        assert!(grow(&mut holder, 100, now));
        let mut crowd: Vec<_> = (0..50).map(|_| open(&budget, OWN)).collect();
        let mut granted = || crowd.iter_mut().map(|permit| grow(permit, 10, now)).filter(|granted| *granted).count();
        assert_eq!(granted(), 0);
        let looks = budget.state.lock().looks;
        assert_eq!(granted(), 0);
        assert_eq!(budget.state.lock().looks, looks);
        drop(holder);
        assert_eq!(granted(), 10);
    }

    #[test]
    fn a_frame_larger_than_the_budget_is_read_alone() {
        let (budget, now) = (Arc::new(FrameBudget::new(100)), Instant::now());
        let (mut large, mut other) = (open(&budget, OWN), open(&budget, OWN));
        assert!(grow(&mut large, 500, now) && !grow(&mut other, 10, now));
        drop(large);
        assert!(grow(&mut other, 10, now));
    }

    #[test]
    fn the_slowest_gives_way_and_only_when_others_have_waited() {
        let (budget, began) = (Arc::new(FrameBudget::new(100)), Instant::now());
        let (mut fast, mut slow, mut waits) = (open(&budget, OWN), open(&budget, OWN), open(&budget, OWN));
        assert!(grow(&mut fast, 50, began) && grow(&mut slow, 50, began) && !grow(&mut waits, 20, began));
        fast.arrived(40);
        slow.arrived(1);
        waits.relieve(began + PATIENCE / 2);
        assert!(!fast.is_evicted() && !slow.is_evicted());
        waits.relieve(began + PATIENCE);
        assert!(!fast.is_evicted() && slow.is_evicted());
        waits.relieve(began + PATIENCE + RELIEF_INTERVAL);
        assert!(!fast.is_evicted(), "the room of the one that leaves is enough");
        drop(slow);
        assert!(grow(&mut waits, 20, began + PATIENCE));
    }

    #[test]
    fn an_address_above_its_share_gives_way_first() {
        let (budget, began) = (Arc::new(FrameBudget::new(100)), Instant::now());
        let mut greedy: Vec<_> = (0..4).map(|_| open(&budget, OWN)).collect();
        assert!(greedy.iter_mut().all(|permit| grow(permit, 20, began)));
        greedy.iter().for_each(|permit| permit.arrived(15));
        let (mut modest, mut waits) = (open(&budget, OTHER), open(&budget, OTHER));
        assert!(grow(&mut modest, 20, began) && !grow(&mut waits, 20, began));
        let mut more = open(&budget, OWN);
        assert!(!grow(&mut more, 5, began + PATIENCE / 2));
        waits.relieve(began + PATIENCE);
        assert!(!modest.is_evicted(), "slower, and within its share");
        assert_eq!(greedy.iter().filter(|permit| permit.is_evicted()).count(), 1);
        greedy.retain(|permit| !permit.is_evicted());
        assert!(grow(&mut waits, 20, began + PATIENCE), "its address holds less");
    }

    #[test]
    fn of_one_network_who_asks_for_the_least_goes_first_among_strangers() {
        let (budget, began) = (Arc::new(FrameBudget::of_strangers(100 * KIB)), Instant::now());
        let mut hostile: Vec<_> = (0..5).map(|_| open(&budget, OWN)).collect();
        assert!(hostile.iter_mut().all(|permit| grow(permit, 20 * KIB, began)));
        assert!(!grow(&mut hostile[0], 80 * KIB, began) && !grow(&mut hostile[1], 80 * KIB, began));
        let mut good = open(&budget, OWN);
        assert!(!grow(&mut good, 2 * KIB, began));
        good.relieve(began + PATIENCE);
        hostile.retain(|permit| !permit.is_evicted());
        assert!(hostile.len() < 5 && grow(&mut good, 2 * KIB, began + PATIENCE));
        assert!(budget.used_bytes() <= 100 * KIB);
        assert_eq!(budget.evicted(), 5 - hostile.len() as u64);
    }

    #[test]
    fn room_that_a_stranger_needs_no_more_goes_to_who_waits() {
        let (budget, now) = (Arc::new(FrameBudget::of_strangers(100 * KIB)), Instant::now());
        let (mut first, mut second) = (open(&budget, OWN), open(&budget, OWN));
        assert!(grow(&mut first, 100 * KIB, now) && !grow(&mut second, 50 * KIB, now));
        first.set_held(10 * KIB);
        assert!(grow(&mut second, 50 * KIB, now));
        assert_eq!(budget.used_bytes(), 60 * KIB);
    }

    #[test]
    fn strangers_are_bounded_in_number_and_the_crowd_gives_way() {
        let (budget, now) = (Arc::new(FrameBudget::of_strangers(1 << 20)), Instant::now());
        let mut good = open(&budget, OTHER);
        assert!(grow(&mut good, 1, now));
        let mut crowd: Vec<_> = (0..STRANGERS_MAX - 1).map(|_| open(&budget, OWN)).collect();
        assert!(crowd.iter_mut().all(|permit| grow(permit, 1, now)));
        let newcomer = open(&budget, OTHER);
        assert!(!good.is_evicted() && !newcomer.is_evicted());
        assert_eq!(crowd.iter().filter(|permit| permit.is_evicted()).count(), 1);
        drop((crowd, good, newcomer));
        let state = budget.state.lock();
        assert!(state.networks.is_empty() && state.used_bytes == 0);
    }

    /// A login that waited for its room had a rate of 0, and was closed for the next strangers of a crowd.
    #[test]
    fn a_login_has_its_room_at_once_and_is_not_closed_for_a_crowd() {
        let (budget, now) = (Arc::new(FrameBudget::of_strangers(20 * KIB)), Instant::now());
        let mut hostile: Vec<_> = (0..STRANGERS_MAX - 1).map(|_| open(&budget, OWN)).collect();
        assert!(grow(&mut hostile[0], 20 * KIB, now) && !grow(&mut hostile[1], 4 * KIB, now));
        assert!(hostile.iter_mut().skip(2).all(|permit| grow(permit, LOGIN_CHUNK_BYTES, now)));
        hostile.iter().for_each(|permit| permit.arrived(12));
        let mut good = open(&budget, OWN);
        assert!(grow(&mut good, LOGIN_CHUNK_BYTES, now));
        good.arrived(300);
        let mut more = Vec::new();
        for _ in 0..10 {
            more.push(open(&budget, OWN));
            more.iter().for_each(|permit| permit.arrived(12));
        }
        assert_eq!(hostile.iter().filter(|permit| permit.is_evicted()).count(), 10);
        assert!(!good.is_evicted());
    }

    /// Whoever has a network of IPv6 has 2^64 addresses in it.
    #[test]
    fn addresses_of_one_ipv6_network_share_what_a_network_has() {
        let (budget, began) = (Arc::new(FrameBudget::of_strangers(100 * KIB)), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let machines = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"];
        let mut hostile: Vec<_> = machines.iter().map(|text| open(&budget, address(text))).collect();
        assert!(hostile.iter_mut().all(|permit| grow(permit, 20 * KIB, began)));
        hostile.iter().for_each(|permit| permit.arrived(15 * KIB));
        let (mut slow, mut waits) = (open(&budget, address("2001:db8:0:1::1")), open(&budget, OTHER));
        assert!(grow(&mut slow, 20 * KIB, began) && !grow(&mut waits, 20 * KIB, began));
        waits.relieve(began + PATIENCE);
        assert!(!slow.is_evicted(), "it is within its share");
        assert_eq!(hostile.iter().filter(|permit| permit.is_evicted()).count(), 1);
    }

    #[test]
    fn half_read_frames_do_not_wait_for_each_other_for_ever() {
        let (budget, began) = (Arc::new(FrameBudget::new(100)), Instant::now());
        let (mut first, mut second) = (open(&budget, OWN), open(&budget, OWN));
        assert!(grow(&mut first, 50, began) && grow(&mut second, 50, began));
        assert!(!grow(&mut first, 90, began) && !grow(&mut second, 90, began));
        second.relieve(began + PATIENCE);
        assert!(!first.is_evicted() && second.is_evicted());
        drop(second);
        assert!(grow(&mut first, 90, began + PATIENCE));
    }
}
