//! The fetcher's states, input by input.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, PartitionId, TopicId, TopicIdPartition};
use ottla_replication::{FetchAnswer, FetchPosition, FollowerStep, Following};

use crate::*;

const SOURCE: BrokerId = BrokerId(7);
const NO_RECORDS: &[u8] = &[];

fn at(ms: u64) -> MonotonicMs {
    MonotonicMs(ms)
}

fn partition(number: i32) -> TopicIdPartition {
    TopicIdPartition { topic_id: TopicId([1; 16]), partition: PartitionId(number) }
}

fn position(epoch: i32, offset: i64) -> FetchPosition {
    FetchPosition {
        leader_epoch: LeaderEpoch(epoch),
        offset: Offset(offset),
        last_fetched_epoch: LeaderEpoch(epoch),
        log_start: Offset(0),
        high_watermark: None,
    }
}

fn fetch_from(offset: i64) -> FollowerStep {
    FollowerStep::Fetch(position(1, offset))
}

fn following(step: FollowerStep) -> Option<Following> {
    Some(Following { leader: SOURCE, leader_epoch: LeaderEpoch(1), step })
}

fn answer(error: ErrorCode) -> FetchAnswer {
    FetchAnswer { error, diverging: None, high_watermark: Offset(0), log_start: Offset(0) }
}

/// Followers that return scripted steps, and record their inputs.
#[derive(Default)]
struct Script {
    steps: BTreeMap<i32, FollowerStep>,
    fetched: Vec<(i32, Offset)>,
    bounds: Vec<(i32, Option<(Offset, Offset)>)>,
}

impl Script {
    fn step(&self, handle: i32) -> FollowerStep {
        self.steps.get(&handle).copied().unwrap_or(FollowerStep::Stop)
    }
}

impl Followers for Script {
    type Handle = i32;

    fn next_step(&mut self, handle: &i32, _: LeaderEpoch) -> FollowerStep {
        self.step(*handle)
    }

    fn fetched(&mut self, handle: &i32, asked: FetchPosition, _: &FetchAnswer, _: &[u8]) -> FollowerStep {
        self.fetched.push((*handle, asked.offset));
        self.step(*handle)
    }

    fn leader_bounds(&mut self, handle: &i32, _: LeaderEpoch, bounds: Option<(Offset, Offset)>) -> FollowerStep {
        self.bounds.push((*handle, bounds));
        self.step(*handle)
    }
}

struct Bench {
    fetcher: Fetcher<i32>,
    followers: Script,
}

impl Bench {
    fn new() -> Self {
        let config = FetcherConfig {
            max_wait: Duration::from_millis(500),
            socket_timeout: Duration::from_secs(30),
            backoff_max: Duration::from_secs(1),
            rules: BrokenRules::default(),
        };
        Self { fetcher: Fetcher::new(SOURCE, config), followers: Script::default() }
    }

    /// Connected, with a session, and these partitions in it from offset 0.
    fn fetching(partitions: &[i32]) -> Self {
        let mut bench = Self::new();
        for number in partitions {
            bench.change(*number, fetch_from(0));
        }
        assert_eq!(bench.tick(0), [Effect::Connect]);
        bench.fetcher.connected(at(0));
        let first = bench.fetch(0);
        assert_eq!((first.session_id, first.session_epoch, first.max_wait), (0, 0, Duration::ZERO));
        bench.answered(0, first.number, &[]);
        bench
    }

    fn change(&mut self, number: i32, step: FollowerStep) {
        self.followers.steps.insert(number, step);
        self.fetcher.role_changed(at(0), partition(number), number, following(step));
    }

    fn tick(&mut self, now: u64) -> Vec<Effect> {
        self.fetcher.tick(at(now), &mut self.followers)
    }

    /// The one fetch that is due.
    fn fetch(&mut self, now: u64) -> FetchRequest {
        match self.tick(now).as_slice() {
            [Effect::Fetch(request)] => request.clone(),
            other => panic!("a fetch was due: {other:?}"),
        }
    }

    fn questions(&mut self, now: u64) -> Vec<BoundsQuestion> {
        let effects = self.tick(now);
        let question = |effect: &Effect| match effect {
            Effect::AskBounds(question) => Some(*question),
            _ => None,
        };
        effects.iter().filter_map(question).collect()
    }

