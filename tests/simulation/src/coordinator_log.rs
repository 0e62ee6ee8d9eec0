//! One partition of `__consumer_offsets` or `__transaction_state` as its replicas hold it.
//!
//! What is committed is on every member of an ISR that is large enough, so it is in the log of every later leader; the
//! rest of a leader's log may or may not survive it. A leader that was replaced and does not know it goes on with its
//! own copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_coordinator_partition::{Batch, RawRecord};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, TimestampMs};
use ottla_protocol::record_batch::{Filtered, RecordsError, StoredRecords, patch_offset_and_epoch};

const MIN_ISR: usize = 2;

#[derive(Debug)]
pub struct StoredBatch {
    pub epoch: i32,
    pub base: i64,
    pub records: Vec<RawRecord>,
    /// As the log holds it.
    bytes: Bytes,
}

impl StoredBatch {
    pub fn end(&self) -> i64 {
        self.base + i64::try_from(self.records.len()).unwrap_or(0)
    }
}

#[derive(Debug)]
pub struct Partition {
    pub index: i32,
    /// Of the leader that was elected last.
    pub epoch: i32,
    pub leader: Option<i32>,
    pub isr: BTreeSet<i32>,
    copies: BTreeMap<i32, Vec<Arc<StoredBatch>>>,
    /// The first batches of a broker's log as compaction has left them; none: without records, and removed.
    compacted: BTreeMap<i32, Vec<Option<Bytes>>>,
    /// So many batches are committed, up to this offset.
    committed: usize,
    high_watermark: i64,
}

impl Partition {
    pub fn new(index: i32, brokers: &[i32]) -> Self {
        Self {
            index,
            epoch: 0,
            leader: None,
            isr: brokers.iter().copied().collect(),
            copies: brokers.iter().map(|id| (*id, Vec::new())).collect(),
            compacted: BTreeMap::new(),
            committed: 0,
            high_watermark: 0,
        }
    }

    pub fn is_led_by(&self, broker: i32, epoch: i32) -> bool {
        self.leader == Some(broker) && self.epoch == epoch
    }

    pub fn copy(&self, broker: i32) -> &[Arc<StoredBatch>] {
        self.copies.get(&broker).map_or(&[], Vec::as_slice)
    }

    pub fn end_of(&self, broker: i32) -> i64 {
        self.copy(broker).last().map_or(0, |batch| batch.end())
    }

    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The error with which an append would be refused now.
    pub fn refusal(&self, broker: i32, epoch: i32) -> Option<ErrorCode> {
        (self.is_led_by(broker, epoch) && self.isr.len() < MIN_ISR).then_some(ErrorCode::NotEnoughReplicas)
    }

    /// Appends to the broker's own log; returns the end after it. One that is no longer the leader, and does not know,
    /// can do that too.
    pub fn append(&mut self, broker: i32, epoch: i32, batch: &Batch) -> Result<i64, ErrorCode> {
        if let Some(error) = self.refusal(broker, epoch) {
            return Err(error);
        }
        let base = self.end_of(broker);
        let mut bytes = batch.encode().map_err(|_| ErrorCode::UnknownServerError)?;
        patch_offset_and_epoch(&mut bytes, Offset(base), LeaderEpoch(epoch));
        let batch = Arc::new(StoredBatch { epoch, base, records: batch.records.clone(), bytes: bytes.freeze() });
        let end = batch.end();
        self.copies.entry(broker).or_default().push(batch);
        Ok(end)
    }

    /// Up to `batches` batches of the broker's log that end after `from`; none at its end.
    pub fn read(&self, broker: i32, from: i64, batches: usize) -> Option<Bytes> {
        let compacted = self.compacted.get(&broker);
        let as_stored = |(at, batch): (usize, &Arc<StoredBatch>)| match compacted.and_then(|all| all.get(at)) {
            Some(left) => left.clone(),
            None => Some(batch.bytes.clone()),
        };
        let copy = self.copy(broker).iter().enumerate();
        let mut bytes = BytesMut::new();
        copy.filter(|(_, batch)| batch.end() > from)
            .filter_map(as_stored)
            .take(batches)
            .for_each(|batch| bytes.extend_from_slice(&batch));
        (!bytes.is_empty()).then(|| bytes.freeze())
    }

