//! A disk that is slow, does not answer, fails or is full: a file system in user space (FUSE) that passes everything
//! through to a directory, mounted where a process has its data.
//!
//! Nothing is synced to the directory behind it: the host's power is not lost in these tests. The page cache of the
//! kernel works as on any disk: what was read or written before is read without the disk.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirEntryExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use tempfile::TempDir;

/// How long the kernel may use what it was told of names and attributes: nothing else writes to the directory.
const TTL: Duration = Duration::from_secs(60);
/// Requests of several threads are served at once, as a disk does.
const THREADS: usize = 4;

/// What a disk does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    Works,
    /// Each sync takes this long.
    Slow(Duration),
    /// What changes or syncs something does not return until the state changes, nor does a read of what is not cached.
    Stalled,
    /// EIO.
    Failed,
    /// ENOSPC for what needs room.
    Full,
}

/// What a request asks of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Read,
    /// Writes, and names that are made: needs room.
    Room,
    Sync,
    /// Changes without a need for room.
    Change,
}

/// What is done with a request now.
enum Verdict {
    Refused(Errno),
    After(Duration),
    Waits,
}

impl DiskState {
    fn judge(self, need: Need) -> Verdict {
        match (self, need) {
            (Self::Failed, _) => Verdict::Refused(Errno::EIO),
            (Self::Full, Need::Room) => Verdict::Refused(Errno::ENOSPC),
            (Self::Stalled, _) => Verdict::Waits,
            (Self::Slow(time), Need::Sync) => Verdict::After(time),
            (Self::Works | Self::Full | Self::Slow(_), _) => Verdict::After(Duration::ZERO),
        }
    }
}

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

struct Entry {
    inode: u64,
    kind: FileType,
    name: std::ffi::OsString,
}

struct Shared {
    root: OwnedFd,
    table: Mutex<Table>,
    state: Mutex<DiskState>,
    changed: Condvar,
}