    /// Answers of session 5; each partition's follower takes the step that the script has for it.
    fn answered(&mut self, now: u64, number: RequestNumber, partitions: &[(i32, ErrorCode)]) {
        let response = FetchResponse { error: ErrorCode::None, session_id: 5 };
        let partitions = partitions.iter().map(|(number, error)| (partition(*number), answer(*error), NO_RECORDS));
        self.fetcher.fetched(at(now), number, response, partitions, &mut self.followers);
    }
}

#[test]
fn a_session_names_only_what_changed() {
    let mut bench = Bench::fetching(&[1, 2]);
    let idle = bench.fetch(1);
    assert_eq!((idle.session_id, idle.session_epoch, idle.max_wait), (5, 1, Duration::from_millis(500)));
    assert!(idle.partitions.is_empty() && idle.forgotten.is_empty());
    bench.followers.steps.insert(2, fetch_from(9));
    bench.answered(2, idle.number, &[(2, ErrorCode::None)]);
    assert_eq!(bench.followers.fetched, [(2, Offset(0))]);
    let next = bench.fetch(2);
    assert_eq!((next.session_epoch, next.partitions), (2, vec![(partition(2), position(1, 9))]));
}

#[test]
fn a_new_partition_overtakes_the_fetch_that_is_held_back() {
    let mut bench = Bench::fetching(&[1]);
    bench.fetch(1);
    assert!(bench.tick(1).is_empty(), "one fetch is under way, and nothing is new");
    bench.change(2, fetch_from(0));
    assert_eq!(bench.fetch(2).partitions, [(partition(2), position(1, 0))]);
    bench.change(3, fetch_from(0));
    assert!(bench.tick(3).is_empty(), "two are under way");
}

#[test]
fn an_answer_counts_for_the_position_that_its_request_named() {
    let mut bench = Bench::fetching(&[1]);
    let held = bench.fetch(1);
    // Truncated meanwhile, and listed again by a second request.
    bench.change(1, fetch_from(4));
    let second = bench.fetch(2);
    assert_eq!(second.partitions, [(partition(1), position(1, 4))]);
    bench.answered(3, held.number, &[(1, ErrorCode::None)]);
    bench.answered(3, second.number, &[(1, ErrorCode::None)]);
    assert_eq!(bench.followers.fetched, [(1, Offset(0)), (1, Offset(4))]);
}

#[test]
fn scenario_37_a_change_keeps_an_open_question() {
    let mut bench = Bench::fetching(&[1]);
    let fetch = bench.fetch(1);
    bench.followers.steps.insert(1, FollowerStep::AskLeaderBounds);
    bench.answered(2, fetch.number, &[(1, ErrorCode::OffsetOutOfRange)]);
    let questions = bench.questions(2);
    assert_eq!(questions.iter().map(|question| question.end).collect::<Vec<_>>(), [LogEnd::Earliest, LogEnd::Latest]);
    bench.fetcher.bounds_answered(at(3), questions[0].number, Some(Offset(50)), &mut bench.followers);
    // Another replica joined the ISR.
    bench.change(1, FollowerStep::AskLeaderBounds);
    assert!(bench.questions(3).is_empty(), "the question is not asked twice");
    bench.followers.steps.insert(1, fetch_from(50));
    bench.fetcher.bounds_answered(at(4), questions[1].number, Some(Offset(60)), &mut bench.followers);
    assert_eq!(bench.followers.bounds, [(1, Some((Offset(50), Offset(60))))]);
    assert_eq!(bench.fetch(4).partitions, [(partition(1), position(1, 50))]);
}

#[test]
fn scenario_37_whoever_takes_over_a_partition_with_an_open_question_asks_it() {
    let mut bench = Bench::fetching(&[1]);
    bench.fetch(1);
    bench.change(2, FollowerStep::AskLeaderBounds);
    assert_eq!(bench.questions(1).len(), 2);
}

#[test]
fn a_broken_connection_leaves_no_question_without_an_answer() {
    let mut bench = Bench::fetching(&[1]);
    bench.change(1, FollowerStep::AskLeaderBounds);
    let before = bench.questions(1);
    bench.fetcher.disconnected(at(2));
    assert!(bench.tick(2).is_empty(), "a pause comes first");
    let retry_at = bench.fetcher.deadline().expect("a pause");
    assert_eq!(bench.fetcher.tick(retry_at, &mut bench.followers), [Effect::Connect]);
    bench.fetcher.connected(retry_at);
    assert_eq!(bench.questions(retry_at.0).len(), before.len());
}

