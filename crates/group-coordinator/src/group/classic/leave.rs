//! LeaveGroup: members go, or an administrator removes static members.

use ottla_model::{ErrorCode, InstanceId, MemberId};

use super::{ClassicGroup, State};
use crate::answer::{GroupAnswer, Left};
use crate::effects::RequestId;
use crate::request::{LeaveGroup, LeavingMember};
use crate::shard::{Context, Decision};

impl ClassicGroup {
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>, id: RequestId, request: LeaveGroup) -> Decision {
        let mut out = Decision::default();
        let members: Vec<(MemberId, Option<InstanceId>, ErrorCode)> = request
            .members
            .into_iter()
            .map(|leaving| {
                let error = self.let_go(cx, &leaving, &mut out).err().unwrap_or(ErrorCode::None);
                (leaving.member, leaving.instance, error)
            })
            .collect();
        if members.iter().any(|(_, _, error)| error.is_ok()) && self.state != State::Empty {
            self.rebalance_or_complete_join(cx, &mut out);
        }
        out.after.push((id, GroupAnswer::LeaveGroup(Left { error: ErrorCode::None, members })));
        out
    }

    fn let_go(&mut self, cx: &mut Context<'_>, leaving: &LeavingMember, out: &mut Decision) -> Result<(), ErrorCode> {
        let id = if leaving.member.is_empty() {
            // An administrator names the instance and does not know the member.
            let current = leaving.instance.as_ref().and_then(|instance| self.statics.get(instance));
            current.cloned().ok_or(ErrorCode::UnknownMemberId)?
        } else {
            if !self.pending_join.contains(&leaving.member) {
                self.validate(&leaving.member, leaving.instance.as_ref())?;
            }
            leaving.member.clone()
        };
        self.remove(cx, &id, out);
        Ok(())
    }
}
