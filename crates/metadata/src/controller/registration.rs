//! A broker's new incarnation comes.
//!
//! A registration gets its epoch only after three conditions hold: any other holder of its id has ended; no ISR with
//! another member contains its predecessor; and after an unclean shutdown the broker is in no ELR, nor in an ISR in
//! which an ELR member can replace it (KIP-966). If its disk is not the one that an ISR refers to, the partitions in
//! which it is the last member are marked. All of this is derived from the tree, so a repeated registration continues
//! where the last one stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, IncarnationId, MonotonicMs, Revision};

use super::draft::Draft;
use super::work_queue::{Progress, Work};
use super::{Answer, Controller, Effects, EntryId, Refusal, Register, Registered, RequestId};
use crate::image::BrokerRegistration;
use crate::limits;
use crate::nodes;
use crate::transaction::Change;
use bytes::Bytes;

/// How long a registration waits for a probe of the current holder of its id: a probe's timeout and a round trip. Then
/// it is refused, and the broker retries.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Another incarnation holds the id and has no stream: it is being dialled.
    Challenging { deadline: MonotonicMs },
    /// The predecessor is being removed from its partitions.
    Clearing,
    /// The unclean shutdown is being applied to its partitions.
    Cleaning,
}

#[derive(Debug)]
struct Pending {
    /// The requests that wait; more than one if the broker has retried.
    requests: Vec<RequestId>,
    register: Register,
    stage: Stage,
}

#[derive(Debug, Default)]
pub(super) struct Registrations {
    pending: Vec<Pending>,
    /// Entries in flight that create a registration.
    creating: BTreeMap<BrokerId, EntryId>,
}

impl Registrations {
    pub fn outstanding(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.pending.iter().flat_map(|pending| pending.requests.iter().copied())
    }

    /// The holder of the id is alive: its challenger is refused at the next opportunity.
    pub fn holder_answered(&mut self, broker: BrokerId, incarnation: IncarnationId) {
        for pending in &mut self.pending {
            let is_other = pending.register.broker == broker && pending.register.incarnation != incarnation;
            if let (true, Stage::Challenging { deadline }) = (is_other, &mut pending.stage) {
                *deadline = MonotonicMs(0);
            }
        }
    }

    /// Proposals in flight are lost: no registration results from them.
    pub fn give_up_creating(&mut self, effects: &mut Effects) {
        self.creating.clear();
        for request in std::mem::take(&mut self.pending).into_iter().flat_map(|pending| pending.requests) {
            effects.answers.push((request, Answer::Unavailable));
        }
    }

    /// The work queue was cleared: what registrations wait for is to be queued again.
    pub fn begin_again(&mut self) {
        self.pending.iter_mut().filter(|pending| pending.stage == Stage::Cleaning).for_each(|pending| {
            pending.stage = Stage::Clearing;
        });
    }

    fn find(&mut self, register: &Register) -> Option<&mut Pending> {
        let is_same = |pending: &&mut Pending| match register.broker {
            BrokerId::NONE => pending.register.incarnation == register.incarnation,
            broker => pending.register.broker == broker,
        };
        self.pending.iter_mut().find(is_same)
    }
}

impl Controller {
    pub(super) fn register(&mut self, id: RequestId, mut register: Register) {
        if register.broker == BrokerId::NONE {
            // It may have been fenced before it heard of its id: another one would leave the first registered for ever.
            let known = self.ledger.ahead().fenced_brokers().find(|known| known.incarnation == register.incarnation);
            register.broker = known.map_or(BrokerId::NONE, |known| known.id);
        }
        self.heard_broker(register.broker);
        if let Err(refusal) = self.check_registration(&register) {
            return self.refuse_registration(&[id], refusal);
        }
        if let Some(pending) = self.registrations.find(&register) {
            if pending.register.incarnation == register.incarnation {
                pending.requests.push(id);
                return;
            }
            let other = pending.register.incarnation;
            let text =
                format!("Broker {} is being registered by another process: incarnation {other}.", register.broker);
            return self.refuse_registration(&[id], Refusal::new(ErrorCode::DuplicateBrokerRegistration, text));
        }
        let ahead = self.ledger.ahead();
        let holder = match register.broker {
            BrokerId::NONE => ahead.brokers().find(|broker| broker.incarnation == register.incarnation),
            broker => ahead.broker(broker),
        };
        match holder.cloned() {
            Some(holder) if holder.incarnation == register.incarnation => self.repeat_registration(id, &holder),
            Some(holder) => {
                if self.liveness.session(holder.id).is_some_and(|session| session.has_stream()) {
                    return self.refuse_registration(&[id], duplicate(&holder));
                }
                self.liveness.probe_now(holder.id);
                let stage = Stage::Challenging { deadline: self.now.monotonic + CHALLENGE_TIMEOUT };
                self.registrations.pending.push(Pending { requests: vec![id], register, stage });
            }
            None => {
                self.registrations.pending.push(Pending { requests: vec![id], register, stage: Stage::Clearing });
            }
        }
    }

