//! `kafka-configs`: dynamic configuration of topics, brokers, groups and subscriptions to clients' metrics.

use std::process::ExitCode;

use ottla_client::{CONFIG_CLIENT_METRICS, ConfigChange, ConfigEntry, ConfigResource};
use ottla_model::{BrokerId, ErrorCode, TopicName};

use super::options::{OptionSpec, Options, Takes, flag, refused, value};
use super::{ToolError, bootstrap, client_quotas, exceptions, refuse_options, users, zookeeper};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value(
        "add-config",
        "String",
        "Key Value pairs of configs to add. Square brackets can be used to group values which contain commas: 'k1=v1,k2=[v1,v2,v2],k3=v3'.",
    ),
    value("add-config-file", "String", "Path to a properties file with configs to add."),
    flag("all", "List all configs for the given entity, including static configs if available."),
    flag("alter", "Alter the configuration for the entity."),
    refused("bootstrap-controller", Takes::Value, "there are no KRaft controllers"),
    value("bootstrap-server", "String: server to connect to", "The Kafka servers to connect to."),
    value("broker", "String", "The broker's ID."),
    flag("broker-defaults", "The config defaults for all brokers."),
    value("broker-logger", "String", "The broker's ID for its logger config."),
    value("client", "String", "The client's ID, whose quotas."),
    flag("client-defaults", "The quotas of all clients without own ones."),
    value("client-metrics", "String", "The name of a subscription to metrics of clients."),
    value(
        "command-config",
        "String: command config property file",
        "A file with a client's properties, such as security.protocol.",
    ),
    value("delete-config", "String", "Config keys to remove: 'k1,k2'."),
    flag("describe", "List configs for the given entity."),
    flag("entity-default", "The defaults of all brokers."),
    value("entity-name", "String", "Name of entity (topic name/broker id/group id/user principal name/client id/ip)."),
    value(
        "entity-type",
        "String",
        "Type of entity (topics/brokers/broker-loggers/groups/users/clients/ips/client-metrics).",
    ),
    flag("force", "With --zookeeper: do not prompt. It never does."),
    value("group", "String", "The group's ID."),
    flag("help", "Print usage information."),
    value("ip", "String", "The IP address, whose quotas."),
    flag("ip-defaults", "The quotas of all IP addresses without own ones."),
    value("topic", "String", "The topic's name."),
    value("user", "String", "The user's principal name, whose credentials or quotas."),
    flag("user-defaults", "The quotas of all users without own ones."),
    flag("version", "Display the version."),
    value(
        "zk-tls-config-file",
        "String: file",
        "A file with zookeeper.ssl.client.enable and the like, for coordinators that are reached by TLS.",
    ),
    value(
        "zookeeper",
        "String: urls",
        "The coordinators, host:port,…[/chroot], as tools of Kafka 3 and older name ZooKeeper. The brokers need not run.",
    ),
];

/// The types of entities that have configurations here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Topics,
    Brokers,
    BrokerLoggers,
    Groups,
    ClientMetrics,
    Users,
}

