//! The table of all APIs by users with different rules: a Kafka 4.3 and an Ottla with the same users, topics and rules
//! answer each request with the same error codes.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use ottla_e2e::kafka::{KafkaBroker, broker_4_jars};
use ottla_e2e::{Cluster, ClusterOptions, clients, wait};
use ottla_model::ErrorCode;
use ottla_protocol::kafka_protocol::messages::create_acls_request::AclCreation;
use ottla_protocol::kafka_protocol::messages::create_topics_request::CreatableTopic;
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::kafka_protocol::messages::{
    CreateAclsRequest, CreateTopicsRequest, DescribeAclsRequest, FindCoordinatorRequest, MetadataRequest,
    SaslAuthenticateRequest, SaslHandshakeRequest, TopicName,
};
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::{Api, decode_response, encode_request};
use ottla_test_requests::{Ask, Names, authorized_operations, errors};

const PLAIN_MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const AUTHORIZER: &str = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
const ADMINISTRATOR: &str = "super";
/// Kafka's codes of the operations that are allowed one by one.
const OPERATIONS: [(i8, &str); 13] = [
    (3, "read"),
    (4, "write"),
    (5, "create"),
    (6, "delete"),
    (7, "alter"),
    (8, "describe"),
    (9, "cluster-action"),
    (10, "describe-configs"),
    (11, "alter-configs"),
    (12, "idempotent-write"),
    (13, "create-tokens"),
    (14, "describe-tokens"),
    (15, "two-phase-commit"),
];
const ALL: i8 = 2;
const DENY: i8 = 2;
const ALLOW: i8 = 3;
const LITERAL: i8 = 3;
const PREFIXED: i8 = 4;
/// Users with rules for all operations, in different ways; beside them there is one for each operation.
const USERS: [&str; 7] = ["none", "allow", "deny", "prefixed", "wildcard", "elsewhere", ADMINISTRATOR];
/// They take away what other requests ask for.
const LAST: [Api; 2] = [Api::DeleteGroups, Api::DeleteTopics];
/// A coordinator is being loaded, a leader does not know of itself yet, or a transaction of the moment before is being
/// ended.
const PASSING: [ErrorCode; 5] = [
    ErrorCode::CoordinatorLoadInProgress,
    ErrorCode::CoordinatorNotAvailable,
    ErrorCode::NotCoordinator,
    ErrorCode::NotLeaderOrFollower,
    ErrorCode::ConcurrentTransactions,
];
const TRIES_MAX: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);
/// No request here waits for anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Stands for a connection that the broker closed, or left without an answer.
const CLOSED: i16 = i16::MIN;

struct Connection(TcpStream);

impl Connection {
    /// Logs in with the password that each user has: its own name.
    fn open(address: SocketAddr, user: &str) -> Result<Self> {
        let stream = clients::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Self(stream);
        let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN"));
        let shaken = connection.ask(1, &handshake)?;
        ensure!(shaken.error_code == 0, "{shaken:?}");
        let token = Bytes::from(format!("\0{user}\0{user}"));
        let authenticated = connection.ask(2, &SaslAuthenticateRequest::default().with_auth_bytes(token))?;
        ensure!(authenticated.error_code == 0, "{authenticated:?}");
        Ok(connection)
    }
}

impl Ask for Connection {
    fn ask<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        use std::io::Write as _;
        self.0.write_all(&encode_request(version, 7, Some("table"), request)?)?;
        let frame = clients::read_frame(&mut self.0)?;
        Ok(decode_response::<R>(version, frame.into())?.1)
    }
}

fn users() -> Vec<&'static str> {
    USERS.into_iter().chain(OPERATIONS.map(|(_, name)| name)).collect()
}

fn name(kind: &str, user: &str) -> &'static str {
    format!("{kind}-{user}").leak()
}

