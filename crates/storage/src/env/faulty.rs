//! A disk that misbehaves on purpose, the same way for the same seed.
//!
//! [`FaultyEnv::lose_power`] drops unsynced changes: of every file and every directory a prefix of them survives, and a
//! part of the next write. [`FaultyEnv::set_faults`] makes operations fail with EIO or ENOSPC, and writes stop
//! half-way.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::memory::{MemoryEnv, MemoryFile, MemoryLock};
use super::{DirectoryEntry, Env, File, OpenMode};

/// How often operations fail, in operations per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// A read, a write or a rename ends with EIO. The rename has changed nothing then; the write may have been done in
    /// part.
    pub io_error_ppm: u32,
    /// A write, or the creation of a file, ends with ENOSPC; the write may have been done in part.
    pub no_space_ppm: u32,
    /// A sync ends with EIO, and its writes are not durable.
    pub sync_error_ppm: u32,
    /// Opening a file, or a directory to sync it, ends with EMFILE.
    pub no_descriptor_ppm: u32,
    /// Cutting a file ends with EIO, and has changed nothing.
    pub cut_error_ppm: u32,
    /// A rename ends with EIO, as by `io_error_ppm`; reads and writes do not.
    pub rename_error_ppm: u32,
}

impl Faults {
    pub const NONE: Self = Self {
        io_error_ppm: 0,
        no_space_ppm: 0,
        sync_error_ppm: 0,
        no_descriptor_ppm: 0,
        cut_error_ppm: 0,
        rename_error_ppm: 0,
    };
}

/// A file system in memory that loses and refuses. Clones name the same one.
#[derive(Clone)]
pub struct FaultyEnv {
    inner: MemoryEnv,
    state: Arc<Mutex<State>>,
}

/// An open file of a [`FaultyEnv`].
pub struct FaultyFile {
    inner: MemoryFile,
    state: Arc<Mutex<State>>,
}

struct State {
    random: u64,
    faults: Faults,
    /// How many operations are left before the process dies; none: it lives on.
    operations_left: Option<u64>,
}

impl State {
    /// SplitMix64: small, seeded, and the same on every machine.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64)).unwrap_or(0)
    }

    /// Counts an operation that changes something; an error when the process is dead.
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the process has ended")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn take_descriptor(&mut self) -> io::Result<()> {
        let ppm = self.faults.no_descriptor_ppm;
        if self.happens(ppm) { Err(rustix::io::Errno::MFILE.into()) } else { Ok(()) }
    }

    fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.next() % 1_000_000 < u64::from(ppm)
    }
}

fn io_error() -> io::Error {
    rustix::io::Errno::IO.into()
}

fn no_space() -> io::Error {
    rustix::io::Errno::NOSPC.into()
}

impl FaultyEnv {
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed, faults: Faults::NONE, operations_left: None };
        Self { inner: MemoryEnv::tracked(), state: Arc::new(Mutex::new(state)) }
    }

    /// From now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Does something that no fault concerns: looks of a test.
    pub fn without_faults<T>(&self, act: impl FnOnce() -> T) -> T {
        let faults = std::mem::replace(&mut self.state.lock().faults, Faults::NONE);
        let result = act();
        self.state.lock().faults = faults;
        result
    }

    /// Simulates a disk that returns wrong data: the bits of `mask` are inverted at `position` of this file from now
    /// on.
    pub fn flip(&self, path: &Path, position: usize, mask: u8) -> io::Result<()> {
        self.inner.disk.lock().flip(path, position, mask)
    }

    /// Lets the process die after this many operations that change something: from then on each is an error, and
    /// changes nothing, until [`Self::kill`] or [`Self::lose_power`] begins the next life.
    pub fn die_after(&self, operations: u64) {
        self.state.lock().operations_left = Some(operations);
    }

    /// A power loss: handles and locks become invalid, and unsynced changes are lost, at least in part.
    pub fn lose_power(&self) {
        let mut state = self.state.lock();
        state.operations_left = None;
        self.inner.disk.lock().lose_power(|bound| state.below(bound));
    }

    /// `kill -9` of every process: handles and locks are void, the page cache stays.
    pub fn kill(&self) {
        self.state.lock().operations_left = None;
        self.inner.restart();
    }
}

impl Env for FaultyEnv {
    type File = FaultyFile;
    type Lock = MemoryLock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FaultyFile> {
        self.state.lock().take_descriptor()?;
        if matches!(mode, OpenMode::Create | OpenMode::Truncate) {
            let mut state = self.state.lock();
            state.operate()?;
            let ppm = state.faults.no_space_ppm;
            if state.happens(ppm) {
                return Err(no_space());
            }
        }
        Ok(FaultyFile { inner: self.inner.open(path, mode)?, state: Arc::clone(&self.state) })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.list(directory)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let Faults { io_error_ppm, rename_error_ppm, .. } = state.faults;
        if state.happens(io_error_ppm) || state.happens(rename_error_ppm) {
            return Err(io_error());
        }
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state.lock().operate()?;
        self.inner.remove_file(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.state.lock().operate()?;
        self.inner.create_directory(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.state.lock().operate()?;
        self.inner.remove_directory(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.state.lock().take_descriptor()?;
        let mut state = self.state.lock();
        state.operate()?;
        let ppm = state.faults.sync_error_ppm;
        if state.happens(ppm) {
            return Err(io_error());
        }
        self.inner.sync_directory(directory)
    }

    fn lock(&self, path: &Path) -> io::Result<MemoryLock> {
        self.inner.lock(path)
    }
}

impl FaultyFile {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let ppm = state.faults.sync_error_ppm;
        if state.happens(ppm) {
            return Err(io_error());
        }
        self.inner.sync_data()
    }
}

impl File for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        let ppm = state.faults.io_error_ppm;
        if state.happens(ppm) {
            return Err(io_error());
        }
        self.inner.read_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let Faults { io_error_ppm, no_space_ppm, .. } = state.faults;
        let error = if state.happens(io_error_ppm) {
            io_error()
        } else if state.happens(no_space_ppm) {
            no_space()
        } else {
            return self.inner.write_all_at(bytes, position);
        };
        let written = state.below(bytes.len() + 1);
        self.inner.write_part_at(bytes, written, position)?;
        Err(error)
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let ppm = state.faults.cut_error_ppm;
        if state.happens(ppm) {
            return Err(io_error());
        }
        self.inner.set_len(size_bytes)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.inner.size_bytes()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_renames_nothing() {
        let (env, path) = (FaultyEnv::new(1), |name: &str| Path::new("/data").join(name));
        env.create_directory(Path::new("/data")).expect("no fault");
        env.open(&path("file"), OpenMode::Create).expect("no fault");
        env.set_faults(Faults { io_error_ppm: 1_000_000, ..Faults::NONE });
        let refused = env.rename(&path("file"), &path("other")).map_err(|error| error.raw_os_error());
        assert_eq!(refused, Err(io_error().raw_os_error()));
        env.set_faults(Faults::NONE);
        assert!(env.exists(&path("file")).expect("no fault") && !env.exists(&path("other")).expect("no fault"));
        env.rename(&path("file"), &path("other")).expect("no fault");
        assert!(env.exists(&path("other")).expect("no fault"));
    }
}
