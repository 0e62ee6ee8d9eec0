//! The messages with own parsers and encoders, and their common types.

pub mod api_versions;
pub mod describe_log_dirs;
pub mod fetch;
pub mod metadata;
pub mod offset_commit;
pub mod offset_fetch;
#[cfg(test)]
mod oracle_tests;
pub mod produce;
pub mod write_txn_markers;

use bytes::{BufMut, BytesMut};
use ottla_model::{BrokerId, LeaderEpoch, TopicId};
use std::borrow::Cow;

use crate::wire::{self, Reader, WireError};

/// How a request names a topic: by name, or by id from Produce 13, Fetch 13, OffsetCommit 10 and OffsetFetch 10 on
/// (KIP-516).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TopicRef {
    /// The name from the wire: not yet validated as a topic name.
    Name(String),
    Id(TopicId),
}

impl TopicRef {
    fn parse(reader: &mut Reader<'_>, flexible: bool, by_id: bool) -> Result<Self, WireError> {
        if by_id {
            Ok(Self::Id(TopicId(reader.uuid()?)))
        } else {
            Ok(Self::Name(reader.string(flexible)?.into_owned()))
        }
    }

    /// Writes the form that the version has; a reference of the other form is written as "none".
    fn put(&self, out: &mut impl BufMut, flexible: bool, by_id: bool) {
        match (self, by_id) {
            (Self::Id(id), true) => out.put_slice(id.as_bytes()),
            (Self::Name(name), false) => wire::put_string(out, flexible, name),
            (Self::Name(_), true) => out.put_slice(TopicId::ZERO.as_bytes()),
            (Self::Id(_), false) => wire::put_string(out, flexible, ""),
        }
    }
}

/// The current leader, in a response to a client that used the wrong broker or an old epoch (KIP-951).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CurrentLeader {
    pub leader_id: BrokerId,
    pub leader_epoch: LeaderEpoch,
}

impl CurrentLeader {
    const BYTES: u32 = 9;

    fn put_tagged(self, out: &mut impl BufMut, tag: u32) {
        wire::put_unsigned_varint(out, tag);
        wire::put_unsigned_varint(out, Self::BYTES);
        out.put_i32(self.leader_id.0);
        out.put_i32(self.leader_epoch.0);
        out.put_u8(0);
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let leader = Self { leader_id: BrokerId(reader.i32()?), leader_epoch: LeaderEpoch(reader.i32()?) };
        reader.skip_tagged_fields()?;
        Ok(leader)
    }
}

/// Where a broker named in a [`CurrentLeader`] listens (KIP-951).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEndpoint {
    pub node_id: BrokerId,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// The most endpoints that a decoder takes from one response.
const NODE_ENDPOINTS_MAX: usize = 10_000;

fn put_node_endpoints_tagged(out: &mut impl BufMut, tag: u32, endpoints: &[NodeEndpoint]) {
    let mut field = BytesMut::with_capacity(endpoints.len() * 48);
    wire::put_array(&mut field, true, endpoints.len());
    for endpoint in endpoints {
        field.put_i32(endpoint.node_id.0);
        wire::put_string(&mut field, true, &endpoint.host);
        field.put_i32(endpoint.port);
        wire::put_nullable_string(&mut field, true, endpoint.rack.as_deref());
        field.put_u8(0);
    }
    wire::put_unsigned_varint(out, tag);
    wire::put_unsigned_varint(out, u32::try_from(field.len()).unwrap_or(u32::MAX));
    out.put_slice(&field);
}

fn parse_node_endpoints(reader: &mut Reader<'_>) -> Result<Vec<NodeEndpoint>, WireError> {
    let count = reader.nullable_array(true, 11, NODE_ENDPOINTS_MAX)?.unwrap_or(0);
    let mut endpoints = Vec::with_capacity(count);
    for _ in 0..count {
        let node_id = BrokerId(reader.i32()?);
        let host = reader.string(true)?.into_owned();
        let port = reader.i32()?;
        let rack = reader.nullable_string(true)?.map(Cow::into_owned);
        reader.skip_tagged_fields()?;
        endpoints.push(NodeEndpoint { node_id, host, port, rack });
    }
    Ok(endpoints)
}
