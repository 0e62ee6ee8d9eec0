//! The cluster of processes on one machine: which members it has, their ports, folders and environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use super::security::Security;

/// One process of a local cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Member {
    Coordinator(u16),
    Broker(u16),
}

impl Member {
    pub fn binary(self) -> &'static str {
        match self {
            Self::Coordinator(_) => "ottla-coordinator",
            Self::Broker(_) => "ottla-broker",
        }
    }

    /// The port for clients: Kafka's protocol on a broker, gRPC on a coordinator.
    pub fn port(self) -> u16 {
        match self {
            Self::Coordinator(n) => spread(n, 2_181),
            Self::Broker(n) => spread(n, 9_092),
        }
    }

    /// /metrics, /healthz and /readyz. Below 32,768, where Linux begins to give ports to outgoing connections: one of
    /// those could hold the port when the process starts.
    pub fn http_port(self) -> u16 {
        match self {
            Self::Coordinator(n) => 21_000 + n,
            Self::Broker(n) => 20_000 + n,
        }
    }
}

/// 2xxxx, 3xxxx, 4xxxx, 5xxxx for the first four; the ports beyond 50,000 are too few for further tens of thousands.
fn spread(n: u16, port: u16) -> u16 {
    if n <= 4 { (n + 1) * 10_000 + port } else { 50_000 + port + (n - 4) * 10 }
}

/// The largest number of a member of each kind: `spread` stays within the valid ports.
pub const MEMBERS_MAX: u16 = 500;

/// The inter-broker ports: 19091, 19092, …
fn inter_broker_port(n: u16) -> u16 {
    19_090 + n
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(n) => write!(f, "coordinator-{n}"),
            Self::Broker(n) => write!(f, "broker-{n}"),
        }
    }
}

impl FromStr for Member {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |rest: &str| rest.parse::<u16>().ok().filter(|n| (1..=MEMBERS_MAX).contains(n));
        if let Some(n) = text.strip_prefix("coordinator-").and_then(number) {
            Ok(Self::Coordinator(n))
        } else if let Some(n) = text.strip_prefix("broker-").and_then(number) {
            Ok(Self::Broker(n))
        } else {
            bail!("{text} is not a member of a local cluster: members are coordinator-1, … and broker-1, …")
        }
    }
}

/// The members of a local cluster, and its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Absolute.
    pub dir: PathBuf,
    pub coordinators: u16,
    pub brokers: u16,
    /// None: everything is in plaintext.
    pub security: Option<Security>,
}

/// The file in a local cluster's directory with the secret of its members.
const SECRET_FILE: &str = "secret";
/// The file in a local cluster's directory with the number of its members.
const SIZE_FILE: &str = "cluster.json";

impl Layout {
    /// The cluster in `dir`: the requested number of members, else the existing number, else three and three.
    pub fn open(dir: &Path, coordinators: Option<u16>, brokers: Option<u16>) -> Result<Self> {
        let dir = std::path::absolute(dir).with_context(|| format!("the directory {}", dir.display()))?;
        let stored = std::fs::read(dir.join(SIZE_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let certificates = stored.as_ref().and_then(|stored| stored.get("certificates")?.as_str().map(PathBuf::from));
        let security = certificates.map(|folder| Security::new(&folder, &dir)).transpose()?;
        let stored = |key: &str| {
            let number = stored.as_ref()?.get(key)?.as_u64()?;
            u16::try_from(number).ok()
        };
        let (had_coordinators, had_brokers) = (stored("coordinators"), stored("brokers"));
        if let (Some(asked), Some(had)) = (coordinators, had_coordinators)
            && asked != had
        {
            bail!(
                "{} holds a quorum of {had}: its members cannot change; use another --dir for {asked}",
                dir.display()
            );
        }
        let layout = Self {
            coordinators: coordinators.or(had_coordinators).unwrap_or(3),
            brokers: brokers.or(had_brokers).unwrap_or(3),
            dir,
            security,
        };
        if layout.coordinators == 0 || layout.coordinators > MEMBERS_MAX || layout.brokers > MEMBERS_MAX {
            bail!("a local cluster has 1 to {MEMBERS_MAX} coordinators and at most {MEMBERS_MAX} brokers");
        }
        Ok(layout)
    }

    /// The cluster with these certificates, if it is new; one that is there keeps what it has.
    pub fn secured(self, certificates: Option<&Path>) -> Result<Self> {
        let Some(certificates) = certificates else { return Ok(self) };
        let security = Some(Security::new(certificates, &self.dir)?);
        if self.exists() && self.security != security {
            bail!("{} was started without these certificates: use another --dir", self.dir.display());
        }
        Ok(Self { security, ..self })
    }

    /// Whether a cluster was ever started here.
    pub fn exists(&self) -> bool {
        self.dir.join(SIZE_FILE).exists()
    }

    /// The cluster that was started in `dir`.
    pub fn existing(dir: &Path) -> Result<Self> {
        let layout = Self::open(dir, None, None)?;
        if !layout.exists() {
            bail!("there is no local cluster in {}: ottla local start makes one, --dir names another", dir.display());
        }
        Ok(layout)
    }

    /// Creates the directory and stores the number of members.
    pub fn save(&self) -> Result<()> {
        create_private(&self.dir)?;
        let mut size = serde_json::json!({ "coordinators": self.coordinators, "brokers": self.brokers });
        if let (Some(security), Some(size)) = (&self.security, size.as_object_mut()) {
            size.insert("certificates".to_owned(), security.certificates().display().to_string().into());
        }
        let path = self.dir.join(SIZE_FILE);
        std::fs::write(&path, format!("{size}\n")).with_context(|| format!("write {}", path.display()))
    }

    /// Makes the secret of a new cluster, which its members show each other, beside certificates too: without it
    /// brokers do not agree on the salts of users that do not exist. A cluster without one stays without: its running
    /// members would refuse the new ones.
    pub fn make_secret(&self) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;

        let path = self.secret_file();
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            made => made.with_context(|| format!("make {}", path.display()))?,
        };
        writeln!(file, "{}", uuid::Uuid::new_v4().simple()).with_context(|| format!("write {}", path.display()))
    }

