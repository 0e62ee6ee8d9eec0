//! The controller: cluster events in, transactions of the tree out.
//!
//! It exists only on the quorum leader, from the leader's own no-op on (so that its image contains every entry of
//! earlier terms), and is dropped with the leadership. It bases decisions on the committed state plus its own proposals
//! in flight ([`ledger`]). A response is sent when every proposal on which its decision may depend has been applied.
//! Large work (fencing a broker with 10,000 leaderships) is done in bounded batches. The remaining work is derived from
//! the tree, so the next controller continues where this one stopped.
//!
//! Files: [`registration`] (a broker registers), [`sessions`] (heartbeats, fencing), [`shutdown`] (controlled
//! shutdown), [`partitions`] (ISR changes, resignations), [`elections`] (on demand, and back to preferred replicas),
//! [`reassignment`] (other replicas), [`proof`] (whether a broker itself asks), [`topics`], [`added_partitions`],
//! [`configs`], [`features`] (levels), [`hand_over`] (brokers that reach other coordinators) by [`reach`],
//! [`producer_ids`], [`bootstrap`], [`idempotency`] (retries), [`work_queue`] (what remains to be done), [`work`] (its
//! batches), [`growth`] (replicas for new brokers).

mod acls;
mod added_partitions;
mod api;
mod bootstrap;
mod broken_rules;
mod config;
mod configs;
mod delegation_tokens;
mod draft;
mod elections;
mod electorate;
mod features;
mod growth;
mod hand_over;
mod idempotency;
mod ledger;
mod members;
mod partitions;
mod producer_ids;
mod proof;
mod proposal;
mod reach;
mod reassignment;
mod registration;
mod sessions;
mod shutdown;
mod topics;
mod work;
mod work_queue;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{BrokerEpoch, BrokerId, CoordinatorId, ErrorCode, FeatureLevels, MonotonicMs, Revision, TimestampMs};

pub use api::*;
pub use bootstrap::first_transaction;
pub use broken_rules::BrokenRules;
pub use config::{ControllerConfig, REASSIGNMENTS_PER_BROKER_MAX};
use draft::Draft;
pub use elections::RETURN_PAUSE;
pub use electorate::TopicElectorate;
pub use features::Gated;
use ledger::Ledger;
pub use producer_ids::PRODUCER_IDS_PER_BLOCK;
pub use proposal::{Proposal, ProposalError};
pub use reach::Candidate;
use reach::Reach;
use registration::Registrations;
use shutdown::Shutdowns;
pub use work_queue::{MAX_BATCHES_IN_FLIGHT, PARTITIONS_PER_TRANSACTION};

use crate::delta::Delta;
use crate::image::{Image, TopicImage};
use crate::liveness::{Liveness, Reached, Session};
use crate::quorum_progress::{Observer, Progress};
use crate::tree::Tree;
use work_queue::WorkQueue;

/// An answer that waits for the entry that its decision rests on.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    answer: Answer,
    /// The entry creates the registration in the response: its revision is the broker epoch.
    is_registration: bool,
}

/// Decides for the cluster. See the module.
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
    now: Now,
    ledger: Ledger,
    liveness: Liveness,
    waiting: BTreeMap<EntryId, Vec<Waiting>>,
    registrations: Registrations,
    shutdowns: Shutdowns,
    work: WorkQueue,
    /// As [`Input::QuorumLevels`] said last.
    quorum_levels: BTreeMap<CoordinatorId, Option<FeatureLevels>>,
    /// A topic may lack replicas that a broker could take.
    may_grow: bool,
    /// Brokers that may take one more replica of those that wait for their turn, or are none any more.
    room_at: BTreeSet<BrokerId>,
    /// When leaderships are checked for their return to preferred replicas.
    balance_at: Option<MonotonicMs>,
    /// Until when leaderships do not return to brokers by themselves, each in the epoch in which it came back.
    pauses: BTreeMap<(BrokerId, BrokerEpoch), MonotonicMs>,
    reach: Reach,
    /// Why a decision of this step is not proposed.
    refusal: Option<ProposalError>,
    effects: Effects,
}

