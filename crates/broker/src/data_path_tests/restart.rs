//! What survives a restart, and what must not be taken for something else.

use ottla_model::{ErrorCode, Offset};
use ottla_protocol::messages::TopicRef;

use super::harness::{Cluster, batch, eventually, fetch_of, idempotent, only, topic_id, wanted};

const NEVER_MS: i32 = 60_000;

fn names(cluster: &Cluster, broker: i32) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.log_directory(broker)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("t-"));
    names.sort_unstable();
    names
}

#[test]
fn a_clean_stop_is_remembered_and_nothing_is_lost() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    assert!(broker.opened.meta.is_none());
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 3, &[1], &[]);
    broker.produce(TopicRef::Id(id), 0, &idempotent(5, 0, 0, &["a", "b"]), -1, NEVER_MS);
    let epoch = broker.broker.identity.epoch();
    broker.shut_down();

    let broker = cluster.start(1);
    assert_eq!(broker.opened.clean_shutdown_epoch, epoch);
    assert!(broker.opened.meta.is_some());
    let read = broker.fetch(&fetch_of(id, vec![wanted(0, 0)]));
    assert_eq!(only(&read).high_watermark, Offset(2), "from the checkpoint, before any follower is heard");
    assert!(only(&read).records.is_some());
    let retry = broker.produce(TopicRef::Id(id), 0, &idempotent(5, 0, 0, &["a", "b"]), -1, NEVER_MS);
    assert_eq!(retry.base_offset, Offset(0));
    broker.kill();

    let broker = cluster.start(1);
    assert!(!broker.opened.clean_shutdown_epoch.is_known(), "the file says it of one run only");
    assert_eq!(broker.log_end(id, 0), Offset(2));
}

#[test]
fn a_deleted_topic_goes_and_its_name_is_free() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let (old, new) = (topic_id(1), topic_id(2));
    cluster.quorum.create_topic("t", old, 1, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(old), 0, &batch(&["old"]), -1, NEVER_MS);
    cluster.quorum.delete_topic("t", 1);
    assert_eq!(brokers[0].produce(TopicRef::Id(old), 0, &batch(&["x"]), 1, NEVER_MS).error, ErrorCode::UnknownTopicId);
    cluster.quorum.create_topic("t", new, 1, &[1, 2], &[]);
    eventually("the new log is open", || brokers[0].partition(new, 0).with_log(|_| ()).is_some());
    let produced = brokers[0].produce(TopicRef::Name("t".to_owned()), 0, &batch(&["new"]), -1, NEVER_MS);
    assert_eq!((produced.error, produced.base_offset), (ErrorCode::None, Offset(0)));
    assert_eq!(brokers[1].log_bytes(new, 0), brokers[0].log_bytes(new, 0));
    for broker in [1, 2] {
        eventually("what was deleted is removed", || names(&cluster, broker) == ["t-0"]);
    }
}

#[test]
fn flush_messages_puts_records_on_the_disk_before_they_are_acknowledged() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[("flush.messages", "1"), ("min.insync.replicas", "2")]);
    for round in 1..=3 {
        let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
        for broker in &brokers {
            let synced = broker.partition(id, 0).with_log(|log| log.recovery_point());
            assert_eq!(synced, Some(Offset(round)));
        }
    }
}

/// Scenario 11: the topic was deleted and made again while the broker was away.
#[test]
fn a_directory_of_another_topic_is_set_aside() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let (old, new) = (topic_id(1), topic_id(2));
    cluster.quorum.create_topic("t", old, 2, &[1, 2], &[]);
    brokers[0].produce(TopicRef::Id(old), 0, &batch(&["old"]), -1, NEVER_MS);
    brokers.remove(1).kill();
    cluster.quorum.delete_topic("t", 2);
    cluster.quorum.create_topic("t", new, 1, &[1, 2], &[]);
    eventually("the new log is open", || brokers[0].partition(new, 0).with_log(|_| ()).is_some());
    let produced = brokers[0].produce(TopicRef::Id(new), 0, &batch(&["new", "newer"]), 1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    let back = cluster.start(2);
    eventually("it has the new topic's records", || {
        back.partition(new, 0).with_log(|log| log.log_end_offset()) == Some(Offset(2))
    });
    assert_eq!(back.log_bytes(new, 0), brokers[0].log_bytes(new, 0));
    eventually("the old ones are kept under other names", || {
        let names = names(&cluster, 2);
        names.len() == 3 && names.iter().filter(|name| name.ends_with("-stray")).count() == 2
    });
}

#[test]
fn a_damaged_log_is_fetched_anew_where_nobody_counts_on_it() {
    let cluster = Cluster::new(&[]);
    let mut brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[]);
    for value in ["one", "two", "three"] {
        brokers[0].produce(TopicRef::Id(id), 0, &batch(&[value]), -1, NEVER_MS);
    }
    brokers.remove(1).kill();
    let file = cluster.log_directory(2).join("t-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    cluster.quorum.fence(2);
    cluster.quorum.set_isr("t", 0, &[1]);
    let back = cluster.start(2);
    eventually("it is in the ISR again", || cluster.quorum.isr("t", 0) == [1, 2]);
    assert_eq!(back.log_bytes(id, 0), brokers[0].log_bytes(id, 0));
    assert!(names(&cluster, 2).iter().any(|name| name.ends_with("-stray")), "and the damaged one is kept");
}

#[test]
fn a_start_that_came_to_nothing_leaves_a_clean_stop_clean() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    broker.produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
    let epoch = broker.broker.identity.epoch();
    broker.shut_down();
    cluster.start_without_a_tree(1);
    assert_eq!(cluster.start(1).opened.clean_shutdown_epoch, epoch);
}
