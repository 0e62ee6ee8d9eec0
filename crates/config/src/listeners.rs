//! The sockets that a broker opens, the addresses that it advertises, and the listener of the brokers.
//!
//! Invariants of what [`resolve`] returns: listener names are unique and so are their ports (0 excepted: any free
//! one); every advertised name is a listener; the inter-broker listener is advertised; nothing advertises an
//! unspecified address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ottla_model::{ListenerName, SecurityProtocol};

use crate::address::HostPort;
use crate::error::ConfigError;
use crate::host::Host;
use crate::properties::{Origin, Properties, Property};
use crate::reader::{Reader, items, one_of};

/// A named endpoint: one to listen on, or one to tell clients of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Listener {
    pub name: ListenerName,
    /// Of a listening one: empty or `0.0.0.0` is every address; a host name is resolved when it is bound.
    /// Of an advertised one: never empty and never unspecified.
    pub host: String,
    /// 0: any free port (of an advertised one: the port that was bound).
    pub port: u16,
    pub protocol: SecurityProtocol,
}

impl Listener {
    /// Whether it is to be bound to every address.
    pub fn binds_all(&self) -> bool {
        is_unspecified(&self.host)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.name, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.name, self.host, self.port)
        }
    }
}

/// What the listener properties come to.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub listeners: Vec<Listener>,
    pub advertised: Vec<Listener>,
    pub inter_broker: ListenerName,
}

const LISTENERS: &str = "listeners";
const ADVERTISED: &str = "advertised.listeners";
const MAP: &str = "listener.security.protocol.map";
const MAP_VARIABLE: &str = "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP";
const CONTROLLER_NAMES: &str = "controller.listener.names";
const INTER_BROKER: &str = "inter.broker.listener.name";
const INTER_BROKER_PROTOCOL: &str = "security.inter.broker.protocol";
const ACCEPTED_LISTENERS: &str = "NAME://[host]:port[,NAME://[host]:port…]";
const DEFAULT_PORT: u16 = 9092;

/// An entry before its protocol is known.
#[derive(Clone, PartialEq, Debug)]
struct Entry {
    name: String,
    host: String,
    port: u16,
}

