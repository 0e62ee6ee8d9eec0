//! Whether a start would forget what was on the disk: RocksDB goes on with what precedes the first damaged record of
//! its write-ahead log, and passes over the rest without a word.
//!
//! After a power loss that is right. Writes since the last completed sync may be there in part: those that were not
//! synced, and the one whose sync was under way; nobody was told of any of them. So a damaged record is an
//! **unfinished write** if
//!
//! - the file ends within it, or one of its sectors was never written and reads as zeros, and
//! - at most one synced write follows it. The second one was written after the sync of the first one, which covers
//!   everything before it.
//!
//! Everything else is damage: a member that forgets votes and entries that it acknowledged may vote twice, or win an
//! election without entries that are committed.
//!
//! The form is LevelDB's: blocks of 32 KiB; each has records of checksum (4 bytes), length (2), kind (1) and body. The
//! body is a batch, or a piece of one; the end of a block that has no room for a record's head is not used.

use std::io;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, Digest};
use rocksdb::{WriteBatch, WriteBatchIteratorCf};

use super::raft_log;

const BLOCK_BYTES: usize = 32 * 1024;
const HEAD_BYTES: usize = 4 + 2 + 1;
/// What a disk writes as a whole, or not at all.
const SECTOR_BYTES: usize = 512;
/// A batch's sequence number and the number of its writes.
const BATCH_HEAD_BYTES: usize = 8 + 4;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("its write-ahead log cannot be read: {path}: {problem}")]
    Io { path: PathBuf, problem: io::Error },
    #[error("its write-ahead log is damaged at byte {at} of {path}")]
    Damaged { path: PathBuf, at: usize },
}

/// Reads the write-ahead log of a database; no file is one without records.
pub fn check(directory: &Path) -> Result<(), WalError> {
    let mut scan = Scan::default();
    for path in files(directory).map_err(|problem| WalError::Io { path: directory.to_owned(), problem })? {
        let bytes = match std::fs::read(&path) {
            // The process that has the database open needs it no more.
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
            Err(problem) => return Err(WalError::Io { path, problem }),
            Ok(bytes) => bytes,
        };
        scan.read(&path, &bytes);
    }
    match scan.damage {
        Some(damage) if !damage.is_unfinished || scan.synced_after > 1 => {
            Err(WalError::Damaged { path: damage.path, at: damage.at })
        }
        _ => Ok(()),
    }
}

/// In the order in which they were written.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

struct Damage {
    path: PathBuf,
    at: usize,
    /// As a power loss leaves it.
    is_unfinished: bool,
}

#[derive(Default)]
struct Scan {
    /// The first one.
    damage: Option<Damage>,
    /// Synced writes behind it that are whole.
    synced_after: usize,
    /// Of the batch that comes next, as long as there is no damage.
    next_sequence: Option<u64>,
    /// A file ended with zeros in place of a record.
    zeros: Option<(PathBuf, usize)>,
}

