//! Clusters with TLS and SASL, and the clients of other people on them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::{Authority, Identity};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const PLAIN_MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const SCRAM_MODULE: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required";

/// What librdkafka tells of a refused login.
const AUTHENTICATION: &[&str] = &["_AUTHENTICATION"];
/// What librdkafka tells of a handshake that failed: the broken connection, or, if its third one breaks first, that no
/// broker is left.
const HANDSHAKE: &[&str] = &["_SSL", "_ALL_BROKERS_DOWN"];

struct Secure {
    cluster: Cluster,
    files: TempDir,
    client: Identity,
}

impl Secure {
    /// Three coordinators and three brokers that speak SASL_SSL with SCRAM to each other, and a listener of each kind.
    fn start() -> Result<Self> {
        let files = TempDir::with_prefix("ottla-e2e-certificates-")?;
        let authority = Authority::new(files.path(), "ours")?;
        Authority::new(files.path(), "other")?;
        let (broker, client) = (authority.sign("broker")?, authority.sign("client")?);
        let store = |path: &Path| path.display().to_string();
        let mut options = ClusterOptions { inter_broker_protocol: "SASL_SSL".to_owned(), ..ClusterOptions::default() }
            .listening("TLS", "SSL")
            .listening("MUTUAL", "SSL")
            .listening("PLAIN", "SASL_PLAINTEXT")
            .listening("SECURE", "SASL_SSL");
        for (name, value) in [
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", &store(&broker.store)),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", &store(&files.path().join("ours-ca.pem"))),
            ("listener.name.mutual.ssl.client.auth", "required"),
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
            ("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512"),
            ("inter.broker.user", "brokers"),
            ("inter.broker.password", "between-brokers"),
            ("delegation.token.secret.key", "of-tokens"),
            ("listener.name.plain.plain.sasl.jaas.config", &format!("{PLAIN_MODULE} user_alice=\"alice-secret\";")),
            ("listener.name.secure.plain.sasl.jaas.config", &format!("{PLAIN_MODULE} user_alice=\"alice-secret\";")),
        ] {
            options = options.with(name, value);
        }
        let cluster = Cluster::start_with(options)?;
        let secure = Self { cluster, files, client };
        for credential in
            ["SCRAM-SHA-256=[iterations=8192,password=scram-secret]", "SCRAM-SHA-512=[password=scram-secret]"]
        {
            let user = ["--alter", "--entity-type", "users", "--entity-name", "scram-user", "--add-config", credential];
            secure.tool("kafka-configs", &secure.cluster.bootstrap(), &user)?;
        }
        secure.cluster.settle()?;
        Ok(secure)
    }

    fn tool(&self, name: &str, bootstrap: &str, arguments: &[&str]) -> Result<String> {
        clients::run(&mut clients::tool(name, bootstrap, arguments)?)
    }

    fn topic(&self, name: &str) -> Result<()> {
        clients::run_script("create_topic.py", &[&self.cluster.bootstrap(), name, "1", "3"])?;
        self.cluster.settle()
    }

    /// librdkafka's settings for a listener.
    fn settings(&self, listener: &str, protocol: &str, others: &[(&str, &str)]) -> Map<String, Value> {
        let mut settings = Map::new();
        settings.insert("bootstrap.servers".to_owned(), json!(self.cluster.bootstrap_of(listener)));
        settings.insert("security.protocol".to_owned(), json!(protocol));
        if protocol.ends_with("SSL") {
            settings.insert("ssl.ca.location".to_owned(), json!(self.files.path().join("ours-ca.pem")));
        }
        for (name, value) in others {
            settings.insert((*name).to_owned(), json!(value));
        }
        settings
    }

    fn outcome(&self, library: &str, topic: &str, settings: &Map<String, Value>) -> Result<String> {
        let settings = Value::Object(settings.clone()).to_string();
        Ok(clients::run_script("secure_roundtrip.py", &[library, topic, &settings])?.trim().to_owned())
    }
}

/// Tests of this file that run at the same time share one cluster; it ends with the last of them.
fn secure() -> Result<Arc<Secure>> {
    static SHARED: Mutex<Weak<Secure>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Ok(running);
    }
    let secure = Arc::new(Secure::start()?);
    *shared = Arc::downgrade(&secure);
    Ok(secure)
}

fn login<'a>(mechanism: &'a str, user: &'a str, password: &'a str) -> [(&'static str, &'a str); 3] {
    [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)]
}

