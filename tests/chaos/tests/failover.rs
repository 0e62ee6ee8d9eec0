//! The six ways in which a cluster loses processes, each under a steady acks=all producer.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ottla_chaos::{SteadyGroup, SteadyProducer, led_by_others, wait_for_preferred_leaders};
use ottla_e2e::{Cluster, ClusterOptions, Node};
use rustix::process::Signal;

const PARTITIONS: u32 = 6;
/// Time of writing before and after a fault.
const CALM: Duration = Duration::from_secs(2);

/// Whether processes show coordinators certificates, and have roles: in one run of four, always with OTTLA_SECURED=1,
/// never with OTTLA_SECURED=0.
fn is_secured() -> bool {
    match std::env::var("OTTLA_SECURED") {
        Ok(said) => said == "1",
        Err(_) => std::process::id().is_multiple_of(4),
    }
}

fn under_load(topic: &str, faults: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let is_secured = is_secured();
    let mut cluster = match is_secured {
        true => Cluster::start_secured(&ClusterOptions::default())?,
        false => Cluster::start()?,
    };
    let producer = SteadyProducer::start(&cluster, topic, PARTITIONS)?;
    sleep(CALM);
    faults(&mut cluster)?;
    sleep(CALM);
    let report = producer.finish()?;
    eprintln!("{topic}{}: {report:?}", if is_secured { ", OTTLA_SECURED=1" } else { "" });
    report.check()
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
fn a_broker_is_killed() -> Result<()> {
    under_load("killed-broker", |cluster| {
        for id in 1..=3 {
            kill_and_restart(cluster, &[Node::Broker(id)])?;
            cluster.wait_ready()?;
            sleep(CALM);
        }
        Ok(())
    })
}

#[test]
fn each_coordinator_is_killed_in_turn() -> Result<()> {
    under_load("killed-coordinators", |cluster| {
        for id in 1..=3 {
            kill_and_restart(cluster, &[Node::Coordinator(id)])?;
        }
        Ok(())
    })
}

/// For any leader, one of the three rounds kills it together with a broker that leads.
#[test]
fn a_coordinator_and_a_broker_are_killed_together() -> Result<()> {
    under_load("killed-pairs", |cluster| {
        for id in 1..=3 {
            kill_and_restart(cluster, &[Node::Coordinator(u64::try_from(id)?), Node::Broker(id)])?;
            cluster.wait_ready()?;
            sleep(CALM);
        }
        Ok(())
    })
}

#[test]
fn a_broker_stalls_and_goes_on() -> Result<()> {
    under_load("stalled-broker", |cluster| {
        cluster.signal(Node::Broker(1), Signal::STOP)?;
        sleep(Duration::from_secs(8));
        cluster.signal(Node::Broker(1), Signal::CONT)?;
        sleep(CALM);
        Ok(())
    })
}

#[test]
fn a_broker_is_terminated_and_comes_back() -> Result<()> {
    under_load("terminated-broker", |cluster| {
        for id in 1..=3 {
            cluster.signal(Node::Broker(id), Signal::TERM)?;
            let status = cluster.wait(Node::Broker(id))?;
            anyhow::ensure!(status.success(), "SIGTERM ends a broker with 0, not {status}");
            cluster.spawn(Node::Broker(id))?;
            cluster.wait_ready()?;
            sleep(CALM);
        }
        Ok(())
    })
}

#[test]
fn all_six_are_killed_at_once() -> Result<()> {
    under_load("killed-all", |cluster| {
        let nodes = cluster.nodes();
        cluster.kill_all()?;
        for node in nodes {
            cluster.spawn(node)?;
        }
        cluster.wait_ready()
    })
}

/// Members of a group, through librdkafka with its defaults, read while each broker is killed, stays away until they
/// wait for seconds before they connect to it again, and comes back. Standard error shows how long a record took to
/// the group at most, at each end and at each return until the broker leads again.
#[test]
fn readers_follow_a_broker_that_is_killed_and_comes_back() -> Result<()> {
    /// A client's waits between two attempts to connect have doubled five times.
    const AWAY: Duration = Duration::from_millis(3_500);
    const TOPIC: &str = "read-on";
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    let mut producer = SteadyProducer::start(&cluster, TOPIC, PARTITIONS)?;
    let mut group = SteadyGroup::start(&at, "readers", 2, &[TOPIC])?;
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
        wait_for_preferred_leaders(&at)?;
        let led_after = back.elapsed();
        sleep(CALM);
        let returned = end_period()?;
        eprintln!(
            "broker {id}: (group, producer) in seconds: killed {away:?}, back {returned:?}; it led again {:.1} s after \
             it was ready",
            led_after.as_secs_f64()
        );
    }
    ensure!(led_by_others(&at)? == 0, "leaders are balanced");
    producer.finish()?.check()?;
    let delivered = group.finish()?;
    ensure!(delivered.records > 0 && delivered.missing == 0 && delivered.out_of_order == 0, "{delivered:?}");
    Ok(())
}
