//! Carries out what the broker's session decides (`ottla-broker-session`): calls, the stream of heartbeats, the time,
//! the disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ottla_broker_session::{Applicant, Closing, Effect, GiveUp, Session, SessionConfig};
use ottla_metadata::Image;
use ottla_metadata::controller::{Beat, BeatAnswer, Refusal, Registered, ShutdownProgress};
use ottla_metadata::image::Standing;
use ottla_model::{BrokerId, ClusterId, MonotonicMs, Revision};
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::manager::ReplicaManagerError;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_rpc::{CallError, ClusterClient, HeartbeatStream, WatchUpdate};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::RunError;
use crate::telemetry::Telemetry;
use crate::telemetry::readiness::{Readiness, Stage};
use ottla_metrics::Reminder;

/// How long one call for a registration may take; they go on for ever.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// For finding the leader and opening a stream to it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between lines that say that it is still trying, for the same reason.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// What a session needs of its broker.
pub struct SessionContext {
    pub client: ClusterClient,
    pub identity: Arc<Identity>,
    pub metadata: Arc<MetadataCache>,
    pub telemetry: Arc<Telemetry>,
    pub readiness: Arc<Readiness>,
    /// Tells the watcher to go elsewhere.
    pub leave_watch: Arc<Notify>,
    pub disk: Arc<dyn RegistrationDisk>,
}

/// Where registrations are remembered. Both wait for the disk.
pub trait RegistrationDisk: Send + Sync {
    /// The first registration of this process: the directories belong to this broker and cluster.
    fn claim(&self, registered: &Registered) -> Result<(), ReplicaManagerError>;
    /// Best effort.
    fn remember(&self, registered: &Registered);
}

/// What the session wants of the process.
#[derive(Debug)]
pub enum SessionEvent {
    Registered(Registered),
    /// Clients may be served.
    Serve,
    /// The controlled shutdown is over.
    Close,
    GiveUp(RunError),
}

/// What a call to the quorum came to.
enum CallDone {
    ClusterId(Result<Option<ClusterId>, CallError>),
    Registration(Result<Result<Registered, Refusal>, CallError>),
    Opened(Result<Box<HeartbeatStream>, CallError>),
    Shutdown(Result<ShutdownProgress, CallError>),
}

/// A session and what it has under way.
pub struct SessionRunner {
    session: Session,
    context: SessionContext,
    began: Instant,
    effects: VecDeque<Effect>,
    calls: JoinSet<CallDone>,
    stream: Option<Box<HeartbeatStream>>,
    revisions: watch::Receiver<Revision>,
    /// The first registration is being written down. Nothing is done for it before.
    claiming: Option<JoinHandle<Result<(), ReplicaManagerError>>>,
    /// Why it is not registered.
    not_registered: Reminder,
    /// Why it has no stream of heartbeats.
    no_session: Reminder,
}

impl SessionRunner {
    pub fn new(config: SessionConfig, applicant: Applicant, context: SessionContext) -> Self {
        Self {
            session: Session::new(config, applicant, MonotonicMs(0)),
            began: Instant::now(),
            effects: VecDeque::new(),
            calls: JoinSet::new(),
            stream: None,
            revisions: context.metadata.subscribe(),
            claiming: None,
            not_registered: Reminder::new(REMIND_INTERVAL),
            no_session: Reminder::new(REMIND_INTERVAL),
            context,
        }
    }

    fn now(&self) -> MonotonicMs {
        MonotonicMs(0) + self.began.elapsed()
    }

    /// The process is asked to stop.
    pub fn stop(&mut self) {
        self.session.stop(self.now());
    }

    /// Keeps the session until it wants something of the process. Never ends after [`SessionEvent::Close`] and
    /// [`SessionEvent::GiveUp`].
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> SessionEvent {
        loop {
            if let Some(event) = self.step() {
                return event;
            }
            if let Err(error) = self.wait().await {
                return SessionEvent::GiveUp(error);
            }
        }
    }

    fn step(&mut self) -> Option<SessionEvent> {
        while self.claiming.is_none() {
            let Some(effect) = self.effects.pop_front() else {
                let taken = self.context.metadata.effective_revision();
                let image = self.context.metadata.peek();
                self.session.image_moved(&image, taken);
                follow_coordinators(&self.context.client, &image);
                let now = self.now();
                self.effects.extend(self.session.tick(now));
                if self.effects.is_empty() {
                    // What was decided before has been carried out: a gate that this opens is open.
                    self.show_standing();
                    return None;
                }
                continue;
            };
            if let Some(event) = self.execute(effect) {
                return Some(event);
            }
        }
        None
    }

    fn show_standing(&self) {
        let stage = match self.session.is_stopping() {
            true => Stage::Stopping,
            false => Stage::InSession(self.session.standing()),
        };
        self.context.readiness.enter(stage);
    }

