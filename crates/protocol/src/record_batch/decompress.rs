//! The four codecs as streams of bytes, with bounds: the size that a batch claims to decompress to is never trusted or
//! allocated beforehand.

use std::cell::RefCell;
use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use super::header::Compression;

/// The largest snappy block that is unpacked. Snappy unpacks a block at once; Java's clients write blocks of 32 KiB,
/// librdkafka writes a batch as one block. A batch of `max.message.bytes` cannot unpack to more than 22 times its size.
const SNAPPY_BLOCK_MAX_BYTES: usize = 32 * 1024 * 1024;

/// No valid snappy block unpacks to more than this many times its size: a copy of 64 bytes takes three.
const SNAPPY_RATIO_MAX: usize = 22;

/// The largest window of a zstd frame, as a power of two: that of level 22. Its memory is only touched as far as data
/// are decompressed, and the caller bounds that.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A decoder that unpacked more than this is not kept for the next batch: its window may have grown.
const ZSTD_KEEP_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Packed records that do not unpack.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecompressError {
    #[error("the records unpack to more than {max} bytes")]
    TooLarge { max: u64 },
    #[error("the records do not unpack: {0}")]
    Corrupt(String),
}

impl DecompressError {
    /// The meaning of an error of [`Decompressor`]'s `read`.
    pub fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(own) => own.clone(),
            None => Self::Corrupt(error.to_string()),
        }
    }
}

fn corrupt(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, DecompressError::Corrupt(text.to_owned()))
}

/// Unpacked bytes of a batch, as a stream.
pub struct Decompressor<'a>(Codec<'a>);

enum Codec<'a> {
    None(&'a [u8]),
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    Snappy(Snappy<'a>),
    Lz4(Box<FrameDecoder<&'a [u8]>>),
    Zstd(Zstd<'a>),
}

impl<'a> Decompressor<'a> {
    /// Decompresses `packed`. Allocates windows and blocks of at most 32 MiB for any input; the reader must bound the
    /// output.
    pub fn new(compression: Compression, packed: &'a [u8]) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => Codec::None(packed),
            Compression::Gzip => Codec::Gzip(Box::new(MultiGzDecoder::new(packed))),
            Compression::Snappy => Codec::Snappy(Snappy::new(packed)),
            Compression::Lz4 => Codec::Lz4(Box::new(FrameDecoder::new(packed))),
            Compression::Zstd => Codec::Zstd(Zstd::new(packed)?),
        }))
    }
}

impl Read for Decompressor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Codec::None(bytes) => bytes.read(out),
            Codec::Gzip(decoder) => decoder.read(out),
            Codec::Snappy(decoder) => decoder.read(out),
            Codec::Lz4(decoder) => decoder.read(out),
            Codec::Zstd(decoder) => decoder.read(out),
        }
    }
}

/// A stream that ends with [`DecompressError::TooLarge`] once it has yielded more than `left` bytes.
pub(super) struct AtMost<R> {
    inner: R,
    left: u64,
    max: u64,
}

impl<R> AtMost<R> {
    pub fn new(inner: R, max: u64) -> Self {
        Self { inner, left: max, max }
    }
}

impl<R: Read> Read for AtMost<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, DecompressError::TooLarge { max: self.max }));
            }
        }
        Ok(count)
    }
}

/// Unpacks all of `packed`, at most `max_bytes`.
pub fn decompress(compression: Compression, packed: &[u8], max_bytes: u64) -> Result<Vec<u8>, DecompressError> {
    let mut decompressor = Decompressor::new(compression, packed).map_err(|error| DecompressError::from_io(&error))?;
    let mut out = Vec::new();
    // One byte more than allowed distinguishes "exactly full" from "too much".
    (&mut decompressor)
        .take(max_bytes.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|error| DecompressError::from_io(&error))?;
    if out.len() as u64 > max_bytes {
        return Err(DecompressError::TooLarge { max: max_bytes });
    }
    Ok(out)
}

/// Java's framing of snappy (xerial): a header, then blocks with their lengths. Without the header it is one raw block.
struct Snappy<'a> {
    packed: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
}

