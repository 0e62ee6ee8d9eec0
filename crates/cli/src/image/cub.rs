//! `cub` of Confluent's images (`ub` and `dub` in some): what init containers wait with.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ottla_client::{Client, ClientConfig};
use ottla_config::HostPort;
use ottla_secure_stream::StreamSecurity;
use tokio::net::TcpStream;

use super::usage;
use crate::node::ready::ask_coordinator;
use crate::{client_security, err};

const USAGE: &str = "cub kafka-ready [-b BOOTSTRAP] [-c CLIENT_PROPERTIES] [-s SECURITY_PROTOCOL] BROKERS SECONDS | \
                     zk-ready CONNECT SECONDS | wait HOST PORT SECONDS | ensure VARIABLE | path PATH MODE";
/// ZooKeeper's port.
const COORDINATOR_PORT: u16 = 2181;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);
/// One of several coordinators that does not answer must not take the time of the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
const PROTOCOL: &str = "security.protocol";

pub async fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["kafka-ready", rest @ ..] => match KafkaReady::parse(rest) {
            Ok(Some(wanted)) => wanted.run().await,
            Ok(None) => usage(USAGE),
            Err(problem) => ensure(false, &problem),
        },
        ["zk-ready", connect, seconds, ..] => match patience(seconds) {
            Some(patience) => zk_ready(connect, patience).await,
            None => usage(USAGE),
        },
        ["wait", host, port, seconds] => match (port.parse(), patience(seconds)) {
            (Ok(port), Some(patience)) => wait(host, port, patience).await,
            _ => usage(USAGE),
        },
        ["ensure", name] => ensure(std::env::var_os(name).is_some(), &format!("{name} is required.")),
        ["ensure-atleast-one", names @ ..] => ensure(
            names.iter().any(|name| std::env::var_os(name).is_some()),
            &format!("one of {} is required.", names.join(", ")),
        ),
        ["path", path, ..] => ensure(std::path::Path::new(path).exists(), &format!("{path} is not there")),
        _ => usage(USAGE),
    }
}

fn ensure(holds: bool, otherwise: &str) -> ExitCode {
    if holds {
        return ExitCode::SUCCESS;
    }
    err!("{otherwise}");
    ExitCode::FAILURE
}

fn patience(seconds: &str) -> Option<Duration> {
    seconds.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

/// Asks again until the answer is right or the time is over; then says what was wrong last.
async fn until(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> Result<(), String>) -> ExitCode {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let failed = match tokio::time::timeout(left, ask()).await {
            Ok(Ok(())) => return ExitCode::SUCCESS,
            Ok(Err(failed)) => failed,
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + PAUSE >= end {
            err!("{what}: {failed} after {} s", patience.as_secs());
            return ExitCode::FAILURE;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(PartialEq, Eq, Debug)]
struct KafkaReady {
    bootstrap: String,
    /// Those of its client.
    properties: Vec<(String, String)>,
    brokers: u64,
    patience: Duration,
}

impl KafkaReady {
    /// None where the line cannot be read.
    fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        let (mut bootstrap, mut protocol, mut properties, mut numbers) = (None, None, Vec::new(), Vec::new());
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "-b" | "--bootstrap_broker_list" => bootstrap = words.next().map(str::to_owned),
                "-c" | "--config" => {
                    let Some(path) = words.next() else { return Ok(None) };
                    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
                    properties.extend(ottla_config::parse_properties(&text));
                }
                "-s" | "--security-protocol" => protocol = words.next().map(str::to_owned),
                // ZooKeeper's address: the brokers themselves answer here.
                "-z" | "--zookeeper_connect" => drop(words.next()),
                number => numbers.push(number),
            }
        }
        let [brokers, seconds] = numbers.as_slice() else { return Ok(None) };
        let (Ok(brokers), Some(patience)) = (brokers.parse(), patience(seconds)) else { return Ok(None) };
        let find =
            |name: &str| properties.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let bootstrap = bootstrap
            .or_else(|| find("bootstrap.servers"))
            .or_else(|| std::env::var("OTTLA_BOOTSTRAP").ok())
            .unwrap_or_default();
        if let Some(protocol) = protocol.filter(|_| find(PROTOCOL).is_none()) {
            properties.push((PROTOCOL.to_owned(), protocol));
        }
        Ok(Some(Self { bootstrap, properties, brokers, patience }))
    }

    async fn run(self) -> ExitCode {
        if let Err(problem) = client_security::take_over(&self.properties) {
            return ensure(false, &problem);
        }
        let mut config = ClientConfig::new(&self.bootstrap);
        config.connection.security = client_security::security();
        let client = Client::new(config);
        let brokers = self.brokers;
        let ask = async || match client.metadata(Some(&[])).await {
            Ok(view) if u64::try_from(view.brokers.len()).is_ok_and(|found| found >= brokers) => Ok(()),
            Ok(view) => Err(format!("{} of {brokers} brokers are there", view.brokers.len())),
            Err(error) => Err(error.to_string()),
        };
        until(&self.bootstrap, self.patience, ask).await
    }
}

