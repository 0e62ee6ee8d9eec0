//! `/config/KIND/ENTITY`: the run-time configuration of a topic, a broker, all brokers, a group, a client, a user, an
//! address, a subscription to clients' metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use ottla_model::{BrokerId, Revision};
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::tree::Path;

/// The kind of entity of a configuration, which is the name of its parent node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ConfigKind {
    Topics,
    Brokers,
    Clients,
    Users,
    /// A client of a user: `/config/users/USER/clients/CLIENT`.
    UserClients,
    Ips,
    /// Kafka has these, and the next, since it lost its ZooKeeper tree; the paths are ours.
    Groups,
    /// What clients are asked to push of their metrics.
    ClientMetrics,
}

impl ConfigKind {
    pub const ALL: [Self; 8] = [
        Self::Topics,
        Self::Brokers,
        Self::Clients,
        Self::Users,
        Self::UserClients,
        Self::Ips,
        Self::Groups,
        Self::ClientMetrics,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topics => "topics",
            Self::Brokers => "brokers",
            Self::Clients => "clients",
            Self::Users => "users",
            Self::UserClients => "user-clients",
            Self::Ips => "ips",
            Self::Groups => "groups",
            Self::ClientMetrics => "client-metrics",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The name of the entity whose configuration holds for all of its kind.
pub const DEFAULT_ENTITY: &str = "<default>";

/// Whose configuration it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConfigEntity {
    pub kind: ConfigKind,
    /// As people write it; [`DEFAULT_ENTITY`] for all. Of [`ConfigKind::UserClients`] as the path has it.
    pub name: String,
}

impl ConfigEntity {
    pub fn topic(name: &str) -> Self {
        Self { kind: ConfigKind::Topics, name: name.to_owned() }
    }

    pub fn broker(id: BrokerId) -> Self {
        Self { kind: ConfigKind::Brokers, name: id.to_string() }
    }

    pub fn client_metrics(name: &str) -> Self {
        Self { kind: ConfigKind::ClientMetrics, name: name.to_owned() }
    }

    pub fn group(name: &str) -> Self {
        Self { kind: ConfigKind::Groups, name: name.to_owned() }
    }

    /// All brokers.
    pub fn default_broker() -> Self {
        Self { kind: ConfigKind::Brokers, name: DEFAULT_ENTITY.to_owned() }
    }

    /// A client of a user; either may be [`DEFAULT_ENTITY`].
    pub fn user_client(user: &str, client: &str) -> Self {
        let name = format!("{}/clients/{}", encode_name(user), encode_name(client));
        Self { kind: ConfigKind::UserClients, name }
    }

    /// The user and the client of a [`ConfigKind::UserClients`]; none for other kinds, and for names of no path.
    pub fn as_user_client(&self) -> Option<(String, String)> {
        let (user, client) = self.name.split_once("/clients/").filter(|_| self.kind == ConfigKind::UserClients)?;
        Some((decode_name(user)?, decode_name(client)?))
    }

    pub fn path(&self) -> Path {
        match self.kind {
            ConfigKind::UserClients => Path::built(format!("/config/users/{}", self.name)),
            kind => Path::built(format!("/config/{}/{}", kind.as_str(), encode_name(&self.name))),
        }
    }

    pub(super) fn of_path(kind: &str, name: &str) -> Option<Self> {
        let kind = ConfigKind::parse(kind).filter(|kind| *kind != ConfigKind::UserClients)?;
        Some(Self { kind, name: decode_name(name)? })
    }