#[test]
fn clients_come_in_by_every_way() -> Result<()> {
    let secure = secure()?;
    let (certificate, key) = (secure.client.certificate.display().to_string(), secure.client.key.display().to_string());
    let own = [("ssl.certificate.location", certificate.as_str()), ("ssl.key.location", key.as_str())];
    let ways = [
        ("tls", secure.settings("TLS", "SSL", &[])),
        ("mutual", secure.settings("MUTUAL", "SSL", &own)),
        ("plain", secure.settings("PLAIN", "SASL_PLAINTEXT", &login("PLAIN", "alice", "alice-secret"))),
        ("plain-tls", secure.settings("SECURE", "SASL_SSL", &login("PLAIN", "alice", "alice-secret"))),
        (
            "scram-256",
            secure.settings("PLAIN", "SASL_PLAINTEXT", &login("SCRAM-SHA-256", "scram-user", "scram-secret")),
        ),
        ("scram-512", secure.settings("SECURE", "SASL_SSL", &login("SCRAM-SHA-512", "scram-user", "scram-secret"))),
    ];
    for library in ["confluent", "kafka-python"] {
        for (name, settings) in &ways {
            let topic = format!("{library}-{name}");
            secure.topic(&topic)?;
            let outcome = secure.outcome(library, &topic, settings)?;
            ensure!(outcome == "ok", "{library} {name}: {outcome}");
        }
    }
    Ok(())
}

#[test]
fn others_are_refused_with_kafkas_errors() -> Result<()> {
    let secure = secure()?;
    let mut wrong_authority = secure.settings("TLS", "SSL", &[]);
    wrong_authority.insert("ssl.ca.location".to_owned(), json!(secure.files.path().join("other-ca.pem")));
    let of_plain = |login: &[(&str, &str)]| secure.settings("PLAIN", "SASL_PLAINTEXT", login);
    let of_secure = |login: &[(&str, &str)]| secure.settings("SECURE", "SASL_SSL", login);
    for (name, settings, expected) in [
        ("a wrong password", of_plain(&login("PLAIN", "alice", "wrong")), AUTHENTICATION),
        ("a wrong SCRAM password", of_secure(&login("SCRAM-SHA-512", "scram-user", "wrong")), AUTHENTICATION),
        ("no such user", of_secure(&login("SCRAM-SHA-256", "nobody", "wrong")), AUTHENTICATION),
        ("another authority", wrong_authority, HANDSHAKE),
        ("no certificate", secure.settings("MUTUAL", "SSL", &[]), HANDSHAKE),
    ] {
        // kafka-python has no error for these: it tries until its time is over.
        let outcome = secure.outcome("confluent", "refused", &settings)?;
        ensure!(expected.contains(&outcome.as_str()), "{name}: {outcome}");
    }
    // A client that speaks plaintext to TLS learns nothing; the broker says why in one line.
    let address = secure.cluster.bootstrap_of("TLS");
    let address = address.split(',').next().context("an address")?;
    await_log(&secure.cluster, "TLS handshake: ", || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(&clients::request_frame(18, 0, 1, &[]))?;
        let _ = stream.read(&mut [0; 100]);
        Ok(())
    })?;
    // And a TLS client on a plaintext listener.
    await_log(&secure.cluster, "a TLS handshake on a plaintext listener", || {
        let mut stream = TcpStream::connect(secure.cluster.broker_address(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00])?;
        ensure!(stream.read(&mut [0; 100]).unwrap_or(0) == 0, "closed");
        Ok(())
    })?;
    for id in 1..=3 {
        let log = secure.cluster.log_text(Node::Broker(id))?;
        for secret in ["alice-secret", "scram-secret", "between-brokers", "of-tokens"] {
            ensure!(!log.contains(secret), "broker {id} logged a password");
        }
    }
    Ok(())
}

/// Does it until broker 1 says so in its log. Complaints of many connections share few lines: beside other tests one
/// may go without.
fn await_log(cluster: &Cluster, wanted: &str, mut cause: impl FnMut() -> Result<()>) -> Result<()> {
    wait::until(&format!("broker 1 logs {wanted:?}"), || {
        cause()?;
        Ok(cluster.log_text(Node::Broker(1))?.contains(wanted))
    })
}

#[test]
fn tools_take_a_clients_properties() -> Result<()> {
    let secure = secure()?;
    let file = secure.files.path().join("client.properties");
    let write = |text: &str| fs::write(&file, text);
    let trust =
        format!("ssl.truststore.type=PEM\nssl.truststore.location={}/ours-ca.pem\n", secure.files.path().display());
    let config = file.display().to_string();
    let at = secure.cluster.bootstrap_of("SECURE");
    let list = || secure.tool("kafka-topics", &at, &["--command-config", &config, "--list"]);
    secure.topic("of-tools")?;
    let login = |password: &str| {
        format!("sasl.jaas.config={SCRAM_MODULE} \\\n  username=\"scram-user\" \\\n  password=\"{password}\";\n")
    };
    write(&format!("security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n{trust}{}", login("scram-secret")))?;
    ensure!(list()?.contains("of-tools"));
    let users =
        secure.tool("kafka-configs", &at, &["--command-config", &config, "--describe", "--entity-type", "users"])?;
    let expected = "SCRAM credential configs for user-principal 'scram-user' are SCRAM-SHA-256=iterations=8192, \
                    SCRAM-SHA-512=iterations=4096\n";
    ensure!(users == expected, "{users}");
    write(&format!("security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n{trust}{}", login("wrong-secret")))?;
    let error = list().err().context("refused")?.to_string();
    ensure!(error.contains("invalid credentials") && !error.contains("wrong-secret"), "{error}");
    write("security.protocol=SSL\n")?;
    ensure!(list().is_err(), "another authority");
    Ok(())
}