/// The rules of a user: about its topics, its group, its transactional id, another user, and the cluster.
fn rules(user: &str) -> Vec<AclCreation> {
    let operation = OPERATIONS.iter().find(|(_, name)| *name == user).map_or(ALL, |(code, _)| *code);
    let resources = [
        (2, name("t", user)),
        (2, name("new", user)),
        (3, name("g", user)),
        (5, name("x", user)),
        (7, "User:another"),
        (4, "kafka-cluster"),
    ];
    let rule = |resource: &(i8, &'static str), permission: i8| {
        let (kind, name) = *resource;
        let of_cluster = kind == 4;
        let (pattern, name) = match user {
            "prefixed" if !of_cluster => (PREFIXED, &name[..name.len() - 2]),
            "wildcard" if !of_cluster => (LITERAL, "*"),
            _ => (LITERAL, name),
        };
        let host = if user == "elsewhere" { "192.0.2.1" } else { "*" };
        AclCreation::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_static_str(name))
            .with_resource_pattern_type(pattern)
            .with_principal(StrBytes::from_string(format!("User:{user}")))
            .with_host(StrBytes::from_static_str(host))
            .with_operation(operation)
            .with_permission_type(permission)
    };
    let mut allowed: Vec<AclCreation> = resources.iter().map(|resource| rule(resource, ALLOW)).collect();
    // Both topics have one rule where a rule has no name.
    allowed.dedup();
    match user {
        "none" | ADMINISTRATOR => Vec::new(),
        "deny" => allowed.into_iter().chain(resources.iter().map(|resource| rule(resource, DENY))).collect(),
        _ => allowed,
    }
}

/// Topics and rules, as the administrator makes them, and all of them in effect.
fn prepare(address: SocketAddr) -> Result<()> {
    let mut administrator = Connection::open(address, ADMINISTRATOR)?;
    for kind in [0, 1] {
        wait::until_ok("a coordinator", || {
            let keys = vec![StrBytes::from_static_str("any")];
            let request = FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(keys);
            let found = administrator.ask(4, &request)?;
            ensure!(found.coordinators[0].error_code == 0, "{found:?}");
            Ok(())
        })?;
    }
    let topic = |user| {
        let name = TopicName(StrBytes::from_static_str(name("t", user)));
        CreatableTopic::default().with_name(name).with_num_partitions(1).with_replication_factor(1)
    };
    let topics = users().into_iter().map(topic).collect();
    let created = administrator.ask(5, &CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(10_000))?;
    ensure!(created.topics.iter().all(|topic| topic.error_code == 0), "{created:?}");
    let rules: Vec<AclCreation> = users().into_iter().flat_map(rules).collect();
    let count = rules.len();
    let created = administrator.ask(3, &CreateAclsRequest::default().with_creations(rules))?;
    ensure!(created.results.iter().all(|result| result.error_code == 0), "{created:?}");
    wait::until_ok("all rules", || {
        let any = DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_pattern_type_filter(1)
            .with_resource_name_filter(None)
            .with_principal_filter(None)
            .with_host_filter(None)
            .with_operation(1)
            .with_permission_type(1);
        let told = administrator.ask(3, &any)?;
        let rules: usize = told.resources.iter().map(|resource| resource.acls.len()).sum();
        ensure!(rules == count, "{rules} of {count}");
        Ok(())
    })
}

/// The names of a user's things, once its topic has a leader.
fn names(administrator: &mut Connection, user: &str) -> Result<Names> {
    let topic = name("t", user);
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_static_str(topic))));
    let request = MetadataRequest::default().with_topics(Some(vec![asked]));
    let topic_id = wait::until_ok("a leader", || {
        let told = administrator.ask(12, &request)?;
        let topic = told.topics.first().context("a topic")?;
        ensure!(topic.error_code == 0 && topic.partitions.iter().all(|one| one.error_code == 0), "{topic:?}");
        Ok(topic.topic_id)
    })?;
    Ok(Names {
        topic,
        topic_id,
        new_topic: name("new", user),
        group: name("g", user),
        transactional_id: name("x", user),
    })
}

