//! What must hold at every step of a run, whatever the faults.
//!
//! - One leader per partition and leader epoch; one quorum leader per term.
//! - Within a leader epoch no replica's high watermark (HW) falls while its process lives.
//! - Every record below any HW that was ever published is in every later leader's log, and so is every record that was
//!   acknowledged with acks=all and a min ISR of 2: as long as fewer than min ISR replicas lost their power, and with
//!   it what was not synced, before they were back in the ISR.
//! - After an unclean election nothing is promised of what its leader lacks, nor of what is committed in earlier leader
//!   epochs from then on: the world checks that the election was allowed, of the right replica, and told.
//! - Equal (epoch, offset) means equal records.
//! - The tree applied at a revision is the same everywhere.
//! - A log begins no later than records were deleted.
//! - A consumer reads what is committed, and nothing else, whichever replica it asks; no replica tells it of a HW above
//!   what is committed. `kill -9` loses no record.
//! - A reader of committed records gets no record of a transaction that is open or aborted; at the end every log's
//!   index hides the aborted ones, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{
    BrokerEpoch, BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Revision, TopicIdPartition,
    TransactionResult,
};

use crate::client::{Acknowledged, Seen};
use crate::content::{Content, RecordId};
use crate::transactor::TRANSACTIONAL_IDS;

/// A rule that does not hold: the end of the run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

macro_rules! violated {
    ($($text:tt)*) => { return Err(Violation(format!($($text)*))) };
}

/// A record below a HW, with the earliest leader epoch in which one was published above it.
#[derive(Clone, Copy, Debug)]
struct Committed {
    record: RecordId,
    epoch: LeaderEpoch,
}

#[derive(Default)]
struct Partition {
    leaders: BTreeMap<LeaderEpoch, (BrokerId, u32)>,
    records: BTreeMap<(Offset, LeaderEpoch), RecordId>,
    committed: BTreeMap<Offset, Committed>,
    acknowledged: BTreeMap<Offset, Committed>,
    promises: Vec<Acknowledged>,
    /// Life of the process, leader epoch and HW.
    high_watermarks: BTreeMap<BrokerId, (u32, LeaderEpoch, Offset)>,
    /// Replicas whose hosts lost their power, with the broker epoch they had, until they are in the ISR again. Whether
    /// the disk had everything by luck, nobody but the host can tell: to the quorum it is one that came back from an
    /// unclean shutdown.
    lossy: BTreeMap<BrokerId, BrokerEpoch>,
    /// Replicas whose logs went with their disks, with the broker epoch they had, until they are in the ISR again
    /// beside others. One that is the last member may not lead with what it begins anew, whatever else is lost
    /// (scenario 33).
    wiped: BTreeMap<BrokerId, BrokerEpoch>,
    /// As many replicas as min ISR have lost data: nothing is promised any more.
    is_exempt: bool,
    /// No leader of an earlier epoch than this one commits anything that lasts: the election was unclean.
    unclean_since: Option<LeaderEpoch>,
    /// What the leaders lack that were elected since then is not known yet, up to the leader of this epoch: of several
    /// elections that were seen at once any may have been unclean.
    giving_up_to: Option<LeaderEpoch>,
    /// The leader epochs of elections that were unclean, or may have been.
    perhaps_unclean: BTreeSet<LeaderEpoch>,
    /// Committed records that were lost in unclean elections, and the leader epoch that began with the election: they
    /// may have been read in earlier epochs, and acknowledged.
    given_up: BTreeMap<(Offset, RecordId), LeaderEpoch>,
    /// What was given up and is not lost, as a later unclean election chose who had it: consumers were told of it.
    brought_back: BTreeSet<(Offset, RecordId)>,
    /// What consumers have read, and the last leader epoch in which a replica gave it.
    consumed: BTreeMap<(Offset, RecordId), LeaderEpoch>,
    /// Records before are not kept for ever: DeleteRecords.
    deleted_up_to: Offset,
}

impl Partition {
    /// A log begins no later than records were deleted: a leader of which the first ones are missing has lost them.
    fn check_start(&self, id: TopicIdPartition, replica: Replica<'_>) -> Result<(), Violation> {
        let start = replica.content.start();
        if start > self.deleted_up_to {
            violated!(
                "partition {} starts at {start} on b{}, and records were deleted up to {} only",
                id.partition,
                replica.broker,
                self.deleted_up_to
            );
        }
        Ok(())
    }

