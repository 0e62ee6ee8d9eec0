//! One connected client: answers its requests from the newest tree, and sends it the events that its watches wait for.
//!
//! Invariant (ZooKeeper's): a client never sees a change before the event of a watch that it had set for it. So a
//! request is answered only after the events of everything that the answer may show.

use std::net::IpAddr;
use std::sync::Arc;

use ottla_metadata::controller::Request;
use ottla_metadata::tree::{Path, Tree};

use crate::ErrorCode;
use crate::jute::{Malformed, Writer};
use crate::operation::{Operation, Read, SetWatches, WatcherType, below, chroot_of, code, parse};
use crate::reassignments::{self, Reassignments};
use crate::watches::{Event, EventType, Wants, WatchBudget, Watches};
use crate::writes::{self, Write};
use crate::znodes::{Znode, Znodes, revision};

/// What one `multiRead` may cost, in bytes of its answer; beyond that the remaining reads are refused. It also bounds
/// the time for which others wait: each read, also of nothing, and each name in a list costs as much as its work.
const MULTI_READ_COST_MAX: usize = 1024 * 1024;
const READ_COST: usize = 512;
const NAME_COST: usize = 64;
/// Paths of one `setWatches`. Clients divide what they set again into frames of 128 KiB, with 3,000 paths or so; each
/// path becomes a watch or an event, and a frame may have 200,000.
const SET_WATCHES_MAX: usize = 16_384;
/// The request number of events.
const EVENT_XID: i32 = -1;
/// `KeeperState.SyncConnected`.
const SYNC_CONNECTED: i32 = 3;

/// A request that ends its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a setWatches of more than {max} paths", max = SET_WATCHES_MAX)]
    TooManyWatches,
}

/// What the connection does after a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    Continue,
    /// Wait until this coordinator has everything that was committed before now; then [`Client::synced`].
    Sync {
        xid: i32,
        path: String,
    },
    /// Ask the quorum; then [`Client::decided`].
    Decide {
        request: Request,
        write: PendingWrite,
    },
    /// Send what there is to send, and close: the session has ended.
    Close,
}

/// A write that waits for the quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingWrite {
    xid: i32,
    path: String,
    answer: WriteAnswer,
}

/// What a successful write is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteAnswer {
    Path,
    PathAndStat,
    Stat,
}

/// Whether a client may write what the quorum decides for Kafka's old tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MayWrite {
    Everything,
    /// As the admin API for callers that do not show the cluster's secret.
    Nothing,
}

pub struct Client {
    address: IpAddr,
    /// `/a`, or nothing for the root: stands before every path on the wire.
    chroot: String,
    /// What the client may have seen.
    tree: Tree,
    watches: Watches,
    reassignments: Arc<Reassignments>,
    may_write: MayWrite,
}

impl Client {
    /// `reassignments` are those of the cluster, for all of its clients.
    pub fn new(
        address: IpAddr,
        chroot: String,
        tree: Tree,
        budget: Arc<WatchBudget>,
        reassignments: Arc<Reassignments>,
        may_write: MayWrite,
    ) -> Self {
        Self { address, chroot, tree, watches: Watches::new(budget), reassignments, may_write }
    }

    /// Whether a new tree may bring events.
    pub fn watches(&self) -> bool {
        !self.watches.is_empty()
    }

    /// Moves to a later tree, and appends the events that lead there.
    pub fn advance(&mut self, tree: &Tree, out: &mut Vec<u8>) {
        if tree.revision() <= self.tree.revision() {
            return;
        }
        if self.watches() {
            for event in self.watches.events(&self.tree, tree, &self.reassignments) {
                write_event(&self.chroot, &event, out);
            }
        }
        self.tree = tree.clone();
    }

