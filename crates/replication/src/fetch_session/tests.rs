use ottla_model::MonotonicMs;

use super::*;

const WANTED: FetchPartition = FetchPartition {
    offset: Offset(0),
    log_start: Offset::UNKNOWN,
    max_bytes: 100,
    current_leader_epoch: LeaderEpoch::NONE,
    last_fetched_epoch: LeaderEpoch::NONE,
    high_watermark: None,
};
const LIMITS: FetchLimits = FetchLimits { max_bytes: 100, min_bytes: 1 };
const FOLLOWER: Fetcher = Fetcher::Replica { id: BrokerId(2), epoch: BrokerEpoch(7) };

/// Partitions that are named by numbers, each with so many bytes in one batch, and what was asked of them.
#[derive(Default)]
struct Partitions {
    bytes: Vec<usize>,
    asked: Vec<(u32, bool)>,
    /// A throttle does not let them go.
    held_back: Vec<u32>,
}

impl PartitionRead for ReadFacts {
    fn facts(&self) -> ReadFacts {
        *self
    }
}

impl ReadPartition<u32, ()> for Partitions {
    type Read = ReadFacts;

    fn read(&mut self, key: &u32, _: &mut Option<()>, request: &PartitionRequest) -> ReadFacts {
        self.asked.push((*key, request.is_progress));
        let there = self.bytes[*key as usize];
        let fits = there <= request.max_bytes || request.min_one;
        let (bytes, left_out_bytes) = if fits { (there, 0) } else { (0, there) };
        let (high_watermark, log_start) = (Offset(9), Offset(0));
        let is_held_back = self.held_back.contains(key);
        let (bytes, left_out_bytes) = if is_held_back { (0, 0) } else { (bytes, left_out_bytes) };
        ReadFacts {
            error: ErrorCode::None,
            diverges: false,
            is_redirected: false,
            bytes,
            left_out_bytes,
            is_held_back,
            high_watermark,
            log_start,
        }
    }
}

fn session(rules: BrokenRules) -> SessionPartitions<u32, ()> {
    let mut session = SessionPartitions::new(FOLLOWER, true, true, rules);
    (0..3).for_each(|partition| session.want(partition, WANTED));
    session
}

/// The partitions that the next answer names.
fn answer(session: &mut SessionPartitions<u32, ()>, partitions: &mut Partitions, full: bool) -> Vec<(u32, usize)> {
    let found = session.evaluate([], LIMITS, full, partitions);
    session.commit(&found.entries);
    found.entries.iter().map(|entry| (entry.key, entry.read.bytes)).collect()
}

#[test]
fn epochs_wrap_to_one() {
    assert_eq!(next_epoch(INITIAL_EPOCH), 1);
    assert_eq!(next_epoch(i32::MAX), 1);
    assert_eq!(next_epoch(FINAL_EPOCH), FINAL_EPOCH);
}

#[test]
fn requests_follow_one_another() {
    let mut session = session(BrokenRules::default());
    assert_eq!(session.begin_request(2, true), Err(ErrorCode::InvalidFetchSessionEpoch));
    assert_eq!(session.begin_request(1, false), Err(ErrorCode::FetchSessionTopicIdError));
    assert_eq!((session.begin_request(1, true), session.turn()), (Ok(()), 1));
    assert_eq!(session.begin_request(1, true), Err(ErrorCode::InvalidFetchSessionEpoch));
    assert_eq!((session.begin_request(2, true), session.turn()), (Ok(()), 2));
}

#[test]
fn forgetting_frees_the_slot_and_leaves_the_others() {
    let mut session = session(BrokenRules::default());
    session.want(1, FetchPartition { offset: Offset(9), ..WANTED });
    assert_eq!(session.len(), 3);
    assert_eq!(session.forget(&1), None);
    let mut partitions = Partitions { bytes: vec![0; 8], ..Partitions::default() };
    answer(&mut session, &mut partitions, false);
    assert_eq!((session.len(), partitions.asked), (2, vec![(0, true), (2, true)]));
    session.want(7, WANTED);
    assert_eq!((session.len(), session.slots.len(), session.slot_of(&7)), (3, 3, Some(1)));
}