    /// A leader that was elected uncleanly, or that follows one, has this: the rest is lost.
    fn give_up(
        &mut self,
        id: TopicIdPartition,
        leader_epoch: LeaderEpoch,
        last: LeaderEpoch,
        content: &Content,
    ) -> Result<(), Violation> {
        let since = leader_epoch.min(last);
        let Self { committed, acknowledged, given_up, brought_back, .. } = self;
        // Its leader may not have told anybody of it before it is lost again (seed 60199).
        brought_back.retain(|(offset, record)| {
            let is_kept = *offset < content.start() || content.get(*offset) == Some(record);
            if !is_kept {
                given_up.insert((*offset, *record), since);
            }
            is_kept
        });
        for records in [committed, acknowledged] {
            records.retain(|offset, known| {
                let is_kept = *offset < content.start() || content.get(*offset) == Some(&known.record);
                if !is_kept {
                    given_up.insert((*offset, known.record), since);
                }
                is_kept
            });
        }
        if leader_epoch >= last {
            self.giving_up_to = None;
        }
        // Nothing shows in a leader epoch what its leader may not have (scenario 58).
        for (at, _) in self.given_up.iter().filter(|(_, given_up_since)| **given_up_since == since) {
            if let Some(epoch) = self.consumed.get(at).filter(|epoch| **epoch >= since) {
                violated!(
                    "a consumer read {at:?} of partition {} in leader epoch {epoch}, which the unclean election of epoch \
                     {since} gave up",
                    id.partition
                );
            }
        }
        Ok(())
    }

    fn is_superseded(&self, leader_epoch: LeaderEpoch) -> bool {
        self.unclean_since.is_some_and(|since| leader_epoch < since)
    }
}

/// A replica at the time of a fact.
#[derive(Clone, Copy)]
pub struct Replica<'a> {
    pub broker: BrokerId,
    pub life: u32,
    pub content: &'a Content,
}

/// The history of a run, as far as the rules need it.
#[derive(Default)]
pub struct Invariants {
    partitions: BTreeMap<TopicIdPartition, Partition>,
    trees: BTreeMap<Revision, u64>,
    terms: BTreeMap<u64, u64>,
    /// How transactions end, by producer and epoch.
    transactions: BTreeMap<(ProducerId, ProducerEpoch), TransactionResult>,
    /// Checks made, to see that a run was worth something.
    pub checks: u64,
    pub exempt_partitions: u64,
}

impl Invariants {
    fn partition(&mut self, id: TopicIdPartition) -> &mut Partition {
        self.checks += 1;
        self.partitions.entry(id).or_default()
    }

    pub fn tree_applied(&mut self, coordinator: u64, revision: Revision, digest: u64) -> Result<(), Violation> {
        self.checks += 1;
        match self.trees.insert(revision, digest) {
            Some(known) if known != digest => {
                violated!("the tree at revision {revision} is another on coordinator {coordinator}")
            }
            _ => Ok(()),
        }
    }

    pub fn quorum_leads(&mut self, coordinator: u64, term: u64) -> Result<(), Violation> {
        match self.terms.insert(term, coordinator) {
            Some(known) if known != coordinator => {
                violated!("coordinators {known} and {coordinator} both lead term {term}")
            }
            _ => Ok(()),
        }
    }

    /// Records from `from` on are new in this log.
    pub fn appended(&mut self, id: TopicIdPartition, replica: Replica<'_>, from: Offset) -> Result<(), Violation> {
        let partition = self.partition(id);
        partition.check_start(id, replica)?;
        for (offset, record) in replica.content.iter_from(from) {
            let known = partition.records.entry((offset, record.epoch)).or_insert(*record);
            if known != record {
                violated!(
                    "offset {offset} of partition {} is {record:?} on b{}, but {known:?} in the same epoch elsewhere",
                    id.partition,
                    replica.broker
                );
            }
        }
        Ok(())
    }

