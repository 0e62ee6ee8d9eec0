//! The format of a snapshot's data: a version byte, then pairs of key and value in the order of the keys, each with a
//! LEB128 length before it. The state machine defines the meaning of the pairs.

use bytes::{BufMut, Bytes, BytesMut};

/// The only form so far.
const VERSION: u8 = 1;

/// The data cannot be a snapshot of this form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSnapshot {
    #[error("snapshot of version {0}, which this release cannot read")]
    Version(u8),
    #[error("the snapshot ends within a pair")]
    Truncated,
    #[error("the snapshot's keys are not in order")]
    Order,
}

/// Builds a snapshot's data, pair by pair, in the order of the keys.
#[derive(Debug)]
pub struct Encoder {
    buffer: BytesMut,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    pub fn new() -> Self {
        let mut buffer = BytesMut::new();
        buffer.put_u8(VERSION);
        Self { buffer }
    }

    pub fn pair(&mut self, key: &[u8], value: &[u8]) {
        self.put(key);
        self.put(value);
    }

    fn put(&mut self, bytes: &[u8]) {
        let mut rest = bytes.len() as u64;
        while rest >= 0x80 {
            self.buffer.put_u8((rest & 0x7F) as u8 | 0x80);
            rest >>= 7;
        }
        self.buffer.put_u8(rest as u8);
        self.buffer.put_slice(bytes);
    }

    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}

/// The pairs of a snapshot's data, without copies. Ends after the first error.
#[derive(Debug)]
pub struct Pairs {
    rest: Bytes,
    last_key: Option<Bytes>,
    failed: bool,
}

impl Pairs {
    pub fn new(mut data: Bytes) -> Result<Self, InvalidSnapshot> {
        match data.first() {
            Some(&VERSION) => {
                let rest = data.split_off(1);
                Ok(Self { rest, last_key: None, failed: false })
            }
            Some(&other) => Err(InvalidSnapshot::Version(other)),
            None => Err(InvalidSnapshot::Truncated),
        }
    }

    fn take(&mut self) -> Result<Bytes, InvalidSnapshot> {
        let mut length = 0u64;
        let mut used = 0;
        loop {
            let byte = *self.rest.get(used).ok_or(InvalidSnapshot::Truncated)?;
            // Ten groups of seven bits would overflow 64; no length needs more than five.
            if used == 9 {
                return Err(InvalidSnapshot::Truncated);
            }
            length |= u64::from(byte & 0x7F) << (7 * used);
            used += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let length = usize::try_from(length).map_err(|_| InvalidSnapshot::Truncated)?;
        let end = used.checked_add(length).filter(|&end| end <= self.rest.len()).ok_or(InvalidSnapshot::Truncated)?;
        let taken = self.rest.slice(used..end);
        self.rest = self.rest.slice(end..);
        Ok(taken)
    }

    fn pair(&mut self) -> Result<(Bytes, Bytes), InvalidSnapshot> {
        let key = self.take()?;
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(InvalidSnapshot::Order);
        }
        self.last_key = Some(key.clone());
        Ok((key, self.take()?))
    }
}

impl Iterator for Pairs {
    type Item = Result<(Bytes, Bytes), InvalidSnapshot>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let pair = self.pair();
        self.failed = pair.is_err();
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back() {
        let mut encoder = Encoder::new();
        let big = vec![7u8; 70_000];
        encoder.pair(b"/a", b"");
        encoder.pair(b"/b", &big);
        let data = encoder.finish();
        let pairs: Vec<_> = Pairs::new(data.clone()).expect("version").collect::<Result<_, _>>().expect("pairs");
        assert_eq!(pairs[0], (Bytes::from_static(b"/a"), Bytes::new()));
        assert_eq!(pairs[1], (Bytes::from_static(b"/b"), Bytes::from(big)));
        assert_eq!(pairs.len(), 2);
        for cut in 2..data.len().min(300) {
            let result: Result<Vec<_>, _> = Pairs::new(data.slice(..cut)).expect("version").collect();
            if cut != 5 {
                assert_eq!(result, Err(InvalidSnapshot::Truncated), "cut at {cut}");
            }
        }
    }

    #[test]
    fn refuses_other_forms() {
        assert_eq!(Pairs::new(Bytes::new()).err(), Some(InvalidSnapshot::Truncated));
        assert_eq!(Pairs::new(Bytes::from_static(&[9])).err(), Some(InvalidSnapshot::Version(9)));
        let endless = Bytes::from_static(&[VERSION, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert!(Pairs::new(endless).expect("version").next().expect("one").is_err());
        let mut encoder = Encoder::new();
        encoder.pair(b"/b", b"");
        encoder.pair(b"/a", b"");
        let result: Result<Vec<_>, _> = Pairs::new(encoder.finish()).expect("version").collect();
        assert_eq!(result, Err(InvalidSnapshot::Order));
    }
}
