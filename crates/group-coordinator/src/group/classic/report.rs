//! What a classic group tells others of itself: descriptions, subscriptions, how its offsets grow old.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytes::Bytes;
use ottla_model::{ErrorCode, GroupId};
use ottla_protocol::wire::Reader;

use super::{ClassicGroup, State};
use crate::answer::{Described, DescribedMember, ListedGroup};
use crate::group::OffsetExpiry;

impl ClassicGroup {
    pub(crate) fn describe(&self, group: GroupId) -> Described {
        // The members' metadata means something only under a protocol that they have agreed on.
        let protocol = if self.state == State::Stable { self.protocol.as_deref() } else { None };
        Described {
            error: ErrorCode::None,
            message: None,
            group,
            state: self.state.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: self
                .members
                .iter()
                .map(|(id, member)| DescribedMember {
                    member: id.clone(),
                    instance: member.instance.clone(),
                    client_id: member.client.client_id.clone(),
                    client_host: member.client.client_host.clone(),
                    metadata: protocol.map(|protocol| member.metadata(protocol)).unwrap_or_default(),
                    assignment: member.assignment.clone(),
                })
                .collect(),
        }
    }

    pub(crate) fn listed(&self, group: &GroupId) -> ListedGroup {
        ListedGroup {
            group: group.clone(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state.name(),
            group_type: "classic",
        }
    }

    /// Offsets may be deleted under members whose subscriptions are known.
    pub(crate) fn validate_delete_offsets(&self) -> Result<(), ErrorCode> {
        if self.state == State::Empty || self.has_consumers() { Ok(()) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or_else(|| self.has_consumers(), |topics| topics.contains(topic))
    }

    pub(crate) fn offset_expiry(&self) -> OffsetExpiry {
        if self.protocol_type.is_none() {
            return OffsetExpiry::SinceCommit;
        }
        match self.state {
            State::Empty => self.since.map_or(OffsetExpiry::SinceCommit, OffsetExpiry::Since),
            State::Stable if self.has_consumers() && self.subscribed.is_some() => OffsetExpiry::SinceCommit,
            State::Stable | State::PreparingRebalance | State::CompletingRebalance => OffsetExpiry::Never,
        }
    }

    /// Learns which topics the members read, from the metadata of the protocol that they have agreed on.
    pub(super) fn read_subscriptions(&mut self) {
        self.subscribed = self.subscriptions();
    }

    fn subscriptions(&self) -> Option<BTreeSet<String>> {
        if !self.has_consumers() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }
}

/// The topics of a `ConsumerProtocolSubscription` of any version; none if it is not one.
fn subscribed_topics(metadata: &Bytes) -> Option<Vec<String>> {
    let mut reader = Reader::new(metadata, 0);
    let version = reader.i16().ok()?;
    if version < 0 {
        return None;
    }
    let count = reader.array_length(false, 2, usize::MAX).ok()?;
    (0..count).map(|_| reader.string(false).ok().map(Cow::into_owned)).collect()
}
