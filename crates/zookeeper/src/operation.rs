//! The requests of a connected client.

use std::collections::BTreeSet;

use crate::jute::{Malformed, Reader};
use crate::writes::CreateMode;

/// What a watch waits for, as `removeWatches` and `checkWatches` name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherType {
    Children,
    Data,
    Any,
    Persistent,
    PersistentRecursive,
}

/// Watches that a client sets again after it has reconnected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetWatches<'a> {
    /// The newest revision that the client has seen.
    pub since: i64,
    pub data: Vec<&'a str>,
    pub exist: Vec<&'a str>,
    pub child: Vec<&'a str>,
    pub persistent: Vec<&'a str>,
    pub persistent_recursive: Vec<&'a str>,
}

impl<'a> SetWatches<'a> {
    fn lists(&mut self) -> [&mut Vec<&'a str>; 5] {
        [&mut self.data, &mut self.exist, &mut self.child, &mut self.persistent, &mut self.persistent_recursive]
    }

    /// The number of its paths.
    pub fn paths(&mut self) -> usize {
        self.lists().into_iter().map(|list| list.len()).sum()
    }

    /// Keeps the paths for which `here` gives one, as it gives them.
    pub fn keep(&mut self, here: impl Fn(&'a str) -> Option<&'a str>) {
        for list in self.lists() {
            *list = list.iter().filter_map(|path| here(path)).collect();
        }
    }
}

/// One read of a `multiRead`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read<'a> {
    Data(&'a str),
    Children(&'a str),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation<'a> {
    Exists {
        path: &'a str,
        watch: bool,
    },
    GetData {
        path: &'a str,
        watch: bool,
    },
    GetAcl {
        path: &'a str,
    },
    GetChildren {
        path: &'a str,
        watch: bool,
        with_stat: bool,
    },
    GetEphemerals,
    CountChildren {
        path: &'a str,
    },
    Sync {
        path: &'a str,
    },
    Ping,
    MultiRead(Vec<Read<'a>>),
    /// Its credentials are not looked at: the tree is readable for everybody who may connect.
    AddAuth,
    SetWatches(SetWatches<'a>),
    AddWatch {
        path: &'a str,
        recursive: bool,
    },
    RemoveWatches {
        path: &'a str,
        kind: WatcherType,
    },
    CheckWatches {
        path: &'a str,
        kind: WatcherType,
    },
    WhoAmI,
    Create {
        path: &'a str,
        data: &'a [u8],
        mode: CreateMode,
        with_stat: bool,
    },
    SetData {
        path: &'a str,
        data: &'a [u8],
        version: i32,
    },
    /// Any other operation that would write.
    Write,
    CloseSession,
    Unknown,
}

/// The numbers of the operations.
pub mod code {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const SET_ACL: i32 = 7;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const GET_CHILDREN_2: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE_2: i32 = 15;
    pub const RECONFIG: i32 = 16;
    pub const CHECK_WATCHES: i32 = 17;
    pub const REMOVE_WATCHES: i32 = 18;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const DELETE_CONTAINER: i32 = 20;
    pub const CREATE_TTL: i32 = 21;
    pub const MULTI_READ: i32 = 22;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const GET_EPHEMERALS: i32 = 103;
    pub const COUNT_CHILDREN: i32 = 104;
    pub const SET_WATCHES_2: i32 = 105;
    pub const ADD_WATCH: i32 = 106;
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE_SESSION: i32 = -11;
}

/// The request's number and what it wants. Paths are as seen from `chroot` (`/a`, or nothing for the root); a path that
/// is not below it becomes one that is not valid.
pub fn parse<'a>(frame: &'a [u8], chroot: &str) -> Result<(i32, Operation<'a>), Malformed> {
    let mut reader = Reader::new(frame);
    let (xid, code) = (reader.int()?, reader.int()?);
    let mut operation = operation(code, &mut reader)?;
    if !chroot.is_empty() {
        operation.visit_paths(|path| *path = below(path, chroot).unwrap_or_default());
    }
    Ok((xid, operation))
}

/// `path` as seen from `chroot`; none if it is elsewhere.
pub fn below<'a>(path: &'a str, chroot: &str) -> Option<&'a str> {
    match path.strip_prefix(chroot)? {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

/// Whether a request does nothing but tell that its client lives.
pub fn is_ping(frame: &[u8]) -> bool {
    frame.get(4..8) == Some(code::PING.to_be_bytes().as_slice())
}

/// The chroot in which a path lies, of some, the longest first; empty: the root.
pub fn chroot_of<'a>(path: &str, chroots: &'a [String]) -> &'a str {
    chroots.iter().find(|chroot| below(path, chroot).is_some()).map_or("", String::as_str)
}

/// Those in which the paths of a request lie.
pub fn chroots_of<'a>(frame: &[u8], chroots: &'a [String]) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    if let Ok((_, mut operation)) = parse(frame, "") {
        operation.visit_paths(|path| {
            found.insert(chroot_of(path, chroots));
        });
    }
    found
}