    /// Takes one input: an answer, a change of the image, or that time has passed.
    async fn wait(&mut self) -> Result<(), RunError> {
        let deadline = self.session.deadline().map(|at| self.began + at.since(MonotonicMs(0)));
        let is_claiming = self.claiming.is_some();
        tokio::select! {
            Some(done) = self.calls.join_next() => {
                if let Ok(done) = done {
                    self.call_done(done);
                }
            }
            answer = next_answer(&mut self.stream) => self.beat_answered(answer),
            result = claimed(&mut self.claiming) => {
                self.claiming = None;
                result?;
            }
            // The sender lives as long as the image.
            Ok(()) = self.revisions.changed() => {}
            () = sleep_until(deadline), if !is_claiming => {}
        }
        Ok(())
    }

    fn execute(&mut self, effect: Effect) -> Option<SessionEvent> {
        let client = self.context.client.clone();
        match effect {
            Effect::AskClusterId => {
                self.calls.spawn(async move { CallDone::ClusterId(cluster_id(&client).await) });
            }
            Effect::Register(request) => {
                self.calls.spawn(async move { CallDone::Registration(client.submit(request, REGISTER_TIMEOUT).await) });
            }
            Effect::Remember { registered, is_first } => self.remember(registered, is_first),
            Effect::Registered(registered) => return Some(self.registered(registered)),
            Effect::OpenHeartbeats(beat) => self.open(beat),
            Effect::Heartbeat(beat) => {
                if let Some(stream) = &self.stream {
                    // Where there is no room, the coordinator is silent, and the session counts that.
                    stream.beat(&beat);
                }
            }
            Effect::CloseHeartbeats { is_silent } => self.close_stream(is_silent),
            Effect::LeaveWatch => self.context.leave_watch.notify_one(),
            Effect::Serve => return Some(SessionEvent::Serve),
            Effect::ControlledShutdown(request, timeout) => {
                self.calls.spawn(async move { CallDone::Shutdown(client.submit(request, timeout).await) });
            }
            Effect::Close(closing) => {
                log_closing(closing);
                return Some(SessionEvent::Close);
            }
            Effect::GiveUp(give_up) => return Some(SessionEvent::GiveUp(self.run_error(give_up))),
        }
        None
    }

    /// On a thread that may wait: heartbeats must not stand still while a disk does.
    fn remember(&mut self, registered: Registered, is_first: bool) {
        let disk = Arc::clone(&self.context.disk);
        if is_first {
            self.claiming = Some(tokio::task::spawn_blocking(move || disk.claim(&registered)));
        } else {
            drop(tokio::task::spawn_blocking(move || disk.remember(&registered)));
        }
    }

    fn registered(&mut self, registered: Registered) -> SessionEvent {
        self.not_registered.reset();
        self.context.identity.registered(registered.broker, registered.epoch);
        self.context.telemetry.broker_epoch.set(registered.epoch.0);
        self.context.readiness.heard();
        tracing::info!(
            id = %registered.broker,
            epoch = %registered.epoch,
            cluster = %registered.cluster_id,
            revision = %registered.revision,
            "registered"
        );
        SessionEvent::Registered(registered)
    }

    // ---- heartbeats

    fn open(&mut self, beat: Beat) {
        let client = self.context.client.clone();
        self.calls.spawn(async move { CallDone::Opened(client.heartbeat(beat, OPEN_TIMEOUT).await.map(Box::new)) });
    }

    fn close_stream(&mut self, is_silent: bool) {
        let Some(stream) = self.stream.take() else { return };
        if is_silent {
            tracing::warn!(
                coordinator = stream.coordinator(),
                "heartbeats are not answered; asking another coordinator"
            );
            stream.give_up();
        }
    }

    fn beat_answered(&mut self, answer: Result<BeatAnswer, CallError>) {
        let now = self.now();
        match answer {
            Ok(answer) => {
                self.context.readiness.heard();
                if answer.fenced {
                    let epoch = self.context.identity.epoch();
                    tracing::warn!(%epoch, "this broker was fenced; registering again");
                }
                self.session.beat_answered(now, &answer);
            }
            Err(error) => {
                tracing::debug!(%error, "the session's stream ended; opening another");
                self.stream = None;
                self.session.heartbeats_lost(now);
            }
        }
    }

    // ---- calls

