//! Sequences, epochs, transactions and snapshots of producers.

use super::*;

const EXPIRATION_MS: i64 = 1_000;

/// A batch of producer 7: `(epoch, base sequence, records)` at `offset`.
fn batch(epoch: i16, base_sequence: i32, records: i32, offset: i64) -> ProducerBatch {
    ProducerBatch {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence,
        last_sequence: last_sequence(base_sequence, records - 1),
        first_offset: Offset(offset),
        last_offset: Offset(offset + i64::from(records) - 1),
        max_timestamp: TimestampMs(offset),
        is_transactional: false,
    }
}

/// `offset` is also its time.
fn marker(
    producer: i64,
    epoch: i16,
    coordinator_epoch: i32,
    result: TransactionResult,
    offset: i64,
) -> TransactionMarker {
    TransactionMarker {
        end: EndMarker {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(epoch),
            result,
            coordinator_epoch,
        },
        offset: Offset(offset),
        timestamp: TimestampMs(offset),
    }
}

fn states(batches: &[ProducerBatch]) -> ProducerStates {
    let mut states = ProducerStates::new();
    for batch in batches {
        assert_eq!(states.check(batch, &AppendTerms::CLIENT), Ok(ProducerCheck::New), "{batch:?}");
        states.apply(batch);
    }
    states
}

fn code(states: &ProducerStates, batch: &ProducerBatch) -> ErrorCode {
    match states.check(batch, &AppendTerms::CLIENT) {
        Ok(ProducerCheck::New) => ErrorCode::None,
        Ok(ProducerCheck::Duplicate(_)) => ErrorCode::DuplicateSequenceNumber,
        Err(error) => error.error_code(),
    }
}

#[test]
fn sequences_follow_kafkas_table() {
    let known = states(&[batch(1, 0, 3, 0), batch(1, 3, 2, 3)]);
    for (incoming, expected) in [
        (batch(1, 5, 1, 5), ErrorCode::None),
        (batch(1, 6, 1, 5), ErrorCode::OutOfOrderSequenceNumber),
        (batch(1, 4, 1, 5), ErrorCode::OutOfOrderSequenceNumber),
        (batch(1, 0, 3, 5), ErrorCode::DuplicateSequenceNumber),
        (batch(1, 3, 2, 5), ErrorCode::DuplicateSequenceNumber),
        (batch(1, 0, 2, 5), ErrorCode::OutOfOrderSequenceNumber), // the same start, but another batch
        (batch(0, 0, 3, 5), ErrorCode::InvalidProducerEpoch),
        (batch(2, 0, 1, 5), ErrorCode::None), // an epoch bump begins at 0
        (batch(2, 5, 1, 5), ErrorCode::OutOfOrderSequenceNumber),
    ] {
        assert_eq!(code(&known, &incoming), expected, "{incoming:?}");
    }
    let unknown = ProducerBatch { producer_id: ProducerId(8), ..batch(3, 42, 1, 5) };
    assert_eq!(code(&known, &unknown), ErrorCode::None, "an unknown producer may begin anywhere (KIP-360)");
    let plain = ProducerBatch { producer_id: ProducerId::NONE, ..batch(-1, -1, 1, 5) };
    assert_eq!(code(&known, &plain), ErrorCode::None);
}

#[test]
fn scenario_15_the_last_five_batches_are_answered_with_their_offsets() {
    let batches: Vec<_> = (0..7).map(|n| batch(0, n * 2, 2, 100 + i64::from(n) * 2)).collect();
    let known = states(&batches);
    for (n, sent) in batches.iter().enumerate() {
        match known.check(sent, &AppendTerms::CLIENT) {
            Ok(ProducerCheck::Duplicate(first)) => {
                assert!(n >= 2);
                assert_eq!((first.first_offset(), first.last_offset), (sent.first_offset, sent.last_offset));
            }
            Err(error) => {
                assert!(n < 2, "{n} is among the last five");
                assert_eq!(error.error_code(), ErrorCode::OutOfOrderSequenceNumber);
            }
            other => panic!("batch {n}: {other:?}"),
        }
    }
}

