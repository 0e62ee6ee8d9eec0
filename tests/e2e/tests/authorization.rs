//! ACLs and quotas as people use them: with the tools, Kafka's own and ours, and with librdkafka's clients. Without
//! SASL everybody is `User:ANONYMOUS`: the cluster is open but for what rules are about.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::{Cluster, ClusterOptions, clients, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

const ACL_COMMAND: &str = "org.apache.kafka.tools.AclCommand";

fn secured() -> ClusterOptions {
    ClusterOptions { brokers: 2, coordinators: 1, ..ClusterOptions::default() }
        .with("authorizer.class.name", "kafka.security.authorizer.AclAuthorizer")
        .with("allow.everyone.if.no.acl.found", "true")
        .with("offsets.topic.replication.factor", "1")
}

fn tool(bootstrap: &str, name: &str, arguments: &[&str]) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, arguments)?)
}

/// What a tool says that fails.
fn failure(bootstrap: &str, name: &str, arguments: &[&str]) -> Result<String> {
    match tool(bootstrap, name, arguments) {
        Ok(out) => bail!("{name} {arguments:?} went well: {out}"),
        Err(error) => Ok(error.to_string()),
    }
}

fn produce(bootstrap: &str, topic: &str) -> Result<String> {
    let send = format!("echo value | kcat -b {bootstrap} -P -t {topic} -X message.timeout.ms=20000");
    clients::run(Command::new("sh").args(["-c", &send]))
}

fn consume(bootstrap: &str, arguments: &[&str]) -> Result<String> {
    clients::run(Command::new("timeout").args(["60", "kcat", "-m", "50", "-b", bootstrap, "-q"]).args(arguments))
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn rules_of_the_tool_hold_for_clients_and_tools() -> Result<()> {
    let cluster = Cluster::start_with(secured())?;
    let at = cluster.bootstrap();
    for topic in ["open", "locked", "hidden"] {
        tool(&at, "kafka-topics", &["--create", "--topic", topic, "--replication-factor", "2", "--partitions", "1"])?;
        produce(&at, topic)?;
    }
    cluster.settle()?;
    let anonymous = "User:ANONYMOUS";
    let read = ["--add", "--allow-principal", anonymous, "--operation", "Read", "--topic", "locked"];
    let out = tool(&at, "kafka-acls", &read)?;
    let rule = "(principal=User:ANONYMOUS, host=*, operation=READ, permissionType=ALLOW)";
    let resource = "ResourcePattern(resourceType=TOPIC, name=locked, patternType=LITERAL)";
    ensure!(out == format!("Adding ACLs for resource `{resource}`: \n \t{rule}\n\n"), "{out:?}");
    cluster.settle()?;
    let again = tool(&at, "kafka-acls", &read)?;
    ensure!(again == format!("Acl (pattern={resource}, entry={rule}) already exists.\n"), "{again:?}");
    // Only reading is allowed now. The topic that has a rule for others only cannot be seen.
    tool(&at, "kafka-acls", &["--add", "--allow-principal", "User:alice", "--topic", "hidden"])?;
    tool(&at, "kafka-acls", &["--add", "--deny-principal", anonymous, "--operation", "Read", "--group", "secret"])?;
    cluster.settle()?;
    produce(&at, "open")?;
    let denied = produce(&at, "locked").err().context("a write to a topic that is locked")?.to_string();
    ensure!(denied.contains("authorization failed"), "{denied}");
    ensure!(consume(&at, &["-C", "-t", "locked", "-e"])? == "value\n", "what may be read is read");
    let listed = tool(&at, "kafka-topics", &["--list"])?;
    ensure!(lines(&listed).is_superset(&BTreeSet::from(["open", "locked"])), "{listed}");
    ensure!(!listed.contains("hidden"), "{listed}");
    // As in Kafka: who may create topics in the cluster is told that a name is taken.
    let unseen = failure(&at, "kafka-topics", &["--create", "--topic", "hidden"])?;
    ensure!(unseen.contains("Topic 'hidden' already exists."), "{unseen}");
    let group = ["-G", "secret", "open", "-c", "1", "-X", "auto.offset.reset=earliest"];
    let denied = consume(&at, &group).err().context("a member of a secret group")?.to_string();
    ensure!(denied.contains("Group authorization failed"), "{denied}");
    ensure!(consume(&at, &["-G", "public", "open", "-c", "1", "-X", "auto.offset.reset=earliest"])? == "value\n");
    // Kafka's rule: a topic is created by who may create in the cluster, or that topic.
    tool(&at, "kafka-acls", &["--add", "--allow-principal", anonymous, "--cluster"])?;
    tool(&at, "kafka-acls", &["--add", "--deny-principal", anonymous, "--operation", "Create", "--cluster"])?;
    let no_create = ["--add", "--deny-principal", anonymous, "--operation", "Create", "--topic", "no-"];
    tool(&at, "kafka-acls", &[&no_create[..], &["--resource-pattern-type", "prefixed"]].concat())?;
    cluster.settle()?;
    let denied = failure(&at, "kafka-topics", &["--create", "--topic", "no-way"])?;
    ensure!(denied.contains("Authorization failed"), "{denied}");
    tool(&at, "kafka-topics", &["--create", "--topic", "yes", "--partitions", "1"])?;
    // Followers follow: nobody took the cluster action away.
    let out = tool(&at, "kafka-topics", &["--describe", "--topic", "open"])?;
    ensure!(out.contains("Isr: 1,2") || out.contains("Isr: 2,1"), "{out}");
    // All rules about a resource go, and it is open again.
    tool(&at, "kafka-acls", &["--remove", "--topic", "locked", "--force"])?;
    wait::until_ok("the topic is open", || produce(&at, "locked").map(drop))
}

#[test]
fn kafkas_acl_command_and_ours_agree() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions { brokers: 1, coordinators: 1, ..secured() })?;
    let at = cluster.bootstrap();
    let kafkas = |arguments: &[&str]| {
        let arguments = [arguments, &["--bootstrap-server", &at]].concat();
        clients::java(ACL_COMMAND, &arguments).map(|mut command| clients::run(&mut command)).transpose()
    };
    let producer = ["--add", "--producer", "--allow-principal", "User:p", "--topic", "t", "--transactional-id", "x"];
    let Some(added) = kafkas(&producer)? else {
        ottla_test_support::skipped("Kafka's jars are not there");
        return Ok(());
    };
    ensure!(added.contains("Adding ACLs for resource"), "{added}");
    // Each tool sees the other's rules, in the same words.
    let consumer = ["--add", "--consumer", "--allow-principal", "User:c", "--allow-host", "10.0.0.1", "--topic", "t-"];
    let consumer = [&consumer[..], &["--group", "g-", "--resource-pattern-type", "prefixed"]].concat();
    tool(&at, "kafka-acls", &consumer)?;
    let compare = |arguments: &[&str]| -> Result<String> {
        let (ours, theirs) = (tool(&at, "kafka-acls", arguments)?, kafkas(arguments)?.context("it was there")?);
        ensure!(lines(&ours) == lines(&theirs), "{arguments:?}\nours:\n{ours}\ntheirs:\n{theirs}");
        Ok(ours)
    };
    ensure!(lines(&compare(&["--list"])?).len() >= 8, "all rules");
    compare(&["--list", "--topic", "t"])?;
    compare(&["--list", "--topic", "t-x", "--resource-pattern-type", "match"])?;
    compare(&["--list", "--topic", "t", "--resource-pattern-type", "any"])?;
    compare(&["--list", "--principal", "User:c"])?;
    compare(&consumer)?;
    kafkas(&["--remove", "--force", "--topic", "t-", "--resource-pattern-type", "prefixed"])?;
    tool(
        &at,
        "kafka-acls",
        &["--remove", "--force", "--topic", "t", "--allow-principal", "User:p", "--operation", "Create"],
    )?;
    let rest = compare(&["--list"])?;
    ensure!(!rest.contains("t-,") && !rest.contains("CREATE"), "{rest}");
    Ok(())
}