    fn call_done(&mut self, done: CallDone) {
        let now = self.now();
        match done {
            CallDone::ClusterId(Ok(found)) => self.session.cluster_id_answered(now, found.as_ref()),
            CallDone::ClusterId(Err(error)) => self.registration_failed(now, &error),
            CallDone::Registration(Ok(result)) => {
                if let Err(refusal) = &result {
                    let reason = refusal.to_string();
                    self.not_registered.run(&reason, |more| tracing::warn!(%refusal, more, "not registered yet"));
                }
                self.session.registration_answered(now, result);
            }
            CallDone::Registration(Err(error)) => self.registration_failed(now, &error),
            CallDone::Opened(Ok(stream)) => {
                tracing::debug!(coordinator = stream.coordinator(), "session opened");
                self.stream = Some(stream);
                self.no_session.reset();
                self.session.heartbeats_opened(now);
            }
            CallDone::Opened(Err(error)) => {
                let complain = |more| tracing::warn!(%error, more, "no session with the quorum; trying again");
                self.no_session.run(error.reason(), complain);
                match error {
                    CallError::Refused { .. } => self.session.heartbeats_refused(now),
                    _ => self.session.heartbeats_lost(now),
                }
            }
            CallDone::Shutdown(Ok(progress)) => self.session.shutdown_answered(now, &progress),
            CallDone::Shutdown(Err(error)) => {
                tracing::warn!(%error, "cannot reach the quorum to move leaderships");
                self.session.shutdown_unanswered();
            }
        }
    }

    fn registration_failed(&mut self, now: MonotonicMs, error: &CallError) {
        if let CallError::Refused { .. } = error {
            let complain = |more| tracing::warn!(%error, more, "not registered: the coordinators refuse this broker");
            self.not_registered.run(error.reason(), complain);
            return self.session.registration_turned_away(now);
        }
        let complain = |more| tracing::info!(%error, more, "waiting for the coordinators");
        self.not_registered.run(error.reason(), complain);
        self.session.registration_unanswered(now);
    }

    fn run_error(&self, give_up: GiveUp) -> RunError {
        match give_up {
            GiveUp::ClusterRefused(refusal) => {
                let asked = self.context.client.coordinators().addresses().join(",");
                RunError::OtherCluster { message: format!("coordinator.connect={asked}: {}", refusal.message) }
            }
            GiveUp::OtherCluster { .. } => RunError::OtherCluster { message: give_up.to_string() },
            GiveUp::DuplicateId { id, refusal } => RunError::DuplicateId { id, message: refusal.message },
            GiveUp::Refused(refusal) => RunError::Refused { error: refusal.error, message: refusal.message },
        }
    }
}

/// Coordinators that joined the quorum while it ran are asked too, without a restart.
fn follow_coordinators(client: &ClusterClient, image: &Image) {
    let live = image.coordinators().map(|(_, coordinator)| &coordinator.node).filter(|node| node.is_live_change);
    let joined = live.filter(|node| node.standing != Standing::Removed).map(|node| node.address.clone());
    client.coordinators().follow(&joined.collect::<Vec<_>>());
}

fn log_closing(closing: Closing) {
    match closing {
        Closing::Moved { remaining_leaderships: remaining } => tracing::info!(remaining, "leaderships moved away"),
        Closing::NotRegistered | Closing::Disabled => {}
        Closing::Refused(error) => {
            tracing::warn!(?error, "the quorum does not move this broker's leaderships; stopping all the same");
        }
        Closing::NoQuorum => tracing::warn!("leaderships did not move; stopping all the same"),
        Closing::TimedOut => tracing::warn!("leaderships did not move in time; stopping all the same"),
    }
}

/// Of the cluster that the coordinators belong to; none within, where they have none yet, and none where no coordinator
/// answers, or one falls silent.
async fn cluster_id(client: &ClusterClient) -> Result<Option<ClusterId>, CallError> {
    let mut stream = client.watch(Revision(0), BrokerId::NONE, None, REGISTER_TIMEOUT).await?;
    let silent = |last: &str| CallError::Deadline {
        operation: "watch",
        timeout: REGISTER_TIMEOUT,
        last: last.to_owned(),
        maybe_done: false,
    };
    // A large tree takes longer than that: it counts from the part that came last.
    let update = loop {
        let parts = stream.parts();
        match tokio::time::timeout(REGISTER_TIMEOUT, stream.next()).await {
            Ok(update) => break update?,
            Err(_) if stream.parts() > parts => {}
            Err(_) => return Err(silent("no snapshot of the tree")),
        }
    };
    match update {
        WatchUpdate::Snapshot { revision, nodes } => {
            let (image, _) = Image::from_nodes(revision, nodes.iter().map(|(path, node)| (path, node)));
            Ok(image.cluster_id().cloned())
        }
        WatchUpdate::Changes { .. } => Err(silent("the tree does not begin with a snapshot")),
    }
}

async fn next_answer(stream: &mut Option<Box<HeartbeatStream>>) -> Result<BeatAnswer, CallError> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn claimed(claiming: &mut Option<JoinHandle<Result<(), ReplicaManagerError>>>) -> Result<(), RunError> {
    match claiming {
        Some(claiming) => match claiming.await {
            Ok(result) => result.map_err(RunError::from),
            Err(error) => Err(RunError::Runtime(std::io::Error::other(error))),
        },
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
