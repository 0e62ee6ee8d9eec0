//! Configurations that are taken at run time and change nothing: each says so when it is set. Those that guard
//! something are refused instead ([`ottla_metadata::broker_config::validate`]).

use std::sync::LazyLock;

use ottla_config::known;
use ottla_metadata::topic_config::documentation;
use ottla_metadata::{ConfigKind, group_config};
use ottla_metrics::RateLimit;

/// A line for an entity whose configuration asks for what is not done; clients choose how many entities there are.
pub fn warn_of_no_effect<'a>(kind: ConfigKind, entity: &str, names: impl Iterator<Item = &'a str>) {
    static COMPLAINTS: LazyLock<RateLimit> = LazyLock::new(RateLimit::per_second);
    let idle: Vec<String> = names.filter_map(|name| Some(format!("{name} ({})", idle(kind, name)?))).collect();
    if !idle.is_empty() {
        COMPLAINTS.run(|left_out| {
            tracing::warn!(?kind, entity, left_out, "no effect here: {}", idle.join(", "));
        });
    }
}

/// Why a configuration has no effect on an entity of this kind; none: it has one.
fn idle(kind: ConfigKind, name: &str) -> Option<String> {
    match kind {
        ConfigKind::Topics => documentation::has_no_effect(name).then(|| "see its documentation".to_owned()),
        ConfigKind::Brokers => known::unread_at_run_time(name).map(|why| why.to_string()),
        ConfigKind::Groups => {
            let of_broker = || group_config::find(name)?.synonym;
            known::unread(name).or_else(|| known::unread(of_broker()?)).map(|why| why.to_string())
        }
        ConfigKind::ClientMetrics
        | ConfigKind::Clients
        | ConfigKind::Users
        | ConfigKind::UserClients
        | ConfigKind::Ips => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use ottla_config::TOPIC_SYNONYMS;
    use ottla_metadata::broker_config::{DYNAMIC_CONFIGS, GUARDS};
    use ottla_metadata::group_config::GROUP_CONFIGS;

    use super::*;

    /// What reads a configuration, or all that begin so (with a dot at the end), while a broker runs. Topics' defaults
    /// are read by [`TOPIC_SYNONYMS`].
    const READERS: &[(&str, &str)] = &[
        ("consumer.heartbeat.interval.ms", "\"consumer.heartbeat.interval.ms\""),
        ("consumer.session.timeout.ms", "\"consumer.session.timeout.ms\""),
        ("cordoned.log.dirs", "cordoned("),
        ("follower.replication.throttled.rate", "Throttle::new(\"follower.replication.throttled.rate\", live, "),
        ("leader.replication.throttled.rate", "Throttle::new(\"leader.replication.throttled.rate\", live, "),
        ("log.cleaner.", "live.current().log_cleaner"),
        ("max.connection.creation.rate", "config.connection_rates"),
        ("max.connections", "config.max_connections.min("),
        ("max.connections.per.ip", "config.max_connections_per_ip)"),
        ("max.connections.per.ip.overrides", "config.max_connections_per_ip_overrides.get("),
        ("producer.id.expiration.ms", "layers.config.producer_id_expiration"),
        ("replica.alter.log.dirs.io.max.bytes.per.second", "\"replica.alter.log.dirs.io.max.bytes.per.second\""),
        ("sasl.jaas.config", "sasl.plain_users.get("),
        ("ssl.", "tls.follow(wanted)"),
    ];

    fn code_below(directory: &Path, code: &mut String) {
        for entry in fs::read_dir(directory).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                code_below(&path, code);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                code.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
            }
        }
    }

    /// Each has an effect, says that it has none, or is refused.
    #[test]
    fn every_configuration_of_run_time_has_an_effect_or_says_why_not() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut code = String::new();
        for service in ["broker/src", "replica-manager/src"] {
            code_below(&crates.join(service), &mut code);
        }
        let is_read = |name: &str| {
            let fits = |pattern: &str| name == pattern || (pattern.ends_with('.') && name.starts_with(pattern));
            let reader = READERS.iter().find(|(pattern, _)| fits(pattern));
            reader.is_some_and(|(_, reader)| {
                assert!(code.contains(reader), "{name}: nothing reads it as {reader}");
                true
            })
        };
        let is_topics_default = |name: &str| {
            let synonym = TOPIC_SYNONYMS.iter().find(|synonym| synonym.broker.iter().any(|(it, _)| *it == name));
            synonym.is_some_and(|synonym| !documentation::has_no_effect(synonym.topic))
        };
        for name in DYNAMIC_CONFIGS.iter().map(|config| config.name) {
            let is_refused = GUARDS.iter().any(|(guard, _)| *guard == name);
            let is_idle = idle(ConfigKind::Brokers, name).is_some();
            let has_effect = is_refused || is_topics_default(name) || is_idle || is_read(name);
            assert!(has_effect, "{name}: nothing reads it at run time, and known/unread.rs does not say why");
        }
        for name in GROUP_CONFIGS.iter().map(|key| key.name) {
            let has_effect = idle(ConfigKind::Groups, name).is_some() || is_read(name);
            assert!(has_effect, "{name}: nothing reads it, and known/unread.rs does not say why");
        }
    }

    #[test]
    fn what_only_a_start_reads_has_no_effect_at_run_time() {
        for name in ["num.network.threads", "num.io.threads", "listeners", "remote.log.reader.threads"] {
            assert!(idle(ConfigKind::Brokers, name).is_some(), "{name}");
        }
        for name in ["connections.max.reauth.ms", "sasl.oauthbearer.expected.audience", "sasl.enabled.mechanisms"] {
            assert!(idle(ConfigKind::Brokers, &format!("listener.name.client.{name}")).is_some(), "{name}");
        }
        for name in ["max.connections", "log.retention.ms", "of.a.plugin", "listener.name.x.plain.sasl.jaas.config"] {
            assert_eq!(idle(ConfigKind::Brokers, name), None);
        }
        for name in ["consumer.assignment.interval.ms", "share.auto.offset.reset", "streams.num.standby.replicas"] {
            assert!(idle(ConfigKind::Groups, name).is_some(), "{name}");
        }
        assert_eq!(idle(ConfigKind::Groups, "consumer.session.timeout.ms"), None);
    }
}
