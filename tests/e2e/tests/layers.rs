//! Imports go down only: the table of rooms in `docs/ARCHITECTURE.md`, held over `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Each crate of the product, without its prefix, and the crates it may import. A crate that is not listed here has no
/// place in the house yet: give it one.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Layer 0.
    ("model", &[]),
    ("protocol", &["model"]),
    ("metrics", &[]),
    // Layer 1: synchronous cores.
    ("metadata", &["model"]),
    ("consensus", &["model"]),
    ("quorum-node", &["model", "metadata", "consensus"]),
    ("replication", &["model"]),
    ("replica-fetcher", &["model", "replication"]),
    ("group-coordinator", &["model", "protocol"]),
    ("transaction-coordinator", &["model", "protocol"]),
    // Layer 2.
    ("storage", &["model", "protocol", "replication"]),
    ("partition", &["model", "protocol", "metadata", "replication", "storage"]),
    ("rpc", &["model", "metadata"]),
    ("client", &["model", "protocol"]),
    ("config", &["model"]),
    // Layer 3: binaries.
    ("coordinator", &["model", "metrics", "metadata", "consensus", "quorum-node", "rpc", "config"]),
    (
        "broker",
        &[
            "model",
            "protocol",
            "metrics",
            "metadata",
            "replication",
            "replica-fetcher",
            "group-coordinator",
            "transaction-coordinator",
            "storage",
            "partition",
            "rpc",
            "client",
            "config",
        ],
    ),
    // `ottla dev` runs both services in one process: docs/adr/0002-the-cli-holds-both-services.md.
    ("cli", &["model", "protocol", "client", "rpc", "config", "coordinator", "broker"]),
];

/// The synchronous cores: a seed must replay a run to the byte.
const CORES: &[&str] = &[
    "metadata",
    "consensus",
    "quorum-node",
    "replication",
    "replica-fetcher",
    "group-coordinator",
    "transaction-coordinator",
    "partition",
];

/// Names that would bring a clock, a thread, entropy, a socket or a file into a core.
const NOT_IN_A_CORE: &[&str] = &[
    "tokio",
    "tonic",
    "rocksdb",
    "rand",
    "getrandom",
    "rustix",
    "socket2",
    "axum",
    "parking_lot",
    "futures",
    "uuid",
    "tempfile",
    "mio",
    "tracing",
];

fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every crate under `crates/` with its build and run dependencies (not those of tests).
fn imports() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let metadata = metadata()?;
    let mut imports = BTreeMap::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let manifest = package["manifest_path"].as_str().context("manifest_path")?;
        let name = package["name"].as_str().context("name")?;
        let Some(folder) = manifest.rsplit_once("/crates/").and_then(|(_, rest)| rest.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        ensure!(name == format!("ottla-{folder}"), "{name} lies in crates/{folder}");
        let needs = package["dependencies"]
            .as_array()
            .context("dependencies")?
            .iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect();
        imports.insert(folder.to_owned(), needs);
    }
    Ok(imports)
}

#[test]
fn imports_go_down_only() -> Result<()> {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    for (room, needs) in imports()? {
        let allowed = table.get(room.as_str()).with_context(|| format!("crates/{room} has no row in the table"))?;
        for needed in needs.iter().filter_map(|name| name.strip_prefix("ottla-")) {
            ensure!(allowed.contains(&needed), "crates/{room} may not import ottla-{needed}");
        }
    }
    Ok(())
}

#[test]
fn the_cores_decide_and_do_not_wait() -> Result<()> {
    let imports = imports()?;
    for core in CORES {
        let Some(needs) = imports.get(*core) else { continue };
        for banned in NOT_IN_A_CORE {
            ensure!(!needs.contains(*banned), "crates/{core} is a synchronous core and may not import {banned}");
        }
    }
    Ok(())
}
