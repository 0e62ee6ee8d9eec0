//! Imports go down only: the table of layers in `docs/ARCHITECTURE.md`, checked with `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Each crate of the product, without its prefix, and the crates it may import. A crate that is not listed here has no
/// layer yet: give it one.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Layer 0.
    ("model", &[]),
    ("protocol", &["model"]),
    ("metrics", &[]),
    // Layer 1: synchronous cores.
    ("authorizer", &["model"]),
    ("quotas", &["model"]),
    ("metadata", &["model", "authorizer"]),
    ("client-telemetry", &["model", "metadata"]),
    ("consensus", &["model"]),
    ("quorum-node", &["model", "metadata", "consensus"]),
    ("zookeeper", &["model", "metadata"]),
    ("sasl", &[]),
    ("replication", &["model"]),
    ("replica-fetcher", &["model", "replication"]),
    ("broker-session", &["model", "metadata"]),
    ("coordinator-partition", &["model", "protocol"]),
    ("group-coordinator", &["model", "protocol", "coordinator-partition"]),
    ("transaction-coordinator", &["model", "protocol", "coordinator-partition"]),
    // Layer 2.
    ("storage", &["model", "protocol", "replication"]),
    ("partition", &["model", "protocol", "metadata", "replication", "storage"]),
    ("rpc", &["model", "authorizer", "metadata", "tls"]),
    ("tls", &["model"]),
    ("secure-stream", &["model", "protocol", "sasl", "tls"]),
    ("client", &["model", "protocol", "authorizer", "secure-stream"]),
    ("config", &["model", "sasl", "tls"]),
    ("resources", &["metrics"]),
    ("network", &["model", "protocol", "metrics", "resources", "sasl", "storage", "tls"]),
    (
        "replica-manager",
        &[
            "model",
            "protocol",
            "metrics",
            "authorizer",
            "quotas",
            "metadata",
            "replication",
            "replica-fetcher",
            "storage",
            "partition",
            "resources",
            "secure-stream",
            "config",
        ],
    ),
    // Layer 3: binaries.
    (
        "coordinator",
        &[
            "model",
            "metrics",
            "metadata",
            "consensus",
            "quorum-node",
            "zookeeper",
            "client",
            "resources",
            "tls",
            "secure-stream",
            "rpc",
            "config",
        ],
    ),
    (
        "broker",
        &[
            "model",
            "protocol",
            "metrics",
            "authorizer",
            "quotas",
            "client-telemetry",
            "metadata",
            "replication",
            "replica-fetcher",
            "broker-session",
            "coordinator-partition",
            "group-coordinator",
            "transaction-coordinator",
            "storage",
            "partition",
            "network",
            "replica-manager",
            "resources",
            "rpc",
            "sasl",
            "secure-stream",
            "tls",
            "client",
            "config",
        ],
    ),
    // `ottla dev` runs both services in one process: docs/adr/0002-the-cli-holds-both-services.md.
    (
        "cli",
        &[
            "model",
            "protocol",
            "authorizer",
            "metadata",
            "sasl",
            "secure-stream",
            "tls",
            "storage",
            "group-coordinator",
            "transaction-coordinator",
            "client",
            "rpc",
            "config",
            "coordinator",
            "broker",
        ],
    ),
];