impl Kind {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "topics" => Ok(Self::Topics),
            "brokers" => Ok(Self::Brokers),
            "broker-loggers" => Ok(Self::BrokerLoggers),
            "groups" => Ok(Self::Groups),
            "users" => Ok(Self::Users),
            "clients" | "ips" => Err(format!("Only quota configs can be altered for '{text}'")),
            "client-metrics" => Ok(Self::ClientMetrics),
            _ => Err(format!(
                "Invalid entity type {text}, the entity type must be one of topics, clients, users, brokers, ips, client-metrics, groups, broker-loggers with a --bootstrap-server or --bootstrap-controller argument"
            )),
        }
    }

    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Topics => "topics",
            Self::Brokers => "brokers",
            Self::BrokerLoggers => "broker-loggers",
            Self::Groups => "groups",
            Self::ClientMetrics => "client-metrics",
            Self::Users => "users",
        }
    }

    fn singular(self) -> &'static str {
        match self {
            Self::Topics => "topic",
            Self::Brokers => "broker",
            Self::BrokerLoggers => "broker-logger",
            Self::Groups => "group",
            Self::ClientMetrics => "client-metric",
            Self::Users => "user",
        }
    }

    /// Kafka's `ConfigSource` of what was set for this entity.
    fn own_source(self, is_default: bool) -> i8 {
        match self {
            Self::Topics => 1,
            Self::Brokers if is_default => 3,
            Self::Brokers => 2,
            Self::BrokerLoggers => 6,
            Self::ClientMetrics => 7,
            Self::Groups => 8,
            // Users have credentials, not configurations.
            Self::Users => 0,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    bootstrap: String,
    kind: Kind,
    /// The empty name is the default of all brokers; none is every entity.
    entity: Option<String>,
    action: Action,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    Describe { all: bool },
    Alter(Vec<ConfigChange>),
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to manipulate and describe entity config for a topic, client, user, broker, ip, client-metrics or group";

pub async fn run(arguments: &[String]) -> ExitCode {
    if arguments.is_empty() {
        return super::tell_purpose(PURPOSE, SPECS);
    }
    let options = match Options::parse(SPECS, arguments) {
        Ok(options) => options,
        Err(error) => return refuse_options(&error.into(), SPECS),
    };
    if options.has("help") {
        super::tell(super::options::usage(SPECS).trim_end());
        return ExitCode::SUCCESS;
    }
    if options.has("version") {
        out!("{} (Ottla)", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match zookeeper::is_asked_for(&options) {
        Ok(true) => return zookeeper::configs::run(&options, arguments).await,
        Ok(false) => {}
        Err(error) => return refuse_options(&error, SPECS),
    }
    if client_quotas::are_asked_for(&options) && options.has("alter") != options.has("describe") {
        let checked = super::client_properties(&options, &["command-config"], &[])
            .and_then(|_| if options.has("alter") { changes(&options) } else { Ok(Vec::new()) });
        return match checked {
            Ok(changes) => client_quotas::run(&options, changes, arguments).await,
            Err(error) => {
                err!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let plan = match super::client_properties(&options, &["command-config"], &[]).and_then(|_| plan(&options)) {
        Ok(plan) => plan,
        // Kafka's tool shows the usage for one of its mistakes only.
        Err(ToolError::Argument(text)) => {
            err!("{text}");
            return ExitCode::FAILURE;
        }
        Err(error) => return refuse_options(&error, SPECS),
    };
    match execute(&plan).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(ToolError::Kafka(error)) => {
            let shown = exceptions::shown(&error);
            err!("Error while executing config command with args '{}'", arguments.join(" "));
            err!("java.util.concurrent.ExecutionException: {shown}\nCaused by: {shown}");
            ExitCode::FAILURE
        }
        Err(error) => {
            err!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let argument = |text: &str| Err(ToolError::Argument(text.to_owned()));
    if options.has("alter") == options.has("describe") {
        let message = "Command must include exactly one action: --describe, --alter";
        return Err(ToolError::Usage(message.to_owned()));
    }
    let Ok(bootstrap) = bootstrap(options) else { return argument("--bootstrap-server must be specified.") };
    let (kind, entity) = entity(options)?;
    let action = if options.has("describe") {
        Action::Describe { all: options.has("all") }
    } else {
        if entity.is_none() {
            return argument(&format!("An entity name must be specified with --alter of {}", kind.plural()));
        }
        Action::Alter(changes(options)?)
    };
    // What is no credential is said before anything is asked.
    if let (Kind::Users, Action::Alter(changes)) = (kind, &action) {
        users::changes(changes)?;
    }
    Ok(Plan { bootstrap: bootstrap.to_owned(), kind, entity, action })
}

/// Whose configuration it is; the empty name is the default of all brokers, none is every entity of the type.
pub(super) fn entity(options: &Options) -> Result<(Kind, Option<String>), ToolError> {
    let argument = |text: &str| Err(ToolError::Argument(text.to_owned()));
    let flags = [
        ("topic", Kind::Topics, true),
        ("broker", Kind::Brokers, true),
        ("broker-logger", Kind::BrokerLoggers, true),
        ("group", Kind::Groups, true),
        ("client-metrics", Kind::ClientMetrics, true),
        ("user", Kind::Users, true),
        ("broker-defaults", Kind::Brokers, false),
    ];
    let by_flag: Vec<(Kind, String)> = flags
        .into_iter()
        .filter(|(name, ..)| options.has(name))
        .map(|(name, kind, named)| (kind, options.get(name).filter(|_| named).unwrap_or_default().to_owned()))
        .collect();
    let types = options.all("entity-type");
    let (kind, entity) = match (types, by_flag.as_slice()) {
        ([], []) => return argument("At least one entity type must be specified"),
        ([], [(kind, entity)]) if !options.has("entity-name") && !options.has("entity-default") => {
            (*kind, Some(entity.clone()))
        }
        ([kind], []) => {
            let kind = Kind::parse(kind).map_err(ToolError::Argument)?;
            let default = options.has("entity-default").then(String::new);
            (kind, options.get("entity-name").map(str::to_owned).or(default))
        }
        (_, [_, ..]) if !types.is_empty() => {
            return argument(
                "--entity-{type,name,default} should not be used in conjunction with specific entity flags",
            );
        }
        _ => return argument("Only one entity type may be specified"),
    };
    if let Some(entity) = &entity {
        let is_default = entity.is_empty();
        let is_broker = matches!(kind, Kind::Brokers | Kind::BrokerLoggers);
        if is_broker && !is_default && entity.parse::<i32>().is_err() {
            let wanted = "must be a valid integer broker id, but it is";
            return argument(&format!("The entity name for {} {wanted}: {entity}", kind.plural()));
        }
        if kind != Kind::Brokers && is_default {
            return argument(&format!("--entity-default must not be specified with {}", kind.plural()));
        }
    }
    if kind == Kind::BrokerLoggers && entity.is_none() {
        return argument("An entity name must be specified with broker-loggers");
    }
    Ok((kind, entity))
}

pub(super) fn changes(options: &Options) -> Result<Vec<ConfigChange>, ToolError> {
    let argument = |text: &str| Err(ToolError::Argument(text.to_owned()));
    let mut pairs = match (options.get("add-config"), options.get("add-config-file")) {
        (Some(_), Some(_)) => return argument("Only one of --add-config or --add-config-file must be specified"),
        (Some(text), None) => pairs(text)?,
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ToolError::Argument(format!("Unable to read file {path}: {error}")))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
            lines.map(|line| pair(line).ok_or_else(no_pair)).collect::<Result<_, _>>()?
        }
        (None, None) if !options.has("delete-config") => {
            return argument(
                "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter",
            );
        }
        (None, None) => Vec::new(),
    };
    // A colon for the names of loggers.
    let is_key_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':');
    let is_key = |key: &str| key.bytes().all(is_key_byte);
    if let Some((key, _)) = pairs.iter().find(|(key, _)| !is_key(key)) {
        return argument(&format!("Invalid character found for config key: {key}"));
    }
    let sets = pairs.drain(..).map(|(name, value)| ConfigChange::Set { name, value });
    let names = options.all("delete-config").iter().flat_map(|list| list.split(','));
    let deletes = names.map(|name| ConfigChange::Delete { name: name.trim().to_owned() });
    Ok(sets.chain(deletes).collect())
}

fn no_pair() -> ToolError {
    ToolError::Argument(
        "requirement failed: Invalid entity config: all configs to be added must be in the format \"key=val\" or  \"key=[val1,val2]\" to group values which contain commas."
            .to_owned(),
    )
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    Some((key.trim().to_owned(), value.trim().to_owned()))
}

/// `k1=v1,k2=[v1,v2]`: commas within brackets belong to the value, the brackets do not.
fn pairs(text: &str) -> Result<Vec<(String, String)>, ToolError> {
    let mut entries = vec![String::new()];
    let mut depth = 0_u32;
    for character in text.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => entries.push(String::new()),
            other => {
                if let Some(entry) = entries.last_mut() {
                    entry.push(other);
                }
            }
        }
    }
    entries.iter().map(|entry| pair(entry).ok_or_else(no_pair)).collect()
}

fn resource(kind: Kind, entity: &str) -> Result<ConfigResource, ToolError> {
    Ok(match kind {
        Kind::Topics => {
            TopicName::new(entity).map_err(|error| KafkaError::refused(ErrorCode::InvalidTopicException, &error))?;
            ConfigResource::Topic(entity.to_owned())
        }
        Kind::Groups => ConfigResource::Group(entity.to_owned()),
        Kind::ClientMetrics => ConfigResource::ClientMetrics(entity.to_owned()),
        Kind::BrokerLoggers => {
            let id = entity.parse().map_err(|_| ToolError::Argument(format!("{entity} is no broker id")))?;
            ConfigResource::BrokerLogger(BrokerId(id))
        }
        Kind::Users => return Err(ToolError::Argument("Users have credentials, not configurations".to_owned())),
        Kind::Brokers => entity.parse().map_or(ConfigResource::AllBrokers, |id| ConfigResource::Broker(BrokerId(id))),
    })
}

async fn execute(plan: &Plan) -> Result<(), ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    match &plan.action {
        Action::Describe { .. } if plan.kind == Kind::Users => users::describe(&kafka, plan.entity.as_deref()).await,
        Action::Describe { all } => describe(&kafka, plan, *all).await,
        Action::Alter(changes) => {
            let entity = plan.entity.as_deref().unwrap_or_default();
            let client = kafka.client();
            let altered = match plan.kind {
                Kind::Users => client.alter_user_scram_credentials(entity, &users::changes(changes)?).await,
                kind => client.alter_configs(&resource(kind, entity)?, changes).await,
            };
            altered.map_err(KafkaError::from)?;
            match entity {
                "" => out!("Completed updating default config for {} in the cluster.", plan.kind.plural()),
                name => out!("Completed updating config for {} {name}.", plan.kind.singular()),
            }
            Ok(())
        }
    }
}

async fn describe(kafka: &Kafka, plan: &Plan, all: bool) -> Result<(), ToolError> {
    let client = kafka.client();
    let entities: Vec<String> = match (&plan.entity, plan.kind) {
        (Some(entity), _) => vec![entity.clone()],
        (None, Kind::Topics) => kafka.topics().await?.into_iter().map(|topic| topic.name).collect(),
        (None, Kind::Brokers) => {
            let cluster = client.describe_cluster().await.map_err(KafkaError::from)?;
            let ids = cluster.brokers.iter().map(|broker| broker.address.id.to_string());
            ids.chain([String::new()]).collect()
        }
        // The plan names a broker; users are described elsewhere.
        (None, Kind::BrokerLoggers | Kind::Users) => Vec::new(),
        (None, Kind::ClientMetrics) => {
            client.list_config_resources(CONFIG_CLIENT_METRICS).await.map_err(KafkaError::from)?
        }
        (None, Kind::Groups) => {
            let groups = client.list_groups(&[], &[]).await.map_err(KafkaError::from)?;
            groups.into_iter().map(|group| group.group).collect()
        }
    };
    for entity in entities {
        let is_default = entity.is_empty();
        let entries = match client.describe_configs(&resource(plan.kind, &entity)?).await.map_err(KafkaError::from) {
            Err(error) if plan.kind == Kind::Topics && error.is(ErrorCode::UnknownTopicOrPartition) => {
                out!("The topic '{entity}' doesn't exist and doesn't have dynamic config.");
                continue;
            }
            entries => entries?,
        };
        match is_default {
            true => out!("Default configs for {} in the cluster are:", plan.kind.plural()),
            false => {
                out!("{} configs for {} {entity} are:", if all { "All" } else { "Dynamic" }, plan.kind.singular());
            }
        }
        let own = plan.kind.own_source(is_default);
        let mut entries: Vec<ConfigEntry> = entries.into_iter().filter(|entry| all || entry.source == own).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            out!("{}", line(&entry));
        }
    }
    Ok(())
}

/// An entry as Kafka's tool shows it.
fn line(entry: &ConfigEntry) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    let synonyms: Vec<String> = entry
        .synonyms
        .iter()
        .map(|(name, value, source)| format!("{}:{name}={}", source_name(*source), shown(value)))
        .collect();
    let (name, value) = (&entry.name, shown(&entry.value));
    format!("  {name}={value} sensitive={} synonyms={{{}}}", entry.is_sensitive, synonyms.join(", "))
}