    /// Appends the answer to a request, or says what it waits for.
    pub fn request(&mut self, frame: &[u8], tree: &Tree, out: &mut Vec<u8>) -> Result<Next, RequestError> {
        self.advance(tree, out);
        let (xid, operation) = parse(frame, &self.chroot)?;
        match operation {
            Operation::Sync { path } => return Ok(Next::Sync { xid, path: path.to_owned() }),
            Operation::Create { path, data, mode, with_stat } => {
                let write = writes::create(self.znodes(), path, data, mode);
                let answer = if with_stat { WriteAnswer::PathAndStat } else { WriteAnswer::Path };
                return Ok(self.write(PendingWrite { xid, path: path.to_owned(), answer }, write, out));
            }
            Operation::SetData { path, data, version } => {
                let write = writes::set_data(self.znodes(), path, data, version);
                let answer = WriteAnswer::Stat;
                return Ok(self.write(PendingWrite { xid, path: path.to_owned(), answer }, write, out));
            }
            Operation::CloseSession => {
                self.empty(xid, ErrorCode::Ok, out);
                return Ok(Next::Close);
            }
            Operation::SetWatches(mut set) => {
                let error = self.set_watches(&mut set, out)?;
                self.empty(xid, error, out);
            }
            Operation::AddWatch { path, recursive } => {
                let wants = if recursive { Wants::RECURSIVE } else { Wants::PERSISTENT };
                let error = match Path::new(path) {
                    Ok(path) if self.watches.add(&path, wants) => ErrorCode::Ok,
                    _ => ErrorCode::BadArguments,
                };
                // An empty error record, as ZooKeeper answers it.
                self.answer(xid, error, out, |writer| writer.int(error.code()));
            }
            Operation::RemoveWatches { path, kind } => {
                let error = self.has_watch(path, kind);
                if let (Ok(path), ErrorCode::Ok) = (Path::new(path), error) {
                    self.watches.remove(&path, Wants::of(kind));
                }
                self.empty(xid, error, out);
            }
            Operation::CheckWatches { path, kind } => self.empty(xid, self.has_watch(path, kind), out),
            Operation::Ping | Operation::AddAuth => self.empty(xid, ErrorCode::Ok, out),
            Operation::Write => self.empty(xid, ErrorCode::NotReadOnly, out),
            Operation::Unknown => self.empty(xid, ErrorCode::Unimplemented, out),
            Operation::MultiRead(reads) => self.multi_read(xid, &reads, out),
            // A session of this protocol creates no nodes.
            Operation::GetEphemerals => self.answer(xid, ErrorCode::Ok, out, |writer| writer.count(0)),
            Operation::WhoAmI => {
                let address = self.address.to_string();
                self.answer(xid, ErrorCode::Ok, out, |writer| {
                    writer.count(1);
                    writer.string("ip");
                    writer.string(&address);
                });
            }
            Operation::Exists { path, watch } => self.exists(xid, path, watch, out),
            Operation::GetData { path, watch } => {
                self.read(xid, path, watch.then_some(Wants::DATA), out, |node, writer| {
                    writer.buffer(node.data.as_deref().map(str::as_bytes));
                    node.stat.write(writer);
                })
            }
            Operation::GetChildren { path, watch, with_stat } => {
                self.read(xid, path, watch.then_some(Wants::CHILDREN), out, |node, writer| {
                    write_names(&node.children, writer);
                    if with_stat {
                        node.stat.write(writer);
                    }
                });
            }
            Operation::CountChildren { path } => self.count_children(xid, path, out),
            Operation::GetAcl { path } => self.read(xid, path, None, out, |node, writer| {
                writer.count(1);
                writer.int(0x1f); // Read, write, create, delete, administer.
                writer.string("world");
                writer.string("anyone");
                node.stat.write(writer);
            }),
        }
        Ok(Next::Continue)
    }

    /// This client's part in a request with paths of several clusters, whose chroots are all of `chroots`, the longest
    /// first. Sends events, and no answer: the client's error is one for all. Only watches can be set in several.
    pub fn request_here(
        &mut self,
        frame: &[u8],
        chroots: &[String],
        tree: &Tree,
        out: &mut Vec<u8>,
    ) -> Result<ErrorCode, RequestError> {
        self.advance(tree, out);
        let (_, Operation::SetWatches(mut set)) = parse(frame, "")? else { return Ok(ErrorCode::BadArguments) };
        // The client has seen the revision of one of the clusters, and does not say which: it is told of all that may
        // have changed.
        set.since = 0;
        let chroot = self.chroot.as_str();
        set.keep(|path| match chroot_of(path, chroots) == chroot {
            true if chroot.is_empty() => Some(path),
            true => below(path, chroot),
            false => None,
        });
        self.set_watches(&mut set, out)
    }

    /// Answers a request with paths of several clusters, when each has had its part.
    pub fn answer_for_all(&self, frame: &[u8], error: ErrorCode, out: &mut Vec<u8>) -> Result<(), RequestError> {
        let (xid, _) = parse(frame, "")?;
        self.empty(xid, error, out);
        Ok(())
    }

