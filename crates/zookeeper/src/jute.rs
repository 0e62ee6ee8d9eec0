//! Jute, ZooKeeper's record encoding: big-endian integers; strings, buffers and vectors with a length of four bytes,
//! −1 for none.

/// Bytes of one frame without its length: `jute.maxbuffer` of ZooKeeper.
pub const FRAME_BYTES_MAX: usize = 0xf_ffff;

/// A frame that ends too early, has a negative length, or text that is not UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a record of ZooKeeper's protocol")]
pub struct Malformed;

pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.array::<1>()? != [0])
    }

    pub fn int(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn long(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Empty also for a buffer that is none.
    pub fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }

    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.buffer()?).map_err(|_| Malformed)
    }

    /// Reads each item; allocates as items are read, not by the count that the frame claims.
    pub fn vector<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = self.int()?.max(0);
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// Appends records to frames.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Begins a frame at the end of `out`; [`Writer::finish`] writes its length.
    pub fn frame(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend([0; 4]);
        Self { out, start }
    }

    pub fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    pub fn int(&mut self, value: i32) {
        self.out.extend(value.to_be_bytes());
    }

    pub fn long(&mut self, value: i64) {
        self.out.extend(value.to_be_bytes());
    }

    pub fn buffer(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => {
                self.count(bytes.len());
                self.out.extend(bytes);
            }
            None => self.int(-1),
        }
    }

    pub fn string(&mut self, value: &str) {
        self.buffer(Some(value.as_bytes()));
    }

    /// The number of items that follow.
    pub fn count(&mut self, count: usize) {
        // Trees, and so answers, are far smaller: `metadata::limits`.
        self.int(i32::try_from(count).unwrap_or(i32::MAX));
    }

    pub fn finish(self) {
        let length = self.out.len() - self.start - 4;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
