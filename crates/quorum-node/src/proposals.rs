//! Decisions on their way through Raft.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ottla_consensus::{LogStore, Member, MemberChange};
use ottla_metadata::controller::{EntryId, Proposal};
use ottla_metadata::image::Standing;
use ottla_metadata::nodes::coordinator;
use ottla_model::Revision;

/// Bytes of transactions in one proposal; a group commit larger than this only delays its first.
const PROPOSAL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A transaction that is decided.
struct Queued {
    entry: EntryId,
    data: Bytes,
    /// Its entry is also a change of the membership.
    member_change: Option<MemberChange>,
}

#[derive(Default)]
pub(crate) struct Proposals {
    /// Decided, not yet proposed.
    queue: VecDeque<Queued>,
    /// Proposed, by revision.
    in_flight: BTreeMap<u64, EntryId>,
}

impl Proposals {
    pub fn push(&mut self, proposal: Proposal) {
        let change = coordinator::live_change(&proposal.transaction);
        let member_change = change.map(|(id, standing)| match standing {
            Standing::Learner => MemberChange::AddLearner(id),
            Standing::Voter => MemberChange::AddVoter(id),
            Standing::Removed => MemberChange::Remove(id),
        });
        self.queue.push_back(Queued { entry: proposal.entry, data: proposal.encoded, member_change });
    }

    /// Proposes the queued transactions, many entries at once. If Raft refuses them now (a leadership transfer is under
    /// way, or the membership changes and another change of it is next), they stay queued. Returns the number of
    /// proposed entries.
    pub fn propose<S: LogStore>(&mut self, member: &mut Member<S>) -> u64 {
        let mut proposed_entries = 0;
        while let Some(first) = self.queue.front() {
            if let Some(change) = first.member_change {
                let Ok(proposed) = member.propose_change(change, first.data.clone()) else { break };
                self.in_flight.insert(proposed.first.0, first.entry);
                self.queue.pop_front();
                proposed_entries += 1;
                continue;
            }
            let mut bytes = 0;
            let batch: Vec<Bytes> = self
                .queue
                .iter()
                .take_while(|queued| queued.member_change.is_none())
                .map(|queued| queued.data.clone())
                .take_while(|data| {
                    let fits = bytes == 0 || bytes + data.len() <= PROPOSAL_BYTES_MAX;
                    bytes += data.len();
                    fits
                })
                .collect();
            let count = batch.len();
            let Ok(proposed) = member.propose(batch) else { break };
            for (revision, queued) in (proposed.first.0..).zip(self.queue.drain(..count)) {
                self.in_flight.insert(revision, queued.entry);
            }
            proposed_entries += count as u64;
        }
        proposed_entries
    }

    /// The entry at `revision` is applied; its name, if this controller proposed it.
    pub fn applied(&mut self, revision: Revision) -> Option<EntryId> {
        self.in_flight.remove(&revision.0)
    }
}
