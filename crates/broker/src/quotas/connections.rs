//! `max.connection.creation.rate`: how long a listener waits before it takes the next connection. As in Kafka, nobody
//! is refused: clients wait in the queue of the socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ListenerName, MonotonicMs};
use ottla_quotas::{Rate, Windows};
use ottla_replica_manager::clock;
use ottla_replica_manager::live_config::LiveConfig;
use parking_lot::Mutex;

pub struct ConnectionPace {
    live: Arc<LiveConfig>,
    windows: Windows,
    measured: Mutex<Measured>,
}

/// One rate for each listener of the broker, and one for all.
#[derive(Default)]
struct Measured {
    broker: Rate,
    listeners: BTreeMap<ListenerName, Rate>,
}

impl ConnectionPace {
    pub fn new(live: &Arc<LiveConfig>) -> Self {
        let config = live.fixed();
        let windows = Windows { count: config.quota_window_num, length: config.quota_window_size };
        Self { live: Arc::clone(live), windows, measured: Mutex::default() }
    }

    /// Counts a connection; how long its listener waits before it goes on.
    pub fn wait(&self, listener: &ListenerName) -> Duration {
        self.wait_at(listener, clock::monotonic())
    }

    fn wait_at(&self, listener: &ListenerName, now: MonotonicMs) -> Duration {
        let config = self.live.current();
        let rates = &config.connection_rates;
        // Clients must not keep brokers from each other, where they have a listener of their own.
        let is_for_brokers = *listener == config.inter_broker_listener && config.listeners.len() > 1;
        let of_broker = rates.of_broker.filter(|_| !is_for_brokers);
        let of_listener = rates.of_listeners.get(listener).copied();
        if of_broker.is_none() && of_listener.is_none() {
            return Duration::ZERO;
        }
        let mut measured = self.measured.lock();
        let charge = |rate: &mut Rate, limit: u32| {
            rate.record(self.windows, now, 1.0);
            rate.throttle(self.windows, now, limit.into())
        };
        let mut wait = of_broker.map_or(Duration::ZERO, |limit| charge(&mut measured.broker, limit));
        if let Some(limit) = of_listener {
            wait = wait.max(charge(measured.listeners.entry(listener.clone()).or_default(), limit));
        }
        // Kafka's bound: a limit of nothing is one connection in a window.
        wait.min(self.windows.length)
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::{BrokerConfig, Sources};

    use super::*;

    fn pace(flags: &[(&str, &str)]) -> ConnectionPace {
        let listeners = "CLIENT://:9092,OTHER://:9093,BROKERS://:9094";
        let map = "CLIENT:PLAINTEXT,OTHER:PLAINTEXT,BROKERS:PLAINTEXT";
        let usual = [
            ("coordinator.connect", "localhost"),
            ("listeners", listeners),
            ("listener.security.protocol.map", map),
            ("inter.broker.listener.name", "BROKERS"),
        ];
        let flags = usual.iter().chain(flags).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = BrokerConfig::load(&Sources { flags, ..Sources::default() }).expect("a configuration").config;
        ConnectionPace::new(&Arc::new(LiveConfig::new(Arc::new(config))))
    }

    /// How many connections a listener takes within these seconds, of a crowd that always waits.
    fn taken(pace: &ConnectionPace, listener: &str, seconds: u64) -> u64 {
        let (listener, mut now, mut taken) = (ListenerName::new(listener), 0, 0);
        while now < seconds * 1_000 && taken < 100_000 {
            let wait = pace.wait_at(&listener, MonotonicMs(now));
            now += u64::try_from(wait.as_millis()).expect("short");
            taken += 1;
        }
        taken
    }

    #[test]
    fn listeners_wait_by_the_rate_of_the_broker_and_by_their_own() {
        let limited =
            [("max.connection.creation.rate", "50"), ("listener.name.other.max.connection.creation.rate", "5")];
        for (listener, rate) in [("CLIENT", 50), ("OTHER", 5)] {
            // Of the first ten seconds the windows know nothing.
            let (taken, expected) = (taken(&pace(&limited), listener, 100), rate * 100);
            assert!((expected * 8 / 10..expected * 13 / 10).contains(&taken), "{listener}: {taken}");
        }
        assert_eq!(taken(&pace(&limited), "BROKERS", 1), 100_000);
        assert_eq!(taken(&pace(&[]), "CLIENT", 1), 100_000);
        let own = [("listener.name.brokers.max.connection.creation.rate", "0")];
        assert!(taken(&pace(&own), "BROKERS", 60) <= 61);
    }
}