    /// Compacts what is committed of a broker's log: the latest record of each key stays, and tombstones for a while.
    pub fn compact(&mut self, broker: i32, keeps_tombstones: bool) -> Result<(), RecordsError> {
        let copy = self.copy(broker);
        // A follower may hold batches in the place of committed ones that it will truncate.
        let common = self.leader.map_or(0, |leader| common_prefix(copy, self.copy(leader)));
        let committed = copy.get(..self.committed.min(common)).unwrap_or_default();
        let mut latest: BTreeMap<&Bytes, (usize, usize)> = BTreeMap::new();
        for (at, batch) in committed.iter().enumerate() {
            for (in_batch, record) in batch.records.iter().enumerate() {
                latest.insert(&record.key, (at, in_batch));
            }
        }
        let left = committed.iter().enumerate().map(|(at, batch)| {
            let stored = StoredRecords::new(&batch.bytes, u64::MAX)?;
            let mut in_batch = 0;
            let filtered = stored.filter(TimestampMs(0), false, |record| {
                let key = record.key.map(Bytes::copy_from_slice).unwrap_or_default();
                let is_latest = latest.get(&key) == Some(&(at, in_batch));
                in_batch += 1;
                is_latest && (record.has_value || keeps_tombstones)
            })?;
            Ok(match filtered {
                Filtered::Unchanged => Some(batch.bytes.clone()),
                Filtered::Rebuilt(bytes) => Some(bytes.freeze()),
                Filtered::Empty => None,
            })
        });
        let left = left.collect::<Result<_, RecordsError>>()?;
        self.compacted.insert(broker, left);
        Ok(())
    }

    /// The follower takes over the leader's log, and is in the ISR.
    pub fn catch_up(&mut self, follower: i32) {
        let Some(leader) = self.leader.filter(|leader| *leader != follower) else { return };
        let theirs = self.copies.get(&leader).cloned().unwrap_or_default();
        let copy = self.copies.entry(follower).or_default();
        let common = common_prefix(copy, &theirs);
        copy.truncate(common);
        copy.extend_from_slice(theirs.get(common..).unwrap_or_default());
        self.isr.insert(follower);
    }

    /// The batches that are committed now and were not before.
    pub fn advance(&mut self) -> Vec<Arc<StoredBatch>> {
        let Some(leader) = self.leader.filter(|_| self.isr.len() >= MIN_ISR) else { return Vec::new() };
        let theirs = self.copy(leader);
        let everywhere = self.isr.iter().map(|member| common_prefix(self.copy(*member), theirs)).min().unwrap_or(0);
        let fresh = theirs.get(self.committed..everywhere).unwrap_or_default().to_vec();
        self.committed += fresh.len();
        self.high_watermark = fresh.last().map_or(self.high_watermark, |batch| batch.end());
        fresh
    }

    /// The member falls out of the ISR; a leader never does.
    pub fn shrink(&mut self, member: i32) {
        if self.leader != Some(member) && self.isr.len() > 1 {
            self.isr.remove(&member);
        }
    }

    /// Another leader, or the same in a new epoch; none if no candidate is in the ISR.
    pub fn elect(&mut self, candidates: &[i32]) -> Option<i32> {
        let next = candidates.iter().copied().find(|candidate| self.isr.contains(candidate));
        self.leader = next;
        if next.is_some() {
            self.epoch += 1;
        }
        next
    }
}

/// How many batches two logs share. Whatever precedes a shared batch is shared too.
fn common_prefix(one: &[Arc<StoredBatch>], other: &[Arc<StoredBatch>]) -> usize {
    let same = |at: &usize| match (one.get(at - 1), other.get(at - 1)) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    };
    (1..=one.len().min(other.len())).rev().find(same).unwrap_or(0)
}
