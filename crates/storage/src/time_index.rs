//! `BASE.timeindex`: from when on the segment has which timestamps. Entries of twelve bytes, big-endian: timestamp i64,
//! offset relative to the segment's base i32. An entry says that no batch up to that offset has a larger timestamp, so
//! the first record at or after a time lies behind the last entry below it. Timestamps ascend strictly. The last entry
//! of a closed or rolled segment is the segment's largest timestamp.

use std::io;
use std::path::Path;

use ottla_model::{Offset, TimestampMs};

use crate::env::Env;
use crate::index_file::{Entry, IndexFile};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeEntry {
    pub timestamp: TimestampMs,
    pub relative_offset: u32,
}

impl Entry for TimeEntry {
    const BYTES: usize = 12;

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let timestamp = bytes.first_chunk().map_or(-1, |bytes| i64::from_be_bytes(*bytes));
        let relative_offset =
            bytes.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes));
        Self { timestamp: TimestampMs(timestamp), relative_offset }
    }
}

pub(crate) type TimeIndex = IndexFile<TimeEntry>;

impl TimeIndex {
    /// Adds an entry if its timestamp is larger than the last one's.
    pub fn push_if_later(&mut self, entry: TimeEntry) {
        if self.known_last().is_none_or(|last| entry.timestamp > last.timestamp) {
            self.push(entry);
        }
    }

    /// The last entry whose timestamp is below `timestamp`.
    pub fn before(&self, env: &impl Env, path: &Path, timestamp: TimestampMs) -> io::Result<Option<TimeEntry>> {
        let found = self.last_where(env, path, |entry| entry.timestamp < timestamp)?;
        Ok(found.map(|(_, entry)| entry))
    }

    /// Drops the entries of offsets at or beyond `end`.
    pub fn truncate_to(&mut self, env: &impl Env, path: &Path, base: Offset, end: Offset) -> io::Result<()> {
        let relative = end.0.saturating_sub(base.0);
        let kept = self.last_where(env, path, |entry| i64::from(entry.relative_offset) < relative)?;
        self.truncate(env, path, kept.map_or(0, |(number, _)| number + 1))
    }

    /// One entry is kept back for the largest timestamp when the segment is rolled.
    pub fn is_full(&self, size_max_bytes: u32) -> bool {
        self.len().saturating_add(1) >= size_max_bytes / (TimeEntry::BYTES as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::MemoryEnv;

    fn entry(timestamp: i64, relative_offset: u32) -> TimeEntry {
        TimeEntry { timestamp: TimestampMs(timestamp), relative_offset }
    }

    #[test]
    fn golden_bytes() {
        let env = MemoryEnv::new();
        let path = Path::new("00000000000000000000.timeindex");
        let mut index = TimeIndex::empty();
        index.push_if_later(entry(0x0102_0304_0506_0708, 0x090A_0B0C));
        index.push_if_later(entry(0x0102_0304_0506_0708, 0x0FFF_FFFF));
        index.write_out(&env, path).expect("written");
        assert_eq!(env.read_file(path).expect("there"), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn look_ups_and_truncation() {
        let env = MemoryEnv::new();
        let path = Path::new("x.timeindex");
        let mut index = TimeIndex::empty();
        for number in 0..2_000_u32 {
            index.push_if_later(entry(i64::from(number) * 5, number));
            if index.should_write_out() {
                index.write_out(&env, path).expect("written");
            }
        }
        for (timestamp, expected) in [(0, None), (1, Some(0)), (5, Some(0)), (6, Some(1)), (99_999, Some(1_999))] {
            let found = index.before(&env, path, TimestampMs(timestamp)).expect("read");
            assert_eq!(found.map(|entry| entry.relative_offset), expected, "{timestamp}");
        }
        index.truncate_to(&env, path, Offset(100), Offset(110)).expect("truncated");
        assert_eq!((index.len(), index.known_last()), (10, Some(entry(45, 9))));
    }
}
