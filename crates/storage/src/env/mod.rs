//! The file system as the log sees it, so that the same log runs on a disk, in memory, and on a disk that loses
//! unsynced writes.
//!
//! The promises of an environment. The log relies on nothing else (they are those of POSIX on a journaling file
//! system):
//! - a write is visible to every later read at once, and durable only after [`File::sync_data`];
//! - creating, renaming or removing a name is atomic, and durable only after [`Env::sync_directory`] of its parent;
//! - names under one directory become durable in the order in which they were changed;
//! - an open file stays readable after its name is gone.

pub mod faulty;
pub mod memory;
pub mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use faulty::{Faults, FaultyEnv};
pub use memory::MemoryEnv;
pub use real::RealEnv;

use bytes::Bytes;
use ottla_model::TimestampMs;
use ottla_replication::producer_state::ProducerBudget;

use crate::open_files::{Kept, OpenFiles};

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// The file must be there.
    Read,
    /// The file must be there; for reading and writing.
    Write,
    /// For reading and writing; made empty if it is not there.
    Create,
    /// For reading and writing; an old content is dropped.
    Truncate,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    pub name: String,
    pub is_directory: bool,
    /// 0 for a directory.
    pub size_bytes: u64,
}

/// A file system. Cheap to clone; clones name the same one.
pub trait Env: Clone + Send + Sync + 'static {
    type File: File;
    /// Holds an exclusive lock until it is dropped or its process ends.
    type Lock: Send + Sync + 'static;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Self::File>;

    /// The entries of a directory, in the order of their names. Names that are no UTF-8 are left out.
    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>>;

    /// [`Self::list`], and the content of the file of this name if it is listed: an environment may find it without
    /// walking the whole path again.
    fn list_and_read(&self, directory: &Path, name: &str) -> io::Result<(Vec<DirectoryEntry>, Option<Vec<u8>>)> {
        let entries = self.list(directory)?;
        let is_listed = entries.iter().any(|entry| entry.name == name && !entry.is_directory);
        let content = is_listed.then(|| self.read_file(&directory.join(name))).transpose()?;
        Ok((entries, content))
    }

    /// Whether the name exists, as a file or a directory.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Replaces a file of the new name in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// With missing parents; succeeds if it is there already.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// With everything in it.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes the directory's names durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// What the producers of all logs of this process share; none where nothing bounds them together.
    fn producer_budget(&self) -> Option<Arc<ProducerBudget>> {
        None
    }

    /// Creates the file if needed and locks it for this process; [`io::ErrorKind::WouldBlock`] if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;

    /// A log keeps this file open from now on, in this place of its open files. An environment with a bound may then
    /// close the least recently used files.
    fn opened(&self, files: &Arc<OpenFiles<Self::File>>, kept: Kept, file: &Arc<Self::File>) {
        let _ = (files, kept, file);
    }

    /// The time of the last change of a file's content, by the machine's wall clock; none if the file system does not
    /// know it.
    fn modified(&self, path: &Path) -> io::Result<Option<TimestampMs>> {
        let _ = path;
        Ok(None)
    }

    /// The whole content of a small file.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let size = usize::try_from(file.size_bytes()?).map_err(io::Error::other)?;
        let mut content = vec![0; size];
        file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    /// Removes a file that may be gone already.
    fn remove_file_if_there(&self, path: &Path) -> io::Result<()> {
        match self.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Replaces a small file so that a crash leaves the old or the new content, never a mixture: a temporary
    /// file beside it is written, synced and renamed, then the directory is synced (Kafka's `CheckpointFile`).
    fn write_file_atomically(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = std::path::PathBuf::from(temporary);
        let file = self.open(&temporary, OpenMode::Truncate)?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        drop(file);
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => self.sync_directory(parent),
            None => Ok(()),
        }
    }
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waits {
    Yes,
    /// A read that would have to ends with [`io::ErrorKind::WouldBlock`].
    No,
}

/// An open file. Positions are absolute; there is no cursor, so reads can run beside one writer.
pub trait File: Send + Sync + 'static {
    /// Returns fewer bytes than requested only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// All bytes or an error; after an error any part of them may be in the file.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    fn set_len(&self, size_bytes: u64) -> io::Result<()>;

    fn size_bytes(&self) -> io::Result<u64>;

    /// Content and size become durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Content, size and the rest of the inode become durable.
    fn sync_all(&self) -> io::Result<()>;

    /// As [`File::read_at`], but `None` where the disk would have to be waited for.
    fn read_at_if_cached(&self, buffer: &mut [u8], position: u64) -> io::Result<Option<usize>> {
        self.read_at(buffer, position).map(Some)
    }

    /// Fills the buffer, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let read = self.read_at(buffer, position)?;
        if read < buffer.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the requested bytes"));
        }
        Ok(())
    }

    /// A copy of a range.
    fn read_bytes(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; len];
        self.read_exact_at(&mut buffer, position)?;
        Ok(Bytes::from(buffer))
    }
}

/// Reads, waiting for the disk or not as `waits` specifies; returns fewer bytes than requested only at the end of the
/// file.
pub(crate) fn read_at(file: &impl File, buffer: &mut [u8], position: u64, waits: Waits) -> io::Result<usize> {
    match waits {
        Waits::Yes => file.read_at(buffer, position),
        Waits::No => file.read_at_if_cached(buffer, position)?.ok_or_else(|| io::ErrorKind::WouldBlock.into()),
    }
}