#[test]
fn sequences_wrap_at_the_largest_number() {
    assert_eq!(last_sequence(i32::MAX - 1, 3), 1);
    assert_eq!(last_sequence(i32::MAX, 0), i32::MAX);
    assert_eq!(last_sequence(NO_SEQUENCE, 9), NO_SEQUENCE);
    let mut known = ProducerStates::new();
    let over_the_edge = batch(0, i32::MAX - 1, 4, 0); // MAX−1, MAX, 0, 1
    known.apply(&over_the_edge);
    assert_eq!(code(&known, &over_the_edge), ErrorCode::DuplicateSequenceNumber);
    assert_eq!(code(&known, &batch(0, 2, 1, 4)), ErrorCode::None);
    let mut at_the_edge = ProducerStates::new();
    at_the_edge.apply(&batch(0, i32::MAX, 1, 0));
    assert_eq!(code(&at_the_edge, &batch(0, 0, 1, 1)), ErrorCode::None);
}

#[test]
fn an_epoch_bump_forgets_the_batches_of_the_former_epoch() {
    let mut known = states(&[batch(0, 0, 5, 0), batch(1, 0, 1, 5)]);
    assert_eq!(known.cached_batches(ProducerId(7)).len(), 1);
    assert_eq!(known.last_of(ProducerId(7)), Some((ProducerEpoch(1), 0)));
    // A follower appends every batch that the leader accepted.
    let odd = batch(0, 77, 1, 6);
    known.apply(&odd);
    assert_eq!(known.last_of(ProducerId(7)), Some((ProducerEpoch(0), 77)));
}

#[test]
fn a_snapshot_keeps_each_producers_last_batch() {
    let mut known = states(&[batch(0, 0, 5, 0), batch(0, 5, 2, 5)]);
    known.apply(&ProducerBatch { producer_id: ProducerId(9), is_transactional: true, ..batch(4, 0, 1, 7) });
    let lines: Vec<_> = known.snapshot().collect();
    assert_eq!(lines.len(), 2);
    let mut reloaded = ProducerStates::new();
    reloaded.load(lines.iter().copied(), known.end_offset(), TimestampMs(7), EXPIRATION_MS);
    assert_eq!(reloaded.end_offset(), Offset(8));
    assert_eq!(reloaded.snapshot().collect::<Vec<_>>(), lines);
    assert_eq!(code(&reloaded, &batch(0, 5, 2, 8)), ErrorCode::DuplicateSequenceNumber);
    assert_eq!(code(&reloaded, &batch(0, 0, 5, 8)), ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(code(&reloaded, &batch(0, 7, 1, 8)), ErrorCode::None);
}

#[test]
fn idle_producers_expire_but_not_inside_a_transaction() {
    let mut known = states(&[batch(0, 0, 1, 0)]);
    known.apply(&ProducerBatch { producer_id: ProducerId(9), is_transactional: true, ..batch(0, 0, 1, 1) });
    assert_eq!(known.remove_expired(TimestampMs(EXPIRATION_MS - 1), EXPIRATION_MS), 0);
    assert_eq!(known.remove_expired(TimestampMs(10 * EXPIRATION_MS), EXPIRATION_MS), 1);
    assert_eq!(known.last_of(ProducerId(7)), None);
    let marker = marker(9, 0, 2, TransactionResult::Commit, 2);
    assert_eq!(known.apply_marker(&marker).map(|ended| ended.first_offset), Some(Offset(1)));
    assert_eq!(known.remove_expired(TimestampMs(10 * EXPIRATION_MS), EXPIRATION_MS), 1);
    assert!(known.is_empty());
}

#[test]
fn scenario_15_states_outlive_the_records_that_retention_removed() {
    let mut known = states(&[batch(0, 0, 5, 0)]);
    known.log_start_moved(Offset(100));
    assert_eq!(known.end_offset(), Offset(100));
    assert_eq!(code(&known, &batch(0, 0, 5, 100)), ErrorCode::DuplicateSequenceNumber);
    known.clear(Offset(200));
    assert_eq!(code(&known, &batch(0, 5, 1, 200)), ErrorCode::None);
}

use TransactionResult::{Abort, Commit};

/// One transactional record of a producer.
fn transactional(producer: i64, epoch: i16, base_sequence: i32, offset: i64) -> ProducerBatch {
    ProducerBatch {
        producer_id: ProducerId(producer),
        is_transactional: true,
        ..batch(epoch, base_sequence, 1, offset)
    }
}

fn request(producer: i64, epoch: i16, base_sequence: i32, supports_epoch_bump: bool) -> VerificationRequest {
    VerificationRequest {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence,
        supports_epoch_bump,
    }
}

fn with_guard(guard: Option<&VerificationGuard>) -> AppendTerms<'_> {
    AppendTerms { guard, ..AppendTerms::CLIENT }
}

