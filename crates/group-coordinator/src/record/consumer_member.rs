//! `ConsumerGroupMemberMetadata`: what a member of a consumer group has told of itself.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::InstanceId;
use ottla_protocol::wire::{self, Reader, WireError};
use std::borrow::Cow;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerMemberMetadata {
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub subscribed_topics: Vec<String>,
    pub subscribed_regex: Option<String>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<String>,
    /// For a member that speaks the classic protocol.
    pub classic: Option<ClassicMemberMetadata>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClassicMemberMetadata {
    pub session_timeout_ms: i32,
    /// Name and metadata, those that the member prefers first.
    pub protocols: Vec<(String, Bytes)>,
}

const CLASSIC_TAG: u32 = 0;
/// A name's length, a byte string's length, tagged fields.
const PROTOCOL_MIN_BYTES: usize = 3;

impl ConsumerMemberMetadata {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_i16(0);
        wire::put_nullable_string(&mut out, true, self.instance.as_ref().map(InstanceId::as_str));
        wire::put_nullable_string(&mut out, true, self.rack.as_deref());
        wire::put_string(&mut out, true, &self.client_id);
        wire::put_string(&mut out, true, &self.client_host);
        super::put_strings(&mut out, &self.subscribed_topics);
        wire::put_nullable_string(&mut out, true, self.subscribed_regex.as_deref());
        out.put_i32(self.rebalance_timeout_ms);
        wire::put_nullable_string(&mut out, true, self.server_assignor.as_deref());
        // Kafka's generated code takes an absent field for an empty classic member, not for none (its schema says
        // `null` where it would have to say `"null"`): none is written out, and an empty one is left out.
        match &self.classic {
            None => super::put_tagged_fields(&mut out, &[(CLASSIC_TAG, &[0])]),
            Some(classic) if *classic == ClassicMemberMetadata::default() => wire::put_no_tagged_fields(&mut out, true),
            Some(classic) => super::put_tagged_fields(&mut out, &[(CLASSIC_TAG, &classic.encode())]),
        }
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        super::only_version_0(version)?;
        let mut read = Self {
            instance: super::read_instance(reader, true)?,
            rack: reader.nullable_string(true)?.map(Cow::into_owned),
            client_id: reader.string(true)?.into_owned(),
            client_host: reader.string(true)?.into_owned(),
            subscribed_topics: super::read_strings(reader)?,
            subscribed_regex: reader.nullable_string(true)?.map(Cow::into_owned),
            rebalance_timeout_ms: reader.i32()?,
            server_assignor: reader.nullable_string(true)?.map(Cow::into_owned),
            classic: Some(ClassicMemberMetadata::default()),
        };
        reader.tagged_fields(|tag, field| {
            if tag == CLASSIC_TAG {
                read.classic = ClassicMemberMetadata::read(field)?;
            }
            Ok(())
        })?;
        Ok(read)
    }
}

impl ClassicMemberMetadata {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(64);
        // "Not null" of a nullable structure.
        out.put_u8(1);
        out.put_i32(self.session_timeout_ms);
        wire::put_array(&mut out, true, self.protocols.len());
        for (name, metadata) in &self.protocols {
            wire::put_string(&mut out, true, name);
            super::put_byte_string(&mut out, true, metadata);
            wire::put_no_tagged_fields(&mut out, true);
        }
        wire::put_no_tagged_fields(&mut out, true);
        out
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, WireError> {
        if reader.unsigned_varint()? == 0 {
            return Ok(None);
        }
        let session_timeout_ms = reader.i32()?;
        let count = reader.array_length(true, PROTOCOL_MIN_BYTES, usize::MAX)?;
        let protocols = (0..count)
            .map(|_| {
                let read = (reader.string(true)?.into_owned(), super::read_bytes(reader, true)?);
                reader.skip_tagged_fields()?;
                Ok(read)
            })
            .collect::<Result<_, WireError>>()?;
        reader.skip_tagged_fields()?;
        Ok(Some(Self { session_timeout_ms, protocols }))
    }
}