/// A token is made with a password, logs in for its owner, is renewed, and ends.
#[test]
fn tokens_log_in_until_they_end() -> Result<()> {
    let secure = secure()?;
    secure.topic("of-tokens")?;
    let at = secure.cluster.bootstrap_of("SECURE");
    let file = |name: &str, mechanism: &str, module: &str| -> Result<String> {
        let path = secure.files.path().join(name);
        let trust = secure.files.path().join("ours-ca.pem");
        let text = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism={mechanism}\nsasl.jaas.config={module};\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n",
            trust.display()
        );
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let own = format!("{SCRAM_MODULE} username=\"scram-user\" password=\"scram-secret\"");
    let own = file("owner.properties", "SCRAM-SHA-512", &own)?;
    let other = format!("{PLAIN_MODULE} username=\"alice\" password=\"alice-secret\"");
    let other = file("other.properties", "PLAIN", &other)?;
    let tokens = |config: &str, arguments: &[&str]| {
        secure.tool("kafka-delegation-tokens", &at, &[&["--command-config", config][..], arguments].concat())
    };
    let made = tokens(&own, &["--create", "--max-life-time-period", "-1", "--renewer-principal", "User:bob"])?;
    let row: Vec<&str> = made.lines().last().context("a row")?.split_whitespace().collect();
    let [id, hmac, "User:scram-user", "User:scram-user", "[User:bob]", ..] = row[..] else {
        anyhow::bail!("{made}");
    };
    let login = format!("{SCRAM_MODULE} username=\"{id}\" password=\"{hmac}\" tokenauth=\"true\"");
    let by_token = ["SCRAM-SHA-256", "SCRAM-SHA-512"]
        .map(|mechanism| file(&format!("token-{mechanism}.properties"), mechanism, &login));
    let [sha_256, sha_512] = by_token;
    let (sha_256, sha_512) = (sha_256?, sha_512?);
    let list = |config: &str| secure.tool("kafka-topics", &at, &["--command-config", config, "--list"]);
    // Another broker than the one that made the token may hear of it later.
    secure.cluster.settle()?;
    for config in [&sha_256, &sha_512] {
        ensure!(list(config)?.contains("of-tokens"));
    }
    let refused = |config: &str, arguments: &[&str], expected: &str| -> Result<()> {
        let error = tokens(config, arguments).err().with_context(|| format!("{arguments:?} is refused"))?.to_string();
        ensure!(error.contains(expected), "{arguments:?}: {error}");
        Ok(())
    };
    refused(&sha_512, &["--describe"], "UnsupportedByAuthenticationException")?;
    let renew = ["--renew", "--renew-time-period", "60000", "--hmac", hmac];
    refused(&other, &renew, "DelegationTokenOwnerMismatchException")?;
    ensure!(tokens(&own, &renew)?.contains("Completed renew operation. New expiry date : "));
    secure.cluster.settle()?;
    refused(&own, &["--renew", "--renew-time-period", "1", "--hmac", "aGk="], "DelegationTokenNotFoundException")?;
    if let Some(mut kafkas) = clients::java("org.apache.kafka.tools.DelegationTokenCommand", &[]) {
        let owner = ["--describe", "--owner-principal", "User:scram-user"];
        // Its dates are local.
        kafkas.env("TZ", "UTC");
        kafkas.args(["--bootstrap-server", &at, "--command-config", &own]).args(owner);
        let (theirs, ours) = (clients::run(&mut kafkas)?, tokens(&own, &owner)?);
        ensure!(theirs == ours, "{theirs}{ours}");
        let mut topics = clients::java("org.apache.kafka.tools.TopicCommand", &[]).context("jars")?;
        topics.args(["--bootstrap-server", &at, "--command-config", &sha_512, "--list"]);
        let listed = clients::run(&mut topics)?;
        ensure!(listed.contains("of-tokens"), "{listed}");
    }
    tokens(&own, &["--expire", "--expiry-time-period", "-1", "--hmac", hmac])?;
    secure.cluster.settle()?;
    for config in [&sha_256, &sha_512] {
        let error = list(config).err().context("the token is refused")?.to_string();
        ensure!(error.contains("invalid credentials"), "{error}");
    }
    Ok(())
}

