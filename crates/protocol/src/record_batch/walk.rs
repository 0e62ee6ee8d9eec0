//! One pass over the records of a batch, over bytes in place or out of a decompressor: lengths only, nothing is copied
//! or kept.

use std::cell::RefCell;
use std::io::{self, Read};

use super::decompress::DecompressError;
use crate::wire::{Reader, WireError};

/// Where records come from.
pub(super) trait Source {
    fn u8(&mut self) -> Result<u8, WalkError>;
    fn varint(&mut self) -> Result<i32, WalkError>;
    fn varlong(&mut self) -> Result<i64, WalkError>;
    fn skip(&mut self, count: u64) -> Result<(), WalkError>;
    /// How many bytes have been read.
    fn position(&self) -> u64;
    /// How many bytes are left, where that is known.
    fn remaining(&self) -> Option<u64>;
    /// Whether nothing is left.
    fn is_at_end(&mut self) -> Result<bool, WalkError>;
}

/// Why the records of a batch cannot be walked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error("{0}")]
    Structure(String),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
}

impl WalkError {
    fn structure(text: &str) -> Self {
        Self::Structure(text.to_owned())
    }
}

impl From<WireError> for WalkError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Truncated => Self::structure("Incorrect declared batch size, premature EOF reached"),
            error => Self::Structure(format!("Found invalid record structure: {error}")),
        }
    }
}

/// The facts about a record that validation needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordFacts {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub has_key: bool,
}

/// Steps over one record; every length is held against the record's declared size.
pub(super) fn step<S: Source>(source: &mut S) -> Result<RecordFacts, WalkError> {
    let size = source.varint()?;
    let size_bytes = u64::try_from(size)
        .map_err(|_| WalkError::Structure(format!("Found invalid record structure: record size {size}")))?;
    if let Some(remaining) = source.remaining().filter(|remaining| size_bytes > *remaining) {
        return Err(WalkError::Structure(format!(
            "Invalid record size: expected {size} bytes in record payload, but instead the buffer has only {remaining} remaining bytes for a record"
        )));
    }
    let end = source.position() + size_bytes;
    source.u8()?; // attributes, unused so far
    let timestamp_delta = source.varlong()?;
    let offset_delta = source.varint()?;
    let has_key = skip_field(source, end, true)?;
    skip_field(source, end, true)?;
    let headers = source.varint()?;
    let headers = u64::try_from(headers)
        .map_err(|_| WalkError::Structure(format!("Found invalid number of record headers {headers}")))?;
    if headers > end.saturating_sub(source.position()) {
        return Err(WalkError::Structure(format!(
            "Found invalid number of record headers. {headers} is larger than the remaining size of the record"
        )));
    }
    for _ in 0..headers {
        skip_field(source, end, false)?;
        skip_field(source, end, true)?;
    }
    if source.position() != end {
        return Err(WalkError::Structure(format!(
            "Invalid record size: expected to read {size} bytes in record payload, but instead read {}",
            source.position() as i128 - (end - size_bytes) as i128
        )));
    }
    Ok(RecordFacts { timestamp_delta, offset_delta, has_key })
}

/// Steps over a length and its bytes; false for null.
fn skip_field<S: Source>(source: &mut S, end: u64, nullable: bool) -> Result<bool, WalkError> {
    let length = source.varint()?;
    if length == -1 && nullable {
        return Ok(false);
    }
    let length = u64::try_from(length)
        .map_err(|_| WalkError::Structure(format!("Found invalid record structure: field size {length}")))?;
    if length > end.saturating_sub(source.position()) {
        return Err(WalkError::Structure(format!(
            "Found invalid record structure: a field of {length} bytes does not fit into its record"
        )));
    }
    source.skip(length)?;
    Ok(true)
}

