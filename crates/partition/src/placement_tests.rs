//! The effects of a moving image on a broker's replicas.

use ottla_metadata::image::{BrokerRegistration, Endpoint, LeaderRecoveryState, LeaderSettings};
use ottla_metadata::{IsrMember, PartitionChange};
use ottla_model::{
    ControllerEpoch, IncarnationId, LeaderEpoch, ListenerName, Offset, PartitionEpoch, PartitionId, TimestampMs,
    TopicId,
};

use ottla_storage::env::FaultyEnv;

use super::*;

const LOCAL: BrokerId = BrokerId(3);
const EPOCH: BrokerEpoch = BrokerEpoch(30);

#[derive(Clone, PartialEq, Eq, Debug)]
struct TestLog(TopicPartition, LogFacts);

impl Found for TestLog {
    fn partition(&self) -> &TopicPartition {
        &self.0
    }

    fn facts(&self) -> LogFacts {
        self.1
    }

    fn awaits_room(&self) -> bool {
        self.1.reach.is_none() && !self.1.is_damaged
    }
}

fn name() -> TopicName {
    TopicName::new("t").expect("a name")
}

fn id(topic: u8) -> TopicIdPartition {
    TopicIdPartition { topic_id: TopicId([topic; 16]), partition: PartitionId(0) }
}

fn log(topic: u8, end: Option<i64>) -> TestLog {
    let reach = end.map(|end| (LeaderEpoch(1), Offset(end)));
    let facts = LogFacts {
        topic_id: Some(TopicId([topic; 16])),
        reach,
        log_start: Offset::ZERO,
        has_records: end.is_some_and(|end| end > 0),
        is_damaged: end.is_none(),
    };
    TestLog(TopicPartition::new(name(), PartitionId(0)), facts)
}

fn local(absent: AbsentLog) -> Local {
    Local { id: LOCAL, epoch: EPOCH, last_epoch: BrokerEpoch::NONE, absent, rules: BrokenRules::default() }
}

fn state(leader: i32, isr: &[IsrMember], elr: &[i32]) -> Arc<PartitionState> {
    Arc::new(PartitionState {
        leader: BrokerId(leader),
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(9),
        controller_epoch: ControllerEpoch(1),
        replicas: [1, 2, 3].map(BrokerId).to_vec(),
        reassignment: None,
        isr: isr.to_vec(),
        elr: elr.iter().copied().map(BrokerId).collect(),
        offline: vec![],
        last_known_elr: vec![],
        last_known_leader: BrokerId::NONE,
        leader_recovery_state: LeaderRecoveryState::Recovered,
    })
}

fn member(broker: i32, epoch: i64) -> IsrMember {
    IsrMember { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) }
}

fn change(topic: u8, new: Option<&Arc<PartitionState>>) -> PartitionChange {
    let id = id(topic);
    PartitionChange { topic: name(), topic_id: id.topic_id, partition: id.partition, old: None, new: new.cloned() }
}

fn delta(partitions: Vec<PartitionChange>) -> Delta {
    Delta { partitions, ..Delta::default() }
}

/// A broker that has loaded its image, with one replica in this state.
fn placed(
    absent: AbsentLog,
    found: Vec<TestLog>,
    state: &Arc<PartitionState>,
) -> (Replicas<TestLog>, Vec<Placement<TestLog>>) {
    let mut replicas = Replicas::default();
    found.into_iter().for_each(|log| replicas.add_found(log));
    replicas.is_current = true;
    let mut placed = Vec::new();
    replicas.place(&local(absent), absent, id(1), &name(), state, &mut placed);
    (replicas, placed)
}

