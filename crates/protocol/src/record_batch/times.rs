//! Offsets and timestamps of a batch's records, for searches by time: what it unpacks to is never held.

use std::ops::ControlFlow;

use ottla_model::{Offset, TimestampMs};

use super::decompress::{DecompressError, Decompressor};
use super::header::{BatchHeader, Compression, HEADER_BYTES, TimestampType};
use super::records::RecordsError;
use super::walk::{Source, WalkError, step, with_stream};
use crate::wire::{Reader, WireError};

/// Shows the offset and the timestamp of each record of the batch at the start of `batch`, until `look` has seen
/// enough. Ends before a record that is malformed.
///
/// # Errors
/// The batch cannot be unpacked, or unpacks to more than `unpacked_max_bytes`; `look` may have seen some records.
pub fn for_each_time(
    batch: &[u8],
    unpacked_max_bytes: u64,
    look: impl FnMut(Offset, TimestampMs) -> ControlFlow<()>,
) -> Result<(), RecordsError> {
    let header = BatchHeader::parse(batch)?;
    let packed = batch.get(HEADER_BYTES..header.size_bytes()).ok_or(WireError::Truncated)?;
    let walked = match header.compression()? {
        Compression::None => walk(&mut Reader::new(packed, 0), &header, look),
        // An empty batch has nothing to decompress, whatever its codec.
        _ if header.record_count == 0 => Ok(()),
        codec => Decompressor::new(codec, packed)
            .map_err(|error| WalkError::from(DecompressError::from_io(&error)))
            .and_then(|input| with_stream(input, unpacked_max_bytes, |source| walk(source, &header, look))),
    };
    match walked {
        Ok(()) | Err(WalkError::Structure(_)) => Ok(()),
        Err(WalkError::Decompress(error)) => Err(error.into()),
    }
}

fn walk<S: Source>(
    source: &mut S,
    header: &BatchHeader,
    mut look: impl FnMut(Offset, TimestampMs) -> ControlFlow<()>,
) -> Result<(), WalkError> {
    for _ in 0..header.record_count {
        let facts = step(source)?;
        let timestamp = match header.timestamp_type() {
            TimestampType::CreateTime => TimestampMs(header.base_timestamp.0.wrapping_add(facts.timestamp_delta)),
            TimestampType::LogAppendTime => header.max_timestamp,
        };
        if look(header.base_offset + i64::from(facts.offset_delta), timestamp).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, recompress};
    use super::*;

    #[test]
    fn the_times_are_those_of_the_records_whatever_the_codec() {
        let mut plain = BatchBuilder::new();
        let value = vec![0; 100_000];
        for at in 0..20 {
            plain.push(TimestampMs(1_000 + at), None, Some(&value[..]), &[]);
        }
        let plain = plain.build().expect("a batch");
        for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let batch = recompress(&plain, codec, u64::MAX, usize::MAX).expect("packed");
            let mut seen = Vec::new();
            let all = for_each_time(&batch, u64::MAX, |offset, timestamp| {
                seen.push((offset.0, timestamp.0));
                ControlFlow::Continue(())
            });
            assert_eq!(all, Ok(()), "{codec:?}");
            assert_eq!(seen, (0..20).map(|at| (at, 1_000 + at)).collect::<Vec<_>>(), "{codec:?}");
            let mut first = None;
            let some = for_each_time(&batch, 200_000, |offset, _| {
                first = Some(offset);
                ControlFlow::Break(())
            });
            assert_eq!((some, first), (Ok(()), Some(Offset(0))), "{codec:?}: the rest is not unpacked");
            let whole = for_each_time(&batch, 200_000, |_, _| ControlFlow::Continue(()));
            assert_eq!(whole.is_err(), codec != Compression::None, "{codec:?}");
        }
    }
}
