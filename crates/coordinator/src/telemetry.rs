//! Monitoring of a coordinator: log lines and metrics. [`crate::pages`] shows them.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_config::{LoggingConfig, LoggingFormat};
use ottla_consensus::{Role, RoleChange};
use ottla_metrics::{Counter, Description, Gauge, Histogram, Registry};
use ottla_model::{Chroot, MonotonicMs, Revision};
use ottla_resources::ResourceTable;
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::cluster_metrics::ClusterMetrics;

/// A driver that has not read the clock for this time is unhealthy: it ticks 20 times a second.
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

/// The metrics of a coordinator. The Raft driver writes them.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    clock: Clock,
    last_tick_ms: AtomicU64,
    term: Gauge,
    leader: Gauge,
    is_leader: Gauge,
    elections_won: Counter,
    unclean_elections: Counter,
    committed: Gauge,
    applied: Gauge,
    proposals: Counter,
    synced_writes: Histogram,
    elections: Counter,
    pub connections: Gauge,
    pub cluster: ClusterMetrics,
    /// The resources of this quorum; at the root, those of the process too.
    pub resources: ResourceTable,
}

impl Metrics {
    /// Of the quorum at the root, or of that of a chroot, whose metrics have the label `chroot`.
    pub fn new(clock: Clock, chroot: Option<&Chroot>) -> Arc<Self> {
        let label = chroot.map(|chroot| ("chroot", chroot.to_string()));
        let registry = Registry::with_label("ottla_quorum", label);
        Arc::new(Self {
            clock,
            last_tick_ms: AtomicU64::new(0),
            term: registry.gauge("term", "Raft term that this coordinator knows"),
            leader: registry.gauge("leader_id", "Id of the quorum leader; 0 while none is known"),
            is_leader: registry.gauge("is_leader", "1 while this coordinator is the quorum leader, else 0"),
            elections_won: registry.counter("elections_won_total", "Elections that this coordinator won"),
            unclean_elections: registry.counter(
                "unclean_leader_elections_total",
                "Partitions that got a leader that may lack acknowledged records, while this coordinator led, or had not recovered when it began",
            ),
            committed: registry.gauge("committed_revision", "Last revision that this coordinator knows as committed"),
            applied: registry.gauge("applied_revision", "Last revision applied to this coordinator's tree"),
            proposals: registry.counter("proposals_total", "Transactions proposed by this coordinator"),
            synced_writes: registry
                .durations("synced_write_seconds", "Time that a synced write of Raft's log and state took, in seconds"),
            cluster: ClusterMetrics::new(&registry),
            resources: ResourceTable::new(&registry),
            elections: registry.counter("elections_total", "Elections in which this coordinator was a candidate"),
            connections: registry.gauge("connections_open", "Connections open now, of all protocols"),
            registry,
        })
    }

    pub fn tick(&self, now: MonotonicMs) {
        self.last_tick_ms.store(now.0, Ordering::Relaxed);
    }

    pub fn role(&self, role: RoleChange) {
        let shown = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.term.set(shown(role.term));
        self.leader.set(role.leader.map_or(0, |id| shown(id.0)));
        let leads = role.role == Role::Leader;
        // Only the driver's thread writes.
        if role.role == Role::Candidate {
            self.elections.add(1);
        }
        if leads && self.is_leader.get() == 0 {
            self.elections_won.add(1);
        }
        self.is_leader.set(i64::from(leads));
    }

    pub fn progress(&self, applied: Revision, committed: Revision) {
        self.applied.set(i64::try_from(applied.0).unwrap_or(i64::MAX));
        self.committed.set(i64::try_from(committed.0).unwrap_or(i64::MAX));
    }

    pub fn proposed(&self, entries: u64) {
        self.proposals.add(entries);
    }

    pub fn unclean_elections(&self, elections: u64) {
        self.unclean_elections.add(elections);
    }

    pub fn synced(&self, took: Duration) {
        self.synced_writes.observe(took);
    }

    /// The driver runs, or does not exist yet: a coordinator that waits for the others at the first start is healthy.
    pub fn is_healthy(&self) -> bool {
        let last = MonotonicMs(self.last_tick_ms.load(Ordering::Relaxed));
        last.0 == 0 || self.clock.monotonic().since(last) < STALLED_AFTER
    }

    /// What is missing until this coordinator serves: a leader is known, and its committed entries are applied here.
    pub fn missing(&self) -> Option<String> {
        let (applied, committed) = (self.applied.get(), self.committed.get());
        if !self.is_healthy() {
            return Some("the driver stalls".to_owned());
        }
        if self.leader.get() == 0 {
            return Some("no quorum leader is known".to_owned());
        }
        (applied == 0 || applied < committed).then(|| format!("revision {applied} of {committed} is applied"))
    }

    /// Every metric of a coordinator, for `docs/metrics.md`.
    pub fn descriptions() -> Vec<Description> {
        Self::new(Clock::default(), None).registry.descriptions()
    }
}

/// Raft's log lines, at matching levels: its info lines become debug lines.
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
        let metrics = Metrics::new(Clock::default(), None);
        metrics.tick(MonotonicMs(0));
        assert!(metrics.is_healthy());
        assert_eq!(metrics.missing().as_deref(), Some("no quorum leader is known"));
        metrics.role(RoleChange { role: Role::Leader, leader: Some(CoordinatorId(2)), term: 3 });
        metrics.progress(Revision(4), Revision(5));
        assert_eq!(metrics.missing().as_deref(), Some("revision 4 of 5 is applied"));
        metrics.progress(Revision(5), Revision(5));
        assert_eq!(metrics.missing(), None);
        let text = metrics.registry.render();
        assert!(text.contains("\nottla_quorum_is_leader 1\n") && text.contains("\nottla_quorum_term 3\n"), "{text}");
    }
}