impl<'a> Operation<'a> {
    fn visit_paths(&mut self, mut visit: impl FnMut(&mut &'a str)) {
        match self {
            Self::Exists { path, .. }
            | Self::GetData { path, .. }
            | Self::GetAcl { path }
            | Self::GetChildren { path, .. }
            | Self::CountChildren { path }
            | Self::Sync { path }
            | Self::AddWatch { path, .. }
            | Self::RemoveWatches { path, .. }
            | Self::CheckWatches { path, .. }
            | Self::Create { path, .. }
            | Self::SetData { path, .. } => visit(path),
            Self::MultiRead(reads) => {
                for Read::Data(path) | Read::Children(path) in reads {
                    visit(path);
                }
            }
            Self::SetWatches(set) => {
                set.lists().into_iter().flatten().for_each(visit);
            }
            Self::GetEphemerals
            | Self::Ping
            | Self::AddAuth
            | Self::WhoAmI
            | Self::Write
            | Self::CloseSession
            | Self::Unknown => {}
        }
    }
}

fn operation<'a>(code: i32, reader: &mut Reader<'a>) -> Result<Operation<'a>, Malformed> {
    Ok(match code {
        code::EXISTS => Operation::Exists { path: reader.string()?, watch: reader.bool()? },
        code::GET_DATA => Operation::GetData { path: reader.string()?, watch: reader.bool()? },
        code::GET_ACL => Operation::GetAcl { path: reader.string()? },
        code::GET_CHILDREN | code::GET_CHILDREN_2 => Operation::GetChildren {
            path: reader.string()?,
            watch: reader.bool()?,
            with_stat: code == code::GET_CHILDREN_2,
        },
        code::GET_EPHEMERALS => Operation::GetEphemerals,
        code::COUNT_CHILDREN => Operation::CountChildren { path: reader.string()? },
        code::SYNC => Operation::Sync { path: reader.string()? },
        code::PING => Operation::Ping,
        code::MULTI_READ => Operation::MultiRead(reads(reader)?),
        code::AUTH => Operation::AddAuth,
        code::SET_WATCHES | code::SET_WATCHES_2 => {
            Operation::SetWatches(set_watches(reader, code == code::SET_WATCHES_2)?)
        }
        code::ADD_WATCH => {
            let path = reader.string()?;
            match reader.int()? {
                0 => Operation::AddWatch { path, recursive: false },
                1 => Operation::AddWatch { path, recursive: true },
                _ => Operation::Unknown,
            }
        }
        code::REMOVE_WATCHES | code::CHECK_WATCHES => {
            let path = reader.string()?;
            match (watcher_type(reader.int()?), code) {
                (Some(kind), code::REMOVE_WATCHES) => Operation::RemoveWatches { path, kind },
                (Some(kind), _) => Operation::CheckWatches { path, kind },
                (None, _) => Operation::Unknown,
            }
        }
        code::WHO_AM_I => Operation::WhoAmI,
        code::CREATE | code::CREATE_2 => {
            let (path, data) = (reader.string()?, reader.buffer()?);
            // Access rights are not kept: see the client's answer to `getACL`.
            reader.vector(access_right)?;
            let mode = CreateMode::of(reader.int()?);
            Operation::Create { path, data, mode, with_stat: code == code::CREATE_2 }
        }
        code::SET_DATA => Operation::SetData { path: reader.string()?, data: reader.buffer()?, version: reader.int()? },
        code::DELETE
        | code::SET_ACL
        | code::CHECK
        | code::MULTI
        | code::RECONFIG
        | code::CREATE_CONTAINER
        | code::DELETE_CONTAINER
        | code::CREATE_TTL => Operation::Write,
        code::CLOSE_SESSION => Operation::CloseSession,
        _ => Operation::Unknown,
    })
}

/// Rights, scheme and id.
fn access_right(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.int()?;
    reader.string()?;
    reader.string()?;
    Ok(())
}

/// Pairs of a header (operation, whether it is the last, error) and a read.
fn reads<'a>(reader: &mut Reader<'a>) -> Result<Vec<Read<'a>>, Malformed> {
    let mut reads = Vec::new();
    loop {
        let (code, is_last, _) = (reader.int()?, reader.bool()?, reader.int()?);
        if is_last {
            return Ok(reads);
        }
        let (path, _watch) = (reader.string()?, reader.bool()?);
        reads.push(match code {
            code::GET_DATA => Read::Data(path),
            code::GET_CHILDREN => Read::Children(path),
            _ => return Err(Malformed),
        });
    }
}

fn set_watches<'a>(reader: &mut Reader<'a>, with_persistent: bool) -> Result<SetWatches<'a>, Malformed> {
    let since = reader.long()?;
    let mut paths = || reader.vector(Reader::string);
    let mut set = SetWatches { since, data: paths()?, exist: paths()?, child: paths()?, ..SetWatches::default() };
    if with_persistent {
        set.persistent = paths()?;
        set.persistent_recursive = paths()?;
    }
    Ok(set)
}

fn watcher_type(code: i32) -> Option<WatcherType> {
    Some(match code {
        1 => WatcherType::Children,
        2 => WatcherType::Data,
        3 => WatcherType::Any,
        4 => WatcherType::Persistent,
        5 => WatcherType::PersistentRecursive,
        _ => return None,
    })
}
