//! ISR changes, elections, and the effects of an unclean shutdown.

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch};

use super::harness::*;
use crate::controller::work_queue::NEW_LEADERS_AWAITED_MAX;
use crate::controller::*;
use crate::image::{ConfigEntity, ConfigKind, Image, IsrMember, PartitionState};

/// Scenario 4: fetches of a follower's former incarnation make it look caught up.
#[test]
fn scenario_04_a_former_life_does_not_join_the_isr() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    let former = cluster.member(2);
    cluster.kill(2);
    assert_eq!(isr(&cluster.state("t", 0)), [1]);
    cluster.start(2);
    let leader = cluster.member(1);
    assert_eq!(cluster.alter_isr("t", vec![leader, former]), ErrorCode::IneligibleReplica);
    // Nor a new member whose epoch the leader does not know.
    let unknown = IsrMember { epoch: BrokerEpoch::NONE, ..former };
    assert_eq!(cluster.alter_isr("t", vec![leader, unknown]), ErrorCode::IneligibleReplica);
    let current = cluster.member(2);
    assert_eq!(cluster.alter_isr("t", vec![leader, current]), ErrorCode::None);
    assert_eq!(cluster.state("t", 0).isr, [leader, current]);
    // A current member may stay without an epoch.
    let unknown = vec![leader, unknown];
    assert_eq!(cluster.alter_isr("t", unknown), ErrorCode::None);
    assert_eq!(cluster.state("t", 0).isr, [leader, current]);
}

/// Scenario 4 with its rule switched off is detected.
#[test]
fn scenario_04_without_its_rule_lets_the_former_life_in() {
    let mut cluster = Cluster::with(|config| config.rules.any_broker_epoch_joins = true);
    cluster.start(1);
    cluster.start(2);
    cluster.create("t", &[&[1, 2]], &[]);
    let former = cluster.member(2);
    cluster.kill(2);
    cluster.start(2);
    let leader = cluster.member(1);
    assert_eq!(cluster.alter_isr("t", vec![leader, former]), ErrorCode::None);
}

/// Scenario 5: the leader brings in a broker that is being fenced, shuts down, or is not ready.
#[test]
fn scenario_05_fenced_leaving_and_unready_replicas_are_ineligible() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2, 3]], &[]);
    let all = [cluster.member(1), cluster.member(2), cluster.member(3)];
    assert_eq!(cluster.alter_isr("t", all[..1].to_vec()), ErrorCode::None);
    // In flight is enough: the fencing is decided, but not committed.
    cluster.stop_running(2);
    cluster.answer_probes();
    assert_eq!(cluster.proposals.len(), 1);
    assert_eq!(cluster.alter_isr("t", all[..2].to_vec()), ErrorCode::IneligibleReplica);
    let Registered { epoch, .. } = cluster.register(2, 77, BrokerEpoch::NONE).expect("registers");
    let unready = IsrMember { broker: BrokerId(2), epoch };
    assert_eq!(cluster.alter_isr("t", vec![all[0], unready]), ErrorCode::IneligibleReplica);
    let leaving = all[2];
    cluster.send(Request::ControlledShutdown(ControlledShutdown {
        broker: leaving.broker,
        epoch: leaving.epoch,
        incarnation: cluster.brokers[&leaving.broker.0].incarnation,
    }));
    assert_eq!(cluster.alter_isr("t", vec![all[0], leaving]), ErrorCode::IneligibleReplica);
    assert_eq!(isr(&cluster.state("t", 0)), [1]);
}

/// Scenario 6: the last in-sync replica crashes and returns; only it may lead, because no other replica has more
/// records.
#[test]
fn scenario_06_the_last_replica_standing_returns() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
    cluster.kill(2);
    cluster.kill(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId::NONE, vec![1], vec![]));
    assert_eq!(state.last_known_leader, BrokerId(1));
    // The other one was out of sync: it may not lead.
    cluster.start(2);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    let epoch = cluster.start(1);
    let back = cluster.state("t", 0);
    assert_eq!(back.leader, BrokerId(1));
    assert_eq!(back.isr, [IsrMember { broker: BrokerId(1), epoch }]);
    assert!(back.leader_epoch > state.leader_epoch);
}

fn acknowledged_by_both_then_one_alone() -> Cluster {
    cousin(Cluster::new())
}

/// ISR {1,2}; 2 is fenced and joins the ELR; 1 fails with its page cache.
fn cousin(mut cluster: Cluster) -> Cluster {
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.kill(2);
    let state = cluster.state("t", 0);
    assert_eq!((isr(&state), state.elr.clone()), (vec![1], ids(&[2])));
    cluster.kill(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId::NONE, vec![1], ids(&[2])));
    cluster
}

