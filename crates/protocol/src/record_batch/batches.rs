//! Walking concatenated batches: a segment's bytes, or a partition's records in an answer.

use super::header::{BatchHeader, HeaderError, LOG_OVERHEAD_BYTES};

/// One batch within its surroundings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch<'a> {
    pub header: BatchHeader,
    /// The whole batch, header included.
    pub bytes: &'a [u8],
    /// Where it begins in the bytes that are walked.
    pub position: usize,
}

/// The batches in a row of bytes. A batch that is cut off at the end is not yielded (an answer is cut by size): see
/// [`Batches::position`]. After an error nothing follows.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, failed: false }
    }

    /// How many bytes whole batches have taken so far.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        if self.failed || rest.len() < LOG_OVERHEAD_BYTES {
            return None;
        }
        let header = match BatchHeader::parse(rest) {
            Ok(header) => header,
            // A cut-off header is an end, not an error.
            Err(HeaderError::TooShort(_)) => return None,
            Err(error) => {
                self.failed = true;
                return Some(Err(error));
            }
        };
        let bytes = rest.get(..header.size_bytes())?;
        let position = self.position;
        self.position += bytes.len();
        Some(Ok(Batch { header, bytes, position }))
    }
}
