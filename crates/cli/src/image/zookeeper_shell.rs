//! `zookeeper-shell HOST:PORT ls|get|stat PATH`, and ZooKeeper's own `zkCli.sh [-server HOST:PORT] …`: what health
//! checks and people ask of the tree, on the command line or as lines of standard input.

use std::io::BufRead as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest, Node};
use ottla_rpc::{AdminClient, CallError};

use super::usage;
use super::zookeeper_session::{Session, SessionError, Stat};
use crate::calendar::civil;
use crate::quorum::{self, TIMEOUT};
use crate::{client_security, err, out};

const USAGE: &str = "zookeeper-shell HOST:PORT[,…] [-zk-tls-config-file FILE] \
                     [ls [-R] [-s]|get [-s]|stat|create|set|delete|deleteall PATH]; \
                     zkCli.sh [-server HOST:PORT[,…]] [-timeout MILLISECONDS] [the same]";
const COMMANDS: &str = "ls, get, stat, create, set, delete and deleteall are known";
/// Kafka's name, and that of ZooKeeper's own program.
const TLS_OPTIONS: [&str; 2] = ["-zk-tls-config-file", "-client-configuration"];
/// What a shell ends with that does not know a command, ZooKeeper's too.
const NOT_FOUND: u8 = 127;
/// Where `zkCli.sh` goes that is told nothing.
const DEFAULT_SERVER: &str = "localhost:2181";

#[derive(PartialEq, Eq, Debug)]
struct Line<'a> {
    connect: &'a str,
    timeout: Duration,
    /// A file with `zookeeper.ssl.*`.
    tls: Option<&'a str>,
    /// Empty: those of standard input.
    command: Vec<&'a str>,
}

/// `is_zookeepers`: the program of ZooKeeper, which has a default server; Kafka's script begins with the server.
fn parse(is_zookeepers: bool, words: &[String]) -> Option<Line<'_>> {
    let (mut connect, mut timeout, mut tls) = (is_zookeepers.then_some(DEFAULT_SERVER), TIMEOUT, None);
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(option) = words.next_if(|word| word.starts_with('-')) {
        match option {
            "-server" => connect = Some(words.next()?),
            "-timeout" => timeout = Duration::from_millis(words.next()?.parse().ok()?),
            option if TLS_OPTIONS.contains(&option) => tls = Some(words.next()?),
            // As it is: nothing is written here, and every request waits for the coordinators.
            "-r" | "-waitforconnection" => {}
            _ => return None,
        }
    }
    let connect = match connect {
        Some(connect) => connect,
        None => words.next()?,
    };
    // Kafka's script has it behind the server.
    if words.next_if(|word| TLS_OPTIONS.contains(word)).is_some() {
        tls = Some(words.next()?);
    }
    Some(Line { connect, timeout, tls, command: words.collect() })
}

pub async fn run(is_zookeepers: bool, arguments: &[String]) -> ExitCode {
    let Some(Line { connect, timeout, tls, command }) = parse(is_zookeepers, arguments) else { return usage(USAGE) };
    let tls = tls.map_or(Ok(()), take_over);
    let known = tls.and_then(|()| quorum::addresses(connect));
    let tree = match known.and_then(|known| Ok((quorum::reader(&known)?, known))) {
        Ok((client, addresses)) => Tree { client, addresses, timeout },
        Err(error) => return told(Err(error)),
    };
    out!("Connecting to {connect}\n");
    if let Err(error) = tree.connected().await {
        return told(Err(error));
    }
    // What ZooKeeper's shell shows of its session; scripts count these lines.
    out!("WATCHER::\n\nWatchedEvent state:SyncConnected type:None path:null");
    if !command.is_empty() {
        return told(tree.answer(&command).await);
    }
    let mut last = ExitCode::SUCCESS;
    // Nothing else is to be done between two lines.
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] => {}
            ["quit" | "close"] => break,
            command => last = told(tree.answer(command).await),
        }
    }
    last
}

fn take_over(path: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    client_security::take_over(&ottla_config::parse_properties(&text)).map_err(anyhow::Error::msg)
}

