//! The session: one stream to the quorum leader, a beat at least every interval and one right after the image has moved,
//! opened again as soon as it breaks; and the way back in when this broker was fenced.

use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::controller::Beat;
use ottla_metrics::RateLimit;
use ottla_model::{BrokerEpoch, Revision};
use ottla_rpc::{ClusterClient, HeartbeatStream};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::RunError;
use super::registration::{self, Application};
use crate::identity::Identity;
use crate::metadata_cache::MetadataCache;
use crate::telemetry::Telemetry;

/// A broken stream is opened again within this.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// One attempt to find the leader.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Beats that follow a moving image keep this distance: a controlled shutdown waits for them, a busy tree must not multiply them.
const BEAT_DISTANCE_MIN: Duration = Duration::from_millis(20);
/// An image that has not reached what the leader had committed this long ago is fed by a coordinator that lags.
const IMAGE_LAG_MAX: Duration = Duration::from_millis(500);

pub struct Session {
    pub client: ClusterClient,
    pub identity: Arc<Identity>,
    pub metadata: Arc<MetadataCache>,
    pub telemetry: Arc<Telemetry>,
    /// How this broker registers again.
    pub application: Application,
    pub interval: Duration,
    /// Tells the watcher to go elsewhere.
    pub leave_watch: Arc<Notify>,
    /// Hears of every further registration, to remember it; returns at once.
    pub remember: Box<dyn Fn(BrokerEpoch) + Send + Sync>,
}

/// What ended one stream.
enum StreamEnd {
    Broken(String),
    Fenced,
}

/// When the image was first seen behind, and behind what.
#[derive(Clone, Copy, Debug)]
struct Lag {
    committed: Revision,
    since: Instant,
}

impl Session {
    /// Keeps the session until this broker can no longer be part of the cluster.
    pub async fn run(mut self) -> RunError {
        let complaints = RateLimit::new(Duration::from_secs(5));
        loop {
            let mut stream = match self.client.heartbeat(self.beat(), OPEN_TIMEOUT).await {
                Ok(stream) => stream,
                Err(error) => {
                    complaints.run(|more| tracing::warn!(%error, more, "no session with the quorum; trying again"));
                    tokio::time::sleep(REOPEN_PAUSE).await;
                    continue;
                }
            };
            tracing::debug!(coordinator = stream.coordinator(), "session opened");
            match self.keep(&mut stream).await {
                StreamEnd::Broken(reason) => {
                    tracing::debug!(reason, "the session's stream ended; opening another");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                StreamEnd::Fenced => {
                    drop(stream);
                    if let Err(error) = self.register_again().await {
                        return error;
                    }
                }
            }
        }
    }

    fn beat(&self) -> Beat {
        Beat {
            broker: self.identity.id(),
            epoch: self.identity.epoch(),
            incarnation: self.identity.incarnation(),
            image_revision: self.metadata.effective_revision(),
        }
    }

    async fn keep(&self, stream: &mut HeartbeatStream) -> StreamEnd {
        let mut beats = tokio::time::interval(self.interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.reset();
        let mut revisions = self.metadata.subscribe();
        let mut last_beat = Instant::now();
        let mut moved = false;
        let mut lag: Option<Lag> = None;
        loop {
            let lag_ends = lag.map(|lag| lag.since + IMAGE_LAG_MAX);
            tokio::select! {
                response = stream.next() => match response {
                    Ok(response) if response.fenced => return StreamEnd::Fenced,
                    Ok(response) => self.look_at_lag(&mut lag, response.committed_revision),
                    Err(error) => return StreamEnd::Broken(error.to_string()),
                },
                _ = beats.tick() => {
                    stream.beat(&self.beat());
                    (last_beat, moved) = (Instant::now(), false);
                }
                changed = revisions.changed(), if !moved => {
                    if changed.is_err() {
                        return StreamEnd::Broken("the image is gone".to_owned());
                    }
                    moved = true;
                }
                () = tokio::time::sleep_until(last_beat + BEAT_DISTANCE_MIN), if moved => {
                    stream.beat(&self.beat());
                    (last_beat, moved) = (Instant::now(), false);
                    beats.reset();
                }
                () = sleep_until(lag_ends), if lag_ends.is_some() => {
                    if lag.is_some_and(|lag| self.metadata.revision() < lag.committed) {
                        self.leave_watch.notify_one();
                    }
                    lag = None;
                }
            }
        }
    }

    fn look_at_lag(&self, lag: &mut Option<Lag>, committed: Revision) {
        let revision = self.metadata.revision();
        if lag.is_some_and(|lag| revision >= lag.committed) {
            *lag = None;
        }
        if lag.is_none() && revision < committed {
            *lag = Some(Lag { committed, since: Instant::now() });
        }
    }

    /// The quorum took this broker for dead. Nothing that it held is lost, and it says so: the epoch up to which its log is whole is
    /// the one it had.
    async fn register_again(&mut self) -> Result<(), RunError> {
        tracing::warn!(epoch = %self.identity.epoch(), "this broker was fenced; registering again");
        self.application.id = self.identity.id();
        self.application.clean_shutdown_epoch = self.identity.epoch();
        let registered = registration::register(&self.client, &self.identity, &self.application).await?;
        (self.remember)(registered.epoch);
        self.identity.registered(registered.broker, registered.epoch);
        self.telemetry.broker_epoch.set(registered.epoch.0);
        tracing::info!(epoch = %registered.epoch, "registered again");
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