    /// This coordinator has everything that was committed before the request; `tree` is none if no quorum said so.
    pub fn synced(&mut self, xid: i32, path: &str, tree: Option<&Tree>, out: &mut Vec<u8>) {
        let Some(tree) = tree else { return self.empty(xid, ErrorCode::OperationTimeout, out) };
        self.advance(tree, out);
        self.answer(xid, ErrorCode::Ok, out, |writer| writer.string(&on_the_wire(&self.chroot, path)));
    }

    /// The quorum has answered what a write asked for.
    pub fn decided(&mut self, write: &PendingWrite, error: ErrorCode, tree: &Tree, out: &mut Vec<u8>) {
        self.advance(tree, out);
        self.answer(write.xid, error, out, |writer| {
            if write.answer != WriteAnswer::Stat {
                writer.string(&on_the_wire(&self.chroot, &write.path));
            }
            if write.answer != WriteAnswer::Path {
                // A node that asked for something may be gone when it is done.
                self.find(&write.path).map(|node| node.stat).unwrap_or_default().write(writer);
            }
        });
    }

    fn write(&mut self, mut pending: PendingWrite, write: Result<Write, ErrorCode>, out: &mut Vec<u8>) -> Next {
        match write {
            Ok(_) if self.may_write == MayWrite::Nothing => self.empty(pending.xid, ErrorCode::NoAuth, out),
            Ok(Write::Decide(request)) => return Next::Decide { request, write: pending },
            Ok(Write::Notify) => {
                // Sequence numbers have ten digits, and grow.
                pending.path = format!("{}{:010}", pending.path, self.tree.revision().0);
                let tree = self.tree.clone();
                self.decided(&pending, ErrorCode::Ok, &tree, out);
            }
            Err(error) => self.empty(pending.xid, error, out),
        }
        Next::Continue
    }

