//! Family `raft_log`: index (8 bytes, big-endian, so that entries are in order) → the entry in Raft's own protobuf
//! form.
//!
//! The newest entries also stay in memory: Raft reads each one twice right after it was written, to send it and to
//! apply it.

use std::collections::VecDeque;

use bytes::Bytes;
use ottla_consensus::Entry;
use protobuf::Message as _;
use rocksdb::{Direction, IteratorMode, WriteBatch};

use super::{Disk, DiskError};

pub(super) const FAMILY: &str = "raft_log";

/// Of entries kept in memory.
const CACHE_BYTES_MAX: usize = 512 * 1024;

/// The index range and size of the family, without reading it.
#[derive(Debug, Default)]
pub struct RaftLog {
    /// The index before the first entry, and the term of the entry that was there.
    pub compacted: (u64, u64),
    /// Stored bytes of each entry, from the first on.
    sizes: VecDeque<u32>,
    total_bytes: u64,
    /// The newest entries, without gap up to the last.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

/// Whether a key is of this family. Keys of the others are text, and no index begins with a letter or a slash.
pub(super) fn is_key(key: &[u8]) -> bool {
    key.len() == size_of::<u64>() && key.first().is_some_and(|first| *first < b' ')
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn decode(bytes: &[u8]) -> Result<Entry, DiskError> {
    Entry::parse_from_carllerche_bytes(&Bytes::copy_from_slice(bytes))
        .map_err(|error| DiskError::corrupt("an entry of the log", error))
}

impl RaftLog {
    /// Walks the log behind `compacted`. A gap is corruption.
    pub fn open(disk: &Disk, compacted: (u64, u64)) -> Result<Self, DiskError> {
        let mut log = Self { compacted, ..Self::default() };
        let family = disk.family(FAMILY);
        let start = key(compacted.0 + 1);
        for item in disk.db.iterator_cf(&family, IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = item?;
            let index = <[u8; 8]>::try_from(&*key).map(u64::from_be_bytes).ok();
            if index != Some(log.last_index() + 1) {
                return Err(DiskError::corrupt("the log", format!("entry {} is missing", log.last_index() + 1)));
            }
            log.push_size(value.len());
        }
        Ok(log)
    }

    fn push_size(&mut self, bytes: usize) {
        self.sizes.push_back(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.total_bytes += bytes as u64;
    }

    pub fn first_index(&self) -> u64 {
        self.compacted.0 + 1
    }

    pub fn last_index(&self) -> u64 {
        self.compacted.0 + self.sizes.len() as u64
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Adds the writes for `entries`, which replace the log from the index of the first one. The caller writes the
    /// batch.
    pub fn append(&mut self, disk: &Disk, batch: &mut WriteBatch, entries: &[Entry]) -> Result<(), DiskError> {
        let Some(first) = entries.first() else { return Ok(()) };
        let family = disk.family(FAMILY);
        let last = entries.last().map_or(first.index, |entry| entry.index);
        for index in last + 1..=self.last_index() {
            batch.delete_cf(&family, key(index));
        }
        self.forget_from(first.index);
        for entry in entries {
            let bytes = entry.write_to_bytes().map_err(|error| DiskError::corrupt("an entry", error))?;
            batch.put_cf(&family, key(entry.index), &bytes);
            self.push_size(bytes.len());
            self.cache_bytes += entry.data.len();
            self.cache.push_back(entry.clone());
        }
        while self.cache_bytes > CACHE_BYTES_MAX && self.cache.len() > 1 {
            self.drop_oldest_cached();
        }
        Ok(())
    }

    fn drop_oldest_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry.data.len();
        }
    }

    fn forget_from(&mut self, index: u64) {
        while self.last_index() >= index {
            let Some(bytes) = self.sizes.pop_back() else { break };
            self.total_bytes -= u64::from(bytes);
        }
        while self.cache.back().is_some_and(|entry| entry.index >= index) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= entry.data.len();
            }
        }
    }

    /// Adds the writes that remove every entry; the log continues after `compacted`.
    pub fn reset(&mut self, disk: &Disk, batch: &mut WriteBatch, compacted: (u64, u64)) {
        batch.delete_range_cf(&disk.family(FAMILY), key(0), key(u64::MAX));
        *self = Self { compacted, ..Self::default() };
    }

    /// Adds the writes that forget the entries up to and with `through`.
    pub fn compact(&mut self, disk: &Disk, batch: &mut WriteBatch, through: u64, term: u64) {
        batch.delete_range_cf(&disk.family(FAMILY), key(self.first_index()), key(through + 1));
        for _ in self.compacted.0..through {
            if let Some(bytes) = self.sizes.pop_front() {
                self.total_bytes -= u64::from(bytes);
            }
        }
        while self.cache.front().is_some_and(|entry| entry.index <= through) {
            self.drop_oldest_cached();
        }
        self.compacted = (through, term);
    }

    /// The greatest index that can be forgotten so that at least `keep_bytes` of entries stay.
    pub fn index_with_tail(&self, keep_bytes: u64) -> u64 {
        let mut through = self.last_index();
        let mut kept = 0;
        for bytes in self.sizes.iter().rev() {
            if kept >= keep_bytes {
                break;
            }
            kept += u64::from(*bytes);
            through -= 1;
        }
        through
    }

    /// Entries `low..high`, both within the log; at least one if there is any, and about `bytes_max` at most.
    pub fn read(&self, disk: &Disk, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, DiskError> {
        let mut taken = Vec::new();
        let mut bytes = 0u64;
        let mut take = |entry: Entry| {
            bytes += u64::from(entry.compute_size());
            let fits = taken.is_empty() || bytes <= bytes_max;
            if fits {
                taken.push(entry);
            }
            fits
        };
        if let Some(first) = self.cache.front()
            && low >= first.index
        {
            let skipped = usize::try_from(low - first.index).unwrap_or(usize::MAX);
            for entry in self.cache.iter().skip(skipped).take_while(|entry| entry.index < high) {
                if !take(entry.clone()) {
                    break;
                }
            }
            return Ok(taken);
        }
        let family = disk.family(FAMILY);
        let start = key(low);
        for item in disk.db.iterator_cf(&family, IteratorMode::From(&start, Direction::Forward)) {
            let (_, value) = item?;
            let entry = decode(&value)?;
            if entry.index >= high || !take(entry) {
                break;
            }
        }
        Ok(taken)
    }

    /// None outside the log; the compacted entry's term included.
    pub fn term(&self, disk: &Disk, index: u64) -> Result<Option<u64>, DiskError> {
        if index == self.compacted.0 {
            return Ok(Some(self.compacted.1));
        }
        if index < self.compacted.0 || index > self.last_index() {
            return Ok(None);
        }
        if let Some(first) = self.cache.front()
            && let Some(at) = index.checked_sub(first.index)
            && let Some(entry) = usize::try_from(at).ok().and_then(|at| self.cache.get(at))
        {
            return Ok(Some(entry.term));
        }
        match disk.get(FAMILY, &key(index))? {
            Some(bytes) => Ok(Some(decode(&bytes)?.term)),
            None => Err(DiskError::corrupt("the log", format!("entry {index} is missing"))),
        }
    }
}
