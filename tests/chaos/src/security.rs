//! Security of a cluster under faults. With it every connection is by TLS and shows who it is, coordinators know
//! roles, and brokers check rules: what is not allowed is denied, also to the clients whose records count.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use ottla_e2e::certificates::Authority;
use ottla_e2e::{Access, Cluster, ClusterOptions, Node};

/// The listener of clients.
const LISTENER: &str = "CLIENTS";
const OPERATOR: &str = "operator";
const OPERATOR_PASSWORD: &str = "operator-secret";
const LOAD: &str = "load";
const LOAD_PASSWORD: &str = "load-secret";
const BETWEEN_BROKERS: &str = "brokers";
/// A topic that the load may not touch.
const FORBIDDEN: &str = "forbidden";

/// How clients and brokers show brokers who they are; coordinators are always shown certificates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// SASL_SSL with SCRAM-SHA-512.
    Passwords,
    /// SSL with certificates on both sides.
    Certificates,
}

impl Security {
    /// One seed of four has security. OTTLA_SECURED=1 gives it to all of them, OTTLA_SECURED=0 to none.
    pub fn of(seed: u64) -> Option<Self> {
        let is_secured = match std::env::var("OTTLA_SECURED") {
            Ok(said) => said == "1",
            Err(_) => seed % 4 == 3,
        };
        is_secured.then_some(if (seed / 4).is_multiple_of(2) { Self::Passwords } else { Self::Certificates })
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Passwords => "SASL_SSL",
            Self::Certificates => "SSL",
        }
    }

    fn principal(self, name: &str) -> String {
        match self {
            Self::Passwords => format!("User:{name}"),
            Self::Certificates => format!("User:CN={name}"),
        }
    }

    fn super_users(self, brokers: i32) -> String {
        let brokers = match self {
            Self::Passwords => vec![self.principal(BETWEEN_BROKERS)],
            Self::Certificates => (1..=brokers).map(|id| self.principal(&Node::Broker(id).to_string())).collect(),
        };
        [vec![self.principal(OPERATOR)], brokers].concat().join(";")
    }

    fn options(self, options: ClusterOptions) -> ClusterOptions {
        let options = ClusterOptions { inter_broker_protocol: self.protocol().to_owned(), ..options };
        let super_users = self.super_users(options.brokers);
        let common = options
            .listening(LISTENER, self.protocol())
            .with("ssl.keystore.type", "PEM")
            .with("ssl.truststore.type", "PEM")
            .with("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .with("super.users", &super_users);
        match self {
            Self::Passwords => common
                .with("sasl.enabled.mechanisms", "SCRAM-SHA-512")
                .with("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512")
                .with("inter.broker.user", BETWEEN_BROKERS)
                .with("inter.broker.password", "between-brokers")
                .with("client.users", OPERATOR)
                .with("client.passwords", OPERATOR_PASSWORD),
            Self::Certificates => common.with("ssl.client.auth", "required"),
        }
    }

    fn clients(self, cluster: &Cluster, folder: &Path, authority: &Authority) -> Result<Clients> {
        let (bootstrap, ca) = (cluster.bootstrap_of(LISTENER), &authority.certificate);
        let access = |name: &str, password: &str| match self {
            Self::Passwords => Access::by_password(bootstrap.clone(), folder, ca, (name, password)),
            Self::Certificates => Access::by_certificate(bootstrap.clone(), folder, ca, (name, &authority.sign(name)?)),
        };
        Ok(Clients {
            load: access(LOAD, LOAD_PASSWORD)?,
            operator: access(OPERATOR, OPERATOR_PASSWORD)?,
            security: Some(self),
        })
    }
}

/// How the clients of a cluster come in.
pub struct Clients {
    /// Those that write and read. With security they may do what [`Clients::allow`] allowed, and nothing else.
    pub load: Access,
    /// May do everything.
    pub operator: Access,
    security: Option<Security>,
}

impl Clients {
    pub fn security(&self) -> Option<Security> {
        self.security
    }

    /// Allows the load to write and read the topics, to read as a member of the groups, and to use the transactional
    /// ids; returns when every broker knows of it.
    pub fn allow(&self, cluster: &Cluster, topics: &[&str], groups: &[&str], transactions: &[&str]) -> Result<()> {
        let Some(security) = self.security else { return Ok(()) };
        if security == Security::Passwords {
            let credential = format!("SCRAM-SHA-512=[password={LOAD_PASSWORD}]");
            let user = ["--alter", "--entity-type", "users", "--entity-name", LOAD, "--add-config", &credential];
            self.operator.run_tool("kafka-configs", &user)?;
        }
        let principal = security.principal(LOAD);
        for (resource, names, operations) in [
            ("--topic", topics, &["Write", "Read"][..]),
            ("--group", groups, &["Read"]),
            ("--transactional-id", transactions, &["Write"]),
        ] {
            if names.is_empty() {
                continue;
            }
            let mut arguments = vec!["--add", "--allow-principal", &principal];
            arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
            arguments.extend(names.iter().flat_map(|name| [resource, name]));
            self.operator.run_tool("kafka-acls", &arguments)?;
        }
        cluster.settle()
    }

    /// The faults have opened nothing: the load may not do more than before, and who shows nothing sees nothing.
    pub fn check_denied(&self, cluster: &Cluster) -> Result<()> {
        if self.security.is_none() {
            return Ok(());
        }
        let create = self.load.run_tool("kafka-topics", &["--create", "--topic", FORBIDDEN]);
        let refused = create.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("uthorization"), "the load may create topics: {refused:?}");
        let anonymous = Access::plaintext(cluster.bootstrap()).run_tool("kafka-topics", &["--list"])?;
        ensure!(anonymous.trim().is_empty(), "a client that shows nothing sees {anonymous}");
        let seen = self.load.run_tool("kafka-topics", &["--list"])?;
        ensure!(!seen.trim().is_empty() && !seen.contains("__"), "the load sees {seen}");
        Ok(())
    }
}

/// A cluster that is not running yet, with security if the seed says so.
pub fn prepare(options: ClusterOptions, seed: u64) -> Result<(Cluster, Clients)> {
    let Some(security) = Security::of(seed) else {
        let cluster = Cluster::prepare(&options)?;
        let access = Access::plaintext(cluster.bootstrap());
        return Ok((cluster, Clients { load: access.clone(), operator: access, security: None }));
    };
    let mut cluster = Cluster::prepare(&security.options(options))?;
    let folder = cluster.folder().join("certificates");
    fs::create_dir(&folder)?;
    let authority = Authority::new(&folder, "ours")?;
    cluster.show_certificates(&authority)?;
    let ca = authority.certificate.display().to_string();
    for node in cluster.nodes().into_iter().filter(|node| matches!(node, Node::Broker(_))) {
        let store = folder.join(format!("{node}.pem")).display().to_string();
        cluster.set_variable(node, "KAFKA_SSL_KEYSTORE_LOCATION", &store)?;
        cluster.set_variable(node, "KAFKA_SSL_TRUSTSTORE_LOCATION", &ca)?;
    }
    let clients = security.clients(&cluster, &folder, &authority)?;
    Ok((cluster, clients))
}

/// As [`prepare`], and running.
pub fn start(options: ClusterOptions, seed: u64) -> Result<(Cluster, Clients)> {
    let (mut cluster, clients) = prepare(options, seed)?;
    cluster.spawn_all()?;
    Ok((cluster, clients))
}