/// The codes of an answer; one that may pass is asked for again, a bounded number of times.
fn answered(address: SocketAddr, user: &str, api: Api, names: &Names) -> Result<Vec<i16>> {
    let mut codes = Vec::new();
    for _ in 0..TRIES_MAX {
        codes = errors(&mut Connection::open(address, user)?, api, names).unwrap_or(vec![CLOSED]);
        if !codes.iter().any(|code| PASSING.iter().any(|passing| passing.code() == *code)) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(codes)
}

/// What each user is answered by each API: (user, API) → the error codes; and what the user may do.
type Table = BTreeMap<(String, String), Vec<i32>>;

fn table(address: SocketAddr) -> Result<Table> {
    prepare(address)?;
    let mut administrator = Connection::open(address, ADMINISTRATOR)?;
    let mut table = Table::new();
    for user in users() {
        let names = names(&mut administrator, user)?;
        let first = Api::ALL.iter().copied().filter(|api| !LAST.contains(api));
        for api in first.chain(LAST) {
            let codes = answered(address, user, api, &names)?;
            let codes = codes.into_iter().map(i32::from).collect();
            table.insert((user.to_owned(), api.to_string()), codes);
            if api == Api::Metadata {
                let operations = authorized_operations(&mut Connection::open(address, user)?, &names)?;
                table.insert((user.to_owned(), "authorized operations".to_owned()), operations.to_vec());
            }
        }
    }
    Ok(table)
}

fn jaas() -> String {
    let users: Vec<String> = users().iter().map(|user| format!("user_{user}=\"{user}\"")).collect();
    format!("{PLAIN_MODULE} username=\"{ADMINISTRATOR}\" password=\"{ADMINISTRATOR}\" {};", users.join(" "))
}

fn of_kafka() -> Result<Option<Table>> {
    let Some(jars) = broker_4_jars() else { return Ok(None) };
    let folder = tempfile::tempdir()?;
    let kafka = KafkaBroker::start(
        &jars,
        folder.path(),
        &[
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms=PLAIN",
            "sasl.mechanism.inter.broker.protocol=PLAIN",
            &format!("listener.name.plaintext.plain.sasl.jaas.config={}", jaas()),
            &format!("authorizer.class.name={AUTHORIZER}"),
            "super.users=User:super;User:ANONYMOUS",
            "delegation.token.secret.key=of-tokens",
            "offsets.topic.num.partitions=1",
            "transaction.state.log.num.partitions=1",
        ],
    )?;
    let table = table(kafka.bootstrap().parse()?).with_context(|| kafka.log_text());
    kafka.stop()?;
    table.map(Some)
}

fn of_ottla() -> Result<Table> {
    let mut options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() };
    options = options.listening("TABLE", "SASL_PLAINTEXT");
    for (name, value) in [
        ("sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.table.plain.sasl.jaas.config", &jaas()),
        ("authorizer.class.name", AUTHORIZER),
        ("super.users", "User:super;User:ANONYMOUS"),
        ("delegation.token.secret.key", "of-tokens"),
        ("offsets.topic.num.partitions", "1"),
        ("transaction.state.log.num.partitions", "1"),
    ] {
        options = options.with(name, value);
    }
    let cluster = Cluster::start_with(options)?;
    table(cluster.bootstrap_of("TABLE").parse()?)
}

#[test]
fn each_api_answers_each_user_as_kafka_does() -> Result<()> {
    let ours = of_ottla()?;
    let Some(kafkas) = of_kafka()? else { return Ok(()) };
    let mut report = String::new();
    for (key, theirs) in &kafkas {
        let ours = ours.get(key).context("the same table")?;
        if ours != theirs {
            report += &format!("{} of {}: Kafka {theirs:?}, Ottla {ours:?}\n", key.1, key.0);
        }
    }
    ensure!(kafkas.len() == ours.len(), "the same table");
    println!("{} answers compared", kafkas.len());
    if !report.is_empty() {
        bail!("{report}");
    }
    Ok(())
}
