//! The committed state, and this controller's proposals on top of it.
//!
//! Decisions are based on the image ahead: the committed one with every proposal in flight applied. The revision of a
//! proposal is unknown until Raft has placed it, so nodes ahead carry a provisional revision (far above any real one)
//! until their entry is applied. A decision that depends on a revision, above all on a broker epoch, therefore waits
//! until it is committed: a broker whose registration is in flight is not ready, and a configuration in flight is newer
//! than any that a leader can know.

use std::collections::VecDeque;

use bytes::Bytes;
use ottla_model::Revision;

use super::EntryId;
use super::proposal::{self, Proposal, ProposalError};
use crate::image::Image;
use crate::limits::MAX_TREE_BYTES;
use crate::nodes;
use crate::transaction::Transaction;
use crate::tree::{NodeChange, Tree};

/// Provisional revisions start here; a Raft log never gets there.
const PROVISIONAL: u64 = 1 << 62;

#[derive(Debug)]
struct InFlight {
    entry: EntryId,
    /// The transaction as it was proposed.
    encoded: Bytes,
}

#[derive(Debug)]
pub(super) struct Ledger {
    tree: Tree,
    image: Image,
    ahead_tree: Tree,
    ahead_image: Image,
    in_flight: VecDeque<InFlight>,
    next_entry: u64,
}

impl Ledger {
    pub fn new(tree: Tree, image: Image) -> Self {
        Self {
            ahead_tree: tree.clone(),
            ahead_image: image.clone(),
            tree,
            image,
            in_flight: VecDeque::new(),
            next_entry: 1,
        }
    }

    /// The committed state.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The state on which decisions are based.
    pub fn ahead(&self) -> &Image {
        &self.ahead_image
    }

    /// The tree of [`Self::ahead`].
    pub fn ahead_tree(&self) -> &Tree {
        &self.ahead_tree
    }

    /// Whether the tree is as large as it may be: nothing more is added on request. Elections, registrations and
    /// changes that make the tree smaller go on.
    pub fn is_full(&self) -> bool {
        self.ahead_tree.bytes() >= MAX_TREE_BYTES
    }

    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub fn is_in_flight(&self, entry: EntryId) -> bool {
        self.in_flight.front().is_some_and(|first| first.entry <= entry)
    }

    pub fn last_in_flight(&self) -> Option<EntryId> {
        self.in_flight.back().map(|in_flight| in_flight.entry)
    }

    /// Applies the transaction to the image ahead and assigns its id. A refusal leaves everything as it was.
    pub fn propose(&mut self, transaction: Transaction) -> Result<Proposal, ProposalError> {
        let entry = EntryId(self.next_entry);
        let encoded = proposal::encode(&transaction)?;
        self.apply_ahead(entry, &transaction)?;
        self.next_entry += 1;
        self.in_flight.push_back(InFlight { entry, encoded: encoded.clone() });
        Ok(Proposal { entry, transaction, encoded })
    }

    fn apply_ahead(&mut self, entry: EntryId, transaction: &Transaction) -> Result<(), ProposalError> {
        let mut tree = self.ahead_tree.clone();
        let changes = tree.apply(provisional(entry), transaction).map_err(ProposalError::Inapplicable)?;
        let (image, delta) = self.ahead_image.apply(provisional(entry), &changes);
        if let Some(path) = delta.undecodable.into_iter().next() {
            return Err(ProposalError::UnreadableNode(path));
        }
        (self.ahead_tree, self.ahead_image) = (tree, image);
        Ok(())
    }

    /// An entry was applied, this controller's own or another's, made `changes`, and left `tree` and `image`. True: a
    /// proposal of this controller was refused or lost, and what was decided after it may be invalid.
    pub fn applied(
        &mut self,
        entry: Option<EntryId>,
        is_refused: bool,
        changes: &[NodeChange],
        (tree, image): (Tree, Image),
    ) -> bool {
        (self.tree, self.image) = (tree, image);
        let mut is_broken = is_refused;
        match entry {
            // Raft keeps the order: earlier proposals that were not applied will never be applied.
            Some(entry) => {
                while let Some(front) = self.in_flight.front().filter(|front| front.entry <= entry) {
                    is_broken |= front.entry < entry;
                    self.in_flight.pop_front();
                }
            }
            None => is_broken |= !changes.is_empty() && !self.in_flight.is_empty(),
        }
        match entry {
            _ if self.in_flight.is_empty() => self.catch_up(),
            Some(entry) if !is_broken => self.settle(entry, changes),
            _ if is_broken => self.rebuild(),
            _ => {}
        }
        is_broken && entry.is_some()
    }

    fn catch_up(&mut self) {
        self.ahead_tree = self.tree.clone();
        self.ahead_image = self.image.clone();
    }

