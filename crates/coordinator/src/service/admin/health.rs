//! The cluster in one answer: brokers, partitions, coordinators, and what is wrong.

use ottla_metadata::image::Image;
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_model::{BrokerId, Revision};
use ottla_rpc::admin::{ClusterHealthResponse, Health, QuorumVoter};
use ottla_rpc::cluster::DescribeQuorumRequest;
use ottla_rpc::cluster::cluster_client::ClusterClient;
use ottla_rpc::convert;
use tonic::{Request, Status};

use super::partition_counts::PartitionCounts;
use super::{AdminService, READ_TIMEOUT, count};
use crate::service::requests::stopping;

/// Revisions that a coordinator may lack without being behind: those of some heartbeats.
const LAG_MAX: u64 = 1_000;
/// How long a coordinator may be silent: it answers each of the leader's heartbeats. Its lag does not tell: in a quorum
/// without changes, a dead coordinator lacks nothing.
const SILENT_MAX_MS: i64 = 2_000;
/// Brokers that one line names.
const NAMED_MAX: usize = 10;

impl AdminService {
    /// The partitions are gone through once for each revision, however many callers there are.
    fn counts(&self, revision: Revision, image: &Image) -> PartitionCounts {
        let mut counted = self.counted.lock();
        match *counted {
            Some((of, counts)) if of == revision => counts,
            _ => {
                let counts = PartitionCounts::of(image);
                *counted = Some((revision, counts));
                counts
            }
        }
    }

    async fn progress(&self) -> Result<QuorumProgress, Status> {
        let formed = self.shared.require_formed()?;
        if let Some(progress) = formed.driver.progress().await.map_err(|_| stopping())? {
            return Ok(progress);
        }
        let not_leader = self.shared.not_leader();
        let Some(leader) = &not_leader.leader else { return Err(not_leader.into_status()) };
        let channel = self.shared.channel(&leader.address).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = ClusterClient::new(self.shared.cluster_channel(channel));
        let mut request = Request::new(DescribeQuorumRequest {});
        request.set_timeout(READ_TIMEOUT);
        Ok(convert::progress_from_proto(client.describe_quorum(request).await?.into_inner()))
    }

    pub(super) async fn health(&self) -> Result<ClusterHealthResponse, Status> {
        let progress = tokio::time::timeout(READ_TIMEOUT, self.progress()).await.ok().and_then(Result::ok);
        let view = self.view()?;
        let counts = self.counts(view.revision, &view.image);
        Ok(judged(&view.image, view.revision, counts, progress.as_ref()))
    }
}

