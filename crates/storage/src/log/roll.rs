//! Beginning a new segment.

use std::io;
use std::sync::Arc;

use ottla_model::{Offset, TimestampMs};

use super::Log;
use crate::env::{Env, File, OpenMode};
use crate::file_name;
use crate::open_files::Kept;
use crate::producer_snapshot;
use crate::segment::{Place, Segment};

impl<E: Env> Log<E> {
    /// Closes the active segment and begins one at `base_offset`, where its records end or later. Nothing is synced
    /// here: [`Log::flush_work`] does it. If it fails the old segment stays active.
    pub(crate) fn roll(&mut self, base_offset: Offset, now: TimestampMs) -> io::Result<()> {
        // Recovery cuts a torn end off the last segment only: in another one it is a damaged log.
        self.cut_dirty_tail()?;
        let place = Place { env: &self.env, directory: &self.directory };
        if let Some(active) = self.segments.last_mut() {
            active.complete_indexes(place)?;
        }
        self.write_producer_snapshot(false)?;
        let place = Place { env: &self.env, directory: &self.directory };
        let (segment, file) = match Segment::create(place, base_offset, now) {
            Ok(created) => created,
            Err(error) => {
                // Appends may continue in the old segment, beyond the base offset of an empty new file. If that file
                // cannot be removed now, the next opening of the log removes it.
                let left_over = Segment::new(base_offset, now);
                if base_offset != self.active().base_offset
                    && let Err(error) = left_over.remove_files(place)
                {
                    tracing::warn!(directory = %self.directory.display(), %error, "cannot remove an empty segment");
                }
                return Err(error);
            }
        };
        let rolled = self.active().base_offset;
        if let Some(file) = self.files.get(Kept::Active, rolled) {
            // Readers just before the end need it next.
            self.keep(Kept::Older, rolled, &file);
        }
        if rolled == base_offset {
            // Another file has the name now.
            self.files.close_of(rolled);
        }
        self.keep(Kept::Active, base_offset, &Arc::new(file));
        // A segment that never held a batch is replaced, not kept beside one of the same base offset.
        if self.active().base_offset == base_offset {
            self.segments.pop();
        }
        self.segments.push(segment);
        self.records_end = None;
        self.recent.clear();
        self.names_changes += 1;
        Ok(())
    }

    /// Writes the producers' state at the log's end, if there is no such file yet.
    pub(crate) fn write_producer_snapshot(&mut self, sync: bool) -> io::Result<()> {
        let offset = self.log_end;
        let path = self.place().path(offset, file_name::PRODUCER_SNAPSHOT);
        if !self.snapshots.contains(&offset) {
            let file = self.env.open(&path, OpenMode::Truncate)?;
            file.write_all_at(&producer_snapshot::encode(self.producers.snapshot()), 0)?;
            if sync {
                file.sync_data()?;
            }
            self.snapshots.push(offset);
            self.names_changes += 1;
        } else if sync {
            self.env.open(&path, OpenMode::Write)?.sync_data()?;
        }
        Ok(())
    }

    /// How much earlier than `segment.ms` the active segment is rolled: differs between partitions and segments, and is
    /// the same in every run. Less than all of it, whatever `segment.jitter.ms` says: else every batch would begin a
    /// segment.
    pub(crate) fn roll_jitter_ms(&self) -> i64 {
        let bound_ms = self.config.segment_jitter_ms.min(self.config.segment_ms);
        if bound_ms <= 0 {
            return 0;
        }
        // FNV-1a over the partition's name and the segment's base offset.
        let name = self.partition.topic.as_str().bytes().chain(self.partition.partition.0.to_be_bytes());
        let hash = name
            .chain(self.active().base_offset.0.to_be_bytes())
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        i64::try_from(hash >> 1).unwrap_or(0) % bound_ms
    }
}
