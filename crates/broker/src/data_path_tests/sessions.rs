//! Fetch sessions, parked fetches, and who may fetch as what.

use std::sync::mpsc;

use bytes::Bytes;
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, IncarnationKey, LeaderEpoch, Offset, PartitionId};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, ForgottenTopic};
use ottla_protocol::record_batch::Batches;

use super::harness::{CLIENT, Cluster, INTERNAL, batch, fetch_of, only, partitions_of, topic_id, wanted};

const NEVER_MS: i32 = 60_000;

#[test]
fn an_incremental_answer_tells_only_what_changed() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 4, &[1], &[]);
    let opening =
        FetchRequest { session_epoch: 0, ..fetch_of(id, (0..4).map(|partition| wanted(partition, 0)).collect()) };
    let opened = broker.fetch(&opening);
    assert_eq!(partitions_of(&opened), [0, 1, 2, 3], "the first answer tells everything");
    let session = opened.session_id;
    assert_ne!(session, 0);
    let mut epoch = 0;
    let mut next = |partitions: Vec<FetchPartition>| {
        epoch += 1;
        FetchRequest { session_id: session, session_epoch: epoch, ..fetch_of(id, partitions) }
    };
    assert!(partitions_of(&broker.fetch(&next(vec![]))).is_empty(), "unchanged");
    broker.produce(TopicRef::Id(id), 2, &batch(&["a"]), 1, NEVER_MS);
    let changed = broker.fetch(&next(vec![]));
    assert_eq!(only(&changed).partition, PartitionId(2));
    assert!(only(&changed).records.is_some());
    assert_eq!(only(&broker.fetch(&next(vec![]))).partition, PartitionId(2), "not taken: told again");
    assert!(partitions_of(&broker.fetch(&next(vec![wanted(2, 1)]))).is_empty());
    let forgetting = FetchRequest {
        forgotten_topics: vec![ForgottenTopic { topic: TopicRef::Id(id), partitions: vec![PartitionId(2)] }],
        ..next(vec![])
    };
    broker.fetch(&forgetting);
    for partition in [2, 3] {
        broker.produce(TopicRef::Id(id), partition, &batch(&["b"]), 1, NEVER_MS);
    }
    assert_eq!(partitions_of(&broker.fetch(&next(vec![]))), [3], "what was forgotten is not told");
}

/// Scenario 17.
#[test]
fn scenario_17_sessions_are_not_mixed_up() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    let opened = broker.fetch(&FetchRequest { session_epoch: 0, ..fetch_of(id, vec![wanted(0, 0)]) });
    let ask =
        |session_id, session_epoch| broker.fetch(&FetchRequest { session_id, session_epoch, ..fetch_of(id, vec![]) });
    let other = opened.session_id ^ 1;
    assert_eq!(ask(other, 1).error, ErrorCode::FetchSessionIdNotFound);
    assert_eq!(ask(opened.session_id, 2).error, ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(ask(opened.session_id, 1).error, ErrorCode::None);
    assert_eq!(ask(opened.session_id, 1).error, ErrorCode::InvalidFetchSessionEpoch, "a request counts once");
    assert_eq!(ask(opened.session_id, -1).error, ErrorCode::None, "ends it");
    assert_eq!(ask(opened.session_id, 2).error, ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn a_parked_fetch_wakes_for_records_and_ends_for_the_next_request() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1], &[]);
    let waiting = FetchRequest { max_wait_ms: NEVER_MS, ..fetch_of(id, vec![wanted(0, 0), wanted(1, 0)]) };
    let mut parked = broker.begin_fetch(CLIENT, &waiting);
    assert!(!parked.is_ready());
    broker.produce(TopicRef::Id(id), 1, &batch(&["a"]), 1, NEVER_MS);
    let woken = parked.fetched();
    assert_eq!(partitions_of(&woken), [0, 1]);
    let with_records = woken.topics[0].partitions.iter().filter(|p| p.records.is_some()).count();
    assert_eq!(with_records, 1);

    let opened = broker.fetch(&FetchRequest { session_epoch: 0, ..fetch_of(id, vec![wanted(0, 0)]) });
    let session = |epoch, partitions| FetchRequest {
        session_id: opened.session_id,
        session_epoch: epoch,
        max_wait_ms: NEVER_MS,
        ..fetch_of(id, partitions)
    };
    let mut first = broker.begin_fetch(CLIENT, &session(1, vec![]));
    assert!(!first.is_ready());
    let mut second = broker.begin_fetch(CLIENT, &session(2, vec![wanted(1, 0)]));
    assert!(first.is_ready(), "the next request has something to say");
    assert!(partitions_of(&first.fetched()).is_empty());
    assert!(second.is_ready());
    assert_eq!(partitions_of(&second.fetched()), [1]);

    let mut timed = broker.begin_fetch(CLIENT, &FetchRequest { max_wait_ms: 10, ..session(3, vec![wanted(1, 1)]) });
    assert!(!timed.is_ready());
    assert_eq!(timed.fetched().error, ErrorCode::None);
}

