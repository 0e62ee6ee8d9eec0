//! Cleaning a group of segments into one.

use super::job::{Cleaned, Cleaning, Source};
use super::output::Output;
use super::retention::{Kept, Retention};
use super::{CleanError, Pacing};
use crate::env::{Env, OpenMode};
use crate::scan::{BatchScan, Step};

impl<E: Env> Cleaning<E> {
    /// None if nothing would change, or there is nothing in the group.
    pub(super) fn clean_group(&mut self, group: &[Source], pace: Pacing<'_>) -> Result<Option<Cleaned>, CleanError> {
        let (Some(first), Some(last)) = (group.first(), group.iter().rev().find(|source| source.size_bytes > 0)) else {
            return Ok(None);
        };
        let mut output = Output::create(&self.job, first, self.limits.io_buffer_bytes)
            .map_err(|error| self.job.classify(error.into()))?;
        let written = self.write_group(group, last, &mut output, pace);
        // Of this group alone, also if it stays as it is: in another segment's index they would be named twice, and
        // librdkafka takes a transaction that is named twice for two.
        let aborted = self.transactions.take_kept();
        let has_changed = match written {
            Ok(has_changed) => has_changed || group.len() > 1,
            Err(error) => {
                output.discard();
                return Err(self.job.classify(error));
            }
        };
        if !has_changed {
            output.discard();
            return Ok(None);
        }
        let (segment, written_bytes) = output.finish(aborted).map_err(|error| self.job.classify(error.into()))?;
        self.stats.written_bytes += written_bytes;
        Ok(Some(Cleaned {
            segment,
            sources: group.to_vec(),
            truncations: self.job.truncations,
            log: self.job.shared.clone(),
        }))
    }

    /// Whether something was left out or rebuilt.
    fn write_group(
        &mut self,
        group: &[Source],
        last: &Source,
        output: &mut Output<E>,
        pace: Pacing<'_>,
    ) -> Result<bool, CleanError> {
        let mut has_changed = false;
        for source in group {
            has_changed |= self.write_source(source, source == last, output, pace)?;
        }
        Ok(has_changed)
    }

    fn write_source(
        &mut self,
        source: &Source,
        is_last: bool,
        output: &mut Output<E>,
        pace: Pacing<'_>,
    ) -> Result<bool, CleanError> {
        let path = self.job.log_path(source);
        let file = self.job.env.open(&path, OpenMode::Read)?;
        let mut scan =
            BatchScan::new(&file, source.base_offset, source.size_bytes).with_read_bytes(self.limits.io_buffer_bytes);
        let mut has_changed = false;
        loop {
            let (batch, bytes) = match scan.next()? {
                Step::Batch(batch) => batch,
                Step::End => return Ok(has_changed),
                Step::Invalid { position } => {
                    return Err(CleanError::Corrupt { file: path, position: u64::from(position) });
                }
            };
            self.job.check()?;
            if pace(bytes.len() as u64).is_break() {
                return Err(CleanError::Aborted);
            }
            let retention = Retention {
                map: &self.map,
                last_batches: &self.job.last_batches,
                now: self.job.now,
                delete_retention_ms: self.job.config.delete_retention_ms,
            };
            let ends_group = is_last && batch.end() == source.size_bytes;
            let kept = retention.keep(&batch.header, bytes, ends_group, &mut self.transactions).map_err(|error| {
                CleanError::Records { file: path.clone(), position: u64::from(batch.position), error }
            })?;
            self.stats.read_bytes += bytes.len() as u64;
            self.stats.read_records += u64::try_from(batch.header.record_count).unwrap_or(0);
            let written = match &kept {
                Kept::All => output.push(bytes)?,
                Kept::Rebuilt(bytes) => output.push(bytes)?,
                Kept::Nothing => 0,
            };
            has_changed |= !matches!(kept, Kept::All);
            self.stats.kept_records += written;
            let size = output.write_out_if_large()?;
            if size > 0 && pace(size).is_break() {
                return Err(CleanError::Aborted);
            }
        }
    }
}
