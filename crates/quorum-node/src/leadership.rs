//! The state that exists only while this member leads: the controller, its proposals in flight, and the requests that
//! wait for a response. It is dropped as a whole when the leadership ends. Proposals in flight may or may not be
//! committed then; this module does not learn which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_consensus::{LogStore, Member};
use ottla_metadata::controller::{
    Answer, Candidate, Controller, ControllerConfig, Effects, Input, Now, Proposal, Request, RequestId, StreamId,
};
use ottla_metadata::delta::Delta;
use ottla_metadata::image::Image;
use ottla_metadata::liveness::Reached;
use ottla_metadata::quorum_progress::Observer;
use ottla_metadata::transaction::TransactionError;
use ottla_metadata::tree::{NodeChange, Tree};
use ottla_model::{CoordinatorId, MonotonicMs, Revision, TimestampMs};

use crate::broken_rules::BrokenRules;
use crate::event::{CallId, Output, RequestError, Sink, note};
use crate::members_change::MemberChanges;
use crate::proposals::Proposals;

/// Bound of the requests that wait for the controller to become ready or for their decision. Further requests get an
/// error that asks for a retry.
const WAITING_REQUESTS_MAX: usize = 16_384;

/// The controller and its inputs; none until the first entry of the term is applied.
struct Deciding {
    controller: Controller,
    proposals: Proposals,
    /// The state with everything that was decided: only where a simulation lets answers come early.
    decided: Option<(Tree, Image)>,
}

/// The outcome of an entry.
pub(crate) struct Applied {
    pub revision: Revision,
    pub result: Result<(), TransactionError>,
    pub changes: Arc<[NodeChange]>,
    pub delta: Arc<Delta>,
    /// What the entry left.
    pub state: Box<(Tree, Image)>,
}

/// When a voter was heard of in this term.
#[derive(Clone, Copy)]
pub(crate) struct PeerTimes {
    pub heard_at: TimestampMs,
    /// It had the whole log then.
    pub caught_up_at: TimestampMs,
    /// As `heard_at`, by the clock that does not jump.
    pub heard: Option<MonotonicMs>,
}

impl PeerTimes {
    const NEVER: Self = Self { heard_at: TimestampMs::NONE, caught_up_at: TimestampMs::NONE, heard: None };
}

pub(crate) struct Leadership {
    pub term: u64,
    deciding: Option<Deciding>,
    /// Inputs that arrived before the controller existed, in order.
    early: Vec<Input>,
    calls: BTreeMap<RequestId, CallId>,
    last_request: u64,
    streams: BTreeSet<StreamId>,
    peers: BTreeMap<CoordinatorId, PeerTimes>,
    pub changes: MemberChanges,
    /// The rule that a simulation takes out.
    answers_early: bool,
}

impl Leadership {
    pub fn new(term: u64, rules: BrokenRules) -> Self {
        Self {
            term,
            deciding: None,
            early: Vec::new(),
            calls: BTreeMap::new(),
            last_request: 0,
            streams: BTreeSet::new(),
            peers: BTreeMap::new(),
            changes: MemberChanges::default(),
            answers_early: rules.answers_before_commit,
        }
    }

    pub fn is_unsettled(&self) -> bool {
        self.changes.is_under_way() || self.deciding.as_ref().is_some_and(|deciding| deciding.controller.is_unsettled())
    }

    pub fn is_deciding(&self) -> bool {
        self.deciding.is_some()
    }

    /// The first entry of this term is applied: `tree` and `image` are as it left them.
    pub fn begin(
        &mut self,
        now: Now,
        config: ControllerConfig,
        (tree, image): (Tree, Image),
        reached: Reached,
        out: &mut impl Sink,
    ) {
        let decided = self.answers_early.then(|| (tree.clone(), image.clone()));
        let (controller, effects) = Controller::new(now, config, tree, image, reached);
        self.deciding = Some(Deciding { controller, proposals: Proposals::default(), decided });
        self.execute(now, effects, None, out);
        for input in std::mem::take(&mut self.early) {
            self.step(now, input, out);
        }
    }

