//! Log directories whose disks do not answer. A thread of the service waits for such a disk and holds the lock of the
//! partition that it writes to. Here everything that would wait for that thread or that lock waits, in its order, until
//! the disk answers again. Who waits for a lock and who does not ([`ottla_partition::contention`]), and what follows
//! from a stall ([`ottla_partition::upkeep`]), is decided there.

use std::collections::BTreeSet;
use std::sync::Arc;

use ottla_metadata::PartitionState;
use ottla_model::{MonotonicMs, TimestampMs, TopicIdPartition};
use ottla_partition::{Decided, Errand, WhenHeld};
use ottla_storage::{DirectoryHealth, WriteUnderWay};

use super::disk::FoundLog;
use super::fetching::{Received, Source};
use super::process::Process;
use super::replica::Replica;
use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// What waits for the disk. What belongs to a replica is for the one of that number: the partition may have left
/// meanwhile, and come back with its log in another directory (seed 17459).
pub(super) enum Waiting {
    Request(NodeId, Box<Message>),
    SourceAnswered(Source, CallId, Received),
    Assume(TopicIdPartition, u64, Arc<PartitionState>),
    Decided(u64, Decided),
    Create(TopicIdPartition, u64),
    Tick(TopicIdPartition, u64),
    End(Box<Replica>),
    SetAside(Box<FoundLog>),
    Discard(Box<FoundLog>),
}

/// A directory that does not answer.
#[derive(Default)]
pub(super) struct Stall {
    /// Replicas whose locks are held.
    held: BTreeSet<TopicIdPartition>,
    /// Fetchers that wait.
    sources: BTreeSet<Source>,
    writes: Vec<WriteUnderWay>,
    waiting: Vec<Waiting>,
}

impl Stall {
    fn begin_write(&mut self, health: &DirectoryHealth) {
        self.writes.push(health.begin_write());
    }
}

impl Process {
    pub(super) fn is_stalled(&self, directory: usize) -> bool {
        self.stalls.contains_key(&directory)
    }

    fn is_held_up(&self, id: TopicIdPartition) -> bool {
        let stall = self.replicas.get(&id).and_then(|replica| self.stalls.get(&replica.directory));
        stall.is_some_and(|stall| stall.held.contains(&id))
    }

    /// What the errand has to do if the lock of the replica is held.
    pub(super) fn when_held(&self, id: TopicIdPartition, errand: Errand) -> Option<WhenHeld> {
        let directory = self.log_dirs.get(self.replicas.get(&id)?.directory)?;
        self.is_held_up(id).then(|| errand.when_held(directory.health()))
    }

    /// The lock of the replica is held: the errand passes it by, or a thread waits and does it then.
    pub(super) fn wait_or_pass(&mut self, id: TopicIdPartition, held: WhenHeld, waiting: impl FnOnce(u64) -> Waiting) {
        let Some((directory, number)) = self.replicas.get(&id).map(|replica| (replica.directory, replica.number))
        else {
            return;
        };
        match held {
            WhenHeld::PassesBy | WhenHeld::WaitsBriefly => {}
            WhenHeld::Waits | WhenHeld::Later => {
                let _ = self.wait_for_disk(directory, waiting(number));
            }
        }
    }

    pub(super) fn held_up(&self) -> impl Iterator<Item = TopicIdPartition> {
        self.stalls.values().flat_map(|stall| stall.held.iter().copied())
    }

    /// Whether the fetcher waits.
    pub(super) fn is_source_held(&self, source: Source) -> bool {
        self.stalls.get(&source.1).is_some_and(|stall| stall.sources.contains(&source))
    }

    /// Lets something wait that belongs to the directory, if its disk does not answer.
    pub(super) fn wait_for_disk(&mut self, directory: usize, waiting: Waiting) -> Result<(), Waiting> {
        match self.stalls.get_mut(&directory) {
            Some(stall) => {
                stall.waiting.push(waiting);
                Ok(())
            }
            None => Err(waiting),
        }
    }

    /// A request that writes to a replica begins the write, and waits for its end. A replica that writes nothing
    /// answers at once, unless its lock is held.
    pub(super) fn write_waits(&mut self, id: TopicIdPartition, from: NodeId, message: &Message) -> bool {
        let Some(replica) = self.replicas.get(&id) else { return false };
        let Some(directory) = self.log_dirs.get(replica.directory) else { return false };
        let Some(stall) = self.stalls.get_mut(&replica.directory) else { return false };
        let writes = stall.held.contains(&id) || replica.core.writes();
        if Errand::Append.check(directory.health()).is_err() || !writes {
            return false;
        }
        if stall.held.insert(id) {
            stall.begin_write(directory.health());
        }
        stall.waiting.push(Waiting::Request(from, Box::new(message.clone())));
        true
    }

    /// The answer of a source begins a write, and its fetcher waits for the end.
    pub(super) fn source_waits(&mut self, source: Source, call: CallId, received: Received) -> Option<Received> {
        let (Some(directory), Some(stall)) = (self.log_dirs.get(source.1), self.stalls.get_mut(&source.1)) else {
            return Some(received);
        };
        if stall.sources.insert(source) {
            stall.begin_write(directory.health());
        }
        stall.waiting.push(Waiting::SourceAnswered(source, call, received));
        None
    }

    fn has_replica(&self, id: TopicIdPartition, number: u64) -> bool {
        self.replicas.get(&id).is_some_and(|replica| replica.number == number)
    }

    pub fn stall(&mut self, directory: usize) {
        if !self.is_directory_failed(directory) {
            self.stalls.entry(directory).or_default();
        }
    }

    /// The disk answers again: what waited happens.
    pub fn disk_answers(&mut self, now: MonotonicMs, wall: TimestampMs, number: usize, out: &mut Outbox) {
        let Some(stall) = self.stalls.remove(&number) else { return };
        let Some(directory) = self.log_dirs.get(number) else { return };
        stall.writes.into_iter().for_each(|write| directory.health().end_write(write));
        // The look that finds that they have finished.
        self.watch_at = now;
        self.watch_directories(now, wall, out);
        for waiting in stall.waiting {
            match waiting {
                Waiting::Request(from, message) => self.answer_client(now, wall, from, *message, out),
                Waiting::SourceAnswered(source, call, received) => {
                    self.answered_by(now, wall, source, call, received, out);
                }
                Waiting::Assume(id, number, state) if self.has_replica(id, number) => {
                    self.assume(now, wall, id, &state, out);
                }
                Waiting::Decided(number, decided) if self.has_replica(decided.partition, number) => {
                    self.isr_decided(now, decided, out);
                }
                Waiting::Create(id, number) if self.has_replica(id, number) => {
                    self.open_log(now, wall, id, None, out);
                }
                Waiting::Tick(id, number) if self.has_replica(id, number) => {
                    self.tick_leader(now, id, Errand::BrokerNews, out)
                }
                Waiting::Assume(..) | Waiting::Decided(..) | Waiting::Create(..) | Waiting::Tick(..) => {}
                Waiting::End(replica) => self.end_replica(*replica, out),
                Waiting::SetAside(found) => self.set_aside(*found, out),
                Waiting::Discard(found) => self.discard(*found, out),
            }
        }
        self.end_turn(now, wall, out);
    }
}
