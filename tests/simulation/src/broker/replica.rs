//! One partition's replica on a broker: the core that ships, and what its log holds, for the invariants.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use ottla_model::{BrokerId, LeaderEpoch, MonotonicMs, Offset, TopicIdPartition, TopicPartition};
use ottla_partition::{Ack, Truncated};
use ottla_protocol::record_batch::Batches;
use ottla_replication::{Follower, Leader};
use ottla_storage::env::FaultyEnv;

use crate::content::{Content, RecordId};
use crate::facts::Fact;
use crate::message::CallId;
use crate::network::NodeId;
use crate::outbox::{Members, Outbox};

pub type Log = ottla_storage::Log<FaultyEnv>;
pub type Core = ottla_partition::Replica<FaultyEnv, Waiter>;

/// Small reads: an index is read in many places.
const READ_BYTES: usize = 700;

/// A request that waits at a partition.
#[derive(Clone, Debug)]
pub enum Waiter {
    /// A produce with acks=all.
    Produce(Rc<WaitingProduce>),
    /// DeleteRecords: nobody asks for the answer.
    Deletion,
}

#[derive(Debug)]
pub struct WaitingProduce {
    pub to: NodeId,
    pub call: CallId,
    pub first: Offset,
    pub next: Offset,
    /// The first record, as it was appended.
    pub record: Option<RecordId>,
    pub deadline: MonotonicMs,
    pub is_answered: Cell<bool>,
}

impl Ack for Waiter {
    fn is_abandoned(&self) -> bool {
        matches!(self, Self::Produce(produce) if produce.is_answered.get())
    }
}

pub struct Replica {
    pub id: TopicIdPartition,
    /// Distinguishes it from those that the process had of the same partition before.
    pub number: u64,
    pub name: TopicPartition,
    /// The place of its log directory.
    pub directory: usize,
    pub core: Core,
    pub content: Content,
    /// Where its disk holds other bytes than were written, and nobody has noticed: it was synced before.
    pub rot: Option<Offset>,
    /// The last append found no room.
    pub is_out_of_room: bool,
    env: FaultyEnv,
}

/// The disk failed: the process goes.
#[derive(Debug, thiserror::Error)]
#[error("the disk failed: {0}")]
pub struct DiskFailed(pub String);

impl Replica {
    pub fn new(
        id: TopicIdPartition,
        number: u64,
        name: TopicPartition,
        directory: usize,
        env: FaultyEnv,
        high_watermark: Offset,
    ) -> Self {
        let core = Core::new(high_watermark);
        Self { id, number, name, directory, core, content: Content::default(), rot: None, is_out_of_room: false, env }
    }

    /// Reads what a log that was found holds.
    pub fn read_found(&mut self, log: &Log) -> Result<(), String> {
        self.content.restart(log.log_start_offset());
        self.rot = self.env.without_faults(|| read_content(log, &mut self.content))?;
        Ok(())
    }

    /// The log is one in another directory now. Says what it lacks of what the former one held.
    pub fn moved(&mut self, directory: usize, env: FaultyEnv) -> Result<Option<String>, String> {
        (self.directory, self.env) = (directory, env);
        let Some(log) = self.core.log().filter(|_| self.rot.is_none()) else { return Ok(None) };
        let mut content = Content::default();
        content.restart(log.log_start_offset());
        self.env.without_faults(|| read_content(log, &mut content))?;
        let from = content.start().max(self.content.start());
        if content.iter_from(from).eq(self.content.iter_from(from)) {
            return Ok(None);
        }
        let (was, is) = (self.content.end(), content.end());
        Ok(Some(format!("its log ended at {was} and ends at {is}, or holds other records")))
    }

    pub fn log_start(&self) -> Offset {
        self.core.log().map_or(self.content.start(), Log::log_start_offset)
    }

    pub fn log_end(&self) -> Offset {
        self.core.log().map_or(self.content.end(), Log::log_end_offset)
    }

    pub fn high_watermark(&self) -> Offset {
        self.core.high_watermark()
    }

    pub fn leader(&self) -> Option<&Leader> {
        self.core.leader()
    }

    pub fn follower(&self) -> Option<&Follower> {
        self.core.follower()
    }

    /// The offsets of all that a reader of committed records must pass over, by the log's own index.
    pub fn hidden(&self) -> Result<BTreeSet<Offset>, String> {
        let Some(log) = self.core.log() else { return Ok(BTreeSet::new()) };
        let (mut next, end, mut all) = (log.log_start_offset(), log.log_end_offset(), BTreeSet::new());
        while next < end {
            let search = log.aborted_search(next, end);
            let slice = log.read(next, READ_BYTES, end, true).map_err(|error| error.to_string())?;
            let bytes = slice.read().map_err(|error| error.to_string())?;
            let aborted = search.map(|search| search.run(&slice)).transpose().map_err(|error| error.to_string())?;
            let aborted = aborted.flatten().unwrap_or_default();
            let pairs: Vec<_> = aborted.iter().map(|it| (it.producer_id, it.first_offset)).collect();
            all.append(&mut crate::client::hidden(&bytes, &pairs));
            let whole = Batches::new(&bytes).map_while(Result::ok);
            next = whole.last().map_or(end, |batch| batch.header.next_offset());
        }
        Ok(all)
    }