/// Fault A2: a partition always has records, another one's batch is larger than what remains.
#[test]
fn a_batch_that_does_not_fit_comes_first_next_time() {
    let mut partitions = Partitions { bytes: vec![60, 80, 0], ..Partitions::default() };
    let mut kept = session(BrokenRules::default());
    assert_eq!(answer(&mut kept, &mut partitions, true), [(0, 60), (1, 0), (2, 0)]);
    assert_eq!(answer(&mut kept, &mut partitions, false), [(1, 80)]);
    assert_eq!(answer(&mut kept, &mut partitions, false), [(0, 60)]);
    let mut broken = session(BrokenRules { served_keeps_its_place: true, ..BrokenRules::default() });
    answer(&mut broken, &mut partitions, true);
    assert_eq!(answer(&mut broken, &mut partitions, false), [(0, 60)]);
}

#[test]
fn only_what_a_request_names_is_progress_and_only_news_are_told() {
    let mut partitions = Partitions { bytes: vec![0, 0, 0], ..Partitions::default() };
    let mut session = session(BrokenRules::default());
    answer(&mut session, &mut partitions, true);
    partitions.asked.clear();
    assert_eq!(answer(&mut session, &mut partitions, false), []);
    assert_eq!(partitions.asked, []);
    let found = session.evaluate([1, 5], LIMITS, false, &mut partitions);
    assert!(found.entries.is_empty() && !found.is_due() && !session.answers(&found, false));
    assert_eq!(partitions.asked, [(1, false)]);
    // A follower that names a partition is told again.
    session.want(2, WANTED);
    assert_eq!(answer(&mut session, &mut partitions, false), [(2, 0)]);
    assert_eq!(partitions.asked, [(1, false), (2, true)]);
}

#[test]
fn what_was_not_answered_is_told_later() {
    let mut partitions = Partitions { bytes: vec![0, 0, 0], ..Partitions::default() };
    let mut session = session(BrokenRules::default());
    let found = session.evaluate([], LIMITS, true, &mut partitions);
    session.put_back(&found.entries);
    assert_eq!(answer(&mut session, &mut partitions, false), [(0, 0), (1, 0), (2, 0)]);
}

// ---- the table

fn add(table: &mut SessionTable<SessionId>, now: u64, fetcher: Fetcher, partitions: usize) -> Option<SessionId> {
    // Never one of an earlier session.
    let mut next = i32::try_from(now).expect("small");
    let fresh_id = || {
        next += 1;
        next
    };
    table.insert(MonotonicMs(now), fetcher, partitions, fresh_id, |id| id).map(|(id, ..)| id)
}

#[test]
fn a_young_session_keeps_its_slot_from_consumers_but_not_from_followers() {
    let mut table = SessionTable::new(1, usize::MAX);
    let first = add(&mut table, 0, Fetcher::Consumer, 5).expect("free slot");
    assert_eq!(add(&mut table, 1_000, Fetcher::Consumer, 500), None);
    let follower = add(&mut table, 1_000, FOLLOWER, 1).expect("a follower takes a consumer's slot");
    assert!(table.get(first, Fetcher::Consumer).is_none());
    assert!(table.get(follower, FOLLOWER).is_some());
    assert_eq!(add(&mut table, 1_000, FOLLOWER, 100), None, "but not a young follower's");
    assert_eq!(table.len(), 1);
}

#[test]
fn an_idle_session_and_a_smaller_old_one_give_way() {
    let mut table = SessionTable::new(2, usize::MAX);
    let small = add(&mut table, 0, Fetcher::Consumer, 2).expect("free slot");
    let large = add(&mut table, 0, Fetcher::Consumer, 50).expect("free slot");
    assert_eq!(table.touch(small, MonotonicMs(119_000), 2), Ok(()));
    assert_eq!(table.touch(large, MonotonicMs(119_000), 50), Ok(()));
    assert_eq!(add(&mut table, 121_000, Fetcher::Consumer, 1), None, "worth less than any");
    let third = add(&mut table, 121_000, Fetcher::Consumer, 10).expect("worth more than the small one");
    assert!(table.get(small, Fetcher::Consumer).is_none());
    assert!(table.get(large, Fetcher::Consumer).is_some());
    assert_eq!(table.touch(third, MonotonicMs(230_000), 10), Ok(()));
    add(&mut table, 240_000, Fetcher::Consumer, 1).expect("the large one has been idle");
    assert!(table.get(large, Fetcher::Consumer).is_none());
}

