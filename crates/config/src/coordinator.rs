//! A coordinator's configuration.

use std::path::PathBuf;
use std::time::Duration;

use ottla_model::{ClusterId, ClusterSecret, CoordinatorId};
use ottla_tls::ClientAuth;

use crate::Loaded;
use crate::address::HostPort;
use crate::broker::http;
use crate::broker_client::BrokerClientConfig;
use crate::coordinator_tls::CoordinatorTls;
use crate::environment;
use crate::error::ConfigError;
use crate::host::Host;
use crate::known::{COORDINATOR_ALIASES, COORDINATOR_CONFIGS, COORDINATOR_UNREAD, UNIFICATION, coordinator_knows};
use crate::logging::LoggingConfig;
use crate::nearest::nearest;
use crate::properties::{Properties, Property, Sources, merge};
use crate::reader::Reader;
use crate::roles::RolesConfig;

/// One member of the configured quorum.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuorumServer {
    pub id: CoordinatorId,
    /// Where its peers reach it.
    pub address: HostPort,
}

/// Everything a coordinator is configured with: `COORDINATOR_FOO_BAR`, cp-zookeeper's variables, or a file.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// `COORDINATOR_ID` / `ZOOKEEPER_SERVER_ID`, else `DATA_DIR/myid`. None and no servers: a quorum of one at once.
    /// With an id and no servers it waits to be told the list (by the first broker).
    pub id: Option<CoordinatorId>,
    /// The voters of a first start, by id, each id and address once; empty: none configured. Contains `id`.
    pub servers: Vec<QuorumServer>,
    /// Where gRPC is served in plaintext; port 0 is any free one. None: only by TLS, at `secure_client_port`.
    pub client_host: String,
    pub client_port: Option<u16>,
    /// Where the same is served by TLS.
    pub secure_client_port: Option<u16>,
    /// Of the secure port, and of the connections between coordinators; none: nothing is by TLS.
    pub tls: Option<CoordinatorTls>,
    /// What callers may do, by their certificates; none: callers have no roles.
    pub roles: Option<RolesConfig>,
    /// How brokers are asked for what only they know.
    pub broker_client: BrokerClientConfig,
    /// `ssl.member.id`: the ids of brokers and coordinators stand in their certificates.
    pub binds_member_ids: bool,
    /// A second port with the same services, for peers: `COORDINATOR_PEER_PORT`, or the port of this coordinator's own
    /// entry in the list of servers where that is not `client_port` (ZooKeeper's 2888).
    pub peer_port: Option<u16>,
    /// What others are told to connect to (leader hints); none: this coordinator's entry in `servers`.
    pub advertised_address: Option<HostPort>,
    pub data_dir: PathBuf,
    /// `CLUSTER_ID`; none: the first leader makes one.
    pub cluster_id: Option<ClusterId>,
    /// What brokers and other coordinators must show; none: nothing.
    pub cluster_secret: Option<ClusterSecret>,
    /// `core.dump.enable`.
    pub core_dump_enable: bool,
    /// An empty disk may vote although peers cannot be asked: set by hand, once.
    pub bootstrap: bool,

    /// Serve ZooKeeper's client protocol on the client port.
    pub zookeeper_protocol: bool,
    /// Connections of ZooKeeper's clients from one address; none: bounded only together.
    pub client_connections_max: Option<usize>,
    /// ZooKeeper's. Sessions of its clients last from 2 to 20 ticks. It does not change the election clock.
    pub tick_time: Duration,
    pub raft_tick: Duration,
    /// A multiple of `raft_tick`.
    pub raft_heartbeat: Duration,
    /// Election time-outs are drawn between these two.
    pub raft_election_min: Duration,
    pub raft_election_max: Duration,
    /// Bytes of log after which a snapshot lets it be cut.
    pub snapshot_bytes: u64,

    pub broker_session_timeout: Duration,
    /// How long a broker's ended stream may stay away before it counts as gone.
    pub broker_stream_grace: Duration,
    /// Ids that the quorum gives are above this.
    pub reserved_broker_max_id: i32,
    /// `reassignment.max.partitions.per.broker`.
    pub reassignments_per_broker_max: usize,

    /// Where /metrics, /healthz and /readyz are served; none: nowhere. Port 0 is any free one.
    pub http: Option<HostPort>,
    pub logging: LoggingConfig,
    pub properties: Properties,
}