    /// Whether its log cannot be read in this life.
    pub fn is_offline(&self) -> bool {
        self.core.is_offline()
    }

    fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.leader().map(Leader::leader_epoch).or_else(|| self.follower().map(Follower::leader_epoch))
    }

    /// A role began or ended.
    pub fn tell_role(&self, out: &mut Outbox) {
        if let Some(leader) = self.leader() {
            out.note(format_args!(
                "leads {} in epoch {} from {}, HW {}, min ISR {}, ISR {}",
                self.name,
                leader.leader_epoch(),
                self.log_end(),
                leader.high_watermark(),
                leader.effective_min_isr(),
                Members(leader.isr().committed())
            ));
            out.facts.push(Fact::Leads { partition: self.id, leader_epoch: leader.leader_epoch() });
        } else if let Some(follower) = self.follower() {
            out.note(format_args!(
                "follows {} on b{} in epoch {} from {}, HW {}",
                self.name,
                follower.leader(),
                follower.leader_epoch(),
                follower.log_end(),
                follower.high_watermark()
            ));
        } else {
            out.note(format_args!("has no role in {}", self.name));
        }
    }

    pub fn publish(&self, offset: Offset, out: &mut Outbox) {
        if let Some(leader_epoch) = self.leader_epoch() {
            out.facts.push(Fact::HighWatermark { partition: self.id, leader_epoch, offset });
        }
    }

    /// The log has grown.
    pub fn appended(&mut self, out: &mut Outbox) {
        let Some(log) = self.core.log() else { return };
        let from = self.content.end();
        match self.env.without_faults(|| read_content(log, &mut self.content)) {
            Ok(None) => out.facts.push(Fact::Appended { partition: self.id, from }),
            Ok(Some(offset)) => out
                .facts
                .push(Fact::Broken { what: format!("{} took a batch at {offset} whose checksum is wrong", self.name) }),
            Err(what) => out.facts.push(Fact::Broken { what: format!("{}: {what}", self.name) }),
        }
    }

    pub fn was_cut(&mut self, cut: &Truncated, out: &mut Outbox) {
        out.note(format_args!("truncates {} from {} to {}, start {}", self.name, cut.from, cut.to, cut.log_start));
        self.rot = self.rot.filter(|rot| *rot < cut.to && cut.log_start < cut.to);
        if cut.log_start >= cut.to || cut.log_start < self.content.start() {
            self.content.restart(cut.to);
        } else {
            self.content.truncate(cut.to);
        }
    }

    /// The disk failed, perhaps in the middle of a truncation: what is not committed is not counted on any more.
    pub fn may_have_been_cut(&mut self) {
        let high_watermark = self.high_watermark().max(self.content.start());
        self.content.truncate(high_watermark);
    }

    pub fn tell_isr(&self, out: &mut Outbox) {
        if let Some(leader) = self.leader() {
            out.note(format_args!("{} has ISR {}", self.name, Members(leader.isr().committed())));
        }
    }

    /// Answers a produce whose records are below the high watermark.
    pub fn acknowledge(&self, produce: &WaitingProduce, local: BrokerId, out: &mut Outbox) {
        if produce.is_answered.replace(true) {
            return;
        }
        let min_isr = self.leader().map_or(0, Leader::effective_min_isr);
        out.facts.push(Fact::Acknowledged {
            partition: self.id,
            leader_epoch: self.core.leading_epoch(),
            first: produce.first,
            next: produce.next,
            record: produce.record,
            min_isr,
        });
        out.answer_produce(produce.to, produce.call, Ok(produce.first), local);
    }
}

/// Reads what the log holds beyond the known content. Says where the first batch is whose checksum is wrong.
fn read_content(log: &Log, content: &mut Content) -> Result<Option<Offset>, String> {
    let mut damaged = None;
    let end = log.log_end_offset();
    while content.end() < end {
        let before = content.end();
        let from = before.max(log.log_start_offset());
        let slice = log.read(from, usize::MAX, end, true).map_err(|error| error.to_string())?;
        let bytes = slice.read().map_err(|error| error.to_string())?;
        damaged = damaged.or(content.extend_damaged(&bytes)?);
        if content.end() == before {
            return Err(format!("the log ends at {end}, but nothing can be read at {before}"));
        }
    }
    Ok(damaged)
}