/// Scenario 6's cousin: the last member lost its tail, the one in the ELR has the record and must win.
#[test]
fn scenario_06_cousin_the_elr_wins_over_an_unclean_last_member() {
    // The unclean one returns first.
    let mut cluster = acknowledged_by_both_then_one_alone();
    let clean = cluster.brokers[&2].epoch;
    cluster.start(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.last_known_elr.clone()), (BrokerId::NONE, vec![2], ids(&[1])));
    let epoch = cluster.start_after(2, clean);
    assert_eq!(cluster.state("t", 0).isr, [IsrMember { broker: BrokerId(2), epoch }]);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));

    // The ELR member returns first: it leads, and the other is out when it returns.
    let mut cluster = acknowledged_by_both_then_one_alone();
    let clean = cluster.brokers[&2].epoch;
    cluster.start_after(2, clean);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId(2), vec![2], ids(&[1])));
    cluster.start(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId(2), vec![2], vec![]));
}

/// The variant with its rules switched off: the unclean broker leads, and the record is lost.
#[test]
fn scenario_06_cousin_without_its_rules_loses_the_record() {
    for taken_out in [
        BrokenRules { unclean_counts_as_clean: true, ..BrokenRules::default() },
        BrokenRules { unclean_sole_member_wins: true, ..BrokenRules::default() },
    ] {
        let mut cluster = cousin(Cluster::with(|config| config.rules = taken_out));
        cluster.start(1);
        assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
    }
}

/// The last member was only cut off: the same process returns, and nothing of its log is lost.
#[test]
fn the_same_incarnation_returns_as_clean() {
    let mut cluster = acknowledged_by_both_then_one_alone();
    let same = cluster.brokers[&1].incarnation.0[0];
    cluster.register(1, same, BrokerEpoch::NONE).expect("registers");
    cluster.beat(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId(1), vec![1], ids(&[2])));
}

/// Both members are down; the ELR member returns unclean: only the last ISR member may lead.
#[test]
fn an_unclean_elr_member_waits_for_the_last_member() {
    let mut cluster = acknowledged_by_both_then_one_alone();
    let clean = cluster.brokers[&1].epoch;
    cluster.start(2);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId::NONE, vec![1], vec![]));
    cluster.start_after(1, clean);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
}

#[test]
fn a_replaced_disk_does_not_lead_what_others_hold_too() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
    cluster.create("alone", &[&[1]], &[]);
    cluster.kill(2);
    cluster.kill(1);
    let empty = Register { cluster_id: None, ..cluster.registration(1, 99, BrokerEpoch::NONE) };
    let Answer::Register(Ok(registered)) = cluster.ask(Request::Register(empty)) else { panic!("refused") };
    cluster.joined(&registered, 99);
    cluster.beat(1);
    assert!(cluster.image.broker(BrokerId(1)).is_some_and(|broker| broker.ready));
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1));
}

/// ISR {1}, both down; 1 returns with an empty disk, and is ready.
fn wiped(mut cluster: Cluster) -> Cluster {
    cluster.start(1);
    cluster.start(2);
    cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
    cluster.create("alone", &[&[1]], &[]);
    cluster.kill(2);
    cluster.kill(1);
    let empty = Register { cluster_id: None, ..cluster.registration(1, 99, BrokerEpoch::NONE) };
    let Answer::Register(Ok(registered)) = cluster.ask(Request::Register(empty)) else { panic!("refused") };
    cluster.joined(&registered, 99);
    cluster.beat(1);
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1), "nobody else holds it");
    cluster
}

/// Scenario 33 (fault A3): the disk was replaced, and the broker restarts, stops cleanly, or is fenced and returns.
#[test]
fn scenario_33_a_replaced_disk_does_not_lead_after_another_restart_either() {
    let leader = |cluster: &Cluster| cluster.state("t", 0).leader;
    let mut cluster = wiped(Cluster::new());
    assert_eq!(leader(&cluster), BrokerId::NONE);
    // Killed and started again: by now its disk knows the cluster.
    cluster.kill(1);
    let epoch = cluster.start(1);
    assert_eq!(leader(&cluster), BrokerId::NONE, "after a second restart");
    // Stopped cleanly.
    cluster.kill(1);
    cluster.start_after(1, epoch);
    assert_eq!(leader(&cluster), BrokerId::NONE, "after a clean stop");
    // Fenced while it lived, by two quorum leaders: the same process registers again.
    cluster.change_leader();
    cluster.commit_all();
    cluster.kill(1);
    let same = cluster.brokers[&1].incarnation.0[0];
    cluster.register(1, same, BrokerEpoch::NONE).expect("registers");
    cluster.beat(1);
    assert_eq!(leader(&cluster), BrokerId::NONE, "after it was fenced");
    assert!(cluster.state("t", 0).is_sole_member(BrokerId(1)), "what it was in is remembered");
}