const SERVERS: &str = "servers";
const ZOOKEEPER_SERVERS: &str = "zookeeper.servers";
const ACCEPTED_SERVERS: &str = "id@host:port[,id@host:port…]";
const ACCEPTED_ZOOKEEPER_SERVERS: &str =
    "host:2888:3888[;host:2888:3888…], server.1=host:2888:3888[;2181] …, or host:2888:3888::1,…";
/// ZooKeeper's port between members.
const PEER_PORT: u16 = 2888;

impl CoordinatorConfig {
    /// Reads a configuration for this machine. Looks for `myid` in the data directory where no id is set.
    pub fn load(sources: &Sources) -> Result<Loaded<Self>, ConfigError> {
        Self::load_on(sources, &Host::this())
    }

    /// Reads a configuration as if on `host`.
    pub fn load_on(sources: &Sources, host: &Host) -> Result<Loaded<Self>, ConfigError> {
        let mut warnings = Vec::new();
        let defaults = COORDINATOR_CONFIGS.iter().filter_map(|(name, default)| Some((*name, (*default)?)));
        let mut properties = merge(defaults, sources, environment::of_coordinator, &mut warnings)?;
        warn_of_unknown(&properties, &mut warnings);
        for (alias, name) in COORDINATOR_ALIASES {
            let Some(aliased) = properties.remove(alias) else { continue };
            match properties.explicit(name) {
                None => properties.insert(name, aliased),
                // ZooKeeper has two settings for what is one here.
                Some(known) if *name == UNIFICATION && known.value != aliased.value => {
                    let problem = format!("{name} is {} ({})", known.value, known.origin);
                    return Err(ConfigError::invalid(alias, &aliased, problem, "the same for all ports"));
                }
                Some(_) => {}
            }
        }
        let reader = Reader::new(&properties);
        let servers = servers(&properties, host)?;
        let data_dir = PathBuf::from(reader.text("data.dir").unwrap_or("/var/lib/zookeeper/data"));
        let id = match reader.optional("id", 1..=u64::MAX)? {
            Some(id) => Some(CoordinatorId(id)),
            None => read_myid(&data_dir),
        };
        check_own_id(&reader, id, &servers)?;
        let secure_client_port = reader.optional("secure.client.port", 0..=u16::MAX)?;
        let is_client_port_asked_for = properties.explicit("client.port").is_some() || secure_client_port.is_none();
        let client_port = is_client_port_asked_for.then(|| reader.number("client.port", 0..=u16::MAX)).transpose()?;
        let tls = CoordinatorTls::read(&properties, secure_client_port, &mut warnings)?;
        let own = servers.iter().find(|server| Some(server.id) == id);
        let peer_port = match reader.optional("peer.port", 1..=u16::MAX)? {
            Some(port) => Some(port),
            None => own.map(|server| server.address.port),
        };
        let tick_time = reader.duration_ms("tick.time", 1)?;
        let config = Self {
            id,
            client_host: reader.text("client.host").unwrap_or("0.0.0.0").to_owned(),
            client_port,
            secure_client_port,
            peer_port: peer_port.filter(|port| ![client_port, secure_client_port].contains(&Some(*port))),
            advertised_address: advertised_address(&reader, default_port(client_port, secure_client_port, &tls))?,
            roles: RolesConfig::read(&reader)?,
            broker_client: BrokerClientConfig::read(&properties)?,
            binds_member_ids: reader.boolean("ssl.member.id")?,
            tls,
            servers,
            data_dir,
            cluster_id: reader.text("cluster.id").map(ClusterId::new),
            cluster_secret: reader.text("cluster.secret").map(ClusterSecret::new),
            core_dump_enable: reader.boolean("core.dump.enable")?,
            bootstrap: reader.boolean("bootstrap")?,
            zookeeper_protocol: reader.boolean("zookeeper.protocol")?,
            client_connections_max: Some(reader.number("max.client.cnxns", 0..=usize::MAX)?).filter(|max| *max > 0),
            tick_time,
            raft_tick: reader.duration_ms("raft.tick.ms", 1)?,
            raft_heartbeat: reader.duration_ms("raft.heartbeat.ms", 1)?,
            raft_election_min: reader.duration_ms("raft.election.min.ms", 1)?,
            raft_election_max: reader.duration_ms("raft.election.max.ms", 1)?,
            snapshot_bytes: reader.number("snapshot.bytes", 1..=u64::MAX)?,
            broker_session_timeout: reader.duration_ms("broker.session.timeout.ms", 1)?,
            broker_stream_grace: reader.duration_ms("broker.stream.grace.ms", 0)?,
            reserved_broker_max_id: reader.number("reserved.broker.max.id", 0..=i32::MAX)?,
            reassignments_per_broker_max: reader.number("reassignment.max.partitions.per.broker", 1..=usize::MAX)?,
            http: http(&reader)?,
            logging: LoggingConfig::read(&reader)?,
            properties,
        };
        config.check_clock()?;
        config.check_ports()?;
        config.check_access()?;
        Ok(Loaded { config, warnings })
    }

