//! What a coordinator tells about itself: log lines, and /healthz, /readyz, /metrics on a port of their own.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use ottla_config::{LoggingConfig, LoggingFormat};
use ottla_consensus::{Role, RoleChange};
use ottla_model::{MonotonicMs, Revision};
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;

/// A driver that has not looked at the clock for this long is not healthy: it ticks 20 times a second.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// Sets up logging for the process. A second call changes nothing.
pub fn start_logging(config: &LoggingConfig) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(&config.level).map_err(|error| format!("logging.level={}: {error}", config.level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Another part of the process may have set up logging before.
    let _ = match config.format {
        LoggingFormat::Json => lines.json().flatten_event(true).try_init(),
        LoggingFormat::Auto | LoggingFormat::Human => {
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
    };
    Ok(())
}

/// Numbers that the driver writes and everybody may read.
#[derive(Debug, Default)]
pub struct Metrics {
    clock: Clock,
    last_tick_ms: AtomicU64,
    term: AtomicU64,
    /// 0: none known.
    leader: AtomicU64,
    is_leader: AtomicU64,
    elections_won: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    proposals: AtomicU64,
    syncs: AtomicU64,
    sync_micros: AtomicU64,
}

impl Metrics {
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, ..Self::default() })
    }

    pub fn tick(&self, now: MonotonicMs) {
        self.last_tick_ms.store(now.0, Ordering::Relaxed);
    }

    pub fn role(&self, role: RoleChange) {
        self.term.store(role.term, Ordering::Relaxed);
        self.leader.store(role.leader.map_or(0, |id| id.0), Ordering::Relaxed);
        let leads = u64::from(role.role == Role::Leader);
        let led = self.is_leader.swap(leads, Ordering::Relaxed);
        self.elections_won.fetch_add(leads.saturating_sub(led), Ordering::Relaxed);
    }

    pub fn applied(&self, applied: Revision, committed: Revision) {
        self.applied.store(applied.0, Ordering::Relaxed);
        self.committed.store(committed.0, Ordering::Relaxed);
    }

    pub fn proposed(&self, entries: usize) {
        self.proposals.fetch_add(entries as u64, Ordering::Relaxed);
    }

    pub fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The driver is at work, or there is none yet: waiting for the others of a first start is no illness.
    pub fn is_healthy(&self) -> bool {
        let last = MonotonicMs(self.last_tick_ms.load(Ordering::Relaxed));
        last.0 == 0 || self.clock.monotonic().since(last) < STALLED_AFTER
    }

    /// A leader is known, and what it committed is applied here.
    pub fn is_ready(&self) -> bool {
        self.is_healthy()
            && self.leader.load(Ordering::Relaxed) != 0
            && self.applied.load(Ordering::Relaxed) > 0
            && self.applied.load(Ordering::Relaxed) >= self.committed.load(Ordering::Relaxed)
    }

    /// Prometheus' text form.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        line("ottla_quorum_term", "gauge", "The term that this coordinator knows.", &read(&self.term));
        line("ottla_quorum_leader_id", "gauge", "The quorum leader; 0: none known.", &read(&self.leader));
        line("ottla_quorum_is_leader", "gauge", "1 where this coordinator leads.", &read(&self.is_leader));
        line("ottla_quorum_elections_won_total", "counter", "Elections won here.", &read(&self.elections_won));
        line("ottla_quorum_committed_revision", "gauge", "Committed, as known here.", &read(&self.committed));
        line("ottla_quorum_applied_revision", "gauge", "Applied to the tree here.", &read(&self.applied));
        line("ottla_quorum_proposals_total", "counter", "Transactions proposed here.", &read(&self.proposals));
        line("ottla_quorum_synced_writes_total", "counter", "Batches synced to the disk.", &read(&self.syncs));
        #[allow(clippy::cast_precision_loss)]
        let seconds = read(&self.sync_micros) as f64 / 1e6;
        line("ottla_quorum_synced_write_seconds_total", "counter", "Time spent in them.", &seconds);
        text
    }
}

/// The health and metrics server's routes.
pub fn routes(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(
                |State(metrics): State<Arc<Metrics>>| async move { verdict(metrics.is_healthy(), "the driver stalls") },
            ),
        )
        .route(
            "/readyz",
            get(|State(metrics): State<Arc<Metrics>>| async move {
                verdict(metrics.is_ready(), "no quorum leader, or behind it")
            }),
        )
        .route("/metrics", get(|State(metrics): State<Arc<Metrics>>| async move { metrics.render() }))
        .with_state(metrics)
}

fn verdict(good: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

/// Raft's own log lines, at the levels that fit ours: what it calls info is for those who debug it.
pub struct RaftLog;

impl slog::Drain for RaftLog {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _values: &slog::OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::error!(target: "raft", "{}", record.msg()),
            slog::Level::Warning => tracing::warn!(target: "raft", "{}", record.msg()),
            slog::Level::Info => tracing::debug!(target: "raft", "{}", record.msg()),
            slog::Level::Debug | slog::Level::Trace => tracing::trace!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::CoordinatorId;

    #[test]
    fn ready_means_a_leader_and_no_lag() {
        let metrics = Metrics::new(Clock::default());
        metrics.tick(MonotonicMs(0));
        assert!(metrics.is_healthy() && !metrics.is_ready());
        metrics.role(RoleChange { role: Role::Leader, leader: Some(CoordinatorId(2)), term: 3 });
        metrics.applied(Revision(4), Revision(5));
        assert!(!metrics.is_ready());
        metrics.applied(Revision(5), Revision(5));
        assert!(metrics.is_ready());
        let text = metrics.render();
        assert!(text.contains("\nottla_quorum_is_leader 1\n") && text.contains("\nottla_quorum_term 3\n"), "{text}");
    }
}