fn source_name(source: i8) -> &'static str {
    match source {
        1 => "DYNAMIC_TOPIC_CONFIG",
        2 => "DYNAMIC_BROKER_CONFIG",
        3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        4 => "STATIC_BROKER_CONFIG",
        5 => "DEFAULT_CONFIG",
        6 => "DYNAMIC_BROKER_LOGGER_CONFIG",
        7 => "DYNAMIC_CLIENT_METRICS_CONFIG",
        8 => "DYNAMIC_GROUP_CONFIG",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let plan =
            planned("--bootstrap-server k --alter --entity-type topics --entity-name t --add-config a=1,b=[x,y],c=")
                .expect("a plan");
        assert_eq!((plan.kind, plan.entity.as_deref()), (Kind::Topics, Some("t")));
        let set = |name: &str, value: &str| ConfigChange::Set { name: name.into(), value: value.into() };
        assert_eq!(plan.action, Action::Alter(vec![set("a", "1"), set("b", "x,y"), set("c", "")]));
        let plan = planned("--bootstrap-server k --alter --topic t --delete-config a,b").expect("a plan");
        let delete = |name: &str| ConfigChange::Delete { name: name.into() };
        assert_eq!(plan.action, Action::Alter(vec![delete("a"), delete("b")]));
        let entity = |line: &str| {
            planned(&format!("--bootstrap-server k --describe {line}")).map(|plan| (plan.kind, plan.entity))
        };
        assert_eq!(entity("--entity-type brokers --entity-default"), Ok((Kind::Brokers, Some(String::new()))));
        assert_eq!(entity("--broker-defaults"), Ok((Kind::Brokers, Some(String::new()))));
        assert_eq!(entity("--broker 1 --all"), Ok((Kind::Brokers, Some("1".into()))));
        assert_eq!(entity("--entity-type topics"), Ok((Kind::Topics, None)));
        let loggers = Ok((Kind::BrokerLoggers, Some("1".into())));
        assert_eq!(entity("--entity-type broker-loggers --entity-name 1"), loggers);
        assert_eq!(entity("--broker-logger 1"), loggers);
        assert!(entity("--entity-type broker-loggers").is_err() && entity("--broker-logger a").is_err());
        assert!(
            planned("--bootstrap-server k --alter --broker-logger 1 --add-config ottla_network::listener=DEBUG")
                .is_ok()
        );
        assert!(entity("").is_err_and(|text| text.contains("At least one entity type")));
        assert!(entity("--entity-type clients").is_err() && entity("--entity-type potatoes").is_err());
        assert_eq!(entity("--entity-type users"), Ok((Kind::Users, None)));
        let metrics = Ok((Kind::ClientMetrics, Some("s".into())));
        assert_eq!(entity("--entity-type client-metrics --entity-name s"), metrics);
        assert_eq!(entity("--client-metrics s"), metrics);
        assert_eq!(entity("--user alice"), Ok((Kind::Users, Some("alice".into()))));
        assert!(entity("--broker one").is_err() && entity("--topic t --broker 1").is_err());
        assert!(entity("--entity-type topics --entity-default").is_err());
        assert!(planned("--bootstrap-server k --alter --topic t").is_err());
        assert!(planned("--bootstrap-server k --alter --topic t --add-config a").is_err());
        assert!(planned("--bootstrap-server k --alter --entity-type topics --add-config a=b").is_err());
        assert!(planned("--describe --topic t").is_err());
    }

    #[test]
    fn entries_are_shown_as_kafkas_tool_does() {
        let entry = ConfigEntry {
            name: "max.message.bytes".into(),
            value: Some("2000000".into()),
            is_read_only: false,
            is_sensitive: false,
            source: 1,
            synonyms: vec![
                ("max.message.bytes".into(), Some("2000000".into()), 1),
                ("message.max.bytes".into(), Some("1048588".into()), 5),
            ],
        };
        assert_eq!(
            line(&entry),
            "  max.message.bytes=2000000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000000, DEFAULT_CONFIG:message.max.bytes=1048588}"
        );
    }
}
