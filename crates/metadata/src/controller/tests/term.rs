//! What a controller tells of itself during its term and leaves at its end.

use ottla_model::{BrokerId, Revision, TimestampMs};

use super::harness::*;
use crate::controller::*;
use crate::image::Image;
use crate::liveness::Reached;
use crate::nodes;
use crate::transaction::{Change, Transaction};

#[test]
fn observers_are_the_brokers_with_a_stream_and_how_far_their_images_are() {
    let mut cluster = Cluster::of(3);
    cluster.stop_running(3);
    let behind = cluster.image.revision();
    cluster.brokers.get_mut(&2).expect("is there").follows = false;
    cluster.brokers.get_mut(&2).expect("is there").image_revision = behind;
    cluster.create("t", &[&[1]], &[]);
    cluster.now.wall.0 += 30;
    cluster.now.monotonic.0 += 30;
    cluster.beat(1);
    let observers = cluster.controller.observers(cluster.now);
    let seen: Vec<_> = observers.iter().map(|observer| (observer.id, observer.progress.end)).collect();
    assert_eq!(seen, [(BrokerId(1), cluster.image.revision()), (BrokerId(2), behind)]);
    let [first, second] = [observers[0].progress, observers[1].progress];
    assert_eq!((first.heard_at, first.caught_up_at), (cluster.now.wall, cluster.now.wall));
    assert!(second.heard_at <= cluster.now.wall && second.heard_at != TimestampMs::NONE);
    assert_eq!(second.caught_up_at, TimestampMs::NONE, "it has not seen the last change");
}

#[test]
fn a_broker_without_its_stream_is_unsettled_until_it_is_fenced() {
    let mut cluster = Cluster::of(2);
    assert!(!cluster.controller.is_unsettled());
    cluster.stop_running(1);
    assert!(cluster.controller.is_unsettled());
    cluster.answer_probes();
    cluster.commit_all();
    assert!(!cluster.controller.is_unsettled());
}

/// With the end of the leadership each of them has to be told.
#[test]
fn every_request_without_an_answer_is_outstanding() {
    let mut cluster = Cluster::of(2);
    assert_eq!(cluster.controller.outstanding(), []);
    cluster.stop_running(1);
    cluster.probes.clear();
    let challenge = cluster.send(Request::Register(cluster.registration(1, 200, ottla_model::BrokerEpoch::NONE)));
    let (epoch, incarnation) = (cluster.brokers[&2].epoch, cluster.brokers[&2].incarnation);
    let shutdown =
        cluster.send(Request::ControlledShutdown(ControlledShutdown { broker: BrokerId(2), epoch, incarnation }));
    let allocate = cluster.send(Request::AllocateProducerIds(AllocateProducerIds { broker: BrokerId(2), epoch }));
    let mut outstanding = cluster.controller.outstanding();
    outstanding.sort();
    assert_eq!(outstanding, [challenge, shutdown, allocate]);
    cluster.commit_all();
    assert!(!cluster.controller.outstanding().contains(&allocate));
}

/// A broker whose host dies with the quorum leader would otherwise keep its leaderships for a session timeout.
#[test]
fn the_next_term_knows_which_brokers_this_one_has_reached() {
    let mut cluster = Cluster::of(2);
    cluster.brokers.get_mut(&1).expect("is there").runs = false;
    let (tree, image) = (cluster.tree.clone(), (*cluster.image).clone());
    let next = |reached| Controller::new(cluster.now, cluster.config.clone(), tree.clone(), image.clone(), reached).0;
    let former = std::mem::replace(&mut cluster.controller, next(Reached::new()));
    cluster.controller = next(former.into_reached());
    cluster.run(350);
    assert!(cluster.image.broker(BrokerId(1)).is_none(), "its address refused the connection");
}

#[test]
fn the_log_names_who_came_who_went_and_why() {
    let mut cluster = Cluster::of(1);
    let epoch = cluster.brokers[&1].epoch;
    let has = |cluster: &Cluster, is_warning: bool, text: &str| {
        cluster.notes.iter().any(|note| note.is_warning == is_warning && note.text.contains(text))
    };
    assert!(has(&cluster, false, "broker 1 registers as incarnation"));
    assert!(has(&cluster, false, &format!("broker 1 is ready, in epoch {epoch}")));
    cluster.kill(1);
    assert!(has(&cluster, true, &format!("broker 1 (epoch {epoch}, ")), "{:?}", cluster.notes);
    assert!(has(&cluster, true, "is fenced: its stream has ended"));
}

/// A tree of another origin may name a broker that is gone as `/controller`, or none.
#[test]
fn a_new_term_names_a_live_controller() {
    let cluster = Cluster::of(2);
    let node = cluster.tree.get(&nodes::controller::path()).expect("is there").clone();
    let gone = nodes::controller::ControllerNode { broker: BrokerId(9), since: TimestampMs(0) };
    let payload = nodes::controller::encode(gone);
    for change in [
        Change::Delete { path: nodes::controller::path(), expected: node.version },
        Change::Set { path: nodes::controller::path(), payload, expected: node.version },
    ] {
        let mut tree = cluster.tree.clone();
        let revision = Revision(tree.revision().0 + 1);
        tree.apply(revision, &Transaction { changes: vec![change] }).expect("applies");
        let image = Image::from_tree(&tree);
        let (_, effects) = Controller::new(cluster.now, cluster.config.clone(), tree.clone(), image, Reached::new());
        for Proposal { transaction, .. } in &effects.proposals {
            tree.apply(Revision(tree.revision().0 + 1), transaction).expect("applies");
        }
        let repaired = Image::from_tree(&tree);
        assert_eq!(repaired.controller(), Some(BrokerId(1)));
        assert_eq!(repaired.controller_epoch(), cluster.image.controller_epoch().next());
    }
    let image = (*cluster.image).clone();
    let (_, effects) =
        Controller::new(cluster.now, cluster.config.clone(), cluster.tree.clone(), image, Reached::new());
    assert_eq!(effects.proposals, [], "a live one stays");
}
