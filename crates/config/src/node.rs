//! What one process runs: a broker, a coordinator, or both, as Kafka's `process.roles` has it.
//!
//! A node whose settings name no coordinators and no roles is both at once, a cluster by itself. A controller of
//! Kafka's is a coordinator here: it listens where the controller's listener does, and the voters are its quorum.

use std::path::PathBuf;

use crate::address::HostPort;
use crate::broker::{log_dirs, resolve_aliases};
use crate::error::ConfigError;
use crate::formatted::formatted_cluster_id;
use crate::host::Host;
use crate::known::{BROKER_CONFIGS, COORDINATOR_CONFIGS, broker_config_names, broker_knows};
use crate::listeners::{controller_listener, controller_security};
use crate::nearest::nearest;
use crate::properties::{Derived, Properties, Property, Sources, merge};
use crate::reader::{Reader, items};
use crate::security::listener_settings;
use crate::{BrokerConfig, CoordinatorConfig, Loaded, Origin, environment};

const ROLES: &str = "process.roles";
const CONNECT: &str = "coordinator.connect";
const VOTERS: &str = "controller.quorum.voters";
const BOOTSTRAP: &str = "controller.quorum.bootstrap.servers";
const CONTROLLER_NAMES: &str = "controller.listener.names";
/// Kafka's controllers ask for no certificate unless they are told to; coordinators do.
const CLIENT_AUTH: &str = "ssl.client.auth";
const ACCEPTED_ROLES: &str = "broker, controller, or both";
const ACCEPTED_VOTERS: &str = "id@host:port[,id@host:port…]";
/// Gives way to `log.dirs`, as Kafka's default does.
const LOG_DIR: &str = "log.dir";
const METADATA_LOG_DIR: &str = "metadata.log.dir";
/// Kafka's images put the controllers there.
const CONTROLLER_PORT: u16 = 9093;
/// Where spotify's image, and every one before KRaft, has a ZooKeeper.
const ZOOKEEPER_PORT: u16 = 2181;
/// The variables of spotify's and of landoop's image, which hold a ZooKeeper.
const HOSTS_WITH_ZOOKEEPER: &[&str] = &["ADVERTISED_HOST", "ADV_HOST"];
/// A node that is a cluster by itself.
const ONLY_NODE: &str = "1";
/// Raft needs ids above 0, Kafka's nodes begin at 0: that one is the first number that no node can have.
const ZERO_AS_COORDINATOR: u64 = 1 << 31;
/// Below the first log directory of a node that is both.
const COORDINATOR_DIRECTORY: &str = "__coordinator";

/// What an image or a script is named after, which counts where no roles are set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    Broker,
    Coordinator,
}

/// Where data lies unless the settings say so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDefaults {
    pub log_dir: PathBuf,
    pub coordinator_dir: PathBuf,
}

/// What a process runs; one of the two at least.
#[derive(Debug)]
pub struct Node {
    pub coordinator: Option<Loaded<CoordinatorConfig>>,
    pub broker: Option<Loaded<BrokerConfig>>,
}

#[derive(Clone, Copy)]
struct Roles {
    broker: bool,
    controller: bool,
}

impl Node {
    /// Reads what this process is to run.
    pub fn load(service: Service, sources: &Sources, defaults: &NodeDefaults) -> Result<Self, ConfigError> {
        Self::load_on(service, sources, defaults, &Host::this())
    }

    /// The directories that `kafka-storage` formats for a node of these settings, whatever its roles.
    pub fn log_dirs(sources: &Sources, defaults: &NodeDefaults) -> Result<Vec<PathBuf>, ConfigError> {
        let settings = Settings::read(sources, &defaults.log_dir.display().to_string())?;
        let reader = Reader::new(&settings.properties);
        let mut directories = log_dirs(&reader)?;
        if let Some(metadata) = reader.text(METADATA_LOG_DIR).map(PathBuf::from)
            && !directories.contains(&metadata)
        {
            directories.insert(0, metadata);
        }
        Ok(directories)
    }

