//! What a coordinator's page of metrics says of its cluster, made from the tree for each page.

use ottla_metadata::Image;
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_metrics::{Gauge, GaugesBy, Registry};

#[derive(Debug)]
pub struct ClusterMetrics {
    topics: Gauge,
    partitions: Gauge,
    offline_partitions: Gauge,
    brokers: Gauge,
    fenced_brokers: Gauge,
    voter_lag: GaugesBy,
}

impl ClusterMetrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            topics: registry.gauge("topics", "Topics of the cluster"),
            partitions: registry.gauge("partitions", "Partitions of the cluster"),
            offline_partitions: registry.gauge("offline_partitions", "Partitions without a leader"),
            brokers: registry.gauge("brokers", "Brokers that are registered and live"),
            fenced_brokers: registry.gauge("fenced_brokers", "Brokers that the cluster remembers and that do not live"),
            voter_lag: registry.gauges_by(
                "voter_lag",
                "Revisions of the leader that a coordinator does not have; only the quorum leader knows",
                "coordinator",
            ),
        }
    }

    /// The figures of `image`: the same work however many partitions it has.
    pub fn show(&self, image: &Image) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.topics.set(count(image.topic_count()));
        self.partitions.set(count(image.partition_count()));
        self.offline_partitions.set(count(image.leaderless_count()));
        self.brokers.set(count(image.broker_count()));
        self.fenced_brokers.set(count(image.fenced_brokers().count()));
    }

    /// How far the other coordinators are; none if this one does not lead.
    pub fn show_progress(&self, progress: Option<&QuorumProgress>) {
        let lags = progress.map(|progress| {
            let end = progress.voters.iter().map(|voter| voter.progress.end.0).max().unwrap_or_default();
            let lag = |end_of_voter: u64| i64::try_from(end.saturating_sub(end_of_voter)).unwrap_or(i64::MAX);
            progress.voters.iter().map(|voter| (voter.id.to_string(), lag(voter.progress.end.0))).collect()
        });
        self.voter_lag.set_all(&lags.unwrap_or_default());
    }
}