#[test]
fn a_question_of_an_earlier_leader_epoch_is_not_the_one_that_is_waited_for() {
    let mut bench = Bench::fetching(&[1]);
    bench.change(1, FollowerStep::AskLeaderBounds);
    let old = bench.questions(1);
    let step = FollowerStep::AskLeaderBounds;
    let newer = Following { leader: SOURCE, leader_epoch: LeaderEpoch(2), step };
    bench.fetcher.role_changed(at(2), partition(1), 1, Some(newer));
    assert_eq!(bench.questions(2).len(), 2);
    for question in old {
        bench.fetcher.bounds_answered(at(3), question.number, Some(Offset(1)), &mut bench.followers);
    }
    assert!(bench.followers.bounds.is_empty());
}

#[test]
fn pauses_grow_with_errors_and_the_source_forgets_the_partition_meanwhile() {
    let mut bench = Bench::fetching(&[1, 2]);
    let mut now = 1;
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let fetch = bench.fetch(now);
        bench.followers.steps.insert(1, FollowerStep::BackOff);
        bench.answered(now, fetch.number, &[(1, ErrorCode::NotLeaderOrFollower)]);
        let parked = bench.fetch(now);
        assert_eq!(parked.forgotten, [partition(1)]);
        bench.answered(now, parked.number, &[]);
        let held = bench.fetch(now);
        let resumes = bench.fetcher.deadline().expect("a pause");
        pauses.push(resumes.0 - now);
        now = resumes.0;
        bench.followers.steps.insert(1, fetch_from(0));
        let again = bench.fetch(now);
        assert_eq!(again.partitions, [(partition(1), position(1, 0))]);
        bench.answered(now, held.number, &[]);
        // The script returns "fetch" only at the check after the pause.
        bench.followers.steps.insert(1, FollowerStep::BackOff);
        bench.answered(now, again.number, &[]);
    }
    assert_eq!(pauses, [10, 20, 40]);
}

#[test]
fn a_refused_fetch_starts_the_session_anew_after_a_pause() {
    let mut bench = Bench::fetching(&[1]);
    let fetch = bench.fetch(1);
    let refused = FetchResponse { error: ErrorCode::InvalidFetchSessionEpoch, session_id: 0 };
    let nothing: [(TopicIdPartition, FetchAnswer, &[u8]); 0] = [];
    bench.fetcher.fetched(at(2), fetch.number, refused, nothing, &mut bench.followers);
    assert!(bench.tick(2).is_empty());
    let anew = bench.fetch(2 + 20);
    assert_eq!((anew.session_id, anew.session_epoch), (0, 0));
    assert_eq!(anew.partitions, [(partition(1), position(1, 0))], "everything is named again");
}

#[test]
fn without_a_session_every_fetch_names_everything_and_may_wait() {
    let mut bench = Bench::new();
    bench.change(1, fetch_from(0));
    assert_eq!(bench.tick(0), [Effect::Connect]);
    bench.fetcher.connected(at(0));
    let first = bench.fetch(0);
    let response = FetchResponse { error: ErrorCode::None, session_id: 0 };
    let nothing: [(TopicIdPartition, FetchAnswer, &[u8]); 0] = [];
    bench.fetcher.fetched(at(0), first.number, response, nothing, &mut bench.followers);
    let second = bench.fetch(0);
    assert_eq!((second.session_id, second.session_epoch, second.max_wait), (0, 0, Duration::from_millis(500)));
    assert_eq!(second.partitions, [(partition(1), position(1, 0))]);
}

#[test]
fn partitions_that_got_no_records_come_first() {
    let mut bench = Bench::fetching(&[1, 2]);
    let fetch = bench.fetch(1);
    bench.followers.steps.insert(1, fetch_from(9));
    let response = FetchResponse { error: ErrorCode::None, session_id: 5 };
    let records = [(partition(1), answer(ErrorCode::None), b"records")];
    bench.fetcher.fetched(at(2), fetch.number, response, records, &mut bench.followers);
    bench.change(2, fetch_from(3));
    let order: Vec<_> = bench.fetch(2).partitions.into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [partition(2), partition(1)]);
}

