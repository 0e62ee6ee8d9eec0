//! What a leader serves, what it acknowledges, and what it deletes.
#![allow(clippy::unwrap_used, unused_must_use, reason = "most steps only prepare what a test looks at")]

mod common;

use common::*;
use ottla_model::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TransactionResult};
use ottla_partition::{
    Append, AppendError, ConsumerTerms, Fetch, FoundOffset, OffsetLookup, OffsetQuery, ReadError, Reader, Visible,
};
use ottla_protocol::record_batch::{BatchHeader, TimestampType};
use ottla_replication::fetch_session::{FetchPartition, Fetcher, PartitionRequest};
use ottla_replication::{AppendTerms, EndMarker, EpochEnd, IsrOutcome, VerificationRequest};
use ottla_storage::env::Faults;
use ottla_storage::{CheckpointKind, DiskFault, LogConfig};

#[test]
fn an_acknowledgement_waits_for_the_other_member() {
    let mut host = Host::leader();
    host.fetched(0, 0);
    let appended = host.append(3);
    assert_eq!((appended.first_offset, appended.next_offset, appended.log_end), (Offset(0), Offset(3), Offset(3)));
    assert!(!host.core.wait_for_replicas(Offset(2), || answer("first")));
    assert!(!host.core.wait_for_replicas(Offset(3), || answer("second")));
    assert_eq!(host.core.waiting_produces(), 2);
    let effects = host.fetched(2, 0);
    assert_eq!((names(&effects.acknowledged), effects.high_watermark), (vec!["first"], Some(Offset(2))));
    assert_eq!(host.core.waiting_produces(), 1);
    assert_eq!(names(&host.fetched(3, 0).acknowledged), ["second"]);
    assert_eq!(host.core.waiting_produces(), 0);
    assert!(host.core.wait_for_replicas(Offset(3), || answer("late")), "it is there already");
}

/// A batch is parsed where it is validated, and the log goes by that header. (It was parsed five times on its way.)
#[test]
fn a_batch_whose_header_is_known_is_not_parsed_again() {
    const MAGIC_AT: usize = 16;
    let mut host = Host::leader();
    let mut records = batch(3, WALL).build().unwrap().to_vec();
    let header = BatchHeader::parse(&records).unwrap();
    // Whoever parses it from here on refuses it.
    records[MAGIC_AT] = 9;
    let mut append = |header| {
        let append = Append { records: &mut records, header, acks_all: false, terms: AppendTerms::CLIENT };
        host.core.append(append, NOW, WALL, &brokers).map(|(appended, _)| appended.next_offset)
    };
    assert!(matches!(append(None), Err(AppendError::Log(ottla_storage::AppendError::Invalid { .. }))));
    assert_eq!(append(Some(header)).unwrap(), Offset(3));
    assert_eq!(append(Some(header)).unwrap(), Offset(6), "nor for the place in the log");
    let other = BatchHeader { batch_length: header.batch_length + 1, ..header };
    assert!(append(Some(other)).is_err(), "the header of another batch");
}

#[test]
fn what_waits_is_told_when_the_leadership_ends() {
    let mut host = Host::leader();
    host.append(3);
    host.core.wait_for_replicas(Offset(3), || answer("produce"));
    host.fetched(1, 0);
    host.core.delete_records(Offset(1), || answer("deletion"), &brokers).map(drop).unwrap();
    let effects = host.assume(&state(OTHER, LeaderEpoch(6), 2, &[1, 2]));
    let refused = ErrorCode::NotLeaderOrFollower;
    assert_eq!(failed(&effects), [("produce", refused), ("deletion", refused)]);
    assert!(effects.changed && effects.role_changed);
    assert_eq!(host.core.leading_epoch(), LeaderEpoch::NONE);
    assert_eq!(host.core.waiting_produces(), 0);
    assert!(matches!(host.try_append(batch(1, WALL)), Err(AppendError::Refused(ErrorCode::NotLeaderOrFollower))));
}