    pub fn step(&mut self, now: Now, input: Input, out: &mut impl Sink) {
        let request = match &input {
            Input::Request { id, .. } => Some(*id),
            _ => None,
        };
        match &mut self.deciding {
            Some(deciding) => {
                let effects = deciding.controller.step(now, input);
                self.execute(now, effects, request, out);
            }
            None => self.early.push(input),
        }
    }

    pub fn tick(&mut self, now: Now, out: &mut impl Sink) {
        let Some(deciding) = &mut self.deciding else { return };
        let effects = deciding.controller.tick(now);
        self.execute(now, effects, None, out);
    }

    /// `call` is none for requests of this node itself.
    pub fn request(
        &mut self,
        now: Now,
        call: Option<CallId>,
        request: Request,
        entropy: [u8; 16],
        out: &mut impl Sink,
    ) {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        if let Some(call) = call {
            if self.calls.len() >= WAITING_REQUESTS_MAX {
                out.put(Output::Respond { call, outcome: Ok(Answer::Unavailable) });
                return;
            }
            self.calls.insert(id, call);
        }
        self.step(now, Input::Request { id, request, entropy }, out);
    }

    /// A message of a voter was accepted.
    pub fn heard(&mut self, voter: CoordinatorId, now: Now, has_whole_log: bool) {
        let at = now.wall;
        let times = self.peers.entry(voter).or_insert(PeerTimes::NEVER);
        times.heard_at = at;
        times.heard = Some(now.monotonic);
        if has_whole_log {
            times.caught_up_at = at;
        }
    }

    pub fn times_of(&self, voter: CoordinatorId) -> PeerTimes {
        self.peers.get(&voter).copied().unwrap_or(PeerTimes::NEVER)
    }

    /// The live brokers; none before the controller exists.
    pub fn observers(&self, now: Now) -> Vec<Observer> {
        self.deciding.as_ref().map_or_else(Vec::new, |deciding| deciding.controller.observers(now))
    }

    /// See [`Controller::better_reached`].
    pub fn better_reached(&self) -> Vec<Candidate> {
        self.deciding.as_ref().map_or_else(Vec::new, |deciding| deciding.controller.better_reached())
    }

    /// See [`Controller::tried_to_hand_over`].
    pub fn tried_to_hand_over(&mut self) {
        if let Some(deciding) = &mut self.deciding {
            deciding.controller.tried_to_hand_over();
        }
    }

    pub fn stream_opened(&mut self, stream: StreamId) {
        self.streams.insert(stream);
    }

    pub fn has_stream(&self, stream: StreamId) -> bool {
        self.streams.contains(&stream)
    }