    fn secret_file(&self) -> PathBuf {
        self.dir.join(SECRET_FILE)
    }

    pub fn members(&self) -> Vec<Member> {
        let coordinators = (1..=self.coordinators).map(Member::Coordinator);
        coordinators.chain((1..=self.brokers).map(Member::Broker)).collect()
    }

    /// The named members, or all; a name beyond the cluster's size is refused.
    pub fn select(&self, names: &[String]) -> Result<Vec<Member>> {
        let all = self.members();
        if names.is_empty() {
            return Ok(all);
        }
        let mut chosen = Vec::new();
        for name in names {
            let member: Member = name.parse()?;
            if !all.contains(&member) {
                bail!(
                    "{name} is not part of {} ({} coordinators, {} brokers)",
                    self.dir.display(),
                    self.coordinators,
                    self.brokers
                );
            }
            if !chosen.contains(&member) {
                chosen.push(member);
            }
        }
        chosen.sort();
        Ok(chosen)
    }

    pub fn folder(&self, member: Member) -> PathBuf {
        self.dir.join(member.to_string())
    }

    /// The coordinators as `host:port`.
    pub fn coordinator_addresses(&self) -> Vec<String> {
        (1..=self.coordinators).map(|n| format!("127.0.0.1:{}", Member::Coordinator(n).port())).collect()
    }

