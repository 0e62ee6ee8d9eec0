//! Reading: which bytes of which segment answer a fetch.

use ottla_model::Offset;

use super::Log;
use crate::env::Env;
use crate::error::ReadError;
use crate::file_name;
use crate::scan::Step;
use crate::slice::LogSlice;

/// Where a batch begins in its segment's file, and where it ends.
struct Located {
    position: u32,
    end: u32,
}

impl<E: Env> Log<E> {
    /// The batches from the one that holds `from` on, of one segment: at most `max_bytes`, the last one possibly cut
    /// off; with `min_one` at least one whole batch, however large. Nothing at or above `upper` (the high watermark, the
    /// last stable offset, or for replicas the log's end) is in it: a batch that reaches there is left out.
    ///
    /// The first batch may begin before `from`; clients skip what they did not ask for. An empty slice says that there is
    /// nothing (yet) between `from` and `upper`, or that the first batch is larger than `max_bytes`: then
    /// [`LogSlice::left_out_bytes`] says how much there is. A part of the first batch would be of no use: Java's consumer
    /// throws when that is all that it gets.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] outside `log_start..=log_end`.
    pub fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        upper: Offset,
        min_one: bool,
    ) -> Result<LogSlice<E::File>, ReadError> {
        if from < self.log_start || from > self.log_end {
            return Err(ReadError::OutOfRange { offset: from, log_start: self.log_start, log_end: self.log_end });
        }
        let upper = upper.min(self.log_end);
        if from >= upper {
            return Ok(LogSlice::empty());
        }
        if max_bytes == 0 && !min_one {
            // How much there is does not matter where there is no room at all: no look at the files.
            return Ok(LogSlice::left_out(1));
        }
        for number in self.segment_number(from)..self.segments.len() {
            let Some(segment) = self.segments.get(number) else { break };
            if segment.base_offset >= upper {
                break;
            }
            let Some(first) = self.locate(number, from)? else { continue };
            let end = match self.segments.get(number + 1) {
                Some(next) if next.base_offset <= upper => segment.size_bytes,
                None if upper >= self.log_end => segment.size_bytes,
                _ => self.locate(number, upper)?.map_or(segment.size_bytes, |beyond| beyond.position),
            };
            if end <= first.position {
                break;
            }
            let available = (end - first.position) as usize;
            let whole_first = (first.end - first.position) as usize;
            let wanted = if min_one { max_bytes.max(whole_first) } else { max_bytes };
            if wanted < whole_first {
                return Ok(LogSlice::left_out(available));
            }
            let file = self.segment_file(number)?;
            return Ok(LogSlice::new(file, u64::from(first.position), available.min(wanted)));
        }
        Ok(LogSlice::empty())
    }

    /// The first batch of a segment whose last offset is `offset` or later; none if the segment has no such batch.
    fn locate(&self, number: usize, offset: Offset) -> Result<Option<Located>, ReadError> {
        let Some(segment) = self.segments.get(number) else { return Ok(None) };
        let is_active = number + 1 == self.segments.len();
        if segment.size_bytes == 0 || is_active && offset >= self.log_end {
            return Ok(None);
        }
        if is_active && let Some((position, end)) = self.recent.find(offset) {
            return Ok(Some(Located { position, end: end.unwrap_or(segment.size_bytes) }));
        }
        let file = self.segment_file(number)?;
        match segment.find(self.place(), &file, offset)? {
            Step::Batch(batch) => Ok(Some(Located { position: batch.position, end: batch.end() })),
            Step::End => Ok(None),
            Step::Invalid { position } => Err(ReadError::Corrupt {
                file: self.place().path(segment.base_offset, file_name::LOG),
                position: u64::from(position),
            }),
        }
    }

    /// The base offset of the batch that holds `offset`, or the offset itself where there is none.
    pub(crate) fn batch_start(&self, offset: Offset) -> Result<(usize, u32, Offset), ReadError> {
        let number = self.segment_number(offset);
        let Some(segment) = self.segments.get(number) else { return Ok((number, 0, offset)) };
        let file = self.segment_file(number)?;
        match segment.find(self.place(), &file, offset)? {
            Step::Batch(batch) => Ok((number, batch.position, offset.min(batch.header.base_offset))),
            Step::End => Ok((number, segment.size_bytes, offset)),
            Step::Invalid { position } => Err(ReadError::Corrupt {
                file: self.place().path(segment.base_offset, file_name::LOG),
                position: u64::from(position),
            }),
        }
    }
}