/// Scenario 7: an ISR change is refused with an error that tells the leader its next action.
#[test]
fn scenario_07_isr_changes_are_refused_with_kafkas_errors() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2, 3]], &[]);
    let [one, two, three] = [1, 2, 3].map(|id| cluster.member(id));
    let good = cluster.isr_request("t", vec![one, two]);
    let with = |change: &dyn Fn(&mut AlterPartition)| {
        let mut request = good.clone();
        change(&mut request.partitions[0]);
        request
    };
    let mut error = |request| {
        let (error, result) = cluster.alter(request);
        result.map_or(error, |result| result.error)
    };
    assert_eq!(error(AlterPartitions { epoch: BrokerEpoch(1), ..good.clone() }), ErrorCode::StaleBrokerEpoch);
    assert_eq!(error(AlterPartitions { broker: BrokerId(9), ..good.clone() }), ErrorCode::StaleBrokerEpoch);
    let follower = AlterPartitions { broker: two.broker, epoch: two.epoch, ..good.clone() };
    assert_eq!(error(follower), ErrorCode::InvalidRequest);
    assert_eq!(error(with(&|p| p.leader_epoch = LeaderEpoch(5))), ErrorCode::NotController);
    assert_eq!(error(with(&|p| p.partition_epoch = PartitionEpoch(5))), ErrorCode::NotController);
    assert_eq!(error(with(&|p| p.leader_epoch = LeaderEpoch(-1))), ErrorCode::FencedLeaderEpoch);
    assert_eq!(error(with(&|p| p.partition.topic_id.0[0] ^= 1)), ErrorCode::UnknownTopicId);
    assert_eq!(error(with(&|p| p.partition.partition.0 = 9)), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(error(with(&|p| p.isr = vec![two])), ErrorCode::InvalidRequest);
    assert_eq!(error(with(&|p| p.isr = vec![])), ErrorCode::InvalidRequest);
    assert_eq!(error(with(&|p| p.isr = vec![one, one])), ErrorCode::InvalidRequest);
    let nobody = IsrMember { broker: BrokerId(7), ..one };
    assert_eq!(error(with(&|p| p.isr = vec![one, nobody])), ErrorCode::InvalidRequest);
    // The shrink is made; another one from the same state comes too late.
    assert_eq!(error(good.clone()), ErrorCode::None);
    assert_eq!(error(with(&|p| p.isr = vec![one, three])), ErrorCode::InvalidUpdateVersion);
    cluster.kill(1);
    cluster.start(1);
    let (error, _) = cluster.alter(good);
    assert_eq!(error, ErrorCode::StaleBrokerEpoch);
}

/// Scenario 8: the answer got lost, the change was made: the same request again recognises it.
#[test]
fn scenario_08_a_retry_recognises_its_own_change() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2, 3]], &[]);
    let request = cluster.isr_request("t", vec![cluster.member(1), cluster.member(2)]);
    // Twice while in flight, once after it was committed.
    let pair = [
        cluster.send(Request::AlterPartitions(request.clone())),
        cluster.send(Request::AlterPartitions(request.clone())),
    ];
    assert_eq!(cluster.proposals.len(), 1);
    assert!(cluster.answers.is_empty(), "not before the change is committed");
    cluster.commit_all();
    for id in pair {
        let Some(Answer::AlterPartitions(altered)) = cluster.answers.remove(&id) else { panic!("no answer") };
        assert_eq!(altered.partitions[0].error, ErrorCode::None);
        assert_eq!(altered.partitions[0].partition_epoch, cluster.state("t", 0).partition_epoch);
        assert_eq!(altered.revision, cluster.image.revision());
    }
    cluster.change_leader();
    let (_, again) = cluster.alter(request);
    assert_eq!(again.map(|again| (again.error, again.isr)), Some((ErrorCode::None, ids(&[1, 2]))));
}

