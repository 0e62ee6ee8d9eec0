//! Which brokers this coordinator does not hear, although they ask others for it (scenario 65).
//!
//! A broker asks another coordinator when the leader has answered none of its heartbeats for half a session, and once
//! when it starts. Therefore a question counts only if the broker is not heard here, and has not been for
//! [`HEARD_WITHIN`] after the question.
//!
//! The leadership does not go back and forth: the heir is reached by more brokers than this coordinator, and after a
//! change nothing is handed over for a session's length, in which brokers find the new leader.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerId, CoordinatorId};

use super::Controller;
use super::reach::{Asked, Candidate};

/// How long a broker that was told who leads may take to be heard here: a connection attempt, and a round trip.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

impl Controller {
    /// A voter was asked for the leader by these brokers.
    pub(super) fn brokers_asked(&mut self, coordinator: CoordinatorId, brokers: &[BrokerId]) {
        let clock = self.liveness.clock();
        let relevant = self.question_is_relevant_for();
        self.reach.asked.retain(|_, asked| clock.since(asked.last) < relevant);
        for &broker in brokers {
            if self.ledger.image().is_registered(broker) {
                let asked = Asked { first: clock, last: clock };
                self.reach.asked.entry((coordinator, broker)).or_insert(asked).last = clock;
            }
        }
    }

    /// A broker that nobody answers asks again within half a session at each coordinator in turn.
    fn question_is_relevant_for(&self) -> Duration {
        self.config.session_timeout * 2
    }

    pub(super) fn heard_broker(&mut self, broker: BrokerId) {
        self.reach.asked.retain(|(_, asking), _| *asking != broker);
    }

    fn reaches(&self, broker: BrokerId) -> bool {
        let session = self.liveness.session(broker);
        session.is_some_and(|session| {
            session.has_stream() && self.liveness.silence(session) < self.config.session_timeout / 2
        })
    }

    /// The coordinators that more brokers reach than this one, the best first; none in the time after a change.
    pub fn better_reached(&self) -> Vec<Candidate> {
        let clock = self.liveness.clock();
        if clock < self.reach.settled_at || self.reach.asked.is_empty() {
            return Vec::new();
        }
        let relevant = self.question_is_relevant_for();
        let mut missed: BTreeMap<CoordinatorId, Vec<BrokerId>> = BTreeMap::new();
        for ((coordinator, broker), asked) in &self.reach.asked {
            let is_missed = clock.since(asked.first) >= HEARD_WITHIN && clock.since(asked.last) < relevant;
            if is_missed && !self.reaches(*broker) {
                missed.entry(*coordinator).or_default().push(*broker);
            }
        }
        let reached_here = self.liveness.sessions().filter(|(broker, _)| self.reaches(*broker)).count();
        let mut better: Vec<Candidate> = missed
            .into_iter()
            .filter(|(_, brokers)| brokers.len() > reached_here)
            .map(|(coordinator, brokers)| Candidate { coordinator, brokers, reached_here })
            .collect();
        better.sort_by_key(|candidate| std::cmp::Reverse(candidate.brokers.len()));
        better
    }

    /// The heir may not take over: another attempt waits as long as after a change of leaders, since nothing is decided
    /// while one is under way.
    pub fn tried_to_hand_over(&mut self) {
        self.reach.settled_at = self.liveness.clock() + self.config.session_timeout;
    }
}