impl Scan {
    fn read(&mut self, path: &Path, file: &[u8]) {
        // The batch whose pieces are read, and where it begins.
        let mut pieces: Option<(usize, Vec<u8>)> = None;
        let mut at = 0;
        while at < file.len() {
            match Place::of(file, at) {
                Place::Record(record) => {
                    match (record.kind, &mut pieces) {
                        (FULL, None) => self.batch(path, record.body),
                        (FIRST, None) => pieces = Some((at, record.body.to_vec())),
                        (MIDDLE, Some((_, batch))) => batch.extend_from_slice(record.body),
                        (LAST, Some((_, batch))) => {
                            batch.extend_from_slice(record.body);
                            let batch = std::mem::take(batch);
                            pieces = None;
                            self.batch(path, &batch);
                        }
                        // The end of a batch is missing; this record is looked at again without it.
                        (FULL | FIRST, Some((begin, _))) => {
                            let begin = *begin;
                            pieces = None;
                            self.damaged(path, begin, false);
                            continue;
                        }
                        (MIDDLE | LAST, None) => self.damaged(path, at, false),
                        // What RocksDB notes about the file.
                        _ => {}
                    }
                    at = record.end;
                }
                Place::Unused { end } => at = end,
                Place::Zeros { end } => {
                    let next = next_record(file, at + 1);
                    if let Some((begin, _)) = pieces.take() {
                        self.damaged(path, begin, true);
                    } else if next < file.len() {
                        // RocksDB passes over the rest of this block, and would apply a batch that the next one begins
                        // with.
                        let then = record(file, next_record(file, end));
                        self.damaged(path, at, !then.is_some_and(|then| [FULL, FIRST].contains(&then.kind)));
                    } else if self.damage.is_none() {
                        self.zeros = Some((path.to_owned(), at));
                    }
                    at = next;
                }
                Place::Damaged { is_unfinished } => {
                    let begin = pieces.take().map_or(at, |(begin, _)| begin);
                    self.damaged(path, begin, is_unfinished);
                    at = next_record(file, at + 1);
                }
            }
        }
        if let Some((begin, _)) = pieces {
            self.damaged(path, begin, true);
        }
    }

    fn damaged(&mut self, path: &Path, at: usize, is_unfinished: bool) {
        self.damage.get_or_insert_with(|| Damage { path: path.to_owned(), at, is_unfinished });
    }

    fn batch(&mut self, path: &Path, batch: &[u8]) {
        let Some((head, _)) = batch.split_first_chunk::<BATCH_HEAD_BYTES>() else { return };
        let [sequence @ .., a, b, c, d] = *head;
        let (sequence, writes) = (u64::from_le_bytes(sequence), u32::from_le_bytes([a, b, c, d]));
        let is_next = self.next_sequence == Some(sequence);
        if is_next && self.damage.as_ref().is_some_and(|damage| damage.path != path) {
            // An earlier start went on from there, and the removal of the file that it had read was lost.
            (self.damage, self.synced_after) = (None, 0);
        }
        if let Some((path, at)) = self.zeros.take().filter(|_| !is_next) {
            self.damaged(&path, at, false);
        }
        if self.damage.is_none() {
            self.next_sequence = Some(sequence.saturating_add(u64::from(writes)));
        } else if self.synced_after < 2 && has_entry(batch) {
            self.synced_after += 1;
        }
    }
}

/// Whether the batch writes an entry of Raft's log: such batches are synced.
fn has_entry(batch: &[u8]) -> bool {
    struct Search(bool);
    impl WriteBatchIteratorCf for Search {
        fn put_cf(&mut self, _: u32, key: &[u8], _: &[u8]) {
            self.0 |= raft_log::is_key(key);
        }
        fn delete_cf(&mut self, _: u32, _: &[u8]) {}
        fn merge_cf(&mut self, _: u32, _: &[u8], _: &[u8]) {}
    }
    let mut search = Search(false);
    if batch.len() > BATCH_HEAD_BYTES {
        WriteBatch::from_data(batch).iterate_cf(&mut search);
    }
    search.0
}

struct Record<'a> {
    kind: u8,
    body: &'a [u8],
    end: usize,
}

/// What is at a byte of a file.
enum Place<'a> {
    Record(Record<'a>),
    /// The end of a block.
    Unused {
        end: usize,
    },
    /// A head that was never written. RocksDB goes on with the next block, without a word.
    Zeros {
        end: usize,
    },
    Damaged {
        is_unfinished: bool,
    },
}

fn block_end(at: usize) -> usize {
    (at / BLOCK_BYTES + 1) * BLOCK_BYTES
}

/// The head at a byte, and what follows it in its block: checksum, length, kind, rest.
fn head(file: &[u8], at: usize) -> Option<(u32, usize, u8, &[u8])> {
    let block = file.get(at..block_end(at).min(file.len()))?;
    let (head, rest) = block.split_first_chunk::<HEAD_BYTES>()?;
    let [a, b, c, d, low, high, kind] = *head;
    Some((u32::from_le_bytes([a, b, c, d]), usize::from(u16::from_le_bytes([low, high])), kind, rest))
}

