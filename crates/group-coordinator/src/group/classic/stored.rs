//! What of a classic group is in the log, and how it comes back.

use ottla_model::GroupId;

use super::{ClassicGroup, Member, State};
use crate::record::{ClassicGroupMember, ClassicGroupMetadata, Record};
use crate::request::ClientInfo;
use crate::shard::{Context, Decision};
use crate::timer::Timer;

/// What a batch and a record need besides the key and the value, and the value besides its members; generous.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// What a member needs besides its texts and byte strings.
const MEMBER_OVERHEAD_BYTES: usize = 24;

impl ClassicGroup {
    /// The group as a whole: the generation, and its members with their assignments.
    pub(crate) fn record(&self, group: &GroupId) -> Record {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        // A group that has not ended its first round has no protocol yet, and members that nobody may rely on.
        let members = self.protocol.is_some().then_some(&self.members);
        let value = ClassicGroupMetadata {
            protocol_type: self.protocol_type.clone().filter(|_| self.generation > 0).unwrap_or_default(),
            generation: self.generation.max(self.recorded_generation),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().filter(|_| members.is_some()),
            current_state_timestamp: self.since,
            members: members
                .into_iter()
                .flatten()
                .map(|(id, member)| ClassicGroupMember {
                    member: id.clone(),
                    instance: member.instance.clone(),
                    client_id: member.client.client_id.clone(),
                    client_host: member.client.client_host.clone(),
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    session_timeout_ms: member.session_timeout_ms,
                    subscription: member.metadata(protocol),
                    assignment: member.assignment.clone(),
                })
                .collect(),
        };
        Record::ClassicGroup { group: group.clone(), value: Some(value) }
    }

    /// How large a batch of this group's record is, at most.
    pub(super) fn record_bytes(&self) -> i32 {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members: usize = self
            .members
            .iter()
            .map(|(id, member)| {
                let texts = id.as_str().len()
                    + member.instance.as_ref().map_or(0, |instance| instance.as_str().len())
                    + member.client.client_id.len()
                    + member.client.client_host.len();
                let metadata =
                    member.protocols.iter().find(|(name, _)| name == protocol).map_or(0, |(_, bytes)| bytes.len());
                MEMBER_OVERHEAD_BYTES + texts + metadata + member.assignment.len()
            })
            .sum();
        i32::try_from(RECORD_OVERHEAD_BYTES + members).unwrap_or(i32::MAX)
    }

    pub(crate) fn tombstone(group: &GroupId) -> Record {
        Record::ClassicGroup { group: group.clone(), value: None }
    }

    /// The group as the log has it.
    pub(crate) fn from_record(value: ClassicGroupMetadata) -> Self {
        let mut group = Self {
            state: if value.members.is_empty() { State::Empty } else { State::Stable },
            since: value.current_state_timestamp,
            generation: value.generation,
            ..Self::simple()
        };
        for stored in value.members {
            let client = ClientInfo { client_id: stored.client_id, client_host: stored.client_host };
            let protocols = value.protocol.iter().map(|name| (name.clone(), stored.subscription.clone())).collect();
            let mut member =
                Member::new(stored.instance, client, stored.rebalance_timeout_ms, stored.session_timeout_ms, protocols);
            member.assignment = stored.assignment;
            group.add(stored.member, &value.protocol_type, member);
        }
        group.protocol_type = Some(value.protocol_type).filter(|protocol_type| !protocol_type.is_empty());
        group.protocol = value.protocol;
        // A leader that the log names but whose member it has not would never assign.
        group.leader = value.leader.filter(|leader| group.members.contains_key(leader)).or(group.leader);
        group.read_subscriptions();
        group
    }

    /// Replay is over: nobody could be heard before.
    pub(crate) fn loaded(&mut self, cx: &mut Context<'_>) -> Decision {
        let mut out = Decision::default();
        self.assigned_at = cx.now.monotonic;
        for (id, member) in &self.members {
            cx.schedule(Timer::Session(id.clone()), member.session_timeout_ms);
        }
        let limit = usize::try_from(cx.config.group_max_size).unwrap_or(usize::MAX);
        if self.members.len() > limit {
            // The limit was lowered: a round gives members the chance to commit before some of them have to go.
            self.prepare_rebalance(cx, &mut out);
        }
        out
    }
}
