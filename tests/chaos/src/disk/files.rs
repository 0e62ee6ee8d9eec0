//! The directory behind the disk: what the kernel holds open of it, and what a request does to it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirEntryExt as _, FileExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo, OpenFlags};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, StatVfs, Timestamps};

use super::state::{DiskState, Need, Verdict};

struct Inode {
    /// Only names the file (O_PATH): it may be renamed or removed.
    file: OwnedFd,
    lookups: u64,
}

#[derive(Default)]
struct Table {
    inodes: HashMap<u64, Inode>,
    files: HashMap<u64, Arc<File>>,
    listings: HashMap<u64, Arc<Vec<Entry>>>,
    last_handle: u64,
}

impl Table {
    fn handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }
}

pub(super) struct Entry {
    pub(super) inode: u64,
    pub(super) kind: FileType,
    pub(super) name: OsString,
}

pub(super) struct Shared {
    root: OwnedFd,
    table: Mutex<Table>,
    state: Mutex<DiskState>,
    changed: Condvar,
}
pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

pub(super) fn io_errno(error: &std::io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
}

/// The file that an O_PATH descriptor names.
fn path_of(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// FUSE's root is 1; no file system has an inode 0.
fn inode_number(of_directory: u64) -> u64 {
    of_directory.wrapping_add(1)
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let nanoseconds = Duration::from_nanos(nanoseconds);
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanoseconds,
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + nanoseconds,
    }
}

fn kind(stat: &Stat) -> FileType {
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        _ => FileType::RegularFile,
    }
}