#[test]
fn scenario_33_a_last_member_that_is_elected_again_does_not_begin_an_empty_log() {
    let absent = AbsentLog::DirectoryReplaced;
    let (mut replicas, _) = placed(absent, vec![], &state(-1, &[member(3, 20)], &[]));
    assert_eq!(replicas.impaired(Impairment::Lost), [id(1)]);
    // The controller elected it as the last member, under its new registration.
    let elected = replicas.apply(&local(absent), &delta(vec![change(1, Some(&state(3, &[member(3, 30)], &[])))]));
    assert!(matches!(&elected[..], [Placement::Assume { .. }]), "{elected:?}");
    assert!(!replicas.may_claim_replaced(), "a start from now on finds it so again");
    let marked =
        replicas.apply(&local(absent), &delta(vec![change(1, Some(&state(-1, &[IsrMember::lost(LOCAL)], &[])))]));
    assert!(
        matches!(&marked[..], [Placement::Assume { .. }, Placement::StartOver(over)] if *over == id(1)),
        "{marked:?}"
    );
    assert!(replicas.may_claim_replaced());
}

#[test]
fn scenario_34_a_damaged_log_is_set_aside_once_the_quorum_does_not_count_on_it() {
    let absent = AbsentLog::NeverMade;
    let (mut replicas, _) = placed(absent, vec![log(1, None)], &state(1, &[member(1, 10)], &[3]));
    assert_eq!(
        (replicas.impaired(Impairment::Unreadable), replicas.unopened(&id(1))),
        (vec![id(1)], Some(&log(1, None)))
    );
    let over = replicas.apply(&local(absent), &delta(vec![change(1, Some(&state(1, &[member(1, 10)], &[])))]));
    let expected = |placed: &[Placement<TestLog>]| {
        matches!(
            placed,
            [Placement::Assume { .. }, Placement::SetAside(aside), Placement::StartOver(_)] if *aside == log(1, None)
        )
    };
    assert!(expected(&over), "{over:?}");
    assert!(replicas.impaired(Impairment::Unreadable).is_empty());
}

#[test]
fn scenario_43_a_log_that_awaited_room_becomes_the_replicas() {
    let unopened = |topic| {
        let TestLog(partition, facts) = log(topic, None);
        TestLog(partition, LogFacts { is_damaged: false, ..facts })
    };
    let led = state(3, &[member(3, 20)], &[1]);
    let (mut replicas, begun) = placed(AbsentLog::NeverMade, vec![unopened(1)], &led);
    assert!(matches!(&begun[..], [Placement::Place { log: Place::Offline(_), .. }]), "{begun:?}");
    let awaiting = |replicas: &Replicas<TestLog>| replicas.awaiting_room().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!((awaiting(&replicas), replicas.impaired(Impairment::Unwritable)), (vec![id(1)], vec![id(1)]));
    assert!(replicas.impaired(Impairment::Unreadable).is_empty());
    // Refused again.
    assert_eq!((replicas.opened_again(&id(1), unopened(1)), awaiting(&replicas)), (None, vec![id(1)]));
    assert_eq!(replicas.opened_again(&id(1), log(1, Some(5))), Some(log(1, Some(5))));
    assert!(awaiting(&replicas).is_empty() && replicas.impaired(Impairment::Unwritable).is_empty());
    // It left meanwhile, or has a log.
    assert_eq!(replicas.opened_again(&id(2), log(2, Some(5))), None);
    assert_eq!(replicas.opened_again(&id(1), log(1, Some(5))), None);
}

#[test]
fn scenario_43_a_log_that_proves_damaged_when_there_is_room_is_as_any_damaged_one() {
    let TestLog(name, facts) = log(1, None);
    let unopened = TestLog(name, LogFacts { is_damaged: false, ..facts });
    let (mut replicas, _) = placed(AbsentLog::NeverMade, vec![unopened], &state(1, &[member(1, 10)], &[3]));
    assert_eq!(replicas.opened_again(&id(1), log(1, None)), None);
    assert_eq!(replicas.impaired(Impairment::Unreadable), [id(1)]);
    let over =
        replicas.apply(&local(AbsentLog::NeverMade), &delta(vec![change(1, Some(&state(1, &[member(1, 10)], &[])))]));
    assert!(matches!(over.last(), Some(Placement::StartOver(_))), "{over:?}");
}

