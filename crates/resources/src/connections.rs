//! How many connections there may be, in all and from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The most connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `max.connections`, or what the limit of open files allows.
    pub total: usize,
    /// How many of `total` are kept for other brokers: clients must not keep replicas from their leaders.
    pub kept_for_brokers: usize,
    /// `max.connections.per.ip`, for the address that was asked for.
    pub per_ip: usize,
}

/// Counts the connections by address, and refuses those above the limits.
pub struct ConnectionLimits {
    /// The limits for an address at this time: they may change while the broker runs.
    limits: Box<dyn Fn(IpAddr) -> Limits + Send + Sync>,
    /// Whether an address may open a connection now, by the rate of those that it has opened.
    admits: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    connected: Mutex<Connected>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Connected {
    total: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Somebody on a listener that is for brokers only.
    Broker,
    Anybody,
}

/// One connection's place; given back when dropped.
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    ip: IpAddr,
}

impl ConnectionLimits {
    pub fn new(limits: impl Fn(IpAddr) -> Limits + Send + Sync + 'static) -> Self {
        Self {
            limits: Box::new(limits),
            admits: Box::new(|_| true),
            connected: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Refuses connections that `admits` does not let in, whatever their number is.
    #[must_use]
    pub fn with_rate(mut self, admits: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.admits = Box::new(admits);
        self
    }

    pub fn enter(self: &Arc<Self>, ip: IpAddr, caller: Caller) -> Result<ConnectionPermit, &'static str> {
        let entered = self.try_enter(ip, caller);
        if entered.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    fn try_enter(self: &Arc<Self>, ip: IpAddr, caller: Caller) -> Result<ConnectionPermit, &'static str> {
        let limits = (self.limits)(ip);
        let total = match caller {
            Caller::Broker => limits.total,
            Caller::Anybody => limits.total.saturating_sub(limits.kept_for_brokers),
        };
        let mut connected = self.connected.lock();
        if connected.total >= total {
            return Err("the limit of connections is reached");
        }
        if connected.by_ip.get(&ip).copied().unwrap_or(0) >= limits.per_ip {
            return Err("the limit of connections from one address is reached");
        }
        if !(self.admits)(ip) {
            return Err("the rate of connections from one address is above its limit");
        }
        // Only now: an address that is refused leaves nothing behind.
        *connected.by_ip.entry(ip).or_insert(0) += 1;
        connected.total += 1;
        Ok(ConnectionPermit { limits: Arc::clone(self), ip })
    }

    /// The connections that are open.
    pub fn open(&self) -> usize {
        self.connected.lock().total
    }

    /// Connections that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connected = self.limits.connected.lock();
        connected.total = connected.total.saturating_sub(1);
        if let Some(count) = connected.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                connected.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let own: IpAddr = [10, 0, 0, 2].into();
        let per_ip = move |ip| if ip == own { 2 } else { 1 };
        let limits =
            Arc::new(ConnectionLimits::new(move |ip| Limits { total: 4, kept_for_brokers: 1, per_ip: per_ip(ip) }));
        let other: IpAddr = [10, 0, 0, 3].into();
        let enter = |ip| limits.enter(ip, Caller::Anybody);
        let first = enter(other).ok();
        assert!(first.is_some() && enter(other).is_err());
        let more: Vec<_> = (0..2).map(|_| enter(own).ok()).collect();
        assert!(more.iter().all(Option::is_some));
        let third = [10, 0, 0, 4].into();
        assert_eq!(enter(third).err(), Some("the limit of connections is reached"));
        let broker = limits.enter(third, Caller::Broker).ok();
        assert!(broker.is_some() && limits.enter(third, Caller::Broker).is_err());
        assert_eq!((limits.open(), limits.refused()), (4, 3));
        drop((first, broker));
        assert!(enter(other).is_ok());
    }
}