#[test]
fn quotas_are_set_and_shown_by_kafka_configs() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions { brokers: 1, coordinators: 1, ..ClusterOptions::default() })?;
    let at = cluster.bootstrap();
    let configs = |arguments: &[&str]| tool(&at, "kafka-configs", arguments);
    let set = configs(&["--alter", "--user-defaults", "--add-config", "producer_byte_rate=1048576"])?;
    ensure!(set == "Completed updating default config for users in the cluster.\n", "{set}");
    let both = ["--entity-type", "users", "--entity-name", "alice", "--entity-type", "clients", "--entity-name", "app"];
    let add = ["--alter", "--add-config", "consumer_byte_rate=20000000,request_percentage=50"];
    let set = configs(&[&add[..], &both].concat())?;
    ensure!(set == "Completed updating config for user alice.\n", "{set}");
    configs(&["--alter", "--ip", "10.0.0.1", "--add-config", "connection_creation_rate=10"])?;
    let shown = configs(&["--describe", "--user-defaults"])?;
    ensure!(shown == "Quota configs for the default user-principal are producer_byte_rate=1048576.0\n", "{shown}");
    let shown = configs(&[&["--describe"][..], &both].concat())?;
    let expected = "Quota configs for user-principal 'alice', client-id 'app' are consumer_byte_rate=2.0E7, request_percentage=50.0\n";
    ensure!(shown == expected, "{shown}");
    let shown = configs(&["--describe", "--entity-type", "ips"])?;
    ensure!(shown == "Quota configs for ip '10.0.0.1' are connection_creation_rate=10.0\n", "{shown}");
    configs(&["--alter", "--user-defaults", "--delete-config", "producer_byte_rate"])?;
    ensure!(configs(&["--describe", "--user-defaults"])?.is_empty());
    // A client that is above its quota is served more slowly, and whole.
    configs(&["--alter", "--client-defaults", "--add-config", "producer_byte_rate=2000,consumer_byte_rate=2000"])?;
    tool(&at, "kafka-topics", &["--create", "--topic", "slow", "--partitions", "1"])?;
    let send = format!("seq 1 3000 | kcat -b {at} -P -t slow -X message.timeout.ms=60000");
    clients::run(Command::new("sh").args(["-c", &send]))?;
    let read = consume(&at, &["-C", "-t", "slow", "-e"])?;
    ensure!(read.lines().count() == 3_000, "{} records", read.lines().count());
    Ok(())
}