#[test]
fn offsets_and_epochs_that_do_not_fit_are_told() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    broker.produce(TopicRef::Id(id), 0, &batch(&["a", "b"]), 1, NEVER_MS);
    let error = |partition: FetchPartition| only(&broker.fetch(&fetch_of(id, vec![partition]))).error;
    assert_eq!(error(wanted(0, 3)), ErrorCode::OffsetOutOfRange);
    assert_eq!(error(wanted(0, -5)), ErrorCode::OffsetOutOfRange);
    assert_eq!(error(wanted(7, 0)), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(
        error(FetchPartition { current_leader_epoch: LeaderEpoch(4), ..wanted(0, 0) }),
        ErrorCode::UnknownLeaderEpoch
    );
    let unknown = broker.fetch(&fetch_of(topic_id(5), vec![wanted(0, 0)]));
    assert_eq!(only(&unknown).error, ErrorCode::UnknownTopicId);
    // A batch that is larger than what was asked for comes whole, or a consumer would never pass it.
    let tiny = broker
        .fetch(&FetchRequest { max_bytes: 1, ..fetch_of(id, vec![FetchPartition { max_bytes: 1, ..wanted(0, 0) }]) });
    assert_eq!(only(&tiny).records.as_ref().map(|records| records.len()), Some(broker.log_bytes(id, 0).len()));
    cluster.quorum.elect("t", 0, 1, &[1]);
    assert_eq!(
        error(FetchPartition { current_leader_epoch: LeaderEpoch(0), ..wanted(0, 0) }),
        ErrorCode::FencedLeaderEpoch
    );
    let diverging = FetchPartition { last_fetched_epoch: LeaderEpoch(0), ..wanted(0, 2) };
    assert_eq!(error(diverging), ErrorCode::None);
}

/// Whoever is not a broker moves no high watermark and reads nothing above it, whatever it says.
#[test]
fn only_registered_brokers_fetch_as_replicas_and_only_among_brokers() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    let epoch = cluster.quorum.epoch_of(2);
    let follower = brokers.remove(1);
    let key = follower.incarnation_key();
    follower.kill();
    let leader = &brokers[0];
    leader.produce(TopicRef::Id(id), 0, &batch(&["a"]), 1, NEVER_MS);
    let claim = |listener: &str, replica: i32, epoch: BrokerEpoch, key: Option<&IncarnationKey>, offset| {
        let request = FetchRequest {
            replica_id: BrokerId(replica),
            replica_epoch: epoch,
            incarnation_key: key.cloned(),
            ..fetch_of(id, vec![wanted(0, offset)])
        };
        leader.begin_fetch(listener, &request).fetched()
    };
    // The id and the epoch of a broker are known to everybody, its key is not.
    let (right, wrong) = (Some(&key), Some(&IncarnationKey::random()));
    for (listener, replica, epoch, key, expected) in [
        (CLIENT, 2, epoch, right, ErrorCode::ClusterAuthorizationFailed),
        (INTERNAL, 2, epoch, None, ErrorCode::ClusterAuthorizationFailed),
        (INTERNAL, 2, epoch, wrong, ErrorCode::ClusterAuthorizationFailed),
        (INTERNAL, 2, BrokerEpoch(epoch.0 - 1), right, ErrorCode::StaleBrokerEpoch),
        (INTERNAL, 2, BrokerEpoch::NONE, right, ErrorCode::StaleBrokerEpoch),
        (INTERNAL, 9, epoch, right, ErrorCode::BrokerIdNotRegistered),
    ] {
        let refused = claim(listener, replica, epoch, key, 1);
        assert_eq!((refused.error, refused.topics.len()), (expected, 0), "{listener} {replica} {epoch} {key:?}");
        assert_eq!(leader.partition(id, 0).high_watermark(), Offset(0));
    }
    assert!(only(&claim(INTERNAL, 2, epoch, right, 0)).records.is_some());
    assert_eq!(leader.partition(id, 0).high_watermark(), Offset(0));
    claim(INTERNAL, 2, epoch, right, 1);
    assert_eq!(leader.partition(id, 0).high_watermark(), Offset(1));
}

