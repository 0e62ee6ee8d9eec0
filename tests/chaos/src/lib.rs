//! Faults and an operator's work against a cluster of processes while a real producer writes with acks=all to every
//! partition. Checks: no acknowledged record is missing, duplicated or out of order, and the client gets no error.

mod disk;
mod load;
mod network;
mod security;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Access, Cluster, clients, wait};
use serde_json::Value;

pub use disk::{DiskState, FaultyDisk, two_log_directories};
pub use load::{Load, OpenTransaction, Shown, SteadyTransactions, describe, partitions, report, wait_in_sync};
pub use network::{Link, Network, Place, networked_cluster};
pub use security::{Clients, Security, prepare, start};

/// A client script that reads lines and answers each with one line of JSON.
struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Returns when it has said `ready`.
    fn start(access: &Access, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = clients::start_piped(&mut access.script(name, arguments))?;
        let input = child.stdin.take().context("piped input")?;
        let output = BufReader::new(child.stdout.take().context("piped output")?);
        let mut script = Self { child, input, output };
        let line = script.line()?;
        ensure!(line.trim() == "ready", "{name} said {line:?}");
        Ok(script)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    fn ask(&mut self, question: &str) -> Result<Value> {
        writeln!(self.input, "{question}")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("a client said {line:?}"))
    }

    /// The last question, after which it ends.
    fn finish(mut self) -> Result<Value> {
        let answer = self.ask("stop")?;
        self.child.wait()?;
        Ok(answer)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many partitions are led by another replica than the first.
pub fn led_by_others(at: &Access) -> Result<usize> {
    let out = describe(at, &[])?;
    let word = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(name)?;
        rest.split([',', '\t']).next().map(|word| word.trim().to_owned())
    };
    let led = out.lines().filter_map(|line| Some((word(line, "\tLeader: ")?, word(line, "\tReplicas: ")?)));
    Ok(led.filter(|(leader, first)| leader != first).count())
}

pub fn wait_for_preferred_leaders(at: &Access) -> Result<()> {
    wait::until_ok("the preferred replicas lead", || {
        let others = led_by_others(at)?;
        ensure!(others == 0, "{others} partitions are led by another replica than the first");
        Ok(())
    })
}

/// The group id of readers without a group.
const UNUSED_GROUP: &str = "unused";

fn create_topic(access: &Access, topic: &str, partitions: u32) -> Result<()> {
    clients::run(&mut access.script("create_topic.py", &[topic, &partitions.to_string()])).map(drop)
}

/// Runs `test` with one seed, or with those that the environment names.
pub fn seeded(seed: u64, test: impl Fn(u64) -> Result<()>) {
    ottla_test_support::each_seed(seed..seed + 1, test);
}

fn count(of: &Value, key: &str) -> Result<u64> {
    of[key].as_u64().with_context(|| format!("{key} in {of}"))
}

fn seconds(of: &Value, key: &str) -> Result<f64> {
    of[key].as_f64().with_context(|| format!("{key} in {of}"))
}

/// Records that went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wrong {
    pub missing: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
}

impl Wrong {
    fn of(told: &Value) -> Result<Self> {
        Ok(Self {
            missing: count(told, "missing")?,
            duplicates: count(told, "duplicates")?,
            out_of_order: count(told, "out_of_order")?,
        })
    }
}

impl std::ops::Add for Wrong {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            missing: self.missing + other.missing,
            duplicates: self.duplicates + other.duplicates,
            out_of_order: self.out_of_order + other.out_of_order,
        }
    }
}

/// The producer's observations: see `clients/steady_producer.py` in `tests/e2e`.
#[derive(Debug)]
pub struct Report {
    pub acknowledged: u64,
    pub errors: Vec<String>,
    pub unsent: u64,
    pub wrong: Wrong,
    /// By period, as [`SteadyProducer::end_period`] ended them.
    pub periods: Vec<Wrong>,
    pub longest_s: f64,
}

/// A producer that writes until it is stopped.
pub struct SteadyProducer(Script);

/// The longest time that a record waited for its acknowledgement, or for a member of the group, in one period.
#[derive(Clone, PartialEq, Debug)]
pub struct Longest {
    pub seconds: f64,
    /// Where.
    pub partition: String,
}

