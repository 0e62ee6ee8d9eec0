//! What is told of the ids.

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, TransactionalId};

use super::Shard;
use crate::Now;
use crate::answer::{Described, Listed, TransactionAnswer};
use crate::request::{ListTransactions, Pattern};
use crate::transaction::Transaction;

impl Shard {
    pub(super) fn describe(&self, id: &TransactionalId) -> TransactionAnswer {
        let Some(entry) = self.entries.get(id) else {
            return TransactionAnswer::Failed(ErrorCode::TransactionalIdNotFound);
        };
        let current = &entry.current;
        TransactionAnswer::Described(Described {
            state: current.state,
            timeout_ms: current.timeout_ms,
            start: current.start,
            producer: current.producer,
            partitions: current.partitions.iter().cloned().collect(),
        })
    }

    pub(super) fn list(&self, now: Now, request: &ListTransactions) -> TransactionAnswer {
        let mut pattern = request.pattern.as_ref().map(Pattern::scan);
        let listed = self.entries.iter().filter(|(_, entry)| matches(request, now, &entry.current));
        let listed = listed.filter(|(id, _)| pattern.as_mut().is_none_or(|pattern| pattern.is_match(id.as_str())));
        let listed = listed.map(|(id, entry)| Listed {
            id: id.clone(),
            producer_id: entry.current.producer.id,
            state: entry.current.state,
        });
        TransactionAnswer::Listed(listed.collect())
    }

    /// How many ids there are, by state. Looks at every id.
    pub fn states(&self) -> BTreeMap<&'static str, u64> {
        let mut states = BTreeMap::new();
        for entry in self.entries.values() {
            *states.entry(entry.current.state.name()).or_default() += 1;
        }
        states
    }
}

/// Without a look at its id.
fn matches(request: &ListTransactions, now: Now, transaction: &Transaction) -> bool {
    let runs_for = now.wall.0.saturating_sub(transaction.start.0);
    (request.producer_ids.is_empty() || request.producer_ids.contains(&transaction.producer.id))
        && request.states.as_ref().is_none_or(|states| states.contains(&transaction.state))
        && (request.longer_than_ms < 0 || runs_for > request.longer_than_ms)
}
