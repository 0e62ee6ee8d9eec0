//! One partition of `__transaction_state` as its replicas hold it.
//!
//! What is committed is on every member of an ISR that is large enough, so it is in the log of every later leader; the
//! rest of a leader's log may or may not survive it. A leader that was replaced and does not know it goes on with its
//! own copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_model::{ErrorCode, LeaderEpoch, Offset};
use ottla_protocol::record_batch::patch_offset_and_epoch;
use ottla_transaction_coordinator::Batch;
use ottla_transaction_coordinator::effects::RawRecord;

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

    /// The broker's log, from its start to its end.
    pub fn read(&self, broker: i32) -> Bytes {
        let mut bytes = BytesMut::new();
        self.copy(broker).iter().for_each(|batch| bytes.extend_from_slice(&batch.bytes));
        bytes.freeze()
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
