//! Heartbeats, and commits, which count as such.

use ottla_model::{ErrorCode, InstanceId, MemberId};

use super::{ClassicGroup, State};
use crate::answer::GroupAnswer;
use crate::effects::RequestId;
use crate::request::Heartbeat;
use crate::shard::{Context, Decision};

impl ClassicGroup {
    pub(crate) fn heartbeat(&mut self, cx: &mut Context<'_>, id: RequestId, request: &Heartbeat) -> Decision {
        let error = match self.heard(cx, request) {
            Ok(()) => ErrorCode::None,
            Err(error) => error,
        };
        Decision::answer(id, GroupAnswer::Heartbeat(error))
    }

    fn heard(&mut self, cx: &mut Context<'_>, request: &Heartbeat) -> Result<(), ErrorCode> {
        self.validate(&request.member, request.instance.as_ref())?;
        if request.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        match self.state {
            State::Empty => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => {
                self.renew_session(cx, &request.member);
                Err(ErrorCode::RebalanceInProgress)
            }
            // Consumers may send heartbeats before they have asked for their assignment.
            State::CompletingRebalance | State::Stable => {
                self.renew_session(cx, &request.member);
                Ok(())
            }
        }
    }

    /// Whether a member, or somebody who is none, may commit offsets.
    pub(crate) fn validate_commit(
        &self,
        member: &MemberId,
        instance: Option<&InstanceId>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance.is_some() {
            self.validate(member, instance)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if self.state != State::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        // The member has its generation but not its assignment: what it commits was another's in the generation before.
        if self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether a commit inside a transaction counts. One of a member that has not got its assignment yet does: the
    /// transaction began before the generation.
    pub(crate) fn validate_commit_in_transaction(
        &self,
        member: &MemberId,
        instance: Option<&InstanceId>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        self.validate(member, instance)?;
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    /// A member has committed offsets: it is alive.
    pub(crate) fn committed(&mut self, cx: &mut Context<'_>, member: &MemberId) {
        if matches!(self.state, State::Stable | State::PreparingRebalance) {
            self.renew_session(cx, member);
        }
    }
}
