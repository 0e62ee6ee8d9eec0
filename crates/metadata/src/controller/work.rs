//! Work on many partitions, in bounded batches: each batch is one transaction and a consistent step.
//!
//! A queued work item is only a cursor into the image's indexes. Its loss is harmless: [`Controller::resume_work`]
//! finds the remaining work in the tree.

use ottla_model::{ControllerEpoch, TopicIdPartition};

use super::Controller;
use super::draft::Draft;
use super::work_queue::{
    MAX_BATCHES_IN_FLIGHT, NEW_LEADERS_AWAITED_MAX, PARTITIONS_PER_TRANSACTION, Progress, Stage, Work, WorkQueue,
};
use crate::election::{PartitionChange, Unclean};
use crate::image::PartitionState;
use crate::nodes;
use crate::transaction::Change;

impl Controller {
    /// Finds the remaining work in the tree: at the beginning of a term, and after a decision was lost.
    pub(super) fn resume_work(&mut self) {
        self.work = WorkQueue::default();
        self.may_grow = true;
        let ahead = self.ledger.ahead();
        self.room_at = ahead.queued_targets().collect();
        let gone: Vec<_> = ahead.index.in_sync_brokers().filter(|broker| ahead.broker(*broker).is_none()).collect();
        let has_leaderless = ahead.leaderless().next().is_some();
        let has_reassigning = ahead.reassigning().next().is_some();
        gone.into_iter().for_each(|broker| self.work.push(Progress::new(Work::Fence(broker))));
        if has_leaderless {
            self.work.push(Progress::new(Work::ElectAll));
        }
        if has_reassigning {
            self.work.push(Progress::new(Work::Reassign));
        }
        // A pause may have ended, and what it held back not have returned.
        self.balance_at = Some(self.now.monotonic);
        self.registrations.begin_again();
        self.resume_shutdowns();
        self.ensure_controller();
    }

    /// Proposes batches as far as the bound allows.
    pub(super) fn run_work(&mut self) {
        let ledger = &self.ledger;
        self.work.in_flight.retain(|entry| ledger.is_in_flight(*entry));
        while self.work.in_flight.len() < MAX_BATCHES_IN_FLIGHT && !self.work.is_refused {
            if self.awaits_new_leaders() {
                break;
            }
            let draft = match self.work.queue.pop_front() {
                Some(mut progress) => {
                    let mut draft = Draft::default();
                    let epoch = self.ledger.ahead().controller_epoch();
                    if !self.fill_batch(&mut draft, &mut progress, epoch) {
                        self.work.queue.push_front(progress);
                    }
                    draft
                }
                None => match self.next_deletion().or_else(|| self.next_wave()).or_else(|| self.next_growth()) {
                    Some(draft) => draft,
                    None => break,
                },
            };
            self.refusal = None;
            if let Some(entry) = self.propose(draft) {
                self.work.in_flight.push(entry);
            }
            self.work.is_refused = self.refusal.is_some();
        }
    }

    /// Whether the rest of a large fencing waits until the live brokers have taken its leaderships. Every change costs
    /// them time, too, and where the dead broker only followed, a leader with writes that wait asks for itself. Other
    /// work, and the broker's next registration, wait for the rest: then it goes on.
    fn awaits_new_leaders(&mut self) -> bool {
        let is_urgent = self.work.queue.len() > 1 || self.registrations.outstanding().next().is_some();
        let Some(front) = self.work.queue.front_mut() else { return false };
        if !front.awaits_leaders || front.stage == Stage::Led {
            return false;
        }
        if !is_urgent {
            if !self.work.in_flight.is_empty() {
                return true;
            }
            let now = self.now.monotonic;
            let begin = (self.ledger.image().revision(), now + NEW_LEADERS_AWAITED_MAX);
            let (revision, until) = *self.work.awaited.get_or_insert(begin);
            let mut live = self.liveness.sessions().map(|(_, session)| session).filter(|session| session.has_stream());
            if now < until && live.any(|session| session.image_revision < revision) {
                return true;
            }
        }
        front.awaits_leaders = false;
        self.work.awaited = None;
        false
    }