    pub fn leads(
        &mut self,
        id: TopicIdPartition,
        leader_epoch: LeaderEpoch,
        replica: Replica<'_>,
    ) -> Result<(), Violation> {
        let partition = self.partition(id);
        partition.check_start(id, replica)?;
        let me = (replica.broker, replica.life);
        let known = *partition.leaders.entry(leader_epoch).or_insert(me);
        if known != me {
            violated!(
                "b{} (life {}) and b{} (life {}) both lead partition {} in epoch {leader_epoch}",
                known.0,
                known.1,
                me.0,
                me.1,
                id.partition
            );
        }
        if let Some(last) = partition.giving_up_to.filter(|_| !partition.is_superseded(leader_epoch)) {
            partition.give_up(id, leader_epoch, last, replica.content)?;
            partition.unclean_since = partition.unclean_since.max(Some(leader_epoch));
        }
        // A later unclean election may choose a replica that still has what an earlier one gave up (seed 3734).
        if let Some(since) = partition.unclean_since.filter(|since| leader_epoch >= *since) {
            let Partition { given_up, brought_back, .. } = partition;
            given_up.retain(|(at, record), given_up_since| {
                let is_back = *given_up_since < since && replica.content.get(*at) == Some(record);
                if is_back {
                    brought_back.insert((*at, *record));
                }
                !is_back
            });
        }
        let lacks = partition.committed.range(replica.content.start().max(partition.deleted_up_to)..);
        let lacks = lacks.filter(|(offset, _)| replica.content.get(**offset).is_none()).count();
        if partition.wiped.contains_key(&replica.broker) && lacks > 0 {
            violated!(
                "b{} leads partition {} in epoch {leader_epoch} with a log that it began in the place of one that is \
                 lost: {lacks} committed records are not in it",
                replica.broker,
                id.partition
            );
        }
        // A broker may hear that it led when the next one leads that was elected uncleanly (seed 3883).
        let is_late = partition.is_superseded(leader_epoch) && partition.perhaps_unclean.contains(&leader_epoch);
        if partition.is_exempt || is_late {
            return Ok(());
        }
        for (what, records) in
            [("below a published HW", &partition.committed), ("acknowledged", &partition.acknowledged)]
        {
            for (offset, committed) in records.range(replica.content.start().max(partition.deleted_up_to)..) {
                if committed.epoch < leader_epoch && replica.content.get(*offset) != Some(&committed.record) {
                    violated!(
                        "b{} leads partition {} in epoch {leader_epoch} without the record at {offset} that was \
                         {what} in epoch {}: it has {:?}, not {:?}",
                        replica.broker,
                        id.partition,
                        committed.epoch,
                        replica.content.get(*offset),
                        committed.record
                    );
                }
            }
        }
        Ok(())
    }

    pub fn high_watermark(
        &mut self,
        id: TopicIdPartition,
        leader_epoch: LeaderEpoch,
        offset: Offset,
        replica: Replica<'_>,
    ) -> Result<(), Violation> {
        let partition = self.partition(id);
        let former = partition.high_watermarks.insert(replica.broker, (replica.life, leader_epoch, offset));
        if partition.is_exempt {
            return Ok(());
        }
        let mut from = replica.content.start();
        if let Some((life, epoch, high_watermark)) = former
            && life == replica.life
            && epoch == leader_epoch
        {
            // A follower of a leader that was elected uncleanly gives up what that leader lacks.
            let is_given_up = || partition.given_up.keys().any(|(at, _)| (offset..high_watermark).contains(at));
            if offset < high_watermark && !is_given_up() {
                violated!(
                    "the HW of partition {} on b{} fell from {high_watermark} to {offset} in epoch {leader_epoch}",
                    id.partition,
                    replica.broker
                );
            }
            from = from.max(high_watermark);
        }
        let is_superseded = partition.is_superseded(leader_epoch);
        let leads = partition.leaders.get(&leader_epoch) == Some(&(replica.broker, replica.life));
        let is_chosen = leads && partition.unclean_since == Some(leader_epoch);
        for (at, record) in replica.content.iter_from(from) {
            if at >= offset {
                break;
            }
            // The leader of before showed it when the unclean election was made, and it is not lost (seed 19060).
            if is_chosen {
                partition.given_up.remove(&(at, *record));
            }
            // A follower may show an old HW until it has given up what its leader lacks.
            if is_superseded || partition.given_up.contains_key(&(at, *record)) {
                if partition.committed.get(&at).is_none_or(|known| known.record != *record) {
                    let since = partition.unclean_since.unwrap_or(leader_epoch);
                    partition.given_up.entry((at, *record)).or_insert(since);
                }
                continue;
            }
            let fresh = Committed { record: *record, epoch: leader_epoch };
            let known = partition.committed.entry(at).or_insert(fresh);
            if known.record != *record && at >= partition.deleted_up_to {
                violated!(
                    "two records were committed at {at} of partition {}: {:?} in epoch {}, {record:?} on b{} in \
                     epoch {leader_epoch}",
                    id.partition,
                    known.record,
                    known.epoch,
                    replica.broker
                );
            }
            known.epoch = known.epoch.min(leader_epoch);
        }
        Ok(())
    }

