//! What survives a restart, and what must not be taken for something else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ottla_model::{ErrorCode, Offset};
use ottla_protocol::messages::TopicRef;
use ottla_replica_manager::log_dirs::LogDirs;
use ottla_replica_manager::log_dirs::opening::OpeningProgress;

use super::harness::{Cluster, SECOND_DIRECTORY, batch, eventually, fetch_of, idempotent, only, topic_id, wanted};

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
    let epoch = broker.broker.identity.epoch();
    broker.kill();

    let broker = cluster.start(1);
    assert_eq!(broker.opened.clean_shutdown_epoch, epoch, "the machine runs on, with its page cache");
    assert_eq!(broker.log_end(id, 0), Offset(2));
}

/// A checkpoint that was written while the replicas of a start took up their roles named none of them: with a kill
/// right then, records that had been deleted would have come back, and all logs been read again.
#[test]
fn a_checkpoint_that_comes_while_a_start_places_its_replicas_forgets_none() {
    const PARTITIONS: i32 = 500;
    let all = usize::try_from(PARTITIONS).unwrap();
    let cluster = Cluster::new(&[("replica.high.watermark.checkpoint.interval.ms", "1")]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, PARTITIONS, &[1], &[]);
    eventually("all lead", || broker.broker.telemetry.replicas.leader_partitions.get() == i64::from(PARTITIONS));
    for partition in 0..PARTITIONS {
        let produced = broker.produce(TopicRef::Id(id), partition, &batch(&["a"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
    }
    broker.kill();
    // The high watermarks move when the roles begin.
    let path = cluster.log_directory(1).join("replication-offset-checkpoint");
    let before: String = (0..PARTITIONS).map(|partition| format!("t {partition} 0\n")).collect();
    std::fs::write(&path, format!("0\n{PARTITIONS}\n{before}")).unwrap();
    let lines_with = |end: &str| {
        let content = std::fs::read_to_string(&path).unwrap();
        content.lines().filter(|line| line.starts_with("t ") && line.ends_with(end)).count()
    };
    let (is_over, fewest) = (AtomicBool::new(false), AtomicUsize::new(all));
    let patience = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && Instant::now() < patience {
                fewest.fetch_min(lines_with(""), Ordering::Relaxed);
            }
        });
        let broker = cluster.start(1);
        eventually("they are written", || lines_with(" 1") == all);
        is_over.store(true, Ordering::Relaxed);
        drop(broker);
    });
    assert_eq!(fewest.into_inner(), all);
}

/// As if the machine had started anew since the broker registered.
fn reboot(directory: &Path) {
    let file = directory.join(".ottla_registration");
    let text = std::fs::read_to_string(&file).unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = text.replace(boot_id.trim(), "00000000-0000-0000-0000-000000000000");
    assert_ne!(text, other);
    std::fs::write(file, other).unwrap();
}

#[test]
fn a_kill_leaves_the_log_whole_and_a_reboot_does_not() {
    let cluster = Cluster::new(&[(SECOND_DIRECTORY, "")]);
    let second = PathBuf::from(format!("{}-second", cluster.log_directory(1).display()));
    let first_life = cluster.start(1);
    assert!(!first_life.opened.clean_shutdown_epoch.is_known(), "the disk is new");
    let epoch = first_life.broker.identity.epoch();
    first_life.kill();

    // Killed again before it registers: the former epoch still counts.
    cluster.start_without_a_tree(1);
    let second_life = cluster.start(1);
    assert_eq!(second_life.opened.clean_shutdown_epoch, epoch);
    second_life.kill();

    reboot(&second);
    let third_life = cluster.start(1);
    assert!(!third_life.opened.clean_shutdown_epoch.is_known(), "one directory is not sure");
    third_life.kill();

    reboot(&cluster.log_directory(1));
    reboot(&second);
    let fourth_life = cluster.start(1);
    assert!(!fourth_life.opened.clean_shutdown_epoch.is_known(), "the page cache is gone");
    let epoch = fourth_life.broker.identity.epoch();
    fourth_life.shut_down();

    // A clean end is known across boots, also when the next process is killed before it registers.
    reboot(&cluster.log_directory(1));
    reboot(&second);
    drop_after_opening(&cluster);
    let fifth_life = cluster.start(1);
    assert_eq!(fifth_life.opened.clean_shutdown_epoch, epoch);
    fifth_life.kill();
}

/// A process that opens its logs and is killed.
fn drop_after_opening(cluster: &Cluster) {
    let directories = LogDirs::open(&cluster.config(1)).unwrap();
    let opened = directories.open_logs(1, &Arc::default(), &OpeningProgress::default()).unwrap();
    assert!(opened.1.closed);
}

#[test]
fn after_a_disk_has_failed_nothing_is_called_whole() {
    let cluster = Cluster::new(&[]);
    let broker = cluster.start(1);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1], &[]);
    broker.partition(id, 0).disk_failed(&"the test says so");
    let file = cluster.log_directory(1).join(".ottla_registration");
    eventually("the registration is forgotten", || !file.exists());
    broker.kill();
    let broker = cluster.start(1);
    assert!(!broker.opened.clean_shutdown_epoch.is_known());
    broker.kill();
}

