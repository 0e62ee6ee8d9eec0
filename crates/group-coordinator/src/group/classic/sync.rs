//! SyncGroup: the leader's assignment reaches the log, then its members.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_model::{ErrorCode, MemberId};

use super::{ClassicGroup, State, answer_sync};
use crate::answer::{GroupAnswer, Synced};
use crate::effects::RequestId;
use crate::request::SyncGroup;
use crate::shard::{Context, Decision};
use crate::timer::Timer;

impl ClassicGroup {
    pub(crate) fn sync(&mut self, cx: &mut Context<'_>, id: RequestId, request: SyncGroup) -> Decision {
        let mut out = Decision::default();
        if let Err(error) = self.validate_sync(&request) {
            answer_sync(&mut out, Some(id), Synced::refused(error));
            return out;
        }
        match self.state {
            State::Empty => answer_sync(&mut out, Some(id), Synced::refused(ErrorCode::UnknownMemberId)),
            State::PreparingRebalance => {
                answer_sync(&mut out, Some(id), Synced::refused(ErrorCode::RebalanceInProgress));
            }
            State::CompletingRebalance => {
                if let Some(member) = self.members.get_mut(&request.member) {
                    let superseded = member.awaiting_sync.replace(id);
                    answer_sync(&mut out, superseded, Synced::refused(ErrorCode::RebalanceInProgress));
                }
                self.synced(cx, &request.member);
                if self.is_leader(&request.member) {
                    self.assign(cx, request.assignments, &mut out);
                }
            }
            State::Stable => {
                self.synced(cx, &request.member);
                // The assignment may be on its way to the log.
                let synced = self.share(&request.member);
                out.after.push((id, GroupAnswer::SyncGroup(synced)));
            }
        }
        out
    }

    fn validate_sync(&self, request: &SyncGroup) -> Result<(), ErrorCode> {
        if self.state == State::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.validate(&request.member, request.instance.as_ref())?;
        if request.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differ =
            |named: &Option<String>, ours: &Option<String>| matches!((named, ours), (Some(a), Some(b)) if a != b);
        if differ(&request.protocol_type, &self.protocol_type) || differ(&request.protocol_name, &self.protocol) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// The member has asked for its assignment in time.
    fn synced(&mut self, cx: &mut Context<'_>, member: &MemberId) {
        self.pending_sync.remove(member);
        if self.pending_sync.is_empty() {
            cx.cancel(Timer::PendingSync);
        }
    }

    /// Takes the leader's assignment: everybody who waits gets its share once the log has it. Who is not in it gets
    /// nothing.
    fn assign(&mut self, cx: &mut Context<'_>, assignments: Vec<(MemberId, Bytes)>, out: &mut Decision) {
        let mut assignments: BTreeMap<MemberId, Bytes> = assignments.into_iter().collect();
        self.assigned_at = cx.now.monotonic;
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        if self.record_bytes() > cx.config.max_batch_bytes {
            // The log would refuse it now and at the next attempt; the members are to know.
            self.refuse_syncs(cx, ErrorCode::UnknownServerError, out);
            self.prepare_rebalance(cx, out);
            return;
        }
        out.records.push(self.record(cx.group));
        self.enter(State::Stable, cx.now.wall);
        let waiting: Vec<(MemberId, RequestId)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| member.awaiting_sync.take().map(|request| (id.clone(), request)))
            .collect();
        for (id, request) in waiting {
            out.after.push((request, GroupAnswer::SyncGroup(self.share(&id))));
            // A session that ran out while its member waited for the leader was not judged.
            self.renew_session(cx, &id);
        }
    }

    fn share(&self, member: &MemberId) -> Synced {
        Synced {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment: self.members.get(member).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }
}
