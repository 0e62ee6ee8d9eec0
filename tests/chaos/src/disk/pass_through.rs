//! The requests of the kernel (FUSE). Each is answered from the directory behind the disk, when the disk's state lets
//! it pass.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, FallocateFlags, Mode, Timespec, Timestamps};

use super::files::{Change, Shared, errno, io_errno};
use super::state::Need;

/// How long the kernel may use what it was told of names and attributes: nothing else writes to the directory.
const TTL: Duration = Duration::from_secs(60);
/// The part that FUSE's threads call.
pub(super) struct PassThrough(pub(super) Arc<Shared>);
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
        self.0.close(handle);
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
        let Some(listing) = self.0.listing(handle) else {
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
        self.0.close_listing(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.0.space() {
            Ok(found) => {
                let block = u32::try_from(found.f_frsize).unwrap_or(4096);
                let (free, available) = (found.f_bfree, found.f_bavail);
                reply.statfs(found.f_blocks, free, available, found.f_files, found.f_ffree, block, 255, block);
            }
            Err(error) => reply.error(error),
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
