//! Kafka's primitive types: a reader over a frame that cannot run past its end, and the writers that mirror it.
//!
//! Every length that comes from the wire is compared with the bytes that remain before it is used; a reader that
//! returned an error is not used further.

use std::borrow::Cow;
use std::ops::Range;

use bytes::BufMut;

/// Why bytes do not match the schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    #[error("the message ends too early")]
    Truncated,
    #[error("invalid length {0}")]
    InvalidLength(i64),
    #[error("a variable-length number is too long")]
    VarintTooLong,
    #[error("too many elements: {count} where at most {max} are accepted")]
    TooManyElements { count: u64, max: u64 },
    #[error("too many tagged fields: {count} where at most {max} are accepted")]
    TooManyTaggedFields { count: u64, max: u64 },
    #[error("field {name} has the invalid value {value}")]
    InvalidField { name: &'static str, value: i64 },
    #[error("version {0} is not known")]
    UnknownVersion(i16),
}

/// At most this many tagged fields at one place, as Kafka 4.4 has it. No schema defines more than a handful.
pub const TAGGED_FIELDS_MAX: u32 = 10_000;

/// The text of a string's bytes. Kafka's broker decodes leniently, and clients rely on it: client ids in Latin-1, blobs
/// in the metadata of commits. Each byte that is not UTF-8 is read as `?`, so that a string keeps its length and a
/// frame can be repaired in place ([`replace_not_utf8`]); Kafka puts U+FFFD there.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut bytes = bytes.to_vec();
            replace_not_utf8(&mut bytes);
            Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

/// Puts `?` in the place of each byte that is not part of a UTF-8 character.
pub fn replace_not_utf8(mut bytes: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(bytes) {
        let start = error.valid_up_to();
        let end = error.error_len().map_or(bytes.len(), |length| start + length);
        let (bad, rest) = bytes.split_at_mut(end);
        bad[start..].fill(b'?');
        bytes = rest;
    }
}