    /// Reads it as if on `host`.
    pub fn load_on(
        service: Service,
        sources: &Sources,
        defaults: &NodeDefaults,
        host: &Host,
    ) -> Result<Self, ConfigError> {
        let is_coordinator = service == Service::Coordinator;
        // A coordinator's file is no broker's; its environment may still name roles. Where it does not, variables of
        // brokers that share it, with their secrets and commands, are nothing to a coordinator.
        let looked_at = match is_coordinator {
            false => Some(sources.clone()),
            true if environment::names_roles(&sources.environment) => {
                Some(Sources { file: None, flags: Vec::new(), ..sources.clone() })
            }
            true => None,
        };
        let mut sources = sources.clone();
        let log_dir = defaults.log_dir.display().to_string();
        let settings = looked_at.map(|looked_at| Settings::read(&looked_at, &log_dir)).transpose()?;
        let Some(mut settings) = settings.filter(|settings| !is_coordinator || settings.roles.is_some()) else {
            let data_dir = defaults.coordinator_dir.display().to_string();
            sources.derived.push(Derived::new("data.dir", data_dir, "where this image keeps it"));
            let coordinator = CoordinatorConfig::load_on(&sources, host)?;
            return Ok(Self { coordinator: Some(coordinator), broker: None });
        };
        sources.derived.push(Derived::new(LOG_DIR, log_dir, "where this image keeps it"));
        let roles = match settings.roles {
            Some(roles) => roles,
            None if settings.connects()? => Roles { broker: true, controller: false },
            None => settings.be_a_cluster(&mut sources),
        };
        let coordinator = match roles.controller {
            true => Some(settings.coordinator(&sources, roles, host)?),
            false => None,
        };
        let broker = match roles.broker {
            true => {
                if let Some(Loaded { config, .. }) = &coordinator {
                    settings.connect_to(config, &mut sources);
                }
                Some(BrokerConfig::load_on(&sources, host)?)
            }
            false => None,
        };
        Ok(Self { coordinator, broker })
    }
}

/// A broker that knows voters connects to them.
pub(crate) fn connect_by_voters(properties: &mut Properties) -> Result<(), ConfigError> {
    if Reader::new(properties).property(CONNECT).is_some() {
        return Ok(());
    }
    let addresses: Vec<String> = match Reader::new(properties).property(VOTERS) {
        Some(property) => voters(property)?.into_iter().map(|(_, address)| address.to_string()).collect(),
        None => Reader::new(properties).list(BOOTSTRAP).into_iter().map(str::to_owned).collect(),
    };
    if !addresses.is_empty() {
        let from = if properties.explicit(VOTERS).is_some() { VOTERS } else { BOOTSTRAP };
        let origin = Origin::Derived(from.to_owned());
        properties.insert(CONNECT, Property { value: addresses.join(","), origin });
    }
    Ok(())
}

/// Whether a broker has the coordinators' addresses from settings of Kafka's controllers.
pub(crate) fn knows_controllers(properties: &Properties) -> bool {
    properties.get(CONNECT).is_some_and(|property| matches!(property.origin, Origin::Derived(_)))
}

/// `id@host:port,…`, in their order.
fn voters(property: &Property) -> Result<Vec<(i32, HostPort)>, ConfigError> {
    let invalid = |problem: String| ConfigError::invalid(VOTERS, property, problem, ACCEPTED_VOTERS);
    items(&property.value)
        .into_iter()
        .map(|item| {
            let (id, address) = item.split_once('@').ok_or_else(|| invalid(format!("`{item}` has no `id@`")))?;
            let id = id.trim().parse::<i32>().ok().filter(|id| *id >= 0);
            let id = id.ok_or_else(|| invalid(format!("`{item}` begins with no node id")))?;
            Ok((id, HostPort::parse(address, None).map_err(invalid)?))
        })
        .collect()
}

fn coordinator_id(node: i32) -> u64 {
    u64::try_from(node).ok().filter(|id| *id > 0).unwrap_or(ZERO_AS_COORDINATOR)
}

/// The settings of a node that may be a broker, a controller or both.
struct Settings {
    properties: Properties,
    roles: Option<Roles>,
    /// Whether clients may look for the coordinator where a ZooKeeper would be.
    replaces_zookeeper: bool,
}

impl Settings {
    fn read(sources: &Sources, log_dir: &str) -> Result<Self, ConfigError> {
        let mut sources = sources.clone();
        sources.derived.push(Derived::new(LOG_DIR, log_dir, "where this image keeps it"));
        let defaults = BROKER_CONFIGS.iter().filter_map(|known| Some((known.name, known.default?)));
        let mut properties = merge(defaults, &sources, environment::of_broker, &mut Vec::new())?;
        resolve_aliases(&mut properties)?;
        let roles = read_roles(&properties)?;
        if roles.is_some() && Reader::new(&properties).property(CONTROLLER_NAMES).is_none() {
            let origin = Origin::Derived(ROLES.to_owned());
            properties.insert(CONTROLLER_NAMES, Property { value: "CONTROLLER".to_owned(), origin });
        }
        Ok(Self { properties, roles, replaces_zookeeper: false })
    }

