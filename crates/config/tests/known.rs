//! The table of known configurations against the code: whatever can be set has an effect or says why it has none.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use ottla_config::known::{BROKER_CONFIGS, unread};
use ottla_config::{BrokerConfig, CoordinatorConfig, Loaded, Sources};

fn sources_below(directory: &Path, texts: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Tests at the end of a file read nothing.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            texts.push((path, code));
        }
    }
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All code that may read a configuration by its name.
fn readers() -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    sources_below(&crates().join("config/src"), &mut texts);
    sources_below(&crates().join("tls/src"), &mut texts);
    sources_below(&crates().join("sasl/src"), &mut texts);
    texts.retain(|(path, _)| !path.parent().is_some_and(|folder| folder.ends_with("known")));
    let mut services = Vec::new();
    sources_below(&crates().join("broker/src"), &mut services);
    sources_below(&crates().join("replica-manager/src"), &mut services);
    for (path, text) in services {
        // Elsewhere a name is shown or compared; these read its value.
        let reads: Vec<&str> = ["properties.text(", "properties.explicit(", "properties.get("]
            .iter()
            .flat_map(|call| text.split(call).skip(1).filter_map(|rest| rest.split(')').next()))
            .collect();
        texts.push((path, reads.join("\n")));
    }
    texts
}

/// Classes that guard something.
const REFUSED: [&str; 3] =
    ["alter.config.policy.class.name", "create.topic.policy.class.name", "principal.builder.class"];

#[test]
fn every_known_key_is_read_or_says_why_not() {
    // Read by a constant that holds the name; another name of broker.id; names that are made of a mechanism's.
    const OTHERWISE: &[&str] = &[
        "cordoned.log.dirs",
        "node.id",
        "oauthbearer.sasl.jaas.config",
        "oauthbearer.sasl.login.callback.handler.class",
        "oauthbearer.sasl.server.callback.handler.class",
        "plain.sasl.jaas.config",
        "scram-sha-256.sasl.jaas.config",
        "scram-sha-512.sasl.jaas.config",
    ];
    let readers = readers();
    let mut silent = Vec::new();
    for config in BROKER_CONFIGS {
        let quoted = format!("\"{}\"", config.name);
        let is_read = readers.iter().any(|(_, text)| text.contains(&quoted)) || OTHERWISE.contains(&config.name);
        let is_refused = REFUSED.contains(&config.name);
        if !is_read && !is_refused && unread(config.name).is_none() {
            silent.push(config.name);
        }
    }
    assert!(silent.is_empty(), "nothing reads these, and known/unread.rs does not say why: {silent:#?}");
}

/// Whether a field of a configuration is read, not one of the same name that something else has.
fn reads(code: &str, field: &str) -> bool {
    ["config.", "config().", "current()."].iter().any(|of| {
        let goes_on = |next: char| next.is_alphanumeric() || next == '_';
        code.split(&format!("{of}{field}")).skip(1).any(|rest| !rest.starts_with(goes_on))
    })
}

#[test]
fn every_field_is_used() {
    let brokers: &[&str] = &["broker", "cli", "coordinator", "network", "replica-manager"];
    let coordinators: &[&str] = &["cli", "coordinator"];
    for (file, name, services) in
        [("broker.rs", "BrokerConfig", brokers), ("coordinator.rs", "CoordinatorConfig", coordinators)]
    {
        let text = fs::read_to_string(crates().join("config/src").join(file)).unwrap();
        let fields: Vec<&str> = text
            .split(&format!("pub struct {name} {{"))
            .nth(1)
            .and_then(|rest| rest.split("\n}").next())
            .unwrap()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
            .collect();
        assert!(fields.len() > 25, "{fields:?}");
        let mut code = Vec::new();
        services.iter().for_each(|service| sources_below(&crates().join(service).join("src"), &mut code));
        for field in fields {
            assert!(code.iter().any(|(_, text)| reads(text, field)), "nothing reads {name}::{field}");
        }
    }
}

