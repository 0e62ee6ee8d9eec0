//! Seven clients by every mechanism that they have, with right and wrong passwords and certificates, over TLS 1.2 and
//! 1.3: who belongs comes in, and others end with the errors that Kafka 4.3 gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::{Authority, Identity};
use ottla_e2e::counting_proxy::CountingProxy;
use ottla_e2e::kafka::{KafkaBroker, broker_4_jars};
use ottla_e2e::{Cluster, ClusterOptions, clients};
use serde_json::{Value, json};
use tempfile::TempDir;

const PLAIN_MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const SCRAM_MODULE: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required";
const OAUTH_MODULE: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required";
const UNSECURED: &str =
    "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler";
const TOPIC: &str = "login-cases";
const VERSIONS: [(&str, &str); 2] = [("12", "TLSv1.2"), ("13", "TLSv1.3")];
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];
/// The listeners of each version of TLS: name, protocol, mechanisms, certificate.
const LISTENERS: [(&str, &str, &str, &str); 9] = [
    ("TLS", "SSL", "", "broker"),
    ("MUTUAL", "SSL", "", "broker"),
    ("EXPIRED", "SSL", "", "expired"),
    ("ELSEWHERE", "SSL", "", "elsewhere"),
    ("LOGIN", "SASL_SSL", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER", "broker"),
    ("ONLYPLAIN", "SASL_SSL", "PLAIN", "broker"),
    ("ONLYSCRAM", "SASL_SSL", "SCRAM-SHA-512", "broker"),
    ("LOGINEXPIRED", "SASL_SSL", "PLAIN", "expired"),
    ("LOGINELSEWHERE", "SASL_SSL", "PLAIN", "elsewhere"),
];
/// Of a client that is refused, until it ends: its first connection, and those with which it tries again. The clients'
/// own pauses between these allow for no more; without any they would make thousands.
const CONNECTIONS_MAX: usize = 40;
const OK: &str = "ok";
/// Where Ottla differs from Kafka: (way, client, outcome). These two libraries do not consent to the refusal of a
/// bearer token (RFC 7628), but go on with a request. Kafka answers it with an error of that API, which they tell of a
/// topic or as the number 34; Ottla ends the connection.
const DIFFERENT: [(&str, &str, &str); 2] = [
    ("OAUTHBEARER, wrong password", "aiokafka", "KafkaConnectionError"),
    ("OAUTHBEARER, wrong password", "kafkajs", "KafkaJSConnectionClosedError"),
];
/// In the table: the client lacks the mechanism; one outcome or another.
const NONE: &str = "—";
const OR: &str = " or ";
const PAGE: &str = "\
# What clients come to

Seven clients with right and wrong credentials, over TLS 1.2 and over TLS 1.3: `ok`, or the name of the error that the
client's library raises. These are the outcomes at Kafka 4.3; `tests/e2e/tests/login_matrix.rs` fails where one differs
at Ottla, where a client neither comes in nor ends with an error, and where it connects more than 40 times. To write
this page anew: `cargo test -p ottla-e2e --test login_matrix -- --ignored`.

One thing is different at Ottla: aiokafka and kafkajs do not consent to the refusal of a bearer token, but go on with a
request. Kafka answers it with an error, Ottla ends the connection: the outcomes are `KafkaConnectionError` and
`KafkaJSConnectionClosedError`.

";
/// Programs of clients at a time: they compute little and wait much.
const LANES: usize = 2;

struct Client {
    name: &'static str,
    tokens: bool,
    command: fn(&Path) -> Option<Command>,
}

const CLIENTS: [Client; 7] = [
    Client { name: "confluent-kafka", tokens: false, command: |file| Some(python("confluent-kafka", file)) },
    Client { name: "kafka-python", tokens: false, command: |file| Some(python("kafka-python", file)) },
    Client { name: "aiokafka", tokens: false, command: |file| Some(python("aiokafka", file)) },
    Client { name: "kafkajs", tokens: false, command: kafkajs },
    Client { name: "sarama", tokens: false, command: |file| go("sarama", file) },
    Client { name: "franz-go", tokens: true, command: |file| go("franz-go", file) },
    Client { name: "Java", tokens: true, command: java },
];

fn python(library: &str, file: &Path) -> Command {
    clients::python_script("login_cases.py", &[library, &file.display().to_string()])
}

fn kafkajs(file: &Path) -> Option<Command> {
    let modules = std::env::var_os("OTTLA_KAFKAJS")?;
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules).arg(clients::script("login_cases.js")).arg(file);
    Some(command)
}

