//! A cluster of processes: start, wait, signal, restart.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ottla_test_support::free_ports;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use tempfile::TempDir;

use crate::wait;

use crate::certificates::Authority;

/// How long a cluster may take to be ready, or a process to end, before a test gives up. Generous: CI machines are
/// shared.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The variable of the port of a broker's metrics.
const HTTP_PORT: &str = "KAFKA_HTTP_PORT";

/// One process of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Node {
    Coordinator(u64),
    Broker(i32),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Coordinator(id) => write!(f, "coordinator-{id}"),
            Node::Broker(id) => write!(f, "broker-{id}"),
        }
    }
}

/// Where a process runs that is not on this machine's loopback.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: Ipv4Addr,
    /// The file of its network namespace.
    pub namespace: PathBuf,
}

/// The processes to start, and their properties beside a test's defaults.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub coordinators: u64,
    pub brokers: i32,
    /// Broker properties (`min.insync.replicas`), for every broker.
    pub broker_properties: Vec<(String, String)>,
    /// Listeners of every broker beside INTERNAL and HOST: name and security protocol. HOST is plaintext and answers
    /// whether a broker is ready.
    pub listeners: Vec<(String, String)>,
    /// The security protocol of INTERNAL.
    pub inter_broker_protocol: String,
    /// The limit of open files (RLIMIT_NOFILE) of every process; none: this process's.
    pub open_files_max: Option<u64>,
    /// Where processes run; the others are on 127.0.0.1.
    pub hosts: BTreeMap<Node, Host>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            coordinators: 3,
            brokers: 3,
            broker_properties: Vec::new(),
            listeners: Vec::new(),
            inter_broker_protocol: "PLAINTEXT".to_owned(),
            open_files_max: None,
            hosts: BTreeMap::new(),
        }
    }
}

impl ClusterOptions {
    fn address_of(&self, node: Node) -> Ipv4Addr {
        self.hosts.get(&node).map_or(Ipv4Addr::LOCALHOST, |host| host.address)
    }

    fn namespace_of(&self, node: Node) -> Option<PathBuf> {
        self.hosts.get(&node).map(|host| host.namespace.clone())
    }

    #[must_use]
    pub fn listening(mut self, name: &str, protocol: &str) -> Self {
        self.listeners.push((name.to_owned(), protocol.to_owned()));
        self
    }

    #[must_use]
    pub fn with(mut self, property: &str, value: &str) -> Self {
        self.broker_properties.push((property.to_owned(), value.to_owned()));
        self
    }
}

/// Where the binaries are: `OTTLA_BIN_DIR`, or the release folder of the target directory that this test was built in.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = match std::env::var_os("OTTLA_BIN_DIR") {
        Some(dir) => PathBuf::from(dir).join(name),
        None => {
            let test = std::env::current_exe()?;
            let target = test.ancestors().nth(3).context("a test binary lies in TARGET/PROFILE/deps")?;
            target.join("release").join(name)
        }
    };
    if !path.exists() {
        bail!("{} is not there: run `make build` first", path.display());
    }
    Ok(path)
}

struct Member {
    command: PathBuf,
    /// Where it runs, and the file of its network namespace if it is not this machine's.
    address: Ipv4Addr,
    namespace: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    folder: PathBuf,
    open_files_max: Option<u64>,
    child: Option<Child>,
}

impl Member {
    fn command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = match &self.namespace {
            None => Command::new(&self.command),
            Some(namespace) => {
                // It becomes the process: the id is the same.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg("--").arg(&self.command);
                command
            }
        };
        command.env_clear().envs(&self.environment).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let open_files = self.open_files_max.map(|max| Rlimit { current: Some(max), maximum: Some(max) });
        // SAFETY: prctl and setrlimit are async-signal-safe and touch nothing of the parent's.
        unsafe {
            command.pre_exec(move || {
                if let Some(limit) = open_files {
                    setrlimit(Resource::Nofile, limit)?;
                }
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)
            });
        }
        Ok(command)
    }
}

/// A running cluster; dropping it kills every process and removes the data.
pub struct Cluster {
    members: BTreeMap<Node, Member>,
    client_ports: BTreeMap<i32, u16>,
    coordinator_ports: BTreeMap<u64, u16>,
    listener_ports: BTreeMap<(i32, String), u16>,
    folder: TempDir,
}

