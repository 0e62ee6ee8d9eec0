//! The file system of the machine (Linux).

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use ottla_model::TimestampMs;
use ottla_replication::producer_state::ProducerBudget;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::{Errno, ReadWriteFlags};

use super::{DirectoryEntry, Env, File, OpenMode};
use crate::open_files::{Kept, OpenFiles};

/// Of the names of a directory that are read at once.
const LISTING_BYTES: usize = 16 * 1024;

/// Read at once: `partition.metadata` has some fifty bytes.
const SMALL_FILE_BYTES: usize = 256;

/// The machine's file system. Holds nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealEnv;

/// An open file; [`AsFd`] hands it to `sendfile`.
#[derive(Debug)]
pub struct RealFile(fs::File);

/// What the producers of the process's logs share.
static PRODUCER_BUDGET: OnceLock<Arc<ProducerBudget>> = OnceLock::new();

/// The open files of the process's logs, and how many there may be before reads leave records out.
static OPEN_FILES: AtomicUsize = AtomicUsize::new(0);
static OPEN_FILES_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);

impl RealFile {
    fn new(file: fs::File) -> Self {
        OPEN_FILES.fetch_add(1, Ordering::Relaxed);
        Self(file)
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps `flock` on its file until dropped; the kernel releases it when the process ends.
#[derive(Debug)]
pub struct RealLock {
    _file: fs::File,
}

/// The files that all logs of the process keep open, the oldest first. If there are too many, files from the front are
/// closed; one that was used since the last check moves to the end instead (the clock algorithm: nearly least recently
/// used, at no cost for a read).
struct KeptFiles {
    files: VecDeque<KeptFile>,
    max: usize,
    /// Files that were opened since those that are closed by now were dropped.
    opened: usize,
}

struct KeptFile {
    file: Weak<RealFile>,
    kept: Kept,
    log: Weak<OpenFiles<RealFile>>,
}

static KEPT_FILES: Mutex<KeptFiles> = Mutex::new(KeptFiles { files: VecDeque::new(), max: usize::MAX, opened: 0 });

impl KeptFiles {
    fn opened(&mut self, file: KeptFile) {
        self.files.push_back(file);
        self.opened += 1;
        if self.files.len() <= self.max {
            return;
        }
        if self.opened > self.max / 4 {
            self.opened = 0;
            self.files.retain(|kept| kept.file.strong_count() > 0);
        }
        // Once round takes every mark away, so twice is enough.
        for _ in 0..2 * self.files.len() {
            if self.files.len() <= self.max {
                break;
            }
            let Some(first) = self.files.pop_front() else { break };
            if let (Some(file), Some(log)) = (first.file.upgrade(), first.log.upgrade()) {
                if log.take_used(first.kept) {
                    self.files.push_back(first);
                } else {
                    log.close_if(first.kept, &file);
                }
            }
        }
    }
}

impl RealEnv {
    /// Bounds the files that logs keep open between their operations, over all logs of the process. Those that were not
    /// used for longest are closed, and opened again when they are.
    ///
    /// `brief` more may be open for a moment, or while a response is sent from them: see [`RealEnv::is_crowded`].
    pub fn set_open_files_max(kept: usize, brief: usize) {
        KEPT_FILES.lock().max = kept;
        OPEN_FILES_MAX.store(kept.saturating_add(brief / 2), Ordering::Relaxed);
    }

    /// Bounds the producers that the process's logs remember together. A process has one broker: a second call changes
    /// nothing.
    pub fn set_producer_budget(budget: Arc<ProducerBudget>) {
        let _ = PRODUCER_BUDGET.set(budget);
    }

    /// The files of logs that are open now.
    pub fn open_files() -> usize {
        OPEN_FILES.load(Ordering::Relaxed)
    }

    /// Whether responses should name no further files: half of those that may be open for a moment are taken. A client
    /// that does not read its responses would otherwise take the descriptors that appends need.
    #[inline]
    pub fn is_crowded() -> bool {
        Self::open_files() > OPEN_FILES_MAX.load(Ordering::Relaxed)
    }
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    // An empty path is the parent of a relative name.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

/// Names are looked up in the open directory: a start lists a hundred thousand of them, and walking their paths would
/// take most of its time. The kernel says with a name whether it is a directory, so that only files are looked at; and
/// not the file of the name `read`, whose size is known when it has been read.
fn list(directory: &OwnedFd, read: Option<&str>) -> io::Result<Vec<DirectoryEntry>> {
    let mut entries = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let size_bytes = match entry.file_type() {
            FileType::Directory => None,
            FileType::RegularFile if read == Some(name) => Some(0),
            kind => {
                let flags = match kind {
                    FileType::RegularFile => AtFlags::SYMLINK_NOFOLLOW,
                    // What a link leads to, and whatever the file system does not name.
                    _ => AtFlags::empty(),
                };
                match rustix::fs::statat(directory, entry.file_name(), flags) {
                    Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => None,
                    Ok(found) => Some(u64::try_from(found.st_size).unwrap_or(0)),
                    // Removed between the listing and the look.
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno.into()),
                }
            }
        };
        entries.push(DirectoryEntry {
            name: name.to_owned(),
            is_directory: size_bytes.is_none(),
            size_bytes: size_bytes.unwrap_or(0),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The content of a file, most likely a small one.
fn read_in(directory: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = RealFile::new(fs::File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?));
    let mut content = vec![0; SMALL_FILE_BYTES];
    loop {
        let filled = file.read_at(&mut content, 0)?;
        if filled < content.len() {
            content.truncate(filled);
            return Ok(content);
        }
        content.resize(content.len() * 8, 0);
    }
}

impl Env for RealEnv {
    type File = RealFile;
    type Lock = RealLock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<RealFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create(true).truncate(false);
            }
            OpenMode::Truncate => {
                options.write(true).create(true).truncate(true);
            }
        }
        options.open(path).map(RealFile::new)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        list(&open_directory(directory)?, None)
    }

    fn list_and_read(&self, directory: &Path, name: &str) -> io::Result<(Vec<DirectoryEntry>, Option<Vec<u8>>)> {
        let directory = open_directory(directory)?;
        let mut entries = list(&directory, Some(name))?;
        let mut content = None;
        if let Some(listed) = entries.iter_mut().find(|entry| entry.name == name && !entry.is_directory) {
            let read = read_in(&directory, name)?;
            listed.size_bytes = read.len() as u64;
            content = Some(read);
        }
        Ok((entries, content))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        // Records are for this user alone, whatever the process's umask is.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        // An empty path is the parent of a relative name.
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        fs::File::open(directory)?.sync_all()
    }

    fn opened(&self, files: &Arc<OpenFiles<RealFile>>, kept: Kept, file: &Arc<RealFile>) {
        let kept = KeptFile { file: Arc::downgrade(file), kept, log: Arc::downgrade(files) };
        KEPT_FILES.lock().opened(kept);
    }

    fn modified(&self, path: &Path) -> io::Result<Option<TimestampMs>> {
        let modified = fs::metadata(path)?.modified()?;
        let since_epoch = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since_epoch.as_millis()).ok().map(TimestampMs))
    }

    fn producer_budget(&self) -> Option<Arc<ProducerBudget>> {
        PRODUCER_BUDGET.get().cloned()
    }

    fn lock(&self, path: &Path) -> io::Result<RealLock> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(RealLock { _file: file }),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, position.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        self.0.set_len(size_bytes)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn read_at_if_cached(&self, buffer: &mut [u8], position: u64) -> io::Result<Option<usize>> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = position.saturating_add(filled as u64);
            match rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // A file system without RWF_NOWAIT (tmpfs of older kernels, overlays): nothing better is known than to
                // read.
                Err(Errno::OPNOTSUPP | Errno::INVAL) => return self.read_at(buffer, position).map(Some),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::Offset;

    #[test]
    fn a_directory_that_is_created_is_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("above").join("topic-0");
        RealEnv.create_directory(&path).unwrap();
        for path in [path.parent().unwrap(), &path] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_listing_knows_sizes_follows_links_and_gives_the_content_of_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("file"), [7; 300]).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        std::os::unix::fs::symlink(at("directory"), at("other")).unwrap();
        let (entries, content) = RealEnv.list_and_read(folder.path(), "file").unwrap();
        let entry =
            |name: &str, is_directory, size_bytes| DirectoryEntry { name: name.to_owned(), is_directory, size_bytes };
        let expected = [
            entry("directory", true, 0),
            entry("file", false, 300),
            entry("link", false, 300),
            entry("other", true, 0),
        ];
        assert_eq!((entries.as_slice(), content), (expected.as_slice(), Some(vec![7; 300])));
        assert_eq!(RealEnv.list(folder.path()).unwrap(), expected);
        assert_eq!(RealEnv.list_and_read(folder.path(), "directory").unwrap().1, None);
        // More names than are read at once.
        (0..2_000).for_each(|number| fs::write(at(&format!("directory/{number:09}")), []).unwrap());
        assert_eq!(RealEnv.list(&at("directory")).unwrap().len(), 2_000);
    }

    #[test]
    fn what_was_not_used_for_longest_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept_files = KeptFiles { files: VecDeque::new(), max: 3, opened: 0 };
        let open = |kept_files: &mut KeptFiles, name: &str| {
            let log = Arc::new(OpenFiles::default());
            let file = Arc::new(RealEnv.open(&folder.path().join(name), OpenMode::Create).unwrap());
            log.keep_if(Kept::Active, Offset(0), &file, || true);
            let log_of_file = Arc::downgrade(&log);
            kept_files.opened(KeptFile { file: Arc::downgrade(&file), kept: Kept::Active, log: log_of_file });
            log
        };
        let logs: Vec<_> = ["a", "b", "c"].iter().map(|name| open(&mut kept_files, name)).collect();
        // All were used when they were opened; the fourth takes their marks away and the place of the first.
        let fourth = open(&mut kept_files, "d");
        let open_logs = |logs: &[Arc<OpenFiles<RealFile>>]| logs.iter().map(|log| log.len()).collect::<Vec<_>>();
        assert_eq!((open_logs(&logs), fourth.len()), (vec![0, 1, 1], 1));
        assert!(logs[1].get(Kept::Active, Offset(0)).is_some());
        let fifth = open(&mut kept_files, "e");
        assert_eq!((open_logs(&logs), fourth.len(), fifth.len()), (vec![0, 1, 0], 1, 1));
        // Closed by its log: it does not count.
        fourth.close_all();
        kept_files.opened = 3;
        let sixth = open(&mut kept_files, "f");
        assert_eq!((open_logs(&logs), fifth.len(), sixth.len()), (vec![0, 1, 0], 1, 1));
    }
}