/// A reassignment completes, and the leader stays.
#[test]
fn what_waits_waits_on_when_the_same_replica_leads_on() {
    let mut host = Host::leader();
    host.append(3);
    host.core.wait_for_replicas(Offset(3), || answer("produce"));
    let effects = host.assume(&state(LOCAL, LeaderEpoch(6), 2, &[1, 2]));
    assert!(failed(&effects).is_empty() && effects.changed && effects.role_changed);
    assert_eq!((host.core.leading_epoch(), host.core.waiting_produces()), (LeaderEpoch(6), 1));
    let fetch = ottla_partition::Fetch { current_leader_epoch: LeaderEpoch(6), ..replica_fetch(3, 0, true) };
    assert_eq!(names(&host.fetch(&fetch).0.acknowledged), ["produce"]);
    // In an epoch that was not seen another replica led: the log may have parted from its.
    host.append(1);
    host.core.wait_for_replicas(Offset(4), || answer("parted"));
    let effects = host.assume(&state(LOCAL, LeaderEpoch(8), 4, &[1, 2]));
    assert_eq!(failed(&effects), [("parted", ErrorCode::NotLeaderOrFollower)]);
}

#[test]
fn a_replica_that_failed_or_closed_answers_so() {
    let mut host = Host::leader();
    assert_eq!(host.core.leading_epoch(), EPOCH);
    assert!(host.core.leading_in(EPOCH).is_ok());
    assert_eq!(host.core.leading_in(LeaderEpoch(4)).map(drop).unwrap_err(), ErrorCode::NotLeaderOrFollower);
    host.append(2);
    host.core.wait_for_replicas(Offset(2), || answer("produce"));
    let effects = host.core.log_failed();
    assert_eq!(failed(&effects), [("produce", ErrorCode::KafkaStorageError)]);
    assert_eq!(host.core.leading().map(drop).unwrap_err(), ErrorCode::KafkaStorageError);
    assert!(matches!(host.try_append(batch(1, WALL)), Err(AppendError::Refused(ErrorCode::KafkaStorageError))));
    host.core.begin_opening();
    assert!(!host.core.is_offline());
    assert_eq!(host.core.leading().map(drop).unwrap_err(), ErrorCode::NotLeaderOrFollower);

    let mut host = Host::leader();
    host.append(2);
    let (log, effects) = host.core.close(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(log.map(|log| log.log_end_offset()), Some(Offset(2)));
    assert!(effects.role_changed);
    // While a log is open, nothing begins.
    let mut host = Host::leader();
    host.append(2);
    host.core.begin_opening();
    assert_eq!(host.log_range().1, Offset(2));
}

#[test]
fn a_sync_that_fails_ends_the_append_and_a_full_disk_does_not() {
    let flushing = || LogConfig { flush_messages: 1, ..LogConfig::default() };
    let mut host = Host::leader_with(flushing());
    host.env.set_faults(Faults { sync_error_ppm: 1_000_000, ..Faults::NONE });
    assert!(matches!(host.try_append(batch(1, WALL)), Err(AppendError::Sync(_))));

    let mut host = Host::leader_with(flushing());
    host.append(1);
    host.env.set_faults(Faults { no_descriptor_ppm: 1_000_000, ..Faults::NONE });
    host.core.log_mut().unwrap().close_idle_files();
    let appended = host.try_append(batch(1, WALL));
    // Whatever file is missing: the disk did not fail.
    assert!(!matches!(appended, Err(AppendError::Sync(_))));
    host.env.set_faults(Faults::NONE);
    assert!(host.try_append(batch(1, WALL)).is_ok());
}

#[test]
fn readers_see_as_far_as_their_kind_may() {
    let mut host = Host::leader();
    host.append(4);
    host.fetched(2, 0);
    let (_, fetched) = host.fetch(&consumer_fetch(0, false));
    let fetched = fetched.ok().unwrap();
    assert_eq!((fetched.upper, fetched.high_watermark, fetched.log_start), (Offset(2), Offset(2), Offset(0)));
    assert!(fetched.records.is_some() && fetched.aborted.is_none());
    let (_, fetched) = host.fetch(&consumer_fetch(2, false));
    assert!(fetched.ok().unwrap().records.is_none(), "nothing below the high watermark");
    let (_, fetched) = host.fetch(&replica_fetch(2, 0, true));
    let fetched = fetched.ok().unwrap();
    assert_eq!(fetched.upper, Offset(4));
    assert!(fetched.records.is_some());
    for (offset, error) in [(4, None), (5, Some(ErrorCode::OffsetOutOfRange))] {
        let (_, fetched) = host.fetch(&consumer_fetch(offset, false));
        assert_eq!(fetched.err().map(|refused| refused.error_code()), error, "offset {offset}");
    }
    let known = common::consumer_fetch(0, false);
    let later = ottla_partition::Fetch { current_leader_epoch: LeaderEpoch(6), ..known };
    let (_, fetched) = host.fetch(&later);
    assert!(matches!(fetched, Err(ReadError::Refused(ErrorCode::UnknownLeaderEpoch))));
}

#[test]
fn a_log_that_has_parted_reads_nothing_and_counts_for_nothing() {
    let mut host = Host::leader();
    host.append(4);
    // Records of an epoch that this log never had.
    let parted = ottla_partition::Fetch { last_fetched_epoch: LeaderEpoch(3), ..replica_fetch(3, 0, true) };
    let (effects, fetched) = host.fetch(&parted);
    let fetched = fetched.ok().unwrap();
    assert!(fetched.diverging.is_some() && fetched.records.is_none());
    assert_eq!((effects.high_watermark, host.core.high_watermark()), (None, Offset(0)));
}

/// The second look for a request that waited, after the follower has fetched anew.
#[test]
fn a_second_look_is_no_progress() {
    let mut host = Host::leader();
    host.append(4);
    let (effects, fetched) = host.fetch(&replica_fetch(4, 0, false));
    assert!(fetched.is_ok());
    assert_eq!((effects.high_watermark, host.core.high_watermark()), (None, Offset(0)));
    assert_eq!(host.fetched(4, 0).high_watermark, Some(Offset(4)));
}

#[test]
fn an_open_transaction_holds_readers_of_committed_records() {
    let mut host = Host::leader();
    let (producer, epoch) = (ProducerId(9), ProducerEpoch(0));
    let request = VerificationRequest { producer_id: producer, producer_epoch: epoch, ..verification() };
    let guard = host.core.begin_verification(&request, WALL).unwrap();
    assert!(guard.is_some(), "its transaction is not in this log");
    host.append(1);
    let transactional = batch(2, WALL).producer(producer, epoch, 0).transactional();
    append_verified(&mut host, transactional, guard.as_ref());
    assert_eq!(host.core.begin_verification(&request, WALL).unwrap().map(drop), None, "it is open here now");
    host.fetched(3, 0);
    let committed = |host: &mut Host, at| host.fetch(&consumer_fetch(at, true)).1.ok().unwrap();
    let fetched = committed(&mut host, 0);
    assert_eq!((fetched.upper, fetched.last_stable, fetched.high_watermark), (Offset(1), Offset(1), Offset(3)));
    let marker = EndMarker {
        producer_id: producer,
        producer_epoch: epoch,
        result: TransactionResult::Abort,
        coordinator_epoch: 0,
    };
    let kind = TimestampType::CreateTime;
    host.core.append_marker(&marker, 0, kind, NOW, WALL, &brokers).map(drop).unwrap();
    host.fetched(4, 0);
    let fetched = committed(&mut host, 0);
    assert_eq!(fetched.upper, Offset(4));
    assert!(fetched.aborted.is_some(), "its records are to be skipped");
    assert!(host.fetch(&consumer_fetch(0, false)).1.ok().unwrap().aborted.is_none());
    assert_eq!(host.core.last_stable_offset(), Some(Offset(4)));
}

fn verification() -> VerificationRequest {
    VerificationRequest {
        producer_id: ProducerId(9),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        supports_epoch_bump: false,
    }
}

fn append_verified(
    host: &mut Host,
    batch: ottla_protocol::record_batch::BatchBuilder,
    guard: Option<&ottla_replication::VerificationGuard>,
) {
    let mut records = batch.build().unwrap().to_vec();
    let terms = ottla_replication::AppendTerms { guard, ..ottla_replication::AppendTerms::CLIENT };
    let append = ottla_partition::Append { records: &mut records, header: None, acks_all: true, terms };
    host.core.append(append, NOW, WALL, &brokers).map(drop).unwrap();
}

fn at(timestamp: i64) -> TimestampMs {
    TimestampMs(WALL.0 + timestamp)
}

fn found(host: &Host, query: OffsetQuery, visible: Visible) -> Result<FoundOffset, ErrorCode> {
    let mut lookup = host.core.find_offset(query, EPOCH, visible)?;
    loop {
        lookup = match lookup {
            OffsetLookup::Found(found) => return Ok(found),
            OffsetLookup::Search(search) => {
                host.core.offset_found(&search, search.run()).map_err(|refused| refused.error_code())?
            }
        };
    }
}

#[test]
fn offsets_are_found_by_time_below_what_is_visible() {
    let mut host = Host::leader();
    for written in [0, 10, 20] {
        host.try_append(batch(2, at(written))).map(drop).unwrap();
    }
    host.fetched(4, 0);
    let by_time = |written, visible| found(&host, OffsetQuery::At(at(written)), visible).unwrap();
    let second = FoundOffset { timestamp: at(10), offset: Offset(2), leader_epoch: EPOCH };
    assert_eq!(by_time(5, Visible::HighWatermark), second);
    assert_eq!(by_time(10, Visible::HighWatermark), second);
    assert_eq!(by_time(15, Visible::HighWatermark), FoundOffset::NONE, "not replicated yet");
    assert_eq!(by_time(15, Visible::LogEnd).offset, Offset(4));
    assert_eq!(by_time(25, Visible::LogEnd), FoundOffset::NONE);
    let end = |visible| found(&host, OffsetQuery::Latest, visible).unwrap().offset;
    assert_eq!((end(Visible::LogEnd), end(Visible::HighWatermark)), (Offset(6), Offset(4)));
    assert_eq!(end(Visible::LastStable), Offset(4));
    let earliest = found(&host, OffsetQuery::Earliest, Visible::HighWatermark).unwrap();
    assert_eq!((earliest.offset, earliest.leader_epoch), (Offset(0), EPOCH));
    let last = found(&host, OffsetQuery::MaxTimestamp, Visible::LogEnd).unwrap();
    assert_eq!((last.timestamp, last.offset), (at(20), Offset(4)));
}

#[test]
fn a_search_that_retention_overtook_is_made_again_and_another_error_is_told() {
    let mut host = Host::leader();
    host.append(2);
    host.fetched(2, 0);
    let search = |host: &Host| match host.core.find_offset(OffsetQuery::At(WALL), EPOCH, Visible::LogEnd).ok() {
        Some(OffsetLookup::Search(search)) => search,
        _ => unreachable!("by time it is always a search"),
    };
    let refused = |kind: std::io::ErrorKind| Err(ottla_storage::ReadError::Io(kind.into()));
    let begun = search(&host);
    let again = host.core.offset_found(&begun, refused(std::io::ErrorKind::NotFound)).unwrap();
    let OffsetLookup::Search(again) = again else { panic!("it begins anew, without the partition's lock") };
    let again = host.core.offset_found(&again, again.run()).unwrap();
    assert!(matches!(again, OffsetLookup::Found(found) if found.offset == Offset(0)));
    let error = host.core.offset_found(&begun, refused(std::io::ErrorKind::PermissionDenied)).err().unwrap();
    assert_eq!(error.error_code(), ErrorCode::KafkaStorageError);
    // Another leader epoch: the log may have been cut meanwhile.
    host.assume(&state(LOCAL, LeaderEpoch(6), 2, &[1, 2]));
    let error = host.core.offset_found(&begun, begun.run()).err().unwrap();
    assert_eq!(error.error_code(), ErrorCode::NotLeaderOrFollower);
}

/// "Latest" would go back behind what the former leader answered.
#[test]
fn a_new_leader_tells_no_end_before_its_high_watermark_has_reached_its_epoch() {
    let mut host = Host::leader();
    host.append(3);
    host.assume(&state(LOCAL, LeaderEpoch(6), 2, &[1, 2]));
    let ask = |host: &Host, query, visible| match host.core.find_offset(query, LeaderEpoch(6), visible)? {
        OffsetLookup::Found(found) => Ok(found.offset),
        OffsetLookup::Search(search) => match host.core.offset_found(&search, search.run()) {
            Ok(OffsetLookup::Found(found)) => Ok(found.offset),
            Ok(OffsetLookup::Search(_)) => panic!("no file went"),
            Err(error) => Err(error.error_code()),
        },
    };
    let not_yet = Err(ErrorCode::OffsetNotAvailable);
    assert_eq!(ask(&host, OffsetQuery::Latest, Visible::HighWatermark), not_yet);
    assert_eq!(ask(&host, OffsetQuery::At(WALL), Visible::HighWatermark), not_yet);
    assert_eq!(ask(&host, OffsetQuery::Latest, Visible::LogEnd), Ok(Offset(3)));
    let whole = ottla_partition::Fetch { current_leader_epoch: LeaderEpoch(6), ..replica_fetch(3, 0, true) };
    assert!(host.fetch(&whole).1.is_ok());
    assert_eq!(ask(&host, OffsetQuery::Latest, Visible::HighWatermark), Ok(Offset(3)));
    assert_eq!(ask(&host, OffsetQuery::At(at(1)), Visible::HighWatermark), Ok(Offset::UNKNOWN));
}

#[test]
fn the_end_of_an_epoch_is_told() {
    let mut host = Host::leader();
    host.append(3);
    host.assume(&state(LOCAL, LeaderEpoch(7), 2, &[1, 2]));
    host.append(1);
    let end = host.core.epoch_end(LeaderEpoch(6), LeaderEpoch(7));
    assert_eq!(end, Ok(Some(EpochEnd { epoch: EPOCH, end_offset: Offset(3) })));
    // Older than any record here: both logs are the same below the first one.
    let before = EpochEnd { epoch: LeaderEpoch(4), end_offset: Offset(0) };
    assert_eq!(host.core.epoch_end(LeaderEpoch(4), LeaderEpoch(7)), Ok(Some(before)));
    assert_eq!(host.core.epoch_end(LeaderEpoch(9), LeaderEpoch(7)), Ok(None));
    assert_eq!(host.core.epoch_end(EPOCH, EPOCH), Err(ErrorCode::FencedLeaderEpoch));
}

fn appended(host: &mut Host, count: i64, written: i64) {
    host.try_append(batch(count, at(written))).map(drop).unwrap();
}

#[test]
fn records_are_deleted_up_to_the_high_watermark_and_told_when_every_live_replica_did() {
    let mut host = Host::leader();
    host.append(5);
    host.fetched(4, 0);
    let mut delete = |before| host.core.delete_records(Offset(before), || answer("deletion"), &brokers);
    for refused in [-2, 5] {
        assert_eq!(delete(refused).map(drop).unwrap_err(), ErrorCode::OffsetOutOfRange, "{refused}");
    }
    let (effects, has_moved) = delete(0).unwrap();
    assert!(!has_moved && !effects.changed);
    assert_eq!(names(&effects.acknowledged), ["deletion"], "nothing is there to delete");
    let (effects, has_moved) = delete(2).unwrap();
    assert!(has_moved && effects.changed && effects.acknowledged.is_empty());
    let (effects, has_moved) = delete(-1).unwrap();
    assert!(has_moved && effects.acknowledged.is_empty());
    assert_eq!(host.log_range(), (Offset(4), Offset(5)));
    assert_eq!(host.core.low_watermark(&brokers), Offset(0));
    assert_eq!(host.fetched(4, 3).acknowledged.len(), 1);
    assert_eq!(host.fetched(4, 4).acknowledged.len(), 1);
    assert_eq!(host.core.low_watermark(&brokers), Offset(4));
    let (effects, _) = host.core.delete_records(Offset(3), || answer("known"), &brokers).unwrap();
    assert_eq!(names(&effects.acknowledged), ["known"]);
}

#[test]
fn only_a_log_that_is_just_compacted_keeps_its_records() {
    for (compact, deletes, is_refused) in [(true, false, true), (true, true, false), (false, false, false)] {
        let mut host = Host::leader_with(LogConfig { compact, deletes, ..LogConfig::default() });
        let outcome = host.core.delete_records(Offset(0), || answer("deletion"), &brokers).map(drop);
        assert_eq!(outcome, if is_refused { Err(ErrorCode::PolicyViolation) } else { Ok(()) });
    }
}

#[test]
fn retention_moves_the_start_and_tells_whoever_waits() {
    let config = LogConfig { segment_bytes: 150, retention_ms: 1_000, ..LogConfig::default() };
    let mut host = Host::leader_with(config);
    for _ in 0..3 {
        appended(&mut host, 2, 0);
    }
    host.fetched(6, 0);
    let mut pass = |wall| host.core.delete_old_segments(at(wall), &brokers).unwrap();
    let young = pass(500);
    assert!(!young.effects.changed);
    assert_eq!((young.log_start, young.delay_ms), ((Offset(0), Offset(0)), 60_000));
    let old = pass(5_000);
    assert!(old.effects.changed && old.log_start.1 > Offset(0));
    assert_eq!(host.core.low_watermark(&|_| None), old.log_start.1, "the leader knows its log's start");
    let (log, _) = host.core.close(ErrorCode::NotLeaderOrFollower);
    assert!(log.is_some() && host.core.delete_old_segments(at(5_000), &brokers).is_none());
}

#[test]
fn an_older_state_of_the_tree_changes_nothing_and_the_same_one_is_taken() {
    let mut host = Host::leader();
    host.assume(&state(LOCAL, LeaderEpoch(6), 3, &[1, 2]));
    assert!(!host.assume(&state(OTHER, LeaderEpoch(5), 2, &[1, 2])).role_changed);
    assert_eq!(host.core.leading_epoch(), LeaderEpoch(6));
    // The log fails, and a new one is opened under the same state.
    let again = state(OTHER, LeaderEpoch(7), 3, &[1, 2]);
    assert!(host.assume(&again).role_changed);
    assert!(host.core.follower().is_some());
    // Another leader, the same epoch number, no role of this broker.
    assert!(host.assume(&state(ottla_model::BrokerId::NONE, LeaderEpoch(8), 4, &[2])).role_changed);
    assert!(host.core.follower().is_none() && host.core.leader().is_none());
}

#[test]
fn fewer_members_than_the_topic_requires_refuse_what_waits_and_what_comes() {
    let mut host = Host::leader();
    host.append(3);
    host.core.wait_for_replicas(Offset(3), || answer("waits"));
    assert!(!host.core.set_config(NOW, &std::sync::Arc::default(), 2, &brokers).isr_changed);
    let effects = host.assume(&state(LOCAL, EPOCH, 2, &[1]));
    assert_eq!(failed(&effects), [("waits", ErrorCode::NotEnoughReplicasAfterAppend)]);
    assert!(effects.isr_changed);
    assert!(matches!(host.try_append(batch(1, WALL)), Err(AppendError::Refused(ErrorCode::NotEnoughReplicas))));
    // One is enough now: the high watermark moves.
    let config = std::sync::Arc::new(LogConfig { file_delete_delay_ms: 7, ..LogConfig::default() });
    let effects = host.core.set_config(NOW, &config, 1, &brokers);
    assert_eq!(effects.high_watermark, Some(Offset(3)));
    assert_eq!(host.core.log().unwrap().config().file_delete_delay_ms, 7);
}

#[test]
fn a_proposal_without_an_answer_is_looked_at_again_soon() {
    let mut host = Host::new(LogConfig::default());
    host.assume(&state(LOCAL, EPOCH, 1, &[1]));
    host.append(1);
    let proposal = host.fetched(1, 0).proposal.expect("it may join");
    let (effects, next) = host.core.isr_decided(NOW, proposal.number, &IsrOutcome::Unknown, &brokers);
    assert!(!effects.isr_changed);
    let soon = next.expect("soon");
    assert!(soon > NOW && soon.since(NOW).as_secs() < 1);
    let decided = IsrOutcome::Decided {
        leader_epoch: EPOCH,
        partition_epoch: ottla_model::PartitionEpoch(2),
        isr: proposal.isr.clone(),
    };
    let (effects, next) = host.core.isr_decided(NOW, proposal.number, &decided, &brokers);
    assert!(effects.isr_changed && next.is_none());
    assert_eq!(host.core.leader().unwrap().isr().committed().len(), 2);
}

#[test]
fn a_leader_sends_consumers_that_know_followers_to_one_near_them() {
    let mut host = Host::leader();
    host.append(4);
    host.fetched(4, 0);
    let is_near = |broker: ottla_model::BrokerId| broker == OTHER;
    let mut read = |fetch: &ottla_partition::Fetch| host.core.fetch(fetch, NOW, &brokers, Some(&is_near)).1;
    let sent = read(&consumer_fetch(0, false)).ok().unwrap();
    assert_eq!((sent.preferred_read_replica, sent.high_watermark), (Some(OTHER), Offset(4)));
    assert!(sent.records.is_none());
    assert_eq!(read(&consumer_fetch(5, false)).err().map(|refused| refused.error_code()), Some(OUT_OF_RANGE));
    let leader_only = ottla_partition::ConsumerTerms { read_committed: false, reads_followers: false };
    let reader = ottla_partition::Reader::Consumer(leader_only);
    for fetch in [ottla_partition::Fetch { reader, ..consumer_fetch(0, false) }, replica_fetch(0, 0, false)] {
        let served = read(&fetch).ok().unwrap();
        assert!(served.preferred_read_replica.is_none() && served.records.is_some());
    }
}

const OUT_OF_RANGE: ErrorCode = ErrorCode::OffsetOutOfRange;

/// A round of ticks passes by a replica at rest.
#[test]
fn a_leader_is_at_rest_when_its_followers_have_everything_and_no_deletion_waits() {
    let mut host = Host::leader();
    host.fetched(0, 0);
    assert!(host.core.is_at_rest(&brokers));
    host.append(1);
    assert!(!host.core.is_at_rest(&brokers), "the follower may fall behind");
    host.fetched(1, 0);
    assert!(host.core.is_at_rest(&brokers));
    host.core.delete_records(Offset(1), || answer("deletion"), &brokers);
    assert!(!host.core.is_at_rest(&brokers), "the deletion is complete when the follower ends, too");
    host.fetched(1, 1);
    assert!(host.core.is_at_rest(&brokers));
    assert!(Host::follower().core.is_at_rest(&brokers));
}

#[test]
fn only_a_leader_with_an_open_log_writes() {
    let mut host = Host::leader();
    assert!(host.core.writes());
    assert!(!Host::follower().core.writes());
    host.core.log_failed();
    assert!(!host.core.writes());
}

#[test]
fn a_replica_without_its_log_knows_its_high_watermark_alone() {
    let mut host = Host::leader();
    host.append(5);
    host.fetched(4, 0);
    host.core.delete_records(Offset(3), || answer("deletion"), &brokers);
    host.core.log_mut().unwrap().flush(NOW).unwrap();
    let checkpointed = |host: &Host| CheckpointKind::ALL.map(|kind| Some(host.core.checkpointed(kind)?.0));
    assert_eq!(checkpointed(&host), [Some(4), Some(5), Some(3), None]);
    assert!(host.core.directory_failed().is_some_and(|effects| effects.role_changed));
    assert_eq!(checkpointed(&host), [Some(4), None, None, None]);
    assert!(host.core.is_offline() && host.core.directory_failed().is_none(), "it has failed already");
}

/// An error after the one that took a log offline says nothing of the disk.
#[test]
fn a_full_disk_is_no_failed_one_unless_the_log_is_offline() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let mut host = Host::leader();
    assert_eq!(host.core.disk_fault(Some(&full)), DiskFault::Full);
    assert_eq!(host.core.disk_fault(None), DiskFault::Failed);
    host.core.log_mut().unwrap().abandon();
    assert_eq!(host.core.disk_fault(Some(&full)), DiskFault::Failed);
    host.core.log_failed();
    assert_eq!(host.core.disk_fault(Some(&full)), DiskFault::Full, "of the next log");
}

