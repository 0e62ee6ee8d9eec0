//! One transactional id as its record holds it, and the transitions that a coordinator makes.
//!
//! States: Empty → Ongoing → PrepareCommit → CompleteCommit, or → PrepareAbort → CompleteAbort; from a complete state
//! back to Empty (a producer initializes) or Ongoing (the next transaction). PrepareAbort is also reached without a
//! partition (KIP-890: the abort of a transaction that may or may not have begun). Transitions are values: nothing
//! changes before the record of the change is replicated.

use std::collections::BTreeSet;

use ottla_model::{ErrorCode, ProducerEpoch, ProducerId, TimestampMs, TopicPartition};

/// The states of Kafka's records. `Dead` and `PrepareEpochFence` are never written; they are known because lists filter
/// by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TransactionState {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
    Dead = 6,
    PrepareEpochFence = 7,
}

impl TransactionState {
    const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    pub fn from_id(id: i8) -> Option<Self> {
        usize::try_from(id).ok().and_then(|id| Self::ALL.get(id)).copied()
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// The outcome is decided and markers may be on their way.
    pub fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// No transaction runs: the id may be forgotten when it is not used any more.
    pub fn is_idle(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }
}

/// What a producer can do: the levels of Kafka's feature `transaction.version`. Level 2 gives a producer a new epoch
/// with the end of each transaction (KIP-890, part 2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct TransactionVersion(i16);

impl TransactionVersion {
    pub const V0: Self = Self(0);
    pub const V2: Self = Self(2);

    /// None for a level that Kafka does not have.
    pub fn from_level(level: i16) -> Option<Self> {
        (0..=2).contains(&level).then_some(Self(level))
    }

    pub fn level(self) -> i16 {
        self.0
    }

    /// Whether every end of a transaction gives the producer a new epoch.
    pub fn bumps_epoch(self) -> bool {
        self >= Self::V2
    }
}

/// A producer id and the epoch of one incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Producer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

impl Producer {
    pub const NONE: Self = Self { id: ProducerId::NONE, epoch: ProducerEpoch::NONE };

    /// Whether the epochs of the id are used up: the last one is kept for fencing.
    pub fn is_exhausted(self) -> bool {
        self.epoch.0 >= i16::MAX - 1
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub producer: Producer,
    /// The id before the last change.
    pub previous_producer_id: ProducerId,
    /// The id with which the producer goes on once the markers are written, where its epochs are used up.
    pub next_producer_id: ProducerId,
    /// The epoch that a repeated InitProducerId may still name (KIP-360). Not in the record.
    pub last_epoch: ProducerEpoch,
    pub timeout_ms: i32,
    pub state: TransactionState,
    pub partitions: BTreeSet<TopicPartition>,
    /// When the transaction began; none before the first one.
    pub start: TimestampMs,
    pub last_update: TimestampMs,
    /// What the producer of the last transaction can do.
    pub version: TransactionVersion,
}

impl Transaction {
    /// An id that has not been used yet: its first epoch is still to come.
    pub fn new(producer_id: ProducerId, timeout_ms: i32, now: TimestampMs) -> Self {
        Self {
            producer: Producer { id: producer_id, epoch: ProducerEpoch::NONE },
            previous_producer_id: ProducerId::NONE,
            next_producer_id: ProducerId::NONE,
            last_epoch: ProducerEpoch::NONE,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            start: TimestampMs::NONE,
            last_update: now,
            version: TransactionVersion::V0,
        }
    }

    /// Whether no producer has been initialized yet.
    pub fn is_new(&self) -> bool {
        self.producer.epoch == ProducerEpoch::NONE
    }

    /// Whether the producer never times out (KIP-939).
    pub fn is_two_phase(&self) -> bool {
        self.timeout_ms == i32::MAX
    }

    /// Whether the producer goes on as this one once the markers are written. It was told so with the decision, and may
    /// be faster than the markers.
    pub fn becomes(&self, producer: Producer) -> bool {
        producer.id != ProducerId::NONE && producer == Producer { id: self.next_producer_id, epoch: ProducerEpoch(0) }
    }