#[test]
fn a_session_gives_way_after_two_minutes_and_not_before() {
    const AGE: u64 = 120_000;
    // One that was used gives way to one that is worth as much, once it is old enough.
    let mut table = SessionTable::new(1, usize::MAX);
    let used = add(&mut table, 0, Fetcher::Consumer, 5).expect("free slot");
    assert_eq!(table.touch(used, MonotonicMs(AGE - 1_000), 5), Ok(()));
    assert_eq!(add(&mut table, AGE, Fetcher::Consumer, 5), None);
    assert!(add(&mut table, AGE + 1, Fetcher::Consumer, 5).is_some());
    // One that is idle gives way to any.
    let mut table = SessionTable::new(1, usize::MAX);
    let idle = add(&mut table, 0, Fetcher::Consumer, 50).expect("free slot");
    assert_eq!(table.touch(idle, MonotonicMs(1_000), 50), Ok(()));
    assert_eq!(add(&mut table, 1_000 + AGE, Fetcher::Consumer, 1), None);
    assert!(add(&mut table, 1_001 + AGE, Fetcher::Consumer, 1).is_some());
}

/// Two sessions of a thousand partitions.
const CONSUMER_BYTES_MAX: usize = 2 * (SESSION_BYTES + 1_000 * SESSION_PARTITION_BYTES);

#[test]
fn what_consumers_can_make_the_broker_remember_is_bounded() {
    let mut table = SessionTable::new(10, CONSUMER_BYTES_MAX);
    let half = 1_000;
    assert!(table.is_empty());
    assert_eq!(table.consumer_bytes(), (0, CONSUMER_BYTES_MAX, 0));
    let first = add(&mut table, 0, Fetcher::Consumer, half).expect("free slot");
    assert_eq!((table.consumer_bytes(), table.is_empty()), ((CONSUMER_BYTES_MAX / 2, CONSUMER_BYTES_MAX, 0), false));
    for refused in 1..=3 {
        assert_eq!(add(&mut table, 0, Fetcher::Consumer, half + 1), None);
        assert_eq!(table.consumer_bytes().2, refused);
    }
    let second = add(&mut table, 0, Fetcher::Consumer, half).expect("free slot");
    add(&mut table, 0, FOLLOWER, 10_000).expect("followers are not counted");
    assert_eq!(table.touch(first, MonotonicMs(1), half), Ok(()));
    assert_eq!((table.len(), table.consumer_bytes()), (3, (CONSUMER_BYTES_MAX, CONSUMER_BYTES_MAX, 3)));
    assert_eq!(table.touch(first, MonotonicMs(2), half + 1), Err(Some(first)), "it has grown too large");
    assert_eq!(table.consumer_bytes(), (CONSUMER_BYTES_MAX / 2, CONSUMER_BYTES_MAX, 4));
    assert!(table.get(first, Fetcher::Consumer).is_none());
    assert_eq!(table.touch(second, MonotonicMs(3), half + 1), Ok(()));
    assert_eq!(table.touch(second, MonotonicMs(4), 0), Err(Some(second)), "nothing is left of it");
    assert_eq!((table.len(), table.consumer_bytes()), (1, (0, CONSUMER_BYTES_MAX, 4)), "none was refused for that");
}

/// The session of a request that names so many partitions: its id, whether it is a new one, and which sessions ended.
fn find(
    table: &mut SessionTable<SessionId>,
    (id, epoch): (SessionId, i32),
    partitions: usize,
) -> Result<(SessionId, bool, Vec<SessionId>), ErrorCode> {
    let mut next = 10;
    let fresh_id = || {
        next += 1;
        next
    };
    let request = SessionRequest { id, epoch, uses_topic_ids: true, partitions };
    let (found, ended) = table.find(MonotonicMs(0), Fetcher::Consumer, &request, fresh_id, |id| id)?;
    assert_eq!(found.session, found.id);
    Ok((found.id, found.is_full, ended))
}