#[test]
fn scenario_35_the_log_of_another_topic_is_set_aside() {
    let (_, placed) =
        placed(AbsentLog::NeverMade, vec![log(2, Some(900)), log(1, Some(5))], &state(1, &[member(1, 10)], &[]));
    let expected = |placed: &[Placement<TestLog>]| {
        matches!(placed, [Placement::SetAside(other), Placement::Place { log: Place::Found(own), .. }]
            if *other == log(2, Some(900)) && *own == log(1, Some(5)))
    };
    assert!(expected(&placed), "{placed:?}");
}

#[test]
fn scenario_11_what_leaves_gives_its_name_free_first() {
    let absent = AbsentLog::NeverMade;
    let led = state(1, &[member(1, 10)], &[]);
    let (mut replicas, _) = placed(absent, vec![], &led);
    let made_again = replicas.apply(&local(absent), &delta(vec![change(0, Some(&led)), change(1, None)]));
    let expected = |placed: &[Placement<TestLog>]| {
        matches!(placed, [Placement::Remove { id: gone, .. }, Placement::Place { id: made, log: Place::New, .. }]
            if *gone == id(1) && *made == id(0))
    };
    assert!(expected(&made_again), "{made_again:?}");
}

#[test]
fn an_image_from_before_the_registration_places_nothing() {
    let mut replicas = Replicas::default();
    replicas.add_found(log(1, Some(5)));
    let placed = replicas.image_moved(&local(AbsentLog::NeverMade), &Image::empty(), &Delta::default());
    assert_eq!((placed.len(), replicas.found_len(), replicas.is_current()), (0, 1, false));
}

#[test]
fn logs_that_no_image_assigned_are_given_back() {
    let mut replicas = Replicas::default();
    replicas.add_found(log(1, Some(5)));
    replicas.add_found(log(2, Some(7)));
    replicas.add_found(TestLog(TopicPartition::new(name(), PartitionId(9)), log(1, Some(3)).1));
    assert_eq!(replicas.found_len(), 2, "two of them have one name");
    assert_eq!(replicas.take_found().len(), 3);
    assert_eq!(replicas.found_len(), 0);
}

#[test]
fn a_log_that_is_there_and_cannot_be_read_is_not_lost_with_its_directory() {
    let counted = state(1, &[member(1, 10)], &[3]);
    let (replicas, _) = placed(AbsentLog::DirectoryReplaced, vec![log(1, None)], &counted);
    assert_eq!(replicas.impaired(Impairment::Lost), []);
    assert_eq!(replicas.impaired(Impairment::Unreadable), [id(1)]);
    let (replicas, _) = placed(AbsentLog::DirectoryMissing, vec![], &counted);
    assert_eq!(replicas.impaired(Impairment::Lost), []);
    assert_eq!(replicas.impaired(Impairment::Unreadable), [id(1)]);
    assert!(replicas.is_current());
}

fn registration(epoch: i64, host: &str, ready: bool) -> BrokerRegistration {
    let listener = ListenerName::new("PLAINTEXT");
    BrokerRegistration {
        id: BrokerId(1),
        epoch: BrokerEpoch(epoch),
        incarnation: IncarnationId([1; 16]),
        endpoints: vec![Endpoint {
            listener: listener.clone(),
            host: host.to_owned(),
            port: 9092,
            security_protocol: "PLAINTEXT".to_owned(),
        }],
        inter_broker_listener: listener,
        rack: None,
        ready,
        shutting_down: false,
        awaits_clients: false,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
        registered_at: TimestampMs(0),
    }
}