impl Controller {
    /// Begins a term: `tree` and `image` are those at this leader's own no-op. Every registered broker gets a fresh
    /// session. `reached` contains the brokers that this coordinator has reached by probing, also as a follower.
    pub fn new(now: Now, config: ControllerConfig, tree: Tree, image: Image, reached: Reached) -> (Self, Effects) {
        let times = (config.session_timeout, config.reconnect_grace, config.tick_interval);
        let mut controller = Self {
            now,
            liveness: Liveness::new(now.monotonic, times, reached),
            ledger: Ledger::new(tree, image),
            waiting: BTreeMap::new(),
            registrations: Registrations::default(),
            shutdowns: Shutdowns::default(),
            work: WorkQueue::default(),
            quorum_levels: BTreeMap::new(),
            may_grow: true,
            room_at: BTreeSet::new(),
            balance_at: None,
            pauses: BTreeMap::new(),
            reach: Reach::new(now.monotonic + config.session_timeout),
            refusal: None,
            effects: Effects::default(),
            config,
        };
        if controller.ledger.ahead().cluster_id().is_none() {
            let mut draft = Draft::default();
            bootstrap::first_transaction(&controller.config).changes.into_iter().for_each(|change| draft.push(change));
            controller.propose(draft);
        }
        for broker in controller.ledger.image().brokers().cloned().collect::<Vec<_>>() {
            controller.liveness.start(broker.id, broker.epoch, broker.incarnation);
        }
        controller.report_recovering();
        controller.resume_work();
        let effects = controller.finish();
        (controller, effects)
    }

    /// Something happened.
    pub fn step(&mut self, now: Now, input: Input) -> Effects {
        self.observe(now);
        match input {
            Input::Request { id, request, entropy } => {
                self.request(id, request, entropy);
                self.effects.refusal = self.refusal.take();
            }
            Input::StreamOpened { stream, beat } | Input::StreamBeat { stream, beat } => self.beat(stream, beat),
            Input::StreamClosed { stream } => self.stream_closed(stream),
            Input::BrokersAsked { coordinator, brokers } => self.brokers_asked(coordinator, &brokers),
            Input::QuorumLevels(levels) => self.quorum_levels = levels,
            Input::Probed { broker, incarnation, result } => self.probed(broker, incarnation, result),
            Input::Applied { entry, revision, result, changes, delta, state } => {
                let is_broken = self.ledger.applied(entry, result.is_err(), &changes, *state);
                self.applied(entry, revision, &delta, is_broken);
            }
        }
        self.finish()
    }

    /// Time passed. To be called every [`ControllerConfig::tick_interval`], after the inputs that have arrived.
    pub fn tick(&mut self, now: Now) -> Effects {
        self.observe(now);
        if self.work.is_refused {
            self.resume_work();
        }
        self.fence_expired();
        self.end_pauses();
        self.balance_if_due();
        self.finish()
    }

    /// The requests that have no answer yet; with the end of leadership none will come from here.
    pub fn outstanding(&self) -> Vec<RequestId> {
        let waiting = self.waiting.values().flatten().map(|waiting| waiting.request);
        waiting.chain(self.registrations.outstanding()).chain(self.shutdowns.outstanding()).collect()
    }

    /// Whether a broker may be dead and is not known to be: the driver should not sleep through ticks then.
    pub fn is_unsettled(&self) -> bool {
        self.liveness.is_unsettled()
    }

    /// The live brokers, with the revisions of their images.
    pub fn observers(&self, now: Now) -> Vec<Observer> {
        let applied = self.ledger.image().revision();
        let streaming = self.liveness.sessions().filter(|(_, session)| session.has_stream());
        let observer = |(id, session): (BrokerId, &Session)| {
            let silent_ms = i64::try_from(self.liveness.silence(session).as_millis()).unwrap_or(i64::MAX);
            let heard_at = TimestampMs(now.wall.0.saturating_sub(silent_ms));
            let has_all = session.image_revision >= applied;
            let caught_up_at = if has_all { heard_at } else { TimestampMs::NONE };
            Observer { id, progress: Progress { end: session.image_revision, heard_at, caught_up_at } }
        };
        streaming.map(observer).collect()
    }

    /// Ends the term; the coordinator keeps the set of reached brokers.
    pub fn into_reached(self) -> Reached {
        self.liveness.into_reached()
    }