#[test]
fn a_request_begins_continues_or_ends_a_session() {
    let (mut table, (one, two)) = (SessionTable::new(2, usize::MAX), (SessionId(11), SessionId(12)));
    assert_eq!(find(&mut table, (SessionId::NONE, INITIAL_EPOCH), 2), Ok((one, true, vec![])));
    assert_eq!(find(&mut table, (one, 1), 0), Ok((one, false, vec![])));
    assert_eq!(find(&mut table, (two, 1), 0), Err(ErrorCode::FetchSessionIdNotFound));
    assert_eq!(find(&mut table, (SessionId::NONE, INITIAL_EPOCH), 2), Ok((two, true, vec![])));
    assert_eq!(find(&mut table, (two, INITIAL_EPOCH), 0), Ok((SessionId::NONE, true, vec![two])), "of nothing");
    assert_eq!(find(&mut table, (one, FINAL_EPOCH), 2), Ok((SessionId::NONE, true, vec![one])));
    assert!(table.is_empty());
}

#[test]
fn an_answer_names_no_session_that_does_not_live_on() {
    let mut table = SessionTable::new(2, usize::MAX);
    let id = add(&mut table, 0, Fetcher::Consumer, 3).expect("free slot");
    let found = Found { session: id, id, is_full: false };
    assert_eq!(table.taken_in(&found, MonotonicMs(0), 2), id);
    assert_eq!(table.taken_in(&found, MonotonicMs(0), 0), SessionId::NONE, "nothing is left of it");
    assert_eq!(table.taken_in(&found, MonotonicMs(0), 2), SessionId::NONE, "it has ended");
}

#[test]
fn a_parked_request_is_over_when_the_next_one_comes_or_the_session_ends() {
    let mut session = session(BrokenRules::default());
    let next = |epoch| SessionRequest { id: SessionId(1), epoch, uses_topic_ids: true, partitions: 0 };
    assert!(!session.is_over(0));
    assert_eq!(session.take_in(&next(1), [], [2]), Ok(vec![]));
    assert!(session.is_over(0) && !session.is_over(1));
    assert_eq!(session.take_in(&next(1), [], []), Err(ErrorCode::InvalidFetchSessionEpoch));
    assert_eq!((session.len(), session.is_over(1)), (2, false));
    assert!(!session.is_ended());
    session.end();
    assert!(session.is_over(1) && session.is_empty() && session.is_ended());
}

#[test]
fn a_session_is_found_only_by_its_fetcher() {
    let mut table = SessionTable::new(2, usize::MAX);
    let id = add(&mut table, 0, FOLLOWER, 3).expect("free slot");
    assert!(table.get(id, Fetcher::Consumer).is_none());
    let later_life = Fetcher::Replica { id: BrokerId(2), epoch: BrokerEpoch(8) };
    assert!(table.get(id, later_life).is_none());
    assert_eq!(table.remove(id, Fetcher::Consumer), None);
    assert!(table.get(id, FOLLOWER).is_some());
    assert_eq!(table.remove(id, FOLLOWER), Some(id));
    assert!(table.is_empty());
}

/// A throttled partition would never be looked at again: its follower does not name it, and nothing is appended.
#[test]
fn a_partition_that_is_held_back_does_not_hurry_the_answer_and_is_looked_at_again() {
    let mut session = session(BrokenRules::default());
    let mut partitions = Partitions { bytes: vec![0, 0, 40], held_back: vec![2], ..Partitions::default() };
    let found = session.evaluate([], LIMITS, true, &mut partitions);
    assert!(!found.is_due(), "nothing may go yet");
    session.commit(&found.entries);
    assert_eq!(answer(&mut session, &mut partitions, false), []);
    assert_eq!(partitions.asked.last(), Some(&(2, false)));
    partitions.held_back.clear();
    assert_eq!(answer(&mut session, &mut partitions, false), [(2, 40)]);
}