/// The topic's offsets leave the checkpoints with it: one that is made again under its name must not begin with them.
#[test]
fn a_deleted_topics_offsets_leave_the_checkpoints() {
    let cluster = Cluster::new(&[
        ("replica.high.watermark.checkpoint.interval.ms", "10"),
        ("log.flush.offset.checkpoint.interval.ms", "10"),
        ("log.flush.start.offset.checkpoint.interval.ms", "10"),
    ]);
    let broker = cluster.start(1);
    let (old, new) = (topic_id(1), topic_id(2));
    let checkpoint =
        |name: &str| std::fs::read_to_string(cluster.log_directory(1).join(name)).unwrap_or_default().contains("t 0 ");
    let all = ["replication-offset-checkpoint", "recovery-point-offset-checkpoint", "log-start-offset-checkpoint"];
    cluster.quorum.create_topic("t", old, 1, &[1], &[("flush.messages", "1")]);
    for _ in 0..3 {
        broker.produce(TopicRef::Id(old), 0, &batch(&["old"]), -1, NEVER_MS);
    }
    broker.partition(old, 0).with_log(|log| log.advance_log_start(Offset(2)));
    eventually("everything is checkpointed", || all.iter().all(|name| checkpoint(name)));
    cluster.quorum.delete_topic("t", 1);
    eventually("nothing is left", || !all.iter().any(|name| checkpoint(name)));
    cluster.quorum.create_topic("t", new, 1, &[1], &[]);
    eventually("the new log is open", || broker.partition(new, 0).with_log(|_| ()).is_some());
    let produced = broker.produce(TopicRef::Id(new), 0, &batch(&["a", "b", "c", "d"]), 1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    broker.kill();
    let broker = cluster.start(1);
    let bounds = broker.partition(new, 0).with_log(|log| (log.log_start_offset(), log.log_end_offset()));
    assert_eq!(bounds, Some((Offset(0), Offset(4))));
    broker.kill();
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

/// A disk comes back with the longer log of a topic that was deleted and made again on the other disk meanwhile.
#[test]
fn of_twin_directories_the_one_of_the_living_topic_is_served() {
    let cluster = Cluster::new(&[(SECOND_DIRECTORY, "")]);
    let (old, new) = (topic_id(1), topic_id(2));
    let broker = cluster.start(1);
    cluster.quorum.create_topic("t", old, 1, &[1], &[]);
    for value in ["1", "2", "3"] {
        broker.produce(TopicRef::Id(old), 0, &batch(&[value]), -1, NEVER_MS);
    }
    broker.kill();
    let second = PathBuf::from(format!("{}-second", cluster.log_directory(1).display()));
    let directories = [cluster.log_directory(1), second];
    let of_old = directories.iter().position(|directory| directory.join("t-0").exists()).unwrap();
    let away = directories[of_old].join("away");
    std::fs::rename(directories[of_old].join("t-0"), &away).unwrap();
    cluster.quorum.delete_topic("t", 1);
    cluster.quorum.create_topic("t", new, 1, &[1], &[]);
    let broker = cluster.start(1);
    eventually("the new log is open", || broker.partition(new, 0).with_log(|_| ()).is_some());
    assert_eq!(broker.produce(TopicRef::Id(new), 0, &batch(&["new"]), -1, NEVER_MS).error, ErrorCode::None);
    broker.kill();
    let of_new = directories.iter().position(|directory| directory.join("t-0").exists()).unwrap();
    std::fs::rename(away, directories[1 - of_new].join("t-0")).unwrap();
    let broker = cluster.start(1);
    assert_eq!(broker.log_end(new, 0), Offset(1));
    eventually("the old topic's log is kept under another name", || {
        let names = std::fs::read_dir(&directories[1 - of_new]).unwrap();
        names.map(|entry| entry.unwrap().file_name()).any(|name| name.to_string_lossy().ends_with("-stray"))
    });
    assert!(directories[of_new].join("t-0").exists());
}

#[test]
fn scenario_14_a_damaged_log_is_fetched_anew_where_nobody_counts_on_it() {
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

#[test]
fn flush_ms_puts_the_last_records_on_the_disk_too() {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1, 2]);
    let id = topic_id(1);
    cluster.quorum.create_topic("t", id, 1, &[1, 2], &[("flush.ms", "20")]);
    for round in 1..=2 {
        let produced = brokers[0].produce(TopicRef::Id(id), 0, &batch(&["a"]), -1, NEVER_MS);
        assert_eq!(produced.error, ErrorCode::None);
        for broker in &brokers {
            let synced = || broker.partition(id, 0).with_log(|log| log.recovery_point());
            eventually("nothing more is appended, and all is synced", || synced() == Some(Offset(round)));
        }
    }
}
