//! Scenario 39: fetches of random sizes and limits, against a plain model of Kafka's rules (KIP-74, KIP-227).
//!
//! The model checks every partition of the session for each request, as Kafka does. The session, which is the one that
//! brokers run, checks only those that may have news. Both must return the same records of the same partitions in the
//! same order.

#![allow(clippy::unwrap_used)]

use ottla_model::{ErrorCode, LeaderEpoch, Offset};
use ottla_replication::fetch_session::{
    BrokenRules, FetchPartition, Fetcher, PartitionRead, PartitionRequest, ReadFacts, ReadPartition, SessionPartitions,
};
use ottla_replication::{AnswerBudget, FetchLimits};
use proptest::prelude::*;

const PARTITIONS: usize = 6;

/// Sizes of the batches; an offset is the number of a batch.
type Batches = Vec<usize>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Read {
    bytes: usize,
    /// Batches that are whole.
    whole: usize,
    left_out_bytes: usize,
}

/// A log's read: at most `room`, the last batch possibly cut off, but never only a part of the first one.
fn read(batches: &[usize], from: usize, room: usize, takes_large_batch: bool) -> Read {
    let rest = batches.get(from..).unwrap_or_default();
    let (available, first) = (rest.iter().sum::<usize>(), rest.first().copied().unwrap_or(0));
    let room = if takes_large_batch { room.max(first) } else { room };
    if room < first {
        return Read { bytes: 0, whole: 0, left_out_bytes: available };
    }
    let bytes = available.min(room);
    let mut end = 0;
    let whole = rest
        .iter()
        .take_while(|size| {
            end += **size;
            end <= bytes
        })
        .count();
    Read { bytes, whole, left_out_bytes: 0 }
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    offset: usize,
    max_bytes: usize,
}

type Returned = Vec<(usize, Read)>;

#[derive(Default)]
struct Kafka {
    /// The session's order.
    partitions: Vec<(usize, Wanted)>,
}

impl Kafka {
    fn fetch(
        &mut self,
        logs: &[Batches],
        named: &[(usize, Wanted)],
        forgotten: &[usize],
        max_bytes: usize,
    ) -> Returned {
        for (partition, wanted) in named {
            match self.partitions.iter_mut().find(|(known, _)| known == partition) {
                Some((_, known)) => *known = *wanted,
                None => self.partitions.push((*partition, *wanted)),
            }
        }
        self.partitions.retain(|(known, _)| !forgotten.contains(known));
        let (mut limit, mut takes_large_batch) = (max_bytes, true);
        let mut returned = Vec::new();
        for (partition, wanted) in &self.partitions {
            let read = read(&logs[*partition], wanted.offset, wanted.max_bytes.min(limit), takes_large_batch);
            limit = limit.saturating_sub(read.bytes);
            if read.bytes > 0 {
                takes_large_batch = false;
                returned.push((*partition, read));
            }
        }
        for (partition, _) in &returned {
            let at = self.partitions.iter().position(|(known, _)| known == partition).unwrap();
            let served = self.partitions.remove(at);
            self.partitions.push(served);
        }
        returned
    }
}

impl PartitionRead for Read {
    fn facts(&self) -> ReadFacts {
        ReadFacts {
            error: ErrorCode::None,
            diverges: false,
            is_redirected: false,
            bytes: self.bytes,
            left_out_bytes: self.left_out_bytes,
            is_held_back: false,
            high_watermark: Offset(0),
            log_start: Offset(0),
        }
    }
}

struct Logs<'l>(&'l [Batches]);

impl ReadPartition<usize, ()> for Logs<'_> {
    type Read = Read;

    fn read(&mut self, partition: &usize, _: &mut Option<()>, request: &PartitionRequest) -> Read {
        let from = usize::try_from(request.wanted.offset.0).unwrap();
        read(&self.0[*partition], from, request.max_bytes, request.min_one)
    }
}

struct Session {
    partitions: SessionPartitions<usize, ()>,
    news: Vec<u32>,
}

impl Session {
    fn new() -> Self {
        let partitions = SessionPartitions::new(Fetcher::Consumer, true, true, BrokenRules::default());
        Self { partitions, news: Vec::new() }
    }

    fn appended(&mut self, partition: usize) {
        self.news.extend(self.partitions.slot_of(&partition));
    }

