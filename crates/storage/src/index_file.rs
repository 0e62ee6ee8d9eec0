//! The common part of the indexes of a segment: a file of fixed-size entries in ascending order.
//!
//! The newest entries wait in memory and are written out in batches, so that an append costs no system call for its
//! index and an empty partition no disk. The file holds the rest; a look-up reads it block by block, without a mapping.
//! After a crash the file may lack entries or hold half of one: recovery rebuilds it from the log.

use std::io;
use std::path::Path;

use crate::env::{Env, File, OpenMode, Waits, read_at};

/// How many entries wait in memory before they are written out: at most 12 KiB per active segment and index.
const BUFFERED_ENTRIES_MAX: usize = 1024;

/// How many entries a look-up reads at once when it has come near: one page of offset entries.
const BLOCK_ENTRIES: u32 = 512;

/// A fixed-size, big-endian entry.
pub trait Entry: Copy {
    const BYTES: usize;
    fn encode(self, out: &mut Vec<u8>);
    /// `bytes` has [`Entry::BYTES`] bytes.
    fn decode(bytes: &[u8]) -> Self;
}

#[derive(Clone)]
pub(crate) struct IndexFile<T> {
    /// Entries in the file.
    written: u32,
    /// Entries behind them, not in the file yet.
    waiting: Vec<T>,
    /// The last entry of all, where it has been read.
    last: Option<T>,
}

impl<T: Entry> IndexFile<T> {
    pub fn empty() -> Self {
        Self { written: 0, waiting: Vec::new(), last: None }
    }

    /// Of a file of this size, which is not read yet. None if the size is not that of whole entries.
    pub fn of_size(size_bytes: u64) -> Option<Self> {
        let size = usize::try_from(size_bytes).ok()?;
        let written = u32::try_from(size / T::BYTES).ok()?;
        (size % T::BYTES == 0).then_some(Self { written, waiting: Vec::new(), last: None })
    }

    /// The part that is in the file.
    pub fn in_file(&self) -> Self {
        Self { written: self.written, waiting: Vec::new(), last: None }
    }

