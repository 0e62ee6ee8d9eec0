//! The wall clock of one process jumps by hours and days, forwards and back, under a producer with acks=all, a group
//! that reads, and transactions. Sessions, leases, groups and open transactions are measured by a clock that does not
//! jump: nothing of them may expire.
//!
//! libfaketime moves the clock (Debian's package `faketime`); without it the tests are skipped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use ottla_chaos::{Load, OpenTransaction, partitions, prepare, seeded};
use ottla_e2e::quorum::{addresses, leader};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use ottla_test_support::free_ports;

/// Longer than a broker's session and its lease, and than the interval of every look at them.
const AFTER_A_JUMP: Duration = Duration::from_secs(4);
/// Offsets of the clock, each a jump from the one before.
const JUMPS: [(&str, i64); 5] = [("+1h", 3_600), ("-1h", -3_600), ("+1d", 86_400), ("+8d", 8 * 86_400), ("+0", 0)];

/// The library that moves clocks.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    if found.is_none() {
        ottla_test_support::skipped("libfaketime is not installed");
    }
    found
}

/// libfaketime leaves two files in the shared memory for each process that was killed. This removes those of processes
/// that have ended.
struct SharedMemory;

impl Drop for SharedMemory {
    fn drop(&mut self) {
        for file in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"));
            if id.is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

/// The process has the clock that the file says, from its next start on.
fn move_clock_of(cluster: &mut Cluster, node: Node, library: &Path, file: &Path) -> Result<()> {
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        // The file is looked at once a second.
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_RESET", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    variables.iter().try_for_each(|(name, value)| cluster.set_variable(node, name, value))
}

/// The property of a process's page of metrics.
fn http_port(node: Node) -> &'static str {
    match node {
        Node::Coordinator(_) => "COORDINATOR_HTTP_PORT",
        Node::Broker(_) => "KAFKA_HTTP_PORT",
    }
}

/// The wall clock of a process, in seconds since 1970: the date of an HTTP answer.
fn wall_clock(cluster: &Cluster, node: Node) -> Result<i64> {
    let port: u16 = cluster.environment(node)?.get(http_port(node)).context("a port")?.parse()?;
    let mut stream = clients::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let mut lines = answer.lines().take_while(|line| !line.is_empty());
    let date = lines.find_map(|line| line.strip_prefix("date: ")).context("a date")?;
    Ok(clients::run(Command::new("date").args(["-u", "+%s", "-d", date]))?.trim().parse()?)
}

/// The fenced ones say so, and so does who registers again.
fn nobody_was_fenced(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let log = cluster.log_text(node)?;
        let fenced = log.lines().find(|line| line.contains("fenced"));
        ensure!(fenced.is_none(), "{node}: {fenced:?}");
    }
    Ok(())
}

/// Every process in turn, or those that the test names: its clock jumps, and nobody notices.
fn clock_jumps(seed: u64, choose: impl Fn(&Cluster) -> Result<Node>) -> Result<()> {
    let Some(library) = library() else { return Ok(()) };
    // Before the cluster: it is dropped after its processes have ended.
    let _shared_memory = SharedMemory;
    let (mut cluster, clients) = prepare(ClusterOptions::default(), seed)?;
    let files = cluster.folder().join("clocks");
    fs::create_dir(&files)?;
    for node in cluster.nodes() {
        let file = files.join(node.to_string());
        fs::write(&file, "+0")?;
        move_clock_of(&mut cluster, node, &library, &file)?;
    }
    for (node, port) in cluster.nodes().into_iter().zip(free_ports(6)?) {
        cluster.set_variable(node, http_port(node), &port.to_string())?;
    }
    cluster.spawn_all()?;
    let at = &clients.operator;
    let mut load = Load::start(&cluster, &clients)?;
    load.wait_in_sync()?;
    let node = choose(&cluster)?;
    let before = partitions(at)?;
    let mut furthest_s = 0;
    for (jump, offset_s) in JUMPS {
        load.step(&format!("{node}: clock {jump}"), || {
            let open = OpenTransaction::begin(&clients)?;
            // A rename: the process reads the file at any time.
            let file = files.join("next");
            fs::write(&file, jump)?;
            fs::rename(&file, files.join(node.to_string()))?;
            sleep(AFTER_A_JUMP);
            // The date of the answers is kept until the clock is past it: it shows jumps ahead.
            if offset_s > furthest_s {
                furthest_s = offset_s;
                let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().cast_signed();
                let ahead_s = wall_clock(&cluster, node)? - now_s;
                ensure!((ahead_s - offset_s).abs() < 60, "its clock is {ahead_s} s ahead");
            }
            open.commit().context("a transaction that was open during the jump")?;
            ensure!(cluster.ended()?.is_empty(), "{:?} ended", cluster.ended()?);
            nobody_was_fenced(&cluster)?;
            let after = partitions(at)?;
            let known: Vec<_> = after.into_iter().filter(|one| before.iter().any(|two| two.name == one.name)).collect();
            ensure!(known == before, "leaders or ISRs changed:\n{before:?}\n{known:?}");
            Ok(())
        })?;
    }
    load.finish(&cluster)
}

#[test]
fn the_clock_of_a_broker_jumps() {
    seeded(0, |seed| clock_jumps(seed, |_| Ok(Node::Broker(1))));
}

#[test]
#[ignore = "a minute: make soak runs it"]
fn the_clock_of_the_leading_coordinator_jumps() -> Result<()> {
    clock_jumps(0, |cluster| {
        let id = wait::until_ok("a coordinator leads", || leader(&addresses(cluster, &[1, 2, 3])))?;
        Ok(Node::Coordinator(id))
    })
}