    /// `port.unification`: both on ports that otherwise accept one of TLS and plaintext.
    pub fn unifies_ports(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.unifies_ports)
    }

    /// The port of this coordinator in the list of servers must speak as its peers will.
    fn check_ports(&self) -> Result<(), ConfigError> {
        let is_secure = self.tls.as_ref().is_some_and(|tls| tls.between_coordinators);
        if self.unifies_ports() && self.client_port.or(self.peer_port).is_none() {
            let accepted =
                "client.port, or a port of peers, for port.unification: secure.client.port stays by TLS alone";
            return Err(ConfigError::missing("client.port", accepted));
        }
        let own = self.servers.iter().find(|server| Some(server.id) == self.id);
        let port = own.map(|own| own.address.port);
        let secure = self.secure_client_port;
        let problem = match (is_secure, port) {
            (true, _) if self.unifies_ports() => return Ok(()),
            (true, None) if secure.or(self.peer_port).is_none() => "no port is by TLS",
            (true, Some(port)) if Some(port) == self.client_port => "the list of servers names client.port",
            (false, Some(port)) if Some(port) == secure => "the list of servers names secure.client.port",
            _ => return Ok(()),
        };
        let unset = Property { value: is_secure.to_string(), origin: crate::Origin::Default };
        let property = self.properties.get("ssl.quorum").unwrap_or(&unset);
        let accepted = "true where the list names secure.client.port or peer.port, false where it names client.port \
                        (port.unification=true for the time of a rolling change)";
        Err(ConfigError::invalid("ssl.quorum", property, problem, accepted))
    }

    /// Roles that nobody could have would close the quorum for its own members.
    fn check_access(&self) -> Result<(), ConfigError> {
        let shows_certificates = self.tls.as_ref().filter(|tls| tls.settings.client_auth != ClientAuth::None);
        let is_certified = shows_certificates.is_some_and(|tls| tls.between_coordinators || self.servers.len() < 2);
        if self.binds_member_ids && !is_certified {
            let accepted = "certificates of all members, for ssl.member.id: secure.client.port, ssl.quorum=true, and \
                            ssl.client.auth that is not none";
            return Err(ConfigError::missing("ssl.quorum", accepted));
        }
        let Some(roles) = &self.roles else { return Ok(()) };
        if self.cluster_secret.is_some() {
            return Ok(());
        }
        if !is_certified {
            let accepted = "a way for members to show who they are, for roles.*: certificates (ssl.quorum=true, and \
                            ssl.client.auth that is not none), or cluster.secret";
            return Err(ConfigError::missing("ssl.quorum", accepted));
        }
        if roles.member.is_empty() {
            return Err(ConfigError::missing("roles.member", "the principals of brokers and coordinators"));
        }
        Ok(())
    }

    /// Raft counts in ticks: heartbeats and elections must be whole ones, and in order.
    fn check_clock(&self) -> Result<(), ConfigError> {
        let tick = self.raft_tick.as_millis();
        for (name, value) in [
            ("raft.heartbeat.ms", self.raft_heartbeat),
            ("raft.election.min.ms", self.raft_election_min),
            ("raft.election.max.ms", self.raft_election_max),
        ] {
            if value.as_millis() % tick != 0 {
                return Err(self.bad_clock(name, &format!("a multiple of raft.tick.ms={tick}")));
            }
        }
        if self.raft_election_min <= self.raft_heartbeat {
            return Err(self.bad_clock("raft.election.min.ms", "more than raft.heartbeat.ms"));
        }
        if self.raft_election_max <= self.raft_election_min {
            return Err(self.bad_clock("raft.election.max.ms", "more than raft.election.min.ms"));
        }
        Ok(())
    }

    fn bad_clock(&self, name: &str, accepted: &str) -> ConfigError {
        match self.properties.get(name) {
            Some(property) => ConfigError::invalid(name, property, "does not fit the other clocks", accepted),
            None => ConfigError::missing(name, accepted),
        }
    }
}

