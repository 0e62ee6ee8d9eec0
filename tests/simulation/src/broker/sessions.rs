//! The fetch sessions of a broker: [`ottla_replication::fetch_session`] decides. Here is what the broker has around it:
//! where sessions are found, and which of their partitions have news.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ottla_model::{ErrorCode, MonotonicMs, TopicIdPartition};
use ottla_replication::fetch_session::{
    BrokenRules, FetchPartition, Fetcher, SessionId, SessionPartitions, SessionTable, SessionUse,
};

use crate::message::Fetch;

/// `max.incremental.fetch.session.cache.slots`: so few that followers' sessions take the place of consumers'.
const SLOTS: usize = 6;

pub(super) struct FetchSession {
    id: SessionId,
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

    /// Whether a fetch's partitions have news that it has not looked at.
    pub fn has_news(&self, fetch: &OpenFetch) -> bool {
        let session = fetch.session.borrow();
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
        let id = SessionId(fetch.session.id);
        let count = fetch.partitions.len();
        if let SessionUse::Full { ends, begins } = SessionUse::of(id, fetch.session.epoch, count) {
            if let Some(id) = ends {
                self.table.remove(id, fetcher);
            }
            let inserted = if begins { self.begin(now, fetcher, count) } else { None };
            let session = inserted.unwrap_or_else(|| self.new_session(SessionId::NONE, fetcher));
            take_in(&mut session.borrow_mut(), fetch);
            let answered_id = session.borrow().id;
            return Ok(OpenFetch { session, fetcher, answered_id, turn: 0, full: true });
        }
        let session = self.table.get(id, fetcher).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        session.borrow_mut().partitions.begin_request(fetch.session.epoch, true)?;
        take_in(&mut session.borrow_mut(), fetch);
        let (turn, count) = (session.borrow().partitions.turn(), session.borrow().partitions.len());
        let answered_id = if self.table.touch(id, now, count).is_ok() { id } else { SessionId::NONE };
        Ok(OpenFetch { session, fetcher, answered_id, turn, full: false })
    }

    fn begin(&mut self, now: MonotonicMs, fetcher: Fetcher, count: usize) -> Option<Rc<RefCell<FetchSession>>> {
        let (mut next_id, seen, rules) = (self.next_id, self.last_change, self.rules);
        let fresh_id = || {
            next_id += 1;
            next_id
        };
        let inserted = self.table.insert(now, fetcher, count, fresh_id, |id| new_session(id, fetcher, seen, rules));
        self.next_id = next_id;
        inserted.map(|(session, _)| session)
    }

    fn new_session(&self, id: SessionId, fetcher: Fetcher) -> Rc<RefCell<FetchSession>> {
        new_session(id, fetcher, self.last_change, self.rules)
    }
}

fn new_session(id: SessionId, fetcher: Fetcher, seen: u64, rules: BrokenRules) -> Rc<RefCell<FetchSession>> {
    let partitions = SessionPartitions::new(fetcher, true, id != SessionId::NONE, rules);
    Rc::new(RefCell::new(FetchSession { id, partitions, named: BTreeSet::new(), seen }))
}

fn take_in(session: &mut FetchSession, fetch: &Fetch) {
    for (id, position) in &fetch.partitions {
        let wanted = FetchPartition {
            offset: position.offset,
            log_start: position.log_start,
            max_bytes: fetch.bytes.partition_max,
            current_leader_epoch: position.leader_epoch,
            last_fetched_epoch: position.last_fetched_epoch,
        };
        session.partitions.want(*id, wanted);
    }
    for id in &fetch.forgotten {
        session.partitions.forget(id);
    }
    if session.id == SessionId::NONE {
        session.named = fetch.partitions.iter().map(|(id, _)| *id).collect();
    }
}