fn code_of<T>(checked: Result<T, ProducerError>) -> ErrorCode {
    checked.map_or_else(|error| error.error_code(), |_| ErrorCode::None)
}

#[test]
fn the_first_unstable_offset_is_that_of_the_first_undecided_or_unreplicated_transaction() {
    let mut known = ProducerStates::new();
    known.apply(&transactional(1, 0, 0, 10));
    known.apply(&transactional(2, 0, 0, 11));
    known.apply(&batch(0, 0, 1, 12));
    assert_eq!(known.first_unstable_offset(Offset(13)), Some(Offset(10)));
    let ended = known.apply_marker(&marker(1, 0, 0, Abort, 13));
    let expected = CompletedTransaction {
        producer_id: ProducerId(1),
        first_offset: Offset(10),
        last_offset: Offset(13),
        result: Abort,
        last_stable: Offset(11),
    };
    assert_eq!(ended, Some(expected));
    // The marker is not replicated yet: another leader may not have it.
    assert_eq!(known.first_unstable_offset(Offset(13)), Some(Offset(10)));
    assert_eq!(known.first_unstable_offset(Offset(14)), Some(Offset(11)));
    assert_eq!(known.apply_marker(&marker(2, 0, 0, Commit, 14)).map(|ended| ended.last_stable), Some(Offset(15)));
    known.replicated(Offset(14));
    assert_eq!(known.first_unstable_offset(Offset(14)), Some(Offset(11)));
    known.replicated(Offset(15));
    assert_eq!(known.first_unstable_offset(Offset(15)), None);
    assert_eq!(known.apply_marker(&marker(2, 0, 0, Commit, 15)), None, "nothing to end");
}

#[test]
fn open_transactions_survive_a_snapshot() {
    let mut known = ProducerStates::new();
    known.apply(&transactional(1, 0, 0, 10));
    known.apply(&transactional(1, 0, 1, 11));
    let lines: Vec<_> = known.snapshot().collect();
    let mut reloaded = ProducerStates::new();
    reloaded.apply(&transactional(9, 0, 0, 3));
    reloaded.load(lines, Offset(12), TimestampMs(i64::MAX), EXPIRATION_MS);
    assert_eq!(reloaded.first_unstable_offset(Offset(12)), Some(Offset(10)), "producer 9 is forgotten");
    reloaded.clear(Offset(40));
    assert_eq!(reloaded.first_unstable_offset(Offset(40)), None);
}

