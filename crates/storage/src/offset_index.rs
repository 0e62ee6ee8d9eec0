//! `BASE.index`: where in the segment some of its batches begin. Entries of eight bytes, big-endian: offset relative to
//! the segment's base i32, position i32. An entry's offset is the *last* of the batch at its position (as Kafka writes
//! it), so scanning from the entry at or below an offset never misses that offset.

use std::io;
use std::path::Path;

use ottla_model::Offset;

use crate::env::{Env, File, Waits};
use crate::index_file::{Entry, IndexFile};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetEntry {
    pub relative_offset: u32,
    pub position: u32,
}

impl Entry for OffsetEntry {
    const BYTES: usize = 8;

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        Self { relative_offset: word(0), position: word(4) }
    }
}

pub(crate) type OffsetIndex = IndexFile<OffsetEntry>;

/// `offset` relative to `base`, if an index can say it.
pub(crate) fn relative_offset(base: Offset, offset: Offset) -> Option<u32> {
    i32::try_from(offset.0.checked_sub(base.0)?).ok().and_then(|relative| u32::try_from(relative).ok())
}

fn not_after(base: Offset, offset: Offset) -> impl Fn(&OffsetEntry) -> bool {
    let relative = offset.0.saturating_sub(base.0);
    move |entry| i64::from(entry.relative_offset) <= relative
}

impl OffsetIndex {
    /// The entry from whose position on to scan for an offset; none: from the start.
    pub fn entry_for(
        &self,
        env: &impl Env,
        path: &Path,
        base: Offset,
        offset: Offset,
    ) -> io::Result<Option<OffsetEntry>> {
        let found = self.last_where(env, path, not_after(base, offset))?;
        Ok(found.map(|(_, entry)| entry))
    }

    /// [`Self::entry_for`] without the file; none if the file must be read.
    pub fn entry_in_memory(&self, base: Offset, offset: Offset) -> Option<Option<OffsetEntry>> {
        self.last_in_memory(not_after(base, offset)).map(|found| found.map(|(_, entry)| entry))
    }

    /// [`Self::entry_for`] in the open file.
    pub fn entry_in_file(
        &self,
        file: &impl File,
        base: Offset,
        offset: Offset,
        waits: Waits,
    ) -> io::Result<Option<OffsetEntry>> {
        Ok(self.last_in_file(file, not_after(base, offset), waits)?.map(|(_, entry)| entry))
    }

    /// Drops the entries of batches that end at or beyond `end`.
    pub fn truncate_to(&mut self, env: &impl Env, path: &Path, base: Offset, end: Offset) -> io::Result<()> {
        let relative = end.0.saturating_sub(base.0);
        let kept = self.last_where(env, path, |entry| i64::from(entry.relative_offset) < relative)?;
        self.truncate(env, path, kept.map_or(0, |(number, _)| number + 1))
    }

    pub fn is_full(&self, size_max_bytes: u32) -> bool {
        self.len() >= size_max_bytes / Self::entry_bytes()
    }

    const fn entry_bytes() -> u32 {
        OffsetEntry::BYTES as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{MemoryEnv, OpenMode};

    #[test]
    fn golden_bytes() {
        let env = MemoryEnv::new();
        let path = Path::new("00000000000000000100.index");
        let mut index = OffsetIndex::empty();
        index.push(OffsetEntry { relative_offset: 1, position: 0x0102_0304 });
        index.push(OffsetEntry { relative_offset: 0x1000, position: 0x0506_0708 });
        index.write_out(&env, path).expect("written");
        assert_eq!(env.read_file(path).expect("there"), [0, 0, 0, 1, 1, 2, 3, 4, 0, 0, 0x10, 0, 5, 6, 7, 8]);
    }

    #[test]
    fn look_ups_agree_wherever_the_entries_are() {
        let env = MemoryEnv::new();
        let path = Path::new("x.index");
        let base = Offset(1000);
        let mut index = OffsetIndex::empty();
        for number in 0..5_000_u32 {
            index.push(OffsetEntry { relative_offset: number * 10 + 9, position: number * 100 });
            if number == 3_000 {
                index.write_out(&env, path).expect("written");
            }
        }
        let expected =
            |offset: i64| u32::try_from(((offset - 1000 - 9).div_euclid(10)).clamp(-1, 4_999)).map_or(0, |n| n * 100);
        let offsets = || (0..60_000).step_by(7).chain([0, 1008, 1009, 1010]);
        for offset in offsets() {
            assert_eq!(
                index.entry_for(&env, path, base, Offset(offset)).expect("read").map_or(0, |entry| entry.position),
                expected(offset),
                "{offset}"
            );
        }
        index.write_out(&env, path).expect("written");
        let size = env.open(path, OpenMode::Read).and_then(|file| file.size_bytes()).expect("size");
        let reread = OffsetIndex::of_size(size).expect("whole entries");
        for offset in offsets() {
            assert_eq!(
                reread.entry_for(&env, path, base, Offset(offset)).expect("read").map_or(0, |entry| entry.position),
                expected(offset),
                "{offset}"
            );
        }
        assert!(OffsetIndex::of_size(size + 1).is_none());
    }

    #[test]
    fn truncation_drops_what_ends_beyond() {
        let env = MemoryEnv::new();
        let path = Path::new("x.index");
        for written_out in [false, true] {
            let mut index = OffsetIndex::empty();
            for number in 0..10 {
                index.push(OffsetEntry { relative_offset: number * 10 + 9, position: number * 100 });
            }
            if written_out {
                index.write_out(&env, path).expect("written");
            }
            index.truncate_to(&env, path, Offset(0), Offset(50)).expect("truncated");
            assert_eq!(index.len(), 5);
            assert_eq!(index.known_last().map(|entry| entry.position), Some(400));
            index.truncate_to(&env, path, Offset(0), Offset(49)).expect("truncated");
            assert_eq!(index.len(), 4);
            index.truncate_to(&env, path, Offset(0), Offset(0)).expect("truncated");
            assert_eq!((index.len(), index.known_last()), (0, None));
        }
    }
}
