//! A leader that more brokers miss than reach gives the leadership to a member that they do reach (scenario 65).
//!
//! A broker that the leader does not answer asks the other members for the leader. They tell the leader of it, and
//! [`Controller::better_reached`](ottla_metadata::controller::Controller::better_reached) compares.

use ottla_metadata::controller::{Candidate, Input, Now};
use ottla_model::{BrokerId, CoordinatorId, IncarnationId};

use crate::event::{Output, Sink, note};
use crate::members_change::HEIR_LACKS_MAX;
use crate::node::Node;
use crate::store::QuorumStore;

impl<S: QuorumStore> Node<S> {
    /// Anybody may say to be a broker: only those count that the image knows, which also bounds the set.
    pub(crate) fn broker_asked(&mut self, broker: BrokerId) {
        if !self.member.is_leader() && self.image.is_registered(broker) {
            self.asking.insert(broker);
        }
    }

    /// Once in a tick, so that no flood of questions fills the leader's queue.
    pub(crate) fn pass_on_asking(&mut self, out: &mut impl Sink) {
        let brokers: Vec<_> = std::mem::take(&mut self.asking).into_iter().collect();
        if let Some(leader) = self.other_leader().filter(|_| !brokers.is_empty()) {
            out.put(Output::BrokersAsked { leader, brokers });
        }
    }

    pub(crate) fn peer_was_asked(
        &mut self,
        now: Now,
        coordinator: CoordinatorId,
        disk: IncarnationId,
        brokers: Vec<BrokerId>,
        out: &mut impl Sink,
    ) {
        if self.check_sender(coordinator, disk).is_err() || !self.members.voters().any(|voter| voter == coordinator) {
            return;
        }
        if let Some(leadership) = self.leadership.as_mut().filter(|leadership| leadership.is_deciding()) {
            leadership.step(now, Input::BrokersAsked { coordinator, brokers }, out);
        }
    }

    pub(crate) fn hand_over_if_lost(&mut self, now: Now, out: &mut impl Sink) {
        let Some(leadership) = &self.leadership else { return };
        if self.config.broken_rules.keeps_lost_brokers || leadership.changes.is_under_way() {
            return;
        }
        let candidates = leadership.better_reached();
        let can_lead = |candidate: &&Candidate| {
            self.answers(now, candidate.coordinator) && self.lacks(candidate.coordinator) <= HEIR_LACKS_MAX
        };
        let Some(heir) = candidates.iter().find(can_lead).cloned() else { return };
        let Candidate { coordinator, brokers, reached_here } = heir;
        let brokers = brokers.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(", ");
        note(
            out,
            true,
            format!(
                "brokers {brokers} reach coordinator {coordinator} and not this one, which reaches {reached_here}: \
                 hands the quorum over"
            ),
        );
        if let Some(leadership) = &mut self.leadership {
            leadership.tried_to_hand_over();
        }
        self.member.transfer_leadership_to(coordinator);
    }
}