/// Of a record; RocksDB stores checksums so that data with checksums in it is none of theirs.
struct Checksum(Digest);

impl Checksum {
    fn of(kind: u8, body: &[u8]) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&[kind]);
        digest.update(body);
        Self(digest)
    }

    fn stored(&self) -> u32 {
        // The algorithm has 32 bits.
        (self.0.finalize() as u32).rotate_right(15).wrapping_add(0xA282_EAD8)
    }
}

/// Whether the body of a record is whole whose length says otherwise.
fn has_whole_body(stored: u32, kind: u8, rest: &[u8]) -> bool {
    let mut checksum = Checksum::of(kind, &[]);
    checksum.stored() == stored
        || rest.iter().any(|byte| {
            checksum.0.update(&[*byte]);
            checksum.stored() == stored
        })
}

/// The whole record that begins at a byte.
fn record(file: &[u8], at: usize) -> Option<Record<'_>> {
    let (stored, length, kind, rest) = head(file, at)?;
    let body = rest.get(..length)?;
    let is_whole = kind != 0 && Checksum::of(kind, body).stored() == stored;
    is_whole.then_some(Record { kind, body, end: at + HEAD_BYTES + length })
}

/// The next byte at which a whole record of a batch begins, or the end. A damaged length tells nothing about where the
/// next one is.
fn next_record(file: &[u8], from: usize) -> usize {
    let is_record = |at: &usize| {
        let kind = file.get(at + HEAD_BYTES - 1).copied().unwrap_or_default();
        (FULL..=LAST).contains(&kind) && record(file, *at).is_some()
    };
    (from..file.len()).find(is_record).unwrap_or(file.len())
}

impl<'a> Place<'a> {
    fn of(file: &'a [u8], at: usize) -> Self {
        if let Some(record) = record(file, at) {
            return Self::Record(record);
        }
        let end = block_end(at);
        let there = end.min(file.len());
        if end - at < HEAD_BYTES {
            return Self::Unused { end: there };
        }
        let ends_here = file.len() < end;
        match head(file, at) {
            // Cut off within the head.
            None => Self::Damaged { is_unfinished: true },
            Some((_, 0, 0, _)) => Self::Zeros { end: there },
            // Cut off within the body, unless it is the length that is damaged.
            Some((stored, length, kind, rest)) if length > rest.len() => {
                Self::Damaged { is_unfinished: ends_here && !has_whole_body(stored, kind, rest) }
            }
            Some((_, length, _, _)) => {
                Self::Damaged { is_unfinished: has_unwritten_sector(file, at, at + HEAD_BYTES + length) }
            }
        }
    }
}

/// Whether a sector has nothing of what should be between two bytes.
fn has_unwritten_sector(file: &[u8], begin: usize, end: usize) -> bool {
    let mut at = begin;
    while at < end {
        let sector_end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if file.get(at..sector_end).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)) {
            return true;
        }
        at = sector_end;
    }
    false
}

#[cfg(test)]
mod tests {
    use ottla_consensus::log_store::HardState;
    use ottla_consensus::{Entry, LogStore as _, Persist};
    use ottla_metadata::tree::{Node, NodeChange, Path as TreePath};
    use ottla_model::Revision;
    use ottla_quorum_node::{AppliedPlace, QuorumStore as _};

    use super::super::{Disk, OpenError, RocksDbStore};
    use super::*;

