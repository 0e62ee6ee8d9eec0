//! The broker's effective configuration: the static properties, overridden by dynamic ones.
//!
//! `/config/brokers/N` of the tree overrides `/config/brokers/<default>`, which overrides the static properties. A
//! change is in force when the delta that contains it has been applied. Values that may change are read from
//! [`LiveConfig::current`] each time; all others are in [`BrokerConfig`], as read at the start.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ottla_config::{BrokerConfig, ConfigError};
use ottla_metadata::{ConfigEntity, Image};
use ottla_model::BrokerId;
use ottla_secure_stream::StreamSecurity;

type Entries = BTreeMap<String, String>;

/// What is set at run time, and what follows from it.
pub struct Layers {
    /// For all brokers.
    pub cluster: Entries,
    /// For this one.
    pub own: Entries,
    pub config: Arc<BrokerConfig>,
    /// The value of each topic configuration where a topic sets none.
    pub topic_defaults: Entries,
}

impl Layers {
    fn new(cluster: Entries, own: Entries, config: Arc<BrokerConfig>) -> Self {
        let topic_defaults =
            config.topic_defaults.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Self { cluster, own, config, topic_defaults }
    }
}

pub struct LiveConfig {
    fixed: Arc<BrokerConfig>,
    peers: StreamSecurity,
    layers: ArcSwap<Layers>,
}

impl LiveConfig {
    pub fn new(fixed: Arc<BrokerConfig>) -> Self {
        let layers = Layers::new(Entries::new(), Entries::new(), fixed.clone());
        Self { fixed, peers: StreamSecurity::default(), layers: ArcSwap::from_pointee(layers) }
    }

    /// With the security of connections to other brokers, as it follows from the configuration.
    #[must_use]
    pub fn with_peers(self, peers: StreamSecurity) -> Self {
        Self { peers, ..self }
    }

    /// How connections to other brokers are secured.
    pub fn peers(&self) -> &StreamSecurity {
        &self.peers
    }

    /// What the broker was started with.
    pub fn fixed(&self) -> &Arc<BrokerConfig> {
        &self.fixed
    }

    /// What holds now.
    pub fn current(&self) -> Arc<BrokerConfig> {
        self.layers.load().config.clone()
    }

    pub fn layers(&self) -> Arc<Layers> {
        self.layers.load_full()
    }

    /// The configuration that would hold with these entries for this broker (`per_broker`) or for all.
    pub fn candidate(&self, entries: &Entries, per_broker: bool) -> Result<BrokerConfig, ConfigError> {
        let layers = self.layers.load();
        match per_broker {
            true => self.fixed.with_dynamic(&layers.cluster, entries),
            false => self.fixed.with_dynamic(entries, &layers.own),
        }
    }

    /// Takes over what the image says. Says whether anything changed.
    pub fn follow(&self, image: &Image, broker: BrokerId) -> bool {
        let entries = |entity: &ConfigEntity| image.config(entity).map(|set| set.entries.clone()).unwrap_or_default();
        let mut cluster = entries(&ConfigEntity::default_broker());
        let mut own = entries(&ConfigEntity::broker(broker));
        let before = self.layers.load();
        if before.cluster == cluster && before.own == own {
            return false;
        }
        let config = self.fixed.with_dynamic(&cluster, &own).unwrap_or_else(|error| {
            // Checked before it was written; another release may have judged otherwise. What is good is used.
            tracing::error!(%error, "ignoring a configuration that was set at run time and is not usable");
            self.keep_usable(&mut cluster, &mut own)
        });
        tracing::info!(for_all = cluster.len(), for_this_broker = own.len(), "the configuration changed");
        self.layers.store(Arc::new(Layers::new(cluster, own, Arc::new(config))));
        true
    }

    /// Drops each entry that makes the whole unusable.
    fn keep_usable(&self, cluster: &mut Entries, own: &mut Entries) -> BrokerConfig {
        let alone = |name: &String, value: &String| {
            let one = Entries::from([(name.clone(), value.clone())]);
            self.fixed.with_dynamic(&Entries::new(), &one).is_ok()
        };
        cluster.retain(|name, value| alone(name, value));
        own.retain(|name, value| alone(name, value));
        self.fixed.with_dynamic(cluster, own).unwrap_or_else(|_| (*self.fixed).clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ottla_config::{HostPort, Origin};
    use ottla_metadata::{Node, nodes};
    use ottla_model::Revision;

    use super::*;

    pub(crate) fn image(revision: u64, entries: &[(ConfigEntity, &[(&str, &str)])]) -> Image {
        let nodes: Vec<_> = entries
            .iter()
            .map(|(entity, set)| {
                let set = set.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
                let revision = Revision(revision);
                let payload = nodes::config::encode(&set);
                (entity.path(), Node { payload, created: revision, modified: revision, version: 0 })
            })
            .collect();
        Image::from_nodes(Revision(revision), nodes.iter().map(|(path, node)| (path, node))).0
    }

    pub(crate) fn live() -> LiveConfig {
        let config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        LiveConfig::new(Arc::new(config))
    }

    #[test]
    fn the_brokers_own_value_lies_over_that_of_all() {
        let live = live();
        let all = ConfigEntity::default_broker;
        assert!(
            live.follow(&image(1, &[(all(), &[("max.connections", "7"), ("log.retention.ms", "5000")])]), BrokerId(1))
        );
        assert_eq!(live.current().max_connections, 7);
        // Beside the static hours.
        assert_eq!(live.current().topic_defaults.get("retention.ms").map(String::as_str), Some("5000"));
        assert_eq!(live.current().properties.get("log.retention.ms").map(|p| p.origin.clone()), Some(Origin::Cluster));
        let own = ConfigEntity::broker(BrokerId(1));
        let both = image(2, &[(all(), &[("max.connections", "7")]), (own, &[("max.connections", "8")])]);
        assert!(live.follow(&both, BrokerId(1)));
        assert!(!live.follow(&both, BrokerId(1)));
        assert_eq!(live.current().max_connections, 8);
        assert_eq!(live.current().topic_defaults.get("retention.ms").map(String::as_str), Some("604800000"));
        live.follow(&image(3, &[]), BrokerId(1));
        assert_eq!(live.current().max_connections, live.fixed().max_connections);
    }

    #[test]
    fn what_is_unusable_is_passed_over() {
        let live = live();
        let set: &[(&str, &str)] =
            &[("max.connections", "7"), ("max.connections.per.ip", "many"), ("of.a.plugin", "x")];
        live.follow(&image(1, &[(ConfigEntity::default_broker(), set)]), BrokerId(1));
        assert_eq!(live.current().max_connections, 7);
        let kept: Vec<String> = live.layers().cluster.keys().cloned().collect();
        assert_eq!(kept, ["max.connections", "of.a.plugin"]);
    }
}