fn warn_of_unknown(properties: &Properties, warnings: &mut Vec<String>) {
    for (name, property) in properties.iter().filter(|(name, _)| !coordinator_knows(name)) {
        let hint = match nearest(name, COORDINATOR_CONFIGS.iter().map(|(known, _)| *known)) {
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        };
        warnings.push(format!("{name} ({}) is unknown and not used{hint}", property.origin));
    }
    for (name, why) in COORDINATOR_UNREAD {
        if let Some(property) = properties.explicit(name) {
            warnings.push(format!("{name} ({}) has no effect: {why}", property.origin));
        }
    }
}

/// `servers`, else `zookeeper.servers`, else the `server.N` lines of a `zoo.cfg`.
fn servers(properties: &Properties, host: &Host) -> Result<Vec<QuorumServer>, ConfigError> {
    let reader = Reader::new(properties);
    let mut servers = Vec::new();
    if let Some(property) = reader.property(SERVERS) {
        let invalid = |problem: String| ConfigError::invalid(SERVERS, property, problem, ACCEPTED_SERVERS);
        for item in property.value.split([',', ';']).map(str::trim).filter(|item| !item.is_empty()) {
            let (id, address) = item.split_once('@').ok_or_else(|| invalid(format!("`{item}` has no `id@`")))?;
            let id = server_id(id).map_err(invalid)?;
            let address = HostPort::parse(address, None).map_err(invalid)?;
            push(&mut servers, QuorumServer { id, address }).map_err(invalid)?;
        }
    } else if let Some(property) = reader.property(ZOOKEEPER_SERVERS) {
        let invalid =
            |problem: String| ConfigError::invalid(ZOOKEEPER_SERVERS, property, problem, ACCEPTED_ZOOKEEPER_SERVERS);
        for (at, item) in zookeeper_items(&property.value).into_iter().enumerate() {
            let (id, address) =
                match (item.strip_prefix("server.").and_then(|rest| rest.split_once('=')), item.rsplit_once("::")) {
                    (Some((id, address)), _) => (server_id(id).map_err(invalid)?, address),
                    (None, Some((address, id))) => (server_id(id).map_err(invalid)?, address),
                    (None, None) => (CoordinatorId(u64::try_from(at).unwrap_or_default() + 1), item),
                };
            let address = zookeeper_address(address, host).map_err(invalid)?;
            push(&mut servers, QuorumServer { id, address }).map_err(invalid)?;
        }
    } else {
        for (name, property) in properties.iter() {
            let Some(id) = name.strip_prefix("server.").filter(|rest| rest.bytes().all(|b| b.is_ascii_digit())) else {
                continue;
            };
            let invalid = |problem: String| ConfigError::invalid(name, property, problem, "host:2888:3888");
            let id = server_id(id).map_err(invalid)?;
            let address = zookeeper_address(&property.value, host).map_err(invalid)?;
            push(&mut servers, QuorumServer { id, address }).map_err(invalid)?;
        }
    }
    servers.sort();
    Ok(servers)
}

fn push(servers: &mut Vec<QuorumServer>, server: QuorumServer) -> Result<(), String> {
    if servers.iter().any(|known| known.id == server.id) {
        return Err(format!("id {} is there twice", server.id));
    }
    if servers.iter().any(|known| known.address == server.address) {
        return Err(format!("{} is there twice", server.address));
    }
    servers.push(server);
    Ok(())
}