/// The synchronous cores: a seed must replay a run to the byte.
const CORES: &[&str] = &[
    "authorizer",
    "quotas",
    "metadata",
    "consensus",
    "quorum-node",
    "zookeeper",
    "sasl",
    "replication",
    "replica-fetcher",
    "broker-session",
    "coordinator-partition",
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

/// Binaries say `test = false`: for a test of one cargo would link it once more, and compile a library for its sake.
/// `deploy/test.sh` runs the tests of libraries only.
#[test]
fn no_binary_has_tests() -> Result<()> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("packages")?.iter();
    let targets = packages.filter_map(|package| package["targets"].as_array()).flatten();
    let is_tested = |target: &&Value| target["kind"][0] == "bin" && target["test"] == true;
    let tested: Vec<&Value> = targets.filter(is_tested).map(|target| &target["name"]).collect();
    ensure!(tested.is_empty(), "{tested:?}");
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

/// How many files of one crate may import each other, directly or through other files. A reader can still hold three at
/// once.
const CIRCLE_FILES_MAX: usize = 3;

/// The files of a crate by their modules' paths: `["log_dirs", "opening"]` for `src/log_dirs/opening.rs`.
type Modules = BTreeMap<Vec<String>, String>;

fn modules(folder: &Path, above: &[String], found: &mut Modules) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        let mut module = above.to_vec();
        if path.is_dir() {
            module.push(stem);
            modules(&path, &module, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if !["mod", "lib", "main"].contains(&stem.as_str()) {
                module.push(stem);
            }
            found.insert(module, std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// The source without its comments and its tests.
fn shipped(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str, prefix: &str, into: &mut Vec<String>) {
    let (mut depth, mut start) = (0_usize, 0);
    for (at, character) in tree.char_indices().chain([(tree.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let item = tree[start..at].trim();
                start = at + 1;
                match item.split_once('{') {
                    Some((head, rest)) => {
                        paths(rest.strip_suffix('}').unwrap_or(rest), &format!("{prefix}{head}"), into);
                    }
                    None => into.push(format!("{prefix}{item}")),
                }
            }
            _ => {}
        }
    }
}

/// The path of an import of the module's own crate, from its root: by `crate`, `super` or `self`, or of a part of the
/// module. None for other crates.
fn absolute(module: &[String], path: &str, known: &Modules) -> Option<Vec<String>> {
    let mut parts = path.split("::").map(str::trim).peekable();
    let mut at = module.to_vec();
    match *parts.peek()? {
        "crate" => at.clear(),
        "super" => drop(at.pop()),
        "self" => {}
        first => {
            at.push(first.to_owned());
            known.get(&at)?;
        }
    }
    parts.next();
    while parts.next_if_eq(&"super").is_some() {
        at.pop();
    }
    at.extend(parts.map(str::to_owned));
    Some(at)
}

/// An import of the own crate.
struct Import {
    path: Vec<String>,
    /// The name that it has in the importing module; `*` for all that the module of the path has.
    name: String,
    is_public: bool,
}

fn imports_of(module: &[String], source: &str, known: &Modules) -> Vec<Import> {
    let mut found = Vec::new();
    for statement in shipped(source).split(';') {
        let Some((before, tree)) = statement.rsplit_once("use ") else { continue };
        let is_public = before.lines().next_back().is_some_and(|line| line.trim().starts_with("pub"));
        let mut trees = Vec::new();
        paths(tree.trim(), "", &mut trees);
        for tree in trees {
            let (path, alias) =
                tree.split_once(" as ").map_or((tree.as_str(), None), |(path, alias)| (path, Some(alias)));
            let Some(path) = absolute(module, path, known) else { continue };
            let Some(name) = alias.or(path.last().map(String::as_str)).map(|name| name.trim().to_owned()) else {
                continue;
            };
            found.push(Import { path, name, is_public });
        }
    }
    found
}

/// The file that a path leads to, through the names that files on the way only hand on.
fn file_of(mut path: Vec<String>, imports: &BTreeMap<Vec<String>, Vec<Import>>, known: &Modules) -> Vec<String> {
    const HOPS_MAX: usize = 8;
    let defines = |file: &Vec<String>, name: &str| {
        let kinds = ["struct", "enum", "trait", "fn", "type", "const", "static", "union"];
        let source = known.get(file).map(|source| shipped(source)).unwrap_or_default();
        kinds.iter().any(|kind| {
            source.match_indices(&format!("{kind} {name}")).any(|(at, definition)| {
                !source[at + definition.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
    };
    let mut file = path.clone();
    for _ in 0..HOPS_MAX {
        file.clone_from(&path);
        while !file.is_empty() && !known.contains_key(&file) {
            file.pop();
        }
        let Some((name, rest)) = path[file.len()..].split_first() else { break };
        let handed_on = imports.get(&file).into_iter().flatten().filter(|import| import.is_public).find_map(|import| {
            let (last, module) = import.path.split_last()?;
            match last == "*" {
                true => defines(&module.to_vec(), name).then(|| [module, std::slice::from_ref(name), rest].concat()),
                false => (import.name == *name).then(|| [&import.path, rest].concat()),
            }
        });
        match handed_on {
            Some(further) => path = further,
            None => break,
        }
    }
    file
}

/// What each file imports of its own crate. A parent that only hands on names of its parts does not import them:
/// whoever uses such a name imports the part.
fn graph(known: &Modules) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let imports: BTreeMap<_, _> =
        known.iter().map(|(module, source)| (module.clone(), imports_of(module, source, known))).collect();
    let files = |(module, found): (&Vec<String>, &Vec<Import>)| {
        let used = found.iter().filter(|import| !(import.is_public && import.path.starts_with(module)));
        let files = used.map(|import| file_of(import.path.clone(), &imports, known));
        (module.clone(), files.filter(|file| !file.is_empty() && file != module).collect())
    };
    imports.iter().map(files).collect()
}

fn reached(from: &[String], imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> BTreeSet<Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<Vec<String>> = imports.get(from).into_iter().flatten().cloned().collect();
    while let Some(module) = next.pop() {
        next.extend(imports.get(&module).into_iter().flatten().filter(|more| !reached.contains(*more)).cloned());
        reached.insert(module);
    }
    reached
}

/// The circles among the files of a crate, each as a sorted list of modules.
fn circles(known: &Modules) -> BTreeSet<Vec<String>> {
    let imports = graph(known);
    let reach: BTreeMap<_, _> = known.keys().map(|module| (module.clone(), reached(module, &imports))).collect();
    let of = |module: &Vec<String>| {
        let back = |other: &&Vec<String>| reach.get(*other).is_some_and(|there| there.contains(module));
        reach[module].iter().filter(back).map(|other| other.join("::")).collect::<Vec<_>>()
    };
    known.keys().map(of).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn files_of_a_crate_form_no_large_circle() -> Result<()> {
    for room in imports()?.keys() {
        let mut known = Modules::new();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates").join(room).join("src");
        modules(&sources, &[], &mut known)?;
        if let Some(circle) = circles(&known).into_iter().find(|circle| circle.len() > CIRCLE_FILES_MAX) {
            bail!("crates/{room}: {} files import each other: {circle:?}", circle.len());
        }
    }
    Ok(())
}

fn sources(files: &[(&str, &str)]) -> Modules {
    let file =
        |(module, source): &(&str, &str)| (module.split("::").map(str::to_owned).collect(), (*source).to_owned());
    files.iter().map(file).collect()
}

#[test]
fn a_circle_is_found_through_groups_and_parents() {
    let known = sources(&[
        ("a", "use crate::{b::B, other};\nuse crate::d;"),
        ("b", "//! Text; with a stop.\nuse std::fmt;\npub(crate) use crate::c::{self, inner::{C}};"),
        ("c", "use crate::nothing;"),
        ("c::inner", "use super::super::a::A;"),
        ("d", "// use crate::a;\n#[cfg(test)]\nmod tests {\nuse crate::a;\n}"),
    ]);
    assert_eq!(circles(&known), BTreeSet::from([["a", "b", "c::inner"].map(str::to_owned).to_vec()]));
}

/// A parent that uses a part depends on it; one that hands on its name does not, and whoever uses the name does.
#[test]
fn a_circle_is_found_through_a_parent_and_its_parts() {
    let known = sources(&[
        (
            "room",
            "mod part;\nmod other;\nmod leaf;\nuse part::Part;\npub use leaf::{Leaf, Leaf as Twig};\npub use other::*;",
        ),
        ("room::part", "use crate::outside::X;"),
        ("room::other", "pub struct Other;"),
        ("room::leaf", "use crate::user::U;"),
        ("outside", "use crate::room::{Room, Other};"),
        ("user", "use crate::room::Twig;"),
        ("away", "use crate::room::Other;\nuse std::part::Part;"),
    ]);
    let circle = |files: &[&str]| files.iter().copied().map(str::to_owned).collect::<Vec<_>>();
    let expected = [circle(&["outside", "room", "room::part"]), circle(&["room::leaf", "user"])];
    assert_eq!(circles(&known), BTreeSet::from(expected));
}