#[test]
fn resigning_hands_over_where_somebody_can_take_it() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.create("alone", &[&[1]], &[]);
    let me = cluster.member(1);
    let partitions = vec![cluster.id_of("t", 0), cluster.id_of("alone", 0)];
    let resign = ResignLeadership { broker: me.broker, epoch: me.epoch, partitions, reason: ResignReason::Stalled };
    let Answer::ResignLeadership(resigned) = cluster.ask(Request::ResignLeadership(resign.clone())) else {
        panic!("not the answer")
    };
    assert_eq!((resigned.error, resigned.revision), (ErrorCode::None, cluster.image.revision()));
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state)), (BrokerId(2), vec![2]));
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1));
    // A follower whose disk does not answer delays no acknowledgement either.
    cluster.create("u", &[&[2, 1]], &[]);
    let follows = ResignLeadership { partitions: vec![cluster.id_of("u", 0)], ..resign.clone() };
    cluster.ask(Request::ResignLeadership(follows));
    let state = cluster.state("u", 0);
    assert_eq!((state.leader, isr(&state)), (BrokerId(2), vec![2]));
    let stale = ResignLeadership { epoch: BrokerEpoch(1), ..resign };
    let answer = cluster.ask(Request::ResignLeadership(stale));
    assert!(matches!(answer, Answer::ResignLeadership(Resigned { error: ErrorCode::StaleBrokerEpoch, .. })));
}

/// The log on a failed disk must not count, however few replicas are left.
#[test]
fn a_lost_copy_is_no_candidate() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2, 3]], &[("min.insync.replicas", "3")]);
    let give_up = |cluster: &mut Cluster, id: i32, reason: ResignReason| {
        let me = cluster.member(id);
        let partitions = vec![cluster.id_of("t", 0)];
        let resign = ResignLeadership { broker: me.broker, epoch: me.epoch, partitions, reason };
        cluster.ask(Request::ResignLeadership(resign));
        cluster.state("t", 0)
    };
    let state = give_up(&mut cluster, 2, ResignReason::Stalled);
    assert_eq!((isr(&state), state.elr.clone()), (vec![1, 3], vec![BrokerId(2)]));
    let state = give_up(&mut cluster, 3, ResignReason::Offline);
    assert_eq!((isr(&state), state.elr.clone()), (vec![1], vec![BrokerId(2)]));
    // The last member's disk failed: the ELR has all committed records.
    let state = give_up(&mut cluster, 1, ResignReason::Offline);
    assert_eq!((state.leader, isr(&state), state.elr.clone()), (BrokerId(2), vec![2], vec![]));
    // The partitions that it leads alone: it stays in the ISR, without a leader, until it returns (fault B4).
    let state = give_up(&mut cluster, 2, ResignReason::Offline);
    assert_eq!((state.leader, isr(&state)), (BrokerId::NONE, vec![2]));
    assert!(state.is_offline(BrokerId(2), cluster.member(2).epoch));
    cluster.change_leader();
    cluster.commit_all();
    cluster.run(500);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE, "a new quorum leader knows it too");
    let epoch = cluster.member(2).epoch;
    cluster.kill(2);
    cluster.start_after(2, epoch);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2), "its directory is back");
}

/// Two replicas, both dead; 1 was last, 2 is in the ELR. The ELR member finds its log damaged (fault A4).
#[test]
fn an_elr_member_with_a_damaged_log_leaves_the_elr_before_it_makes_a_new_one() {
    let mut cluster = acknowledged_by_both_then_one_alone();
    let clean = cluster.brokers[&2].epoch;
    let last = cluster.brokers[&1].epoch;
    cluster.start_after(2, clean);
    // Broker 2 leads from the ELR as soon as it is back, and reports its damaged log at once.
    let state = resign(&mut cluster, 2, ResignReason::Lost);
    assert_eq!((state.leader, state.elr.clone()), (BrokerId::NONE, vec![]));
    assert_eq!(isr(&state), [1], "the one that was last");
    cluster.start_after(1, last);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
}

/// ISR {1}, ELR {2}: 1 cannot read its log. With 2 alive it yields at once; else as soon as 2 is back (fault A9).
#[test]
fn a_last_member_that_cannot_read_its_log_yields_to_the_elr() {
    for is_alive in [true, false] {
        let mut cluster = acknowledged_by_both_then_one_alone();
        let (one, two) = (cluster.brokers[&1].epoch, cluster.brokers[&2].epoch);
        cluster.start_after(1, one);
        assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
        if is_alive {
            cluster.start_after(2, two);
        }
        let state = resign(&mut cluster, 1, ResignReason::Offline);
        assert_eq!(state.has_leader(), is_alive);
        if !is_alive {
            cluster.start_after(2, two);
        }
        assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    }
}