    pub fn len(&self) -> u32 {
        self.written + u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    pub fn size_bytes(&self) -> u64 {
        u64::from(self.len()) * T::BYTES as u64
    }

    /// The number of entries in the file.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// The entries that are not in the file yet.
    pub fn waiting(&self) -> &[T] {
        &self.waiting
    }

    pub fn push(&mut self, entry: T) {
        self.waiting.push(entry);
        self.last = Some(entry);
    }

    pub fn should_write_out(&self) -> bool {
        self.waiting.len() >= BUFFERED_ENTRIES_MAX
    }

    /// The last entry, if it is in memory.
    pub fn known_last(&self) -> Option<T> {
        self.last
    }

    /// The last entry; read from the file if need be.
    pub fn last(&self, env: &impl Env, path: &Path) -> io::Result<Option<T>> {
        match (self.last, self.written) {
            (Some(last), _) => Ok(Some(last)),
            (None, 0) => Ok(None),
            (None, written) => read_one(&env.open(path, OpenMode::Read)?, written - 1, Waits::Yes).map(Some),
        }
    }

    /// Reads the last entry, so that [`Self::known_last`] knows it.
    pub fn load_last(&mut self, env: &impl Env, path: &Path) -> io::Result<()> {
        self.last = self.last(env, path)?;
        Ok(())
    }

    /// The last entry for which `holds`, which is true for a prefix of the entries, is true; and its number.
    pub fn last_where(&self, env: &impl Env, path: &Path, holds: impl Fn(&T) -> bool) -> io::Result<Option<(u32, T)>> {
        match self.last_in_memory(&holds) {
            Some(found) => Ok(found),
            None => self.last_in_file(&env.open(path, OpenMode::Read)?, holds, Waits::Yes),
        }
    }

    /// [`Self::last_where`] if the entries in memory suffice; none if the file must be read.
    pub fn last_in_memory(&self, holds: impl Fn(&T) -> bool) -> Option<Option<(u32, T)>> {
        if let Some(last) = self.last
            && holds(&last)
        {
            return Some(Some((self.len().saturating_sub(1), last)));
        }
        if self.waiting.first().is_some_and(&holds) {
            let count = self.waiting.partition_point(&holds);
            let number = count.saturating_sub(1);
            let entry = self.waiting.get(number).copied();
            return Some(entry.map(|entry| (self.written + u32::try_from(number).unwrap_or(0), entry)));
        }
        (self.written == 0).then_some(None)
    }

    /// [`Self::last_where`] among the entries in the file.
    pub fn last_in_file(
        &self,
        file: &impl File,
        holds: impl Fn(&T) -> bool,
        waits: Waits,
    ) -> io::Result<Option<(u32, T)>> {
        // The entry that is sought is before `high` and, if `found`, not before it.
        let (mut low, mut high, mut found) = (0, self.written, None);
        while high - low > BLOCK_ENTRIES {
            let middle = low + (high - low) / 2;
            let entry = read_one(file, middle, waits)?;
            if holds(&entry) {
                found = Some((middle, entry));
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let block: Vec<T> = read_many(file, low, high - low, waits)?;
        let count = block.partition_point(&holds);
        if let Some(number) = count.checked_sub(1)
            && let Some(entry) = block.get(number)
        {
            found = Some((low + u32::try_from(number).unwrap_or(0), *entry));
        }
        Ok(found)
    }

    /// The entries from number `first` on: a block of those in the file, or the waiting ones. Empty at the end.
    pub fn block(&self, file: &impl File, first: u32) -> io::Result<Vec<T>> {
        match self.written.checked_sub(first) {
            Some(left) if left > 0 => read_many(file, first, left.min(BLOCK_ENTRIES), Waits::Yes),
            _ => {
                let from = usize::try_from(first - self.written).unwrap_or(usize::MAX);
                Ok(self.waiting.get(from..).unwrap_or_default().to_vec())
            }
        }
    }

    /// Appends the waiting entries to the file.
    pub fn write_out(&mut self, env: &impl Env, path: &Path) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.waiting.len() * T::BYTES);
        for entry in &self.waiting {
            entry.encode(&mut bytes);
        }
        let file = env.open(path, OpenMode::Create)?;
        file.write_all_at(&bytes, position_of::<T>(self.written))?;
        self.written = self.len();
        self.waiting = Vec::new();
        Ok(())
    }

    /// Keeps the first `len` entries.
    pub fn truncate(&mut self, env: &impl Env, path: &Path, len: u32) -> io::Result<()> {
        if len < self.written {
            let file = env.open(path, OpenMode::Write)?;
            file.set_len(position_of::<T>(len))?;
            self.written = len;
        }
        self.waiting.truncate(usize::try_from(len - self.written).unwrap_or(usize::MAX));
        self.last = self.waiting.last().copied();
        self.load_last(env, path)
    }
}

fn position_of<T: Entry>(number: u32) -> u64 {
    u64::from(number) * T::BYTES as u64
}

fn read_one<T: Entry>(file: &impl File, number: u32, waits: Waits) -> io::Result<T> {
    // No entry is larger.
    let mut bytes = [0; 34];
    let bytes = bytes.get_mut(..T::BYTES).unwrap_or_default();
    read_exact(file, bytes, position_of::<T>(number), waits)?;
    Ok(T::decode(bytes))
}

fn read_many<T: Entry>(file: &impl File, first: u32, count: u32, waits: Waits) -> io::Result<Vec<T>> {
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * T::BYTES];
    read_exact(file, &mut bytes, position_of::<T>(first), waits)?;
    Ok(bytes.chunks_exact(T::BYTES).map(T::decode).collect())
}

fn read_exact(file: &impl File, buffer: &mut [u8], position: u64, waits: Waits) -> io::Result<()> {
    if read_at(file, buffer, position, waits)? < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