    /// Proposals that are not applied yet.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.ledger.in_flight()
    }

    fn observe(&mut self, now: Now) {
        self.now = now;
        self.refusal = None;
        self.liveness.observe(now.monotonic);
    }

    /// Executes the consequences of the last input, and returns all effects.
    fn finish(&mut self) -> Effects {
        self.advance_registrations();
        self.run_work();
        self.advance_registrations();
        self.advance_shutdowns();
        for (broker, incarnation) in self.liveness.due_probes() {
            let registration = self.ledger.image().broker(broker).filter(|r| r.incarnation == incarnation);
            if let Some(endpoint) = registration.and_then(|r| r.inter_broker_endpoint()).cloned() {
                self.effects.probes.push(Probe { broker, incarnation, endpoint });
            }
        }
        std::mem::take(&mut self.effects)
    }

    fn request(&mut self, id: RequestId, request: Request, entropy: [u8; 16]) {
        match request {
            // The key of a request says nothing of who sends it.
            Request::Once(_, request) if request.is_in_own_name() => self.decide_own(id, *request, entropy, None),
            Request::Once(key, request) => match self.remembered(key, &request) {
                Some(response) => self.answer(id, response),
                None => self.decide(id, *request, entropy, Some(key)),
            },
            Request::Proved(key, request) => self.decide_own(id, *request, entropy, Some(&key)),
            request => self.decide_own(id, request, entropy, None),
        }
    }

    fn decide(&mut self, id: RequestId, request: Request, entropy: [u8; 16], key: Option<IdempotencyKey>) {
        match request {
            Request::Register(register) => self.register(id, register),
            Request::AlterPartitions(alter) => self.alter_partitions(id, alter),
            Request::ResignLeadership(resign) => self.resign_leadership(id, resign),
            Request::ControlledShutdown(shutdown) => self.controlled_shutdown(id, shutdown),
            Request::AllocateProducerIds(allocate) => self.allocate_producer_ids(id, allocate),
            Request::CreateTopics(create) => self.create_topics(id, create, entropy, key),
            Request::DeleteTopics(delete) => self.delete_topics(id, delete, key),
            Request::CreatePartitions(create) => self.create_partitions(id, create, entropy, key),
            Request::AlterConfigs(alter) => self.alter_configs(id, alter, key),
            Request::AdmitCoordinator(admit) => self.admit_coordinator(id, admit),
            Request::SetMember(set) => self.set_member(id, set),
            Request::ChangeQuorum(_) => self.refuse_quorum_change(id),
            Request::UnregisterBroker(unregister) => self.unregister_broker(id, unregister, key),
            Request::ElectLeaders(elect) => self.elect_leaders(id, elect),
            Request::CreateAcls(create) => self.create_acls(id, create, key),
            Request::DeleteAcls(delete) => self.delete_acls(id, delete, key),
            Request::AlterReassignments(alter) => self.alter_reassignments(id, alter),
            Request::AlterDelegationToken(alter) => self.alter_delegation_token(id, alter, key),
            Request::UpdateFeatures(update) => self.update_features(id, &update),
            Request::Once(..) | Request::Proved(..) => self.answer(id, Answer::Unavailable),
        }
    }

    fn applied(&mut self, entry: Option<EntryId>, revision: Revision, delta: &Delta, is_broken: bool) {
        for change in &delta.brokers {
            match &change.new {
                Some(new) if change.old.as_ref().is_none_or(|old| old.epoch != new.epoch) => {
                    self.liveness.start(change.id, new.epoch, new.incarnation);
                }
                Some(_) => {}
                None => self.liveness.end(change.id),
            }
        }
        for change in &delta.partitions {
            let Some(old) = &change.old else { continue };
            // A partition gets no more replicas while others of it move.
            self.may_grow |= old.is_reassigning() && change.new.as_ref().is_none_or(|new| !new.is_reassigning());
            let stays = |broker: BrokerId| change.new.as_ref().is_some_and(|new| new.adding().contains(&broker));
            self.room_at.extend(old.adding().iter().copied().filter(|broker| !stays(*broker)));
        }
        self.report_unclean_elections(delta);
        if is_broken {
            self.give_up_waiting("a proposal was refused or lost");
            return;
        }
        let Some(entry) = entry else { return };
        let later = self.waiting.split_off(&EntryId(entry.0 + 1));
        for waiting in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            let mut answer = waiting.answer;
            answer.stamp(revision, waiting.is_registration);
            self.effects.answers.push((waiting.request, answer));
        }
    }

    /// A decision in flight did not hold: answers that may rest on it are not given.
    fn give_up_waiting(&mut self, why: &str) {
        self.warn(format!("{why}: what was decided on it is decided again"));
        for waiting in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.effects.answers.push((waiting.request, Answer::Unavailable));
        }
        self.registrations.give_up_creating(&mut self.effects);
        self.resume_work();
    }

    /// Proposes the draft, unless it is empty.
    fn propose(&mut self, mut draft: Draft) -> Option<EntryId> {
        draft.seal(self.ledger.ahead_tree());
        if draft.is_empty() {
            return None;
        }
        match self.ledger.propose(draft.into_transaction()) {
            Ok(proposal) => {
                let entry = proposal.entry;
                self.effects.proposals.push(proposal);
                Some(entry)
            }
            Err(refused) => {
                self.warn(format!("a decision is not proposed: {refused}"));
                self.refusal = Some(refused);
                None
            }
        }
    }

    /// Answers as soon as everything that is in flight now has been applied.
    fn answer(&mut self, request: RequestId, answer: Answer) {
        self.answer_after(self.ledger.last_in_flight(), request, answer, false);
    }

    fn answer_after(&mut self, entry: Option<EntryId>, request: RequestId, mut answer: Answer, is_registration: bool) {
        match entry {
            Some(entry) => {
                self.waiting.entry(entry).or_default().push(Waiting { request, answer, is_registration });
            }
            None => {
                answer.stamp(self.ledger.image().revision(), false);
                self.effects.answers.push((request, answer));
            }
        }
    }

    fn note(&mut self, text: String) {
        self.effects.notes.push(Note { is_warning: false, text });
    }

    fn warn(&mut self, text: String) {
        self.effects.notes.push(Note { is_warning: true, text });
    }

    /// Kafka's check of a broker's own requests: only the registered incarnation may send them.
    fn check_epoch(&self, broker: BrokerId, epoch: BrokerEpoch) -> Result<(), ErrorCode> {
        match self.ledger.ahead().broker_epoch(broker) == Some(epoch) {
            true => Ok(()),
            false => Err(ErrorCode::StaleBrokerEpoch),
        }
    }

    fn electorate<'a>(&'a self, topic: &'a TopicImage) -> TopicElectorate<'a> {
        TopicElectorate { image: self.ledger.ahead(), liveness: &self.liveness, topic, rules: self.config.rules }
    }
}

