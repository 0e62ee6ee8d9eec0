//! How many connections there may be, in all, on one listener and from one address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The most connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `max.connections`, or what the limit of open files allows.
    pub total: usize,
    /// How many of `total` are kept for other brokers: clients must not keep replicas from their leaders.
    pub kept_for_brokers: usize,
    /// `listener.name.NAME.max.connections`, for the listener that was asked for.
    pub of_listener: usize,
    /// `max.connections.per.ip`, for the address that was asked for.
    pub per_ip: usize,
}

/// The limits for a listener and an address at this time: they may change while the broker runs.
type LimitsOf = dyn Fn(&str, IpAddr) -> Limits + Send + Sync;

/// Counts the connections by listener and address, and refuses those above the limits.
pub struct ConnectionLimits {
    limits: Box<LimitsOf>,
    /// Whether an address may open a connection now, by the rate of those that it has opened.
    admits: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// How long the listener of this name waits after one more connection.
    pace: Box<dyn Fn(&str) -> Duration + Send + Sync>,
    connected: Mutex<Connected>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Connected {
    total: usize,
    /// As many entries as the process has listeners.
    by_listener: BTreeMap<String, usize>,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller<'a> {
    pub listener: &'a str,
    /// The listener is for brokers only.
    pub is_broker: bool,
    pub ip: IpAddr,
}

/// Which bound refuses a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionRefused {
    Total,
    OfListener,
    OfAddress,
    Rate,
}

impl fmt::Display for ConnectionRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Total => "the limit of connections is reached",
            Self::OfListener => "the limit of connections of this listener is reached",
            Self::OfAddress => "the limit of connections from one address is reached",
            Self::Rate => "the rate of connections from one address is above its limit",
        })
    }
}

/// One connection's place; given back when dropped.
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    listener: String,
    ip: IpAddr,
}

impl ConnectionLimits {
    pub fn new(limits: impl Fn(&str, IpAddr) -> Limits + Send + Sync + 'static) -> Self {
        Self {
            limits: Box::new(limits),
            admits: Box::new(|_| true),
            pace: Box::new(|_| Duration::ZERO),
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

    /// Lets listeners wait for as long as `pace` says.
    #[must_use]
    pub fn with_pace(mut self, pace: impl Fn(&str) -> Duration + Send + Sync + 'static) -> Self {
        self.pace = Box::new(pace);
        self
    }

    /// Counts a connection of a listener; how long that listener waits before it goes on.
    pub fn pace(&self, listener: &str) -> Duration {
        (self.pace)(listener)
    }

    pub fn enter(self: &Arc<Self>, caller: Caller<'_>) -> Result<ConnectionPermit, ConnectionRefused> {
        let entered = self.try_enter(caller);
        if entered.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    fn try_enter(self: &Arc<Self>, caller: Caller<'_>) -> Result<ConnectionPermit, ConnectionRefused> {
        let Caller { listener, is_broker, ip } = caller;
        let limits = (self.limits)(listener, ip);
        let total = if is_broker { limits.total } else { limits.total.saturating_sub(limits.kept_for_brokers) };
        let mut connected = self.connected.lock();
        if connected.total >= total {
            return Err(ConnectionRefused::Total);
        }
        if connected.by_listener.get(listener).copied().unwrap_or(0) >= limits.of_listener {
            return Err(ConnectionRefused::OfListener);
        }
        if connected.by_ip.get(&ip).copied().unwrap_or(0) >= limits.per_ip {
            return Err(ConnectionRefused::OfAddress);
        }
        if !(self.admits)(ip) {
            return Err(ConnectionRefused::Rate);
        }
        // Only now: an address that is refused leaves nothing behind.
        *connected.by_ip.entry(ip).or_insert(0) += 1;
        *connected.by_listener.entry(listener.to_owned()).or_insert(0) += 1;
        connected.total += 1;
        Ok(ConnectionPermit { limits: Arc::clone(self), listener: listener.to_owned(), ip })
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
        if let Some(count) = connected.by_listener.get_mut(&self.listener) {
            *count -= 1;
        }
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
    fn places_are_counted_by_listener_and_address_and_given_back() {
        let own: IpAddr = [10, 0, 0, 2].into();
        let per_ip = move |ip| if ip == own { 2 } else { 1 };
        let limits = Arc::new(ConnectionLimits::new(move |listener, ip| Limits {
            total: 4,
            kept_for_brokers: 1,
            of_listener: if listener == "narrow" { 1 } else { usize::MAX },
            per_ip: per_ip(ip),
        }));
        let other: IpAddr = [10, 0, 0, 3].into();
        let enter = |ip| limits.enter(Caller { listener: "wide", is_broker: false, ip });
        let enter_narrow = |ip| limits.enter(Caller { listener: "narrow", is_broker: true, ip });
        let first = enter(other).ok();
        assert!(first.is_some() && enter(other).is_err());
        let more: Vec<_> = (0..2).map(|_| enter(own).ok()).collect();
        assert!(more.iter().all(Option::is_some));
        let third = [10, 0, 0, 4].into();
        assert_eq!(enter(third).err(), Some(ConnectionRefused::Total));
        let broker = enter_narrow(third).ok();
        assert!(broker.is_some());
        assert_eq!(enter_narrow(third).err(), Some(ConnectionRefused::Total));
        assert_eq!((limits.open(), limits.refused()), (4, 3));
        drop(first);
        assert_eq!(enter_narrow(other).err(), Some(ConnectionRefused::OfListener));
        drop(broker);
        assert!(enter_narrow(other).is_ok());
    }
}