/// Works the listener properties out. `warnings` gets a line for everything that was corrected or guessed.
pub(crate) fn resolve(
    properties: &Properties,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Listeners, ConfigError> {
    let reader = Reader::new(properties);
    let controllers = controller_names(properties);
    let is_brokers = |entry: &Entry| !controllers.contains(&entry.name);
    let advertised_property = advertised_property(properties, warnings)?;
    let listeners_property = listeners_property(properties)?;
    let advertised = match &advertised_property {
        Some(property) => {
            let mut entries = parse(ADVERTISED, property, warnings)?;
            entries.retain(is_brokers);
            advertise_this_machine(&mut entries, host);
            Some(entries)
        }
        None => None,
    };
    // Whose text the listeners were read from, for messages about them.
    let (key, source, listeners) = match (&listeners_property, &advertised, &advertised_property) {
        (Some(property), _, _) => {
            let mut entries = bind_where_we_are(parse(LISTENERS, property, warnings)?, host, warnings);
            entries.retain(is_brokers);
            (LISTENERS, property.clone(), entries)
        }
        (None, Some(entries), Some(property)) => (ADVERTISED, property.clone(), derive(entries)),
        _ => {
            let property = Property { value: "PLAINTEXT://:9092".to_owned(), origin: Origin::Default };
            let entries = parse(LISTENERS, &property, warnings)?;
            (LISTENERS, property, entries)
        }
    };
    check_unique(key, &source, &listeners, true)?;
    if listeners.is_empty() {
        return Err(ConfigError::invalid(key, &source, "names no listener", ACCEPTED_LISTENERS));
    }
    let protocols = Protocols::read(&reader)?;
    let listeners = protocols.assign(key, &source, &listeners)?;

    let advertised = match (advertised, advertised_property) {
        (Some(entries), Some(property)) => {
            check_unique(ADVERTISED, &property, &entries, false)?;
            check_advertised(&property, &entries, &listeners)?;
            let advertised = protocols.assign(ADVERTISED, &property, &entries)?;
            if advertised.is_empty() {
                return Err(ConfigError::invalid(ADVERTISED, &property, "names no listener", ACCEPTED_LISTENERS));
            }
            advertised
        }
        _ => advertise(&listeners, host, warnings),
    };
    let inter_broker = inter_broker(properties, &advertised, warnings)?;
    Ok(Listeners { listeners, advertised, inter_broker })
}

/// The names of listeners that are the quorum's and not the broker's.
fn controller_names(properties: &Properties) -> Vec<String> {
    let names = Reader::new(properties).list(CONTROLLER_NAMES);
    names.into_iter().map(str::to_ascii_uppercase).collect()
}

/// The first of `controller.listener.names`, by which controllers are dialled, and whether that is by TLS. None where
/// none is named.
pub(crate) fn controller_security(properties: &Properties) -> Result<Option<(ListenerName, bool)>, ConfigError> {
    let Some(name) = controller_names(properties).into_iter().next() else { return Ok(None) };
    let reader = Reader::new(properties);
    let protocol = Protocols::read(&reader)?.of(&name).unwrap_or(SecurityProtocol::Plaintext);
    if protocol.has_sasl() {
        let unset = Property { value: String::new(), origin: crate::Origin::Default };
        let problem = format!("{name} speaks {protocol}, and coordinators know no users");
        let accepted = format!(
            "{name}:SSL, with certificates of all nodes (listener.name.{}.ssl.client.auth=required), or {name}:PLAINTEXT \
             with cluster.secret",
            name.to_ascii_lowercase()
        );
        return Err(ConfigError::invalid(MAP, reader.property(MAP).unwrap_or(&unset), problem, accepted));
    }
    Ok(Some((ListenerName::new(name), protocol.has_tls())))
}

/// Where a node's part of the quorum listens: its host (empty: every address) and port. None where no listener of
/// `controller.listener.names` is among the listeners.
pub(crate) fn controller_listener(properties: &Properties) -> Result<Option<HostPort>, ConfigError> {
    let Some(property) = properties.explicit(LISTENERS).filter(|property| !property.value.is_empty()) else {
        return Ok(None);
    };
    let names = controller_names(properties);
    let entries = parse(LISTENERS, property, &mut Vec::new())?;
    let Some(entry) = entries.into_iter().find(|entry| names.contains(&entry.name)) else { return Ok(None) };
    Ok(Some(HostPort::new(entry.host, entry.port)))
}

/// `PLAINTEXT://:9092` advertised: this machine's name.
fn advertise_this_machine(entries: &mut [Entry], host: &Host) {
    for entry in entries.iter_mut().filter(|entry| entry.host.is_empty()) {
        entry.host = host.name().to_owned();
    }
}

/// `advertised.listeners`, or what the two properties that came before it say.
fn advertised_property(properties: &Properties, warnings: &mut Vec<String>) -> Result<Option<Property>, ConfigError> {
    let reader = Reader::new(properties);
    let host_name = reader.property("advertised.host.name");
    let port = reader.optional("advertised.port", 0..=u16::MAX)?;
    if let Some(property) = reader.property(ADVERTISED) {
        if host_name.is_some() || port.is_some() {
            warnings
                .push("advertised.listeners is set: advertised.host.name and advertised.port are not used".to_owned());
        }
        return Ok(Some(property.clone()));
    }
    let Some(host_name) = host_name else { return Ok(None) };
    let port = match port {
        Some(port) => port,
        None => reader.optional("port", 0..=u16::MAX)?.unwrap_or(DEFAULT_PORT),
    };
    let value = format!("PLAINTEXT://{}:{port}", host_name.value);
    Ok(Some(Property { value, origin: host_name.origin.clone() }))
}

/// `listeners`, or what the two properties that came before it say.
fn listeners_property(properties: &Properties) -> Result<Option<Property>, ConfigError> {
    let reader = Reader::new(properties);
    if let Some(property) = properties.explicit(LISTENERS).filter(|property| !property.value.is_empty()) {
        return Ok(Some(property.clone()));
    }
    let host_name = reader.property("host.name");
    let port = reader.optional("port", 0..=u16::MAX)?;
    let Some(origin) = host_name.or_else(|| port.and(reader.property("port"))).map(|p| p.origin.clone()) else {
        return Ok(None);
    };
    let host = host_name.map(|property| property.value.as_str()).unwrap_or_default();
    Ok(Some(Property { value: format!("PLAINTEXT://{host}:{}", port.unwrap_or(DEFAULT_PORT)), origin }))
}

fn parse(key: &str, property: &Property, warnings: &mut Vec<String>) -> Result<Vec<Entry>, ConfigError> {
    items(&property.value)
        .into_iter()
        .map(|item| {
            parse_entry(key, item, warnings)
                .map_err(|problem| ConfigError::invalid(key, property, problem, ACCEPTED_LISTENERS))
        })
        .collect()
}

fn parse_entry(key: &str, item: &str, warnings: &mut Vec<String>) -> Result<Entry, String> {
    let (name, address) = item.split_once("://").ok_or_else(|| format!("`{item}` has no `NAME://`"))?;
    let name = name.trim();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Err(format!("`{name}` is no listener name"));
    }
    let address = address.trim().trim_end_matches('/');
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| format!("`{item}` has no closing bracket"))?;
            (host, after.strip_prefix(':').ok_or_else(|| format!("`{item}` names no port"))?)
        }
        None => address.split_once(':').ok_or_else(|| format!("`{item}` names no port"))?,
    };
    if host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(format!("`{host}` is no host name"));
    }
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is no port from 0 to 65535"));
    let port = match port.split_once(':') {
        None => number(port)?,
        // `host:9092:9092`, as in a list of published ports: the same port twice can only mean that port.
        Some((first, second)) => {
            let (first, second) = (number(first)?, number(second)?);
            if first != second {
                return Err(format!("`{item}` names the ports {first} and {second}"));
            }
            warnings.push(format!("{key}: `{item}` names its port twice: {first} is used"));
            first
        }
    };
    Ok(Entry { name: name.to_ascii_uppercase(), host: host.to_owned(), port })
}