/// Clients that begin handshakes and do not go on keep nobody out.
#[test]
fn half_open_handshakes_keep_nobody_out() -> Result<()> {
    let secure = secure()?;
    let addresses = secure.cluster.bootstrap_of("TLS");
    let address = addresses.split(',').next().context("an address")?;
    // The header of a ClientHello of 512 bytes, of which nothing follows.
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let mut open = Vec::new();
    for at in 0..2_000 {
        let mut stream = TcpStream::connect(address)?;
        if at % 2 == 0 {
            // What the broker has closed already does not matter.
            let _ = stream.write_all(&hello);
        }
        open.push(stream);
    }
    secure.topic("beside-half-open")?;
    let outcome = secure.outcome("confluent", "beside-half-open", &secure.settings("TLS", "SSL", &[]))?;
    ensure!(outcome == "ok", "{outcome}");
    drop(open);
    Ok(())
}

/// A dump of a process has its passwords and keys.
#[test]
fn processes_leave_no_core_dumps_unless_they_are_told_to() -> Result<()> {
    const LIMIT: &str = "Max core file size";
    let options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options.clone())?;
    for node in [Node::Coordinator(1), Node::Broker(1)] {
        ensure!(cluster.limits(node, LIMIT)? == ["0", "0"], "{node}");
    }
    let cluster = Cluster::start_with(options.with("core.dump.enable", "true"))?;
    let own = rustix::process::getrlimit(rustix::process::Resource::Core);
    let told = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let limits = cluster.limits(Node::Broker(1), LIMIT)?;
    ensure!(limits == [told(own.current), told(own.maximum)], "{limits:?}");
    ensure!(own.maximum != Some(0), "this test needs a limit of core dumps to see that it is left alone");
    Ok(())
}

/// The password of the brokers is changed while the cluster runs. `kafka-configs` took it and nothing followed.
#[test]
fn a_broker_logs_in_to_others_as_its_configuration_says_now() -> Result<()> {
    let files = TempDir::with_prefix("ottla-e2e-own-login-")?;
    let module = |user: &str, password: &str| {
        let users = "user_first=\"first-secret\" user_second=\"second-secret\"";
        format!("{PLAIN_MODULE} username=\"{user}\" password=\"{password}\" {users};")
    };
    let options = ClusterOptions {
        coordinators: 1,
        brokers: 2,
        inter_broker_protocol: "SASL_PLAINTEXT".to_owned(),
        ..ClusterOptions::default()
    }
    .with("sasl.enabled.mechanisms", "PLAIN")
    .with("sasl.mechanism.inter.broker.protocol", "PLAIN")
    .with("listener.name.internal.plain.sasl.jaas.config", &module("first", "first-secret"));
    let mut cluster = Cluster::prepare(&options)?;
    let audit = |id: i32| files.path().join(format!("audit-{id}.jsonl"));
    for id in 1..=2 {
        cluster.set_variable(Node::Broker(id), "KAFKA_AUDIT_LOG_PATH", &audit(id).display().to_string())?;
    }
    cluster.spawn_all()?;
    clients::run_script("create_topic.py", &[&cluster.bootstrap(), "both-lead", "4", "2"])?;
    let logged_in = |user: &str| -> Result<bool> {
        let text = fs::read_to_string(audit(2))?;
        let principal = format!("\"principal\":\"User:{user}\"");
        Ok(text.lines().any(|line| line.contains("\"allowed\":true") && line.contains(&principal)))
    };
    wait::until("broker 1 logs in as the first user", || logged_in("first"))?;
    let changed = format!("listener.name.internal.plain.sasl.jaas.config=[{}]", module("second", "second-secret"));
    let arguments = ["--alter", "--entity-type", "brokers", "--entity-name", "1", "--add-config", &changed];
    clients::run(&mut clients::tool("kafka-configs", &cluster.bootstrap(), &arguments)?)?;
    wait::until("broker 1 has read it", || {
        Ok(cluster.log_text(Node::Broker(1))?.contains("log in as the configuration says now"))
    })?;
    ensure!(!logged_in("second")?, "connections that are open stay");
    cluster.signal(Node::Broker(2), Signal::TERM)?;
    cluster.wait(Node::Broker(2))?;
    cluster.spawn(Node::Broker(2))?;
    cluster.wait_ready()?;
    wait::until("broker 1 logs in as the second user", || logged_in("second"))?;
    ensure!(!cluster.log_text(Node::Broker(1))?.contains("second-secret"), "a password is in the log");
    Ok(())
}