    /// Replaces the provisional revisions of an entry that was applied as it was proposed. Not those of partitions'
    /// states, which nobody reads: a decision compares their versions, and a fencing has tens of thousands of them.
    fn settle(&mut self, entry: EntryId, changes: &[NodeChange]) {
        let provisional = provisional(entry);
        let settled: Vec<NodeChange> = changes
            .iter()
            .filter(|change| !nodes::partition::is_state(&change.path))
            .filter_map(|change| {
                let real = change.node.as_ref()?;
                let mut node = self.ahead_tree.get(&change.path)?.clone();
                if node.created == provisional {
                    node.created = real.created;
                }
                if node.modified == provisional {
                    node.modified = real.modified;
                }
                Some(NodeChange { path: change.path.clone(), node: Some(node) })
            })
            .collect();
        self.ahead_tree.accept(Revision(0), &settled);
        (self.ahead_image, _) = self.ahead_image.apply(Revision(0), &settled);
    }

    /// Restarts from the committed state. A proposal that no longer fits will be refused when it is applied.
    fn rebuild(&mut self) {
        self.catch_up();
        let in_flight = std::mem::take(&mut self.in_flight);
        for one in &in_flight {
            if let Ok(transaction) = Transaction::decode(&one.encoded) {
                let _ = self.apply_ahead(one.entry, &transaction);
            }
        }
        self.in_flight = in_flight;
    }
}

/// Whether this is the revision of an entry in flight, which will get another one.
pub(super) fn is_provisional(revision: Revision) -> bool {
    revision.0 >= PROVISIONAL
}

