//! Disks that are slow, do not answer, fail or are full, under a producer with acks=all, a group that reads, and
//! transactions. No record may be missing, twice or out of order; no transaction may be torn. Standard error shows how
//! long clients waited; no test asserts a time, but what must come by itself comes while the disk is still at fault.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_chaos::{
    Clients, DiskState, FaultyDisk, Load, Shown, partitions, prepare, report, seeded, two_log_directories, wait_in_sync,
};
use ottla_e2e::quorum::{addresses, leader};
use ottla_e2e::{Access, Cluster, ClusterOptions, Node, wait};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const SLOW: DiskState = DiskState::Slow(Duration::from_secs(2));
/// How long a disk is still at fault when others lead. After a stall longer: it is noticed late, and what was sent by
/// then has waited already.
const WITH_OTHER_LEADERS: Duration = Duration::from_secs(4);
const AFTER_A_STALL: Duration = Duration::from_secs(8);

/// Waits for a state, and tells how long it took since the fault began.
fn comes(what: &str, began: Instant, holds: impl FnMut() -> Result<()>) -> Result<()> {
    wait::until_ok(what, holds)?;
    report(&format!("{what}: {:.2} s after the fault", began.elapsed().as_secs_f64()));
    Ok(())
}

fn says(cluster: &Cluster, node: Node, line: &str) -> Result<()> {
    let log = cluster.log_text(node)?;
    ensure!(log.lines().any(|said| said.contains(line)), "{node} does not say {line:?}:\n{log}");
    Ok(())
}

/// Makes the coordinators write: a topic of its own. A broker that ends meanwhile takes the request with it.
fn create_topic(clients: &Clients, name: &str) -> Result<()> {
    wait::until_ok("a topic", || {
        let arguments = ["--create", "--topic", name, "--if-not-exists"];
        clients.operator.run_tool("kafka-topics", &arguments).map(drop)
    })
}

/// Broker 1 has two directories, and only the disk of one is at fault: what is on the other is led and in sync
/// throughout.
#[test]
#[ignore = "a minute, and a writer that waits for a stalled disk can fail it: make soak runs it"]
fn a_brokers_disk_is_slow_stalls_fills_and_fails() -> Result<()> {
    let (mut cluster, clients) = prepare(ClusterOptions::default(), 0)?;
    let (faulty, sound) = two_log_directories(&mut cluster, Node::Broker(1))?;
    let Some(disk) = FaultyDisk::mount(&faulty)? else { return Ok(()) };
    cluster.spawn_all()?;
    let at = &clients.operator;
    let mut load = Load::start(&cluster, &clients)?;
    let names = fs::read_dir(&sound)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let on_sound_disk = names.collect::<Result<BTreeSet<String>>>()?;
    let check = |holds: &dyn Fn(&Shown, bool) -> bool| -> Result<()> {
        let shown = partitions(at)?;
        let wrong: Vec<_> = shown.iter().filter(|one| !holds(one, on_sound_disk.contains(&one.name))).collect();
        ensure!(!shown.is_empty() && wrong.is_empty(), "{wrong:?}");
        Ok(())
    };
    let on_both = partitions(at)?.iter().filter(|shown| on_sound_disk.contains(&shown.name)).count();
    ensure!(on_both > 0, "no partition is on the sound disk: {on_sound_disk:?}");

    load.step("syncs of 2 s", || {
        disk.set(SLOW);
        sleep(Duration::from_secs(5));
        disk.set(DiskState::Works);
        load_in_sync(at)
    })?;
    let is_written = |one: &Shown| ["steady-", "transactions-"].iter().any(|topic| one.name.starts_with(topic));
    for (name, state, line) in [
        ("stall", DiskState::Stalled, "the log directory does not answer: its leaderships are given up"),
        ("full", DiskState::Full, "log directory full: refusing writes until there is room"),
        ("fail", DiskState::Failed, "the log directory is out of use until a restart"),
    ] {
        let hold = if state == DiskState::Stalled { AFTER_A_STALL } else { WITH_OTHER_LEADERS };
        // A full disk keeps what is read only.
        let gives_up = |one: &Shown, is_sound: bool| match is_sound {
            true => one.isr.contains(&1),
            false => one.leader != 1 || (state == DiskState::Full && !is_written(one)),
        };
        load.step(&format!("{name}, until others lead"), || {
            let began = Instant::now();
            disk.set(state);
            comes("others lead what is on the disk", began, || check(&gives_up))?;
            says(&cluster, Node::Broker(1), line)
        })?;
        // How long a partition stands still is shown, not asserted: clients back off. A request whose write was under
        // way when the disk stopped to answer waits for it (docs/operations.md).
        load.step(&format!("{name}, afterwards"), || {
            sleep(hold);
            check(&gives_up)
        })?;
        load.step(&format!("{name}, its end"), || {
            disk.set(DiskState::Works);
            if state == DiskState::Failed {
                check(&gives_up)?;
                cluster.bounce(Node::Broker(1))?;
            }
            load_in_sync(at)
        })?;
        load.wait_until_acknowledged()?;
    }
    load.finish(&cluster)
}

