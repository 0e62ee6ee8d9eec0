//! What must hold at every step.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::TopicPartition;
use ottla_transaction_coordinator::{Marker, Record, TransactionState};

use super::data::DataBatch;
use crate::coordinator_log::StoredBatch;

use crate::invariants::Violation;

macro_rules! violated {
    ($($text:tt)*) => { return Err(Violation(format!($($text)*))) };
}

/// A batch that was acknowledged: its transaction and partition.
type Place = (u64, TopicPartition);

#[derive(Debug, Default)]
pub struct Invariants {
    /// What the replicated log has decided last about each producer id: epoch, and whether it commits.
    decided: BTreeMap<i64, (i16, bool)>,
    epochs: BTreeMap<i64, i16>,
    /// What markers made of the clients' transactions, and where.
    outcomes: BTreeMap<u64, bool>,
    ended: BTreeSet<Place>,
    /// What clients were told.
    promised: BTreeMap<u64, bool>,
    acknowledged: BTreeSet<Place>,
    deleted: BTreeSet<TopicPartition>,
    pub commits: u64,
    pub aborts: u64,
    pub markers: u64,
}

impl Invariants {
    /// Records of `__transaction_state` are replicated.
    pub fn replicated(&mut self, batch: &StoredBatch) -> Result<(), Violation> {
        for raw in &batch.records {
            let decoded = Record::decode(&raw.key, raw.value.as_deref());
            let Ok(Some(record)) = decoded else { violated!("a record that cannot be read: {decoded:?}") };
            let Some(transaction) = record.transaction else { continue };
            let (id, epoch) = (transaction.producer.id.0, transaction.producer.epoch.0);
            if let Some(before) = self.epochs.insert(id, epoch)
                && before > epoch
            {
                violated!("the epoch of producer {id} fell from {before} to {epoch}");
            }
            match transaction.state {
                TransactionState::PrepareCommit => drop(self.decided.insert(id, (epoch, true))),
                TransactionState::PrepareAbort => drop(self.decided.insert(id, (epoch, false))),
                _ => {}
            }
        }
        Ok(())
    }

    /// A leader wrote a marker, with which these batches end.
    pub fn marked(&mut self, at: &TopicPartition, marker: &Marker, ended: &[DataBatch]) -> Result<(), Violation> {
        self.markers += 1;
        let decision = self.decided.get(&marker.producer_id.0);
        if decision != Some(&(marker.producer_epoch.0, marker.is_commit)) {
            violated!("{at}: {marker:?} is written, and the log has decided {decision:?}");
        }
        for batch in ended {
            self.outcome(batch.transaction, marker.is_commit)?;
            self.ended.insert((batch.transaction, at.clone()));
        }
        let transactions: BTreeSet<u64> = ended.iter().map(|batch| batch.transaction).collect();
        if transactions.len() > 1 {
            violated!("{at}: one marker ends the transactions {transactions:?}");
        }
        Ok(())
    }

    fn outcome(&mut self, transaction: u64, is_commit: bool) -> Result<(), Violation> {
        let before = self.outcomes.insert(transaction, is_commit);
        if before.is_some_and(|before| before != is_commit) {
            violated!("transaction {transaction} is committed here and aborted there");
        }
        if self.promised.get(&transaction).is_some_and(|promised| *promised != is_commit) {
            violated!("the client of transaction {transaction} was told otherwise than {is_commit}");
        }
        Ok(())
    }

    /// A client learned that its transaction is committed or aborted.
    pub fn promised(&mut self, transaction: u64, is_commit: bool) -> Result<(), Violation> {
        self.promised.insert(transaction, is_commit);
        *(if is_commit { &mut self.commits } else { &mut self.aborts }) += 1;
        match self.outcomes.get(&transaction) {
            Some(outcome) if *outcome != is_commit => {
                violated!("the client of transaction {transaction} is told {is_commit}, and it is {outcome}")
            }
            _ => Ok(()),
        }
    }

    pub fn acknowledged(&mut self, transaction: u64, at: &TopicPartition) {
        // The answer may come after the partition's deletion.
        if !self.deleted.contains(at) {
            self.acknowledged.insert((transaction, at.clone()));
        }
    }

    /// A partition is deleted: nothing is lost there any more.
    pub fn deleted(&mut self, at: &TopicPartition) {
        self.acknowledged.retain(|(_, partition)| partition != at);
        self.deleted.insert(at.clone());
    }

    /// At rest: what was committed is there.
    pub fn finished(&self) -> Result<(), Violation> {
        for (transaction, is_commit) in &self.promised {
            let mut of_it = self.acknowledged.iter().filter(|(of, _)| of == transaction);
            if *is_commit && let Some(place) = of_it.find(|place| !self.ended.contains(place)) {
                violated!("transaction {transaction} is committed, and its batch in {} has no marker", place.1);
            }
        }
        Ok(())
    }
}