    /// Whether a producer that recovers may go on under this id (KIP-360): it holds the current id or the next one, or
    /// it repeats a request whose answer, a new id, it did not get.
    pub fn knows(&self, expected: Producer) -> bool {
        self.is_new()
            || expected.id == self.producer.id
            || self.becomes(expected)
            || (expected.id == self.previous_producer_id && expected.is_exhausted())
    }

    /// Whether the next InitProducerId needs a new producer id.
    pub fn needs_new_id(&self, expected: Option<Producer>) -> bool {
        self.producer.is_exhausted() && expected.is_none_or(|expected| expected.epoch == self.producer.epoch)
    }

    /// The producer initializes under a new id.
    pub fn rotated(&self, id: ProducerId, timeout_ms: i32, expected: Option<Producer>, now: TimestampMs) -> Self {
        let last_epoch = if expected.is_some() { self.producer.epoch } else { ProducerEpoch::NONE };
        self.initialized(Producer { id, epoch: ProducerEpoch(0) }, last_epoch, timeout_ms, now)
    }

    /// The producer initializes with the next epoch.
    ///
    /// # Errors
    /// Another producer was initialized since.
    pub fn incremented(
        &self,
        timeout_ms: i32,
        expected: Option<Producer>,
        now: TimestampMs,
    ) -> Result<Self, ErrorCode> {
        let next = Producer { epoch: self.producer.epoch.next(), ..self.producer };
        let (producer, last_epoch) = match expected {
            None => (next, ProducerEpoch::NONE),
            // The producer goes on after an error, and nobody was initialized meanwhile.
            Some(expected) if self.is_new() || expected.epoch == self.producer.epoch => (next, self.producer.epoch),
            // A repeated request. A new producer would have made the last epoch none.
            Some(expected) if expected.epoch == self.last_epoch => (self.producer, self.last_epoch),
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        Ok(self.initialized(producer, last_epoch, timeout_ms, now))
    }

    fn initialized(&self, producer: Producer, last_epoch: ProducerEpoch, timeout_ms: i32, now: TimestampMs) -> Self {
        Self {
            producer,
            previous_producer_id: self.producer.id,
            next_producer_id: ProducerId::NONE,
            last_epoch,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            start: TimestampMs::NONE,
            last_update: now,
            version: self.version,
        }
    }

    /// Partitions join the transaction; the first of them begins it.
    pub fn with_partitions(&self, added: &[TopicPartition], version: TransactionVersion, now: TimestampMs) -> Self {
        let mut partitions = self.partitions.clone();
        partitions.extend(added.iter().cloned());
        Self {
            previous_producer_id: self.producer.id,
            state: TransactionState::Ongoing,
            partitions,
            start: if self.state == TransactionState::Ongoing { self.start } else { now },
            last_update: now,
            version,
            ..self.clone()
        }
    }

    /// The outcome is decided. `next_id` is the producer's next id where its epochs are used up.
    pub fn prepared(
        &self,
        commit: bool,
        version: TransactionVersion,
        next_id: Option<ProducerId>,
        now: TimestampMs,
    ) -> Self {
        let (epoch, last_epoch) = if version.bumps_epoch() {
            (self.producer.epoch.next(), self.producer.epoch)
        } else {
            (self.producer.epoch, self.last_epoch)
        };
        Self {
            producer: Producer { epoch, ..self.producer },
            previous_producer_id: self.producer.id,
            next_producer_id: next_id.unwrap_or(ProducerId::NONE),
            last_epoch,
            state: if commit { TransactionState::PrepareCommit } else { TransactionState::PrepareAbort },
            // An abort of a transaction that had not begun begins and ends now.
            start: if self.state == TransactionState::Ongoing { self.start } else { now },
            last_update: now,
            version,
            ..self.clone()
        }
    }

    /// The transaction is aborted by the coordinator: the producer is fenced by an epoch that it never learns.
    pub fn fenced(&self, version: TransactionVersion, now: TimestampMs) -> Self {
        let fence = Self {
            producer: Producer { epoch: self.producer.epoch.next(), ..self.producer },
            last_epoch: ProducerEpoch::NONE,
            ..self.clone()
        };
        fence.prepared(false, version, None, now)
    }

    /// All markers are written.
    pub fn completed(&self, now: TimestampMs) -> Self {
        let is_rotated = self.version.bumps_epoch() && self.next_producer_id != ProducerId::NONE;
        let rotated = Producer { id: self.next_producer_id, epoch: ProducerEpoch(0) };
        Self {
            producer: if is_rotated { rotated } else { self.producer },
            previous_producer_id: self.producer.id,
            next_producer_id: ProducerId::NONE,
            state: match self.state {
                TransactionState::PrepareCommit => TransactionState::CompleteCommit,
                _ => TransactionState::CompleteAbort,
            },
            partitions: BTreeSet::new(),
            last_update: now,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(1_000);

    fn at(epoch: i16) -> Transaction {
        let mut transaction = Transaction::new(ProducerId(7), 60_000, NOW);
        transaction.producer.epoch = ProducerEpoch(epoch);
        transaction
    }

    #[test]
    fn states_have_their_ids_and_names() {
        for (id, state) in TransactionState::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, id);
            assert_eq!(TransactionState::from_id(id as i8), Some(state));
            assert_eq!(TransactionState::from_name(state.name()), Some(state));
        }
        assert_eq!((TransactionState::from_id(8), TransactionState::from_id(-1)), (None, None));
        assert_eq!(TransactionState::from_name("ongoing"), None);
    }

    #[test]
    fn a_first_producer_gets_epoch_0_whatever_it_expects() {
        let new = at(-1);
        assert!(new.knows(Producer { id: ProducerId(99), epoch: ProducerEpoch(5) }));
        let first = new.incremented(1, Some(Producer { id: ProducerId(99), epoch: ProducerEpoch(5) }), NOW).unwrap();
        assert_eq!(first.producer, Producer { id: ProducerId(7), epoch: ProducerEpoch(0) });
    }

    #[test]
    fn a_repeated_initialization_gets_the_same_epoch_until_another_producer_comes() {
        let expected = Producer { id: ProducerId(7), epoch: ProducerEpoch(3) };
        let bumped = at(3).incremented(1, Some(expected), NOW).unwrap();
        assert_eq!(bumped.producer.epoch, ProducerEpoch(4));
        assert_eq!(bumped.incremented(1, Some(expected), NOW).unwrap().producer.epoch, ProducerEpoch(4));
        let other = bumped.incremented(1, None, NOW).unwrap();
        assert_eq!(other.incremented(1, Some(expected), NOW), Err(ErrorCode::ProducerFenced));
    }

    #[test]
    fn the_last_epoch_is_kept_for_fencing() {
        let last = at(i16::MAX - 1);
        assert!(last.producer.is_exhausted() && !at(i16::MAX - 2).producer.is_exhausted());
        let fenced = last.fenced(TransactionVersion::V2, NOW);
        assert_eq!(fenced.producer.epoch, ProducerEpoch(i16::MAX));
        assert_eq!(fenced.completed(NOW).producer.epoch, ProducerEpoch(i16::MAX));
        let ended = last.prepared(true, TransactionVersion::V2, Some(ProducerId(8)), NOW);
        assert_eq!(ended.producer, Producer { id: ProducerId(7), epoch: ProducerEpoch(i16::MAX) });
        let complete = ended.completed(NOW);
        assert_eq!(complete.producer, Producer { id: ProducerId(8), epoch: ProducerEpoch(0) });
        assert_eq!(complete.previous_producer_id, ProducerId(7));
        assert!(complete.knows(last.producer), "a producer that missed the answer repeats with its last epoch");
    }

    #[test]
    fn a_coordinators_abort_skips_an_epoch_that_the_producer_may_guess() {
        let fenced = at(4).fenced(TransactionVersion::V2, NOW);
        assert_eq!((fenced.producer.epoch, fenced.last_epoch), (ProducerEpoch(6), ProducerEpoch(5)));
        assert_eq!(at(4).fenced(TransactionVersion::V0, NOW).producer.epoch, ProducerEpoch(5));
    }
}