/// Reads primitives from a slice. Positions are those of the slice, so that a range can name bytes of the frame.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from `start`; one past the end leaves nothing to read.
    pub fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, at: start.min(bytes.len()) }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count)).ok_or(WireError::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, _) =
            self.bytes.get(self.at..).and_then(|rest| rest.split_first_chunk::<N>()).ok_or(WireError::Truncated)?;
        self.at += N;
        Ok(*head)
    }

    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.i8()? != 0)
    }

    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        self.array()
    }

    /// An unsigned number of 7 bits a byte, at most five of them, within 32 bits.
    pub fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0_u64;
        for shift in 0..5 {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| WireError::VarintTooLong);
            }
        }
        Err(WireError::VarintTooLong)
    }

    /// A signed number of at most five bytes, zigzag-coded: the lengths inside records.
    pub fn varint(&mut self) -> Result<i32, WireError> {
        let value = self.unsigned_varint()?;
        Ok(((value >> 1) as i32) ^ -((value & 1) as i32))
    }

    /// A signed number of at most ten bytes, zigzag-coded: the timestamps inside records.
    pub fn varlong(&mut self) -> Result<i64, WireError> {
        let mut value = 0_u64;
        for shift in 0..10 {
            let [byte] = self.array()?;
            // The tenth byte has room for one bit.
            if shift == 9 && byte > 1 {
                return Err(WireError::VarintTooLong);
            }
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(((value >> 1) as i64) ^ -((value & 1) as i64));
            }
        }
        Err(WireError::VarintTooLong)
    }

    /// A length of at most the remaining bytes; none for null.
    fn length(&mut self, length: i64) -> Result<Option<usize>, WireError> {
        match length {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| WireError::InvalidLength(length))?;
                if length > self.remaining() {
                    return Err(WireError::Truncated);
                }
                Ok(Some(length))
            }
        }
    }

    fn compact_length(&mut self) -> Result<Option<usize>, WireError> {
        let length = i64::from(self.unsigned_varint()?) - 1;
        self.length(length)
    }

    /// A string; none for null. Bytes that are not UTF-8 are read as `?` (see [`text`]).
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<Cow<'a, str>>, WireError> {
        Ok(self.nullable_string_bytes(flexible)?.map(text))
    }

    /// The bytes of a string; none for null.
    pub(crate) fn nullable_string_bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, WireError> {
        let length = if flexible {
            self.compact_length()?
        } else {
            let length = self.i16()?;
            self.length(i64::from(length))?
        };
        match length {
            None => Ok(None),
            Some(length) => {
                // No string of the protocol is longer, in either form.
                if length > i16::MAX as usize {
                    return Err(WireError::InvalidLength(length as i64));
                }
                self.take(length).map(Some)
            }
        }
    }

    /// A string that is not null.
    pub fn string(&mut self, flexible: bool) -> Result<Cow<'a, str>, WireError> {
        self.nullable_string(flexible)?.ok_or(WireError::InvalidLength(-1))
    }

    /// Where a byte string lies; none for null.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Range<usize>>, WireError> {
        let length = if flexible {
            self.compact_length()?
        } else {
            let length = self.i32()?;
            self.length(i64::from(length))?
        };
        Ok(length.map(|length| {
            let start = self.at;
            self.at += length;
            start..self.at
        }))
    }

    /// The number of elements of an array; none for null. Refused if they cannot fit into the remaining bytes at
    /// `element_min_bytes` each (1 or more), or if there are more than `max`.
    pub fn nullable_array(
        &mut self,
        flexible: bool,
        element_min_bytes: usize,
        max: usize,
    ) -> Result<Option<usize>, WireError> {
        let count = if flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(self.i32()?) };
        if count == -1 {
            return Ok(None);
        }
        let count = usize::try_from(count).map_err(|_| WireError::InvalidLength(count))?;
        if count > self.remaining() / element_min_bytes.max(1) {
            return Err(WireError::Truncated);
        }
        if count > max {
            return Err(WireError::TooManyElements { count: count as u64, max: max as u64 });
        }
        Ok(Some(count))
    }

    /// The number of elements of an array that is not null.
    pub fn array_length(&mut self, flexible: bool, element_min_bytes: usize, max: usize) -> Result<usize, WireError> {
        self.nullable_array(flexible, element_min_bytes, max)?.ok_or(WireError::InvalidLength(-1))
    }

    /// Walks the tagged fields at this place; `field` gets each tag and a reader over its bytes alone. Returns how many
    /// there were.
    pub fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<u32, WireError> {
        let count = self.unsigned_varint()?;
        if count > TAGGED_FIELDS_MAX {
            return Err(WireError::TooManyTaggedFields { count: u64::from(count), max: u64::from(TAGGED_FIELDS_MAX) });
        }
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let size_bytes = self.unsigned_varint()? as usize;
            if size_bytes > self.remaining() {
                return Err(WireError::Truncated);
            }
            let end = self.at + size_bytes;
            // Positions stay those of the frame: the field's reader sees the frame up to the field's end.
            let mut inner = Reader { bytes: self.bytes.get(..end).ok_or(WireError::Truncated)?, at: self.at };
            field(tag, &mut inner)?;
            self.at = end;
        }
        Ok(count)
    }

    /// Steps over the tagged fields at this place.
    pub fn skip_tagged_fields(&mut self) -> Result<u32, WireError> {
        self.tagged_fields(|_, _| Ok(()))
    }
}

/// Writes an unsigned number of 7 bits a byte.
pub fn put_unsigned_varint(out: &mut impl BufMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Writes a signed number, zigzag-coded.
pub fn put_varint(out: &mut impl BufMut, value: i32) {
    put_varlong(out, i64::from(value));
}

/// Writes a signed number, zigzag-coded.
pub fn put_varlong(out: &mut impl BufMut, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// How many bytes [`put_varlong`] writes.
pub fn varlong_bytes(value: i64) -> usize {
    let value = ((value << 1) ^ (value >> 63)) as u64;
    (70 - value.leading_zeros() as usize) / 7 + usize::from(value == 0)
}

/// How many bytes [`put_unsigned_varint`] writes.
pub fn unsigned_varint_bytes(value: u32) -> usize {
    (38 - value.leading_zeros() as usize) / 7 + usize::from(value == 0)
}

/// A length or count in wire form; a value that does not fit becomes the largest one, which no frame can hold anyway.
fn wire_length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX - 1)
}