impl Answer {
    /// Sets the revision at which the tree contains everything in the response.
    fn stamp(&mut self, at: Revision, is_registration: bool) {
        match self {
            Self::Register(Ok(registered)) => {
                registered.revision = at;
                if is_registration {
                    registered.epoch = at.into();
                }
            }
            Self::AlterPartitions(altered) => altered.revision = at,
            Self::ResignLeadership(resigned) => resigned.revision = at,
            Self::ControlledShutdown(progress) => progress.revision = at,
            Self::CreateTopics(outcomes) | Self::DeleteTopics(outcomes) | Self::CreatePartitions(outcomes) => {
                outcomes.revision = at;
            }
            Self::AlterConfigs(outcomes) => outcomes.revision = at,
            Self::ElectLeaders(outcomes) | Self::AlterReassignments(outcomes) => outcomes.revision = at,
            Self::CreateAcls(created) => created.revision = at,
            Self::DeleteAcls(deleted) => deleted.revision = at,
            Self::UnregisterBroker(Ok(unregistered)) => unregistered.revision = at,
            Self::AlterDelegationToken(Ok(altered)) => altered.revision = at,
            Self::UpdateFeatures(Ok(updated)) => updated.revision = at,
            Self::UnregisterBroker(Err(_))
            | Self::Register(Err(_))
            | Self::AlterDelegationToken(Err(_))
            | Self::UpdateFeatures(Err(_))
            | Self::AllocateProducerIds(_)
            | Self::AdmitCoordinator(_)
            | Self::SetMember(())
            | Self::ChangeQuorum(_)
            | Self::Unavailable => {}
        }
    }
}
