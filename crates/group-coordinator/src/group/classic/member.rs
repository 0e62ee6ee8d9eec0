//! One member of a classic group.

use std::collections::BTreeSet;

use bytes::Bytes;
use ottla_model::InstanceId;

use crate::effects::RequestId;
use crate::request::{ClientInfo, bytes_of_client, bytes_of_protocols};

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Option<InstanceId>,
    pub(crate) client: ClientInfo,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    /// Name and metadata, those that the member prefers first.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// Empty until the leader has assigned something.
    pub(crate) assignment: Bytes,
    /// The JoinGroup that waits for the end of the round.
    pub(super) awaiting_join: Option<RequestId>,
    /// The SyncGroup that waits for the leader's.
    pub(super) awaiting_sync: Option<RequestId>,
    /// Has not seen the answer to its first JoinGroup, so it cannot know its id and send heartbeats.
    pub(super) is_new: bool,
}

impl Member {
    pub(crate) fn new(
        instance: Option<InstanceId>,
        client: ClientInfo,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
        protocols: Vec<(String, Bytes)>,
    ) -> Self {
        Self {
            instance,
            client,
            rebalance_timeout_ms,
            session_timeout_ms,
            protocols,
            assignment: Bytes::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        }
    }

    /// What the member has said, in bytes.
    pub(super) fn said_bytes(&self) -> usize {
        bytes_of_protocols(&self.protocols) + bytes_of_client(&self.client, self.instance.as_ref())
    }

    /// The member's metadata of a protocol; empty where it does not know the protocol.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    /// The protocol that the member likes best among the candidates.
    pub(super) fn vote<'a>(&self, candidates: &BTreeSet<&'a str>) -> Option<&'a str> {
        self.protocols.iter().find_map(|(name, _)| candidates.get(name.as_str()).copied())
    }

    /// A member that waits for others cannot send heartbeats; but one that never had an answer may be gone for good,
    /// and its connection, not being read while it waits, would not tell.
    pub(super) fn is_excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}