impl Cluster {
    /// Starts three coordinators and three brokers and waits until all brokers are in Metadata.
    pub fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default())
    }

    pub fn start_with(options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::prepare(&options)?;
        cluster.spawn_all()?;
        Ok(cluster)
    }

    /// A cluster whose processes are not running yet.
    pub fn prepare(options: &ClusterOptions) -> Result<Self> {
        let folder = TempDir::with_prefix("ottla-e2e-")?;
        let coordinator_count = usize::try_from(options.coordinators)?;
        let broker_count = usize::try_from(options.brokers)?;
        let ports = free_ports(coordinator_count + (3 + options.listeners.len()) * broker_count)?;
        let (coordinator_ports, broker_ports) = ports.split_at(coordinator_count);
        let (client_ports, broker_ports) = broker_ports.split_at(broker_count);
        let (inter_broker_ports, broker_ports) = broker_ports.split_at(broker_count);
        let (http_ports, mut other_ports) = broker_ports.split_at(broker_count);
        let mut listener_ports = BTreeMap::new();
        let mut protocols = format!("INTERNAL:{},HOST:PLAINTEXT", options.inter_broker_protocol);
        for (name, protocol) in &options.listeners {
            protocols += &format!(",{name}:{protocol}");
        }
        let servers: Vec<String> = (1..=options.coordinators)
            .zip(coordinator_ports)
            .map(|(id, port)| format!("{id}@{}:{port}", options.address_of(Node::Coordinator(id))))
            .collect();
        let connect: Vec<&str> = servers.iter().filter_map(|server| Some(server.split_once('@')?.1)).collect();

        let open_files_max = options.open_files_max;
        let mut members = BTreeMap::new();
        for (id, port) in (1..=options.coordinators).zip(coordinator_ports) {
            let home = member_folder(folder.path(), Node::Coordinator(id))?;
            let environment = base_environment([
                ("COORDINATOR_ID", id.to_string()),
                ("COORDINATOR_CLIENT_PORT", port.to_string()),
                ("COORDINATOR_SERVERS", servers.join(",")),
                ("COORDINATOR_DATA_DIR", home.join("data").display().to_string()),
            ]);
            members.insert(
                Node::Coordinator(id),
                Member {
                    command: binary("ottla-coordinator")?,
                    address: options.address_of(Node::Coordinator(id)),
                    namespace: options.namespace_of(Node::Coordinator(id)),
                    environment,
                    folder: home,
                    open_files_max,
                    child: None,
                },
            );
        }
        let broker_ports = client_ports.iter().zip(inter_broker_ports).zip(http_ports);
        for (id, ((client_port, inter_port), http_port)) in (1..=options.brokers).zip(broker_ports) {
            let home = member_folder(folder.path(), Node::Broker(id))?;
            let address = options.address_of(Node::Broker(id));
            let mut listeners = format!("INTERNAL://{address}:{inter_port},HOST://{address}:{client_port}");
            for (name, _) in &options.listeners {
                let (port, rest) = other_ports.split_first().context("a port for each listener")?;
                other_ports = rest;
                listeners += &format!(",{name}://{address}:{port}");
                listener_ports.insert((id, name.clone()), *port);
            }
            let mut environment = base_environment([
                ("KAFKA_BROKER_ID", id.to_string()),
                ("KAFKA_COORDINATOR_CONNECT", connect.join(",")),
                ("KAFKA_LISTENERS", listeners.clone()),
                ("KAFKA_ADVERTISED_LISTENERS", listeners),
                ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", protocols.clone()),
                ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL".to_owned()),
                ("KAFKA_LOG_DIRS", home.join("data").display().to_string()),
                ("KAFKA_DEFAULT_REPLICATION_FACTOR", options.brokers.min(3).to_string()),
            ]);
            if options.brokers > 1 {
                // For `settle`.
                environment.insert("KAFKA_HTTP_HOST".to_owned(), address.to_string());
                environment.insert(HTTP_PORT.to_owned(), http_port.to_string());
            }
            for (property, value) in &options.broker_properties {
                environment.insert(environment_name(property), value.clone());
            }
            members.insert(
                Node::Broker(id),
                Member {
                    command: binary("ottla-broker")?,
                    address,
                    namespace: options.namespace_of(Node::Broker(id)),
                    environment,
                    folder: home,
                    open_files_max,
                    child: None,
                },
            );
        }
        Ok(Self {
            members,
            client_ports: (1..=options.brokers).zip(client_ports.iter().copied()).collect(),
            coordinator_ports: (1..=options.coordinators).zip(coordinator_ports.iter().copied()).collect(),
            listener_ports,
            folder,
        })
    }

    /// All processes show certificates of this authority to coordinators, which have no plaintext port and know who
    /// may do what: the processes are members, `CN=admin` and `CN=reader` have these roles.
    pub fn show_certificates(&mut self, authority: &Authority) -> Result<()> {
        let ca = authority.certificate.display().to_string();
        let members = self.nodes().iter().map(|node| format!("User:CN={node}")).collect::<Vec<_>>().join(";");
        for node in self.nodes() {
            let name = node.to_string();
            let address = self.address_of(node).octets();
            let identity = authority.sign_for(&name, "localhost", address, Authority::LAST_YEAR)?;
            let store = identity.store.display().to_string();
            let environment = &mut self.member_mut(node)?.environment;
            let variables = match node {
                Node::Coordinator(_) => {
                    let port = environment.remove("COORDINATOR_CLIENT_PORT").context("a port")?;
                    vec![
                        ("COORDINATOR_SECURE_CLIENT_PORT", port),
                        ("COORDINATOR_SSL_QUORUM", "true".to_owned()),
                        ("COORDINATOR_SSL_MEMBER_ID", "true".to_owned()),
                        ("COORDINATOR_SSL_KEYSTORE_TYPE", "PEM".to_owned()),
                        ("COORDINATOR_SSL_KEYSTORE_LOCATION", store),
                        ("COORDINATOR_SSL_TRUSTSTORE_TYPE", "PEM".to_owned()),
                        ("COORDINATOR_SSL_TRUSTSTORE_LOCATION", ca.clone()),
                        ("COORDINATOR_ROLES_MEMBER", members.clone()),
                        ("COORDINATOR_ROLES_ADMIN", "User:CN=admin".to_owned()),
                        ("COORDINATOR_ROLES_READ", "User:CN=reader".to_owned()),
                    ]
                }
                Node::Broker(_) => vec![
                    ("KAFKA_ZOOKEEPER_SSL_CLIENT_ENABLE", "true".to_owned()),
                    ("KAFKA_ZOOKEEPER_SSL_KEYSTORE_LOCATION", store),
                    ("KAFKA_ZOOKEEPER_SSL_TRUSTSTORE_LOCATION", ca.clone()),
                ],
            };
            environment.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        Ok(())
    }

    /// A further coordinator, which is not started. Its list of servers has those of the others, and itself.
    pub fn prepare_coordinator(&mut self, id: u64) -> Result<()> {
        let port = *free_ports(1)?.first().context("a port")?;
        self.coordinator_ports.insert(id, port);
        let servers: Vec<String> =
            self.coordinator_ports.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let home = member_folder(self.folder.path(), Node::Coordinator(id))?;
        let environment = base_environment([
            ("COORDINATOR_ID", id.to_string()),
            ("COORDINATOR_CLIENT_PORT", port.to_string()),
            ("COORDINATOR_SERVERS", servers.join(",")),
            ("COORDINATOR_DATA_DIR", home.join("data").display().to_string()),
        ]);
        let command = binary("ottla-coordinator")?;
        let member = Member {
            command,
            address: Ipv4Addr::LOCALHOST,
            namespace: None,
            environment,
            folder: home,
            open_files_max: None,
            child: None,
        };
        self.members.insert(Node::Coordinator(id), member);
        Ok(())
    }

    pub fn nodes(&self) -> Vec<Node> {
        self.members.keys().copied().collect()
    }

    /// The bootstrap list of clients: the client listeners of all brokers.
    pub fn bootstrap(&self) -> String {
        self.client_ports.keys().map(|id| self.broker_address(*id).to_string()).collect::<Vec<_>>().join(",")
    }

    /// The bootstrap list of one of the listeners that a test added.
    pub fn bootstrap_of(&self, listener: &str) -> String {
        let own = self.listener_ports.iter().filter(|((_, name), _)| name == listener);
        let address = |id: i32, port: &u16| format!("{}:{port}", self.address_of(Node::Broker(id)));
        own.map(|((id, _), port)| address(*id, port)).collect::<Vec<_>>().join(",")
    }

    pub fn broker_address(&self, id: i32) -> SocketAddr {
        let port = self.client_ports.get(&id).copied().unwrap_or_default();
        SocketAddr::from((self.address_of(Node::Broker(id)), port))
    }

    fn address_of(&self, node: Node) -> Ipv4Addr {
        self.members.get(&node).map_or(Ipv4Addr::LOCALHOST, |member| member.address)
    }

    pub fn coordinator_address(&self, id: u64) -> String {
        let port = self.coordinator_ports.get(&id).copied().unwrap_or_default();
        format!("{}:{port}", self.address_of(Node::Coordinator(id)))
    }

    pub fn environment(&self, node: Node) -> Result<BTreeMap<String, String>> {
        Ok(self.member(node)?.environment.clone())
    }

    pub fn data_folder(&self, node: Node) -> Result<PathBuf> {
        Ok(self.member(node)?.folder.join("data"))
    }

    pub fn log_text(&self, node: Node) -> Result<String> {
        Ok(fs::read_to_string(self.member(node)?.folder.join("log"))?)
    }

    /// The resident memory of a running process.
    pub fn resident_kib(&self, node: Node) -> Result<u64> {
        self.status_kib(node, "VmRSS:")
    }

    /// The most resident memory that a running process has had.
    pub fn peak_resident_kib(&self, node: Node) -> Result<u64> {
        self.status_kib(node, "VmHWM:")
    }

    fn status_kib(&self, node: Node, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(node)?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The soft and the hard limit of a running process by their name in `/proc/PID/limits`.
    pub fn limits(&self, node: Node, name: &str) -> Result<[String; 2]> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid(node)?))?;
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let mut fields = line.split_whitespace().map(str::to_owned);
        Ok([fields.next().context("a soft limit")?, fields.next().context("a hard limit")?])
    }

    /// The processor time that a running process has used.
    pub fn cpu_time(&self, node: Node) -> Result<std::time::Duration> {
        /// The unit of Linux's CPU times, independent of its timer.
        const TICKS_PER_S: u64 = 100;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(node)?))?;
        // The name, in brackets, may hold anything.
        let fields = stat.rsplit_once(") ").context("a name in the status")?.1;
        let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(std::time::Duration::from_millis(ticks.iter().sum::<u64>() * 1_000 / TICKS_PER_S))
    }

    /// The descriptors that a running process has open.
    pub fn open_files(&self, node: Node) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid(node)?))?.count())
    }

    fn pid(&self, node: Node) -> Result<u32> {
        Ok(self.member(node)?.child.as_ref().with_context(|| format!("{node} does not run"))?.id())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn member(&self, node: Node) -> Result<&Member> {
        self.members.get(&node).with_context(|| format!("no {node} in this cluster"))
    }

    fn member_mut(&mut self, node: Node) -> Result<&mut Member> {
        self.members.get_mut(&node).with_context(|| format!("no {node} in this cluster"))
    }

    /// Sets a variable of the environment with which the node is started next.
    pub fn set_variable(&mut self, node: Node, name: &str, value: &str) -> Result<()> {
        self.member_mut(node)?.environment.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// The node is started next from the binaries in this folder: those of another release.
    pub fn use_binaries_of(&mut self, node: Node, folder: &Path) -> Result<()> {
        let member = self.member_mut(node)?;
        let name = member.command.file_name().context("a binary's name")?.to_owned();
        member.command = folder.join(name);
        Ok(())
    }

    pub fn unset_variable(&mut self, node: Node, name: &str) -> Result<()> {
        self.member_mut(node)?.environment.remove(name);
        Ok(())
    }

    pub fn spawn(&mut self, node: Node) -> Result<()> {
        let member = self.member_mut(node)?;
        member.child = Some(spawn_from_keeper(member.command()?).with_context(|| format!("start {node}"))?);
        Ok(())
    }

    pub fn signal(&self, node: Node, signal: Signal) -> Result<()> {
        let child = self.member(node)?.child.as_ref().with_context(|| format!("{node} does not run"))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process id above 0")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    /// Waits for the end of a process that was signalled.
    pub fn wait(&mut self, node: Node) -> Result<ExitStatus> {
        let member = self.member_mut(node)?;
        let mut child = member.child.take().with_context(|| format!("{node} does not run"))?;
        wait_bounded(&mut child).with_context(|| format!("{node} did not end"))
    }

    pub fn kill(&mut self, node: Node) -> Result<()> {
        self.signal(node, Signal::KILL)?;
        self.wait(node).map(drop)
    }

    /// Kills a process and starts it again, and waits until the brokers serve.
    pub fn bounce(&mut self, node: Node) -> Result<()> {
        self.kill(node)?;
        self.spawn(node)?;
        self.wait_ready()
    }

    /// The processes that ended although nobody ended them.
    pub fn ended(&mut self) -> Result<Vec<Node>> {
        let mut ended = Vec::new();
        for (node, member) in &mut self.members {
            if let Some(child) = &mut member.child
                && child.try_wait()?.is_some()
            {
                ended.push(*node);
            }
        }
        Ok(ended)
    }

    pub fn kill_all(&mut self) -> Result<()> {
        for node in self.nodes() {
            self.signal(node, Signal::KILL)?;
        }
        for node in self.nodes() {
            self.wait(node)?;
        }
        Ok(())
    }

    /// Waits until every broker knows what a broker has answered up to now, of topics, configurations, rules and ISRs:
    /// the next tool or client asks any of them. No broker may stand still.
    pub fn settle(&self) -> Result<()> {
        let revision = |id: i32| -> Result<u64> {
            let port = self.member(Node::Broker(id))?.environment.get(HTTP_PORT).context("a port for metrics")?;
            let address = SocketAddr::from((self.address_of(Node::Broker(id)), port.parse()?));
            let page = crate::clients::http_get(address, "/metrics")?;
            let line = page.lines().find_map(|line| line.strip_prefix("ottla_broker_image_revision "));
            Ok(line.context("the revision of its image")?.trim().parse()?)
        };
        let running = self.running_brokers();
        let newest = running.iter().map(|id| revision(*id)).collect::<Result<Vec<_>>>()?.into_iter().max();
        for id in running {
            wait::until(&format!("broker {id} has caught up"), || Ok(Some(revision(id)?) >= newest))?;
        }
        Ok(())
    }

    fn running_brokers(&self) -> Vec<i32> {
        let running = self.members.iter().filter(|(_, member)| member.child.is_some());
        running.filter_map(|(node, _)| if let Node::Broker(id) = node { Some(*id) } else { None }).collect()
    }

    /// Starts the processes of a cluster that was only prepared, and waits until the brokers serve.
    pub fn spawn_all(&mut self) -> Result<()> {
        for node in self.nodes() {
            self.spawn(node)?;
        }
        self.wait_ready()
    }

    /// Waits until every broker accepts connections and reports all brokers of the cluster. One that has ended ends the
    /// wait.
    pub fn wait_ready(&mut self) -> Result<()> {
        let running = self.running_brokers();
        for &id in &running {
            let address = self.broker_address(id);
            let ready = wait::until_ok(&format!("broker {id} is ready"), || {
                let child = self.member_mut(Node::Broker(id))?.child.as_mut();
                if let Some(status) = child.map(Child::try_wait).transpose()?.flatten() {
                    return Ok(Err(anyhow::anyhow!("broker {id} ended with {status}")));
                }
                let ids = crate::clients::broker_ids(address)?;
                ensure!(ids.len() >= running.len(), "it knows the brokers {ids:?}");
                Ok(Ok(()))
            });
            ready
                .flatten()
                .with_context(|| format!("its log:\n{}", self.log_text(Node::Broker(id)).unwrap_or_default()))?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            if let Some(child) = &mut member.child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() && std::env::var_os("OTTLA_E2E_LOGS").is_some() {
            for node in self.nodes() {
                eprintln!("== {node}\n{}", self.log_text(node).unwrap_or_default());
            }
        }
    }
}

/// Runs a process that is expected to end by itself, and returns its status with its output.
pub fn run_to_end(name: &str, environment: &BTreeMap<String, String>) -> Result<(ExitStatus, String)> {
    let folder = TempDir::with_prefix("ottla-e2e-run-")?;
    let path = folder.path().join("out");
    let out = File::create(&path)?;
    let mut child = Command::new(binary(name)?)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?;
    let status = wait_bounded(&mut child).with_context(|| fs::read_to_string(&path).unwrap_or_default())?;
    Ok((status, fs::read_to_string(&path)?))
}

fn wait_bounded(child: &mut Child) -> Result<ExitStatus> {
    if let Some(status) = ended_by(child, Instant::now() + PATIENCE)? {
        return Ok(status);
    }
    child.kill()?;
    child.wait()?;
    bail!("still running after {PATIENCE:?}");
}

/// How a process ended; none if it still runs at that time.
pub fn ended_by(child: &mut Child, until: Instant) -> Result<Option<ExitStatus>> {
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > until {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a process from a thread that lives as long as this program: the death signal follows the thread that started
/// a process, and a test's own thread ends with the test.
fn spawn_from_keeper(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    let (answer, child) = mpsc::channel();
    keeper.send((command, answer)).context("the keeper thread lives as long as the program")?;
    Ok(child.recv()??)
}

/// Whether a process listens there.
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

fn member_folder(root: &Path, node: Node) -> Result<PathBuf> {
    let folder = root.join(node.to_string());
    fs::create_dir_all(folder.join("data"))?;
    Ok(folder)
}

fn base_environment<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> =
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for inherited in ["PATH", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(inherited) {
            environment.insert(inherited.to_owned(), value);
        }
    }
    environment
}

/// `min.insync.replicas` → `KAFKA_MIN_INSYNC_REPLICAS`.
pub fn environment_name(property: &str) -> String {
    format!("KAFKA_{}", property.replace('.', "_").to_uppercase())
}