#[test]
fn a_brokers_news_are_another_process_another_address_and_that_it_serves_again() {
    let known = registration(10, "a", true);
    let news = |old: Option<&BrokerRegistration>, new: Option<&BrokerRegistration>| {
        let change = BrokerChange { id: BrokerId(1), old: old.cloned().map(Arc::new), new: new.cloned().map(Arc::new) };
        let news = BrokerNews::of(LOCAL, &change);
        (news.is_other, news.became_active, news.has_left)
    };
    let no_news = (false, false, false);
    assert_eq!(news(None, Some(&known)), (true, true, false));
    assert_eq!(news(Some(&known), Some(&known)), no_news);
    assert_eq!(news(Some(&known), Some(&registration(10, "b", true))), (true, false, false));
    assert_eq!(news(Some(&known), Some(&registration(11, "a", true))), (true, true, false));
    assert_eq!(news(Some(&known), Some(&registration(11, "a", false))), (true, false, false));
    assert_eq!(news(Some(&registration(10, "a", false)), Some(&known)), (false, true, false));
    assert_eq!(news(Some(&known), Some(&registration(10, "a", false))), no_news);
    assert_eq!(news(Some(&known), None), (false, false, true));
    let none = BrokerNews { is_other: false, became_active: false, has_left: false };
    for new in [Some(Arc::new(known)), None] {
        assert_eq!(BrokerNews::of(LOCAL, &BrokerChange { id: LOCAL, old: None, new }), none);
    }
}

#[test]
fn new_logs_go_where_there_is_room() {
    let empty = DirectoryUse { is_failed: false, is_full: false, is_cordoned: false, partitions: 0 };
    let full = DirectoryUse { is_full: true, ..empty };
    let failed = DirectoryUse { is_failed: true, ..empty };
    let used = DirectoryUse { partitions: 7, ..empty };
    assert_eq!(directory_for_new_log([full, failed, used].into_iter()), Some(2));
    assert_eq!(directory_for_new_log([failed, full].into_iter()), Some(1));
    assert_eq!(directory_for_new_log([failed].into_iter()), None);
}

/// The image at the broker's registration: topic `t` (id 1) has one partition, with these replicas.
fn image_of(revision: u64, replicas: &[i32]) -> Image {
    use ottla_metadata::nodes::topic::TopicNode;
    use ottla_metadata::{Node, nodes};
    use ottla_model::Revision;

    let brokers: Vec<_> = replicas.iter().copied().map(BrokerId).collect();
    let assignment = vec![(PartitionId(0), brokers.into())];
    let topic = TopicNode { id: id(1).topic_id, assignment, grows_to: 0, queued: Default::default() };
    let node = |payload| Node { payload, created: Revision(5), modified: Revision(5), version: 0 };
    let tree = [
        (nodes::topic::path(&name()), node(nodes::topic::encode(&topic))),
        (
            nodes::partition::path(&name(), PartitionId(0)),
            node(nodes::partition::encode(&state(1, &[member(1, 10)], &[]))),
        ),
    ];
    Image::from_nodes(Revision(revision), tree.iter().map(|(path, node)| (path, node))).0
}

#[test]
fn scenario_49_the_log_of_a_partition_that_was_moved_away_is_deleted() {
    let loaded = |replicas: &[i32], found| {
        let mut placement = Replicas::default();
        placement.add_found(found);
        placement.image_moved(&local(AbsentLog::NeverMade), &image_of(30, replicas), &Delta::default())
    };
    let moved = loaded(&[1, 2], log(1, Some(100)));
    assert!(matches!(&moved[..], [Placement::Discard(old)] if *old == log(1, Some(100))), "{moved:?}");
    let of_another_topic = loaded(&[1, 2], log(2, Some(100)));
    assert!(matches!(&of_another_topic[..], [Placement::SetAside(_)]), "{of_another_topic:?}");
    let still_here = loaded(&[1, 3], log(1, Some(100)));
    assert!(matches!(&still_here[..], [Placement::Place { log: Place::Found(_), .. }]), "{still_here:?}");
}