fn load_in_sync(at: &Access) -> Result<()> {
    let began = Instant::now();
    wait_in_sync(at)?;
    report(&format!("all in sync {:.2} s later", began.elapsed().as_secs_f64()));
    Ok(())
}

/// The quorum's leader has the bad disk. Another one leads while the disk is at fault.
#[test]
#[ignore = "a minute: make soak runs it"]
fn the_leading_coordinators_disk_is_slow_stalls_fills_and_fails() -> Result<()> {
    let (mut cluster, clients) = prepare(ClusterOptions::default(), 0)?;
    let mut disks = Vec::new();
    for id in 1..=3 {
        let Some(disk) = FaultyDisk::mount(&cluster.data_folder(Node::Coordinator(id))?)? else { return Ok(()) };
        disks.push(disk);
    }
    cluster.spawn_all()?;
    let mut load = Load::start(&cluster, &clients)?;
    for (name, state) in
        [("slow", SLOW), ("stall", DiskState::Stalled), ("fail", DiskState::Failed), ("full", DiskState::Full)]
    {
        load.step(name, || {
            let at = addresses(&cluster, &[1, 2, 3]);
            let id = wait::until_ok("a coordinator leads", || leader(&at))?;
            let disk = disks.get(usize::try_from(id)? - 1).context("its disk")?;
            let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
            let others = addresses(&cluster, &others);
            let began = Instant::now();
            disk.set(state);
            // The quorum writes: the one whose disk is at fault notices at the first entry.
            create_topic(&clients, &format!("during-{name}"))?;
            report(&format!("{name}: a topic was created {:.2} s after the fault", began.elapsed().as_secs_f64()));
            comes(&format!("{name}: another coordinator leads"), began, || {
                ensure!(leader(&others)? != id);
                Ok(())
            })?;
            create_topic(&clients, &format!("after-{name}"))?;
            let ends = matches!(state, DiskState::Failed | DiskState::Full);
            if ends {
                comes(&format!("{name}: the coordinator ends"), began, || {
                    ensure!(cluster.ended()? == [Node::Coordinator(id)]);
                    Ok(())
                })?;
                cluster.wait(Node::Coordinator(id))?;
                says(&cluster, Node::Coordinator(id), "this coordinator stops")?;
            } else {
                ensure!(cluster.ended()?.is_empty(), "{:?} ended", cluster.ended()?);
            }
            disk.set(DiskState::Works);
            if ends {
                cluster.spawn(Node::Coordinator(id))?;
            }
            let own = addresses(&cluster, &[id]);
            wait::until_ok("it follows", || leader(&own)).map(drop)
        })?;
    }
    load.finish(&cluster)
}

/// One fault of a disk after the other, drawn by the seed: which process, which fault, how long.
#[test]
fn random_faults_of_disks_lose_nothing() {
    seeded(3, random_faults);
}

/// Starts what has ended again: the one whose disk was at fault.
fn restart_ended(cluster: &mut Cluster, at_fault: Option<Node>) -> Result<()> {
    for ended in cluster.ended()? {
        ensure!(Some(ended) == at_fault, "{ended} ended, whose disk was good");
        cluster.wait(ended)?;
        report(&format!("{ended} ended and is started again"));
        cluster.spawn(ended)?;
    }
    Ok(())
}

fn random_faults(seed: u64) -> Result<()> {
    const FAULTS: usize = 5;
    report(&format!("disks, seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let (mut cluster, clients) = prepare(ClusterOptions::default(), seed)?;
    let mut disks = Vec::new();
    for node in cluster.nodes() {
        let Some(disk) = FaultyDisk::mount(&cluster.data_folder(node)?)? else { return Ok(()) };
        disks.push((node, disk));
    }
    cluster.spawn_all()?;
    let mut load = Load::start(&cluster, &clients)?;
    let mut last = None;
    for number in 0..FAULTS {
        let Some((node, disk)) = disks.get(random.random_range(0..disks.len())) else { continue };
        let state = match random.random_range(0..4) {
            0 => DiskState::Slow(Duration::from_millis(random.random_range(1_000..5_000))),
            1 => DiskState::Stalled,
            2 => DiskState::Failed,
            _ => DiskState::Full,
        };
        let time = Duration::from_millis(random.random_range(100..8_000));
        load.step(&format!("seed {seed}: {node}, {state:?} for {time:?}"), || {
            // It may have come to its end only after the last look.
            restart_ended(&mut cluster, last.replace(*node))?;
            disk.set(state);
            create_topic(&clients, &format!("during-{number}"))?;
            sleep(time);
            disk.set(DiskState::Works);
            restart_ended(&mut cluster, Some(*node))?;
            // A directory that failed is out of use until a restart.
            if matches!((node, state), (Node::Broker(_), DiskState::Failed)) {
                cluster.bounce(*node)?;
            }
            cluster.wait_ready()?;
            wait_in_sync(&clients.operator)
        })?;
    }
    load.finish(&cluster)
}
