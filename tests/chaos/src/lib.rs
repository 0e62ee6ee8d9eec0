//! Faults against a cluster of processes while a real producer writes with acks=all to every partition. Checks: no
//! acknowledged record is missing, duplicated or out of order, and the client gets no error.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::Cluster;
use ottla_e2e::clients;

/// The producer's observations: see `clients/steady_producer.py` in `tests/e2e`.
#[derive(Debug)]
pub struct Report {
    pub acknowledged: u64,
    pub errors: Vec<String>,
    pub unsent: u64,
    pub missing: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    pub longest_s: f64,
}

/// A producer that writes until it is stopped.
pub struct SteadyProducer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl SteadyProducer {
    /// Creates a topic with replication factor 3 and min.insync.replicas 2 and writes to all its partitions; returns
    /// when all of them acknowledge.
    pub fn start(cluster: &Cluster, topic: &str, partitions: u32) -> Result<Self> {
        Self::start_at(&cluster.bootstrap(), topic, partitions)
    }

    /// As [`Self::start`], with the brokers at `bootstrap`.
    pub fn start_at(bootstrap: &str, topic: &str, partitions: u32) -> Result<Self> {
        clients::run_script("create_topic.py", &[bootstrap, topic, &partitions.to_string()])?;
        let mut child = clients::start_script("steady_producer.py", &[bootstrap, topic, &partitions.to_string()])?;
        let output = BufReader::new(child.stdout.take().context("piped output")?);
        let mut producer = Self { child, output };
        producer.expect_ready()?;
        Ok(producer)
    }

    fn expect_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the producer said {line:?}");
        Ok(())
    }

    /// Stops writing, reads everything back and reports.
    pub fn finish(mut self) -> Result<Report> {
        self.child.stdin.take().context("piped input")?.write_all(b"stop\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        self.child.wait()?;
        let json: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("the producer said {line:?}"))?;
        let count = |key: &str| json[key].as_u64().with_context(|| format!("{key} in {line}"));
        Ok(Report {
            acknowledged: count("acknowledged")?,
            errors: json["errors"].as_array().into_iter().flatten().map(ToString::to_string).collect(),
            unsent: count("unsent")?,
            missing: count("missing")?,
            duplicates: count("duplicates")?,
            out_of_order: count("out_of_order")?,
            longest_s: json["longest_s"].as_f64().unwrap_or_default(),
        })
    }
}

impl Drop for SteadyProducer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// The checks after every fault.
    pub fn check(&self) -> Result<()> {
        ensure!(self.acknowledged > 0, "nothing was acknowledged: {self:?}");
        ensure!(self.missing == 0 && self.duplicates == 0 && self.out_of_order == 0, "records went wrong: {self:?}");
        ensure!(self.errors.is_empty() && self.unsent == 0, "the client saw errors: {self:?}");
        Ok(())
    }
}