fn resign(cluster: &mut Cluster, id: i32, reason: ResignReason) -> std::sync::Arc<crate::image::PartitionState> {
    let IsrMember { broker, epoch } = cluster.member(id);
    let partitions = vec![cluster.id_of("t", 0)];
    cluster.ask(Request::ResignLeadership(ResignLeadership { broker, epoch, partitions, reason }));
    cluster.state("t", 0)
}

/// If others hold the partition too, a replica with a lost log leads in no later incarnation; if it is the only one, it
/// leads.
#[test]
fn a_last_member_that_lost_its_log_does_not_lead() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
    cluster.create("alone", &[&[1]], &[]);
    cluster.kill(2);
    let state = resign(&mut cluster, 1, ResignReason::Lost);
    assert_eq!((state.leader, isr(&state)), (BrokerId::NONE, vec![1]));
    let IsrMember { broker, epoch } = cluster.member(1);
    let partitions = vec![cluster.id_of("alone", 0)];
    let lost = ResignLeadership { broker, epoch, partitions, reason: ResignReason::Lost };
    cluster.ask(Request::ResignLeadership(lost));
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1));
    cluster.kill(1);
    cluster.start_after(1, epoch);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1));
}

/// With its rule switched off, scenario 33 is detected.
#[test]
fn scenario_33_without_its_rule_lets_the_empty_log_lead() {
    let cluster = wiped(Cluster::with(|config| config.rules.lost_log_may_lead = true));
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
}

/// With their rule switched off, the damaged ELR member stays the leader (fault A4), and the last member does not leave
/// (A9).
#[test]
fn without_its_rule_a_log_that_cannot_be_read_leads_on() {
    let mut broken = Cluster::with(|config| config.rules.offline_log_may_lead = true);
    broken.start(1);
    broken.start(2);
    broken.create("t", &[&[1, 2]], &[]);
    broken.kill(2);
    assert_eq!(resign(&mut broken, 1, ResignReason::Offline).leader, BrokerId(1));
}

fn set_min_isr(cluster: &mut Cluster, entity: ConfigEntity, value: Option<&str>) {
    set_config(cluster, entity, "min.insync.replicas", value);
}

fn set_config(cluster: &mut Cluster, entity: ConfigEntity, name: &str, value: Option<&str>) {
    let changes = vec![(name.to_owned(), value.map(str::to_owned).into())];
    let entities = vec![AlterConfig { entity, changes, replace_all: false }];
    let answer = cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
    let Answer::AlterConfigs(outcomes) = answer else { panic!("not the answer") };
    assert_eq!(outcomes.entities[0].1, None);
}

/// From the change on the HW moves with one member: other replicas may lack records that are committed then.
#[test]
fn a_lower_min_isr_ends_the_elr() {
    for entity in [ConfigEntity::topic("t"), ConfigEntity::default_broker(), ConfigEntity::broker(BrokerId(1))] {
        let mut cluster = Cluster::of(2);
        cluster.create("t", &[&[1, 2]], &[]);
        cluster.kill(2);
        assert_eq!(cluster.state("t", 0).elr, ids(&[2]));
        set_min_isr(&mut cluster, entity, Some("1"));
        assert_eq!(cluster.state("t", 0).elr, []);
    }
}

/// A leader that has not read the higher min ISR yet still moves its HW by the lower one.
#[test]
fn a_higher_min_isr_feeds_the_elr_once_the_leader_knows_it() {
    for leader_follows in [false, true] {
        let mut cluster = Cluster::of(2);
        cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
        cluster.brokers.get_mut(&1).expect("is there").follows = leader_follows;
        set_min_isr(&mut cluster, ConfigEntity::topic("t"), Some("2"));
        cluster.beat(1);
        cluster.kill(2);
        let expected = if leader_follows { ids(&[2]) } else { vec![] };
        assert_eq!((isr(&cluster.state("t", 0)), cluster.state("t", 0).elr.clone()), (vec![1], expected));
    }
}

/// A leader loses its power unnoticed, its own configuration changes, its follower ends: the follower must stay
/// eligible, since it alone has what was acknowledged.
#[test]
fn another_configuration_leaves_it_known_which_min_isr_the_leader_has() {
    let broker = ConfigEntity::broker(BrokerId(1));
    for (entity, name) in [(broker, "log.cleaner.threads"), (ConfigEntity::topic("t"), "retention.ms")] {
        let mut cluster = Cluster::of(2);
        cluster.create("t", &[&[1, 2]], &[]);
        cluster.beat(1);
        cluster.brokers.get_mut(&1).expect("is there").follows = false;
        set_config(&mut cluster, entity, name, Some("2"));
        cluster.beat(1);
        cluster.kill(2);
        assert_eq!(cluster.state("t", 0).elr, ids(&[2]), "{name}");
    }
}

