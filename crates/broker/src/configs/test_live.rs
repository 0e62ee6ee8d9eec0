//! A broker's configuration for tests.

use std::sync::Arc;

use ottla_config::{BrokerConfig, Sources};

use ottla_replica_manager::live_config::LiveConfig;

pub fn live(flags: &[(&str, &str)]) -> LiveConfig {
    let mut all = vec![("coordinator.connect", "127.0.0.1:2181"), ("listeners", "PLAINTEXT://127.0.0.1:0")];
    all.extend(flags);
    let flags = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let loaded = BrokerConfig::load(&Sources { flags, ..Sources::default() }).expect("valid");
    LiveConfig::new(Arc::new(loaded.config))
}
