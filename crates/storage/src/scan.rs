//! Walking the batches of a segment file: headers only, to find an offset, or whole batches, to check them.

use std::io;

use ottla_model::Offset;
use ottla_protocol::record_batch::{BatchHeader, HEADER_BYTES, verify_crc};

use crate::env::{File, Waits, read_at};

/// How much a walk over headers reads at once: the distance between index entries, so that one read is usually enough.
const HEADER_READ_BYTES: usize = 4096 + HEADER_BYTES;

/// The size of one read in a scan of whole batches: large sequential reads, which suit disks.
const BATCH_READ_BYTES: usize = 1 << 20;

/// A batch in a segment file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchAt {
    pub header: BatchHeader,
    pub position: u32,
}

impl BatchAt {
    pub fn size_bytes(&self) -> u32 {
        u32::try_from(self.header.size_bytes()).unwrap_or(u32::MAX)
    }

    pub fn end(&self) -> u32 {
        self.position.saturating_add(self.size_bytes())
    }
}

/// The result of a step of the scan.
pub(crate) enum Step<T> {
    Batch(T),
    /// Exactly at the end of the range.
    End,
    /// The bytes from this position on are no whole batch.
    Invalid {
        position: u32,
    },
}

/// Reads headers from a position at which a batch is known to begin. Checksums are not checked.
pub(crate) struct HeaderScan<'f, F> {
    file: &'f F,
    waits: Waits,
    position: u32,
    end: u32,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_at: u32,
}

impl<'f, F: File> HeaderScan<'f, F> {
    pub fn new(file: &'f F, position: u32, end: u32) -> Self {
        Self { file, waits: Waits::Yes, position, end, buffer: Vec::new(), buffer_at: position }
    }

    pub fn waiting(mut self, waits: Waits) -> Self {
        self.waits = waits;
        self
    }

    pub fn next(&mut self) -> io::Result<Step<BatchAt>> {
        let position = self.position;
        if position >= self.end {
            return Ok(if position == self.end { Step::End } else { Step::Invalid { position } });
        }
        let header = match self.buffered().and_then(|bytes| BatchHeader::parse(bytes).ok()) {
            Some(header) => Some(header),
            None => {
                let len = HEADER_READ_BYTES.min((self.end - position) as usize);
                self.buffer.resize(len, 0);
                let read = read_at(self.file, &mut self.buffer, u64::from(position), self.waits);
                self.buffer.truncate(*read.as_ref().unwrap_or(&0));
                self.buffer_at = position;
                read?;
                BatchHeader::parse(&self.buffer).ok()
            }
        };
        let Some(header) = header else { return Ok(Step::Invalid { position }) };
        let batch = BatchAt { header, position };
        if header.last_offset_delta < 0 || batch.end() > self.end {
            return Ok(Step::Invalid { position });
        }
        self.position = batch.end();
        Ok(Step::Batch(batch))
    }

    /// The first batch whose last offset is `offset` or later.
    pub fn find(&mut self, offset: Offset) -> io::Result<Step<BatchAt>> {
        loop {
            match self.next()? {
                Step::Batch(batch) if batch.header.last_offset() < offset => {}
                step => return Ok(step),
            }
        }
    }

    fn buffered(&self) -> Option<&[u8]> {
        let at = self.position.checked_sub(self.buffer_at)?;
        self.buffer.get(at as usize..)
    }
}

/// Walks whole batches and checks each: format, checksum, and that offsets ascend.
pub(crate) struct BatchScan<'f, F> {
    file: &'f F,
    position: u32,
    end: u32,
    next_offset: Offset,
    base_offset: Offset,
    buffer: Vec<u8>,
    buffer_at: u32,
    read_bytes: usize,
}

impl<'f, F: File> BatchScan<'f, F> {
    /// Of the whole segment file with this base offset.
    pub fn new(file: &'f F, base_offset: Offset, end: u32) -> Self {
        let read_bytes = BATCH_READ_BYTES;
        Self {
            file,
            position: 0,
            end,
            next_offset: base_offset,
            base_offset,
            buffer: Vec::new(),
            buffer_at: 0,
            read_bytes,
        }
    }

    /// Reads pieces of another size than usual.
    pub fn with_read_bytes(mut self, read_bytes: usize) -> Self {
        self.read_bytes = read_bytes;
        self
    }

    /// From a position that is known to begin the batch of `next_offset`.
    pub fn from(mut self, position: u32, next_offset: Offset) -> Self {
        self.position = position;
        self.buffer_at = position;
        self.next_offset = next_offset;
        self
    }

    /// The next batch and its bytes.
    pub fn next(&mut self) -> io::Result<Step<(BatchAt, &[u8])>> {
        let position = self.position;
        if position >= self.end {
            return Ok(if position == self.end { Step::End } else { Step::Invalid { position } });
        }
        let invalid = Ok(Step::Invalid { position });
        if self.end - position < HEADER_BYTES as u32 {
            return invalid;
        }
        self.fill(HEADER_BYTES)?;
        let Ok(header) = BatchHeader::parse(self.buffered()) else { return invalid };
        let batch = BatchAt { header, position };
        if batch.end() > self.end || batch.size_bytes() == u32::MAX || !self.is_next(&header) {
            return invalid;
        }
        self.fill(header.size_bytes())?;
        let at = (position - self.buffer_at) as usize;
        let Some(bytes) = self.buffer.get(at..at + header.size_bytes()) else { return invalid };
        if !verify_crc(bytes) {
            return invalid;
        }
        self.position = batch.end();
        self.next_offset = header.next_offset();
        Ok(Step::Batch((batch, bytes)))
    }

    fn is_next(&self, header: &BatchHeader) -> bool {
        header.last_offset_delta >= 0
            && header.base_offset >= self.next_offset
            && crate::offset_index::relative_offset(self.base_offset, header.last_offset()).is_some()
    }

    fn buffered(&self) -> &[u8] {
        self.buffer.get((self.position - self.buffer_at) as usize..).unwrap_or_default()
    }

    /// Has at least `len` bytes from the position on in the buffer, unless the file ends before.
    fn fill(&mut self, len: usize) -> io::Result<()> {
        if self.buffered().len() >= len {
            return Ok(());
        }
        let wanted = len.max(self.read_bytes).min((self.end - self.position) as usize);
        self.buffer.resize(wanted, 0);
        let count = self.file.read_at(&mut self.buffer, u64::from(self.position))?;
        self.buffer.truncate(count);
        self.buffer_at = self.position;
        Ok(())
    }
}