#[test]
fn an_append_blames_the_disk_for_its_own_errors_alone() {
    use ottla_storage::AppendError as LogError;
    let io = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let blamed = |error: AppendError| error.disk_error().map(|cause| cause.map(std::io::Error::kind));
    let cause = Some(Some(std::io::ErrorKind::StorageFull));
    assert_eq!(blamed(AppendError::Sync(io())), cause);
    assert_eq!(blamed(LogError::Io(io()).into()), cause);
    assert_eq!(blamed(LogError::Offline.into()), Some(None), "an earlier error is to blame");
    assert_eq!(blamed(LogError::LargerThanSegment { size_bytes: 2, segment_bytes: 1 }.into()), None);
    assert_eq!(blamed(AppendError::Refused(ErrorCode::KafkaStorageError)), None);
}

#[test]
fn a_fetch_session_reads_in_the_name_of_its_fetcher() {
    let wanted = FetchPartition {
        offset: Offset(7),
        log_start: Offset(3),
        max_bytes: 1,
        current_leader_epoch: LeaderEpoch(5),
        last_fetched_epoch: LeaderEpoch(4),
        high_watermark: None,
    };
    let terms = ConsumerTerms { read_committed: true, reads_followers: false };
    for is_progress in [true, false] {
        let request = PartitionRequest { slot: 0, wanted, is_progress, max_bytes: 100, min_one: true };
        let fetch = |fetcher| Fetch::of(fetcher, terms, &request);
        let (id, epoch) = (OTHER, broker_epoch(OTHER));
        let expected = Fetch {
            reader: Reader::Replica { id, epoch, progress: is_progress },
            offset: Offset(7),
            log_start: Offset(3),
            current_leader_epoch: LeaderEpoch(5),
            last_fetched_epoch: LeaderEpoch(4),
            max_bytes: 100,
            min_one: true,
        };
        assert_eq!(fetch(Fetcher::Replica { id, epoch }), expected);
        assert_eq!(fetch(Fetcher::Consumer), Fetch { reader: Reader::Consumer(terms), ..expected });
        assert_eq!(fetch(Fetcher::Debugger), Fetch { reader: Reader::Debugger, ..expected });
    }
}