    /// The environment of a member: `KAFKA_*` and `COORDINATOR_*` from `inherited`, then the local cluster's defaults
    /// for names that are missing, and, in any case, the id and addresses of the member.
    pub fn environment(&self, member: Member, inherited: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut environment: BTreeMap<String, String> = inherited
            .iter()
            .filter(|(name, _)| {
                let prefixes: &[&str] = match member {
                    Member::Coordinator(_) => &["COORDINATOR_"],
                    Member::Broker(_) => &["KAFKA_"],
                };
                prefixes.iter().any(|prefix| name.starts_with(prefix))
                    || ["PATH", "HOME", "LANG", "TZ", "CLUSTER_ID", "RUST_LOG", "RUST_BACKTRACE", "_RJEM_MALLOC_CONF"]
                        .contains(&name.as_str())
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut fallback = |name: &str, value: String| {
            environment.entry(name.to_owned()).or_insert(value);
        };
        match member {
            Member::Coordinator(_) => {
                // Settings that both brokers and the quorum use: a value that is set for one applies to both.
                for (coordinators, brokers) in [
                    ("COORDINATOR_BROKER_SESSION_TIMEOUT_MS", "KAFKA_BROKER_SESSION_TIMEOUT_MS"),
                    ("COORDINATOR_BROKER_SESSION_TIMEOUT_MS", "KAFKA_ZOOKEEPER_SESSION_TIMEOUT_MS"),
                ] {
                    if let Some(value) = inherited.get(brokers) {
                        fallback(coordinators, value.clone());
                    }
                }
                fallback("COORDINATOR_HTTP_PORT", member.http_port().to_string());
                fallback("COORDINATOR_HTTP_HOST", "127.0.0.1".to_owned());
                fallback("COORDINATOR_CLIENT_HOST", "127.0.0.1".to_owned());
            }
            Member::Broker(_) => {
                fallback("KAFKA_DEFAULT_REPLICATION_FACTOR", self.brokers.clamp(1, 3).to_string());
                fallback("KAFKA_MIN_INSYNC_REPLICAS", self.min_insync_replicas());
                fallback("KAFKA_HTTP_PORT", member.http_port().to_string());
                fallback("KAFKA_HTTP_HOST", "127.0.0.1".to_owned());
            }
        }
        let folder = self.folder(member);
        let data = folder.join("data").display().to_string();
        match member {
            Member::Coordinator(n) => {
                let addresses = self.coordinator_addresses();
                let servers: Vec<String> =
                    addresses.iter().zip(1..).map(|(address, id): (_, u16)| format!("{id}@{address}")).collect();
                environment.extend([
                    ("COORDINATOR_ID".to_owned(), n.to_string()),
                    ("COORDINATOR_CLIENT_PORT".to_owned(), member.port().to_string()),
                    ("COORDINATOR_SERVERS".to_owned(), servers.join(",")),
                    ("COORDINATOR_DATA_DIR".to_owned(), data),
                ]);
            }
            Member::Broker(n) => {
                let listeners =
                    format!("INTERNAL://127.0.0.1:{},HOST://127.0.0.1:{}", inter_broker_port(n), member.port());
                environment.extend([
                    ("KAFKA_BROKER_ID".to_owned(), n.to_string()),
                    ("KAFKA_COORDINATOR_CONNECT".to_owned(), self.coordinator_addresses().join(",")),
                    ("KAFKA_LISTENERS".to_owned(), listeners.clone()),
                    ("KAFKA_ADVERTISED_LISTENERS".to_owned(), listeners),
                    ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP".to_owned(), "INTERNAL:PLAINTEXT,HOST:PLAINTEXT".to_owned()),
                    ("KAFKA_INTER_BROKER_LISTENER_NAME".to_owned(), "INTERNAL".to_owned()),
                    ("KAFKA_LOG_DIRS".to_owned(), data),
                ]);
                // Aliases of the settings above would contradict them.
                for alias in ["KAFKA_NODE_ID", "KAFKA_ZOOKEEPER_CONNECT", "KAFKA_LOG_DIR"] {
                    environment.remove(alias);
                }
            }
        }
        let secret = self.secret_file();
        if secret.exists() {
            let name = match member {
                Member::Coordinator(_) => "COORDINATOR_CLUSTER_SECRET",
                Member::Broker(_) => "KAFKA_CLUSTER_SECRET",
            };
            if !environment.contains_key(name) {
                environment.entry(format!("{name}_FILE")).or_insert(secret.display().to_string());
            }
        }
        if let Some(security) = &self.security {
            environment.remove("COORDINATOR_CLIENT_PORT");
            environment.extend(security.environment(member, &self.members()));
        }
        environment.insert(MARK.to_owned(), folder.display().to_string());
        environment
    }

    /// 2 with three or more brokers: an acknowledged record is then on two of them.
    fn min_insync_replicas(&self) -> String {
        if self.brokers >= 3 { "2" } else { "1" }.to_owned()
    }
}

/// Creates a directory for this user alone: it has keys and records.
pub fn create_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;

    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("make {}", path.display()))
}