async fn zk_ready(connect: &str, patience: Duration) -> ExitCode {
    let servers = connect.split('/').next().unwrap_or_default();
    let addresses: Result<Vec<_>, _> =
        servers.split(',').map(|item| HostPort::parse(item, Some(COORDINATOR_PORT))).collect();
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(problem) => return ensure(false, &problem),
    };
    let ask = async || {
        let mut failed = String::new();
        for address in &addresses {
            match tokio::time::timeout(ANSWER_TIMEOUT, ask_coordinator(address, &StreamSecurity::default())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => failed = error.to_string(),
                Err(_) => "no answer".clone_into(&mut failed),
            }
        }
        Err(failed)
    };
    until(connect, patience, ask).await
}

/// Until something listens there.
async fn wait(host: &str, port: u16, patience: Duration) -> ExitCode {
    let ask = async || TcpStream::connect((host, port)).await.map(drop).map_err(|error| error.to_string());
    until(&format!("{host}:{port}"), patience, ask).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_properties_are_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("client.properties");
        std::fs::write(&file, "security.protocol=SASL_PLAINTEXT\nbootstrap.servers=a:1\n").expect("written");
        let file = file.display().to_string();
        let of_file = KafkaReady::parse(&["-c", &file, "-s", "PLAINTEXT", "3", "40"]).expect("read").expect("a line");
        assert_eq!((of_file.bootstrap.as_str(), of_file.brokers), ("a:1", 3));
        assert_eq!(of_file.properties[0], (PROTOCOL.to_owned(), "SASL_PLAINTEXT".to_owned()));
        assert_eq!((of_file.properties.len(), of_file.patience), (2, Duration::from_secs(40)));
        let plain = KafkaReady::parse(&["1", "2", "-b", "b:2", "-s", "SSL"]).expect("read").expect("a line");
        assert_eq!((plain.bootstrap.as_str(), plain.properties.len()), ("b:2", 1));
        assert_eq!(KafkaReady::parse(&["-b", "b:2", "1"]), Ok(None));
        assert!(KafkaReady::parse(&["-c", "/no/such", "1", "2"]).is_err_and(|error| error.starts_with("/no/such: ")));
    }

    #[tokio::test]
    async fn waiting_for_a_port_ends_with_it_or_with_the_time() {
        let told = async |line: &str| {
            let line: Vec<String> = line.split(' ').map(str::to_owned).collect();
            format!("{:?}", run(&line).await)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert_eq!(told(&format!("wait 127.0.0.1 {port} 60")).await, format!("{:?}", ExitCode::SUCCESS));
        // Port 1 refuses.
        assert_eq!(told("wait 127.0.0.1 1 0").await, format!("{:?}", ExitCode::FAILURE));
        assert_eq!(told("wait 127.0.0.1 1").await, format!("{:?}", ExitCode::from(2)));
    }
}