    fn check_registration(&self, register: &Register) -> Result<(), Refusal> {
        let cluster_id = self.ledger.ahead().cluster_id();
        if let (Some(theirs), Some(ours)) = (&register.cluster_id, cluster_id)
            && theirs != ours
        {
            let text = format!("Expected cluster ID {ours}, but got cluster ID {theirs}");
            return Err(Refusal::new(ErrorCode::InconsistentClusterId, text));
        }
        if register.broker < BrokerId::NONE {
            let text = format!("Broker id {} is neither −1 nor 0 or greater.", register.broker);
            return Err(Refusal::new(ErrorCode::InvalidRegistration, text));
        }
        let invalid = |text: String| Err(Refusal::new(ErrorCode::InvalidRegistration, text));
        if register.endpoints.len() > limits::MAX_ENDPOINTS {
            let (given, most) = (register.endpoints.len(), limits::MAX_ENDPOINTS);
            return invalid(format!("The registration names {given} endpoints; at most {most} are possible."));
        }
        let texts = register.endpoints.iter().flat_map(|e| [e.listener.as_str(), &e.host, &e.security_protocol]);
        if texts.chain(register.rack.as_deref()).any(|text| text.len() > limits::MAX_REGISTRATION_TEXT_BYTES) {
            let most = limits::MAX_REGISTRATION_TEXT_BYTES;
            return invalid(format!("A listener, host, security protocol or rack has more than {most} bytes."));
        }
        let ahead = self.ledger.ahead();
        let registered = ahead.broker_count() + ahead.fenced_brokers().count();
        if !ahead.is_registered(register.broker) && registered >= limits::MAX_BROKERS {
            return invalid(format!("{} brokers are registered: more are not possible.", limits::MAX_BROKERS));
        }
        self.check_levels_of_registration(register.levels)?;
        let has_inter_broker = register.endpoints.iter().any(|e| e.listener == register.inter_broker_listener);
        if !has_inter_broker {
            let text = format!("No endpoint is of the inter-broker listener {}.", register.inter_broker_listener);
            return Err(Refusal::new(ErrorCode::InvalidRegistration, text));
        }
        Ok(())
    }

    fn refuse_registration(&mut self, requests: &[RequestId], refusal: Refusal) {
        self.warn(format!("a registration is refused: {}", refusal.message));
        for id in requests {
            self.answer(*id, Answer::Register(Err(refusal.clone())));
        }
    }

    /// The first answer got lost: the same one again.
    fn repeat_registration(&mut self, id: RequestId, holder: &BrokerRegistration) {
        let creating = self.registrations.creating.get(&holder.id).copied();
        let creating = creating.filter(|entry| self.ledger.is_in_flight(*entry));
        let answer = self.registered(holder.id, holder.epoch);
        match creating {
            Some(entry) => self.answer_after(Some(entry), id, answer, true),
            None => self.answer(id, answer),
        }
    }

    fn registered(&self, broker: BrokerId, epoch: BrokerEpoch) -> Answer {
        let cluster_id = self.ledger.ahead().cluster_id().cloned().unwrap_or_else(|| self.config.cluster_id.clone());
        Answer::Register(Ok(Registered { broker, epoch, cluster_id, revision: Revision(0) }))
    }

    /// Advances every pending registration as far as possible.
    pub(super) fn advance_registrations(&mut self) {
        for pending in std::mem::take(&mut self.registrations.pending) {
            if let Some(pending) = self.advance_registration(pending) {
                self.registrations.pending.push(pending);
            }
        }
    }