/// These had fields that nothing read, and a line in the documents.
#[test]
fn what_coordinators_do_not_read_they_say() {
    let flags: Vec<_> = ["min.insync.replicas=2", "unclean.leader.election.enable=true", "sync.limit=5"]
        .iter()
        .filter_map(|flag| flag.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let warnings = CoordinatorConfig::load(&Sources { flags, ..Sources::default() }).unwrap().warnings;
    // ZooKeeper's are in every file of ZooKeeper's.
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    for (warning, name) in warnings.iter().zip(["min.insync.replicas", "unclean.leader.election.enable"]) {
        assert!(warning.starts_with(name) && warning.contains("has no effect: brokers tell"), "{warning}");
    }
}

fn load(flags: &[(&str, &str)]) -> Result<Loaded<BrokerConfig>, String> {
    let mut all = vec![("coordinator.connect".to_owned(), "localhost".to_owned())];
    all.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    BrokerConfig::load(&Sources { flags: all, ..Sources::default() }).map_err(|error| error.to_string())
}

#[test]
fn classes_that_guard_something_end_the_start() {
    for key in REFUSED.into_iter().chain(["authorizer.class.name"]) {
        let error = load(&[(key, "org.example.Guard")]).unwrap_err();
        assert!(error.starts_with(key) && !error.contains('\n'), "{error}");
        assert!(load(&[(key, "")]).is_ok(), "no value is no class");
    }
    let of_listener = "listener.name.plaintext.principal.builder.class";
    assert!(load(&[(of_listener, "org.example.Guard")]).unwrap_err().starts_with(of_listener));
}

#[test]
fn kafkas_own_principal_builder_is_the_one_that_there_is() {
    let own = "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder";
    assert!(load(&[("principal.builder.class", own)]).is_ok());
}

/// Brokers that check their clients in front of coordinators that check nobody.
#[test]
fn rules_without_a_secret_are_warned_of() {
    let class = ("authorizer.class.name", "kafka.security.authorizer.AclAuthorizer");
    let warns = |flags: &[(&str, &str)]| {
        let warnings = load(flags).unwrap().warnings;
        warnings.iter().any(|warning| warning.contains("cluster.secret is not set"))
    };
    assert!(warns(&[class]) && !warns(&[]) && !warns(&[class, ("cluster.secret", "s3cret")]));
}

#[test]
fn each_of_kafkas_authorizers_is_the_one_that_there_is() {
    for class in [
        "kafka.security.authorizer.AclAuthorizer",
        "kafka.security.auth.SimpleAclAuthorizer",
        "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    ] {
        let users = ("super.users", "User:ANONYMOUS; User:CN=broker,O=x");
        let config = load(&[("authorizer.class.name", class), users]).unwrap().config;
        let authorizer = config.authorizer.unwrap();
        let users: Vec<String> = authorizer.super_users.iter().map(ToString::to_string).collect();
        assert_eq!(users, ["User:ANONYMOUS", "User:CN=broker,O=x"]);
        assert!(!authorizer.allow_everyone_if_no_acl_found);
    }
    assert!(load(&[]).unwrap().config.authorizer.is_none());
    let error = load(&[("authorizer.class.name", "kafka.security.authorizer.AclAuthorizer"), ("super.users", "alice")])
        .unwrap_err();
    assert!(error.starts_with("super.users=alice") && !error.contains('\n'), "{error}");
}

#[test]
fn keys_without_effect_are_named_once() {
    let warnings = load(&[
        ("num.io.threads", "16"),
        ("background.threads", "20"),
        ("heap.opts", "-Xmx1G"),
        ("log.preallocate", "false"),
        ("num.partitions", "3"),
    ])
    .unwrap()
    .warnings;
    let warnings: Vec<_> = warnings.into_iter().filter(|warning| warning.contains("no effect")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("heap.opts has no effect"), "{warnings:#?}");
    assert!(warnings[1].contains("background.threads, num.io.threads have no effect"), "{warnings:#?}");
}

#[test]
fn addresses_have_limits_of_their_own() {
    let config = load(&[("max.connections.per.ip.overrides", "127.0.0.1:3, [::1]:4")]).unwrap().config;
    let limits: Vec<_> = config.max_connections_per_ip_overrides.into_iter().collect();
    assert_eq!(limits, [("127.0.0.1".parse().unwrap(), 3), ("::1".parse().unwrap(), 4)]);
    for bad in ["127.0.0.1", "127.0.0.1:x"] {
        let error = load(&[("max.connections.per.ip.overrides", bad)]).unwrap_err();
        assert!(error.contains("max.connections.per.ip.overrides"), "{error}");
    }
}
