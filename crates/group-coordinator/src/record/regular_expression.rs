//! `ConsumerGroupRegularExpression`: the topics that a regular expression of a consumer group matched.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::TimestampMs;
use ottla_protocol::wire::{self, Reader, WireError};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedExpression {
    pub topics: Vec<String>,
    /// The version of the topics that it was matched against; grows.
    pub version: i64,
    pub timestamp: TimestampMs,
}

impl ResolvedExpression {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_i16(0);
        super::put_strings(&mut out, &self.topics);
        out.put_i64(self.version);
        out.put_i64(self.timestamp.0);
        wire::put_no_tagged_fields(&mut out, true);
        out.freeze()
    }

    pub(super) fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        super::only_version_0(version)?;
        let read = Self {
            topics: super::read_strings(reader)?,
            version: reader.i64()?,
            timestamp: TimestampMs(reader.i64()?),
        };
        reader.skip_tagged_fields()?;
        Ok(read)
    }
}