impl Source for Reader<'_> {
    fn u8(&mut self) -> Result<u8, WalkError> {
        Ok(self.i8()? as u8)
    }

    fn varint(&mut self) -> Result<i32, WalkError> {
        Ok(Reader::varint(self)?)
    }

    fn varlong(&mut self) -> Result<i64, WalkError> {
        Ok(Reader::varlong(self)?)
    }

    fn skip(&mut self, count: u64) -> Result<(), WalkError> {
        self.take(usize::try_from(count).map_err(|_| WireError::Truncated)?)?;
        Ok(())
    }

    fn position(&self) -> u64 {
        Reader::position(self) as u64
    }

    fn remaining(&self) -> Option<u64> {
        Some(Reader::remaining(self) as u64)
    }

    fn is_at_end(&mut self) -> Result<bool, WalkError> {
        Ok(Reader::remaining(self) == 0)
    }
}

/// How much decompressed data is held at once. Large enough that a read costs little, small enough to stay in the
/// cache.
const WINDOW_BYTES: usize = 64 * 1024;

thread_local! {
    /// The window of this thread, so that a batch costs no allocation.
    static WINDOW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Records out of a decompressor, a window at a time.
pub(super) struct Stream<'a, R> {
    input: R,
    window: &'a mut [u8],
    /// The start of the unconsumed part of the window.
    start: usize,
    end: usize,
    /// Bytes consumed before the window's start.
    consumed: u64,
    max_bytes: u64,
}

/// Runs `walk` over the output of `input`, at most `max_bytes` of it.
pub(super) fn with_stream<R: Read, T>(
    input: R,
    max_bytes: u64,
    walk: impl FnOnce(&mut Stream<'_, R>) -> Result<T, WalkError>,
) -> Result<T, WalkError> {
    WINDOW.with(|window| {
        let mut own;
        let mut shared = window.try_borrow_mut();
        // A walk within a walk does not happen; if it did, it would get a window of its own.
        let window: &mut Vec<u8> = match &mut shared {
            Ok(window) => window,
            Err(_) => {
                own = Vec::new();
                &mut own
            }
        };
        window.resize(WINDOW_BYTES, 0);
        walk(&mut Stream { input, window, start: 0, end: 0, consumed: 0, max_bytes })
    })
}

impl<R: Read> Stream<'_, R> {
    /// Reads until the window has something; false at the end of the input.
    fn fill(&mut self) -> Result<bool, WalkError> {
        if self.start < self.end {
            return Ok(true);
        }
        self.consumed += self.end as u64;
        self.start = 0;
        self.end = 0;
        let read = loop {
            match self.input.read(self.window) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DecompressError::from_io(&error).into()),
                Ok(read) => break read,
            }
        };
        self.end = read.min(self.window.len());
        if self.consumed + self.end as u64 > self.max_bytes {
            return Err(DecompressError::TooLarge { max: self.max_bytes }.into());
        }
        Ok(self.end > 0)
    }
}

impl<R: Read> Source for Stream<'_, R> {
    #[inline]
    fn u8(&mut self) -> Result<u8, WalkError> {
        if self.start >= self.end && !self.fill()? {
            return Err(WireError::Truncated.into());
        }
        let byte = self.window.get(self.start).copied().ok_or(WireError::Truncated)?;
        self.start += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<i32, WalkError> {
        let value = self.varlong()?;
        i32::try_from(value).map_err(|_| WireError::VarintTooLong.into())
    }

    fn varlong(&mut self) -> Result<i64, WalkError> {
        let mut value = 0_u64;
        for shift in 0..10 {
            let byte = self.u8()?;
            if shift == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(((value >> 1) as i64) ^ -((value & 1) as i64));
            }
        }
        Err(WireError::VarintTooLong.into())
    }

    fn skip(&mut self, mut count: u64) -> Result<(), WalkError> {
        loop {
            let step = count.min((self.end - self.start) as u64);
            self.start += step as usize;
            count -= step;
            if count == 0 {
                return Ok(());
            }
            if !self.fill()? {
                return Err(WireError::Truncated.into());
            }
        }
    }

    fn position(&self) -> u64 {
        self.consumed + self.start as u64
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn is_at_end(&mut self) -> Result<bool, WalkError> {
        Ok(!self.fill()?)
    }
}
