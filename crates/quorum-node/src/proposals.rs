//! Decisions on their way through Raft, and the checks before they are proposed.
//!
//! Every member must be able to apply every proposal. Therefore each transaction is decoded from its encoding and
//! applied to a copy of the tree and the image, ahead of the committed state, before it is proposed. A transaction that
//! fails this is refused here, where its caller gets an error; after a commit it would fail on every member.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ottla_consensus::{LogStore, Member, MemberChange};
use ottla_metadata::controller::EntryId;
use ottla_metadata::image::Image;
use ottla_metadata::image::Standing;
use ottla_metadata::limits::{MAX_NODE_BYTES, MAX_TRANSACTION_BYTES};
use ottla_metadata::nodes::coordinator;
use ottla_metadata::transaction::{Change, Transaction, TransactionError};
use ottla_metadata::tree::{NodeChange, Path, Tree};
use ottla_model::Revision;

/// Bytes of transactions in one proposal; a group commit larger than this only delays its first.
const PROPOSAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Where revisions are not known yet; a Raft log never gets there.
const PROVISIONAL: Revision = Revision(1 << 62);

/// Why a transaction is not proposed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposalError {
    #[error("the change has {bytes} bytes, more than the {MAX_TRANSACTION_BYTES} that one entry may have")]
    EntryTooLarge { bytes: usize },
    #[error("{path} would have {bytes} bytes, more than the {MAX_NODE_BYTES} that a node may have")]
    NodeTooLarge { path: Path, bytes: usize },
    #[error("the change cannot be decoded again: {0}")]
    Unreadable(String),
    #[error("the change does not apply: {0}")]
    Inapplicable(TransactionError),
    #[error("the payload for {0} could not be decoded")]
    UnreadableNode(Path),
}

/// A transaction that is decided.
struct Queued {
    entry: EntryId,
    data: Bytes,
    /// Its entry is also a change of the membership.
    member_change: Option<MemberChange>,
}

pub(crate) struct Proposals {
    /// Decided, not yet proposed.
    queue: VecDeque<Queued>,
    /// Proposed, by revision.
    in_flight: BTreeMap<u64, EntryId>,
    /// The committed tree with all transactions above applied.
    tree: Tree,
    image: Image,
    /// The revision of the next entry.
    next: u64,
}

impl Proposals {
    pub fn new(tree: Tree, image: Image) -> Self {
        let next = tree.revision().0 + 1;
        Self { queue: VecDeque::new(), in_flight: BTreeMap::new(), tree, image, next }
    }

    /// Queues the transaction if every member will be able to apply it. Returns its changes.
    pub fn push(&mut self, entry: EntryId, transaction: &Transaction) -> Result<Arc<[NodeChange]>, ProposalError> {
        let bytes: Bytes = transaction.encode().into();
        let changes = self.check(transaction, &bytes)?;
        let member_change = coordinator::live_change(transaction).map(|(id, standing)| match standing {
            Standing::Learner => MemberChange::AddLearner(id),
            Standing::Voter => MemberChange::AddVoter(id),
            Standing::Removed => MemberChange::Remove(id),
        });
        self.queue.push_back(Queued { entry, data: bytes, member_change });
        self.next += 1;
        Ok(changes.into())
    }

    /// The revision that the last queued entry will have: while a controller decides, no other proposals exist.
    pub fn last_revision(&self) -> Revision {
        Revision(self.next - 1)
    }

    fn check(&mut self, transaction: &Transaction, bytes: &Bytes) -> Result<Vec<NodeChange>, ProposalError> {
        if bytes.len() > MAX_TRANSACTION_BYTES {
            return Err(ProposalError::EntryTooLarge { bytes: bytes.len() });
        }
        for change in &transaction.changes {
            if let Change::Create { path, payload } | Change::Set { path, payload, .. } = change
                && payload.len() > MAX_NODE_BYTES
            {
                return Err(ProposalError::NodeTooLarge { path: path.clone(), bytes: payload.len() });
            }
        }
        let read = Transaction::decode(bytes).map_err(|error| ProposalError::Unreadable(error.to_string()))?;
        if read != *transaction {
            return Err(ProposalError::Unreadable("it comes back as another".to_owned()));
        }
        let mut tree = self.tree.clone();
        let changes = tree.apply(PROVISIONAL, &read).map_err(ProposalError::Inapplicable)?;
        let (image, delta) = self.image.apply(PROVISIONAL, &changes);
        if let Some(path) = delta.undecodable.into_iter().next() {
            return Err(ProposalError::UnreadableNode(path));
        }
        (self.tree, self.image) = (tree, image);
        Ok(changes)
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

    /// The entry at `revision` is applied, and left `tree` and `image`; its name, if this controller proposed it.
    pub fn applied(&mut self, revision: Revision, tree: &Tree, image: &Image) -> Option<EntryId> {
        let entry = self.in_flight.remove(&revision.0);
        if self.in_flight.is_empty() && self.queue.is_empty() {
            (self.tree, self.image) = (tree.clone(), image.clone());
        }
        entry
    }
}