    fn znodes(&self) -> Znodes<'_> {
        Znodes { tree: &self.tree, reassignments: &self.reassignments }
    }

    fn find(&self, path: &str) -> Option<Znode> {
        self.znodes().znode(&Path::new(path).ok()?)
    }

    fn exists(&mut self, xid: i32, path: &str, watch: bool, out: &mut Vec<u8>) {
        let Ok(path) = Path::new(path) else { return self.empty(xid, ErrorCode::BadArguments, out) };
        // Also of a node that is not there: its creation is waited for.
        if watch && !self.watches.add(&path, Wants::DATA) {
            return self.empty(xid, ErrorCode::BadArguments, out);
        }
        match self.znodes().znode(&path) {
            Some(node) => self.answer(xid, ErrorCode::Ok, out, |writer| node.stat.write(writer)),
            None => self.empty(xid, ErrorCode::NoNode, out),
        }
    }

    fn read(
        &mut self,
        xid: i32,
        path: &str,
        watch: Option<Wants>,
        out: &mut Vec<u8>,
        write: impl FnOnce(&Znode, &mut Writer<'_>),
    ) {
        let Ok(path) = Path::new(path) else { return self.empty(xid, ErrorCode::BadArguments, out) };
        let Some(node) = self.znodes().znode(&path) else { return self.empty(xid, ErrorCode::NoNode, out) };
        if let Some(wants) = watch
            && !self.watches.add(&path, wants)
        {
            return self.empty(xid, ErrorCode::BadArguments, out);
        }
        self.answer(xid, ErrorCode::Ok, out, |writer| write(&node, writer));
    }

    fn count_children(&self, xid: i32, path: &str, out: &mut Vec<u8>) {
        let Ok(path) = Path::new(path) else { return self.empty(xid, ErrorCode::BadArguments, out) };
        if !self.znodes().exists(&path) {
            return self.empty(xid, ErrorCode::NoNode, out);
        }
        let below = self.znodes().count_below(&path);
        self.answer(xid, ErrorCode::Ok, out, |writer| writer.count(below));
    }

    fn multi_read(&self, xid: i32, reads: &[Read<'_>], out: &mut Vec<u8>) {
        const ERROR: i32 = -1;
        let mut answers = Vec::new();
        let mut cost = 0;
        for read in reads {
            let (operation, path) = match read {
                Read::Data(path) => (code::GET_DATA, path),
                Read::Children(path) => (code::GET_CHILDREN, path),
            };
            let node = match cost {
                0..MULTI_READ_COST_MAX => self.find(path).ok_or(ErrorCode::NoNode),
                _ => Err(ErrorCode::BadArguments),
            };
            cost += READ_COST + node.as_ref().map_or(0, cost_of);
            answers.push((operation, node));
        }
        self.answer(xid, ErrorCode::Ok, out, |writer| {
            for (operation, node) in &answers {
                let error = node.as_ref().err().map_or(0, |error| error.code());
                write_multi_header(writer, if error == 0 { *operation } else { ERROR }, false, error);
                match node {
                    Ok(node) if *operation == code::GET_DATA => {
                        writer.buffer(node.data.as_deref().map(str::as_bytes));
                        node.stat.write(writer);
                    }
                    Ok(node) => write_names(&node.children, writer),
                    Err(_) => writer.int(error),
                }
            }
            write_multi_header(writer, ERROR, true, ERROR);
        });
    }

    /// Sets the watches of a client that was connected elsewhere, or tells at once what it missed. The tree does not
    /// remember deleted children: a watch of children is told at once unless nothing was written since.
    fn set_watches(&mut self, set: &mut SetWatches<'_>, out: &mut Vec<u8>) -> Result<ErrorCode, RequestError> {
        if set.paths() > SET_WATCHES_MAX {
            return Err(RequestError::TooManyWatches);
        }
        let mut missed: Vec<Event> = Vec::new();
        let mut all_set = true;
        let now = revision(self.tree.revision().0);
        let lists = [
            (&set.data, Wants::DATA),
            (&set.exist, Wants::DATA),
            (&set.child, Wants::CHILDREN),
            (&set.persistent, Wants::PERSISTENT),
            (&set.persistent_recursive, Wants::RECURSIVE),
        ];
        for (position, (paths, wants)) in lists.into_iter().enumerate() {
            for path in paths {
                let Ok(path) = Path::new(path) else { continue };
                let modified = self.znodes().modified(&path).map(|modified| match path.as_str() {
                    // Reassignments that are done have left no trace.
                    reassignments::PATH => now,
                    _ => modified,
                });
                let event = match (position, modified) {
                    (0 | 2, None) => Some(EventType::Deleted),
                    (0, Some(modified)) if modified > set.since => Some(EventType::DataChanged),
                    (1, Some(_)) => Some(EventType::Created),
                    (2, Some(_)) if now > set.since => Some(EventType::ChildrenChanged),
                    _ => None,
                };
                match event {
                    Some(event) => missed.push((event, path)),
                    None => all_set &= self.watches.add(&path, wants),
                }
            }
        }
        for event in &missed {
            write_event(&self.chroot, event, out);
        }
        Ok(if all_set { ErrorCode::Ok } else { ErrorCode::BadArguments })
    }

    fn has_watch(&self, path: &str, kind: WatcherType) -> ErrorCode {
        match Path::new(path) {
            Ok(path) if self.watches.has(&path, kind) => ErrorCode::Ok,
            Ok(_) => ErrorCode::NoWatcher,
            Err(_) => ErrorCode::BadArguments,
        }
    }

    /// An answer without a body.
    fn empty(&self, xid: i32, error: ErrorCode, out: &mut Vec<u8>) {
        self.answer(xid, error, out, |_| {});
    }

    /// The body is written only without an error.
    fn answer(&self, xid: i32, error: ErrorCode, out: &mut Vec<u8>, body: impl FnOnce(&mut Writer<'_>)) {
        let mut writer = Writer::frame(out);
        writer.int(xid);
        writer.long(revision(self.tree.revision().0));
        writer.int(error.code());
        if error == ErrorCode::Ok {
            body(&mut writer);
        }
        writer.finish();
    }
}

/// The chroot itself is the root below it.
fn on_the_wire(chroot: &str, path: &str) -> String {
    if path == "/" && !chroot.is_empty() { chroot.to_owned() } else { format!("{chroot}{path}") }
}

fn write_event(chroot: &str, (event, path): &Event, out: &mut Vec<u8>) {
    let mut writer = Writer::frame(out);
    writer.int(EVENT_XID);
    writer.long(-1);
    writer.int(0);
    writer.int(*event as i32);
    writer.int(SYNC_CONNECTED);
    writer.string(&on_the_wire(chroot, path.as_str()));
    writer.finish();
}

fn write_names(names: &[String], writer: &mut Writer<'_>) {
    writer.count(names.len());
    for name in names {
        writer.string(name);
    }
}

fn write_multi_header(writer: &mut Writer<'_>, code: i32, is_last: bool, error: i32) {
    writer.int(code);
    writer.bool(is_last);
    writer.int(error);
}

fn cost_of(node: &Znode) -> usize {
    node.data.as_ref().map_or(0, String::len) + node.children.iter().map(|name| NAME_COST + name.len()).sum::<usize>()
}