    pub fn stream_closed(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Executes the effects of a step, of `request` if it was one.
    fn execute(&mut self, now: Now, effects: Effects, request: Option<RequestId>, out: &mut impl Sink) {
        let Some(deciding) = &mut self.deciding else { return };
        let mut answered_early = Vec::new();
        for proposal in effects.proposals {
            if let Some(input) = deciding.decided.as_mut().and_then(|decided| applied_early(decided, &proposal)) {
                answered_early.push(deciding.controller.step(now, input));
            }
            deciding.proposals.push(proposal);
        }
        if let Some(refusal) = effects.refusal
            && let Some(call) = request.and_then(|id| self.calls.remove(&id))
        {
            out.put(Output::Respond { call, outcome: Err(RequestError::Refused(refusal.to_string())) });
        }
        for (request, answer) in effects.answers {
            if let Some(call) = self.calls.remove(&request) {
                out.put(Output::Respond { call, outcome: Ok(answer) });
            }
        }
        for (stream, response) in effects.heartbeats {
            if self.streams.contains(&stream) {
                out.put(Output::Beat { stream, response });
            }
        }
        for probe in effects.probes {
            out.put(Output::Probe(probe));
        }
        if effects.unclean_elections > 0 {
            out.put(Output::UncleanElections(effects.unclean_elections));
        }
        for told in effects.notes {
            note(out, told.is_warning, told.text);
        }
        for effects in answered_early {
            self.execute(now, effects, None, out);
        }
    }

    /// See [`Proposals::propose`].
    pub fn propose<S: LogStore>(&mut self, member: &mut Member<S>) -> u64 {
        self.deciding.as_mut().map_or(0, |deciding| deciding.proposals.propose(member))
    }

    /// An entry was applied.
    pub fn applied(&mut self, now: Now, applied: Applied, out: &mut impl Sink) {
        let Some(deciding) = &mut self.deciding else { return };
        let Applied { revision, result, changes, delta, state } = applied;
        let entry = deciding.proposals.applied(revision);
        if !(self.answers_early && entry.is_some()) {
            self.step(now, Input::Applied { entry, revision, result, changes, delta, state }, out);
        }
    }

    /// The leadership is lost: all waiting requests are answered with the new leader. Returns the brokers that the
    /// controller has reached; none if it never started.
    pub fn end(self, leader: Option<CoordinatorId>, out: &mut impl Sink) -> Option<Reached> {
        for call in self.calls.into_values() {
            out.put(Output::Respond { call, outcome: Err(RequestError::NotLeader { leader }) });
        }
        for stream in self.streams {
            out.put(Output::EndStream { stream, leader });
        }
        self.deciding.map(|deciding| deciding.controller.into_reached())
    }
}

/// The input that the proposal's entry will be, before it is one.
fn applied_early((tree, image): &mut (Tree, Image), proposal: &Proposal) -> Option<Input> {
    let revision = Revision(tree.revision().0 + 1);
    let changes = tree.apply(revision, &proposal.transaction).ok()?;
    let (next, delta) = image.apply(revision, &changes);
    *image = next.clone();
    let (entry, changes, delta) = (Some(proposal.entry), changes.into(), Arc::new(delta));
    let state = Box::new((tree.clone(), next));
    Some(Input::Applied { entry, revision, result: Ok(()), changes, delta, state })
}

#[cfg(test)]
mod tests {
    use ottla_metadata::controller::{AdmitCoordinator, AlterConfig, AlterConfigs, ConfigOp, first_transaction};
    use ottla_metadata::image::ConfigEntity;
    use ottla_metadata::nodes;
    use ottla_metadata::transaction::{Change, Transaction};
    use ottla_model::{ClusterId, IncarnationId};

    use super::*;

    #[derive(Default)]
    struct Outputs(Vec<Output>);

    impl Outputs {
        fn outcomes(&self) -> Vec<(CallId, Result<Answer, RequestError>)> {
            let mut outcomes = Vec::new();
            for output in &self.0 {
                if let Output::Respond { call, outcome } = output {
                    outcomes.push((*call, outcome.clone()));
                }
            }
            outcomes
        }
    }

    impl Sink for Outputs {
        fn send(&mut self, _: ottla_consensus::Outgoing) -> bool {
            true
        }

        fn put(&mut self, output: Output) {
            self.0.push(output);
        }
    }

    fn alter(entity: ConfigEntity, validate_only: bool) -> Request {
        let changes = vec![("consumer.session.timeout.ms".to_owned(), ConfigOp::Set("45000".to_owned()))];
        Request::AlterConfigs(AlterConfigs {
            entities: vec![AlterConfig { entity, changes, replace_all: false }],
            validate_only,
        })
    }

    /// As many requests as may wait, of a leader whose first entry is not committed yet.
    fn full(out: &mut Outputs) -> Leadership {
        let mut leadership = Leadership::new(1, BrokenRules::default());
        for call in 1..=WAITING_REQUESTS_MAX as u64 {
            let request = alter(ConfigEntity::group("g"), true);
            leadership.request(Now::default(), Some(CallId(call)), request, [0; 16], out);
        }
        assert_eq!(out.outcomes(), [], "there is room for them");
        leadership
    }