#[test]
fn markers_are_fenced_by_producer_and_coordinator_epoch() {
    let mut known = ProducerStates::new();
    known.apply(&transactional(1, 5, 0, 0));
    let check = |known: &ProducerStates, epoch, coordinator_epoch, version| {
        code_of(known.check_marker(&marker(1, epoch, coordinator_epoch, Commit, 1).end, version))
    };
    // Version 1 ends a transaction in its own epoch, version 2 in the next one.
    for (epoch, version, expected) in [
        (4, 1, ErrorCode::InvalidProducerEpoch),
        (5, 1, ErrorCode::None),
        (5, 2, ErrorCode::InvalidProducerEpoch),
        (6, 2, ErrorCode::None),
    ] {
        assert_eq!(check(&known, epoch, 7, version), expected, "epoch {epoch}, version {version}");
    }
    known.apply_marker(&marker(1, 6, 7, Commit, 1));
    assert_eq!(check(&known, 6, 7, 2), ErrorCode::None, "a repeated marker has nothing to end");
    assert_eq!(check(&known, 6, 6, 2), ErrorCode::TransactionCoordinatorFenced);
    assert_eq!(check(&known, 5, 8, 2), ErrorCode::InvalidProducerEpoch);
    known.apply(&transactional(1, i16::MAX, 0, 2));
    assert_eq!(check(&known, i16::MAX, 7, 2), ErrorCode::None, "there is no higher epoch");
    let nobodys = EndMarker { producer_id: ProducerId(-1), ..marker(1, 0, 0, Commit, 0).end };
    assert_eq!(code_of(known.check_marker(&nobodys, 0)), ErrorCode::InvalidProducerIdMapping);
}

#[test]
fn a_transaction_begins_only_with_the_guard_of_its_verification() {
    let mut known = ProducerStates::new();
    let first = transactional(1, 0, 0, 0);
    assert_eq!(code_of(known.check(&first, &AppendTerms::CLIENT)), ErrorCode::InvalidTxnState);
    let unverified = AppendTerms { verifies: false, ..AppendTerms::CLIENT };
    assert_eq!(known.check(&first, &unverified), Ok(ProducerCheck::New));
    let guard = known.begin_verification(&request(1, 0, 0, false), TimestampMs(0)).unwrap().unwrap();
    assert_eq!(known.check(&first, &with_guard(Some(&guard))), Ok(ProducerCheck::New));
    // The transaction ends before the append, by a time-out: what was confirmed is no longer true.
    known.apply_marker(&marker(1, 0, 0, Abort, 0));
    assert_eq!(code_of(known.check(&first, &with_guard(Some(&guard)))), ErrorCode::InvalidTxnState);
    let again = known.begin_verification(&request(1, 0, 0, false), TimestampMs(0)).unwrap().unwrap();
    assert_eq!(code_of(known.check(&first, &with_guard(Some(&guard)))), ErrorCode::InvalidTxnState, "an old guard");
    assert_eq!(known.check(&first, &with_guard(Some(&again))), Ok(ProducerCheck::New));
    known.apply(&first);
    // From now on the transaction itself is the proof.
    assert!(known.begin_verification(&request(1, 0, 1, false), TimestampMs(0)).unwrap().is_none());
    assert_eq!(known.check(&transactional(1, 0, 1, 1), &AppendTerms::CLIENT), Ok(ProducerCheck::New));
    assert_eq!(code_of(known.check(&batch(0, 1, 1, 1), &AppendTerms::CLIENT)), ErrorCode::None, "another producer");
    let outside = ProducerBatch { is_transactional: false, ..transactional(1, 0, 1, 1) };
    assert_eq!(code_of(known.check(&outside, &AppendTerms::CLIENT)), ErrorCode::InvalidTxnState);
    // A higher epoch is another transaction.
    assert_eq!(code_of(known.check(&transactional(1, 1, 0, 1), &AppendTerms::CLIENT)), ErrorCode::InvalidTxnState);
    let fenced = known.begin_verification(&request(1, -1, 0, true), TimestampMs(0));
    assert_eq!(code_of(fenced), ErrorCode::InvalidProducerEpoch);
}