/// The partitions that got records, in the answer's order, each with the number of whole batches.
fn served(response: &FetchResponse<Bytes>) -> Vec<(i32, usize)> {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions
        .filter_map(|partition| {
            let records = partition.records.as_ref().filter(|records| !records.is_empty())?;
            Some((partition.partition.0, Batches::new(records).map_while(Result::ok).count()))
        })
        .collect()
}

/// Scenario 39: each request names the busy partitions anew, as every client does.
#[test]
fn scenario_39_every_partition_of_a_session_gets_its_turn() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 8, &[1], &[]);
    let value = "x".repeat(4_000);
    for partition in 0..8 {
        for _ in 0..7 {
            broker.produce(TopicRef::Id(id), partition, &batch(&[&value]), 1, NEVER_MS);
        }
    }
    let (mut offsets, mut session) = ([0; 8], 0);
    let mut named: Vec<i32> = (0..8).collect();
    let mut turns = Vec::new();
    for epoch in 0..8 {
        let partitions =
            named.iter().map(|at| FetchPartition { max_bytes: 5_000, ..wanted(*at, offsets[*at as usize]) }).collect();
        let request =
            FetchRequest { session_id: session, session_epoch: epoch, max_bytes: 10_000, ..fetch_of(id, partitions) };
        let response = broker.fetch(&request);
        session = response.session_id;
        let served = served(&response);
        assert!(served.iter().all(|(_, whole)| *whole > 0), "answer {epoch}: {served:?}");
        served.iter().for_each(|(at, whole)| offsets[*at as usize] += *whole as i64);
        named = served.into_iter().map(|(at, _)| at).collect();
        turns.push(named.clone());
    }
    let round = [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7]];
    assert_eq!(turns, [round.clone(), round].concat());
}

/// Scenario 39: partition 1's next batch is larger than the fetch's limit for one partition while partition 0 always
/// has data.
#[test]
fn a_large_batch_behind_a_busy_partition_is_fetched() {
    let cluster = Cluster::new(&[]);
    let leader = cluster.start(1);
    let follower = cluster.start(2);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1, 2], &[]);
    let (small, large) = ("s".repeat(500), "l".repeat(9_000));
    leader.produce(TopicRef::Id(id), 1, &batch(&[&large]), 1, NEVER_MS);
    let (epoch, key) = (cluster.quorum.epoch_of(2), follower.incarnation_key());
    let replica = |session_epoch, session_id, partitions| {
        let request = FetchRequest {
            session_id,
            session_epoch,
            replica_id: BrokerId(2),
            replica_epoch: epoch,
            incarnation_key: Some(key.clone()),
            max_bytes: 100_000,
            ..fetch_of(id, partitions)
        };
        leader.begin_fetch(INTERNAL, &request).fetched()
    };
    let at = |partition, offset| FetchPartition {
        max_bytes: 1_000,
        current_leader_epoch: cluster.quorum.state("t", partition).leader_epoch,
        ..wanted(partition, offset)
    };
    drop(follower);
    leader.produce(TopicRef::Id(id), 0, &batch(&[&small]), 1, NEVER_MS);
    let opened = replica(0, 0, vec![at(0, 0), at(1, 0)]);
    assert_eq!(served(&opened), [(0, 1)], "no part of the large batch");
    leader.produce(TopicRef::Id(id), 0, &batch(&[&small]), 1, NEVER_MS);
    let next = replica(1, opened.session_id, vec![at(0, 1)]);
    assert_eq!(served(&next), [(1, 1), (0, 1)], "partition 0 has moved behind it");
}