fn told(answer: anyhow::Result<String>) -> ExitCode {
    match answer {
        Ok(text) => {
            // ZooKeeper's shell says nothing of a change.
            if !text.is_empty() {
                out!("{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            err!("{error:#}");
            if error.is::<UnknownCommand>() { ExitCode::from(NOT_FOUND) } else { ExitCode::FAILURE }
        }
    }
}

/// In ZooKeeper's words.
#[derive(Debug, thiserror::Error)]
#[error("Command not found: Command not found {0}")]
struct UnknownCommand(String);

struct Tree {
    client: AdminClient,
    addresses: Vec<String>,
    timeout: Duration,
}

impl Tree {
    /// Waits until a coordinator answers, whatever it says.
    async fn connected(&self) -> anyhow::Result<()> {
        let request = GetNodeRequest { path: "/".to_owned(), linearizable: true };
        match self.client.get_node(request, self.timeout).await {
            Ok(_) | Err(CallError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn answer(&self, words: &[&str]) -> anyhow::Result<String> {
        match words {
            ["ls" | "get" | "stat", ..] => self.read(words).await,
            ["create" | "set" | "delete" | "deleteall", ..] => self.write(words).await,
            [unknown, ..] => Err(UnknownCommand((*unknown).to_owned()).into()),
            [] => anyhow::bail!("{COMMANDS}, with a path"),
        }
    }

    async fn read(&self, words: &[&str]) -> anyhow::Result<String> {
        let [command, options @ .., path] = words else { anyhow::bail!("{COMMANDS}, with a path") };
        let has = |option: &str| options.contains(&option);
        let known: &[&str] = match *command {
            "ls" => &["-R", "-s", "-w"],
            "get" => &["-s", "-w"],
            _ => &["-w"],
        };
        if let Some(unknown) = options.iter().find(|option| !known.contains(option)) {
            anyhow::bail!("{command}: {unknown} is unknown");
        }
        if has("-w") {
            err!("-w: nothing is watched, this shell only asks");
        }
        let names = match *command {
            "ls" => Some(self.names(path, has("-R")).await?),
            _ => None,
        };
        if let Some(names) = names.as_ref().filter(|_| has("-R")) {
            return Ok(names.join("\n"));
        }
        let listed = names.map(|names| format!("[{}]", names.join(", ")));
        let content = match *command {
            "get" => match self.node(path).await?.json {
                // As ZooKeeper's shell shows a node without data.
                empty if empty.is_empty() => Some("null".to_owned()),
                json => Some(json),
            },
            _ => None,
        };
        let stat = match *command == "stat" || has("-s") {
            true => Some(self.stat(path).await?),
            false => None,
        };
        Ok([listed, content, stat].into_iter().flatten().collect::<Vec<_>>().join("\n"))
    }

    async fn stat(&self, path: &str) -> Result<String, SessionError> {
        let mut session = Session::open(&self.addresses, self.timeout).await?;
        let found = session.stat(path).await;
        session.close().await;
        found.map(|found| stat(&found))
    }

    /// The writes of Kafka's old tools, as far as the coordinators do them.
    async fn write(&self, words: &[&str]) -> anyhow::Result<String> {
        let (command, path, data) = match words {
            ["create", path] => ("create", *path, String::new()),
            [command @ ("create" | "set"), path, data @ ..] if !data.is_empty() => (*command, *path, data.join(" ")),
            [command @ ("delete" | "deleteall"), path] => (*command, *path, String::new()),
            _ => anyhow::bail!("create PATH [DATA], set PATH DATA, delete PATH, deleteall PATH"),
        };
        if !path.starts_with('/') {
            anyhow::bail!("{command}: {path} is no path, which begins with /, and options are not known");
        }
        let below = match command {
            "deleteall" => self.names(path, true).await?,
            _ => Vec::new(),
        };
        let mut session = Session::open(&self.addresses, self.timeout).await?;
        let done = match command {
            "create" => session.create(path, data.as_bytes()).await.map(|()| format!("Created {path}")),
            "set" => session.set(path, data.as_bytes()).await.map(|()| String::new()),
            _ => delete(&mut session, path, below).await.map(|()| String::new()),
        };
        session.close().await;
        Ok(done?)
    }

    async fn names(&self, path: &str, recursive: bool) -> anyhow::Result<Vec<String>> {
        let request = ListNodesRequest { path: path.to_owned(), recursive, linearizable: true };
        let listed = self.client.list_nodes(request, self.timeout).await;
        Ok(listed.map_err(|error| failed(path, error))?.names)
    }

    async fn node(&self, path: &str) -> anyhow::Result<Node> {
        let request = GetNodeRequest { path: path.to_owned(), linearizable: true };
        let found = self.client.get_node(request, self.timeout).await;
        let node = found.map_err(|error| failed(path, error))?.node;
        node.ok_or_else(|| anyhow::anyhow!("Node does not exist: {path}"))
    }
}

/// In ZooKeeper's words, where a node is not there.
fn failed(path: &str, error: CallError) -> anyhow::Error {
    if error.is_not_found() { anyhow::anyhow!("Node does not exist: {path}") } else { error.into() }
}

/// The node and those below, the deepest first.
async fn delete(session: &mut Session, path: &str, mut below: Vec<String>) -> Result<(), SessionError> {
    below.retain(|name| name != path);
    below.sort_by_key(|name| std::cmp::Reverse(name.matches('/').count()));
    for name in &below {
        session.delete(name).await?;
    }
    session.delete(path).await
}

/// As ZooKeeper's shell shows it.
fn stat(stat: &Stat) -> String {
    [
        format!("cZxid = {:#x}", stat.czxid),
        format!("ctime = {}", date(stat.ctime_ms)),
        format!("mZxid = {:#x}", stat.mzxid),
        format!("mtime = {}", date(stat.mtime_ms)),
        format!("pZxid = {:#x}", stat.pzxid),
        format!("cversion = {}", stat.cversion),
        format!("dataVersion = {}", stat.version),
        format!("aclVersion = {}", stat.acl_version),
        format!("ephemeralOwner = {:#x}", stat.ephemeral_owner),
        format!("dataLength = {}", stat.data_length),
        format!("numChildren = {}", stat.children),
    ]
    .join("\n")
}

/// `Sun Nov 29 20:00:00 UTC 2026`: as Java writes a date.
fn date(ms: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = u64::try_from(ms).unwrap_or(0) / 1_000;
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let of_week = usize::try_from(days % 7).ok().and_then(|at| DAYS.get(at)).unwrap_or(&"");
    let of_year = usize::try_from(month - 1).ok().and_then(|at| MONTHS.get(at)).unwrap_or(&"");
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{of_week} {of_year} {day:02} {hour:02}:{minute:02}:{second:02} UTC {year}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_lines_are_read() {
        let told = |is_zookeepers, text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            parse(is_zookeepers, &words).map(|line| {
                let tls = line.tls.map(|file| format!(" by {file}")).unwrap_or_default();
                format!("{} {} {}{tls}", line.connect, line.timeout.as_millis(), line.command.join(" "))
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told(false, "zk:2181"), some("zk:2181 5000 "));
        assert_eq!(told(false, "zk:2181/one ls -R /brokers"), some("zk:2181/one 5000 ls -R /brokers"));
        assert_eq!(told(false, "-server zk:2181 ls /"), some("zk:2181 5000 ls /"));
        assert_eq!(told(false, "zk:2182 -zk-tls-config-file /f ls /"), some("zk:2182 5000 ls / by /f"));
        assert_eq!(told(false, ""), None);
        assert_eq!(told(true, "ls /"), some("localhost:2181 5000 ls /"));
        assert_eq!(told(true, "-timeout 3000 -server zk:2181 get /controller"), some("zk:2181 3000 get /controller"));
        assert_eq!(told(true, ""), some("localhost:2181 5000 "));
        for refused in ["-server", "-timeout soon ls /", "-frobnicate ls /"] {
            assert_eq!(told(true, refused), None, "{refused}");
        }
    }

    #[tokio::test]
    async fn what_is_not_answered_is_named() {
        let client = AdminClient::new(&["127.0.0.1:1"]).expect("an address");
        let tree = Tree { client, addresses: vec!["127.0.0.1:1".to_owned()], timeout: Duration::from_millis(1) };
        for (command, expected) in [
            (&["frobnicate", "/a"][..], "Command not found: Command not found frobnicate"),
            (&["ls"], "ls, get, stat, create, set, delete and deleteall are known, with a path"),
            (&["set", "/a"], "create PATH [DATA], set PATH DATA, delete PATH, deleteall PATH"),
            (&["create", "-e", "/a"], "create: -e is no path, which begins with /, and options are not known"),
            (&["get", "-R", "/"], "get: -R is unknown"),
        ] {
            assert_eq!(tree.answer(command).await.expect_err("refused").to_string(), expected);
        }
    }

    #[test]
    fn nodes_are_told_as_by_zookeepers_shell() {
        assert_eq!(
            (date(0), date(1_795_982_400_000)),
            ("Thu Jan 01 00:00:00 UTC 1970".to_owned(), "Sun Nov 29 20:00:00 UTC 2026".to_owned())
        );
        let found = Stat {
            czxid: 16,
            mzxid: 17,
            ctime_ms: 0,
            mtime_ms: 0,
            version: 1,
            cversion: 2,
            acl_version: 0,
            ephemeral_owner: 5,
            data_length: 3,
            children: 4,
            pzxid: 18,
        };
        let told = stat(&found);
        assert!(told.starts_with("cZxid = 0x10\nctime = Thu Jan 01 00:00:00 UTC 1970\nmZxid = 0x11\n"), "{told}");
        assert!(told.ends_with("ephemeralOwner = 0x5\ndataLength = 3\nnumChildren = 4"), "{told}");
    }
}
