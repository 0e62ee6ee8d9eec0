//! `cub` of Confluent's images (`ub` and `dub` in some): what init containers wait with.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ottla_client::{Client, ClientConfig};
use ottla_config::HostPort;

use super::usage;
use crate::err;
use crate::node::ready::ask_coordinator;

const USAGE: &str =
    "cub kafka-ready [-b BOOTSTRAP] BROKERS SECONDS | zk-ready CONNECT SECONDS | ensure VARIABLE | path PATH MODE";
/// ZooKeeper's port.
const COORDINATOR_PORT: u16 = 2181;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

pub async fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["kafka-ready", rest @ ..] => kafka_ready(rest).await,
        ["zk-ready", connect, seconds, ..] => match seconds.parse() {
            Ok(seconds) => zk_ready(connect, Duration::from_secs(seconds)).await,
            Err(_) => usage(USAGE),
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

async fn kafka_ready(words: &[&str]) -> ExitCode {
    let mut bootstrap = std::env::var("OTTLA_BOOTSTRAP").unwrap_or_default();
    let mut numbers = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-b" | "--bootstrap_broker_list" => {
                bootstrap = words.next().map(|text| (*text).to_owned()).unwrap_or_default()
            }
            // A configuration of its client, ZooKeeper's address, a protocol: the brokers themselves answer here.
            "-c" | "--config" | "-z" | "--zookeeper_connect" | "-s" | "--security-protocol" => drop(words.next()),
            number => numbers.push(number.parse::<u64>()),
        }
    }
    let (Some(Ok(brokers)), Some(Ok(seconds))) = (numbers.first(), numbers.get(1)) else { return usage(USAGE) };
    let end = Instant::now() + Duration::from_secs(*seconds);
    let client = Client::new(ClientConfig::new(&bootstrap));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let found = match tokio::time::timeout(left, client.metadata(Some(&[]))).await {
            Ok(Ok(view)) if u64::try_from(view.brokers.len()).is_ok_and(|found| found >= *brokers) => {
                return ExitCode::SUCCESS;
            }
            Ok(Ok(view)) => format!("{} of {brokers} brokers are there", view.brokers.len()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + PAUSE >= end {
            err!("{bootstrap}: {found} after {seconds} s");
            return ExitCode::FAILURE;
        }
        tokio::time::sleep(PAUSE).await;
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
    let end = Instant::now() + patience;
    loop {
        let mut failed = String::new();
        for address in &addresses {
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, ask_coordinator(address)).await {
                Ok(Ok(())) => return ExitCode::SUCCESS,
                Ok(Err(error)) => failed = error.to_string(),
                Err(_) => "no answer".clone_into(&mut failed),
            }
        }
        if Instant::now() + PAUSE >= end {
            err!("{connect}: {failed} after {} s", patience.as_secs());
            return ExitCode::FAILURE;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