/// Listeners, if none are set: those of `advertised.listeners`, on every address. The default `PLAINTEXT://:9092` stays
/// if exactly that is advertised.
fn derive(advertised: &[Entry]) -> Vec<Entry> {
    if let [only] = advertised
        && only.name == "PLAINTEXT"
        && only.port == DEFAULT_PORT
    {
        return vec![Entry { host: String::new(), ..only.clone() }];
    }
    advertised.iter().map(|entry| Entry { host: "0.0.0.0".to_owned(), ..entry.clone() }).collect()
}

/// A listener on an address that this machine does not have (the public one of a host, written inside a container)
/// can only mean every address.
fn bind_where_we_are(entries: Vec<Entry>, host: &Host, warnings: &mut Vec<String>) -> Vec<Entry> {
    entries
        .into_iter()
        .map(|entry| match entry.host.parse::<IpAddr>() {
            Ok(address) if !host.owns(address) => {
                warnings.push(format!(
                    "listeners: {} is no address of this machine: {} listens on every address (advertised.listeners tells clients where to connect)",
                    entry.host, entry.name
                ));
                Entry { host: "0.0.0.0".to_owned(), ..entry }
            }
            _ => entry,
        })
        .collect()
}

fn check_unique(key: &str, property: &Property, entries: &[Entry], ports: bool) -> Result<(), ConfigError> {
    for (at, entry) in entries.iter().enumerate() {
        for earlier in &entries[..at] {
            if earlier.name == entry.name {
                let problem = format!("{} is there twice", entry.name);
                return Err(ConfigError::invalid(key, property, problem, "each listener name once"));
            }
            if ports && entry.port != 0 && earlier.port == entry.port {
                let problem = format!("{} and {} share port {}", earlier.name, entry.name, entry.port);
                return Err(ConfigError::invalid(key, property, problem, "a port of its own for each listener"));
            }
        }
    }
    Ok(())
}

fn check_advertised(property: &Property, entries: &[Entry], listeners: &[Listener]) -> Result<(), ConfigError> {
    for entry in entries {
        if is_unspecified(&entry.host) {
            let problem = format!("nobody can connect to `{}`", entry.host);
            let accepted = "a host name or address that clients reach";
            return Err(ConfigError::invalid(ADVERTISED, property, problem, accepted));
        }
        if !listeners.iter().any(|listener| listener.name.as_str() == entry.name) {
            let problem = format!("{} is not in listeners", entry.name);
            let names: Vec<_> = listeners.iter().map(|listener| listener.name.as_str()).collect();
            return Err(ConfigError::invalid(ADVERTISED, property, problem, names.join(", ")));
        }
    }
    Ok(())
}

/// Advertised listeners, if none are set: the listeners, with this machine's name if they are bound to every address.
fn advertise(listeners: &[Listener], host: &Host, warnings: &mut Vec<String>) -> Vec<Listener> {
    let mut advertised = listeners.to_vec();
    for listener in advertised.iter_mut().filter(|listener| listener.binds_all()) {
        listener.host = host.name().to_owned();
        warnings.push(format!(
            "advertised.listeners is not set: clients of {} are told to connect to {}:{}",
            listener.name, listener.host, listener.port
        ));
    }
    advertised
}

