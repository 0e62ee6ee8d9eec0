//! Record batches of format 2: the 61-byte header, a broker's validation before an append, compression, building and
//! reading.
//!
//! A batch is the same bytes from the producer through every log to the consumer. A leader changes only the base offset
//! and the leader epoch, which the CRC does not cover, and, if the topic requires it, the timestamps.

mod batches;
mod builder;
mod compress;
mod control;
mod decompress;
mod filter;
mod header;
mod records;
mod times;
mod validate;
#[cfg(test)]
mod validate_tests;
mod walk;

pub use batches::{Batch, Batches};
pub use builder::{BatchBuilder, RecompressError, recompress};
pub use compress::{Packing, compress};
pub use control::EndMarkerRecord;
pub use decompress::{DecompressError, Decompressor, decompress};
pub use filter::{Filtered, KeyedRecord, StoredRecords, empty_batch};
pub use header::{
    Attributes, BatchHeader, Compression, HEADER_BYTES, HeaderError, LOG_OVERHEAD_BYTES, MAGIC, TimestampType,
    UnknownCompression, crc_of, patch_offset_and_epoch, prepare_for_append, set_max_timestamp, set_max_timestamp_of,
    verify_crc,
};
pub use records::{Header, Record, Records, RecordsError};
pub use times::for_each_time;
pub use validate::{
    InvalidBatch, Limits, RECORD_ERRORS_MAX, RecordFault, RecordProblem, ValidatedBatch, set_unpacked_ceiling, validate,
};
