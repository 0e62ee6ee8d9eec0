//! Groups, lags and log directories by the gRPC admin API of a cluster that has no plaintext listener at all.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::Authority;
use ottla_e2e::cluster::binary;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use ottla_rpc::admin::{DescribeGroupRequest, DescribeLogDirsRequest, ListBrokersRequest, ListGroupsRequest};
use ottla_rpc::{AdminClient, CallError, ChannelSecurity};
use ottla_tls::{ClientTls, TlsSettings};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const TIMEOUT: Duration = Duration::from_secs(30);
const AUTHORIZER: &str = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
const BROKERS: i32 = 2;

struct Secure {
    cluster: Cluster,
    files: TempDir,
    security: ChannelSecurity,
    admin: AdminClient,
    runtime: Runtime,
}

fn plain_module(user: &str, users: &[&str]) -> String {
    let users: String = users.iter().map(|user| format!(" user_{user}=\"{user}-secret\"")).collect();
    let own = format!("username=\"{user}\" password=\"{user}-secret\"");
    format!("org.apache.kafka.common.security.plain.PlainLoginModule required {own}{users};")
}

impl Secure {
    /// Brokers with one listener, of this protocol; their authorizer lets in nobody but those of `super_users`.
    fn start(protocol: &str, super_users: &str, coordinators: &[(&str, &str)]) -> Result<Self> {
        let files = TempDir::with_prefix("ottla-e2e-asked-")?;
        let authority = Authority::new(files.path(), "ours")?;
        let mut cluster = Cluster::prepare(&ClusterOptions { brokers: BROKERS, ..ClusterOptions::default() })?;
        cluster.show_certificates(&authority)?;
        let ca = authority.certificate.display().to_string();
        let module = plain_module("broker", &["broker", "coordinator", "admin"]);
        for node in cluster.nodes() {
            let mut set = |name: &str, value: &str| cluster.set_variable(node, name, value);
            if let Node::Coordinator(_) = node {
                coordinators.iter().try_for_each(|(name, value)| set(name, value))?;
                continue;
            }
            set("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", &format!("INTERNAL:{protocol}"))?;
            set("KAFKA_LISTENER_NAME_INTERNAL_SSL_CLIENT_AUTH", if protocol == "SSL" { "required" } else { "none" })?;
            set("KAFKA_SSL_KEYSTORE_TYPE", "PEM")?;
            set("KAFKA_SSL_KEYSTORE_LOCATION", &files.path().join(format!("{node}.pem")).display().to_string())?;
            set("KAFKA_SSL_TRUSTSTORE_TYPE", "PEM")?;
            set("KAFKA_SSL_TRUSTSTORE_LOCATION", &ca)?;
            set("KAFKA_SASL_ENABLED_MECHANISMS", "PLAIN")?;
            set("KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL", "PLAIN")?;
            set("KAFKA_LISTENER_NAME_INTERNAL_PLAIN_SASL_JAAS_CONFIG", &module)?;
            set("KAFKA_AUTHORIZER_CLASS_NAME", AUTHORIZER)?;
            set("KAFKA_SUPER_USERS", super_users)?;
            set("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1")?;
            let listeners = cluster.environment(node)?.get("KAFKA_LISTENERS").cloned().context("listeners")?;
            let internal = listeners.split(',').next().context("a listener")?.to_owned();
            cluster.set_variable(node, "KAFKA_LISTENERS", &internal)?;
            cluster.set_variable(node, "KAFKA_ADVERTISED_LISTENERS", &internal)?;
        }
        let store = authority.sign("admin")?.store.display().to_string();
        let properties = format!(
            "security.protocol={protocol}\nsasl.mechanism=PLAIN\nsasl.jaas.config={}\nssl.keystore.type=PEM\n\
             ssl.keystore.location={store}\nssl.truststore.type=PEM\nssl.truststore.location={ca}\n",
            plain_module("admin", &[])
        );
        fs::write(files.path().join("admin.properties"), properties)?;
        let security = channel_security(&store, &ca)?;
        let addresses: Vec<String> = (1..=3).map(|id| cluster.coordinator_address(id)).collect();
        for node in cluster.nodes() {
            cluster.spawn(node)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let admin = runtime.block_on(async { AdminClient::secured(&addresses, &security) })?;
        let secure = Self { cluster, files, security, admin, runtime };
        wait::until_ok("the brokers live", || {
            let listed = secure.runtime.block_on(secure.admin.list_brokers(ListBrokersRequest {}, TIMEOUT))?;
            let live = listed.brokers.iter().filter(|broker| !broker.fenced).count();
            ensure!(live == usize::try_from(BROKERS)?, "{listed:?}");
            Ok(())
        })?;
        Ok(secure)
    }

    fn bootstrap(&self) -> Result<String> {
        let listeners = self.cluster.environment(Node::Broker(1))?.get("KAFKA_LISTENERS").cloned();
        Ok(listeners.context("a listener")?.trim_start_matches("INTERNAL://").to_owned())
    }

    fn properties(&self) -> PathBuf {
        self.files.path().join("admin.properties")
    }

    fn tool(&self, name: &str, arguments: &str) -> Result<String> {
        let mut command = clients::tool(name, &self.bootstrap()?, &arguments.split(' ').collect::<Vec<_>>())?;
        clients::run(command.arg("--command-config").arg(self.properties()))
    }

    fn write(&self, count: u32) -> Result<()> {
        self.tool("kafka-verifiable-producer", &format!("--topic t --max-messages {count}")).map(drop)
    }

    fn groups(&self) -> Result<Vec<String>, CallError> {
        let listed = self.runtime.block_on(self.admin.list_groups(ListGroupsRequest::default(), TIMEOUT))?;
        Ok(listed.groups.into_iter().map(|group| group.group).collect())
    }

    /// A group that has read five records of which there are seven, as every coordinator tells of it.
    fn check(&self) -> Result<()> {
        self.tool("kafka-topics", "--create --topic t --partitions 1 --replication-factor 2")?;
        self.write(5)?;
        let consumer = "--topic t --group-id readers --max-messages 5";
        self.tool("kafka-verifiable-consumer", consumer)?;
        self.write(2)?;
        for id in 1..=3 {
            let here = [self.cluster.coordinator_address(id)];
            let _guard = self.runtime.enter();
            let admin = AdminClient::secured(&here, &self.security)?;
            self.runtime.block_on(async {
                let listed = admin.list_groups(ListGroupsRequest::default(), TIMEOUT).await?;
                ensure!(listed.groups.iter().any(|group| group.group == "readers"), "{listed:?}");
                let request = DescribeGroupRequest { group: "readers".to_owned() };
                let group = admin.describe_group(request, TIMEOUT).await?;
                ensure!(group.total_lag == 2 && group.lags.len() == 1, "{group:?}");
                for broker in 1..=BROKERS {
                    let found = admin.describe_log_dirs(DescribeLogDirsRequest { broker }, TIMEOUT).await?;
                    let mut replicas = found.directories.iter().flat_map(|directory| &directory.replicas);
                    ensure!(replicas.any(|replica| replica.topic == "t" && replica.size_bytes > 0), "{found:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Of the administrator's calls to coordinators.
fn channel_security(store: &str, ca: &str) -> Result<ChannelSecurity> {
    let tls = TlsSettings::read(|name| match name {
        "ssl.keystore.type" | "ssl.truststore.type" => Some("PEM"),
        "ssl.keystore.location" => Some(store),
        "ssl.truststore.location" => Some(ca),
        _ => None,
    })?;
    Ok(ChannelSecurity { tls: Some(Arc::new(ClientTls::for_http(tls)?)), secret: None })
}

fn certified() -> String {
    let coordinators = (1..=3).map(|id| format!("User:CN=coordinator-{id}"));
    let brokers = (1..=BROKERS).map(|id| format!("User:CN=broker-{id}"));
    coordinators.chain(brokers).chain(["User:CN=admin".to_owned()]).collect::<Vec<_>>().join(";")
}

#[test]
fn a_coordinator_shows_brokers_its_certificate() -> Result<()> {
    let secure = Secure::start("SSL", &certified(), &[])?;
    secure.check()?;
    // `ottla` sees the same as the tools do.
    let mut command = Command::new(binary("ottla")?);
    command.args(["group", "list", "--bootstrap-server", &secure.bootstrap()?, "--command-config"]);
    command.arg(secure.properties()).env_remove("OTTLA_PROFILE").env("HOME", secure.files.path());
    let listed = clients::run(command.env_remove("XDG_CONFIG_HOME"))?;
    ensure!(listed.contains("readers"), "{listed}");
    Ok(())
}

#[test]
fn a_coordinator_logs_in_to_brokers() -> Result<()> {
    let module = plain_module("coordinator", &[]);
    let login = [("COORDINATOR_SASL_MECHANISM", "PLAIN"), ("COORDINATOR_SASL_JAAS_CONFIG", &module)];
    let users = "User:broker;User:coordinator;User:admin";
    Secure::start("SASL_SSL", users, &login)?.check()
}

#[test]
fn a_coordinator_without_a_user_says_what_it_lacks() -> Result<()> {
    let secure = Secure::start("SASL_SSL", "User:broker;User:admin", &[])?;
    let Err(CallError::Refused { status, .. }) = secure.groups() else { anyhow::bail!("it was answered") };
    let expected = "INTERNAL is SASL_SSL, for which the coordinator needs sasl.mechanism and sasl.jaas.config";
    ensure!(status.message().contains(expected), "{status:?}");
    Ok(())
}

/// What the authorizer of brokers refuses to the coordinator's certificate, the admin API refuses too.
#[test]
fn brokers_decide_what_a_coordinator_sees() -> Result<()> {
    let users = certified().replace("User:CN=coordinator-", "User:CN=other-");
    let secure = Secure::start("SSL", &users, &[])?;
    let request = DescribeLogDirsRequest { broker: 1 };
    let refused = secure.runtime.block_on(secure.admin.describe_log_dirs(request, TIMEOUT));
    let Err(CallError::Refused { status, .. }) = &refused else { anyhow::bail!("{refused:?}") };
    ensure!(format!("{:?}", status.code()) == "PermissionDenied", "{status:?}");
    Ok(())
}
