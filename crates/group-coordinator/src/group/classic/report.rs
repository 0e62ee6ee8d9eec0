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
        self.subscribed.as_ref().map_or_else(|| self.has_consumers(), |topics| topics.contain(topic))
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

    fn subscriptions(&self) -> Option<TopicNames> {
        if !self.has_consumers() {
            return None;
        }
        if self.members.is_empty() {
            return Some(TopicNames::default());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(&member.metadata(protocol))?);
        }
        TopicNames::new(&topics)
    }
}

/// A set of names, one after the other: one of strings takes twelve times what members sent if the names are short.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicNames {
    text: String,
    /// Where each begins and ends, in the order of the names.
    places: Vec<(u32, u32)>,
}

impl TopicNames {
    /// None: they are more than a group can have.
    fn new(names: &BTreeSet<String>) -> Option<Self> {
        let mut text = String::with_capacity(names.iter().map(String::len).sum());
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            let from = u32::try_from(text.len()).ok()?;
            text.push_str(name);
            places.push((from, u32::try_from(text.len()).ok()?));
        }
        Some(Self { text, places })
    }

    fn contain(&self, name: &str) -> bool {
        let known = |&(from, to): &(u32, u32)| self.text.get(from as usize..to as usize).unwrap_or_default();
        self.places.binary_search_by(|place| known(place).cmp(name)).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A group kept a set of strings beside what its members had said, and only that was counted.
    #[test]
    fn names_of_topics_take_little_more_than_their_letters() {
        let names: BTreeSet<String> = (0..1_000).map(|number| format!("{number:03}")).collect();
        let kept = TopicNames::new(&names).unwrap();
        assert!(names.iter().all(|name| kept.contain(name)));
        assert!(["", "00", "0000", "1000", "x"].iter().all(|name| !kept.contain(name)));
        assert!(!TopicNames::default().contain(""));
        assert_eq!((kept.text.capacity(), kept.places.capacity()), (3_000, 1_000));
    }
}
