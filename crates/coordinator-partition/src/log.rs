//! What a partition's coordinator needs of its log.

use std::io;

use bytes::BytesMut;
use ottla_model::{ErrorCode, LeaderEpoch, Offset};
use ottla_protocol::record_batch::BatchBuilder;

use crate::effects::{Batch, BatchKind};

/// Records of coordinators are not told apart by sequences.
const NO_SEQUENCE: i32 = -1;

/// The local replica of the partition. All methods return at once; [`PartitionLog::append`] may wait for a write to the
/// page cache, but not for a sync or for other replicas.
pub trait PartitionLog {
    /// The epoch in which this broker leads the partition; [`LeaderEpoch::NONE`] while it does not.
    fn leading_epoch(&self) -> LeaderEpoch;

    fn high_watermark(&self) -> Offset;

    /// The log end offset, if this leader of `epoch` holds no record.
    fn end_if_empty(&self, epoch: LeaderEpoch) -> Option<Offset>;

    /// Whether [`Self::append`] would be accepted now, as far as the replicas and the directory are concerned, and up
    /// to how many bytes.
    ///
    /// # Errors
    /// The error with which an append would be refused.
    fn check_append(&self, epoch: LeaderEpoch) -> Result<usize, ErrorCode>;

    /// Appends a batch, or writes a marker, as the leader of `epoch` and returns the log end offset after it.
    ///
    /// # Errors
    /// The log holds nothing of the batch.
    fn append(&mut self, epoch: LeaderEpoch, batch: &Batch) -> Result<Offset, ErrorCode>;
}

impl Batch {
    /// The batch of records as a log holds it, uncompressed; the log sets its offset and epoch.
    ///
    /// # Errors
    /// The batch is too large for the format.
    pub fn encode(&self) -> io::Result<BytesMut> {
        let mut builder = BatchBuilder::new();
        if let BatchKind::Transactional { producer_id, producer_epoch } = self.kind {
            builder = builder.producer(producer_id, producer_epoch, NO_SEQUENCE).transactional();
        }
        for record in &self.records {
            builder.push(self.timestamp, Some(&record.key), record.value.as_deref(), &[]);
        }
        builder.build()
    }
}