/// KIP-1166: a follower whose consumers wait names the high watermark that it knows. The partitions' is 9.
#[test]
fn a_high_watermark_that_is_waited_for_is_told_at_once_and_once() {
    let mut partitions = Partitions { bytes: vec![0, 0, 0], ..Partitions::default() };
    let mut session = session(BrokenRules::default());
    answer(&mut session, &mut partitions, true);
    let mut is_due = |wanted, partitions: &mut Partitions| {
        if let Some(wanted) = wanted {
            session.want(1, wanted);
        }
        let found = session.evaluate([1], LIMITS, false, partitions);
        let is_due = found.is_due();
        session.commit(&found.entries);
        is_due
    };
    let knows = |offset| Some(FetchPartition { high_watermark: Some(offset), log_start: Offset(0), ..WANTED });
    assert!(!is_due(Some(WANTED), &mut partitions), "it can wait");
    assert!(!is_due(knows(Offset(9)), &mut partitions), "it is known");
    assert!(is_due(knows(Offset(8)), &mut partitions));
    assert!(!is_due(None, &mut partitions), "it was told, though the follower could not take it");
    assert!(is_due(knows(Offset::UNKNOWN), &mut partitions));
    let behind = FetchPartition { log_start: Offset(-1), high_watermark: Some(Offset(9)), ..WANTED };
    assert!(is_due(Some(behind), &mut partitions), "the log start goes with it");
}

#[test]
fn a_consumer_that_is_sent_elsewhere_does_not_wait() {
    let facts = ReadFacts {
        error: ErrorCode::None,
        diverges: false,
        is_redirected: true,
        bytes: 0,
        left_out_bytes: 0,
        is_held_back: false,
        high_watermark: Offset(9),
        log_start: Offset(0),
    };
    let nothing = ReadFacts { is_redirected: false, ..facts };
    assert!(facts.is_urgent() && !nothing.is_urgent());
    assert!(ReadFacts { diverges: true, ..nothing }.is_urgent());
    assert!(ReadFacts { error: ErrorCode::OffsetOutOfRange, ..nothing }.is_urgent());
}

/// A full answer: the first one names every partition all the same, and what a request names is progress.
#[test]
fn only_what_nobody_named_waits_for_the_next_answer_when_one_is_full() {
    let mut partitions = Partitions { bytes: vec![100, 50, 50], ..Partitions::default() };
    let mut session = session(BrokenRules::default());
    let looked_at = |partitions: &mut Partitions| {
        std::mem::take(&mut partitions.asked).into_iter().map(|(partition, _)| partition).collect::<Vec<_>>()
    };
    // Twice: the request was parked in between.
    let first = session.evaluate([], LIMITS, true, &mut partitions);
    assert_eq!((looked_at(&mut partitions), first.bytes()), (vec![0, 1, 2], 100));
    session.put_back(&first.entries);
    assert_eq!(answer(&mut session, &mut partitions, true), [(0, 100), (1, 0), (2, 0)]);
    assert_eq!(looked_at(&mut partitions), [0, 1, 2]);
    assert_eq!(answer(&mut session, &mut partitions, false), [(1, 50), (2, 50)]);
    assert_eq!(looked_at(&mut partitions), [1, 2]);
    session.want(1, WANTED);
    assert_eq!(answer(&mut session, &mut partitions, false), [(0, 100), (1, 0)], "1 was named");
    assert_eq!(looked_at(&mut partitions), [0, 1]);
}

#[test]
fn a_fetch_is_answered_when_there_is_something_or_its_time_is_up() {
    let mut partitions = Partitions { bytes: vec![0, 0, 0], ..Partitions::default() };
    let mut session = session(BrokenRules::default());
    answer(&mut session, &mut partitions, true);
    let nothing = session.evaluate([], LIMITS, false, &mut partitions);
    assert!(!session.answers(&nothing, false) && session.answers(&nothing, true));
    partitions.bytes[1] = 1;
    let something = session.evaluate([1], LIMITS, false, &mut partitions);
    assert!(session.answers(&something, false));
    let of_nothing = SessionPartitions::<u32, ()>::new(FOLLOWER, true, true, BrokenRules::default());
    assert!(of_nothing.answers(&nothing, false), "nothing will ever come");
}