/// The snapshot was older than the move: the replicas of before had deleted their logs, and now this one was deleted,
/// too.
#[test]
fn logs_that_a_restored_quorum_does_not_know_are_kept() {
    // From a snapshot that is older than what this broker has seen.
    let restored = REVISIONS_SKIPPED_BY_RESTORE + 5;
    let epoch = |revision: u64| BrokerEpoch(i64::try_from(revision).expect("small"));
    let loaded = |last_epoch| {
        let mut placement = Replicas::default();
        placement.add_found(log(1, Some(100)));
        let local = Local { epoch: epoch(restored), last_epoch, ..local(AbsentLog::NeverMade) };
        placement.image_moved(&local, &image_of(restored, &[1, 2]), &Delta::default())
    };
    let kept = loaded(EPOCH);
    assert!(matches!(&kept[..], [Placement::SetAside(old)] if *old == log(1, Some(100))), "{kept:?}");
    for last_epoch in [BrokerEpoch::NONE, epoch(restored - 5)] {
        let moved = loaded(last_epoch);
        assert!(matches!(&moved[..], [Placement::Discard(_)]), "{moved:?}");
    }
    // The same of a process that runs meanwhile.
    for (revision, expected) in [(31, Fate::Deleted), (restored, Fate::SetAside)] {
        let mut placement = Replicas::default();
        placement.add_found(log(1, Some(100)));
        let local = local(AbsentLog::NeverMade);
        placement.image_moved(&local, &image_of(30, &[1, 3]), &Delta::default());
        let gone = delta(vec![change(1, None)]);
        let left = placement.image_moved(&local, &image_of(revision, &[1, 2]), &gone);
        assert!(matches!(&left[..], [Placement::Remove { fate, .. }] if *fate == expected), "{left:?}");
    }
}

#[test]
fn a_replica_that_goes_and_comes_again_begins_anew() {
    let (mut replicas, _) = placed(AbsentLog::NeverMade, vec![log(1, Some(100))], &state(1, &[member(1, 10)], &[]));
    let gone = Arc::new(PartitionState { replicas: vec![BrokerId(1)], ..(*state(1, &[member(1, 10)], &[])).clone() });
    let left = replicas.apply(&local(AbsentLog::NeverMade), &delta(vec![change(1, Some(&gone))]));
    let is_left = matches!(&left[..], [Placement::Remove { id: removed, fate: Fate::Deleted }] if *removed == id(1));
    assert!(is_left, "{left:?}");
    let back = delta(vec![change(1, Some(&state(1, &[member(1, 10)], &[])))]);
    let again = replicas.apply(&local(AbsentLog::DirectoryReplaced), &back);
    assert!(matches!(&again[..], [Placement::Place { log: Place::New, .. }]), "{again:?}");
}

#[test]
fn a_quorum_was_restored_if_half_of_what_a_restore_skips_lies_between_two_revisions() {
    let half = REVISIONS_SKIPPED_BY_RESTORE / 2;
    assert!(is_restored(7, 7 + half) && !is_restored(7, 6 + half));
    assert!(!is_restored(0, 2 * half), "this broker has seen nothing before");
    assert!(!is_restored(half, 7), "revisions do not go back");
}

#[test]
fn the_next_image_is_loaded_whole_until_one_is_as_new_as_the_registration() {
    let mut replicas = Replicas::<TestLog>::default();
    let loads = |replicas: &Replicas<TestLog>, local, revision| {
        replicas.loads(BrokerEpoch(local), &image_of(revision, &[1, 2]))
    };
    assert!(!loads(&replicas, 30, 29) && loads(&replicas, 30, 30) && loads(&replicas, 30, 31));
    assert!(!loads(&replicas, BrokerEpoch::NONE.0, 30), "it is not registered");
    assert!(!replicas.may_claim_replaced(), "nothing is known yet");
    replicas.image_moved(&local(AbsentLog::NeverMade), &image_of(30, &[1, 2]), &Delta::default());
    assert!(replicas.is_current() && !loads(&replicas, 30, 31) && replicas.may_claim_replaced());
}

#[test]
fn a_replica_whose_newest_log_cannot_be_told_is_undecided() {
    let TestLog(partition, facts) = log(1, None);
    let unreadable = TestLog(partition, LogFacts { is_damaged: false, ..facts });
    let counted = state(1, &[member(1, 10)], &[]);
    let (replicas, begun) = placed(AbsentLog::NeverMade, vec![log(1, Some(5)), unreadable.clone()], &counted);
    assert!(matches!(&begun[..], [Placement::Place { log: Place::Offline(AbsentLog::NeverMade), .. }]), "{begun:?}");
    assert_eq!(replicas.undecided().collect::<Vec<_>>(), [id(1)]);
    assert!(replicas.is_undecided(id(1)) && !replicas.is_undecided(id(2)));
    assert_eq!(replicas.unopened(&id(1)), Some(&unreadable));
    assert_eq!(replicas.awaiting_room().count(), 0, "the other log may be the one");
    // With one log there is nothing to decide.
    let (alone, _) = placed(AbsentLog::NeverMade, vec![unreadable], &counted);
    assert_eq!((alone.undecided().count(), alone.awaiting_room().count()), (0, 1));
    assert!(!alone.is_undecided(id(1)));
}

