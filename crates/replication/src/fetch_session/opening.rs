//! How a request finds its session (KIP-227), in three steps, because the table and each session have locks of their
//! own: [`SessionTable::find`], then [`SessionPartitions::take_in`], then [`SessionTable::taken_in`].

use std::hash::Hash;

use ottla_model::{ErrorCode, MonotonicMs};

use super::{FINAL_EPOCH, FetchPartition, Fetcher, INITIAL_EPOCH, SessionId, SessionPartitions, SessionTable};

/// What a request says of its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRequest {
    pub id: SessionId,
    pub epoch: i32,
    /// It names topics by their ids.
    pub uses_topic_ids: bool,
    /// How many partitions it names.
    pub partitions: usize,
}

impl SessionRequest {
    /// Whether it names all that it wants. It ends the session that it names, if any.
    fn is_full(&self) -> bool {
        matches!(self.epoch, INITIAL_EPOCH | FINAL_EPOCH)
    }

    fn begins_session(&self) -> bool {
        self.epoch == INITIAL_EPOCH && self.partitions > 0
    }
}

/// The session of a request: one that goes on, a new one, or one that serves this request alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found<S> {
    pub session: S,
    /// None where the session serves this request alone.
    pub id: SessionId,
    /// The answer reports every partition, not only those with news.
    pub is_full: bool,
}

impl<S: Clone> SessionTable<S> {
    /// The request's session. `make` makes one, under one of the ids that `fresh_id` offers, or under none if it serves
    /// this request alone. The second list has the sessions that ended: dropping one may be more than the caller wants
    /// to do under a lock.
    ///
    /// # Errors
    /// The request continues a session that is not there, or is not this fetcher's.
    pub fn find(
        &mut self,
        now: MonotonicMs,
        fetcher: Fetcher,
        request: &SessionRequest,
        fresh_id: impl FnMut() -> i32,
        make: impl Fn(SessionId) -> S,
    ) -> Result<(Found<S>, Vec<S>), ErrorCode> {
        let id = request.id;
        if !request.is_full() {
            let session = self.get(id, fetcher).ok_or(ErrorCode::FetchSessionIdNotFound)?;
            return Ok((Found { session, id, is_full: false }, Vec::new()));
        }
        let mut ended: Vec<S> = self.remove(id, fetcher).into_iter().collect();
        if request.begins_session()
            && let Some((id, session, evicted)) = self.insert(now, fetcher, request.partitions, fresh_id, &make)
        {
            ended.extend(evicted);
            return Ok((Found { session, id, is_full: true }, ended));
        }
        Ok((Found { session: make(SessionId::NONE), id: SessionId::NONE, is_full: true }, ended))
    }

    /// The session has taken the request in, and holds so many partitions now. Returns the id for the answer: none also
    /// where the session ends with this request, which is answered with what the session still has.
    pub fn taken_in(&mut self, found: &Found<S>, now: MonotonicMs, partitions: usize) -> SessionId {
        match found.is_full || self.touch(found.id, now, partitions).is_ok() {
            true => found.id,
            false => SessionId::NONE,
        }
    }
}

impl<K: Clone + Eq + Hash, H> SessionPartitions<K, H> {
    /// A request has come: adds the partitions that it names, removes those that it forgets. Returns what
    /// the caller held of forgotten partitions. [`Self::turn`] is the request's then, until the session's next one.
    ///
    /// # Errors
    /// It does not follow the session's last one. Nothing has changed.
    pub fn take_in(
        &mut self,
        request: &SessionRequest,
        wanted: impl IntoIterator<Item = (K, FetchPartition)>,
        forgotten: impl IntoIterator<Item = K>,
    ) -> Result<Vec<H>, ErrorCode> {
        if !request.is_full() {
            self.begin_request(request.epoch, request.uses_topic_ids)?;
        }
        wanted.into_iter().for_each(|(key, wanted)| self.want(key, wanted));
        Ok(forgotten.into_iter().filter_map(|key| self.forget(&key)).collect())
    }
}