    /// The request beyond the bound is told at once to come again, and takes no place from those that wait: each of
    /// them is answered once, and then there is room.
    #[test]
    fn a_request_beyond_those_that_may_wait_is_refused_and_the_others_are_decided() {
        let (mut out, now) = (Outputs::default(), Now::default());
        let mut leadership = full(&mut out);
        let beyond = CallId(WAITING_REQUESTS_MAX as u64 + 1);
        leadership.request(now, Some(beyond), alter(ConfigEntity::group("g"), true), [0; 16], &mut out);
        assert_eq!(std::mem::take(&mut out).outcomes(), [(beyond, Ok(Answer::Unavailable))]);
        let config = ControllerConfig::new(ClusterId::new("test"));
        // Nothing is in flight that answers would wait for.
        let mut tree = Tree::new();
        tree.apply(Revision(1), &first_transaction(&config)).expect("applies");
        let image = Image::from_tree(&tree);
        leadership.begin(now, config, (tree, image), Reached::new(), &mut out);
        let outcomes = std::mem::take(&mut out).outcomes();
        let calls: Vec<_> = outcomes.iter().map(|(call, _)| call.0).collect();
        assert_eq!(calls, (1..=WAITING_REQUESTS_MAX as u64).collect::<Vec<_>>());
        let other = outcomes.iter().find(|(_, outcome)| !matches!(outcome, Ok(Answer::AlterConfigs(_))));
        assert_eq!(other, None, "each is decided");
        leadership.request(now, Some(beyond), alter(ConfigEntity::group("g"), true), [0; 16], &mut out);
        assert!(matches!(out.outcomes()[..], [(call, Ok(Answer::AlterConfigs(_)))] if call == beyond));
    }

    #[test]
    fn all_requests_that_wait_learn_that_the_leadership_has_ended() {
        let mut out = Outputs::default();
        let leader = Some(CoordinatorId(2));
        full(&mut out).end(leader, &mut out);
        let outcomes = out.outcomes();
        let calls: Vec<_> = outcomes.iter().map(|(call, _)| call.0).collect();
        assert_eq!(calls, (1..=WAITING_REQUESTS_MAX as u64).collect::<Vec<_>>());
        let other = outcomes.iter().find(|(_, outcome)| *outcome != Err(RequestError::NotLeader { leader }));
        assert_eq!(other, None);
    }

    /// The next request is decided as if nothing had happened.
    #[test]
    fn a_request_whose_decision_is_refused_is_answered_with_the_reason() {
        let (mut out, now) = (Outputs::default(), Now::default());
        let mut leadership = Leadership::new(1, BrokenRules::default());
        let config = ControllerConfig::new(ClusterId::new("test"));
        let mut tree = Tree::new();
        tree.apply(Revision(1), &first_transaction(&config)).expect("applies");
        let image = Image::from_tree(&tree);
        // Of this node the image says nothing, as it never is.
        let hidden = CoordinatorId(9);
        let change = Change::Create { path: nodes::coordinator::path(hidden), payload: bytes::Bytes::new() };
        tree.apply(Revision(2), &Transaction { changes: vec![change] }).expect("applies");
        leadership.begin(now, config, (tree, image), Reached::new(), &mut out);
        for (call, coordinator) in [(CallId(1), hidden), (CallId(2), CoordinatorId(8))] {
            let admit = AdmitCoordinator { coordinator, disk: IncarnationId([1; 16]), address: String::new() };
            leadership.request(now, Some(call), Request::AdmitCoordinator(admit), [0; 16], &mut out);
        }
        let outcomes = out.outcomes();
        assert_eq!(outcomes.len(), 1, "the other waits for its entry: {outcomes:?}");
        let (CallId(1), Err(RequestError::Refused(reason))) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert!(reason.contains("does not apply"), "{reason}");
    }
}
