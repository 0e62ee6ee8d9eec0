//! Random admin requests by Kafka's protocol, by gRPC (the brokers' and the admin API) and by ZooKeeper's protocol at
//! a quorum of three real coordinators with two real brokers.
//!
//! After each seed the three trees are equal and every process runs; every response has one of Kafka's error codes, and
//! none is UNKNOWN_SERVER_ERROR. At the end a topic can be created as before.
//!
//! The binaries come from `make build`, as in the end-to-end tests. A seed starts where the seed before it ended: a
//! failure is replayed by the seeds up to its own.

mod by_admin;
mod by_grpc;
mod by_kafka;
mod by_kafka_cluster;
mod by_zookeeper;
mod words;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::cluster::{Cluster, ClusterOptions, PATIENCE};
use ottla_e2e::wait;
use ottla_fuzz::mutation::Random;
use ottla_metadata::{Node, Path};
use ottla_model::{BrokerId, ErrorCode, Revision};
use ottla_rpc::{ClusterClient, WatchUpdate};
use tokio::runtime::Runtime;

const COORDINATORS: u64 = 3;
const REQUESTS_PER_SEED: usize = 12;

struct Target {
    cluster: Cluster,
    runtime: Runtime,
    quorum: ClusterClient,
    /// One client of each coordinator alone.
    members: Vec<ClusterClient>,
    accepted: u32,
    refused: u32,
}

impl Target {
    fn start() -> Result<Self> {
        let options = ClusterOptions { coordinators: COORDINATORS, brokers: 2, ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options.with("offsets.topic.num.partitions", "1"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let addresses: Vec<String> = (1..=COORDINATORS).map(|id| cluster.coordinator_address(id)).collect();
        let members = addresses.iter().map(|address| ClusterClient::new(&[address])).collect::<Result<_, _>>()?;
        let quorum = ClusterClient::new(&addresses)?;
        drop(_inside);
        Ok(Self { cluster, runtime, quorum, members, accepted: 0, refused: 0 })
    }

    /// The whole tree of one coordinator.
    fn tree(&self, member: &ClusterClient) -> Result<(Revision, BTreeMap<Path, Node>)> {
        self.runtime.block_on(async {
            let mut watch = member.watch(Revision(0), BrokerId::NONE, None, PATIENCE).await?;
            match watch.next().await? {
                WatchUpdate::Snapshot { revision, nodes } => Ok((revision, nodes.into_iter().collect())),
                WatchUpdate::Changes { revision, .. } => bail!("changes at {revision:?} before a snapshot"),
            }
        })
    }

    /// Brokers go on writing: the trees are compared where all three are at the same revision.
    fn check_trees(&self) -> Result<()> {
        wait::until("the members reach one revision", || {
            let trees = self.members.iter().map(|member| self.tree(member)).collect::<Result<Vec<_>>>()?;
            let (first, others) = trees.split_first().context("three members")?;
            if others.iter().any(|(revision, _)| *revision != first.0) {
                return Ok(false);
            }
            for (_, nodes) in others {
                ensure!(*nodes == first.1, "two trees differ at {:?}: {:?}", first.0, difference(&first.1, nodes));
            }
            Ok(true)
        })
    }

    fn check_processes(&mut self) -> Result<()> {
        let ended = self.cluster.ended()?;
        for node in &ended {
            eprintln!("== {node}\n{}", self.cluster.log_text(*node)?);
        }
        ensure!(ended.is_empty(), "ended: {ended:?}");
        Ok(())
    }

    fn run(&mut self, seed: u64) -> Result<()> {
        let random = &mut Random::new(seed);
        for _ in 0..REQUESTS_PER_SEED {
            let (request, errors) = match random.below(9) {
                8 => {
                    let at = self.cluster.coordinator_address(1 + random.below(COORDINATORS as usize) as u64);
                    self.runtime.block_on(by_admin::send(random, &at))?
                }
                0 | 1 => self.runtime.block_on(by_grpc::send(random, &self.quorum))?,
                2 => by_zookeeper::send(random, &self.cluster.coordinator_address(1 + seed % COORDINATORS))?,
                _ => by_kafka::send(random, self.cluster.broker_address(1 + (seed % 2) as i32))?,
            };
            for code in errors {
                let error = ErrorCode::from_code(code).with_context(|| format!("{request}: error {code}"))?;
                ensure!(error != ErrorCode::UnknownServerError, "{request}: {error:?}");
                match error {
                    ErrorCode::None => self.accepted += 1,
                    _ => self.refused += 1,
                }
            }
        }
        self.check_processes()?;
        self.check_trees()
    }
}

fn difference(one: &BTreeMap<Path, Node>, other: &BTreeMap<Path, Node>) -> Option<Path> {
    let paths = one.keys().chain(other.keys());
    paths.into_iter().find(|path| one.get(*path) != other.get(*path)).cloned()
}

#[test]
fn random_admin_requests_leave_equal_trees_and_running_processes() -> Result<()> {
    let mut target = Target::start()?;
    ottla_test_support::each_seed(0..25, |seed| target.run(seed));
    let (accepted, refused) = (target.accepted, target.refused);
    let is_mixed = accepted > refused / 20 && refused > accepted / 20;
    ensure!(!ottla_test_support::runs_at_least(25) || is_mixed, "{accepted} accepted, {refused} refused");
    // Brokers that were unregistered or resigned come back by themselves.
    target.cluster.wait_ready()?;
    let address = target.cluster.broker_address(1);
    wait::until_ok("a topic is created after all of it", || by_kafka::create_good_topic(address))?;
    target.check_processes()?;
    target.check_trees()
}