impl Longest {
    fn of(told: &Value, key: &str) -> Result<Self> {
        Ok(Self { seconds: seconds(told, key)?, partition: told["partition"].to_string() })
    }
}

impl SteadyProducer {
    /// Creates a topic with replication factor 3 and min.insync.replicas 2 and writes to all its partitions; returns
    /// when all of them acknowledge.
    pub fn start(cluster: &Cluster, clients: &Clients, topic: &str, partitions: u32) -> Result<Self> {
        create_topic(&clients.operator, topic, partitions)?;
        clients.allow(cluster, &[topic], &[UNUSED_GROUP], &[])?;
        Script::start(&clients.load, "steady_producer.py", &[topic, &partitions.to_string()]).map(Self)
    }

    /// As [`Self::start`], in plaintext, with the brokers at `bootstrap`.
    pub fn start_at(bootstrap: &str, topic: &str, partitions: u32) -> Result<Self> {
        let access = Access::plaintext(bootstrap.to_owned());
        create_topic(&access, topic, partitions)?;
        Script::start(&access, "steady_producer.py", &[topic, &partitions.to_string()]).map(Self)
    }

    /// Writes to a topic that is there: a record to each partition in `pause_s`.
    pub fn start_paced(access: &Access, topic: &str, partitions: u32, pause_s: f64) -> Result<Self> {
        let (partitions, pause_s) = (partitions.to_string(), pause_s.to_string());
        Script::start(access, "steady_producer.py", &[topic, &partitions, &pause_s]).map(Self)
    }

    /// Ends a period; the longest time that a record of it waited for its acknowledgement.
    pub fn end_period(&mut self) -> Result<Longest> {
        Longest::of(&self.0.ask("mark")?, "stall_s")
    }

    /// Stops writing, reads everything back and reports.
    pub fn finish(self) -> Result<Report> {
        let told = self.0.finish()?;
        Ok(Report {
            acknowledged: count(&told, "acknowledged")?,
            errors: told["errors"].as_array().into_iter().flatten().map(ToString::to_string).collect(),
            unsent: count(&told, "unsent")?,
            wrong: Wrong::of(&told)?,
            periods: told["periods"].as_array().into_iter().flatten().map(Wrong::of).collect::<Result<_>>()?,
            longest_s: seconds(&told, "longest_s")?,
        })
    }
}

impl Report {
    /// The checks after every fault.
    pub fn check(&self) -> Result<()> {
        ensure!(self.acknowledged > 0, "nothing was acknowledged: {self:?}");
        ensure!(self.wrong == Wrong::default(), "records went wrong: {self:?}");
        ensure!(self.errors.is_empty() && self.unsent == 0, "the client saw errors: {self:?}");
        Ok(())
    }
}

/// What the members of a group observed: see `clients/steady_group.py` in `tests/e2e`.
#[derive(Debug)]
pub struct Delivered {
    pub records: u64,
    pub missing: u64,
    pub again: u64,
    pub out_of_order: u64,
}

/// A group that reads until it is stopped.
pub struct SteadyGroup(Script);

impl SteadyGroup {
    /// Reads the topics from their ends on; returns when each partition has an owner.
    pub fn start(access: &Access, group: &str, members: u32, topics: &[&str]) -> Result<Self> {
        let members = members.to_string();
        let arguments = [&[group, members.as_str()], topics].concat();
        Script::start(access, "steady_group.py", &arguments).map(Self)
    }

    /// Ends a period; the longest time that a record took from its producer to the group.
    pub fn end_period(&mut self) -> Result<Longest> {
        Longest::of(&self.0.ask("mark")?, "wait_s")
    }

    /// Waits until the group has everything up to the ends.
    pub fn finish(self) -> Result<Delivered> {
        let told = self.0.finish()?;
        Ok(Delivered {
            records: count(&told, "delivered")?,
            missing: count(&told, "missing")?,
            again: count(&told, "again")?,
            out_of_order: count(&told, "out_of_order")?,
        })
    }
}

impl Delivered {
    /// The group has each record once, in order. It stays whole during an operator's work: nothing is read again.
    pub fn check(&self) -> Result<()> {
        ensure!(self.records > 0, "nothing was delivered: {self:?}");
        ensure!(self.missing == 0 && self.again == 0 && self.out_of_order == 0, "the group went wrong: {self:?}");
        Ok(())
    }
}