    fn advance_registration(&mut self, mut pending: Pending) -> Option<Pending> {
        let broker = pending.register.broker;
        if let Stage::Challenging { deadline } = pending.stage {
            if let Some(holder) = self.ledger.ahead().broker(broker).cloned() {
                let lives = self.liveness.session(broker).is_some_and(|session| session.has_stream());
                if lives || self.now.monotonic >= deadline {
                    self.refuse_registration(&pending.requests, duplicate(&holder));
                    return None;
                }
                return Some(pending);
            }
            pending.stage = Stage::Clearing;
        }
        if pending.stage == Stage::Clearing {
            if self.work.contains(Work::Fence(broker)) {
                return Some(pending);
            }
            if self.has_empty_disk(&pending.register) {
                self.work.push(Progress::new(Work::Lost(broker)));
                self.warn(format!(
                    "broker {broker} comes back with an empty disk: it will not lead what others also hold"
                ));
            } else if self.is_unclean(&pending.register) {
                self.work.push(Progress::new(Work::Unclean(broker)));
                self.note(format!("broker {broker} comes back from an unclean shutdown"));
            }
            pending.stage = Stage::Cleaning;
        }
        if self.work.contains(Work::Unclean(broker)) || self.work.contains(Work::Lost(broker)) {
            return Some(pending);
        }
        // A level may have been finalized while it waited.
        if let Err(refusal) = self.check_levels_of_registration(pending.register.levels) {
            self.refuse_registration(&pending.requests, refusal);
            return None;
        }
        self.create_registration(pending);
        None
    }

    /// Whether its log may have lost its end: not if it is the same process as before, nor if it is whole since the
    /// last epoch in which it was ready, or a later one.
    fn is_unclean(&self, register: &Register) -> bool {
        let memory = self.ledger.ahead().broker_memory(register.broker);
        !self.config.rules.unclean_counts_as_clean
            && memory.is_some_and(|memory| {
                memory.incarnation != register.incarnation && register.clean_shutdown_epoch < memory.epoch
            })
    }

    /// Whether it is a new process of a known id on a disk that knows no cluster.
    fn has_empty_disk(&self, register: &Register) -> bool {
        let memory = self.ledger.ahead().broker_memory(register.broker);
        register.cluster_id.is_none() && memory.is_some_and(|memory| memory.incarnation != register.incarnation)
    }

    fn create_registration(&mut self, pending: Pending) {
        let register = pending.register;
        let mut draft = Draft::default();
        let broker = match register.broker {
            BrokerId::NONE => self.draft_next_id(&mut draft),
            broker => broker,
        };
        let registration = BrokerRegistration {
            id: broker,
            epoch: BrokerEpoch::NONE,
            incarnation: register.incarnation,
            endpoints: register.endpoints,
            inter_broker_listener: register.inter_broker_listener,
            rack: register.rack,
            ready: false,
            shutting_down: false,
            awaits_clients: self.awaits_clients(register.broker, register.leaders),
            min_insync_replicas: register.min_insync_replicas.max(1),
            leaders: register.leaders,
            registered_at: self.now.wall,
            levels: register.levels,
        };
        draft.create(nodes::broker::path(broker), nodes::broker::encode(&registration));
        if self.ledger.ahead().controller().is_none() {
            self.draft_controller(&mut draft, Some(broker));
        }
        let entry = self.propose(draft);
        if let Some(entry) = entry {
            self.registrations.creating.insert(broker, entry);
        }
        for id in pending.requests {
            match entry {
                Some(_) => {
                    let answer = self.registered(broker, BrokerEpoch::NONE);
                    self.answer_after(entry, id, answer, true);
                }
                None => self.answer(id, Answer::Unavailable),
            }
        }
        self.note(format!("broker {broker} registers as incarnation {}", registration.incarnation));
    }

    /// The next id that was never used, counted by the version of `/brokers/seqid` as ZooKeeper did.
    fn draft_next_id(&self, draft: &mut Draft) -> BrokerId {
        let ahead = self.ledger.ahead();
        let mut version = self.ledger.ahead_tree().get(&nodes::sequence_id::path()).map_or(0, |node| node.version);
        loop {
            let path = nodes::sequence_id::path();
            draft.push(Change::Set { path, payload: Bytes::new(), expected: version });
            version = version.saturating_add(1);
            let id = BrokerId(self.config.reserved_broker_max_id.saturating_add(version));
            let is_free = ahead.broker(id).is_none() && ahead.broker_memory(id).is_none();
            if is_free || version == i32::MAX {
                return id;
            }
        }
    }
}

fn duplicate(holder: &BrokerRegistration) -> Refusal {
    let address = holder.inter_broker_endpoint().map_or_else(String::new, |e| format!(" at {}:{}", e.host, e.port));
    let text = format!(
        "Broker {} is registered by another process that lives: incarnation {}{address}.",
        holder.id, holder.incarnation
    );
    Refusal::new(ErrorCode::DuplicateBrokerRegistration, text)
}