    /// Whether it names coordinators. A key that was meant to is no reason to be a cluster by itself.
    fn connects(&self) -> Result<bool, ConfigError> {
        let reader = Reader::new(&self.properties);
        if [CONNECT, VOTERS, BOOTSTRAP].iter().any(|key| reader.property(key).is_some()) {
            return Ok(true);
        }
        let meant = ["zookeeper.connect", CONNECT, VOTERS, BOOTSTRAP];
        for (name, property) in self.properties.iter().filter(|(name, _)| !broker_knows(name)) {
            if nearest(name, broker_config_names().chain(["zookeeper.connect"]))
                .is_some_and(|near| meant.contains(&near))
            {
                return Err(ConfigError::Variable {
                    variable: property.origin.to_string(),
                    problem: format!("{name} is unknown, and without it this node would be a cluster by itself"),
                    accepted: "KAFKA_ZOOKEEPER_CONNECT or KAFKA_CONTROLLER_QUORUM_VOTERS, or neither".to_owned(),
                });
            }
        }
        Ok(false)
    }

    /// A broker and its only coordinator.
    fn be_a_cluster(&mut self, sources: &mut Sources) -> Roles {
        let mut settings = vec![
            (ROLES, "broker,controller"),
            (CONTROLLER_NAMES, "CONTROLLER"),
            ("broker.id", ONLY_NODE),
            // Kafka's own defaults would have three replicas of each, which one node cannot give.
            ("offsets.topic.replication.factor", "1"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
        ];
        let is_told_nothing = !self.properties.iter().any(|(_, property)| property.origin.is_static());
        let has_zookeeper = |property: &Property| {
            HOSTS_WITH_ZOOKEEPER.iter().any(|host| property.origin == Origin::Environment((*host).to_owned()))
        };
        self.replaces_zookeeper =
            is_told_nothing || self.properties.get("advertised.host.name").is_some_and(has_zookeeper);
        if is_told_nothing {
            // Nothing was said at all: as apache/kafka, which is tried out from the machine that published the port.
            settings.push(("advertised.listeners", "PLAINTEXT://localhost:9092"));
        }
        for (name, value) in settings {
            let derived = Derived::new(name, value, "no coordinators are named: a cluster of one node");
            if self.properties.explicit(name).is_none() {
                let origin = Origin::Derived(derived.from.clone());
                self.properties.insert(name, Property { value: value.to_owned(), origin });
            }
            sources.derived.push(derived);
        }
        Roles { broker: true, controller: true }
    }

    fn coordinator(
        &self,
        sources: &Sources,
        roles: Roles,
        host: &Host,
    ) -> Result<Loaded<CoordinatorConfig>, ConfigError> {
        let reader = Reader::new(&self.properties);
        let voters = match reader.property(VOTERS) {
            Some(property) => voters(property)?,
            None => Vec::new(),
        };
        let own = self.own_voter(&voters)?;
        let listener = controller_listener(&self.properties)?;
        let port = match (&listener, own) {
            (Some(listener), _) => listener.port,
            (None, Some((_, address))) => address.port,
            (None, None) => CONTROLLER_PORT,
        };
        let mut derived = Vec::new();
        let mut derive = |name: &str, value: String, from: &str| derived.push(Derived::new(name, value, from));
        let by_tls = controller_security(&self.properties)?.filter(|(_, has_tls)| *has_tls).map(|(name, _)| name);
        if let Some(name) = by_tls {
            derive("secure.client.port", port.to_string(), "the controller's listener");
            derive("ssl.quorum", "true".to_owned(), "the controller's listener");
            let names = COORDINATOR_CONFIGS.iter().map(|(name, _)| *name).filter(|name| name.starts_with("ssl."));
            let settings = listener_settings(&self.properties, &name, names);
            if !settings.iter().any(|(name, _)| *name == CLIENT_AUTH) {
                derive(CLIENT_AUTH, "none".to_owned(), "Kafka's default");
            }
            for (name, property) in settings {
                derive(name, property.value.clone(), &property.origin.to_string());
            }
        } else if self.replaces_zookeeper && listener.is_none() {
            derive("client.port", ZOOKEEPER_PORT.to_string(), "no coordinators are named: a cluster of one node");
            derive("peer.port", port.to_string(), "the controller's listener");
        } else {
            derive("client.port", port.to_string(), "the controller's listener");
        }
        if let Some(listener) = listener.filter(|listener| !listener.host.is_empty()) {
            derive("client.host", listener.host, "the controller's listener");
        }
        if let Some((id, _)) = own {
            derive("id", coordinator_id(*id).to_string(), "node.id");
            let servers = voters.iter().map(|(id, address)| format!("{}@{address}", coordinator_id(*id)));
            derive("servers", servers.collect::<Vec<_>>().join(","), VOTERS);
        } else if reader.list(BOOTSTRAP).len() > 1 {
            // The brokers name the others, as they do where ZooKeeper's settings have an id and no list.
            let node = self.node_id()?.ok_or_else(|| ConfigError::missing("node.id", "a number of this node's own"))?;
            derive("id", coordinator_id(node).to_string(), "node.id");
        }
        derive("data.dir", self.coordinator_directory(), "log.dirs");
        for name in ["cluster.id", "cluster.secret", "core.dump.enable", "logging.format", "logging.level"] {
            if let Some(property) = self.properties.explicit(name) {
                derive(name, property.value.clone(), &property.origin.to_string());
            }
        }
        if self.properties.explicit("cluster.id").is_none()
            && let Some(id) = self.formatted_cluster_id()
        {
            derive("cluster.id", id, "kafka-storage format");
        }
        if !roles.broker
            && let Some(property) = self.properties.explicit("http.port")
        {
            derive("http.port", property.value.clone(), &property.origin.to_string());
        }
        // A node of both speaks of its coordinator by COORDINATOR_ variables alone.
        let environment = sources.environment.iter().filter(|(name, _)| name.starts_with("COORDINATOR_"));
        let sources = Sources { environment: environment.cloned().collect(), derived, ..Sources::default() };
        CoordinatorConfig::load_on(&sources, host)
    }

    fn node_id(&self) -> Result<Option<i32>, ConfigError> {
        Ok(Reader::new(&self.properties).optional("broker.id", -1..=i32::MAX)?.filter(|id| *id >= 0))
    }

    /// This node among the voters; a list of one is this node's where it says no id.
    fn own_voter<'a>(&self, voters: &'a [(i32, HostPort)]) -> Result<Option<&'a (i32, HostPort)>, ConfigError> {
        let Some(property) = Reader::new(&self.properties).property(VOTERS) else { return Ok(None) };
        let node = self.node_id()?;
        let own = match (node, voters) {
            (Some(node), _) => voters.iter().find(|(id, _)| *id == node),
            (None, [only]) => Some(only),
            (None, _) => return Err(ConfigError::missing("node.id", "one of the voters' ids")),
        };
        own.map(Some).ok_or_else(|| {
            let problem = format!("node {} is not among them", node.unwrap_or_default());
            ConfigError::invalid(
                VOTERS,
                property,
                problem,
                "a list with this node.id, or a node without the role controller",
            )
        })
    }

    fn first_log_dir(&self) -> PathBuf {
        let reader = Reader::new(&self.properties);
        let dirs = [reader.list(METADATA_LOG_DIR), reader.list("log.dirs"), reader.list(LOG_DIR)].concat();
        dirs.first().map(PathBuf::from).unwrap_or_default()
    }

    fn coordinator_directory(&self) -> String {
        self.first_log_dir().join(COORDINATOR_DIRECTORY).display().to_string()
    }

    fn formatted_cluster_id(&self) -> Option<String> {
        formatted_cluster_id(&self.first_log_dir())
    }

    /// A broker of a node that is both finds its own coordinator, and with it the quorum.
    fn connect_to(&self, coordinator: &CoordinatorConfig, sources: &mut Sources) {
        if coordinator.servers.is_empty() && Reader::new(&self.properties).property(BOOTSTRAP).is_none() {
            let host = match coordinator.client_host.as_str() {
                "" | "0.0.0.0" | "::" => "127.0.0.1",
                host => host,
            };
            if let Some(port) = coordinator.client_port.or(coordinator.secure_client_port) {
                let address = HostPort::new(host, port).to_string();
                sources.derived.push(Derived::new(CONNECT, address, "this node's coordinator"));
            }
        }
        if Reader::new(&self.properties).property(CONTROLLER_NAMES).is_some_and(|names| !names.origin.is_static()) {
            sources.derived.push(Derived::new(CONTROLLER_NAMES, "CONTROLLER", ROLES));
        }
        if let Ok(None) = self.node_id()
            && let [server] = coordinator.servers.as_slice()
        {
            sources.derived.push(Derived::new("broker.id", server.id.to_string(), VOTERS));
        }
    }
}

fn read_roles(properties: &Properties) -> Result<Option<Roles>, ConfigError> {
    let Some(property) = Reader::new(properties).property(ROLES) else { return Ok(None) };
    let mut roles = Roles { broker: false, controller: false };
    for role in items(&property.value) {
        match role {
            "broker" => roles.broker = true,
            "controller" => roles.controller = true,
            _ => return Err(ConfigError::invalid(ROLES, property, format!("`{role}` is no role"), ACCEPTED_ROLES)),
        }
    }
    Ok(Some(roles).filter(|roles| roles.broker || roles.controller))
}