/// Each batch under a new producer id left a verification for a day, which no ceiling counted.
#[test]
fn verifications_without_end_stay_below_the_ceilings() {
    let begin = |known: &mut ProducerStates, id| {
        known.begin_verification(&request(id, 0, 0, true), TimestampMs(id)).unwrap().unwrap()
    };
    let mut known = ProducerStates::new();
    let first = begin(&mut known, 1);
    for id in 2..3 * i64::try_from(VERIFICATIONS_MAX).unwrap() {
        begin(&mut known, id);
        assert!(known.verifications.len() <= VERIFICATIONS_MAX);
    }
    let forgotten = known.check(&transactional(1, 0, 0, 0), &with_guard(Some(&first)));
    assert_eq!(code_of(forgotten), ErrorCode::InvalidTxnState);
    let newest = begin(&mut known, 7_777_777);
    assert_eq!(known.check(&transactional(7_777_777, 0, 0, 0), &with_guard(Some(&newest))), Ok(ProducerCheck::New));
    // Of the broker.
    let budget = ProducerBudget::new(1_000);
    let mut logs: Vec<_> = (0..100).map(|_| ProducerStates::within(Some(budget.clone()))).collect();
    for id in 1..1_000 {
        for log in &mut logs {
            begin(log, id);
        }
    }
    assert!(budget.used() < 2 * budget.ceiling(), "{budget:?}");
    for log in &mut logs {
        log.remove_expired(TimestampMs(EXPIRATION_MS + 1_000), EXPIRATION_MS);
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn producers_ask_again_after_what_may_be_confirmed_later() {
    let retried = [
        ErrorCode::NetworkException,
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotCoordinator,
        ErrorCode::OperationNotAttempted,
    ];
    for verdict in retried {
        assert_eq!(refusal_of(verdict, true), ErrorCode::NotEnoughReplicas, "{verdict:?}");
    }
    assert_eq!(refusal_of(ErrorCode::ConcurrentTransactions, false), ErrorCode::NotEnoughReplicas);
    for verdict in [ErrorCode::ConcurrentTransactions, ErrorCode::TransactionAbortable, ErrorCode::InvalidProducerEpoch]
    {
        assert_eq!(refusal_of(verdict, true), verdict);
    }
}

#[test]
fn a_later_batch_does_not_overtake_an_earlier_one_that_waits_for_its_verification() {
    let mut known = ProducerStates::new();
    let guard = known.begin_verification(&request(1, 0, 5, false), TimestampMs(0)).unwrap().unwrap();
    known.begin_verification(&request(1, 0, 3, false), TimestampMs(0)).unwrap().unwrap();
    let check = |base_sequence| code_of(known.check(&transactional(1, 0, base_sequence, 0), &with_guard(Some(&guard))));
    assert_eq!((check(5), check(3)), (ErrorCode::OutOfOrderSequenceNumber, ErrorCode::None));
    // With an epoch for each transaction the first sequence is known.
    let mut bumping = ProducerStates::new();
    let guard = bumping.begin_verification(&request(1, 0, 3, true), TimestampMs(0)).unwrap().unwrap();
    let refused = bumping.check(&transactional(1, 0, 3, 0), &with_guard(Some(&guard)));
    assert_eq!(code_of(refused), ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(bumping.remove_expired(TimestampMs(EXPIRATION_MS), EXPIRATION_MS), 0);
    let expired = bumping.check(&transactional(1, 0, 0, 0), &with_guard(Some(&guard)));
    assert_eq!(code_of(expired), ErrorCode::InvalidTxnState, "verifications go with idle producers");
}

#[test]
fn a_coordinators_batch_has_no_sequences() {
    let mut known = ProducerStates::new();
    let offsets = |offset| ProducerBatch {
        base_sequence: NO_SEQUENCE,
        last_sequence: NO_SEQUENCE,
        ..transactional(1, 3, 0, offset)
    };
    let guard = known.begin_verification(&request(1, 3, NO_SEQUENCE, true), TimestampMs(0)).unwrap();
    let terms = AppendTerms { guard: guard.as_ref(), ..AppendTerms::COORDINATOR };
    assert_eq!(known.check(&offsets(0), &terms), Ok(ProducerCheck::New));
    known.apply(&offsets(0));
    assert_eq!(known.check(&offsets(1), &AppendTerms::COORDINATOR), Ok(ProducerCheck::New), "not a duplicate");
    let fenced = ProducerBatch { producer_epoch: ProducerEpoch(2), ..offsets(1) };
    assert_eq!(code_of(known.check(&fenced, &AppendTerms::COORDINATOR)), ErrorCode::InvalidProducerEpoch);
}

#[test]
fn the_end_moves_with_records_of_nobody_and_producers_are_counted() {
    let mut known = ProducerStates::new();
    assert!(known.is_empty());
    known.set_end_offset(Offset(9));
    assert_eq!((known.end_offset(), known.len()), (Offset(9), 0));
    known.apply(&batch(0, 0, 1, 9));
    known.apply(&ProducerBatch { producer_id: ProducerId(9), ..batch(0, 0, 1, 10) });
    assert_eq!((known.len(), known.is_empty(), known.end_offset()), (2, false, Offset(11)));
}

/// 0 is the first id that a cluster gives out.
#[test]
fn producer_0_is_a_producer() {
    let of_0 =
        |base_sequence, offset| ProducerBatch { producer_id: ProducerId(0), ..batch(0, base_sequence, 1, offset) };
    let mut known = ProducerStates::new();
    known.apply(&of_0(0, 0));
    assert_eq!(code(&known, &of_0(0, 1)), ErrorCode::DuplicateSequenceNumber);
    assert_eq!(code(&known, &of_0(5, 1)), ErrorCode::OutOfOrderSequenceNumber);
    known.apply(&ProducerBatch { producer_id: ProducerId::NONE, ..batch(-1, -1, 1, 1) });
    assert_eq!((known.len(), known.end_offset()), (1, Offset(2)), "a batch of nobody moves the end only");
    assert_eq!(code_of(known.check_marker(&marker(0, 0, 0, Commit, 2).end, 0)), ErrorCode::None);
}

#[test]
fn a_marker_makes_room_for_a_producer_that_is_not_known() {
    let budget = ProducerBudget::new(20);
    let mut known = ProducerStates::within(Some(budget.clone()));
    for id in 1..=20 {
        known.apply(&ProducerBatch { producer_id: ProducerId(id), ..batch(0, 0, 1, id) });
    }
    known.apply_marker(&marker(20, 0, 0, Commit, 21));
    assert_eq!((known.len(), budget.forgotten()), (20, 0), "it was there");
    known.apply_marker(&marker(21, 0, 0, Commit, 22));
    assert_eq!((known.len(), budget.forgotten()), (19, 2), "a tenth was forgotten");
    assert!(known.last_of(ProducerId(2)).is_none() && known.last_of(ProducerId(3)).is_some(), "the oldest");
}

#[test]
fn the_question_about_one_producer_does_not_end_those_about_others() {
    let begin = |known: &mut ProducerStates, id| {
        known.begin_verification(&request(id, 0, 0, true), TimestampMs(id)).unwrap().unwrap()
    };
    let is_open = |known: &ProducerStates, id, guard| {
        known.check(&transactional(id, 0, 0, 0), &with_guard(Some(guard))) == Ok(ProducerCheck::New)
    };
    let mut known = ProducerStates::new();
    let most = i64::try_from(VERIFICATIONS_MAX).unwrap();
    let guards: Vec<_> = (1..=most).map(|id| (id, begin(&mut known, id))).collect();
    assert!(guards.iter().all(|(id, guard)| is_open(&known, *id, guard)), "there is room for all of them");
    // One that is known takes no more room.
    begin(&mut known, most);
    assert!(guards.iter().take(VERIFICATIONS_MAX - 1).all(|(id, guard)| is_open(&known, *id, guard)));
    begin(&mut known, most + 1);
    assert!(!is_open(&known, 1, &guards[0].1), "the oldest made room");
}

/// A log that takes the place of another one (a moved replica) continues with what was asked for it.
#[test]
fn verifications_go_over_to_the_log_that_replaces_this_one() {
    let mut replaced = ProducerStates::new();
    let guard = replaced.begin_verification(&request(1, 0, 0, false), TimestampMs(0)).unwrap().unwrap();
    let mut known = ProducerStates::new();
    let first = transactional(1, 0, 0, 0);
    assert_eq!(code_of(known.check(&first, &with_guard(Some(&guard)))), ErrorCode::InvalidTxnState);
    known.take_verifications(&mut replaced);
    assert_eq!(known.check(&first, &with_guard(Some(&guard))), Ok(ProducerCheck::New));
}

/// The sequence of an older epoch bounds nothing: the epoch was bumped while its verification was under way.
#[test]
fn a_verification_of_a_bumped_epoch_begins_at_its_own_sequence() {
    let mut known = ProducerStates::new();
    let guard = known.begin_verification(&request(1, 0, 0, false), TimestampMs(0)).unwrap().unwrap();
    known.begin_verification(&request(1, 1, 4, false), TimestampMs(0)).unwrap().unwrap();
    let terms = with_guard(Some(&guard));
    assert_eq!(code_of(known.check(&transactional(1, 1, 4, 0), &terms)), ErrorCode::None);
    assert_eq!(code_of(known.check(&transactional(1, 1, 5, 0), &terms)), ErrorCode::OutOfOrderSequenceNumber);
    // Of the same epoch the lowest counts; a request of the former epoch changes nothing.
    known.begin_verification(&request(1, 1, 6, false), TimestampMs(0)).unwrap().unwrap();
    known.begin_verification(&request(1, 0, 9, false), TimestampMs(0)).unwrap().unwrap();
    assert_eq!(code_of(known.check(&transactional(1, 1, 5, 0), &terms)), ErrorCode::OutOfOrderSequenceNumber);
}

#[test]
fn a_verification_lasts_as_long_as_an_idle_producer() {
    let mut known = ProducerStates::new();
    let guard = known.begin_verification(&request(1, 0, 0, false), TimestampMs(5)).unwrap().unwrap();
    let first = transactional(1, 0, 0, 0);
    known.remove_expired(TimestampMs(EXPIRATION_MS + 4), EXPIRATION_MS);
    assert_eq!(known.check(&first, &with_guard(Some(&guard))), Ok(ProducerCheck::New));
    known.remove_expired(TimestampMs(EXPIRATION_MS + 5), EXPIRATION_MS);
    assert_eq!(code_of(known.check(&first, &with_guard(Some(&guard)))), ErrorCode::InvalidTxnState);
}

/// A producer whose epoch is bumped with every transaction begins each at 0, unless the log has batches of it.
#[test]
fn only_a_producer_without_batches_must_begin_a_new_transaction_at_0() {
    let mut known = ProducerStates::new();
    known.apply(&transactional(1, 0, 0, 0));
    known.apply_marker(&marker(1, 0, 0, Commit, 1));
    let guard = known.begin_verification(&request(1, 0, 1, true), TimestampMs(0)).unwrap().unwrap();
    assert_eq!(known.check(&transactional(1, 0, 1, 2), &with_guard(Some(&guard))), Ok(ProducerCheck::New));
    // Of this one the log has a marker alone.
    known.apply_marker(&marker(2, 0, 0, Commit, 2));
    let guard = known.begin_verification(&request(2, 0, 3, true), TimestampMs(0)).unwrap().unwrap();
    let refused = known.check(&transactional(2, 0, 3, 3), &with_guard(Some(&guard)));
    assert!(matches!(refused, Err(ProducerError::SequenceOfNewTransaction { .. })), "{refused:?}");
}

#[test]
fn transactions_whose_markers_are_replicated_are_not_kept() {
    let mut known = ProducerStates::new();
    known.apply(&transactional(1, 0, 0, 0));
    known.apply_marker(&marker(1, 0, 0, Commit, 1));
    assert_eq!(known.transactions.unreplicated.len(), 1);
    known.replicated(Offset(1));
    assert_eq!(known.transactions.unreplicated.len(), 1, "the marker is at 1");
    known.replicated(Offset(2));
    assert_eq!(known.transactions.unreplicated.len(), 0);
}