fn server_id(text: &str) -> Result<CoordinatorId, String> {
    match text.trim().parse::<u64>() {
        Ok(id) if id > 0 => Ok(CoordinatorId(id)),
        _ => Err(format!("`{text}` is no id from 1 upwards")),
    }
}

/// The entries of a list, separated by semicolons, commas or blanks. After the semicolon of a `server.N=` entry, up to
/// the next blank, is that server's client port.
fn zookeeper_items(list: &str) -> Vec<&str> {
    let words = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let mut items = Vec::new();
    for word in words {
        let is_client_port = |part: &str| {
            part.rsplit(':').next().is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
                && part.matches(':').count() <= 1
        };
        let mut parts = word.split(';').filter(|part| !part.is_empty());
        items.extend(parts.next());
        items.extend(parts.filter(|part| !(word.starts_with("server.") && is_client_port(part))));
    }
    items
}

/// `host:2888:3888[:role][;clientPort]`: peers use the first port; ZooKeeper's election port is not needed. `0.0.0.0`
/// stands in a server's own entry only, and means this machine.
fn zookeeper_address(item: &str, host: &Host) -> Result<HostPort, String> {
    let mut address = server_address(item)?;
    if address.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        host.name().clone_into(&mut address.host);
    }
    Ok(address)
}

fn server_address(item: &str) -> Result<HostPort, String> {
    let item = item.split(';').next().unwrap_or_default().trim();
    let (host, rest) = match item.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or_else(|| format!("`{item}` has no closing bracket"))?;
            (format!("[{host}]"), rest.strip_prefix(':').unwrap_or_default())
        }
        None => {
            let (host, rest) = item.split_once(':').unwrap_or((item, ""));
            (host.to_owned(), rest)
        }
    };
    let port = rest.split(':').next().unwrap_or_default();
    if port.is_empty() {
        return HostPort::parse(&host, Some(PEER_PORT));
    }
    HostPort::parse(&format!("{host}:{port}"), None)
}

fn check_own_id(reader: &Reader<'_>, id: Option<CoordinatorId>, servers: &[QuorumServer]) -> Result<(), ConfigError> {
    if servers.is_empty() {
        return Ok(());
    }
    let ids = servers.iter().map(|server| server.id.to_string()).collect::<Vec<_>>().join(", ");
    let accepted = format!("one of {ids} (COORDINATOR_ID or ZOOKEEPER_SERVER_ID), as the list of servers has them");
    match id {
        None => Err(ConfigError::missing("id", accepted)),
        Some(id) if !servers.iter().any(|server| server.id == id) => {
            let stored = Property { value: id.to_string(), origin: crate::Origin::File("myid".into()) };
            let property = reader.property("id").unwrap_or(&stored);
            Err(ConfigError::invalid("id", property, "is not in the list of servers", accepted))
        }
        Some(_) => Ok(()),
    }
}

/// The port at which other coordinators reach this one, unless the list of servers says otherwise.
fn default_port(client: Option<u16>, secure: Option<u16>, tls: &Option<CoordinatorTls>) -> u16 {
    let is_secure = tls.as_ref().is_some_and(|tls| tls.between_coordinators);
    let by_protocol = if is_secure { secure } else { client };
    by_protocol.or(client).or(secure).unwrap_or_default()
}

fn advertised_address(reader: &Reader<'_>, client_port: u16) -> Result<Option<HostPort>, ConfigError> {
    const KEY: &str = "advertised.address";
    let Some(property) = reader.property(KEY) else { return Ok(None) };
    HostPort::parse(&property.value, Some(client_port))
        .map(Some)
        .map_err(|problem| ConfigError::invalid(KEY, property, problem, "host:port"))
}

/// The id that ZooKeeper's images keep in the data directory.
fn read_myid(data_dir: &std::path::Path) -> Option<CoordinatorId> {
    let text = std::fs::read_to_string(data_dir.join("myid")).ok()?;
    text.trim().parse().ok().filter(|id| *id > 0).map(CoordinatorId)
}