    /// The write-ahead log of a store with this many entries of so many bytes, each synced and then applied; and where
    /// it ended after each sync.
    fn log(entries: u64, bytes: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>, Vec<usize>) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = RocksDbStore::open(Disk::open(directory.path()).expect("opens")).expect("readable");
        let path = files(&directory.path().join("quorum")).expect("files").pop().expect("a write-ahead log");
        let mut ends = vec![0];
        for index in 1..=entries {
            // No byte is zero: a sector that is was not written.
            let entry = Entry { index, term: 1, data: vec![0xA5; bytes].into(), ..Entry::default() };
            let hard_state = HardState { term: 1, commit: index - 1, ..HardState::default() };
            let persist =
                Persist { entries: vec![entry], hard_state: Some(hard_state), must_sync: true, ..Persist::default() };
            store.persist(&persist).expect("written");
            ends.push(std::fs::metadata(&path).expect("there").len() as usize);
            let node = Node {
                payload: b"payload".as_slice().into(),
                created: Revision(index),
                modified: Revision(index),
                version: 0,
            };
            let path = TreePath::new(&format!("/brokers/topics/t{index}")).expect("a path");
            let change = NodeChange { path, node: Some(node) };
            store
                .apply([&change].into_iter(), AppliedPlace { revision: Revision(index), term: 1 }, None)
                .expect("written");
        }
        drop(store);
        let whole = std::fs::read(&path).expect("readable");
        (directory, path, whole, ends)
    }

    /// The last index of a log that a start goes on with.
    fn start(directory: &Path) -> Result<u64, OpenError> {
        let store = RocksDbStore::open(Disk::open(directory)?).expect("readable");
        Ok(store.last_index())
    }

    /// Starts from a copy with another write-ahead log.
    fn start_with(whole: &Path, path: &Path, log: &[u8]) -> Result<u64, OpenError> {
        let copy = tempfile::tempdir().expect("a directory");
        let (from, to) = (whole.join("quorum"), copy.path().join("quorum"));
        std::fs::create_dir(&to).expect("created");
        for entry in std::fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
        std::fs::write(to.join(path.file_name().expect("a name")), log).expect("written");
        start(copy.path())
    }

    fn verdict(logs: &[&[u8]]) -> Scan {
        let mut scan = Scan::default();
        for (number, log) in logs.iter().enumerate() {
            scan.read(Path::new(&number.to_string()), log);
        }
        scan
    }

    fn is_damaged(logs: &[&[u8]]) -> bool {
        let scan = verdict(logs);
        scan.damage.is_some_and(|damage| !damage.is_unfinished || scan.synced_after > 1)
    }

    /// A power loss, or the end of the process within a write.
    #[test]
    fn a_log_that_is_cut_off_anywhere_starts_with_all_that_was_synced() {
        for bytes in [20, 40_000] {
            let (directory, path, whole, ends) = log(4, bytes);
            assert!(!is_damaged(&[&whole]));
            // Within the second to last synced write, its apply, and the last ones.
            let step = 1 + bytes / 500;
            for cut in (ends[2]..whole.len()).step_by(step) {
                assert!(!is_damaged(&[&whole[..cut]]), "{bytes} bytes, cut at {cut}");
            }
            for cut in (ends[2]..whole.len()).step_by(1 + (whole.len() - ends[2]) / 12) {
                let synced = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
                let last = start_with(directory.path(), &path, &whole[..cut]).expect("starts");
                assert_eq!(last, synced, "{bytes} bytes, cut at {cut}");
            }
        }
    }

    /// Sectors of the last write, and of what was not synced before it, did not reach the disk.
    #[test]
    fn sectors_that_were_never_written_end_the_log() {
        for bytes in [1_300, 40_000] {
            let (directory, path, whole, ends) = log(4, bytes);
            let without = |sector: usize| {
                let mut log = whole.clone();
                log[sector * SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
                log
            };
            let lost: Vec<_> = (ends[3] / SECTOR_BYTES + 1..whole.len() / SECTOR_BYTES).collect();
            assert!(lost.len() > 1);
            for (number, sector) in lost.iter().enumerate() {
                let log = without(*sector);
                assert!(!is_damaged(&[&log]), "{bytes} bytes, sector {sector}");
                if number % 16 < 2 {
                    let last = start_with(directory.path(), &path, &log).expect("starts");
                    assert_eq!(last, 3, "{bytes} bytes, sector {sector}");
                }
            }
            // And all behind it.
            let mut log = whole.clone();
            log[ends[3] + 700..].fill(0);
            assert_eq!(start_with(directory.path(), &path, &log).expect("starts"), 3);
            // Two synced writes follow: the first one's sync covered these.
            for sector in 0..ends[2] / SECTOR_BYTES {
                assert!(is_damaged(&[&without(sector)]), "{bytes} bytes, sector {sector}");
            }
            let error = start_with(directory.path(), &path, &without(2)).expect_err("acknowledged entries are missing");
            assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        }
    }

    /// RocksDB started with what precedes the byte: a vote and entries that were acknowledged were forgotten.
    #[test]
    fn no_flipped_byte_starts() {
        for bytes in [20, 40_000] {
            let (directory, path, whole, _) = log(4, bytes);
            let step = 1 + bytes / 100;
            let flipped = |at: usize, bits: u8| {
                let mut log = whole.clone();
                log[at] ^= bits;
                log
            };
            for at in (0..whole.len()).step_by(step) {
                for bits in [1, 0x80, 0xFF] {
                    // The last bytes of a block, which no record uses, are none of the log's.
                    let is_used = whole[at] != 0 || block_end(at) - at >= HEAD_BYTES;
                    assert_eq!(is_damaged(&[&flipped(at, bits)]), is_used, "{bytes} bytes, at {at}, {bits}");
                }
            }
            for at in (0..whole.len()).step_by(1 + whole.len() / 12) {
                let error = start_with(directory.path(), &path, &flipped(at, 1)).expect_err("it is damaged");
                assert!(matches!(error, OpenError::Damaged { .. }), "{bytes} bytes, at {at}: {error}");
            }
        }
    }

    /// RocksDB begins another file when it writes its memory out; the former one goes when that is done.
    #[test]
    fn a_log_in_several_files_is_one() {
        let (_, _, whole, ends) = log(6, 20);
        let (first, second) = whole.split_at(ends[3]);
        assert!(!is_damaged(&[first, second]) && !is_damaged(&[first, &[]]) && !is_damaged(&[]));
        let mut flipped = first.to_vec();
        flipped[ends[2] + 20] ^= 1;
        assert!(is_damaged(&[&flipped, second]) && is_damaged(&[&flipped]));
        // Cut off, and then three synced writes.
        assert!(is_damaged(&[&first[..first.len() - 3], second]));
        let mut zeros = first.to_vec();
        zeros[ends[2]..].fill(0);
        assert!(is_damaged(&[&zeros, second]));
        assert!(!is_damaged(&[&zeros]) && !is_damaged(&[&zeros, &[]]));
        // An earlier start went on from there: the first file should be gone.
        let mut garbage = first.to_vec();
        garbage.extend_from_slice(b"\x01\x02\x03\x04\x05\x00\x01");
        assert!(!is_damaged(&[&garbage, second]));
    }

    /// A start after an unfinished write goes on, and so do later ones.
    #[test]
    fn a_store_goes_on_after_an_unfinished_write() {
        let (directory, path, whole, _) = log(3, 20);
        std::fs::write(&path, &whole[..whole.len() - 60]).expect("written");
        for index in [3, 4, 5] {
            let mut store = RocksDbStore::open(Disk::open(directory.path()).expect("opens")).expect("readable");
            assert!(store.last_index() >= index - 1, "{index}");
            let entry = Entry { index: store.last_index() + 1, term: 2, data: vec![7].into(), ..Entry::default() };
            let persist = Persist { entries: vec![entry], must_sync: true, ..Persist::default() };
            store.persist(&persist).expect("written");
        }
        assert!(start(directory.path()).expect("starts") >= 5);
    }

    #[test]
    fn only_keys_of_entries_are_taken_for_them() {
        assert!(raft_log::is_key(&1u64.to_be_bytes()) && raft_log::is_key(&(1u64 << 60).to_be_bytes()));
        for other in [&b"identity"[..], b"applied", b"/a/b/c/d", b"hard_state", b""] {
            assert!(!raft_log::is_key(other));
        }
    }
}