fn go(library: &str, file: &Path) -> Option<Command> {
    let mut command = Command::new(std::env::var_os("OTTLA_LOGIN_CASES_GO")?);
    command.arg(library).arg(file);
    Some(command)
}

fn java(file: &Path) -> Option<Command> {
    let source = clients::script("LoginCases.java");
    clients::java(&source.to_string_lossy(), &[&file.display().to_string()])
}

struct Files {
    folder: TempDir,
    client: Identity,
    expired_client: Identity,
    other_client: Identity,
}

impl Files {
    fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("ottla-e2e-logins-")?;
        let (ours, other) = (Authority::new(folder.path(), "ours")?, Authority::new(folder.path(), "other")?);
        ours.sign("broker")?;
        ours.sign_until("expired", 2020)?;
        ours.sign_for("elsewhere", "elsewhere.example", [192, 0, 2, 1], 4_000)?;
        let (client, expired_client) = (ours.sign("client")?, ours.sign_until("expired-client", 2020)?);
        let other_client = other.sign("other-client")?;
        Ok(Self { folder, client, expired_client, other_client })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// What Kafka's and our broker have beside the required properties.
    fn properties(&self) -> Vec<(String, String)> {
        let mut properties: Vec<(String, String)> = [
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", &self.path("broker.pem")),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", &self.path("ours-ca.pem")),
            ("delegation.token.secret.key", "of-tokens"),
            ("group.initial.rebalance.delay.ms", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        for (version, protocol) in VERSIONS {
            for (listener, _, mechanisms, certificate) in LISTENERS {
                let prefix = format!("listener.name.{}{version}.", listener.to_lowercase());
                let mut own = |name: &str, value: String| properties.push((format!("{prefix}{name}"), value));
                own("ssl.enabled.protocols", protocol.to_owned());
                own("ssl.keystore.location", self.path(&format!("{certificate}.pem")));
                own("ssl.client.auth", if listener == "MUTUAL" { "required" } else { "none" }.to_owned());
                if !mechanisms.is_empty() {
                    own("sasl.enabled.mechanisms", mechanisms.to_owned());
                }
                for mechanism in mechanisms.split(',').filter(|mechanism| !mechanism.is_empty()) {
                    let module = match mechanism {
                        "PLAIN" => format!("{PLAIN_MODULE} user_alice=\"alice-secret\";"),
                        "OAUTHBEARER" => format!("{OAUTH_MODULE};"),
                        _ => format!("{SCRAM_MODULE};"),
                    };
                    own(&format!("{}.sasl.jaas.config", mechanism.to_lowercase()), module);
                    if mechanism == "OAUTHBEARER" {
                        own("oauthbearer.sasl.server.callback.handler.class", UNSECURED.to_owned());
                    }
                }
            }
        }
        properties
    }
}

fn listeners() -> Vec<(String, String)> {
    let of = |version: &str| {
        LISTENERS.map(|(name, protocol, ..)| (format!("{name}{version}"), protocol.to_owned())).into_iter()
    };
    VERSIONS.iter().flat_map(|(version, _)| of(version)).collect()
}

/// A broker, ours or Kafka's: the address for whoever prepares it, and those of its listeners.
struct Target {
    plaintext: String,
    address: Box<dyn Fn(&str) -> String + Sync>,
}

/// A token without a signature, good for a time from now or ended so long ago.
fn bearer(seconds: i64) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let (issued, ends) = (now.min(now + seconds) - 60, now + seconds);
    let claims = json!({"sub": "alice", "iat": issued, "exp": ends}).to_string();
    Ok(format!("{}.{}.", base64url(br#"{"alg":"none"}"#), base64url(claims.as_bytes())))
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let padded = [piece[0], *piece.get(1).unwrap_or(&0), *piece.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for at in 0..=piece.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

/// Users and a token: what a right login is made of, by mechanism.
struct Logins {
    token: (String, String),
    bearer: String,
    expired_bearer: String,
}

impl Logins {
    fn prepare(target: &Target, files: &Files) -> Result<Self> {
        clients::run_script("create_topic.py", &[&target.plaintext, TOPIC, "1", "1"])?;
        // Kafka refuses both for one user in one request.
        for mechanism in ["SCRAM-SHA-256=[password=scram-secret]", "SCRAM-SHA-512=[password=scram-secret]"] {
            let user = ["--alter", "--entity-type", "users", "--entity-name", "scram-user", "--add-config", mechanism];
            clients::run(&mut clients::tool("kafka-configs", &target.plaintext, &user)?)?;
        }
        let config = files.path("owner.properties");
        fs::write(
            &config,
            format!(
                "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
                 sasl.jaas.config={PLAIN_MODULE} username=\"alice\" password=\"alice-secret\";\n",
                files.path("ours-ca.pem")
            ),
        )?;
        let create = ["--command-config", &config, "--create", "--max-life-time-period", "-1"];
        let address = (target.address)("LOGIN13");
        let made = clients::run(&mut clients::tool("kafka-delegation-tokens", &address, &create)?)?;
        let mut row = made.lines().last().context("a row")?.split_whitespace();
        let token = (row.next().context("an id")?.to_owned(), row.next().context("an HMAC")?.to_owned());
        Ok(Self { token, bearer: bearer(3_600)?, expired_bearer: bearer(-3_600)? })
    }

    fn right(&self, mechanism: &str) -> (&str, &str) {
        match mechanism {
            "PLAIN" => ("alice", "alice-secret"),
            "OAUTHBEARER" => ("", &self.bearer),
            _ => ("scram-user", "scram-secret"),
        }
    }

    fn wrong(&self, mechanism: &str) -> (&str, &str) {
        match mechanism {
            "OAUTHBEARER" => ("", &self.expired_bearer),
            _ => (self.right(mechanism).0, "wrong"),
        }
    }
}

/// One way to come in: its name, whether it is right, its listener, and the client's settings.
struct Way {
    name: String,
    right: bool,
    listener: &'static str,
    of_token: bool,
    settings: Value,
}

fn ways(files: &Files, logins: &Logins) -> Vec<Way> {
    let (ours, other) = (files.path("ours-ca.pem"), files.path("other-ca.pem"));
    let shown = |identity: &Identity| json!({"certificate": identity.certificate, "key": identity.key, "store": identity.store, "ca": ours});
    let mut ways = Vec::new();
    let mut tls = |name: &str, right, listener, settings| {
        ways.push(Way { name: format!("SSL, {name}"), right, listener, of_token: false, settings });
    };
    tls("no certificate asked for", true, "TLS", json!({"ca": ours}));
    tls("own certificate", true, "MUTUAL", shown(&files.client));
    tls("broker of another authority", false, "TLS", json!({"ca": other}));
    tls("broker's certificate expired", false, "EXPIRED", json!({"ca": ours}));
    tls("broker's certificate for another host", false, "ELSEWHERE", json!({"ca": ours}));
    tls("no own certificate", false, "MUTUAL", json!({"ca": ours}));
    tls("own certificate expired", false, "MUTUAL", shown(&files.expired_client));
    tls("own certificate of another authority", false, "MUTUAL", shown(&files.other_client));
    let mut login = |name: &str, right, listener, mechanism: &str, (user, password): (&str, &str), token, ca: &str| {
        let settings = json!({"mechanism": mechanism, "user": user, "password": password, "token": token, "ca": ca});
        let name = if token { format!("token by {mechanism}{name}") } else { format!("{mechanism}{name}") };
        ways.push(Way { name, right, listener, of_token: token, settings });
    };
    for mechanism in MECHANISMS {
        let off = if mechanism == "PLAIN" { "ONLYSCRAM" } else { "ONLYPLAIN" };
        login("", true, "LOGIN", mechanism, logins.right(mechanism), false, &ours);
        login(", wrong password", false, "LOGIN", mechanism, logins.wrong(mechanism), false, &ours);
        login(", mechanism off", false, off, mechanism, logins.right(mechanism), false, &ours);
    }
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let (id, hmac) = &logins.token;
        login("", true, "LOGIN", mechanism, (id, hmac), true, &ours);
        login(", wrong HMAC", false, "LOGIN", mechanism, (id, "wrong"), true, &ours);
    }
    let right = logins.right("PLAIN");
    login(", broker of another authority", false, "LOGIN", "PLAIN", right, false, &other);
    login(", broker's certificate expired", false, "LOGINEXPIRED", "PLAIN", right, false, &ours);
    login(", broker's certificate for another host", false, "LOGINELSEWHERE", "PLAIN", right, false, &ours);
    ways
}

/// What a client came to, and over how many connections to the address that it was given.
#[derive(Clone, Debug)]
struct Came {
    outcome: String,
    connections: usize,
}

/// (way, version of TLS) → client → what it came to.
type Table = BTreeMap<(usize, &'static str), BTreeMap<&'static str, Came>>;

/// The cases of one client, each through a proxy of its own; none where the machine lacks the client.
fn run_client(client: &Client, target: &Target, ways: &[Way], files: &Files) -> Result<Option<Table>> {
    let (mut cases, mut proxies) = (Vec::new(), BTreeMap::new());
    for (version, _) in VERSIONS {
        for (at, way) in ways.iter().enumerate().filter(|(_, way)| client.tokens || !way.of_token) {
            let address: SocketAddr = (target.address)(&format!("{}{version}", way.listener)).parse()?;
            let proxy = CountingProxy::start(address)?;
            let id = format!("{}-{version}-{at}", client.name);
            let mut case = way.settings.clone();
            case["id"] = json!(id);
            case["right"] = json!(way.right);
            case["topic"] = json!(TOPIC);
            case["bootstrap"] = json!(proxy.address().to_string());
            case["protocol"] = json!(if case.get("mechanism").is_some() { "SASL_SSL" } else { "SSL" });
            cases.push(case);
            proxies.insert(id, (at, version, proxy));
        }
    }
    let file = files.folder.path().join(format!("{}.json", client.name));
    fs::write(&file, Value::Array(cases).to_string())?;
    let Some(mut command) = (client.command)(&file) else {
        ottla_test_support::skipped(&format!("logins with {}: `make test` could not install it", client.name));
        return Ok(None);
    };
    let mut table = Table::new();
    for line in clients::run(&mut command)?.lines() {
        let (id, outcome) = line.split_once('\t').with_context(|| line.to_owned())?;
        let (at, version, proxy) = proxies.remove(id).with_context(|| line.to_owned())?;
        let came = Came { outcome: outcome.trim().to_owned(), connections: proxy.accepted() };
        table.entry((at, version)).or_default().insert(client.name, came);
    }
    ensure!(proxies.is_empty(), "{} told nothing of {:?}", client.name, proxies.keys());
    Ok(Some(table))
}

fn run(target: &Target, files: &Files) -> Result<(Vec<Way>, Table)> {
    let logins = Logins::prepare(target, files)?;
    let ways = ways(files, &logins);
    let (next, table) = (AtomicUsize::new(0), Mutex::new(Table::new()));
    let lane = || -> Result<()> {
        while let Some(client) = CLIENTS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let came = run_client(client, target, &ways, files).with_context(|| client.name.to_owned())?;
            println!("{}: {:?}", client.name, began.elapsed());
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, row) in came.unwrap_or_default() {
                table.entry(key).or_default().extend(row);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().ok().context("a lane ended")?)
    })?;
    Ok((ways, table.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

fn at_ottla(files: &Files) -> Result<(Vec<Way>, Table)> {
    let mut options =
        ClusterOptions { coordinators: 1, brokers: 1, listeners: listeners(), ..ClusterOptions::default() };
    options.broker_properties = files.properties();
    let cluster = Arc::new(Cluster::start_with(options)?);
    let of = cluster.clone();
    let target =
        Target { plaintext: cluster.bootstrap(), address: Box::new(move |listener| of.bootstrap_of(listener)) };
    run(&target, files)
}

fn at_kafka(files: &Files) -> Result<Option<(Vec<Way>, Table)>> {
    let Some(jars) = broker_4_jars() else { return Ok(None) };
    let folder = tempfile::tempdir()?;
    let lines: Vec<String> = files.properties().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let kafka = Arc::new(KafkaBroker::start_listening(&jars, folder.path(), &listeners(), &lines)?);
    let of = kafka.clone();
    let target = Target { plaintext: kafka.bootstrap(), address: Box::new(move |listener| of.address_of(listener)) };
    run(&target, files).with_context(|| kafka.log_text()).map(Some)
}

/// What clients come to at Kafka: (way, client) → outcomes. Where a client writes while the broker refuses it, it
/// learns of the refusal or of the connection's end, whichever is first: such a way has two outcomes.
type Outcomes = BTreeMap<(String, String), BTreeSet<String>>;

fn page_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/security-clients.md")
}

/// The table of the page.
fn outcomes_at_kafka() -> Result<Outcomes> {
    let page = fs::read_to_string(page_path())?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut cells = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let clients = cells.next().context("a table")?;
    let mut outcomes = Outcomes::new();
    for row in cells {
        for (client, cell) in clients.iter().zip(&row).skip(1).filter(|(_, cell)| **cell != NONE) {
            let seen = cell.split(OR).map(str::to_owned).collect();
            outcomes.insert((row[0].to_owned(), (*client).to_owned()), seen);
        }
    }
    Ok(outcomes)
}

/// The page with these outcomes beside those that it has.
fn page(ways: &[Way], table: &Table) -> String {
    let mut outcomes = outcomes_at_kafka().unwrap_or_default();
    for ((at, _), row) in table {
        for (client, came) in row {
            let key = (ways[*at].name.clone(), (*client).to_owned());
            outcomes.entry(key).or_default().insert(came.outcome.clone());
        }
    }
    let mut page = PAGE.to_owned();
    let names: Vec<&str> = CLIENTS.iter().map(|client| client.name).collect();
    page += &format!("| way | {} |\n|{}\n", names.join(" | "), "---|".repeat(1 + names.len()));
    for way in ways {
        let cell = |name: &&str| match outcomes.get(&(way.name.clone(), (*name).to_owned())) {
            Some(seen) => seen.iter().cloned().collect::<Vec<_>>().join(OR),
            None => NONE.to_owned(),
        };
        page += &format!("| {} | {} |\n", way.name, names.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    page
}

/// What does not hold, whatever Kafka does.
fn faults(ways: &[Way], table: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    for ((at, version), row) in table {
        for (client, came) in row {
            let way = &ways[*at];
            let right = (came.outcome == OK) == way.right;
            if !right || came.outcome == "hang" || came.connections > CONNECTIONS_MAX {
                faults.push(format!("{client}, {version}, {}: {came:?}", way.name));
            }
        }
    }
    faults
}

fn show(ways: &[Way], table: &Table) {
    for ((at, version), row) in table {
        let came = row.iter().map(|(client, came)| format!("{client}: {} ({})", came.outcome, came.connections));
        println!("{version} {}: {}", ways[*at].name, came.collect::<Vec<_>>().join(", "));
    }
}

#[test]
fn seven_clients_end_as_at_kafka() -> Result<()> {
    let files = Files::new()?;
    let (ways, ours) = at_ottla(&files)?;
    show(&ways, &ours);
    let mut faults = faults(&ways, &ours);
    let theirs = outcomes_at_kafka()?;
    for ((at, version), row) in &ours {
        for (client, came) in row {
            let key = (ways[*at].name.clone(), (*client).to_owned());
            let expected = theirs.get(&key).with_context(|| format!("docs/security-clients.md lacks {key:?}"))?;
            let is_known = DIFFERENT.contains(&(key.0.as_str(), *client, came.outcome.as_str()));
            if !expected.contains(&came.outcome) && !is_known {
                faults.push(format!("{client}, {version}, {}: {}, at Kafka {expected:?}", key.0, came.outcome));
            }
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
#[ignore = "writes docs/security-clients.md anew, by a Kafka"]
fn record_what_clients_come_to_at_kafka() -> Result<()> {
    let files = Files::new()?;
    let Some((ways, theirs)) = at_kafka(&files)? else { return Ok(()) };
    show(&ways, &theirs);
    let faults = faults(&ways, &theirs);
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    fs::write(page_path(), page(&ways, &theirs))?;
    Ok(())
}