/// Writes a string; one that is longer than the protocol can carry is cut at a character boundary.
pub fn put_string(out: &mut impl BufMut, flexible: bool, text: &str) {
    let mut end = text.len().min(i16::MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = text.as_bytes().get(..end).unwrap_or_default();
    if flexible {
        put_unsigned_varint(out, wire_length(end) + 1);
    } else {
        out.put_i16(end as i16);
    }
    out.put_slice(bytes);
}

/// Writes a string or null.
pub fn put_nullable_string(out: &mut impl BufMut, flexible: bool, text: Option<&str>) {
    match text {
        Some(text) => put_string(out, flexible, text),
        None if flexible => out.put_u8(0),
        None => out.put_i16(-1),
    }
}

/// Writes the number of elements of an array; none for null.
pub fn put_nullable_array(out: &mut impl BufMut, flexible: bool, count: Option<usize>) {
    match (count, flexible) {
        (Some(count), true) => put_unsigned_varint(out, wire_length(count) + 1),
        (Some(count), false) => out.put_i32(wire_length(count) as i32),
        (None, true) => out.put_u8(0),
        (None, false) => out.put_i32(-1),
    }
}

/// Writes the number of elements of an array.
pub fn put_array(out: &mut impl BufMut, flexible: bool, count: usize) {
    put_nullable_array(out, flexible, Some(count));
}

/// Writes the length of a byte string whose bytes follow.
pub fn put_bytes_length(out: &mut impl BufMut, flexible: bool, length: usize) {
    put_nullable_array(out, flexible, Some(length));
}

/// Writes "no tagged fields" where the version has them.
pub fn put_no_tagged_fields(out: &mut impl BufMut, flexible: bool) {
    if flexible {
        out.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn unsigned_varints_round_trip_and_know_their_size() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 268_435_456, u32::MAX] {
            let mut out = BytesMut::new();
            put_unsigned_varint(&mut out, value);
            assert_eq!(out.len(), unsigned_varint_bytes(value), "{value}");
            let mut reader = Reader::new(&out, 0);
            assert_eq!(reader.unsigned_varint(), Ok(value));
            assert_eq!(reader.remaining(), 0);
        }
        assert_eq!(Reader::new(&[0xff; 6], 0).unsigned_varint(), Err(WireError::VarintTooLong));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f], 0).unsigned_varint(), Err(WireError::VarintTooLong));
        assert_eq!(Reader::new(&[0x80], 0).unsigned_varint(), Err(WireError::Truncated));
    }

    #[test]
    fn signed_varints_round_trip_and_know_their_size() {
        for value in [0, 1, -1, 63, 64, -64, -65, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN] {
            let mut out = BytesMut::new();
            put_varlong(&mut out, value);
            assert_eq!(out.len(), varlong_bytes(value), "{value}");
            assert_eq!(Reader::new(&out, 0).varlong(), Ok(value));
            if let Ok(small) = i32::try_from(value) {
                assert_eq!(Reader::new(&out, 0).varint(), Ok(small));
            }
        }
        assert_eq!(Reader::new(&[0xff; 11], 0).varlong(), Err(WireError::VarintTooLong));
    }

    #[test]
    fn lengths_are_held_against_what_remains() {
        assert_eq!(Reader::new(&[0x7f, 0xff, 1], 0).string(false), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[0xff, 0xfe], 0).string(false), Err(WireError::InvalidLength(-2)));
        assert_eq!(Reader::new(&[0xff, 0xff], 0).nullable_string(false), Ok(None));
        assert_eq!(Reader::new(&[0x7f, 0xff, 0xff, 0xff], 0).array_length(false, 1, 10), Err(WireError::Truncated));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xfe], 0).array_length(false, 1, 10),
            Err(WireError::InvalidLength(-2))
        );
        assert_eq!(
            Reader::new(&[3, 0, 0], 0).array_length(true, 1, 1),
            Err(WireError::TooManyElements { count: 2, max: 1 })
        );
        assert_eq!(Reader::new(&[3, 0xc3, 0x28], 0).string(true).as_deref(), Ok("?("));
        assert_eq!(Reader::new(&[], 9).i8(), Err(WireError::Truncated));
    }

    #[test]
    fn what_is_not_utf8_keeps_its_length() {
        for (bytes, expected) in [
            (&b"plain"[..], "plain"),
            ("mümmel".as_bytes(), "mümmel"),
            (b"m\xfcmmel", "m?mmel"),
            (b"\xff\xfe\x00", "??\0"),
            (b"cut \xe2\x82", "cut ??"),
            (b"\x80a\x80", "?a?"),
        ] {
            assert_eq!(text(bytes), expected);
            assert!(text(bytes).len() == bytes.len());
        }
    }

    #[test]
    fn a_tagged_field_cannot_read_past_its_end() {
        let bytes = [1, 0, 2, 0xaa, 0xbb, 0xcc];
        let mut reader = Reader::new(&bytes, 0);
        let seen = reader.tagged_fields(|tag, field| {
            assert_eq!((tag, field.remaining()), (0, 2));
            field.i32().map(|_| ())
        });
        assert_eq!(seen, Err(WireError::Truncated));
        let mut reader = Reader::new(&bytes, 0);
        assert_eq!(reader.skip_tagged_fields(), Ok(1));
        assert_eq!(reader.remaining(), 1);
    }
}
