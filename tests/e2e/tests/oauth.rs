//! Bearer tokens (OAUTHBEARER) of an identity provider: clients of other people, tools of both sides, and brokers among
//! each other.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::Authority;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

const MODULE: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required";
const UNSECURED: &str =
    "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler";
const LOGIN_HANDLER: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler";
/// What librdkafka tells of a refused login.
const REFUSED: &str = "_AUTHENTICATION";

/// `identity_provider.py`; it ends with this.
struct Provider {
    process: Child,
    answers: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Provider {
    fn start(files: &TempDir) -> Result<Self> {
        let identity = Authority::new(files.path(), "provider")?.sign("identity-provider")?;
        let (certificate, key) = (identity.certificate.display().to_string(), identity.key.display().to_string());
        let mut process = clients::start_script("identity_provider.py", &[&certificate, &key])?;
        let mut answers = BufReader::new(process.stdout.take().context("its output")?).lines();
        let url = answers.next().context("its URL")??;
        Ok(Self { process, answers, url })
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.process.stdin.as_mut().context("its input")?, "{line}")?;
        Ok(self.answers.next().context("an answer")??)
    }

    fn token(&mut self, claims: &Value) -> Result<String> {
        self.ask(&claims.to_string())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Bench {
    cluster: Cluster,
    provider: Provider,
    files: TempDir,
}

impl Bench {
    /// Two brokers that log in to each other with tokens of the provider, and a listener for unsecured ones.
    fn start() -> Result<Self> {
        let files = TempDir::with_prefix("ottla-e2e-oauth-")?;
        let provider = Provider::start(&files)?;
        let (url, trust) = (&provider.url, files.path().join("provider-ca.pem"));
        let tls = format!("ssl.truststore.type=\"PEM\" ssl.truststore.location=\"{}\"", trust.display());
        let module = format!("{MODULE} clientId=\"me\" clientSecret=\"s:cret\" scope=\"a-broker\" {tls};");
        let mut options = ClusterOptions {
            coordinators: 1,
            brokers: 2,
            inter_broker_protocol: "SASL_PLAINTEXT".to_owned(),
            ..ClusterOptions::default()
        }
        .listening("OAUTH", "SASL_PLAINTEXT")
        .listening("TRIAL", "SASL_PLAINTEXT");
        for (name, value) in [
            ("sasl.enabled.mechanisms", "OAUTHBEARER"),
            ("sasl.mechanism.inter.broker.protocol", "OAUTHBEARER"),
            ("sasl.oauthbearer.jwks.endpoint.url", &format!("{url}/keys")),
            ("sasl.oauthbearer.token.endpoint.url", &format!("{url}/token")),
            ("sasl.oauthbearer.expected.audience", "kafka"),
            ("sasl.oauthbearer.expected.issuer", "https://provider.example"),
            ("listener.name.internal.oauthbearer.sasl.jaas.config", &module),
            ("listener.name.oauth.oauthbearer.sasl.jaas.config", &module),
            ("listener.name.trial.oauthbearer.sasl.server.callback.handler.class", UNSECURED),
            ("listener.name.trial.oauthbearer.sasl.jaas.config", &format!("{MODULE};")),
            ("min.insync.replicas", "2"),
        ] {
            options = options.with(name, value);
        }
        Ok(Self { cluster: Cluster::start_with(options)?, provider, files })
    }

    fn topic(&self, name: &str) -> Result<()> {
        clients::run_script("create_topic.py", &[&self.cluster.bootstrap(), name, "1", "2"])?;
        self.cluster.settle()
    }

    /// What a library comes to with a token.
    fn outcome(&self, library: &str, listener: &str, topic: &str, token: &str) -> Result<String> {
        let settings = json!({
            "bootstrap.servers": self.cluster.bootstrap_of(listener),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "oauth.token": token,
        });
        Ok(clients::run_script("secure_roundtrip.py", &[library, topic, &settings.to_string()])?.trim().to_owned())
    }

    /// A file of a tool's properties.
    fn properties(&self, name: &str, lines: &[&str]) -> Result<String> {
        let path = self.files.path().join(name);
        let usual = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\n".to_owned();
        fs::write(&path, usual + &lines.join("\n"))?;
        Ok(path.display().to_string())
    }

    fn topics(&self, listener: &str, properties: &str) -> Result<String> {
        let at = self.cluster.bootstrap_of(listener);
        clients::run(&mut clients::tool("kafka-topics", &at, &["--command-config", properties, "--list"])?)
    }
}

#[test]
fn bearer_tokens_of_the_provider_log_in_and_others_do_not() -> Result<()> {
    let mut bench = Bench::start()?;
    good_tokens(&mut bench)?;
    bad_tokens(&mut bench)?;
    unsecured_tokens(&bench)?;
    tools(&mut bench)?;
    keys_change(&mut bench)?;
    for id in 1..=2 {
        let log = bench.cluster.log_text(Node::Broker(id))?;
        ensure!(!log.contains("s:cret") && !log.contains("eyJ"), "broker {id} logged a secret");
    }
    Ok(())
}

fn good_tokens(bench: &mut Bench) -> Result<()> {
    let token = bench.provider.token(&json!({}))?;
    for library in ["confluent", "kafka-python"] {
        // Two replicas in sync: the brokers have logged in to each other.
        bench.topic(library)?;
        let outcome = bench.outcome(library, "OAUTH", library, &token)?;
        ensure!(outcome == "ok", "{library}: {outcome}");
    }
    Ok(())
}

fn bad_tokens(bench: &mut Bench) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let good = bench.provider.token(&json!({}))?;
    let (head, signature) = good.rsplit_once('.').context("three parts")?;
    let other = bench.provider.token(&json!({"sub": "mallory"}))?;
    let (other, _) = other.rsplit_once('.').context("three parts")?;
    ensure!(head != other);
    for (name, token) in [
        ("expired", bench.provider.token(&json!({"exp": now - 100}))?),
        ("for another audience", bench.provider.token(&json!({"aud": "other"}))?),
        ("of another issuer", bench.provider.token(&json!({"iss": "https://other.example"}))?),
        ("of nobody", bench.provider.token(&json!({"sub": ""}))?),
        ("with the signature of another", format!("{other}.{signature}")),
        ("no token", "a.b.c".to_owned()),
    ] {
        let outcome = bench.outcome("confluent", "OAUTH", "refused", &token)?;
        ensure!(outcome == REFUSED, "{name}: {outcome}");
    }
    Ok(())
}

fn unsecured_tokens(bench: &Bench) -> Result<()> {
    let login = format!("sasl.jaas.config={MODULE} unsecuredLoginStringClaim_sub=\"alice\";");
    let properties = bench.properties("unsecured.properties", &[&login])?;
    ensure!(bench.topics("TRIAL", &properties)?.contains("confluent"));
    let error = bench.topics("OAUTH", &properties).err().context("refused")?.to_string();
    ensure!(error.contains("invalid_token"), "{error}");
    if let Some(mut kafkas) = clients::java("org.apache.kafka.tools.TopicCommand", &[]) {
        let at = bench.cluster.bootstrap_of("TRIAL");
        kafkas.args(["--bootstrap-server", &at, "--command-config", &properties, "--list"]);
        let listed = clients::run(&mut kafkas)?;
        ensure!(listed.contains("confluent"), "{listed}");
    }
    Ok(())
}

/// With a token in a file, and with one from the provider's endpoint: our tool, and Kafka's where its jars are.
fn tools(bench: &mut Bench) -> Result<()> {
    let file = bench.files.path().join("token");
    fs::write(&file, bench.provider.token(&json!({}))? + "\n")?;
    let handler = format!("sasl.login.callback.handler.class={LOGIN_HANDLER}");
    let from = |url: &str| format!("sasl.oauthbearer.token.endpoint.url={url}");
    let trust = bench.files.path().join("provider-ca.pem");
    let module = |secret: &str| {
        format!(
            "sasl.jaas.config={MODULE} clientId=\"me\" clientSecret=\"{secret}\" scope=\"a-tool\" \
             ssl.truststore.type=\"PEM\" ssl.truststore.location=\"{}\";",
            trust.display()
        )
    };
    let (of_file, of_endpoint) = (format!("file://{}", file.display()), format!("{}/token", bench.provider.url));
    let by_file =
        bench.properties("file.properties", &[&handler, &from(&of_file), &format!("sasl.jaas.config={MODULE};")])?;
    let by_endpoint = bench.properties("endpoint.properties", &[&handler, &from(&of_endpoint), &module("s:cret")])?;
    for properties in [&by_file, &by_endpoint] {
        ensure!(bench.topics("OAUTH", properties)?.contains("confluent"));
        if let Some(mut kafkas) = clients::java("org.apache.kafka.tools.TopicCommand", &[]) {
            let at = bench.cluster.bootstrap_of("OAUTH");
            let allowed = format!(
                "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={of_file},{of_endpoint} \
                                   -Dorg.apache.kafka.sasl.oauthbearer.allowed.files={}",
                file.display()
            );
            kafkas.env("JAVA_TOOL_OPTIONS", allowed);
            kafkas.args(["--bootstrap-server", &at, "--command-config", properties, "--list"]);
            let listed = clients::run(&mut kafkas)?;
            ensure!(listed.contains("confluent"), "{listed}");
        }
    }
    let wrong = bench.properties("wrong.properties", &[&handler, &from(&of_endpoint), &module("wrong")])?;
    let error = bench.topics("OAUTH", &wrong).err().context("refused")?.to_string();
    ensure!(error.contains("401") && !error.contains("wrong\""), "{error}");
    Ok(())
}

/// The provider changes its key: brokers read the new one soon after the first token that was signed with it.
fn keys_change(bench: &mut Bench) -> Result<()> {
    let before = bench.provider.token(&json!({}))?;
    bench.provider.ask("rotate")?;
    let token = bench.provider.token(&json!({}))?;
    let path = bench.files.path().join("token");
    fs::write(&path, &token)?;
    let by_file = bench.files.path().join("file.properties").display().to_string();
    wait::until_ok("a token by the new key", || bench.topics("OAUTH", &by_file).map(drop))?;
    fs::write(&path, &before)?;
    wait::until("the former key is gone", || Ok(bench.topics("OAUTH", &by_file).is_err()))?;
    bench.topic("after")?;
    fs::write(&path, &token)?;
    ensure!(bench.outcome("confluent", "OAUTH", "after", &token)? == "ok");
    Ok(())
}