const XERIAL_MAGIC: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// The magic, a version and the oldest version that understands it.
const XERIAL_HEADER_BYTES: usize = 16;

/// The header that [`super::compress`] writes: version 1, readable by version 1.
pub(super) const XERIAL_HEADER: [u8; XERIAL_HEADER_BYTES] =
    [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];

impl<'a> Snappy<'a> {
    fn new(packed: &'a [u8]) -> Self {
        let framed = packed.starts_with(XERIAL_MAGIC);
        Self { packed, framed, block: Vec::new(), at: 0 }
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, rest) =
            self.packed.split_at_checked(count).ok_or_else(|| corrupt("a snappy frame ends too early"))?;
        self.packed = rest;
        Ok(head)
    }

    /// Decompresses the next block; false if there is none.
    fn next_block(&mut self) -> io::Result<bool> {
        // A stream may be several streams in a row.
        while self.framed && self.packed.starts_with(XERIAL_MAGIC) {
            self.take(XERIAL_HEADER_BYTES)?;
        }
        if self.packed.is_empty() {
            return Ok(false);
        }
        let block = if self.framed {
            let length = self.take(4)?;
            let length = length.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            self.take(usize::try_from(length).unwrap_or(usize::MAX))?
        } else {
            self.take(self.packed.len())?
        };
        let size = snap::raw::decompress_len(block).map_err(|error| corrupt(&error.to_string()))?;
        if size > SNAPPY_BLOCK_MAX_BYTES {
            let error = DecompressError::TooLarge { max: SNAPPY_BLOCK_MAX_BYTES as u64 };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if size > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(corrupt("a snappy block declares a size that it cannot have"));
        }
        self.block.resize(size, 0);
        let written = snap::raw::Decoder::new()
            .decompress(block, &mut self.block)
            .map_err(|error| corrupt(&error.to_string()))?;
        self.block.truncate(written);
        self.at = 0;
        Ok(true)
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        if let (Some(target), Some(source)) = (out.get_mut(..count), rest.get(..count)) {
            target.copy_from_slice(source);
        }
        self.at += count;
        Ok(count)
    }
}

thread_local! {
    /// A decoder of this thread between batches: setting one up costs more than a small batch.
    static ZSTD: RefCell<Option<ZstdDecoder<'static>>> = const { RefCell::new(None) };
}

struct Zstd<'a> {
    /// Taken only when dropped.
    decoder: Option<ZstdDecoder<'static>>,
    packed: &'a [u8],
    /// Whether the last frame is complete, or none has begun.
    between_frames: bool,
    unpacked_bytes: u64,
}

impl<'a> Zstd<'a> {
    fn new(packed: &'a [u8]) -> io::Result<Self> {
        let kept = ZSTD.with(|kept| kept.try_borrow_mut().ok().and_then(|mut kept| kept.take()));
        let decoder = match kept {
            Some(decoder) => decoder,
            None => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                decoder
            }
        };
        Ok(Self { decoder: Some(decoder), packed, between_frames: true, unpacked_bytes: 0 })
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let decoder = self.decoder.as_mut().ok_or_else(|| corrupt("the decoder is gone"))?;
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.packed.is_empty() && self.between_frames {
                return Ok(0);
            }
            let status = decoder.run_on_buffers(self.packed, out)?;
            self.packed = self.packed.get(status.bytes_read..).unwrap_or_default();
            self.between_frames = status.remaining == 0;
            self.unpacked_bytes += status.bytes_written as u64;
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if status.bytes_read == 0 && !self.between_frames {
                return Err(corrupt("a zstd frame ends too early"));
            }
        }
    }
}

impl Drop for Zstd<'_> {
    fn drop(&mut self) {
        if self.unpacked_bytes > ZSTD_KEEP_MAX_BYTES {
            return;
        }
        if let Some(mut decoder) = self.decoder.take()
            && decoder.reinit().is_ok()
        {
            ZSTD.with(|kept| {
                if let Ok(mut kept) = kept.try_borrow_mut() {
                    *kept = Some(decoder);
                }
            });
        }
    }
}