/// Logins, denials and changes, by whom and from where; reads that are allowed are not in it.
#[test]
fn the_audit_log_has_what_was_denied_and_changed() -> Result<()> {
    const MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let files = TempDir::with_prefix("ottla-e2e-audit-")?;
    let path = files.path().join("audit.log");
    let options = ClusterOptions { brokers: 1, coordinators: 1, ..ClusterOptions::default() }
        .listening("CLIENT", "SASL_PLAINTEXT")
        .with("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        .with("super.users", "User:ANONYMOUS")
        .with("sasl.enabled.mechanisms", "PLAIN")
        .with("listener.name.client.plain.sasl.jaas.config", &format!("{MODULE} user_alice=\"alice-secret\";"))
        .with("audit.log.path", &path.display().to_string());
    let cluster = Cluster::start_with(options)?;
    let at = cluster.bootstrap_of("CLIENT");
    let properties = |password: &str| -> Result<String> {
        let file = files.path().join(password);
        let login = format!("{MODULE} username=\"alice\" password=\"{password}\";");
        let text = format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config={login}\n");
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    };
    let create = ["--create", "--topic", "made", "--partitions", "1"];
    tool(&cluster.bootstrap(), "kafka-topics", &create)?;
    for (password, expected) in [("wrong-secret", "Invalid username"), ("alice-secret", "Authorization failed")] {
        let file = properties(password)?;
        let arguments = ["--command-config", &file, "--create", "--topic", "denied"];
        let error = failure(&at, "kafka-topics", &arguments)?;
        ensure!(error.contains(expected), "{error}");
    }
    produce(&cluster.bootstrap(), "made")?;
    let mut missing = vec![
        json!({"event": "access", "principal": "User:ANONYMOUS", "operation": "CREATE", "resource": "made",
               "allowed": true}),
        json!({"event": "login", "principal": null, "listener": "CLIENT", "allowed": false}),
        json!({"event": "login", "principal": "User:alice", "mechanism": "PLAIN", "allowed": true}),
        json!({"event": "access", "principal": "User:alice", "operation": "CREATE", "resource": "denied",
               "resource_type": "TOPIC", "host": "127.0.0.1", "allowed": false}),
    ];
    wait::until_ok("the lines of the audit log", || {
        let text = fs::read_to_string(&path)?;
        ensure!(!text.contains("secret"), "{text}");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            ensure!(
                event["time_ms"].is_u64() && (event["operation"] != "WRITE" || event["allowed"] == false),
                "{line}"
            );
            let has = |wanted: &Value| {
                wanted
                    .as_object()
                    .is_some_and(|wanted| wanted.iter().all(|(name, value)| event.get(name) == Some(value)))
            };
            missing.retain(|wanted| !has(wanted));
        }
        ensure!(missing.is_empty(), "{missing:?} in {text}");
        Ok(())
    })
}

/// Nobody is refused: who comes too often waits. Only the shortest time is known.
#[test]
fn connections_above_their_rate_wait() -> Result<()> {
    let options = ClusterOptions { brokers: 1, coordinators: 1, ..ClusterOptions::default() }
        .listening("SLOW", "PLAINTEXT")
        .with("listener.name.slow.max.connection.creation.rate", "1");
    let cluster = Cluster::start_with(options)?;
    let address = cluster.bootstrap_of("SLOW").parse()?;
    let began = Instant::now();
    // Ten are within the windows.
    for _ in 0..13 {
        clients::call(address, 18, 0, &[])?;
    }
    let took = began.elapsed();
    ensure!(took >= Duration::from_secs(2), "{took:?}");
    // Other listeners do not wait with it.
    ensure!(clients::broker_ids(cluster.broker_address(1))? == [1]);
    let faster = ["--alter", "--entity-type", "brokers", "--entity-default", "--add-config"];
    let faster = [&faster[..], &["listener.name.slow.max.connection.creation.rate=100000"]].concat();
    tool(&cluster.bootstrap(), "kafka-configs", &faster)?;
    for _ in 0..50 {
        clients::call(address, 18, 0, &[])?;
    }
    Ok(())
}
