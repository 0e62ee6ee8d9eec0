//! `GroupMetadata`: a classic group as a whole, written when a generation's assignment is known and when the last
//! member has gone.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{InstanceId, MemberId, TimestampMs};
use ottla_protocol::wire::{self, Reader, WireError};
use std::borrow::Cow;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassicGroupMetadata {
    /// Empty for a group that nobody has joined.
    pub protocol_type: String,
    pub generation: i32,
    /// None in an empty group.
    pub protocol: Option<String>,
    pub leader: Option<MemberId>,
    /// When the group came into its state; none in records older than Kafka 2.1.
    pub current_state_timestamp: Option<TimestampMs>,
    pub members: Vec<ClassicGroupMember>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassicGroupMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// The member's metadata of the chosen protocol.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// What Kafka 4.x writes.
const VERSION: i16 = 3;
/// The last version that is read, and the first with tagged fields.
const FLEXIBLE_VERSION: i16 = 4;
/// A member takes no fewer bytes: three strings, a number, two byte strings.
const MEMBER_MIN_BYTES: usize = 9;

impl ClassicGroupMetadata {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + 128 * self.members.len());
        out.put_i16(VERSION);
        wire::put_string(&mut out, false, &self.protocol_type);
        out.put_i32(self.generation);
        wire::put_nullable_string(&mut out, false, self.protocol.as_deref());
        wire::put_nullable_string(&mut out, false, self.leader.as_ref().map(MemberId::as_str));
        out.put_i64(self.current_state_timestamp.unwrap_or(TimestampMs::NONE).0);
        wire::put_array(&mut out, false, self.members.len());
        for member in &self.members {
            wire::put_string(&mut out, false, member.member.as_str());
            wire::put_nullable_string(&mut out, false, member.instance.as_ref().map(InstanceId::as_str));
            wire::put_string(&mut out, false, &member.client_id);
            wire::put_string(&mut out, false, &member.client_host);
            out.put_i32(member.rebalance_timeout_ms);
            out.put_i32(member.session_timeout_ms);
            super::put_byte_string(&mut out, false, &member.subscription);
            super::put_byte_string(&mut out, false, &member.assignment);
        }
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        if !(0..=FLEXIBLE_VERSION).contains(&version) {
            return Err(WireError::UnknownVersion(version));
        }
        let flexible = version >= FLEXIBLE_VERSION;
        let protocol_type = reader.string(flexible)?.into_owned();
        let generation = reader.i32()?;
        let protocol = reader.nullable_string(flexible)?.map(Cow::into_owned);
        let leader = reader.nullable_string(flexible)?.map(MemberId::new);
        let current_state_timestamp = match version {
            0 | 1 => None,
            _ => Some(TimestampMs(reader.i64()?)).filter(|at| *at != TimestampMs::NONE),
        };
        let count = reader.array_length(flexible, MEMBER_MIN_BYTES, usize::MAX)?;
        let members = (0..count).map(|_| read_member(reader, version)).collect::<Result<_, _>>()?;
        if flexible {
            reader.skip_tagged_fields()?;
        }
        Ok(Self { protocol_type, generation, protocol, leader, current_state_timestamp, members })
    }
}

fn read_member(reader: &mut Reader<'_>, version: i16) -> Result<ClassicGroupMember, WireError> {
    let flexible = version >= FLEXIBLE_VERSION;
    let member = MemberId::new(reader.string(flexible)?);
    let instance = if version >= 3 { super::read_instance(reader, flexible)? } else { None };
    let client_id = reader.string(flexible)?.into_owned();
    let client_host = reader.string(flexible)?.into_owned();
    let rebalance_timeout_ms = if version >= 1 { Some(reader.i32()?) } else { None };
    let session_timeout_ms = reader.i32()?;
    let read = ClassicGroupMember {
        member,
        instance,
        client_id,
        client_host,
        // Older than the field: the session timeout was both, as in the request.
        rebalance_timeout_ms: rebalance_timeout_ms.filter(|ms| *ms != -1).unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription: super::read_bytes(reader, flexible)?,
        assignment: super::read_bytes(reader, flexible)?,
    };
    if flexible {
        reader.skip_tagged_fields()?;
    }
    Ok(read)
}