fn plural(number: u32, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn judged(
    image: &Image,
    revision: Revision,
    counts: PartitionCounts,
    progress: Option<&QuorumProgress>,
) -> ClusterHealthResponse {
    let fenced: Vec<i32> = image.fenced_brokers().map(|broker| broker.id.0).collect();
    let live = count(image.brokers().filter(|broker| broker.ready).count());
    let end = progress.map_or(0, |progress| progress.committed.0);
    let quorum: Vec<QuorumVoter> = progress
        .map(|progress| {
            let voter = |voter: &ottla_metadata::quorum_progress::Voter| QuorumVoter {
                coordinator_id: voter.id.0,
                address: voter.address.clone(),
                lag: end.saturating_sub(voter.progress.end.0),
                heard_at_ms: voter.progress.heard_at.0,
            };
            // A learner is no voter yet, and is there to catch up.
            progress.voters.iter().filter(|member| member.is_voter).map(voter).collect()
        })
        .unwrap_or_default();
    let (mut critical, mut degraded) = (Vec::new(), Vec::new());
    if progress.is_none() {
        critical.push("no quorum leader answers: no change can be made".to_owned());
    }
    if live == 0 {
        critical.push("no broker lives".to_owned());
    }
    let partitions = |number, what: &str| format!("{} {what}", plural(number, "partition", "partitions"));
    if counts.leaderless > 0 {
        critical.push(partitions(counts.leaderless, "without a leader"));
    }
    if counts.under_min_isr > 0 {
        critical.push(partitions(counts.under_min_isr, "with an ISR below min.insync.replicas"));
    }
    if counts.under_replicated > 0 {
        degraded.push(partitions(counts.under_replicated, "with a replica outside the ISR"));
    }
    if !fenced.is_empty() {
        let named: Vec<_> = fenced.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let more = if fenced.len() > NAMED_MAX { ", …" } else { "" };
        let text = plural(count(fenced.len()), "broker is down", "brokers are down");
        degraded.push(format!("{text}: {}{more}", named.join(", ")));
    }
    // By the leader's clock alone, which is that of the times: the leader has heard of itself now.
    let now = quorum.iter().find(|voter| progress.is_some_and(|progress| progress.leader.0 == voter.coordinator_id));
    let now = now.map(|leader| leader.heard_at_ms);
    for voter in quorum.iter().filter(|voter| now.is_some_and(|now| now - voter.heard_at_ms > SILENT_MAX_MS)) {
        degraded.push(format!("coordinator {} does not answer", voter.coordinator_id));
    }
    for voter in quorum.iter().filter(|voter| voter.lag > LAG_MAX) {
        degraded.push(format!("coordinator {} lacks {} revisions", voter.coordinator_id, voter.lag));
    }
    let health = match (critical.is_empty(), degraded.is_empty()) {
        (false, _) => Health::Critical,
        (true, false) => Health::Degraded,
        (true, true) => Health::Ok,
    };
    ClusterHealthResponse {
        health: health.into(),
        problems: critical.into_iter().chain(degraded).collect(),
        cluster_id: image.cluster_id().map(ToString::to_string).unwrap_or_default(),
        controller_id: image.controller().unwrap_or(BrokerId::NONE).0,
        live_brokers: live,
        fenced_brokers: fenced,
        topics: count(image.topic_count()),
        partitions: counts.all,
        leaderless_partitions: counts.leaderless,
        under_replicated_partitions: counts.under_replicated,
        under_min_isr_partitions: counts.under_min_isr,
        reassigning_partitions: counts.reassigning,
        quorum_leader_id: progress.map_or(0, |progress| progress.leader.0),
        quorum,
        revision: revision.0,
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::quorum_progress::Progress;
    use ottla_model::{CoordinatorId, TimestampMs};

    use super::*;

    #[test]
    fn problems_decide_the_health() {
        let image = Image::empty();
        let progress = QuorumProgress {
            leader: CoordinatorId(2),
            term: 3,
            committed: Revision(9),
            voters: Vec::new(),
            observers: Vec::new(),
        };
        let counts = PartitionCounts { all: 3, under_replicated: 1, ..PartitionCounts::default() };
        let judged = judged(&image, Revision(9), counts, Some(&progress));
        assert_eq!(judged.health(), Health::Critical);
        assert_eq!(judged.problems, ["no broker lives", "1 partition with a replica outside the ISR"]);
        assert_eq!((judged.quorum_leader_id, judged.partitions), (2, 3));
        let member = |id, is_voter| ottla_metadata::quorum_progress::Voter {
            id: CoordinatorId(id),
            address: format!("c{id}:2181"),
            disk: None,
            is_voter,
            progress: Progress { end: Revision(0), heard_at: TimestampMs(1), caught_up_at: TimestampMs(1) },
        };
        let voters = vec![member(1, true), member(4, false)];
        let behind = super::judged(
            &image,
            Revision(9),
            PartitionCounts::default(),
            Some(&QuorumProgress { committed: Revision(5_000), voters, ..progress.clone() }),
        );
        assert_eq!(behind.problems, ["no broker lives", "coordinator 1 lacks 5000 revisions"]);
        assert_eq!(behind.quorum.iter().map(|voter| voter.coordinator_id).collect::<Vec<_>>(), [1]);
        let heard = |id, ms| {
            let mut voter = member(id, true);
            voter.progress.heard_at = TimestampMs(ms);
            voter
        };
        let voters = vec![heard(1, 7_000), heard(2, 10_000), heard(3, 8_000), heard(4, -1)];
        let counts_of_none = PartitionCounts::default();
        let progress = QuorumProgress { committed: Revision(0), voters, ..progress };
        let silent = super::judged(&image, Revision(9), counts_of_none, Some(&progress));
        let expected = ["no broker lives", "coordinator 1 does not answer", "coordinator 4 does not answer"];
        assert_eq!(silent.problems, expected);
        let lost = super::judged(&image, Revision(9), counts, None);
        assert!(lost.problems[0].contains("no quorum leader"), "{:?}", lost.problems);
    }
}