/// Older clients' batches are not verified, and the simulation switches the rule off altogether.
#[test]
fn a_transaction_begins_unverified_only_for_those_who_are_not_asked() {
    let append = |verifies, no_verification| {
        let mut host = Host::leader();
        let rules = ottla_partition::BrokenRules { no_verification, ..ottla_partition::BrokenRules::default() };
        let leads = state(LOCAL, LeaderEpoch(6), 2, &[1, 2]);
        host.core.assume(&leads, NOW, WALL, &ottla_partition::ReplicaConfig { rules, ..config() }, &brokers);
        let asked = host.core.begin_verification(&verification(), WALL).unwrap().is_some();
        let batch = batch(1, WALL).producer(ProducerId(8), ProducerEpoch(0), 0).transactional();
        let mut records = batch.build().unwrap().to_vec();
        let terms = AppendTerms { verifies, ..AppendTerms::CLIENT };
        let append = Append { records: &mut records, header: None, acks_all: true, terms };
        (asked, host.core.append(append, NOW, WALL, &brokers).is_ok())
    };
    assert_eq!(append(true, false), (true, false));
    assert_eq!(append(false, false), (true, true));
    assert_eq!(append(true, true), (false, true));
}

#[test]
fn a_tick_proposes_to_go_on_without_a_follower_that_does_not_come() {
    let mut host = Host::leader();
    host.append(1);
    let later = NOW + config().replica_lag_time_max;
    assert!(host.core.tick(later, &brokers).proposal.is_none());
    let proposal = host.core.tick(later + std::time::Duration::from_millis(1), &brokers).proposal;
    let isr: Vec<_> = proposal.unwrap().isr.iter().map(|member| member.broker).collect();
    assert_eq!(isr, [LOCAL]);
}
