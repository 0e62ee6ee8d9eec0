//! Limits and pauses.

use std::time::Duration;

/// Between a refusal that may pass and the next attempt to register: the holder of the id may be fenced any moment.
pub const REGISTER_RETRY: Duration = Duration::from_millis(200);

/// The longest pause between two attempts: each refusal that follows another doubles it. A broker whose certificate or
/// secret is wrong must not flood the coordinators, and must come in soon after it was given the right one.
pub const REGISTER_RETRY_MAX: Duration = Duration::from_secs(2);

/// A living broker may hold the id for the session timeout; beyond it, and this margin, it is not going to be fenced.
pub const DUPLICATE_MARGIN: Duration = Duration::from_secs(1);

/// Between the end of a stream of heartbeats and the next attempt to open one.
pub const REOPEN_PAUSE: Duration = Duration::from_millis(20);

/// Between a refused stream of heartbeats and the next attempt: the broker has not the right to open one. Well below
/// the time after which it would be fenced.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Beats that follow a moving image keep this distance: a controlled shutdown waits for them, a busy tree must not
/// multiply them.
pub const BEAT_DISTANCE_MIN: Duration = Duration::from_millis(20);

/// An image that has not reached what the leader had committed this long ago is fed by a coordinator that lags.
pub const IMAGE_LAG_MAX: Duration = Duration::from_millis(500);

/// For moving leaders away. A thousand leaderships take a fraction of it; what has not moved by then has nowhere to go.
pub const CONTROLLED_SHUTDOWN_MAX: Duration = Duration::from_secs(3);

/// Between two questions whether the leaderships have moved. The others' images follow within a beat.
pub const SHUTDOWN_ASK_INTERVAL: Duration = Duration::from_millis(25);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionConfig {
    /// `broker.heartbeat.interval.ms`
    pub heartbeat_interval: Duration,
    /// `broker.session.timeout.ms`: how long a holder of this broker's id may live on without heartbeats.
    pub session_timeout: Duration,
    /// `controlled.shutdown.enable`
    pub controlled_shutdown: bool,
    pub rules: BrokenRules,
}

impl SessionConfig {
    /// A stream on which a beat stays without an answer for this long is given up: early enough to open another, with
    /// the next leader of the quorum, before the session times out.
    pub fn silence_max(&self) -> Duration {
        self.session_timeout / 2
    }
}

/// Switches for the simulation, which proves that it would notice a rule's absence. Everything else uses the default,
/// in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: clients are served as soon as the broker is registered.
    pub serves_before_ready: bool,
    /// Broken: a broker that was fenced goes on as if it were not.
    pub ignores_fencing: bool,
    /// Broken: after another registration, heartbeats carry the epoch that was fenced.
    pub keeps_fenced_epoch: bool,
    /// Broken: an image that stays behind is watched on where it is.
    pub stays_with_lagging_watch: bool,
}