    /// acks=all was answered for `first..next`, under this effective min ISR.
    pub fn acknowledged(
        &mut self,
        id: TopicIdPartition,
        leader_epoch: LeaderEpoch,
        range: std::ops::Range<Offset>,
        min_isr: usize,
        replica: Replica<'_>,
    ) -> Result<(), Violation> {
        let partition = self.partition(id);
        if partition.is_exempt || min_isr < 2 || partition.is_superseded(leader_epoch) {
            return Ok(());
        }
        for (at, record) in replica.content.iter_from(range.start) {
            if at >= range.end {
                break;
            }
            if !partition.committed.contains_key(&at) && !partition.given_up.contains_key(&(at, *record)) {
                violated!("offset {at} of partition {} was acknowledged above every published HW", id.partition);
            }
            let fresh = Committed { record: *record, epoch: leader_epoch };
            let known = partition.acknowledged.entry(at).or_insert(fresh);
            known.epoch = known.epoch.min(leader_epoch);
        }
        Ok(())
    }

    pub fn seen(&mut self, seen: &Seen) -> Result<(), Violation> {
        match seen {
            Seen::Acknowledged(promise) => self.partition(promise.partition).promises.push(*promise),
            Seen::Consumed { partition: id, offset, record, leader_epoch } => {
                let partition = self.partition(*id);
                if partition.is_exempt || *offset < partition.deleted_up_to {
                    return Ok(());
                }
                let is_committed = partition.committed.get(offset).is_some_and(|committed| committed.record == *record);
                let given_up_since = partition.given_up.get(&(*offset, *record)).copied();
                match given_up_since {
                    _ if is_committed => {}
                    None => violated!(
                        "a consumer read {record:?} at {offset} of partition {}, which is not committed",
                        id.partition
                    ),
                    Some(since) if *leader_epoch >= since => violated!(
                        "a consumer read {record:?} at {offset} of partition {} in leader epoch {leader_epoch}, which \
                         the unclean election of epoch {since} gave up",
                        id.partition
                    ),
                    Some(_) => {}
                }
                let last = partition.consumed.entry((*offset, *record)).or_insert(*leader_epoch);
                *last = (*last).max(*leader_epoch);
            }
            Seen::Bounds { partition: id, log_start, high_watermark } => {
                let partition = self.partition(*id);
                let committed = partition.committed.last_key_value().map_or(Offset::ZERO, |(last, _)| last.next());
                let given_up = partition.given_up.keys().map(|(offset, _)| offset.next()).max();
                let brought_back = partition.brought_back.last().map_or(Offset::ZERO, |(offset, _)| offset.next());
                let known = committed.max(partition.deleted_up_to).max(brought_back);
                let most = known.max(given_up.unwrap_or(Offset::ZERO));
                if partition.is_exempt || *high_watermark <= most {
                    return Ok(());
                }
                violated!(
                    "a consumer was told that partition {} is committed from {log_start} up to {high_watermark}, and \
                     no more than {committed} is",
                    id.partition
                );
            }
            Seen::Decided { producer, epoch, result } => {
                self.transactions.insert((*producer, *epoch), *result);
            }
            Seen::ReadCommitted { partition, offset, record, leader_epoch } => {
                let (partition, offset, record, leader_epoch) = (*partition, *offset, *record, *leader_epoch);
                self.seen(&Seen::Consumed { partition, offset, record, leader_epoch })?;
                if self.is_exempt(partition) || record.producer.0 < TRANSACTIONAL_IDS {
                    return Ok(());
                }
                match self.transactions.get(&(record.producer, record.producer_epoch)) {
                    Some(TransactionResult::Commit) => {}
                    None => violated!(
                        "{record:?} at {offset} of partition {} was read as committed, and its transaction is open",
                        partition.partition
                    ),
                    Some(TransactionResult::Abort) => violated!(
                        "{record:?} at {offset} of partition {} was read as committed, and its transaction is aborted",
                        partition.partition
                    ),
                }
            }
        }
        Ok(())
    }

