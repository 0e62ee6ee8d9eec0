//! The session as a whole.

use std::time::Duration;

use ottla_metadata::Image;
use ottla_metadata::controller::{
    Beat, BeatAnswer, ControlledShutdown, Refusal, Register, Registered, ShutdownProgress,
};
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, MonotonicMs, Revision};

use crate::config::SessionConfig;
use crate::give_up::GiveUp;
use crate::heartbeats::{self, Heartbeats};
use crate::registration::{Applicant, Question, Registration};
use crate::stopping::{self, Closing, Stopping};

/// What the caller does, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Ask any coordinator which cluster it belongs to: [`Session::cluster_id_answered`].
    AskClusterId,
    /// Ask the leader of the quorum for a registration: [`Session::registration_answered`].
    Register(Register),
    /// Write down the registration, which is `registered`'s first or a later one of this process. The first one is on
    /// disk before anything else is done for it.
    Remember {
        registered: Registered,
        is_first: bool,
    },
    /// The broker has this registration from now on.
    Registered(Registered),
    /// Open a stream with the leader of the quorum, with this first beat: [`Session::heartbeats_opened`].
    OpenHeartbeats(Beat),
    Heartbeat(Beat),
    /// End the stream. `is_silent`: its coordinator answers nothing, and another one is to be asked first from now on.
    CloseHeartbeats {
        is_silent: bool,
    },
    /// Watch the tree at another coordinator: this one lags.
    LeaveWatch,
    /// Serve clients from now on.
    Serve,
    /// Ask for leaderships to be moved, for at most this long: [`Session::shutdown_answered`].
    ControlledShutdown(ControlledShutdown, Duration),
    /// Close the logs and go. The last effect.
    Close(Closing),
    /// Go. The last effect.
    GiveUp(GiveUp),
}

/// The broker's image, as far as the session is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct ImageState {
    /// What has been received of the tree.
    received: Revision,
    /// What the broker's partitions have taken of it.
    taken: Revision,
    /// The registration of this process is there, and ready.
    is_ready: bool,
}

/// Where a broker stands with the quorum, as far as it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It never was registered.
    Unregistered,
    /// It was, and is so no more.
    Fenced,
    /// It is, and its image does not show that the quorum counts on it.
    CatchingUp,
    Live,
}

/// See the crate.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    registration: Registration,
    heartbeats: Heartbeats,
    image: ImageState,
    /// The epoch of the first registration, once there is one.
    first_epoch: Option<BrokerEpoch>,
    is_serving: bool,
    stopping: Option<Stopping>,
    /// Effects of inputs, for the next tick.
    pending: Vec<Effect>,
    has_ended: bool,
}

impl Session {
    pub fn new(config: SessionConfig, applicant: Applicant, now: MonotonicMs) -> Self {
        Self {
            config,
            registration: Registration::new(applicant, now),
            heartbeats: Heartbeats::new(),
            image: ImageState::default(),
            first_epoch: None,
            is_serving: false,
            stopping: None,
            pending: Vec::new(),
            has_ended: false,
        }
    }

    /// [`BrokerId::NONE`] until the quorum has given one, where none is configured or stored.
    pub fn id(&self) -> BrokerId {
        self.registration.id()
    }