/// The same for a coordinator that starts later: the tree tells it when min.insync.replicas last changed.
#[test]
fn scenario_52_a_new_coordinator_knows_since_when_the_leader_has_its_min_isr() {
    let entities = [ConfigEntity::broker(BrokerId(1)), ConfigEntity::default_broker(), ConfigEntity::topic("t")];
    let elr_after = |entity: &ConfigEntity, is_set: bool, is_heard: bool, is_kept: bool| {
        let mut cluster = Cluster::with(|config| config.rules.min_insync_replicas_revision_is_not_kept = !is_kept);
        cluster.start(1);
        cluster.start(2);
        cluster.create("t", &[&[1, 2]], &[]);
        let other = if entity.kind == ConfigKind::Topics { "retention.ms" } else { "log.cleaner.threads" };
        set_config(&mut cluster, entity.clone(), other, Some("1"));
        if !is_heard {
            cluster.brokers.get_mut(&1).expect("is there").follows = false;
        }
        if is_set {
            set_min_isr(&mut cluster, entity.clone(), Some("2"));
        }
        cluster.beat(1);
        // The leader hears of no more than this.
        cluster.brokers.get_mut(&1).expect("is there").follows = false;
        set_config(&mut cluster, entity.clone(), other, Some("2"));
        set_config(&mut cluster, entity.clone(), other, None);
        cluster.change_leader_to_a_new_one();
        cluster.beat(1);
        cluster.beat(2);
        cluster.kill(2);
        assert_eq!(isr(&cluster.state("t", 0)), [1]);
        cluster.state("t", 0).elr.clone()
    };
    for entity in &entities {
        assert_eq!(elr_after(entity, false, true, true), ids(&[2]), "never set: {entity:?}");
        assert_eq!(elr_after(entity, true, true, true), ids(&[2]), "heard of: {entity:?}");
        assert_eq!(elr_after(entity, true, false, true), [], "not heard of: {entity:?}");
        assert_eq!(elr_after(entity, true, true, false), [], "the revision is not kept: {entity:?}");
    }
}

/// A change of another entry is proposed while that of min.insync.replicas is in flight: the latter's revision is not
/// known then, and must not be taken for one that the leader has heard of, nor for one that nobody ever hears of.
#[test]
fn a_min_isr_in_flight_counts_from_a_later_revision() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    let topic = ConfigEntity::topic("t");
    for (name, value) in [("retention.ms", "1"), ("min.insync.replicas", "2"), ("retention.ms", "2")] {
        let changes = vec![(name.to_owned(), ConfigOp::Set(value.to_owned()))];
        let entities = vec![AlterConfig { entity: topic.clone(), changes, replace_all: false }];
        cluster.send(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
    }
    let before = cluster.tree.revision();
    cluster.commit_all();
    let known_since = |cluster: &Cluster| {
        let config = cluster.image.config(&topic).expect("is there").clone();
        assert_eq!(Image::from_tree(&cluster.tree).config(&topic), Some(&config), "the tree alone tells it");
        config.min_insync_replicas_modified
    };
    let first = known_since(&cluster);
    assert!(first > before && first <= cluster.tree.revision(), "{first:?}");
    set_config(&mut cluster, topic.clone(), "retention.ms", Some("3"));
    assert_eq!(known_since(&cluster), first);
}

/// With its rule switched off a fenced broker becomes a leader, and a simulation's invariants must detect it.
#[test]
fn a_fenced_broker_that_stays_electable_is_elected() {
    let mut cluster = Cluster::with(|config| config.rules.fenced_stays_electable = true);
    cluster.start(1);
    cluster.start(2);
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.kill(2);
    cluster.kill(1);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    assert!(cluster.image.broker(BrokerId(2)).is_none());
}