/// What is there but does not fit makes an answer due, as in Kafka: waiting makes no room.
#[test]
fn a_fetch_does_not_wait_for_room() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 2, &[1], &[]);
    for partition in 0..2 {
        broker.produce(TopicRef::Id(id), partition, &batch(&[&"x".repeat(3_000)]), 1, NEVER_MS);
    }
    let request = FetchRequest {
        max_bytes: 5_000,
        min_bytes: 5_000,
        max_wait_ms: NEVER_MS,
        ..fetch_of(id, vec![wanted(0, 0), wanted(1, 0)])
    };
    let mut asked = broker.begin_fetch(CLIENT, &request);
    assert!(asked.is_ready());
    assert_eq!(served(&asked.fetched()), [(0, 1)]);
}

/// The lock was held until a disk answered when the session began: the session did not subscribe, and was never told of
/// the records that came later. Its consumer read nothing any more, with no error.
#[test]
fn a_session_that_begins_while_a_disk_stalls_is_told_of_later_records() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    let (disk_answers, answer) = mpsc::channel::<()>();
    let (stalls, stalling) = mpsc::channel::<()>();
    let partition = broker.partition(id, 0);
    let writer = std::thread::spawn(move || {
        partition.with_log(|_| {
            stalls.send(()).unwrap();
            answer.recv().unwrap();
        });
    });
    stalling.recv().unwrap();
    let opened = broker.fetch(&FetchRequest { session_epoch: 0, ..fetch_of(id, vec![wanted(0, 0)]) });
    assert_eq!(only(&opened).error, ErrorCode::KafkaStorageError);
    // Clients that do not know this error look for another leader (B10).
    let mut by_name = fetch_of(id, vec![wanted(0, 0)]);
    by_name.topics[0].topic = TopicRef::Name("t".to_owned());
    let told = |version| only(&broker.fetch_at_version(version, &by_name)).error;
    assert_eq!((told(5), told(6)), (ErrorCode::NotLeaderOrFollower, ErrorCode::KafkaStorageError));
    disk_answers.send(()).unwrap();
    writer.join().unwrap();
    let next = |session_epoch| {
        let request = FetchRequest { session_id: opened.session_id, session_epoch, ..fetch_of(id, vec![]) };
        broker.fetch(&request)
    };
    assert_eq!(only(&next(1)).error, ErrorCode::None);
    assert!(partitions_of(&next(2)).is_empty(), "nothing new");
    broker.produce(TopicRef::Id(id), 0, &batch(&["a"]), 1, NEVER_MS);
    assert_eq!(served(&next(3)), [(0, 1)]);
}

/// What parked fetches hold is bounded, and whoever finds no room is told to wait before the next one.
#[test]
fn a_fetch_that_finds_no_room_to_park_is_answered_at_once() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    let waiting = FetchRequest { max_wait_ms: NEVER_MS, ..fetch_of(id, vec![wanted(0, 0)]) };
    let sessions = &broker.broker.fetch_sessions;
    let taken: Vec<_> = std::iter::repeat_with(|| sessions.park(1)).map_while(|room| room).collect();
    let answered = broker.fetch(&waiting);
    assert_eq!((answered.error, only(&answered).error), (ErrorCode::None, ErrorCode::None));
    assert!(answered.throttle_time_ms > 0);
    drop(taken);
    let mut parked = broker.begin_fetch(CLIENT, &waiting);
    assert!(!parked.is_ready());
    broker.produce(TopicRef::Id(id), 0, &batch(&["a"]), 1, NEVER_MS);
    assert_eq!(parked.fetched().throttle_time_ms, 0);
}
