//! What a coordinator's state has to be able to do.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, ProducerId, TimestampMs};

use crate::Now;
use crate::effects::{BatchNumber, Effects, RequestId};

/// The effects of a shard.
pub type EffectsOf<S> = Effects<<S as CoordinatorShard>::Answer, <S as CoordinatorShard>::Message>;

/// A record of the log, while the log is read.
#[derive(Clone, Copy, Debug)]
pub struct Replayed<'a> {
    pub timestamp: TimestampMs,
    pub key: &'a Bytes,
    pub value: Option<&'a [u8]>,
    /// Whose transaction the record belongs to.
    pub producer: Option<ProducerId>,
}

/// The state of one leader epoch: first the log's records, then requests, the time, and what became of batches. It
/// changes only by these calls.
pub trait CoordinatorShard: Sized {
    type Config;
    /// What it may look at besides its own state: a reference, valid for one input.
    type View<'a>;
    type Request;
    type Answer;
    /// What it sends to other brokers.
    type Message;
    /// Something that happened and concerns it, and that is not a request.
    type Notice;
    type RecordError: fmt::Debug + fmt::Display;

    /// Nothing is known yet; the partition is led in `epoch`.
    fn new(config: Arc<Self::Config>, epoch: LeaderEpoch) -> Self;

    /// Holds for what is decided from now on; timers that run keep their deadlines.
    fn set_config(&mut self, config: Arc<Self::Config>);

    /// Replays one record. Keys of later versions are passed over, as Kafka does.
    ///
    /// # Errors
    /// The key or the value is not what its version says.
    fn replay(&mut self, record: Replayed<'_>) -> Result<(), Self::RecordError>;

    /// Replays the end of a producer's transaction.
    fn replay_end_of_transaction(&mut self, producer: ProducerId, is_commit: bool);

    /// Replay is over, and everything that was read is replicated.
    fn loaded(&mut self, now: Now, view: &mut Self::View<'_>) -> EffectsOf<Self>;

    /// One request. Its answer is among the effects of this step or of a later one.
    fn step(&mut self, now: Now, view: &mut Self::View<'_>, id: RequestId, request: Self::Request) -> EffectsOf<Self>;

    /// Does what is due.
    fn tick(&mut self, now: Now, view: &mut Self::View<'_>) -> EffectsOf<Self>;

    fn notice(&mut self, now: Now, view: &mut Self::View<'_>, notice: Self::Notice) -> EffectsOf<Self>;

    /// Whether a notice that comes while the log is read waits for the end of that; else it is dropped.
    fn waits_for_loading(notice: &Self::Notice) -> bool;

    /// Whether the log has to be asked first if it takes records. No request: before timers and notices.
    fn asks_log(&self, view: &Self::View<'_>, request: Option<&Self::Request>) -> bool;

    /// Whether the log takes records, and batches of how many bytes, as far as it can know.
    fn set_log_state(&mut self, state: Result<usize, ErrorCode>);

    /// A batch was appended; `end` is the log end offset after it.
    fn appended(&mut self, now: Now, view: &mut Self::View<'_>, batch: BatchNumber, end: Offset) -> EffectsOf<Self>;

    /// The log refused a batch and holds nothing of it.
    fn append_refused(&mut self, now: Now, batch: BatchNumber, error: ErrorCode) -> EffectsOf<Self>;

    /// The high watermark may have moved.
    fn committed_up_to(&mut self, now: Now, view: &mut Self::View<'_>, high_watermark: Offset) -> EffectsOf<Self>;

    /// The broker leads the partition no longer: every request that waits is answered with the error.
    fn resign(&mut self, error: ErrorCode) -> EffectsOf<Self>;

    /// When `tick` has something to do.
    fn next_deadline(&self) -> Option<MonotonicMs>;

    /// The answer to a request that fails as a whole.
    fn failed(error: ErrorCode) -> Self::Answer;
}