/// Scenario 26: a broker with thousands of leaderships dies; the quorum leader changes in the middle.
#[test]
fn scenario_26_a_large_broker_dies_in_bounded_batches_and_a_leader_change_loses_none() {
    let mut cluster = Cluster::of(3);
    let partitions = 3_000;
    let replicas: &[i32] = &[1, 2, 3];
    cluster.create("large", &vec![replicas; partitions], &[]);
    cluster.largest_transaction = 0;
    cluster.stop_running(1);
    cluster.answer_probes();
    let moved = |cluster: &Cluster| {
        let topic = cluster.image.topic("large").expect("is there").clone();
        topic.partitions().filter(|(_, state)| state.leader == BrokerId(2) && !state.in_isr(BrokerId(1))).count()
    };
    // The first transaction takes the broker out, with as many partitions as fit.
    cluster.commit_one();
    assert!(cluster.image.broker(BrokerId(1)).is_none());
    assert_eq!(moved(&cluster), PARTITIONS_PER_TRANSACTION);
    cluster.commit_one();
    // A registration in between waits until nothing holds its predecessor.
    let register = Request::Register(cluster.registration(1, 88, BrokerEpoch::NONE));
    cluster.send(register.clone());
    cluster.change_leader();
    let id = cluster.send(register);
    cluster.commit_all();
    assert_eq!(moved(&cluster), partitions);
    assert!(matches!(cluster.answers.get(&id), Some(Answer::Register(Ok(_)))));
    assert!(cluster.largest_transaction <= PARTITIONS_PER_TRANSACTION + 8, "{}", cluster.largest_transaction);
}

/// A partition that a dead broker leads serves nobody; in one that it follows only writes with acks=all wait.
#[test]
fn leaderships_of_a_dead_broker_move_before_it_leaves_the_isrs_of_others() {
    const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
    const LED: usize = 2 * PARTITIONS_PER_TRANSACTION + 100;
    let mut cluster = Cluster::of(3);
    let (led, followed): (&[i32], &[i32]) = (&[1, 2, 3], &[2, 1, 3]);
    for name in TOPICS {
        // In whatever order the topics' ids are, some that it follows come before some that it leads.
        let of_topic = |replicas| std::iter::repeat_n(replicas, LED / TOPICS.len());
        cluster.create(name, &of_topic(led).chain(of_topic(followed)).collect::<Vec<_>>(), &[]);
    }
    cluster.stop_running(1);
    cluster.answer_probes();
    let count = |cluster: &Cluster, is_counted: &dyn Fn(&PartitionState) -> bool| {
        let topics = TOPICS.iter().filter_map(|name| cluster.image.topic(name));
        topics.flat_map(|topic| topic.partitions()).filter(|(_, state)| is_counted(state)).count()
    };
    for left in [LED - PARTITIONS_PER_TRANSACTION, LED - 2 * PARTITIONS_PER_TRANSACTION, 0] {
        cluster.commit_one();
        assert_eq!(count(&cluster, &|state| state.leader == BrokerId(1)), left);
        let shrunk = count(&cluster, &|state| state.preferred_leader() != BrokerId(1) && !state.in_isr(BrokerId(1)));
        // The last transaction of leaderships has room for others.
        let room = if left == 0 { 3 * PARTITIONS_PER_TRANSACTION - LED } else { 0 };
        assert_eq!(shrunk, room);
    }
    let in_isr = |cluster: &Cluster| count(cluster, &|state| state.in_isr(BrokerId(1)));
    let left = 2 * LED - 3 * PARTITIONS_PER_TRANSACTION;
    cluster.beat(2);
    assert_eq!(in_isr(&cluster), left, "broker 3 does not have all leaderships yet");
    cluster.beat(3);
    assert_eq!(in_isr(&cluster), 0);
}

/// Brokers 1 to 3 when 1 has died and all of its leaderships have moved; and how many ISRs still hold it. `follow`:
/// whether the images of the others will move.
fn with_large_fencing_under_way(follow: bool) -> (Cluster, usize) {
    const LED: usize = PARTITIONS_PER_TRANSACTION + 1;
    let mut cluster = Cluster::of(3);
    let (led, followed): (&[i32], &[i32]) = (&[1, 2, 3], &[2, 1, 3]);
    let assignments: Vec<_> = std::iter::repeat_n(led, LED).chain(std::iter::repeat_n(followed, LED)).collect();
    cluster.create("t", &assignments, &[]);
    (2..=3).for_each(|id| cluster.brokers.get_mut(&id).expect("is there").follows = follow);
    cluster.kill(1);
    (cluster, 2 * LED - 2 * PARTITIONS_PER_TRANSACTION)
}

fn held_by_the_dead_broker(cluster: &Cluster) -> usize {
    cluster.image.index.in_sync(BrokerId(1)).count()
}

#[test]
fn the_rest_of_a_large_fencing_waits_for_a_broker_that_lags_for_a_moment_only() {
    let (mut cluster, left) = with_large_fencing_under_way(false);
    assert_eq!(held_by_the_dead_broker(&cluster), left);
    let most = u64::try_from(NEW_LEADERS_AWAITED_MAX.as_millis()).expect("short");
    cluster.run(most - 2 * TICK_MS);
    assert_eq!(held_by_the_dead_broker(&cluster), left);
    cluster.run(3 * TICK_MS);
    assert_eq!(held_by_the_dead_broker(&cluster), 0);
}