fn provisional(entry: EntryId) -> Revision {
    Revision(PROVISIONAL.saturating_add(entry.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_NODE_BYTES, MAX_TRANSACTION_BYTES};
    use crate::transaction::{Change, TransactionError};
    use crate::tree::Path;

    fn path(text: &str) -> Path {
        Path::new(text).expect("a valid path")
    }

    fn create(text: &str) -> Transaction {
        Transaction { changes: vec![Change::Create { path: path(text), payload: Bytes::new() }] }
    }

    fn set(text: &str, expected: i32) -> Transaction {
        Transaction { changes: vec![Change::Set { path: path(text), payload: Bytes::new(), expected }] }
    }

    fn commit(ledger: &mut Ledger, tree: &mut Tree, revision: u64, entry: EntryId, tx: &Transaction) -> bool {
        let result = tree.apply(Revision(revision), tx);
        let changes = result.clone().unwrap_or_default();
        ledger.applied(Some(entry), result.is_err(), &changes, state(tree))
    }

    fn state(tree: &Tree) -> (Tree, Image) {
        (tree.clone(), Image::from_tree(tree))
    }

    #[test]
    fn ahead_settles_to_what_is_committed() {
        let (mut ledger, mut tree) = (Ledger::new(Tree::new(), Image::empty()), Tree::new());
        let (first, second) = (create("/a"), set("/a", 0));
        let one = ledger.propose(first.clone()).expect("fits").entry;
        let two = ledger.propose(second.clone()).expect("fits").entry;
        assert!(ledger.propose(first.clone()).is_err());
        assert!(!commit(&mut ledger, &mut tree, 7, one, &first));
        let node = ledger.ahead_tree().get_str("/a").expect("is there").clone();
        assert_eq!((node.created, node.version), (Revision(7), 1));
        assert!(!commit(&mut ledger, &mut tree, 8, two, &second));
        assert_eq!(*ledger.ahead_tree(), tree);
        assert_eq!(*ledger.ahead(), Image::from_tree(&tree));
    }

    #[test]
    fn somebody_elses_entry_shifts_what_is_ahead() {
        let (mut ledger, mut tree) = (Ledger::new(Tree::new(), Image::empty()), Tree::new());
        let mine = create("/a");
        let entry = ledger.propose(mine.clone()).expect("fits").entry;
        let changes = tree.apply(Revision(3), &create("/a")).expect("applies");
        assert!(!ledger.applied(None, false, &changes, state(&tree)));
        assert!(commit(&mut ledger, &mut tree, 4, entry, &mine), "refused now");
        assert_eq!(*ledger.ahead_tree(), tree);
    }

    /// Its revision is not known yet, and is above any that a broker can have seen.
    #[test]
    fn what_is_in_flight_has_revisions_above_all_real_ones() {
        let (mut ledger, mut tree) = (Ledger::new(Tree::new(), Image::empty()), Tree::new());
        let (first, second) = (create("/a"), set("/a", 0));
        let one = ledger.propose(first.clone()).expect("fits").entry;
        let two = ledger.propose(create("/b")).expect("fits").entry;
        let node = |ledger: &Ledger, path: &str| {
            let node = ledger.ahead_tree().get_str(path).expect("is there");
            (node.created.0, node.modified.0)
        };
        let (created, modified) = node(&ledger, "/a");
        assert!(created == modified && created >= PROVISIONAL && node(&ledger, "/b").0 > created);
        commit(&mut ledger, &mut tree, 7, one, &first);
        assert_eq!(node(&ledger, "/a"), (7, 7));
        ledger.propose(second).expect("fits");
        commit(&mut ledger, &mut tree, 8, two, &create("/b"));
        assert_eq!((node(&ledger, "/a").0, node(&ledger, "/b")), (7, (8, 8)));
        assert!(node(&ledger, "/a").1 >= PROVISIONAL, "its change is in flight");
        assert_eq!(ledger.in_flight(), 1);
    }

    #[test]
    fn somebody_elses_entry_is_seen_below_what_is_in_flight() {
        let (mut ledger, mut tree) = (Ledger::new(Tree::new(), Image::empty()), Tree::new());
        ledger.propose(create("/mine")).expect("fits");
        let changes = tree.apply(Revision(3), &create("/theirs")).expect("applies");
        assert!(!ledger.applied(None, false, &changes, state(&tree)));
        assert_eq!(ledger.ahead_tree().get_str("/theirs").map(|node| node.created), Some(Revision(3)));
        assert!(ledger.ahead_tree().get_str("/mine").is_some());
        ledger.propose(set("/theirs", 0)).expect("fits what is there now");
    }

    /// Raft keeps the order: what was proposed before an applied entry and was not applied never will be.
    #[test]
    fn a_proposal_that_was_passed_over_is_gone_and_later_ones_are_kept() {
        let (mut ledger, mut tree) = (Ledger::new(Tree::new(), Image::empty()), Tree::new());
        let [lost, applied, last] = ["/lost", "/applied", "/last"].map(create);
        let first = ledger.propose(lost).expect("fits").entry;
        let second = ledger.propose(applied.clone()).expect("fits").entry;
        let third = ledger.propose(last.clone()).expect("fits").entry;
        assert!(commit(&mut ledger, &mut tree, 5, second, &applied));
        assert!(!ledger.is_in_flight(first) && ledger.is_in_flight(third));
        assert_eq!(ledger.ahead_tree().get_str("/lost"), None);
        assert!(ledger.ahead_tree().get_str("/last").is_some());
        assert!(!commit(&mut ledger, &mut tree, 6, third, &last));
        assert_eq!(*ledger.ahead_tree(), tree);
    }

    fn of_size(path: &str, bytes: usize) -> Change {
        Change::Create { path: Path::new(path).expect("a valid path"), payload: vec![7; bytes].into() }
    }

    fn propose(changes: Vec<Change>) -> Result<(), ProposalError> {
        Ledger::new(Tree::new(), Image::empty()).propose(Transaction { changes }).map(drop)
    }

    #[test]
    fn what_members_could_not_apply_is_not_proposed() {
        assert_eq!(propose(vec![of_size("/x", 1), of_size("/y", MAX_NODE_BYTES)]), Ok(()));
        assert_eq!(
            propose(vec![of_size("/x", MAX_NODE_BYTES + 1)]),
            Err(ProposalError::NodeTooLarge { path: path("/x"), bytes: MAX_NODE_BYTES + 1 })
        );
        let many = (0..3).map(|at| of_size(&format!("/{at}"), MAX_NODE_BYTES)).collect();
        assert!(matches!(propose(many), Err(ProposalError::EntryTooLarge { bytes }) if bytes > MAX_TRANSACTION_BYTES));
        assert_eq!(
            propose(vec![of_size("/x", 1), of_size("/x", 1)]),
            Err(ProposalError::Inapplicable(TransactionError::Exists { path: path("/x") }))
        );
        let broker = path("/brokers/ids/1");
        assert_eq!(propose(vec![of_size("/brokers/ids/1", 3)]), Err(ProposalError::UnreadableNode(broker)));
    }

    #[test]
    fn a_transaction_may_be_as_large_as_the_limit() {
        let of = |last: usize| Transaction {
            changes: vec![of_size("/x", MAX_NODE_BYTES), of_size("/y", MAX_NODE_BYTES / 2), of_size("/z", last)],
        };
        let spare = MAX_TRANSACTION_BYTES - of(MAX_NODE_BYTES / 4).encode().len();
        let largest = of(MAX_NODE_BYTES / 4 + spare);
        assert_eq!(largest.encode().len(), MAX_TRANSACTION_BYTES);
        assert_eq!(propose(largest.changes), Ok(()));
    }

    /// Each is checked with everything that was proposed before it, and a refused one leaves nothing.
    #[test]
    fn what_depends_on_a_refused_change_is_refused() {
        let mut ledger = Ledger::new(Tree::new(), Image::empty());
        let large = Transaction { changes: vec![of_size("/x", MAX_NODE_BYTES + 1)] };
        let half = Transaction { changes: vec![of_size("/x", 1), of_size("/brokers/ids/1", 3)] };
        assert!(ledger.propose(large).is_err());
        assert!(ledger.propose(half).is_err());
        assert!(ledger.propose(set("/x", 0)).is_err());
        assert!(ledger.propose(create("/x")).is_ok());
        assert!(ledger.propose(set("/x", 0)).is_ok());
    }
}
