//! All clients that run while faults come: a producer with acks=all, a group that reads what it writes, and
//! transactions.

use std::io::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Access, Cluster, wait};

use crate::{Clients, Longest, Script, SteadyGroup, SteadyProducer, UNUSED_GROUP, count, create_topic};

const TOPIC: &str = "steady";
const PARTITIONS: u32 = 12;
/// A record to each partition in this time.
const PAUSE_S: f64 = 0.05;
const TRANSACTIONS: &str = "transactions";
const TRANSACTION_PARTITIONS: u32 = 3;
const HELD: &str = "held";
const GROUP: &str = "readers";
/// Time of writing after each step, which counts for it.
const CALM: Duration = Duration::from_secs(1);

/// Not with `eprintln!`, which is shown only of tests that fail.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {line}");
}

/// Transactions that end one after the other until they are stopped: `clients/steady_transactions.py` in `tests/e2e`.
pub struct SteadyTransactions(Script);

impl SteadyTransactions {
    /// Writes to a topic that is there.
    fn start(access: &Access, topic: &str, partitions: u32) -> Result<Self> {
        Script::start(access, "steady_transactions.py", &[topic, &partitions.to_string()]).map(Self)
    }

    pub fn end_period(&mut self) -> Result<Longest> {
        Longest::of(&self.0.ask("mark")?, "stall_s")
    }

    /// Stops, reads everything back, and checks: what was committed is there once and in order, what was aborted is
    /// not, what may be either is whole.
    pub fn finish(self) -> Result<String> {
        let told = self.0.finish()?;
        ensure!(count(&told, "committed")? > 0, "nothing was committed: {told}");
        for wrong in ["missing", "duplicates", "out_of_order", "phantoms", "torn", "unread"] {
            ensure!(count(&told, wrong)? == 0, "transactions went wrong: {told}");
        }
        Ok(told.to_string())
    }
}

/// A transaction that is open until it is committed: `clients/held_transaction.py` in `tests/e2e`.
pub struct OpenTransaction(Script);

impl OpenTransaction {
    /// Beside a [`Load`], which allows it.
    pub fn begin(clients: &Clients) -> Result<Self> {
        clients.operator.run_tool("kafka-topics", &["--create", "--if-not-exists", "--topic", HELD])?;
        Script::start(&clients.load, "held_transaction.py", &[HELD, HELD]).map(Self)
    }

    pub fn commit(self) -> Result<()> {
        let told = self.0.finish()?;
        ensure!(told["error"].is_null(), "{told}");
        Ok(())
    }
}

/// The clients.
pub struct Load<'a> {
    producer: SteadyProducer,
    group: SteadyGroup,
    transactions: SteadyTransactions,
    clients: &'a Clients,
}

impl<'a> Load<'a> {
    pub fn start(cluster: &Cluster, clients: &'a Clients) -> Result<Self> {
        create_topic(&clients.operator, TOPIC, PARTITIONS)?;
        create_topic(&clients.operator, TRANSACTIONS, TRANSACTION_PARTITIONS)?;
        let (topics, transactions) = ([TOPIC, TRANSACTIONS, HELD], [TRANSACTIONS, HELD]);
        clients.allow(cluster, &topics, &[GROUP, UNUSED_GROUP], &transactions)?;
        let group = SteadyGroup::start(&clients.load, GROUP, 2, &[TOPIC])?;
        let producer = SteadyProducer::start_paced(&clients.load, TOPIC, PARTITIONS, PAUSE_S)?;
        let transactions = SteadyTransactions::start(&clients.load, TRANSACTIONS, TRANSACTION_PARTITIONS)?;
        let mut load = Self { producer, group, transactions, clients };
        load.step("nothing", || Ok(()))?;
        Ok(load)
    }

    /// One fault and its end, and what the clients saw of it: returns the longest wait for an acknowledgement.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let began = Instant::now();
        work().with_context(|| name.to_owned())?;
        let took = began.elapsed();
        sleep(CALM);
        let (producer, group) = (self.producer.end_period()?, self.group.end_period()?);
        let transaction = self.transactions.end_period()?;
        report(&format!(
            "{name}: {:.1} s; the longest wait for an acknowledgement {:.2} s ({}), for the group {:.2} s, for the end \
             of a transaction {:.2} s",
            took.as_secs_f64(),
            producer.seconds,
            producer.partition,
            group.seconds,
            transaction.seconds
        ));
        Ok(Duration::from_secs_f64(producer.seconds))
    }

    pub fn clients(&self) -> &'a Clients {
        self.clients
    }

    /// Waits until no partition's records wait: a client may be late to ask again.
    pub fn wait_until_acknowledged(&mut self) -> Result<()> {
        let began = Instant::now();
        wait::until_ok("records are acknowledged again", || {
            let waited = self.producer.end_period()?;
            ensure!(waited.seconds < 1.0, "{waited:?}");
            Ok(())
        })?;
        report(&format!("all records are acknowledged again {:.2} s later", began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Waits until every ISR has all replicas.
    pub fn wait_in_sync(&self) -> Result<()> {
        wait_in_sync(&self.clients.operator)
    }

    /// Stops the clients and checks.
    pub fn finish(self, cluster: &Cluster) -> Result<()> {
        let written = self.producer.finish()?;
        let delivered = self.group.finish()?;
        let transactions = self.transactions.finish()?;
        report(&format!("{} records acknowledged; {delivered:?}; {transactions}", written.acknowledged));
        self.clients.check_denied(cluster)?;
        written.check()?;
        delivered.check()
    }
}

pub fn wait_in_sync(at: &Access) -> Result<()> {
    wait::until_ok("all replicas are in sync", || {
        let under = describe(at, &["--under-replicated-partitions"])?;
        ensure!(under.trim().is_empty(), "{under}");
        Ok(())
    })
}

pub fn describe(at: &Access, arguments: &[&str]) -> Result<String> {
    at.run_tool("kafka-topics", &[&["--describe"], arguments].concat())
}

/// A partition, its leader (none: -1) and its ISR, as `kafka-topics --describe` shows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// `topic-0`, as its directory is named.
    pub name: String,
    pub leader: i32,
    pub isr: Vec<i32>,
}

/// All partitions.
pub fn partitions(at: &Access) -> Result<Vec<Shown>> {
    let field = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!("{name}: "))?;
        Some(rest.split('\t').next()?.trim().to_owned())
    };
    let shown = |line: &str| -> Option<Shown> {
        let name = format!("{}-{}", field(line, "Topic")?, field(line, "Partition")?);
        let isr = field(line, "Isr")?.split(',').filter_map(|id| id.parse().ok()).collect();
        Some(Shown { name, leader: field(line, "Leader")?.parse().unwrap_or(-1), isr })
    };
    Ok(describe(at, &[])?.lines().filter_map(shown).collect())
}