    /// Adds the next partitions of the work to the draft. True: none remain.
    pub(super) fn fill_batch(&self, draft: &mut Draft, progress: &mut Progress, epoch: ControllerEpoch) -> bool {
        let mut room = PARTITIONS_PER_TRANSACTION;
        loop {
            for partition in self.candidates(progress) {
                if room == 0 || draft.is_half_full() {
                    progress.awaits_leaders |= progress.stage == Stage::Led;
                    return false;
                }
                progress.after = Some(partition);
                if let Some(state) = self.next_state(progress.work, partition, epoch) {
                    draft.partition(self.ledger.ahead_tree(), self.ledger.ahead(), partition, &state);
                    room -= 1;
                }
            }
            if !progress.next_stage() {
                return true;
            }
        }
    }

    fn candidates(&self, progress: &Progress) -> Box<dyn Iterator<Item = TopicIdPartition> + '_> {
        let index = &self.ledger.ahead().index;
        let after = progress.after;
        let is_leaderless = |partition: &TopicIdPartition| index.is_leaderless(partition);
        match (progress.work, progress.stage) {
            (Work::Fence(broker), Stage::Led) => Box::new(index.led_after(broker, after)),
            // Those that it leads may be in the same draft already.
            (Work::Fence(broker), Stage::InSync) => {
                let is_followed = move |partition: &TopicIdPartition| !index.is_led(broker, partition);
                Box::new(index.in_sync_after(broker, after).filter(is_followed))
            }
            // Beside members of the ISR and ELR, one that an unclean election may choose.
            (Work::Elect(broker), _) => Box::new(index.hosted_after(broker, after).filter(is_leaderless)),
            (Work::Balance(broker), _) => {
                let is_imbalanced = |partition: &TopicIdPartition| index.is_imbalanced(partition);
                Box::new(index.hosted_after(broker, after).filter(is_imbalanced))
            }
            (Work::Reassign, _) => Box::new(index.reassigning_after(after)),
            (Work::ElectAll, _) => Box::new(index.leaderless_after(after)),
            (Work::Unclean(broker) | Work::Lost(broker) | Work::Shutdown(broker), Stage::InSync) => {
                Box::new(index.in_sync_after(broker, after))
            }
            (Work::Fence(broker) | Work::Unclean(broker) | Work::Lost(broker) | Work::Shutdown(broker), _) => {
                Box::new(index.eligible_after(broker, after))
            }
        }
    }

    /// The new state of one partition; none if nothing changes.
    fn next_state(&self, work: Work, partition: TopicIdPartition, epoch: ControllerEpoch) -> Option<PartitionState> {
        let topic = self.ledger.ahead().topic_by_id(partition.topic_id)?;
        let state = topic.partition(partition.partition)?;
        let electorate = self.electorate(topic);
        let change = PartitionChange::new(state);
        match work {
            Work::Fence(broker) if self.config.rules.fenced_stays_electable && state.leader != broker => None,
            Work::Fence(broker) => change.without(broker).unclean(Unclean::WhereEnabled).build(&electorate, epoch),
            Work::Unclean(broker) => change
                .without_unclean(broker)
                .letting_unclean_sole_member_win(self.config.rules.unclean_sole_member_wins)
                .build(&electorate, epoch),
            Work::Lost(broker) => change.without_lost(broker).build(&electorate, epoch),
            Work::Elect(_) | Work::ElectAll => change.unclean(Unclean::WhereEnabled).build(&electorate, epoch),
            Work::Balance(broker) if state.preferred_leader() != broker || !self.returns_leaderships(broker) => None,
            Work::Balance(_) => self.balanced(topic, state),
            Work::Reassign => change.build(&electorate, epoch),
            // While the broker runs, no partition may lose its leader, or records that the leader has above the HW:
            // only an in-sync replica takes over. The ELR is used when the broker is gone.
            Work::Shutdown(broker) => {
                change.without(broker).build(&electorate, epoch).filter(|next| state.in_isr(next.leader))
            }
        }
    }

    /// The next piece of a large topic's deletion: the states below the topic, and with the last of them the mark.
    fn next_deletion(&self) -> Option<Draft> {
        let (topic, _) = self.ledger.ahead().deleting().next()?;
        let tree = self.ledger.ahead_tree();
        let mut draft = Draft::default();
        let parent = nodes::topic::path(topic);
        let mut states = tree.below(&parent);
        for (path, node) in states.by_ref().take(PARTITIONS_PER_TRANSACTION) {
            draft.push(Change::Delete { path: path.clone(), expected: node.version });
        }
        if states.next().is_none() {
            draft.delete(tree, nodes::delete_topic::path(topic));
        }
        Some(draft)
    }
}
