//! Raft commits per second of three real coordinators, beside synced RocksDB writes on the same disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions};
use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp};
use ottla_metadata::{ConfigEntity, ConfigKind};
use ottla_rpc::ClusterClient;
use tempfile::TempDir;

use crate::baseline;
use crate::report::{self, Round};

const ROUND: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

pub fn run(rounds: usize) -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 3, brokers: 1, ..ClusterOptions::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses: Vec<String> = (1..=3).map(|id| cluster.coordinator_address(id)).collect();
    let client = runtime.block_on(async { ClusterClient::new(&addresses) })?;
    for callers in [1usize, 64] {
        let mut figures = Vec::new();
        for round in 0..rounds {
            let folder = TempDir::with_prefix("ottla-bench-")?;
            let machine = baseline::synced_rocksdb_writes_per_s(folder.path(), ROUND)?;
            let ours = runtime.block_on(commits_per_s(&client, callers, round))?;
            figures.push(Round { ours, machine });
        }
        let what = format!("raft commits, {callers} caller{}", if callers == 1 { "" } else { "s" });
        report::row(&what, "synced RocksDB writes, one thread", "/s", &figures);
    }
    Ok(())
}

/// Each caller changes one broker configuration over and over: each change is a transaction of its own.
async fn commits_per_s(client: &ClusterClient, callers: usize, round: usize) -> Result<f64> {
    let count = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (client, count) = (client.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut value = 0u64;
                while started.elapsed() < ROUND {
                    value += 1;
                    let threads = 1 + (value + round as u64) % 9;
                    let request = AlterConfigs {
                        entities: vec![AlterConfig {
                            entity: ConfigEntity { kind: ConfigKind::Brokers, name: (1 + caller).to_string() },
                            changes: vec![("log.cleaner.threads".into(), ConfigOp::Set(threads.to_string()))],
                            replace_all: false,
                        }],
                        validate_only: false,
                    };
                    let answer = client.submit(request, CALL_TIMEOUT).await?;
                    ensure!(answer.entities.iter().all(|(_, refusal)| refusal.is_none()), "{answer:?}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}