fn is_unspecified(host: &str) -> bool {
    host.is_empty() || host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

/// Which listener speaks which protocol.
struct Protocols {
    /// As configured, in order; empty where nothing is.
    map: Vec<(String, SecurityProtocol)>,
}

impl Protocols {
    fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let mut map = Vec::new();
        let Some(property) = reader.property(MAP).filter(|property| property.origin.is_static()) else {
            return Ok(Self { map });
        };
        let accepted = "NAME:PROTOCOL[,NAME:PROTOCOL…] with PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL";
        for item in items(&property.value) {
            let (name, protocol) = item
                .split_once(':')
                .ok_or_else(|| ConfigError::invalid(MAP, property, format!("`{item}` has no colon"), accepted))?;
            let protocol = SecurityProtocol::from_name(protocol.trim()).ok_or_else(|| {
                ConfigError::invalid(MAP, property, format!("`{}` is no protocol", protocol.trim()), accepted)
            })?;
            let name = name.trim().to_ascii_uppercase();
            if map.iter().any(|(known, other)| *known == name && *other != protocol) {
                return Err(ConfigError::invalid(MAP, property, format!("{name} is there twice"), accepted));
            }
            map.push((name, protocol));
        }
        Ok(Self { map })
    }

    /// By the map, or by a name that is a protocol's own.
    fn of(&self, name: &str) -> Option<SecurityProtocol> {
        let mapped = self.map.iter().find(|(known, _)| known == name).map(|(_, protocol)| *protocol);
        mapped.or_else(|| SecurityProtocol::from_name(name))
    }

    fn assign(&self, key: &str, property: &Property, entries: &[Entry]) -> Result<Vec<Listener>, ConfigError> {
        let missing: Vec<_> = entries.iter().filter(|entry| self.of(&entry.name).is_none()).collect();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|entry| entry.name.as_str()).collect();
            let verb = if names.len() == 1 { "has" } else { "have" };
            let problem = format!("{} {verb} no protocol in {MAP}", names.join(", "));
            let accepted = format!("{MAP_VARIABLE}={}", self.completed(entries));
            return Err(ConfigError::invalid(key, property, problem, accepted));
        }
        let mut listeners = Vec::new();
        for entry in entries {
            let protocol = self.of(&entry.name).unwrap_or(SecurityProtocol::Plaintext);
            let name = ListenerName::new(entry.name.as_str());
            listeners.push(Listener { name, host: entry.host.clone(), port: entry.port, protocol });
        }
        Ok(listeners)
    }

    /// The map with every listener in it, to be pasted.
    fn completed(&self, entries: &[Entry]) -> String {
        let mut map: Vec<_> = self.map.iter().map(|(name, protocol)| format!("{name}:{protocol}")).collect();
        let mut added = BTreeMap::new();
        for entry in entries {
            if !self.map.iter().any(|(known, _)| *known == entry.name) && added.insert(&entry.name, ()).is_none() {
                let protocol = self.of(&entry.name).unwrap_or(SecurityProtocol::Plaintext);
                map.push(format!("{}:{protocol}", entry.name));
            }
        }
        map.join(",")
    }
}

fn inter_broker(
    properties: &Properties,
    advertised: &[Listener],
    warnings: &mut Vec<String>,
) -> Result<ListenerName, ConfigError> {
    let reader = Reader::new(properties);
    let names = || advertised.iter().map(|listener| listener.name.as_str()).collect::<Vec<_>>().join(", ");
    let protocol = properties.explicit(INTER_BROKER_PROTOCOL).filter(|property| !property.value.is_empty());
    if let Some(property) = reader.property(INTER_BROKER) {
        if protocol.is_some() {
            let problem = format!("{INTER_BROKER_PROTOCOL} is set as well");
            return Err(ConfigError::invalid(INTER_BROKER, property, problem, "one of the two"));
        }
        let wanted = property.value.to_ascii_uppercase();
        let found = advertised.iter().find(|listener| listener.name.as_str() == wanted);
        return found
            .map(|listener| listener.name.clone())
            .ok_or_else(|| ConfigError::invalid(INTER_BROKER, property, "is not in advertised.listeners", names()));
    }
    let wanted = match protocol {
        Some(property) => {
            let accepted = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
            one_of(INTER_BROKER_PROTOCOL, property, &property.value.to_ascii_uppercase(), &accepted)?
        }
        None => "PLAINTEXT",
    };
    if let Some(listener) = advertised.iter().find(|listener| listener.name.as_str() == wanted) {
        return Ok(listener.name.clone());
    }
    // No listener bears the protocol's name: the first that speaks it is the one that brokers can use.
    if let Some(listener) = advertised.iter().find(|listener| listener.protocol.name() == wanted) {
        warnings.push(format!("{INTER_BROKER} is not set: brokers talk over {}", listener.name));
        return Ok(listener.name.clone());
    }
    let accepted = format!("{INTER_BROKER} as one of {}", names());
    Err(match protocol {
        Some(property) => ConfigError::invalid(INTER_BROKER_PROTOCOL, property, "no listener speaks it", accepted),
        None => ConfigError::missing(INTER_BROKER, names()),
    })
}

/// `host:port` of an advertised listener.
impl From<&Listener> for HostPort {
    fn from(listener: &Listener) -> Self {
        Self::new(listener.host.clone(), listener.port)
    }
}