#[test]
fn silence_and_a_new_registration_end_the_connection_and_idleness_too() {
    let mut bench = Bench::fetching(&[1]);
    bench.fetch(1);
    let silent_at = bench.fetcher.deadline().expect("an answer is waited for");
    assert_eq!(bench.tick(silent_at.0), [Effect::Disconnect(Disconnect::Silent)]);
    let mut bench = Bench::fetching(&[1]);
    bench.fetcher.reconnect(at(1));
    assert_eq!(bench.tick(1), [Effect::Disconnect(Disconnect::SourceRegistered)]);
    let mut bench = Bench::fetching(&[1]);
    bench.fetcher.leave(at(1), partition(1));
    assert_eq!(bench.tick(1), [Effect::Disconnect(Disconnect::NothingToFetch)]);
    assert!(bench.fetcher.is_idle() && bench.fetcher.deadline().is_none());
}

#[test]
fn attempts_to_connect_pause_longer_each_time_and_a_change_ends_the_pause() {
    let mut bench = Bench::new();
    bench.change(1, fetch_from(0));
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        assert_eq!(bench.tick(now), [Effect::Connect]);
        bench.fetcher.disconnected(at(now));
        let retry_at = bench.fetcher.deadline().expect("a pause");
        pauses.push(retry_at.0 - now);
        now = retry_at.0;
    }
    assert_eq!(pauses, [20, 40, 80, 160, 250, 250]);
    assert_eq!(bench.tick(now), [Effect::Connect]);
    bench.fetcher.disconnected(at(now));
    bench.fetcher.reconnect(at(now));
    assert_eq!(bench.tick(now), [Effect::Connect]);
}

#[test]
fn a_partition_moves_from_one_fetcher_to_another() {
    let mut assignments = Assignments::default();
    assert_eq!(assignments.assign(partition(1), Some(1)), Reassigned { from: None, to: Some(1) });
    assert_eq!(assignments.assign(partition(1), Some(1)), Reassigned { from: None, to: Some(1) });
    assert_eq!(assignments.assign(partition(1), Some(2)), Reassigned { from: Some(1), to: Some(2) });
    assert_eq!(assignments.assign(partition(1), None), Reassigned { from: Some(2), to: None });
    let _ = assignments.assign(partition(1), Some(2));
    assignments.clear();
    assert_eq!(assignments.assign(partition(1), Some(3)), Reassigned { from: None, to: Some(3) });
}

#[test]
fn a_fetcher_knows_what_it_fetches() {
    let mut bench = Bench::fetching(&[1]);
    bench.change(2, FollowerStep::AskLeaderBounds);
    let fetcher = &bench.fetcher;
    assert_eq!((fetcher.source(), fetcher.is_idle()), (SOURCE, false));
    assert!(fetcher.is_fetching(&partition(1)) && !fetcher.is_fetching(&partition(2)));
    assert_eq!((fetcher.handle(&partition(2)), fetcher.handle(&partition(3))), (Some(&2), None));
}

#[test]
fn partitions_that_pause_or_ask_send_no_fetch() {
    let mut bench = Bench::fetching(&[1, 2]);
    bench.change(1, FollowerStep::BackOff);
    bench.change(2, FollowerStep::AskLeaderBounds);
    let effects = bench.tick(1);
    assert!(effects.len() == 2 && effects.iter().all(|effect| matches!(effect, Effect::AskBounds(_))), "{effects:?}");
    let mut bench = Bench::fetching(&[1]);
    bench.change(1, FollowerStep::BackOff);
    assert_eq!(bench.tick(1), []);
}

/// Only the time in which an answer is waited for is silence.
#[test]
fn the_time_without_a_request_is_not_silence() {
    let mut bench = Bench::fetching(&[1]);
    let first = bench.fetch(100_000);
    assert_eq!(bench.fetcher.deadline(), Some(at(100_000 + 30_500)));
    // A second request does not make up for the answer to the first.
    bench.change(2, fetch_from(0));
    let second = bench.fetch(120_000);
    assert_eq!(second.number, first.number + 1);
    assert_eq!(bench.fetcher.deadline(), Some(at(100_000 + 30_500)));
    bench.answered(125_000, second.number, &[]);
    assert_eq!(bench.fetcher.deadline(), Some(at(125_000 + 30_500)));
}

#[test]
fn an_answer_of_the_session_before_changes_nothing() {
    let mut bench = Bench::fetching(&[1]);
    let held = bench.fetch(1);
    bench.change(2, fetch_from(0));
    let second = bench.fetch(1);
    let refused = FetchResponse { error: ErrorCode::FetchSessionIdNotFound, session_id: 0 };
    let nothing: [(TopicIdPartition, FetchAnswer, &[u8]); 0] = [];
    bench.fetcher.fetched(at(2), second.number, refused, nothing, &mut bench.followers);
    assert!(bench.tick(2).is_empty(), "a pause comes first");
    bench.fetcher.fetched(at(20), held.number, refused, nothing, &mut bench.followers);
    assert_eq!(bench.fetch(2 + 20).session_epoch, 0, "the pause is not longer for it");
}