/// The environment variable that marks a running process as a member of a local cluster: its folder.
pub const MARK: &str = "OTTLA_LOCAL_MEMBER";

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { dir: "/x/data".into(), coordinators: 3, brokers: 3, security: None }
    }

    #[test]
    fn a_folder_without_a_cluster_says_so() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let refused = Layout::existing(folder.path()).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|text| text.contains("there is no local cluster")));
        Layout::open(folder.path(), Some(1), Some(1)).and_then(|layout| layout.save()).expect("saved");
        assert!(Layout::existing(folder.path()).is_ok());
    }

    #[test]
    fn the_ports_are_those_that_are_promised() {
        let ports: Vec<_> = layout().members().into_iter().map(Member::port).collect();
        assert_eq!(ports, [22_181, 32_181, 42_181, 29_092, 39_092, 49_092]);
        let mut all: Vec<u16> = (1..=MEMBERS_MAX)
            .flat_map(|n| {
                let (broker, coordinator) = (Member::Broker(n), Member::Coordinator(n));
                [broker.port(), coordinator.port(), broker.http_port(), coordinator.http_port(), inter_broker_port(n)]
            })
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "two members share a port");
    }

    #[test]
    fn names_are_read_and_checked() {
        assert_eq!("broker-2".parse::<Member>().expect("a name"), Member::Broker(2));
        for wrong in ["broker", "broker-0", "broker-x", "kafka-1", "coordinator-99999"] {
            assert!(wrong.parse::<Member>().is_err(), "{wrong}");
        }
        let chosen = layout().select(&["broker-3".into(), "coordinator-1".into(), "broker-3".into()]).expect("members");
        assert_eq!(chosen, [Member::Coordinator(1), Member::Broker(3)]);
        assert!(layout().select(&["broker-4".into()]).is_err());
    }

    #[test]
    fn the_environment_reaches_members_but_does_not_rename_them() {
        let inherited = BTreeMap::from(
            [
                ("KAFKA_BROKER_ID", "77"),
                ("KAFKA_NODE_ID", "78"),
                ("KAFKA_MIN_INSYNC_REPLICAS", "1"),
                ("KAFKA_BROKER_SESSION_TIMEOUT_MS", "1234"),
                ("COORDINATOR_SNAPSHOT_BYTES", "9"),
                ("EDITOR", "ed"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let broker = layout().environment(Member::Broker(2), &inherited);
        let get = |name: &str| broker.get(name).map(String::as_str);
        assert_eq!(get("KAFKA_BROKER_ID"), Some("2"));
        assert_eq!(get("KAFKA_NODE_ID"), None);
        assert_eq!(get("KAFKA_MIN_INSYNC_REPLICAS"), Some("1"));
        assert_eq!(get("KAFKA_DEFAULT_REPLICATION_FACTOR"), Some("3"));
        assert_eq!(get("KAFKA_LISTENERS"), Some("INTERNAL://127.0.0.1:19092,HOST://127.0.0.1:39092"));
        assert_eq!(get("KAFKA_LOG_DIRS"), Some("/x/data/broker-2/data"));
        assert_eq!((get("EDITOR"), get("COORDINATOR_SNAPSHOT_BYTES")), (None, None));
        let coordinator = layout().environment(Member::Coordinator(1), &inherited);
        let get = |name: &str| coordinator.get(name).map(String::as_str);
        assert_eq!(get("COORDINATOR_SERVERS"), Some("1@127.0.0.1:22181,2@127.0.0.1:32181,3@127.0.0.1:42181"));
        assert_eq!(get("COORDINATOR_SNAPSHOT_BYTES"), Some("9"));
        assert_eq!(get("COORDINATOR_BROKER_SESSION_TIMEOUT_MS"), Some("1234"));
        assert_eq!(get("COORDINATOR_MIN_INSYNC_REPLICAS"), None, "brokers tell it");
    }

    #[test]
    fn a_secure_cluster_has_no_plaintext_port() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let certificates = folder.path().join("certificates");
        let dir = folder.path().join("data");
        let open = || Layout::open(&dir, None, None).expect("a layout");
        let layout = open().secured(Some(&certificates)).expect("secured");
        layout.save().expect("saved");
        assert_eq!(open(), layout, "it is kept");
        assert!(open().secured(Some(folder.path())).is_err(), "with others");
        let coordinator = layout.environment(Member::Coordinator(2), &BTreeMap::new());
        let get = |name: &str| coordinator.get(name).map(String::as_str);
        assert_eq!((get("COORDINATOR_CLIENT_PORT"), get("COORDINATOR_SECURE_CLIENT_PORT")), (None, Some("32181")));
        assert_eq!(get("COORDINATOR_ROLES_ADMIN"), Some("User:CN=admin"));
        let broker = layout.environment(Member::Broker(1), &BTreeMap::new());
        let protocols = broker.get("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP").map(String::as_str);
        assert_eq!(protocols, Some("INTERNAL:SSL,HOST:SASL_SSL"));
        layout.make_secret().expect("made");
        let secret = |member| {
            let environment = layout.environment(member, &BTreeMap::new());
            let names = ["COORDINATOR_CLUSTER_SECRET_FILE", "KAFKA_CLUSTER_SECRET_FILE"];
            names.iter().find_map(|name| environment.get(*name).cloned())
        };
        let secrets: Vec<_> = layout.members().into_iter().map(secret).collect();
        assert_eq!(secrets, vec![Some(dir.join("secret").display().to_string()); 6]);
        let names: Vec<String> = layout.members().iter().map(Member::to_string).collect();
        let missing = layout.security.expect("secured").check(&layout_members()).expect_err("no files").to_string();
        assert!(names.iter().all(|name| missing.contains(name)) && !missing.contains('\n'), "{missing}");
    }

    fn layout_members() -> Vec<Member> {
        layout().members()
    }

    #[test]
    fn a_cluster_keeps_its_size() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let first = Layout::open(folder.path(), Some(1), Some(5)).expect("a layout");
        assert!(!first.exists());
        first.save().expect("saved");
        let again = Layout::open(folder.path(), None, None).expect("a layout");
        assert_eq!((again.coordinators, again.brokers), (1, 5));
        assert!(Layout::open(folder.path(), Some(3), None).is_err());
        assert_eq!(Layout::open(folder.path(), None, Some(6)).expect("a layout").brokers, 6);
        assert!(Layout::open(folder.path(), Some(0), None).is_err());
    }
}