    pub(super) fn of_user_client(user: &str, client: &str) -> Option<Self> {
        Some(Self::user_client(&decode_name(user)?, &decode_name(client)?))
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~')
}

/// Names of users, clients and addresses may hold anything: they are percent-encoded, as Kafka's `Sanitizer` does.
pub(super) fn encode_name(name: &str) -> String {
    if name == DEFAULT_ENTITY {
        return name.to_owned();
    }
    let mut encoded = String::new();
    // `.` and `..` alone are no names of the tree.
    let dots = name == "." || name == "..";
    for byte in name.bytes() {
        if is_plain(byte) && !dots {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

pub(super) fn decode_name(encoded: &str) -> Option<String> {
    if encoded == DEFAULT_ENTITY {
        return Some(encoded.to_owned());
    }
    let mut bytes = encoded.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConfigPayload {
    #[prost(btree_map = "string, string", tag = "1")]
    entries: BTreeMap<String, String>,
    #[prost(uint64, optional, tag = "2")]
    min_insync_replicas_modified: Option<u64>,
}

/// The content of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigNode {
    pub entries: BTreeMap<String, String>,
    /// The revision at which `min.insync.replicas` got its value, or lost it; 0 if it was never set. None if that
    /// happened no later than this write of the node, in a transaction whose revision its writer did not know: the one
    /// that wrote the node, or one that was in flight then. Nodes that 0.1 wrote have none.
    pub min_insync_replicas_modified: Option<Revision>,
}

/// The node of entries that changed `min.insync.replicas`, or are the entity's first.
pub fn encode(entries: &BTreeMap<String, String>) -> Bytes {
    ConfigNode { entries: entries.clone(), min_insync_replicas_modified: None }.encode()
}

impl ConfigNode {
    pub fn encode(self) -> Bytes {
        let min_insync_replicas_modified = self.min_insync_replicas_modified.map(|revision| revision.0);
        ConfigPayload { entries: self.entries, min_insync_replicas_modified }.encode_to_vec().into()
    }

    pub fn decode(payload: &Bytes) -> Result<Self, NodeError> {
        let ConfigPayload { entries, min_insync_replicas_modified } = ConfigPayload::decode(payload.clone())?;
        Ok(Self { entries, min_insync_replicas_modified: min_insync_replicas_modified.map(Revision) })
    }
}

/// The entries alone.
pub fn decode(payload: &Bytes) -> Result<BTreeMap<String, String>, NodeError> {
    Ok(ConfigNode::decode(payload)?.entries)
}

#[derive(Serialize)]
struct Shown {
    version: u8,
    config: BTreeMap<String, String>,
}

/// Stands for a value that is not shown.
pub const HIDDEN: &str = "[hidden]";

/// Whether values of this name are secrets: passwords and keys of a broker's listeners, and credentials of users.
/// Reading the tree needs no authentication.
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 8] =
        ["password", "passphrase", "secret", "jaas.config", "credentials", "keystore.key", "certificate", "scram-sha-"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// For people and tools: secrets are hidden. Brokers read the payload.
pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let mut config = decode(payload)?;
    for (_, value) in config.iter_mut().filter(|(name, _)| is_secret(name)) {
        HIDDEN.clone_into(value);
    }
    to_json(&Shown { version: 1, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let entries = [("retention.ms", "60000"), ("cleanup.policy", "compact,delete")];
        let entries = entries.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        // goldens: zookeeper-shell get /config/topics/a.b_c
        let golden = r#"{"version":1,"config":{"cleanup.policy":"compact,delete","retention.ms":"60000"}}"#;
        assert_eq!(json(&encode(&entries)).as_deref(), Ok(golden));
        assert_eq!(json(&Bytes::new()).as_deref(), Ok(r#"{"version":1,"config":{}}"#));
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = "salt=c2FsdA==,stored_key=x,server_key=y,iterations=4096";
        let entries = [
            ("SCRAM-SHA-512", keys),
            ("listener.name.client.plain.sasl.jaas.config", "PlainLoginModule required user_a=\"hunter2\";"),
            ("listener.name.client.ssl.keystore.password", "hunter2"),
            ("producer_byte_rate", "1024"),
        ];
        let entries = entries.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let shown = json(&encode(&entries)).expect("a text");
        assert!(!shown.contains("server_key") && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r#""producer_byte_rate":"1024""#) && shown.matches(HIDDEN).count() == 3, "{shown}");
        assert_eq!(decode(&encode(&entries)), Ok(entries), "brokers read them");
    }

    #[test]
    fn any_name_has_a_path_and_comes_back() {
        for name in ["alice", "<default>", "a/b", "..", "ü,=", "1001", "a.b_c", "%41"] {
            let entity = ConfigEntity { kind: ConfigKind::Users, name: name.to_owned() };
            let path = entity.path();
            assert!(Path::new(path.as_str()).is_ok(), "{path}");
            assert_eq!(ConfigEntity::of_path("users", path.name()), Some(entity));
        }
        assert_eq!(ConfigEntity::of_path("users", "%4"), None);
        assert_eq!(ConfigEntity::of_path("changes", "x"), None);
        assert_eq!(ConfigEntity::of_path("user-clients", "x"), None);
    }

    #[test]
    fn a_client_of_a_user_lies_below_the_user() {
        for (user, client) in [("alice", "c"), ("<default>", "a/b"), ("CN=x,O=y", "<default>"), ("..", "%")] {
            let entity = ConfigEntity::user_client(user, client);
            let path = entity.path();
            let kind = super::super::classify(&path);
            assert_eq!(kind, super::super::NodePath::Config(entity.clone()), "{path}");
            assert_eq!(entity.as_user_client(), Some((user.to_owned(), client.to_owned())));
        }
        let path = ConfigEntity::user_client("alice", "app").path();
        assert_eq!(path.as_str(), "/config/users/alice/clients/app");
    }
}