    /// `parks`: the request was looked at before, and not answered.
    fn fetch(
        &mut self,
        logs: &[Batches],
        named: &[(usize, Wanted)],
        forgotten: &[usize],
        max_bytes: usize,
        parks: bool,
    ) -> Returned {
        for (partition, wanted) in named {
            let wanted = FetchPartition {
                offset: Offset(i64::try_from(wanted.offset).unwrap()),
                log_start: Offset::UNKNOWN,
                max_bytes: wanted.max_bytes,
                current_leader_epoch: LeaderEpoch::NONE,
                last_fetched_epoch: LeaderEpoch::NONE,
                high_watermark: None,
            };
            self.partitions.want(*partition, wanted);
        }
        for partition in forgotten {
            self.partitions.forget(partition);
        }
        let limits = FetchLimits { max_bytes, min_bytes: 1 };
        if parks {
            let found = self.partitions.evaluate(std::mem::take(&mut self.news), limits, false, &mut Logs(logs));
            self.partitions.put_back(&found.entries);
        }
        let found = self.partitions.evaluate(std::mem::take(&mut self.news), limits, false, &mut Logs(logs));
        self.partitions.commit(&found.entries);
        found.entries.iter().filter(|entry| entry.read.bytes > 0).map(|entry| (entry.key, entry.read)).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { partition: usize, size: usize },
    Fetch { max_bytes: usize, takes: bool, parks: bool, adds: Vec<(usize, usize)>, forgets: Vec<usize> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (0..PARTITIONS, 1..40_usize).prop_map(|(partition, size)| Step::Append { partition, size });
    let fetch = (
        0..120_usize,
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec((0..PARTITIONS, 0..60_usize), 0..4),
        prop::collection::vec(0..PARTITIONS, 0..2),
    )
        .prop_map(|(max_bytes, takes, parks, adds, forgets)| Step::Fetch {
            max_bytes,
            takes,
            parks,
            adds,
            forgets,
        });
    prop::collection::vec(prop_oneof![2 => append, 3 => fetch], 1..80)
}

proptest! {
    #[test]
    fn a_session_returns_what_kafka_would(steps in steps()) {
        let mut logs: Vec<Batches> = vec![Vec::new(); PARTITIONS];
        let (mut kafka, mut session) = (Kafka::default(), Session::new());
        // The client: its position in each partition, and the content of the last response.
        let mut offsets = [0; PARTITIONS];
        let mut sizes = [25; PARTITIONS];
        let mut last: Vec<usize> = Vec::new();
        for step in steps {
            match step {
                Step::Append { partition, size } => {
                    logs[partition].push(size);
                    session.appended(partition);
                }
                Step::Fetch { max_bytes, takes, parks, adds, forgets } => {
                    let mut named: Vec<usize> = if takes { std::mem::take(&mut last) } else { Vec::new() };
                    for (partition, size) in adds {
                        sizes[partition] = size;
                        named.push(partition);
                    }
                    named.dedup();
                    let named: Vec<_> = named.into_iter().map(|partition| {
                        (partition, Wanted { offset: offsets[partition], max_bytes: sizes[partition] })
                    }).collect();
                    let expected = kafka.fetch(&logs, &named, &forgets, max_bytes);
                    let found = session.fetch(&logs, &named, &forgets, max_bytes, parks);
                    prop_assert_eq!(&found, &expected);
                    for (number, (partition, read)) in found.iter().enumerate() {
                        prop_assert!(read.whole > 0, "records without a whole batch");
                        let total: usize = found[..=number].iter().map(|(_, read)| read.bytes).sum();
                        prop_assert!(total <= max_bytes || number == 0);
                        if takes {
                            offsets[*partition] += read.whole;
                        }
                    }
                    last = found.into_iter().map(|(partition, _)| partition).collect();
                }
            }
        }
    }
}

/// The promise of apache/kafka KIP-227, and redpanda-data/redpanda#2949: each request lists the busy partitions again.
#[test]
fn partitions_that_are_named_anew_do_not_starve_the_others() {
    let logs: Vec<Batches> = vec![vec![40; 9]; PARTITIONS];
    let (mut session, mut offsets) = (Session::new(), [0; PARTITIONS]);
    let mut named: Vec<usize> = (0..PARTITIONS).collect();
    for turn in 0..9 {
        let wanted: Vec<_> = named.iter().map(|at| (*at, Wanted { offset: offsets[*at], max_bytes: 50 })).collect();
        let found = session.fetch(&logs, &wanted, &[], 100, false);
        named = found.into_iter().map(|(partition, _)| partition).collect();
        let first = turn * 2 % PARTITIONS;
        assert_eq!(named, [first, first + 1], "answer {turn}");
        named.iter().for_each(|at| offsets[*at] += 1);
    }
}

#[test]
fn an_answer_is_due_with_what_it_has_and_what_it_had_no_room_for() {
    let limits = FetchLimits { max_bytes: 100, min_bytes: 60 };
    let mut budget = AnswerBudget::new(limits);
    assert!(!budget.is_due() && !budget.is_full());
    budget.add(40, 0, 50);
    assert_eq!((budget.bytes(), budget.room(50), budget.room(90)), (40, 50, 60));
    assert!(!budget.is_due() && !budget.is_full());
    // 19 that its fetcher wants, and 900 that it does not want at once.
    budget.add(0, 919, 19);
    assert!(!budget.is_due());
    budget.add(0, 1, 50);
    assert!(budget.is_due(), "waiting makes no room");
    budget.add(60, 0, 60);
    assert!(budget.is_full() && budget.room(50) == 0);
    let mut none = AnswerBudget::new(FetchLimits { max_bytes: 0, min_bytes: 0 });
    assert!(none.is_due() && !none.is_full(), "one batch may exceed every limit");
    none.add(7, 0, 0);
    assert!(none.is_full());
}
