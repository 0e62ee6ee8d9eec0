//! The progress of the quorum's replicas.

use bytes::Bytes;
use ottla_metadata::quorum_progress::{Observer, Progress, QuorumProgress, Voter};
use ottla_model::{BrokerId, CoordinatorId, IncarnationId, Revision, TimestampMs};

use crate::cluster::{DescribeQuorumResponse, LogProgress, QuorumObserver, QuorumVoter};

pub fn progress_to_proto(progress: QuorumProgress) -> DescribeQuorumResponse {
    let voter = |voter: Voter| QuorumVoter {
        coordinator_id: voter.id.0,
        address: voter.address,
        disk_id: voter.disk.map(|disk| Bytes::copy_from_slice(disk.as_bytes())).unwrap_or_default(),
        progress: Some(log_progress_to_proto(voter.progress)),
        learner: !voter.is_voter,
    };
    let observer = |observer: Observer| QuorumObserver {
        broker_id: observer.id.0,
        progress: Some(log_progress_to_proto(observer.progress)),
    };
    DescribeQuorumResponse {
        leader_id: progress.leader.0,
        term: progress.term,
        committed_revision: progress.committed.0,
        voters: progress.voters.into_iter().map(voter).collect(),
        observers: progress.observers.into_iter().map(observer).collect(),
    }
}

pub fn progress_from_proto(message: DescribeQuorumResponse) -> QuorumProgress {
    let voter = |voter: QuorumVoter| Voter {
        id: CoordinatorId(voter.coordinator_id),
        address: voter.address,
        disk: IncarnationId::from_slice(&voter.disk_id),
        is_voter: !voter.learner,
        progress: log_progress_from_proto(voter.progress),
    };
    let observer = |observer: QuorumObserver| Observer {
        id: BrokerId(observer.broker_id),
        progress: log_progress_from_proto(observer.progress),
    };
    QuorumProgress {
        leader: CoordinatorId(message.leader_id),
        term: message.term,
        committed: Revision(message.committed_revision),
        voters: message.voters.into_iter().map(voter).collect(),
        observers: message.observers.into_iter().map(observer).collect(),
    }
}

fn log_progress_to_proto(progress: Progress) -> LogProgress {
    LogProgress {
        end_revision: progress.end.0,
        heard_at_ms: progress.heard_at.0,
        caught_up_at_ms: progress.caught_up_at.0,
    }
}

fn log_progress_from_proto(message: Option<LogProgress>) -> Progress {
    let never = TimestampMs::NONE.0;
    let unknown = LogProgress { end_revision: 0, heard_at_ms: never, caught_up_at_ms: never };
    let message = message.unwrap_or(unknown);
    Progress {
        end: Revision(message.end_revision),
        heard_at: TimestampMs(message.heard_at_ms),
        caught_up_at: TimestampMs(message.caught_up_at_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_travels() {
        let progress = |end| Progress { end: Revision(end), heard_at: TimestampMs(9), caught_up_at: TimestampMs::NONE };
        let voter = |id, disk: Option<_>| {
            let (address, is_voter) = ("k:1".to_owned(), disk.is_some());
            Voter { id: CoordinatorId(id), address, disk, is_voter, progress: progress(7) }
        };
        let sent = QuorumProgress {
            leader: CoordinatorId(1),
            term: 3,
            committed: Revision(7),
            voters: vec![voter(1, Some(IncarnationId([4; 16]))), voter(2, None)],
            observers: vec![Observer { id: BrokerId(5), progress: progress(6) }],
        };
        assert_eq!(progress_from_proto(progress_to_proto(sent.clone())), sent);
        assert_eq!(log_progress_from_proto(None).heard_at, TimestampMs::NONE);
    }
}