/// The part that FUSE's threads call.
struct PassThrough(Arc<Shared>);

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn io_errno(error: &std::io::Error) -> Errno {
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
    fn set(&self, state: DiskState) {
        *self.state.lock() = state;
        self.changed.notify_all();
    }

    /// Answers a request as the state of the disk says: at once, or on a thread that waits first.
    fn serve(self: &Arc<Self>, need: Need, answer: impl FnOnce(&Arc<Self>, Result<(), Errno>) + Send + 'static) {
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

    fn with_inode<T>(&self, inode: INodeNo, act: impl FnOnce(&OwnedFd) -> Result<T, Errno>) -> Result<T, Errno> {
        if inode == INodeNo::ROOT {
            return act(&self.root);
        }
        act(&self.table.lock().inodes.get(&inode.0).ok_or(Errno::ESTALE)?.file)
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<File>, Errno> {
        self.table.lock().files.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            self.with_inode(parent, |parent| rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(errno))?;
        let stat = rustix::fs::fstat(&file).map_err(errno)?;
        let inode = inode_number(stat.st_ino);
        self.table.lock().inodes.entry(inode).or_insert(Inode { file, lookups: 0 }).lookups += 1;
        Ok(attributes(&stat, inode))
    }

    fn forget(&self, inode: INodeNo, lookups: u64) {
        let mut table = self.table.lock();
        if let Some(known) = table.inodes.get_mut(&inode.0) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                table.inodes.remove(&inode.0);
            }
        }
    }

    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
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
    fn open(&self, inode: INodeNo, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let access = OFlags::from_bits_truncate(flags.0.unsigned_abs()) & OFlags::ACCMODE;
        let path = self.with_inode(inode, |file| Ok(path_of(file)))?;
        let file = rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        Ok(self.keep(File::from(file)))
    }

    fn create(&self, parent: INodeNo, name: &OsStr, mode: u32, flags: i32) -> Result<(FileAttr, FileHandle), Errno> {
        let kept = OFlags::ACCMODE | OFlags::EXCL | OFlags::TRUNC;
        let flags = (OFlags::from_bits_truncate(flags.unsigned_abs()) & kept) | OFlags::CREATE | OFlags::CLOEXEC;
        let file = self.with_inode(parent, |parent| {
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode)).map_err(errno)
        })?;
        let found = self.look_up(parent, name)?;
        Ok((found, self.keep(File::from(file))))
    }

    fn list(&self, inode: INodeNo) -> Result<FileHandle, Errno> {
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

    fn read(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
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

    fn rename(&self, (parent, name): (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: u32) -> Result<(), Errno> {
        let copy = |file: &OwnedFd| file.try_clone().map_err(|error| io_errno(&error));
        let (from_parent, to_parent) = (self.with_inode(parent, copy)?, self.with_inode(to.0, copy)?);
        let flags = rustix::fs::RenameFlags::from_bits_truncate(flags);
        rustix::fs::renameat_with(&from_parent, name, &to_parent, to.1, flags).map_err(errno)
    }

    fn link(&self, inode: INodeNo, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.with_inode(inode, |file| Ok(path_of(file)))?;
        self.with_inode(parent, |parent| {
            rustix::fs::linkat(CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)
        })?;
        self.look_up(parent, name)
    }

    fn change(&self, inode: INodeNo, change: &Change) -> Result<FileAttr, Errno> {
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

struct Change {
    mode: Option<u32>,
    size: Option<u64>,
    times: Option<Timestamps>,
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Timespec { tv_sec: since.as_secs().cast_signed(), tv_nsec: since.subsec_nanos().into() }
        }
    }
}

fn entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(found) => reply.entry(&TTL, &found, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for PassThrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.0.look_up(parent, name));
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        self.0.forget(inode, lookups);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(inode) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = (accessed.is_some() || modified.is_some())
            .then(|| Timestamps { last_access: timespec(accessed), last_modification: timespec(modified) });
        let change = Change { mode, size, times };
        self.0.serve(Need::Change, move |shared, verdict| match verdict.and_then(|()| shared.change(inode, &change)) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let name = name.to_owned();
        self.0.serve(Need::Room, move |shared, verdict| {
            let made = verdict.and_then(|()| {
                shared.with_inode(parent, |parent| {
                    rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(mode)).map_err(errno)
                })
            });
            entry(reply, made.and_then(|()| shared.look_up(parent, &name)));
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, AtFlags::empty(), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, AtFlags::REMOVEDIR, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.0.serve(Need::Change, move |shared, verdict| {
            let renamed = verdict.and_then(|()| shared.rename((parent, &name), (to_parent, &to_name), flags.bits()));
            empty(reply, renamed);
        });
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.0.serve(Need::Room, move |shared, verdict| {
            entry(reply, verdict.and_then(|()| shared.link(inode, parent, &name)));
        });
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.0.serve(Need::Read, move |shared, verdict| match verdict.and_then(|()| shared.open(inode, flags)) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        });
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let name = name.to_owned();
        self.0.serve(Need::Room, move |shared, verdict| {
            match verdict.and_then(|()| shared.create(parent, &name, mode, flags)) {
                Ok((found, handle)) => reply.created(&TTL, &found, Generation(0), handle, FopenFlags::empty()),
                Err(error) => reply.error(error),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.serve(Need::Read, move |shared, verdict| {
            match verdict.and_then(|()| shared.read(handle, offset, size)) {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(error),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.0.serve(Need::Room, move |shared, verdict| {
            let written = verdict
                .and_then(|()| shared.file(handle)?.write_all_at(&data, offset).map_err(|error| io_errno(&error)));
            match written {
                Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
                Err(error) => reply.error(error),
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.table.lock().files.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.serve(Need::Sync, |_, verdict| empty(reply, verdict));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.serve(Need::Sync, |_, verdict| empty(reply, verdict));
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.serve(Need::Read, move |shared, verdict| match verdict.and_then(|()| shared.list(inode)) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error),
        });
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(listing) = self.0.table.lock().listings.get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for (entry, next) in listing.iter().skip(at).zip(offset + 1..) {
            if reply.add(INodeNo(entry.inode), next, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.table.lock().listings.remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let is_full = *self.0.state.lock() == DiskState::Full;
        match rustix::fs::fstatvfs(&self.0.root) {
            Ok(found) => {
                let free = if is_full { 0 } else { found.f_bfree };
                let available = if is_full { 0 } else { found.f_bavail };
                let block = u32::try_from(found.f_frsize).unwrap_or(4096);
                reply.statfs(found.f_blocks, free, available, found.f_files, found.f_ffree, block, 255, block);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.0.serve(Need::Room, move |shared, verdict| {
            let flags = FallocateFlags::from_bits_truncate(mode.unsigned_abs());
            let done = verdict.and_then(|()| {
                let file = shared.file(handle)?;
                rustix::fs::fallocate(&file, flags, offset, length).map_err(errno)
            });
            empty(reply, done);
        });
    }
}

impl PassThrough {
    fn remove(&self, parent: INodeNo, name: &OsStr, flags: AtFlags, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.0.serve(Need::Change, move |shared, verdict| {
            let removed = verdict.and_then(|()| {
                shared.with_inode(parent, |parent| rustix::fs::unlinkat(parent, &name, flags).map_err(errno))
            });
            empty(reply, removed);
        });
    }
}

/// A disk that works until it is told otherwise. Dropping it makes it fail, so that nobody waits for it any more, and
/// takes it away.
pub struct FaultyDisk {
    shared: Arc<Shared>,
    at: PathBuf,
    _session: BackgroundSession,
    _directory: TempDir,
}

impl FaultyDisk {
    /// Mounts a new, empty one there. None, and a note of the skipped test, where nobody may mount one.
    pub fn mount(at: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let directory = TempDir::with_prefix("ottla-disk-")?;
        let root = OwnedFd::from(File::open(directory.path())?);
        let (table, state) = (Mutex::default(), Mutex::new(DiskState::Works));
        let shared = Arc::new(Shared { root, table, state, changed: Condvar::new() });
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        match fuser::spawn_mount(PassThrough(shared.clone()), at, &config) {
            Ok(session) => Ok(Some(Self { shared, at: at.to_owned(), _session: session, _directory: directory })),
            Err(error) => {
                ottla_test_support::skipped(&format!("no FUSE file system can be mounted here: {error}"));
                Ok(None)
            }
        }
    }

    pub fn set(&self, state: DiskState) {
        self.shared.set(state);
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.set(DiskState::Failed);
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    fn disk() -> Result<Option<(TempDir, FaultyDisk)>> {
        let folder = TempDir::new()?;
        Ok(FaultyDisk::mount(&folder.path().join("disk"))?.map(|disk| (folder, disk)))
    }

    #[test]
    fn a_disk_that_works_is_a_file_system() -> Result<()> {
        let Some((_folder, disk)) = disk()? else { return Ok(()) };
        let at = |name: &str| disk.at.join(name);
        fs::create_dir(at("d"))?;
        fs::write(at("d/a"), "abc")?;
        let mut appended = File::options().append(true).open(at("d/a"))?;
        appended.write_all(b"de")?;
        appended.sync_all()?;
        fs::rename(at("d/a"), at("b"))?;
        appended.write_all(b"f")?;
        assert_eq!(fs::read_to_string(at("b"))?, "abcdef");
        fs::hard_link(at("b"), at("c"))?;
        let mut open = File::options().read(true).write(true).open(at("c"))?;
        fs::remove_file(at("b"))?;
        fs::remove_file(at("c"))?;
        open.set_len(4)?;
        open.rewind()?;
        let mut text = String::new();
        open.read_to_string(&mut text)?;
        assert_eq!((text.as_str(), open.metadata()?.len()), ("abcd", 4));
        fs::remove_dir(at("d"))?;
        assert_eq!(fs::read_dir(&disk.at)?.count(), 0);
        for number in 0..300 {
            fs::write(at(&format!("file-{number}")), "")?;
        }
        assert_eq!(fs::read_dir(&disk.at)?.count(), 300);
        Ok(())
    }

    #[test]
    fn each_state_has_its_effect_and_ends() -> Result<()> {
        let Some((_folder, disk)) = disk()? else { return Ok(()) };
        let mut file = File::create(disk.at.join("a"))?;
        file.write_all(b"a")?;
        disk.set(DiskState::Full);
        assert_eq!(file.write(b"b").map_err(|error| error.kind()), Err(ErrorKind::StorageFull));
        file.sync_all()?;
        disk.set(DiskState::Failed);
        let eio = Some(rustix::io::Errno::IO.raw_os_error());
        assert_eq!(file.write(b"b").map_err(|error| error.raw_os_error()), Err(eio));
        assert_eq!(file.sync_all().map_err(|error| error.raw_os_error()), Err(eio));
        let begun = Instant::now();
        disk.set(DiskState::Slow(Duration::from_millis(300)));
        file.write_all(b"b")?;
        file.sync_all()?;
        assert!(begun.elapsed() >= Duration::from_millis(300));
        disk.set(DiskState::Stalled);
        let (returned, has_returned) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let written = file.write_all(b"c");
            let _ = returned.send(());
            written
        });
        assert_eq!(has_returned.recv_timeout(Duration::from_millis(300)), Err(mpsc::RecvTimeoutError::Timeout));
        disk.set(DiskState::Works);
        assert!(matches!(writer.join(), Ok(Ok(()))));
        assert_eq!(fs::read_to_string(disk.at.join("a"))?, "abc");
        Ok(())
    }
}