#[test]
fn of_a_broker_that_serves_the_epoch_is_eligible() {
    let image_with = |ready| {
        let known = registration(10, "a", ready);
        let node = ottla_metadata::Node {
            payload: ottla_metadata::nodes::broker::encode(&known),
            created: Revision(10),
            modified: Revision(10),
            version: 0,
        };
        let path = ottla_metadata::nodes::broker::path(known.id);
        Image::from_nodes(Revision(30), [(&path, &node)]).0
    };
    assert_eq!(eligible_epoch(&image_with(true), BrokerId(1)), Some(BrokerEpoch(10)));
    assert_eq!(eligible_epoch(&image_with(true), BrokerId(2)), None);
    assert_eq!(eligible_epoch(&image_with(false), BrokerId(1)), None);
}

#[test]
fn a_log_is_where_it_was_found_or_in_a_missing_directory_or_goes_to_the_least_used_one() {
    type Log = FoundLog<FaultyEnv, u32>;
    let found = || Log {
        partition: TopicPartition::new(name(), PartitionId(0)),
        topic_id: Some(TopicId([1; 16])),
        directory: 1,
        log: None,
        is_damaged: true,
        awaits_room: false,
        high_watermark: Offset(7),
    };
    let locate = |replicas: &Replicas<Log>, log: &Place<Log>, missing| {
        let location = replicas.locate(&id(1), log, || missing, || Some(5));
        (location.directory, location.high_watermark.0)
    };
    let mut replicas = Replicas::default();
    assert_eq!(locate(&replicas, &Place::Found(found()), Some(3)), (Some(1), 7));
    assert_eq!(locate(&replicas, &Place::New, Some(3)), (Some(5), 0));
    let missing = Place::Offline(AbsentLog::DirectoryMissing);
    assert_eq!(locate(&replicas, &missing, Some(3)), (Some(3), 0));
    assert_eq!(locate(&replicas, &missing, None), (Some(5), 0));
    assert_eq!(locate(&replicas, &Place::Offline(AbsentLog::DirectoryReplaced), Some(3)), (Some(5), 0));
    // It was found, and cannot be opened.
    replicas.add_found(found());
    let absent = AbsentLog::DirectoryMissing;
    replicas.place(&local(absent), absent, id(1), &name(), &state(3, &[member(3, 30)], &[]), &mut Vec::new());
    assert_eq!(locate(&replicas, &missing, Some(3)), (Some(1), 7));
}

/// Whatever cannot serve any more is given up by the image, partition by partition.
#[test]
fn places_are_given_up_where_the_image_counts_on_them() {
    use ottla_metadata::controller::ResignReason;

    let image = image_of(30, &[1, 3]);
    let unknown = TopicIdPartition { partition: PartitionId(7), ..id(1) };
    let given = |local, impairment| {
        crate::places_to_give_up(local, &image, [id(1), unknown], impairment, BrokenRules::default())
    };
    // Broker 1 leads, and is the last member of the ISR.
    let led = Some((ResignReason::Offline, vec![id(1)]));
    assert_eq!(given(BrokerId(1), Impairment::Unreadable), led);
    assert_eq!(given(BrokerId(1), Impairment::Unwritable), None, "nobody could take its place");
    assert_eq!(given(BrokerId(1), Impairment::Lost), Some((ResignReason::Lost, vec![id(1)])));
    assert_eq!(given(LOCAL, Impairment::Lost), None, "it is in no ISR and no ELR");
}
