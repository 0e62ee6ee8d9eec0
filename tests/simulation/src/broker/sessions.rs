//! The fetch sessions of a broker: [`ottla_replication::fetch_session`] decides. Here is what the broker has around it:
//! where sessions are found, and which of their partitions have news.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ottla_model::{ErrorCode, MonotonicMs, TopicIdPartition};
use ottla_replication::fetch_session::{
    BrokenRules, FetchPartition, Fetcher, SessionId, SessionPartitions, SessionRequest, SessionTable,
};

use crate::message::Fetch;

/// `max.incremental.fetch.session.cache.slots`: so few that followers' sessions take the place of consumers'.
const SLOTS: usize = 6;

pub(super) struct FetchSession {
    pub partitions: SessionPartitions<TopicIdPartition, ()>,
    /// Of a fetch without a session.
    named: BTreeSet<TopicIdPartition>,
    /// Changes up to this one were looked at.
    seen: u64,
}

/// A fetch whose session, if any, has taken the request in.
#[derive(Clone)]
pub(super) struct OpenFetch {
    pub session: Rc<RefCell<FetchSession>>,
    pub fetcher: Fetcher,
    /// What the answer says: none also where the session ends with this request.
    pub answered_id: SessionId,
    pub turn: u64,
    /// The answer reports every partition, not only those with news.
    pub full: bool,
}

pub(super) struct FetchSessions {
    table: SessionTable<Rc<RefCell<FetchSession>>>,
    next_id: i32,
    /// The last change of each partition.
    changes: BTreeMap<TopicIdPartition, u64>,
    last_change: u64,
    rules: BrokenRules,
}

impl FetchSessions {
    pub fn new(rules: BrokenRules) -> Self {
        Self {
            table: SessionTable::new(SLOTS, usize::MAX),
            next_id: 0,
            changes: BTreeMap::new(),
            last_change: 0,
            rules,
        }
    }

    /// A partition has news for its fetchers.
    pub fn changed(&mut self, id: TopicIdPartition) {
        self.last_change += 1;
        self.changes.insert(id, self.last_change);
    }

    /// Whether a fetch is to be looked at again: its partitions have news that it has not seen, or it is over.
    pub fn is_awake(&self, fetch: &OpenFetch) -> bool {
        let session = fetch.session.borrow();
        if session.partitions.is_over(fetch.turn) {
            return true;
        }
        let is_theirs = |id: &TopicIdPartition| session.named.contains(id) || session.partitions.slot_of(id).is_some();
        self.changes.iter().any(|(id, change)| *change > session.seen && is_theirs(id))
    }

    /// The slots with news; they count as looked at from now on.
    pub fn take_news(&self, session: &mut FetchSession) -> Vec<u32> {
        let seen = std::mem::replace(&mut session.seen, self.last_change);
        let fresh = self.changes.iter().filter(|(_, change)| **change > seen);
        fresh.filter_map(|(id, _)| session.partitions.slot_of(id)).collect()
    }

    pub fn open(&mut self, now: MonotonicMs, fetch: &Fetch) -> Result<OpenFetch, ErrorCode> {
        let fetcher = match fetch.replica {
            Some((id, epoch)) => Fetcher::Replica { id, epoch },
            None => Fetcher::Consumer,
        };
        let request = SessionRequest {
            id: SessionId(fetch.session.id),
            epoch: fetch.session.epoch,
            uses_topic_ids: true,
            partitions: fetch.partitions.len(),
        };
        let (next_id, seen, rules) = (&mut self.next_id, self.last_change, self.rules);
        let fresh_id = || {
            *next_id += 1;
            *next_id
        };
        let make = |id| new_session(id, fetcher, seen, rules);
        let (found, ended) = self.table.find(now, fetcher, &request, fresh_id, make)?;
        for session in ended {
            session.borrow_mut().partitions.end();
        }
        let mut session = found.session.borrow_mut();
        let wanted = fetch.partitions.iter().map(|(id, position)| {
            let wanted = FetchPartition {
                offset: position.offset,
                log_start: position.log_start,
                max_bytes: fetch.bytes.partition_max,
                current_leader_epoch: position.leader_epoch,
                last_fetched_epoch: position.last_fetched_epoch,
                high_watermark: position.high_watermark,
            };
            (*id, wanted)
        });
        session.partitions.take_in(&request, wanted, fetch.forgotten.iter().copied())?;
        if found.id == SessionId::NONE {
            session.named = fetch.partitions.iter().map(|(id, _)| *id).collect();
        }
        let (turn, partitions) = (session.partitions.turn(), session.partitions.len());
        drop(session);
        let answered_id = self.table.taken_in(&found, now, partitions);
        Ok(OpenFetch { session: found.session, fetcher, answered_id, turn, full: found.is_full })
    }
}

fn new_session(id: SessionId, fetcher: Fetcher, seen: u64, rules: BrokenRules) -> Rc<RefCell<FetchSession>> {
    let partitions = SessionPartitions::new(fetcher, true, id != SessionId::NONE, rules);
    Rc::new(RefCell::new(FetchSession { partitions, named: BTreeSet::new(), seen }))
}