    /// The power of a broker's host is gone; it had replicas of these partitions, with their min ISRs.
    pub fn lost_power(&mut self, broker: BrokerId, epoch: BrokerEpoch, hosted: &[(TopicIdPartition, usize)]) {
        for &(id, min_isr) in hosted {
            let partition = self.partition(id);
            let lost = partition.lossy.entry(broker).or_insert(epoch);
            *lost = epoch.max(*lost);
            if partition.lossy.len() >= min_isr && !partition.is_exempt {
                partition.is_exempt = true;
                self.exempt_partitions += 1;
            }
        }
    }

    /// The tree has an unclean election; its leader's epoch is this one or a later one.
    pub fn elected_uncleanly(&mut self, id: TopicIdPartition, (first, last): (LeaderEpoch, LeaderEpoch)) {
        let partition = self.partition(id);
        partition.unclean_since = partition.unclean_since.max(Some(first));
        partition.giving_up_to = partition.giving_up_to.max(Some(last));
        let mut epoch = first;
        while epoch <= last {
            partition.perhaps_unclean.insert(epoch);
            epoch = epoch.next();
        }
    }

    /// How many of the committed records a log has, those that were deleted among them.
    pub fn committed_in(&self, id: TopicIdPartition, content: &Content) -> usize {
        let Some(partition) = self.partitions.get(&id) else { return 0 };
        let is_there = |(offset, known): &(&Offset, &Committed)| {
            **offset < content.start() || content.get(**offset) == Some(&known.record)
        };
        partition.committed.iter().filter(is_there).count()
    }

    /// A replica has a new, empty log.
    pub fn began(&mut self, id: TopicIdPartition, broker: BrokerId) {
        self.partition(id).high_watermarks.remove(&broker);
    }

    /// The disk of a broker's log is gone.
    pub fn wiped(&mut self, broker: BrokerId, epoch: BrokerEpoch, id: TopicIdPartition) {
        self.partition(id).wiped.insert(broker, epoch);
    }

    /// Whether another replica may lose its power without an end to all promises.
    pub fn may_lose(&self, broker: BrokerId, id: TopicIdPartition, min_isr: usize) -> bool {
        self.partitions.get(&id).is_none_or(|partition| {
            let others = partition.lossy.keys().filter(|lossy| **lossy != broker).count();
            others + 1 < min_isr
        })
    }

    /// A new process opened a log; `before` is what the former one had, if its host has kept its power and its disk.
    pub fn opened(
        &mut self,
        id: TopicIdPartition,
        replica: Replica<'_>,
        before: Option<&Content>,
    ) -> Result<(), Violation> {
        if let Some(before) = before {
            let kept = before.start().max(replica.content.start());
            if before.iter_from(kept).any(|(offset, record)| replica.content.get(offset) != Some(record)) {
                violated!(
                    "b{} was killed and lost records of partition {}: {}..{} became {}..{}",
                    replica.broker,
                    id.partition,
                    before.start(),
                    before.end(),
                    replica.content.start(),
                    replica.content.end()
                );
            }
        }
        self.appended(id, replica, replica.content.start())
    }