#[test]
fn a_source_that_gives_no_session_is_still_waited_for_after_an_error() {
    let mut bench = Bench::new();
    bench.change(1, fetch_from(0));
    assert_eq!(bench.tick(0), [Effect::Connect]);
    bench.fetcher.connected(at(0));
    let nothing: [(TopicIdPartition, FetchAnswer, &[u8]); 0] = [];
    let mut fetched = |now, error| {
        let request = bench.fetch(now);
        let response = FetchResponse { error, session_id: 0 };
        bench.fetcher.fetched(at(now), request.number, response, nothing, &mut bench.followers);
        request.max_wait
    };
    assert_eq!(fetched(0, ErrorCode::None), Duration::ZERO);
    assert_eq!(fetched(0, ErrorCode::FetchSessionIdNotFound), Duration::from_millis(500));
    assert_eq!(fetched(20, ErrorCode::None), Duration::from_millis(500));
}

#[test]
fn a_partition_that_the_source_should_not_send_is_forgotten_there() {
    let mut bench = Bench::fetching(&[1]);
    let fetch = bench.fetch(1);
    bench.answered(1, fetch.number, &[(9, ErrorCode::None)]);
    let next = bench.fetch(2);
    assert_eq!((next.forgotten, next.partitions), (vec![partition(9)], vec![]));
}

#[test]
fn a_partition_that_has_not_moved_is_not_named_again() {
    let mut bench = Bench::fetching(&[1]);
    let fetch = bench.fetch(1);
    bench.answered(1, fetch.number, &[(1, ErrorCode::None)]);
    assert!(bench.fetch(2).partitions.is_empty());
}

#[test]
fn a_success_makes_the_next_pause_short_again() {
    let mut bench = Bench::fetching(&[1]);
    let fails = |bench: &mut Bench, now: u64| {
        let fetch = bench.fetch(now);
        bench.followers.steps.insert(1, FollowerStep::BackOff);
        bench.answered(now, fetch.number, &[(1, ErrorCode::NotLeaderOrFollower)]);
        let pause = bench.fetcher.deadline().expect("a pause").0 - at(now).0;
        bench.followers.steps.insert(1, fetch_from(0));
        pause
    };
    assert_eq!((fails(&mut bench, 1), fails(&mut bench, 50)), (10, 20));
    let fetch = bench.fetch(100);
    bench.answered(100, fetch.number, &[(1, ErrorCode::None)]);
    assert_eq!(fails(&mut bench, 101), 10);
}

/// A leader whose follower came back took all of its partitions in one turn, and served nobody else for as long.
#[test]
fn very_many_partitions_are_added_in_parts() {
    let all: Vec<i32> = (0..i32::try_from(2 * ADDED_MAX + 10).expect("few")).collect();
    let mut bench = Bench::new();
    all.iter().for_each(|number| bench.change(*number, fetch_from(0)));
    assert_eq!(bench.tick(0), [Effect::Connect]);
    bench.fetcher.connected(at(0));
    let mut named = Vec::new();
    let mut ask = |bench: &mut Bench| {
        let request = bench.fetch(0);
        named.extend(request.partitions.iter().map(|(id, position)| (id.partition.0, position.offset.0)));
        (request.number, request.partitions.len(), request.max_wait.as_millis())
    };
    let (number, count, wait_ms) = ask(&mut bench);
    assert_eq!((count, wait_ms), (ADDED_MAX, 0));
    // One that has moved is named along, or its records would be sent again.
    bench.followers.steps.insert(0, fetch_from(1));
    bench.answered(0, number, &[(0, ErrorCode::None)]);
    let (number, count, wait_ms) = ask(&mut bench);
    assert_eq!((count, wait_ms), (ADDED_MAX + 1, 0));
    bench.answered(0, number, &[]);
    let (_, count, wait_ms) = ask(&mut bench);
    assert_eq!((count, wait_ms), (10, 500));
    let mut expected: Vec<_> = all.iter().map(|number| (*number, 0)).chain([(0, 1)]).collect();
    expected.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, expected);
}