fn attributes(stat: &Stat, inode: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode),
        size: stat.st_size.unsigned_abs(),
        blocks: stat.st_blocks.unsigned_abs(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(stat),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Shared {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, table: Mutex::default(), state: Mutex::new(DiskState::Works), changed: Condvar::new() }
    }

    pub(super) fn set(&self, state: DiskState) {
        *self.state.lock() = state;
        self.changed.notify_all();
    }

    /// Answers a request as the state of the disk says: at once, or on a thread that waits first.
    pub(super) fn serve(
        self: &Arc<Self>,
        need: Need,
        answer: impl FnOnce(&Arc<Self>, Result<(), Errno>) + Send + 'static,
    ) {
        match self.state.lock().judge(need) {
            Verdict::Refused(error) => return answer(self, Err(error)),
            Verdict::After(Duration::ZERO) => {}
            Verdict::After(_) | Verdict::Waits => {
                let shared = self.clone();
                // One for each thread of the processes that use the disk, at most.
                std::thread::spawn(move || {
                    let verdict = shared.wait(need);
                    answer(&shared, verdict);
                });
                return;
            }
        }
        answer(self, Ok(()));
    }

    /// Waits for as long as the disk takes. A request whose time was counted from its beginning is not delayed anew by
    /// every change of the state.
    fn wait(&self, need: Need) -> Result<(), Errno> {
        let begun = std::time::Instant::now();
        let mut state = self.state.lock();
        loop {
            match state.judge(need) {
                Verdict::Refused(error) => return Err(error),
                Verdict::Waits => self.changed.wait(&mut state),
                Verdict::After(time) => {
                    let left = time.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Ok(());
                    }
                    self.changed.wait_for(&mut state, left);
                }
            }
        }
    }

    pub(super) fn with_inode<T>(
        &self,
        inode: INodeNo,
        act: impl FnOnce(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if inode == INodeNo::ROOT {
            return act(&self.root);
        }
        act(&self.table.lock().inodes.get(&inode.0).ok_or(Errno::ESTALE)?.file)
    }

    pub(super) fn file(&self, handle: FileHandle) -> Result<Arc<File>, Errno> {
        self.table.lock().files.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    pub(super) fn close(&self, handle: FileHandle) {
        self.table.lock().files.remove(&handle.0);
    }

    pub(super) fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            self.with_inode(parent, |parent| rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(errno))?;
        let stat = rustix::fs::fstat(&file).map_err(errno)?;
        let inode = inode_number(stat.st_ino);
        self.table.lock().inodes.entry(inode).or_insert(Inode { file, lookups: 0 }).lookups += 1;
        Ok(attributes(&stat, inode))
    }

    pub(super) fn forget(&self, inode: INodeNo, lookups: u64) {
        let mut table = self.table.lock();
        if let Some(known) = table.inodes.get_mut(&inode.0) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                table.inodes.remove(&inode.0);
            }
        }
    }

    pub(super) fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let stat = self.with_inode(inode, |file| rustix::fs::fstat(file).map_err(errno))?;
        Ok(attributes(&stat, inode.0))
    }

    fn keep(&self, file: File) -> FileHandle {
        let mut table = self.table.lock();
        let handle = table.handle();
        table.files.insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    /// The kernel gives the place of each write, also of one that appends.
    pub(super) fn open(&self, inode: INodeNo, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let access = OFlags::from_bits_truncate(flags.0.unsigned_abs()) & OFlags::ACCMODE;
        let path = self.with_inode(inode, |file| Ok(path_of(file)))?;
        let file = rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        Ok(self.keep(File::from(file)))
    }

    pub(super) fn create(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(FileAttr, FileHandle), Errno> {
        let kept = OFlags::ACCMODE | OFlags::EXCL | OFlags::TRUNC;
        let flags = (OFlags::from_bits_truncate(flags.unsigned_abs()) & kept) | OFlags::CREATE | OFlags::CLOEXEC;
        let file = self.with_inode(parent, |parent| {
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode)).map_err(errno)
        })?;
        let found = self.look_up(parent, name)?;
        Ok((found, self.keep(File::from(file))))
    }

    pub(super) fn list(&self, inode: INodeNo) -> Result<FileHandle, Errno> {
        let path = self.with_inode(inode, |file| Ok(path_of(file)))?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| io_errno(&error))? {
            let entry = entry.map_err(|error| io_errno(&error))?;
            let kind = entry.file_type().map_err(|error| io_errno(&error))?;
            let kind = FileType::from_std(kind).unwrap_or(FileType::RegularFile);
            entries.push(Entry { inode: inode_number(entry.ino()), kind, name: entry.file_name() });
        }
        let mut table = self.table.lock();
        let handle = table.handle();
        table.listings.insert(handle, Arc::new(entries));
        Ok(FileHandle(handle))
    }

    pub(super) fn listing(&self, handle: FileHandle) -> Option<Arc<Vec<Entry>>> {
        self.table.lock().listings.get(&handle.0).cloned()
    }

    pub(super) fn close_listing(&self, handle: FileHandle) {
        self.table.lock().listings.remove(&handle.0);
    }

    pub(super) fn read(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(handle)?;
        let mut buffer = vec![0; size as usize];
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + filled as u64).map_err(|error| io_errno(&error))? {
                0 => break,
                read => filled += read,
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    pub(super) fn rename(
        &self,
        (parent, name): (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let copy = |file: &OwnedFd| file.try_clone().map_err(|error| io_errno(&error));
        let (from_parent, to_parent) = (self.with_inode(parent, copy)?, self.with_inode(to.0, copy)?);
        let flags = rustix::fs::RenameFlags::from_bits_truncate(flags);
        rustix::fs::renameat_with(&from_parent, name, &to_parent, to.1, flags).map_err(errno)
    }

    pub(super) fn link(&self, inode: INodeNo, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.with_inode(inode, |file| Ok(path_of(file)))?;
        self.with_inode(parent, |parent| {
            rustix::fs::linkat(CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)
        })?;
        self.look_up(parent, name)
    }

    /// A full disk has no free blocks.
    pub(super) fn space(&self) -> Result<StatVfs, Errno> {
        let found = rustix::fs::fstatvfs(&self.root).map_err(errno)?;
        match *self.state.lock() {
            DiskState::Full => Ok(StatVfs { f_bfree: 0, f_bavail: 0, ..found }),
            _ => Ok(found),
        }
    }

    pub(super) fn change(&self, inode: INodeNo, change: &Change) -> Result<FileAttr, Errno> {
        let path = self.with_inode(inode, |file| Ok(path_of(file)))?;
        if let Some(mode) = change.mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).map_err(errno)?;
        }
        if let Some(size) = change.size {
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(size))
                .map_err(|error| io_errno(&error))?;
        }
        if let Some(times) = &change.times {
            rustix::fs::utimensat(CWD, &path, times, AtFlags::empty()).map_err(errno)?;
        }
        self.attributes(inode)
    }
}
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) times: Option<Timestamps>,
}