    /// The quorum holds `broker` in the ISR under `epoch`.
    pub fn in_sync(&mut self, id: TopicIdPartition, broker: BrokerId, epoch: BrokerEpoch) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        for marked in [&mut partition.lossy, &mut partition.wiped] {
            if marked.get(&broker).is_some_and(|lost| epoch > *lost) {
                marked.remove(&broker);
            }
        }
    }

    /// What is no replica any more need not come back with its records. One that is the only replica leads with what it
    /// has.
    pub fn reassigned(&mut self, id: TopicIdPartition, replicas: &[BrokerId]) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        for marked in [&mut partition.lossy, &mut partition.wiped] {
            marked.retain(|broker, _| replicas.contains(broker));
        }
        if replicas.len() == 1 && !partition.wiped.is_empty() {
            partition.wiped.clear();
            self.exempt_partitions += u64::from(!partition.is_exempt);
            partition.is_exempt = true;
        }
    }

    pub fn has_lossy(&self) -> bool {
        self.partitions.values().any(|partition| !partition.lossy.is_empty() || !partition.wiped.is_empty())
    }

    pub fn records_deleted(&mut self, id: TopicIdPartition, up_to: Offset) {
        let partition = self.partition(id);
        partition.deleted_up_to = partition.deleted_up_to.max(up_to);
    }

    /// Whether a log holds every record that was committed, as far as something is promised.
    pub fn holds_committed(&self, id: TopicIdPartition, content: &Content) -> bool {
        let Some(partition) = self.partitions.get(&id).filter(|partition| !partition.is_exempt) else { return true };
        let mut kept = partition.committed.range(content.start().max(partition.deleted_up_to)..);
        kept.all(|(offset, committed)| content.get(*offset) == Some(&committed.record))
    }

    pub fn is_exempt(&self, id: TopicIdPartition) -> bool {
        self.partitions.get(&id).is_some_and(|partition| partition.is_exempt)
    }

    pub fn committed_records(&self) -> usize {
        self.partitions.values().map(|partition| partition.committed.len()).sum()
    }

    pub fn acknowledged_batches(&self) -> usize {
        self.partitions.values().map(|partition| partition.promises.len()).sum()
    }

    /// At the end: `hidden` are the offsets that a reader of committed records passes over in one replica.
    pub fn finished_transactions(
        &self,
        id: TopicIdPartition,
        content: &Content,
        log_start: Offset,
        hidden: &BTreeSet<Offset>,
    ) -> Result<(), Violation> {
        if self.is_exempt(id) {
            return Ok(());
        }
        for (offset, record) in content.iter_from(log_start) {
            let is_marker = record.producer.0 >= TRANSACTIONAL_IDS && record.sequence < 0;
            let result = self.transactions.get(&(record.producer, record.producer_epoch));
            let is_aborted = record.producer.0 >= TRANSACTIONAL_IDS && result != Some(&TransactionResult::Commit);
            if hidden.contains(&offset) != (is_marker || is_aborted) {
                violated!(
                    "partition {}: {record:?} at {offset}, whose transaction ends with {result:?}, is {} by the \
                     log's index",
                    id.partition,
                    if hidden.contains(&offset) { "hidden" } else { "shown" }
                );
            }
        }
        Ok(())
    }

    /// At the end: `content` is what every replica of the partition holds.
    pub fn finished(&self, id: TopicIdPartition, content: &Content) -> Result<(), Violation> {
        let Some(partition) = self.partitions.get(&id).filter(|partition| !partition.is_exempt) else { return Ok(()) };
        let kept = content.start().max(partition.deleted_up_to);
        for promise in partition.promises.iter().filter(|promise| promise.first >= kept) {
            let found = content.get(promise.first);
            let is_there = found.is_some_and(|record| {
                record.producer == promise.producer
                    && record.producer_epoch == promise.producer_epoch
                    && record.sequence == promise.base_sequence
            });
            let is_promised = |(offset, record): &(Offset, RecordId)| {
                *offset == promise.first
                    && record.producer == promise.producer
                    && record.sequence == promise.base_sequence
            };
            if !is_there && !partition.given_up.keys().any(is_promised) {
                violated!("partition {}: {promise:?} was acknowledged, and {found:?} is there", id.partition);
            }
        }
        // Idempotent producers: every sequence once, in order. A follower that starts behind deleted records does not
        // know their producers, and as a leader takes whatever they send first (KIP-360): seed 172.
        let mut sequences = BTreeMap::new();
        let with_sequence = |record: &RecordId| record.producer.0 >= 0 && record.sequence >= 0;
        for (offset, record) in content.iter_from(kept).filter(|(_, record)| with_sequence(record)) {
            if let Some(last) = sequences.insert((record.producer, record.producer_epoch), record.sequence)
                && ottla_replication::producer_state::last_sequence(last, 1) != record.sequence
            {
                violated!(
                    "partition {}: producer {} has sequence {} after {last} at {offset}",
                    id.partition,
                    record.producer,
                    record.sequence
                );
            }
        }
        Ok(())
    }
}
