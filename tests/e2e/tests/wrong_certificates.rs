//! Certificates between services that cannot be used: a line on each side says whose it is, why and what to do, nobody
//! is flooded with handshakes, and a new file is enough, without a restart.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::{Authority, Identity};
use ottla_e2e::{Cluster, ClusterOptions, Node, wait};
use rustix::process::Signal;
use tempfile::TempDir;

const BROKER: Node = Node::Broker(1);
/// How long attempts are counted.
const WINDOW: Duration = Duration::from_secs(6);
/// Handshakes that one broker may try in a second. It asks for its registration; each call asks three coordinators,
/// then pauses for a second.
const HANDSHAKES_PER_S_MAX: f64 = 8.0;

struct Secure {
    cluster: Cluster,
    files: TempDir,
    authority: Authority,
}

impl Secure {
    fn start() -> Result<Self> {
        let files = TempDir::with_prefix("ottla-e2e-wrong-")?;
        let authority = Authority::new(files.path(), "ours")?;
        let mut cluster = Cluster::prepare(&ClusterOptions { brokers: 1, ..ClusterOptions::default() })?;
        cluster.show_certificates(&authority)?;
        cluster.spawn_all()?;
        Ok(Self { cluster, files, authority })
    }

    fn store(&self, node: Node) -> PathBuf {
        self.files.path().join(format!("{node}.pem"))
    }

    fn restart(&mut self, node: Node) -> Result<()> {
        self.cluster.signal(node, Signal::TERM)?;
        self.cluster.wait(node)?;
        self.cluster.spawn(node)
    }

    /// Puts a store in the place of a node's, as a person does: whole, or not at all.
    fn replace(&self, node: Node, identity: &Identity) -> Result<()> {
        let next = self.files.path().join("next.pem");
        fs::copy(&identity.store, &next)?;
        fs::rename(next, self.store(node)).with_context(|| format!("the store of {node}"))
    }

    fn coordinators_logs(&self) -> Result<String> {
        let logs = (1..=3).map(|id| self.cluster.log_text(Node::Coordinator(id)));
        Ok(logs.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Connections that coordinators have refused: those that a line tells of, and those that it counts.
    fn refused(&self) -> Result<u64> {
        let logs = self.coordinators_logs()?;
        let lines = logs.lines().filter(|line| line.contains("refused a connection"));
        let of_line = |line: &str| {
            let left_out = line.split("left_out").nth(1).unwrap_or_default();
            let digits = left_out.trim_start_matches(|c: char| !c.is_ascii_digit());
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            1 + digits[..end].parse::<u64>().unwrap_or(0)
        };
        Ok(lines.map(of_line).sum())
    }

    fn wait_for(&self, what: &str, log: impl Fn() -> Result<String>, parts: &[&str]) -> Result<()> {
        wait::until_ok(what, || {
            let log = log()?;
            let is_there = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            ensure!(
                is_there,
                "no line with {parts:?} in\n{}",
                log.lines().rev().take(12).collect::<Vec<_>>().join("\n")
            );
            Ok(())
        })
    }
}

#[test]
fn a_broker_whose_certificate_is_refused_says_why_and_recovers_with_its_file() -> Result<()> {
    let mut secure = Secure::start()?;
    let others = secure.files.path().join("others");
    fs::create_dir(&others)?;
    let other = Authority::new(&others, "other")?;
    let good = fs::read(secure.store(BROKER))?;
    // In the name of the broker, so that only the fault differs.
    let name = "broker-1";
    let signed = |authority: &Authority, folder: &str, years: (i32, i32)| -> Result<Identity> {
        let identity = authority.sign_with(name, |params| {
            params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
            params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        })?;
        // `sign_with` wrote over the broker's own store.
        let kept = secure.files.path().join(format!("{folder}.pem"));
        fs::copy(&identity.store, &kept)?;
        fs::write(secure.store(BROKER), &good)?;
        Ok(Identity { store: kept, ..identity })
    };
    let bad = [
        (signed(&secure.authority, "expired", (1_999, 2_001))?, "it has expired", "has expired"),
        (signed(&secure.authority, "early", (3_000, 4_000))?, "it is not valid yet", "not valid yet"),
        (signed(&other, "foreign", (1_999, 4_000))?, "its authority is not in the trust store", "does not trust"),
    ];
    for (identity, by_coordinators, by_broker) in bad {
        secure.cluster.signal(BROKER, Signal::TERM)?;
        secure.cluster.wait(BROKER)?;
        secure.replace(BROKER, &identity)?;
        secure.cluster.spawn(BROKER)?;
        let theirs = || secure.coordinators_logs();
        secure.wait_for(
            "a line of coordinators",
            theirs,
            &["refused a connection", "CN=broker-1: ", by_coordinators],
        )?;
        let own = || secure.cluster.log_text(BROKER);
        secure.wait_for("a line of the broker", own, &["waiting for the coordinators", by_broker])?;

        let (before, began) = (secure.refused()?, Instant::now());
        std::thread::sleep(WINDOW);
        // Its coordinator tells of the last ones with the next line.
        let rate = (secure.refused()? - before) as f64 / began.elapsed().as_secs_f64();
        println!("{by_coordinators}: {rate:.1} handshakes a second");
        ensure!(rate <= HANDSHAKES_PER_S_MAX, "{rate} handshakes a second");
        let lines = own()?.lines().filter(|line| line.contains(by_broker)).count();
        ensure!(lines <= 2, "{lines} lines of one reason:\n{}", own()?);

        fs::write(secure.files.path().join("good.pem"), &good)?;
        fs::rename(secure.files.path().join("good.pem"), secure.store(BROKER))?;
        let began = Instant::now();
        secure.cluster.wait_ready()?;
        println!("{by_coordinators}: back {:.1} s after its file", began.elapsed().as_secs_f64());
    }
    Ok(())
}

#[test]
fn a_coordinator_with_the_certificate_of_another_host_is_told_of_and_recovers() -> Result<()> {
    let mut secure = Secure::start()?;
    let node = Node::Coordinator(1);
    let good = fs::read(secure.store(node))?;
    let elsewhere = secure.authority.sign_with("coordinator-1", |params| {
        params.subject_alt_names.clear();
        params.subject_alt_names.extend("elsewhere".try_into().map(rcgen::SanType::DnsName));
    })?;
    ensure!(elsewhere.store == secure.store(node), "it took the place of the coordinator's own");
    secure.restart(node)?;
    let peers = || -> Result<String> {
        let logs = [2, 3].map(|id| secure.cluster.log_text(Node::Coordinator(id)));
        Ok(logs.into_iter().collect::<Result<Vec<_>>>()?.concat())
    };
    let parts = ["cannot reach coordinator 1", "CN=coordinator-1: it is for other names"];
    secure.wait_for("a line of its peers", peers, &parts)?;
    std::thread::sleep(WINDOW);
    let lines = peers()?.lines().filter(|line| line.contains(parts[1])).count();
    ensure!(lines <= 2, "{lines} lines of two peers for one reason");

    fs::write(secure.store(node), good)?;
    wait::until_ok("it belongs to the quorum again", || {
        let log = secure.cluster.log_text(node)?;
        let restarted = log.rsplit_once("coordinator 1 at ").context("its last start")?.1;
        ensure!(restarted.contains("new certificates are in use"), "{restarted}");
        Ok(())
    })?;
    // With only two members it leads or follows: the quorum needs it.
    secure.cluster.kill(Node::Coordinator(2))?;
    secure.cluster.bounce(BROKER)
}