    /// None while this broker is not registered, or was fenced.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        self.registration.epoch()
    }

    /// The epoch up to which nothing is lost of the logs: the last one of this process, or what its predecessor left.
    pub fn whole_since(&self) -> BrokerEpoch {
        self.registration.whole_since()
    }

    pub fn standing(&self) -> Standing {
        match (self.epoch(), self.first_epoch) {
            (Some(_), _) if self.image.is_ready => Standing::Live,
            (Some(_), _) => Standing::CatchingUp,
            (None, Some(_)) => Standing::Fenced,
            (None, None) => Standing::Unregistered,
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    // ---- registration

    /// What a coordinator said of its cluster; none where the quorum has no id yet.
    pub fn cluster_id_answered(&mut self, now: MonotonicMs, found: Option<&ClusterId>) {
        if let Err(give_up) = self.registration.cluster_id_answered(now, found) {
            self.give_up(give_up);
        }
    }

    pub fn registration_answered(&mut self, now: MonotonicMs, result: Result<Registered, Refusal>) {
        let answered = match &result {
            Ok(registered) => self.registration.answered(now, &self.config, Ok(registered)),
            Err(refusal) => self.registration.answered(now, &self.config, Err(refusal.clone())),
        };
        match (answered, result) {
            (Ok(true), Ok(registered)) => self.registered(now, registered),
            (Ok(_), _) => {}
            (Err(give_up), _) => self.give_up(give_up),
        }
    }

    /// No coordinator answered the registration, or the question for the cluster's id, in time.
    pub fn registration_unanswered(&mut self, now: MonotonicMs) {
        self.registration.unanswered(now);
    }

    /// A coordinator refused the call itself: see [`Registration::turned_away`].
    pub fn registration_turned_away(&mut self, now: MonotonicMs) {
        self.registration.turned_away(now);
    }

    fn registered(&mut self, now: MonotonicMs, registered: Registered) {
        let is_first = self.first_epoch.is_none();
        self.first_epoch.get_or_insert(registered.epoch);
        self.pending.push(Effect::Remember { registered: registered.clone(), is_first });
        self.pending.push(Effect::Registered(registered));
        self.heartbeats.open_now(now);
    }

    // ---- heartbeats

    pub fn heartbeats_opened(&mut self, now: MonotonicMs) {
        self.heartbeats.opened(now);
    }

    /// The stream ended, or could not be opened.
    pub fn heartbeats_lost(&mut self, now: MonotonicMs) {
        self.heartbeats.lost(now);
    }

    /// A coordinator refused to open the stream.
    pub fn heartbeats_refused(&mut self, now: MonotonicMs) {
        self.heartbeats.refused(now);
    }

    pub fn beat_answered(&mut self, now: MonotonicMs, answer: &BeatAnswer) {
        if !self.heartbeats.is_open() {
            return;
        }
        self.heartbeats.answered(now, answer.committed_revision, self.image.received);
        if answer.fenced && !self.config.rules.ignores_fencing {
            self.fenced(now);
        }
    }

    fn fenced(&mut self, now: MonotonicMs) {
        self.registration.fenced(now);
        self.heartbeats.lost(now);
        self.pending.push(Effect::CloseHeartbeats { is_silent: false });
        // Its leaderships are gone with the registration.
        if let Some(stopping) = &mut self.stopping {
            stopping.end(Closing::NotRegistered);
        }
    }

    /// The image, and what the broker's partitions have `taken` of it, may have moved.
    pub fn image_moved(&mut self, image: &Image, taken: Revision) {
        let own = image.broker(self.registration.id());
        let state = ImageState {
            received: image.revision(),
            taken,
            is_ready: own.is_some_and(|own| own.ready && own.incarnation == self.registration.incarnation()),
        };
        self.heartbeats.image_moved(state.received, state.taken > self.image.taken);
        self.image = state;
    }

    fn beat(&self, epoch: BrokerEpoch) -> Beat {
        Beat {
            broker: self.registration.id(),
            epoch: self.first_epoch.filter(|_| self.config.rules.keeps_fenced_epoch).unwrap_or(epoch),
            incarnation: self.registration.incarnation(),
            image_revision: self.image.taken,
        }
    }

    // ---- the end

    /// The process is asked to stop.
    pub fn stop(&mut self, now: MonotonicMs) {
        let mut stopping = Stopping::new(now);
        if self.epoch().is_none() {
            stopping.end(Closing::NotRegistered);
        } else if !self.config.controlled_shutdown {
            stopping.end(Closing::Disabled);
        }
        self.stopping.get_or_insert(stopping);
    }

    pub fn shutdown_answered(&mut self, now: MonotonicMs, progress: &ShutdownProgress) {
        if let Some(stopping) = &mut self.stopping {
            stopping.answered(now, progress);
        }
    }

    /// The quorum did not answer in the time that the question had.
    pub fn shutdown_unanswered(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.end(Closing::NoQuorum);
        }
    }

    fn give_up(&mut self, give_up: GiveUp) {
        self.pending.push(Effect::GiveUp(give_up));
    }

    // ---- what is due

    /// What is to be done now.
    pub fn tick(&mut self, now: MonotonicMs) -> Vec<Effect> {
        if self.has_ended {
            return Vec::new();
        }
        let mut effects = std::mem::take(&mut self.pending);
        if !effects.iter().any(Effect::is_last) {
            self.tick_registration(now, &mut effects);
            self.tick_heartbeats(now, &mut effects);
            self.tick_serving(&mut effects);
            self.tick_stopping(now, &mut effects);
        }
        self.has_ended = effects.iter().any(Effect::is_last);
        effects
    }

    /// When to call [`Session::tick`] at the latest, but for inputs; after an input it is called at once.
    pub fn deadline(&self) -> Option<MonotonicMs> {
        if self.has_ended {
            return None;
        }
        let heartbeats = self.epoch().and_then(|_| self.heartbeats.deadline(&self.config));
        let registration = self.registration.deadline().filter(|_| self.stopping.is_none());
        let stopping = self.stopping.as_ref().map(Stopping::deadline);
        [registration, heartbeats, stopping].into_iter().flatten().min()
    }

    fn tick_registration(&mut self, now: MonotonicMs, effects: &mut Vec<Effect>) {
        if self.stopping.is_some() {
            return;
        }
        match self.registration.question(now) {
            Some(Question::ClusterId) => effects.push(Effect::AskClusterId),
            Some(Question::Register(request)) => effects.push(Effect::Register(request)),
            None => {}
        }
    }

    fn tick_heartbeats(&mut self, now: MonotonicMs, effects: &mut Vec<Effect>) {
        let Some(epoch) = self.epoch() else { return };
        match self.heartbeats.step(now, &self.config) {
            Some(heartbeats::Step::Open) => effects.push(Effect::OpenHeartbeats(self.beat(epoch))),
            Some(heartbeats::Step::Beat) => effects.push(Effect::Heartbeat(self.beat(epoch))),
            Some(heartbeats::Step::Close) => effects.push(Effect::CloseHeartbeats { is_silent: true }),
            None => {}
        }
        if self.heartbeats.leaves_watch(now) && !self.config.rules.stays_with_lagging_watch {
            effects.push(Effect::LeaveWatch);
        }
    }

    /// This registration, or a later one of this process: the quorum knows that this image has it.
    fn tick_serving(&mut self, effects: &mut Vec<Effect>) {
        let is_ready = self.image.is_ready || self.config.rules.serves_before_ready;
        if !self.is_serving && is_ready && self.first_epoch.is_some() && self.stopping.is_none() {
            self.is_serving = true;
            effects.push(Effect::Serve);
        }
    }

    fn tick_stopping(&mut self, now: MonotonicMs, effects: &mut Vec<Effect>) {
        let (Some(stopping), epoch) = (&mut self.stopping, self.registration.epoch()) else { return };
        match (stopping.step(now), epoch) {
            (Some(stopping::Step::Close(closing)), _) => effects.push(Effect::Close(closing)),
            (Some(stopping::Step::Ask(timeout)), Some(epoch)) => {
                let request = ControlledShutdown {
                    broker: self.registration.id(),
                    epoch,
                    incarnation: self.registration.incarnation(),
                };
                effects.push(Effect::ControlledShutdown(request, timeout));
            }
            _ => {}
        }
    }
}

impl Effect {
    /// Nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Close(_) | Self::GiveUp(_))
    }
}
