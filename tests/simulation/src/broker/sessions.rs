//! The leader's end of the followers' fetch sessions: which partitions and positions a fetch that names only what
//! changed is about.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, Offset, TopicIdPartition};
use ottla_replication::FetchPosition;

use crate::message::{Fetch, FetchedPartition};
use crate::network::NodeId;

struct FetchSession {
    id: i32,
    /// A broker that registered again is another fetcher: what it has counts only once it names it under its new epoch.
    replica: Option<(BrokerId, BrokerEpoch)>,
    next_epoch: i32,
    positions: BTreeMap<TopicIdPartition, FetchPosition>,
    /// High watermark and log start of the last answer; none after an error, so that its end is reported.
    last_reported: BTreeMap<TopicIdPartition, (Offset, Offset)>,
}

/// The sessions of one broker, one of each follower.
#[derive(Default)]
pub(super) struct FetchSessions {
    sessions: BTreeMap<NodeId, FetchSession>,
    next_id: i32,
}

/// What a fetch is about, its session considered.
pub(super) struct Resolved {
    pub session_id: i32,
    pub partitions: Vec<(TopicIdPartition, FetchPosition)>,
    /// Those that the request itself names: a follower's progress.
    pub named: BTreeSet<TopicIdPartition>,
}

impl FetchSessions {
    pub fn resolve(&mut self, from: NodeId, fetch: &Fetch) -> Result<Resolved, ErrorCode> {
        let named = fetch.partitions.iter().map(|(id, _)| *id).collect();
        if fetch.session.epoch < 0 {
            return Ok(Resolved { session_id: 0, partitions: fetch.partitions.clone(), named });
        }
        if fetch.session.epoch == 0 {
            self.next_id += 1;
            let positions = fetch.partitions.iter().copied().collect();
            let session = FetchSession {
                id: self.next_id,
                replica: fetch.replica,
                next_epoch: 1,
                positions,
                last_reported: BTreeMap::new(),
            };
            self.sessions.insert(from, session);
            return Ok(Resolved { session_id: self.next_id, partitions: fetch.partitions.clone(), named });
        }
        let session = self
            .sessions
            .get_mut(&from)
            .filter(|session| session.id == fetch.session.id && session.replica == fetch.replica);
        let session = session.ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != fetch.session.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.next_epoch += 1;
        session.positions.extend(fetch.partitions.iter().copied());
        // A follower that names a partition may have ignored what it was told of a former position.
        for (id, _) in &fetch.partitions {
            session.last_reported.remove(id);
        }
        for id in &fetch.forgotten {
            session.positions.remove(id);
            session.last_reported.remove(id);
        }
        let partitions = session.positions.iter().map(|(id, position)| (*id, *position)).collect();
        Ok(Resolved { session_id: session.id, partitions, named })
    }

    /// Leaves out of an answer what has not changed, and remembers what it reports.
    pub fn report(&mut self, from: NodeId, session_id: i32, answers: &mut Vec<(TopicIdPartition, FetchedPartition)>) {
        let Some(session) = self.sessions.get_mut(&from).filter(|session| session.id == session_id) else { return };
        answers.retain(|(id, answer)| {
            let reported = (answer.high_watermark, answer.log_start);
            let is_urgent = !answer.error.is_ok() || answer.diverging.is_some() || !answer.records.is_empty();
            let before = if answer.error.is_ok() {
                session.last_reported.insert(*id, reported)
            } else {
                session.last_reported.remove(id)
            };
            is_urgent || before != Some(reported)
        });
    }
}
