//! Links that are cut in one direction, lose a third of the packets, are slow, out of order, or silent without a reset
//! (half-open connections), under a producer with acks=all, a group that reads, and transactions. No record may be
//! missing, twice or out of order; no transaction may be torn. Standard error shows how long clients waited; no test
//! asserts a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_chaos::{Link, Load, Network, Place, networked_cluster, partitions, report, seeded, wait_in_sync};
use ottla_e2e::quorum::{addresses, leader};
use ottla_e2e::{Cluster, Node, wait};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Longer than a broker's session and the quorum's elections.
const FAULT: Duration = Duration::from_secs(5);
const BROKER: Place = Place::Node(Node::Broker(1));
const ALL: fn(Place) -> bool = |_| true;

fn is_coordinator(place: Place) -> bool {
    matches!(place, Place::Node(Node::Coordinator(_)))
}

fn is_broker(place: Place) -> bool {
    matches!(place, Place::Node(Node::Broker(_)))
}

/// A fault of links for some time, and the return: all processes live, and every replica comes back into its ISR.
fn suffers(
    (cluster, network, load): (&mut Cluster, &Network, &mut Load<'_>),
    name: &str,
    time: Duration,
    fault: impl FnOnce() -> Result<()>,
) -> Result<()> {
    load.step(name, || {
        fault()?;
        sleep(time);
        Ok(())
    })?;
    network.heal();
    let clients = load.clients();
    load.step("all links work again", || {
        ensure!(cluster.ended()?.is_empty(), "{:?} ended", cluster.ended()?);
        cluster.wait_ready()?;
        wait_in_sync(&clients.operator)
    })?;
    Ok(())
}

fn quorum_leader(cluster: &Cluster) -> Result<Place> {
    let id = wait::until_ok("a coordinator leads", || leader(&addresses(cluster, &[1, 2, 3])))?;
    Ok(Node::Coordinator(id).into())
}

#[test]
#[ignore = "a minute: make soak runs it"]
fn links_of_a_broker_are_cut_silent_lossy_and_slow() -> Result<()> {
    let Some((mut cluster, clients, network)) = networked_cluster(1)? else { return Ok(()) };
    let mut load = Load::start(&cluster, &clients)?;
    let mut suffers = |name: &str, fault: &dyn Fn()| {
        suffers((&mut cluster, &network, &mut load), name, FAULT, || {
            fault();
            Ok(())
        })
    };
    suffers("broker 1 hears nothing of the coordinators", &|| {
        for place in network.places().into_iter().filter(|place| is_coordinator(*place)) {
            network.set(place, BROKER, Link::CUT);
        }
    })?;
    suffers("the coordinators hear nothing of broker 1", &|| {
        for place in network.places().into_iter().filter(|place| is_coordinator(*place)) {
            network.set(BROKER, place, Link::CUT);
        }
    })?;
    suffers("brokers 1 and 2 are cut from each other", &|| {
        network.set_both(BROKER, |place| place == Node::Broker(2).into(), Link::CUT);
    })?;
    suffers("broker 1 is silent: its connections are half-open", &|| network.set_both(BROKER, ALL, Link::CUT))?;
    suffers("broker 1 loses 30 %", &|| network.set_both(BROKER, ALL, Link::lossy(0.3)))?;
    suffers("broker 1 is 300 ms away, out of order", &|| {
        network.set_both(BROKER, ALL, Link::slow(Duration::from_millis(300), Duration::from_millis(50)));
    })?;
    load.finish(&cluster)
}

#[test]
#[ignore = "a minute: make soak runs it"]
fn links_of_the_leading_coordinator_are_cut_silent_lossy_and_slow() -> Result<()> {
    let Some((mut cluster, clients, network)) = networked_cluster(2)? else { return Ok(()) };
    let mut load = Load::start(&cluster, &clients)?;
    let faults: [(&str, &dyn Fn(Place)); 6] = [
        ("others hear nothing of the leader", &|leader| {
            for place in network.places().into_iter().filter(|place| *place != leader) {
                network.set(leader, place, Link::CUT);
            }
        }),
        ("the leader hears nothing of the others", &|leader| {
            for place in network.places().into_iter().filter(|place| *place != leader) {
                network.set(place, leader, Link::CUT);
            }
        }),
        ("the leader is silent to brokers", &|leader| network.set_both(leader, is_broker, Link::CUT)),
        ("the leader is silent", &|leader| network.set_both(leader, ALL, Link::CUT)),
        ("the leader loses 30 %", &|leader| network.set_both(leader, ALL, Link::lossy(0.3))),
        ("the leader is 300 ms away, out of order", &|leader| {
            network.set_both(leader, ALL, Link::slow(Duration::from_millis(300), Duration::from_millis(50)));
        }),
    ];
    for (name, fault) in faults {
        let leader = quorum_leader(&cluster)?;
        suffers((&mut cluster, &network, &mut load), name, FAULT, || {
            fault(leader);
            Ok(())
        })?;
    }
    load.finish(&cluster)
}

/// No broker reaches the leader of the quorum, which its peers reach: another coordinator leads before a broker is
/// fenced, and the partitions keep their leaders for as long as the cut lasts.
#[test]
#[ignore = "half a minute: make soak runs it"]
fn the_leader_of_the_quorum_is_cut_from_all_brokers() -> Result<()> {
    const CUT: Duration = Duration::from_secs(15);
    let Some((mut cluster, clients, network)) = networked_cluster(4)? else { return Ok(()) };
    let mut load = Load::start(&cluster, &clients)?;
    // After a change of leaders nothing is handed over for a session's length.
    sleep(FAULT);
    let at = addresses(&cluster, &[1, 2, 3]);
    let before = leader(&at)?;
    let led = partitions(&clients.operator)?;
    suffers((&mut cluster, &network, &mut load), "the leader is silent to brokers", CUT, || {
        let began = Instant::now();
        network.set_both(Node::Coordinator(before).into(), is_broker, Link::CUT);
        wait::until_ok("another coordinator leads", || {
            let now = leader(&at)?;
            ensure!(now != before, "coordinator {now} leads");
            Ok(())
        })?;
        report(&format!("another coordinator leads after {:.2} s", began.elapsed().as_secs_f64()));
        Ok(())
    })?;
    ensure!(leader(&at)? != before, "the return of the links changes nothing");
    for node in [1, 2, 3].map(Node::Coordinator) {
        let log = cluster.log_text(node)?;
        ensure!(!log.contains("is fenced"), "{node} has fenced a broker:\n{log}");
    }
    let now = partitions(&clients.operator)?;
    ensure!(now == led, "leaders or ISRs changed: {led:?} became {now:?}");
    load.finish(&cluster)
}

/// Faults of links drawn by the seed, one after the other.
#[test]
fn random_faults_of_links_lose_nothing() {
    seeded(0, random_faults);
}

fn random_faults(seed: u64) -> Result<()> {
    const FAULTS: usize = 5;
    report(&format!("links, seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let Some((mut cluster, clients, network)) = networked_cluster(seed)? else { return Ok(()) };
    let mut load = Load::start(&cluster, &clients)?;
    let servers: Vec<Place> = network.places().into_iter().filter(|place| *place != Place::Clients).collect();
    for _ in 0..FAULTS {
        let place = *servers.get(random.random_range(0..servers.len())).context("a place")?;
        let link = match random.random_range(0..3) {
            0 => Link::CUT,
            1 => Link::lossy(random.random_range(0.05..0.35)),
            _ => {
                let [delay, jitter] = [(); 2].map(|()| Duration::from_millis(random.random_range(1..400)));
                Link::slow(delay, jitter)
            }
        };
        // Each other host with even chances, to it, from it, or both.
        let mut links = Vec::new();
        for other in network.places().into_iter().filter(|other| *other != place) {
            match random.random_range(0..6) {
                0 => links.push((place, other)),
                1 => links.push((other, place)),
                2 => links.extend([(place, other), (other, place)]),
                _ => {}
            }
        }
        let time = Duration::from_millis(random.random_range(500..8_000));
        let name = format!("seed {seed}: {link:?} of {links:?} for {time:?}");
        suffers((&mut cluster, &network, &mut load), &name, time, || {
            for (from, to) in links {
                network.set(from, to, link);
            }
            Ok(())
        })?;
    }
    load.finish(&cluster)
}