#[test]
fn nothing_waits_for_the_rest_of_a_large_fencing_while_that_waits() {
    let (mut cluster, left) = with_large_fencing_under_way(true);
    assert_eq!(held_by_the_dead_broker(&cluster), left);
    let back = cluster.register(1, 200, BrokerEpoch::NONE);
    assert!(back.is_ok(), "{back:?}");
    assert_eq!(held_by_the_dead_broker(&cluster), 0);
    let (mut cluster, left) = with_large_fencing_under_way(true);
    assert_eq!(held_by_the_dead_broker(&cluster), left);
    cluster.kill(3);
    assert_eq!(held_by_the_dead_broker(&cluster), 0, "the fencing of another broker");
}

/// The last members of thousands of partitions return: bounded batches again.
#[test]
fn a_large_broker_returns_in_bounded_batches() {
    let mut cluster = Cluster::of(1);
    let replicas: &[i32] = &[1];
    cluster.create("large", &vec![replicas; 1_800], &[]);
    cluster.kill(1);
    assert_eq!(cluster.image.leaderless().count(), 1_800);
    cluster.largest_transaction = 0;
    cluster.start(1);
    assert_eq!(cluster.image.leaderless().count(), 0);
    assert!(cluster.largest_transaction <= PARTITIONS_PER_TRANSACTION);
}

#[test]
fn a_new_leader_elects_what_the_old_one_left() {
    let mut cluster = Cluster::of(1);
    cluster.create("t", &[&[1]], &[]);
    cluster.kill(1);
    let registered = cluster.register(1, 50, BrokerEpoch::NONE).expect("registers");
    // Ready is committed, the election is not.
    cluster.step(Input::StreamBeat {
        stream: StreamId(9_999),
        beat: Beat {
            broker: BrokerId(1),
            epoch: registered.epoch,
            incarnation: ottla_model::IncarnationId([50; 16]),
            image_revision: cluster.image.revision(),
        },
    });
    cluster.answer_probes();
    cluster.commit_one();
    assert!(cluster.image.broker(BrokerId(1)).is_some_and(|broker| broker.ready));
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    cluster.change_leader();
    cluster.commit_all();
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
}

/// It would be refused again at once, for ever.
#[test]
fn work_whose_batch_was_refused_goes_on_with_the_next_tick() {
    let mut cluster = Cluster::of(2);
    let both: &[i32] = &[1, 2];
    cluster.create("t", &vec![both; PARTITIONS_PER_TRANSACTION + 1], &[]);
    cluster.controller.work.is_refused = true;
    cluster.kill(1);
    let left = |cluster: &Cluster| cluster.image.index.in_sync(BrokerId(1)).count();
    assert!(left(&cluster) > 0, "nothing but the first batch is proposed before the next tick");
    cluster.tick();
    cluster.commit_all();
    assert_eq!(left(&cluster), 0);
}

/// Scenario 25: another entry comes in between; a decision that became invalid must not be answered as a success.
#[test]
fn scenario_25_a_refused_proposal_answers_nobody_with_success() {
    let mut cluster = Cluster::of(1);
    let epoch = cluster.brokers[&1].epoch;
    let allocate = Request::AllocateProducerIds(AllocateProducerIds { broker: BrokerId(1), epoch });
    let first = cluster.send(allocate.clone());
    let second = cluster.send(allocate.clone());
    // Raft lost the first. The second one expects its result, and is refused by every member.
    cluster.lose_one();
    cluster.commit_one();
    assert_eq!(cluster.answers.remove(&first), Some(Answer::Unavailable));
    assert_eq!(cluster.answers.remove(&second), Some(Answer::Unavailable));
    let Answer::AllocateProducerIds(Ok(block)) = cluster.ask(allocate) else { panic!("refused") };
    assert_eq!((block.first, block.count), (0, 1000));
}

/// A log that stalls will be whole again: it is not given up for one that may lack records.
#[test]
fn only_a_log_that_cannot_be_read_is_replaced_by_an_unclean_election() {
    for (reason, leader) in [(ResignReason::Stalled, 1), (ResignReason::Offline, 2)] {
        let mut cluster = Cluster::of(2);
        let configs = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
        cluster.create("t", &[&[1, 2]], &configs);
        let alone = vec![cluster.member(1)];
        cluster.alter_isr("t", alone);
        assert_eq!(resign(&mut cluster, 1, reason).leader, BrokerId(leader), "{reason:?}");
    }
}
