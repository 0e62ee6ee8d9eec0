//! The ways in which a cluster loses processes, each under a steady acks=all producer. The seed of a test tells whether
//! its cluster has security.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ottla_chaos::{Clients, SteadyGroup, SteadyProducer, led_by_others, seeded, start, wait_for_preferred_leaders};
use ottla_e2e::{Cluster, ClusterOptions, Node};
use rustix::process::Signal;

const PARTITIONS: u32 = 6;
/// Time of writing before and after a fault.
const CALM: Duration = Duration::from_secs(2);

fn under_load(seed: u64, topic: &str, faults: impl Fn(&mut Cluster) -> Result<()>) {
    seeded(seed, |seed| {
        let (mut cluster, clients) = start(ClusterOptions::default(), seed)?;
        let producer = SteadyProducer::start(&cluster, &clients, topic, PARTITIONS)?;
        sleep(CALM);
        faults(&mut cluster)?;
        sleep(CALM);
        let report = producer.finish()?;
        eprintln!("{topic}, security {:?}: {report:?}", clients.security());
        report.check()?;
        clients.check_denied(&cluster)
    });
}

fn kill_and_restart(cluster: &mut Cluster, nodes: &[Node]) -> Result<()> {
    for &node in nodes {
        cluster.signal(node, Signal::KILL)?;
    }
    for &node in nodes {
        cluster.wait(node)?;
    }
    sleep(CALM);
    for &node in nodes {
        cluster.spawn(node)?;
    }
    sleep(CALM);
    Ok(())
}

#[test]
fn a_broker_is_killed() {
    under_load(0, "killed-broker", |cluster| {
        for id in 1..=3 {
            kill_and_restart(cluster, &[Node::Broker(id)])?;
            cluster.wait_ready()?;
            sleep(CALM);
        }
        Ok(())
    });
}

#[test]
fn each_coordinator_is_killed_in_turn() {
    under_load(1, "killed-coordinators", |cluster| {
        for id in 1..=3 {
            kill_and_restart(cluster, &[Node::Coordinator(id)])?;
        }
        Ok(())
    });
}

/// For any leader, one of the three rounds kills it together with a broker that leads.
#[test]
fn a_coordinator_and_a_broker_are_killed_together() {
    under_load(3, "killed-pairs", |cluster| {
        for id in 1..=3 {
            kill_and_restart(cluster, &[Node::Coordinator(u64::try_from(id)?), Node::Broker(id)])?;
            cluster.wait_ready()?;
            sleep(CALM);
        }
        Ok(())
    });
}

#[test]
fn a_broker_stalls_and_goes_on() {
    under_load(2, "stalled-broker", |cluster| {
        cluster.signal(Node::Broker(1), Signal::STOP)?;
        sleep(Duration::from_secs(8));
        cluster.signal(Node::Broker(1), Signal::CONT)?;
        sleep(CALM);
        Ok(())
    });
}

#[test]
fn a_broker_is_terminated_and_comes_back() {
    under_load(4, "terminated-broker", |cluster| {
        for id in 1..=3 {
            cluster.signal(Node::Broker(id), Signal::TERM)?;
            let status = cluster.wait(Node::Broker(id))?;
            anyhow::ensure!(status.success(), "SIGTERM ends a broker with 0, not {status}");
            cluster.spawn(Node::Broker(id))?;
            cluster.wait_ready()?;
            sleep(CALM);
        }
        Ok(())
    });
}

#[test]
fn all_six_are_killed_at_once() {
    under_load(5, "killed-all", |cluster| {
        let nodes = cluster.nodes();
        cluster.kill_all()?;
        for node in nodes {
            cluster.spawn(node)?;
        }
        cluster.wait_ready()
    });
}

/// Members of a group, through librdkafka with its defaults, read while each broker is killed, stays away until they
/// wait for seconds before they connect to it again, and comes back. Standard error shows how long a record took to
/// the group at most, at each end and at each return until the broker leads again.
#[test]
fn readers_follow_a_broker_that_is_killed_and_comes_back() {
    seeded(6, readers_follow);
}

fn readers_follow(seed: u64) -> Result<()> {
    /// A client's waits between two attempts to connect have doubled five times.
    const AWAY: Duration = Duration::from_millis(3_500);
    const TOPIC: &str = "read-on";
    let (mut cluster, clients) = start(ClusterOptions::default(), seed)?;
    let Clients { load, operator: at, .. } = &clients;
    let mut producer = SteadyProducer::start(&cluster, &clients, TOPIC, PARTITIONS)?;
    clients.allow(&cluster, &[], &["readers"], &[])?;
    let mut group = SteadyGroup::start(load, "readers", 2, &[TOPIC])?;
    sleep(CALM);
    let mut end_period = || Ok::<_, anyhow::Error>((group.end_period()?.seconds, producer.end_period()?.seconds));
    end_period()?;
    for id in 1..=3 {
        cluster.signal(Node::Broker(id), Signal::KILL)?;
        cluster.wait(Node::Broker(id))?;
        sleep(AWAY);
        let away = end_period()?;
        cluster.spawn(Node::Broker(id))?;
        cluster.wait_ready()?;
        let back = Instant::now();
        wait_for_preferred_leaders(at)?;
        let led_after = back.elapsed();
        sleep(CALM);
        let returned = end_period()?;
        eprintln!(
            "broker {id}: (group, producer) in seconds: killed {away:?}, back {returned:?}; it led again {:.1} s after \
             it was ready",
            led_after.as_secs_f64()
        );
    }
    ensure!(led_by_others(at)? == 0, "leaders are balanced");
    producer.finish()?.check()?;
    let delivered = group.finish()?;
    ensure!(delivered.records > 0 && delivered.missing == 0 && delivered.out_of_order == 0, "{delivered:?}");
    clients.check_denied(&cluster)
}
