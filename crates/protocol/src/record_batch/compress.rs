//! Packing records as Kafka's clients expect them: gzip, snappy in Java's framing, LZ4 frames of independent blocks,
//! zstd.

use std::io::{self, Read, Write};

use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::decompress::XERIAL_HEADER;
use super::header::Compression;

/// The block size of Java's snappy stream.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;

/// Zstd's and Kafka's default level.
const ZSTD_LEVEL: i32 = 3;

/// How records are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packing {
    pub compression: Compression,
    /// Of gzip 1 to 9, of zstd −131,072 to 22; none is the codec's own choice. Snappy has no levels, and the LZ4 that
    /// is used here has one.
    pub level: Option<i32>,
}

impl From<Compression> for Packing {
    fn from(compression: Compression) -> Self {
        Self { compression, level: None }
    }
}

/// Appends the packed form of `plain` to `out`.
pub fn compress(packing: Packing, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    compress_from(packing, &mut &*plain, out)
}

/// Compresses the output of `plain` to `out`, piece by piece.
pub(super) fn compress_from(packing: Packing, plain: &mut impl Read, mut out: impl Write) -> io::Result<()> {
    match packing.compression {
        Compression::None => {
            io::copy(plain, &mut out)?;
        }
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, gzip_level(packing.level));
            io::copy(plain, &mut encoder)?;
            encoder.finish()?;
        }
        Compression::Snappy => {
            out.write_all(&XERIAL_HEADER)?;
            let mut encoder = snap::raw::Encoder::new();
            let mut block = Vec::with_capacity(SNAPPY_BLOCK_BYTES);
            while plain.take(SNAPPY_BLOCK_BYTES as u64).read_to_end(&mut block)? > 0 {
                let packed = encoder.compress_vec(&block)?;
                // A block of 32 KiB packs to little more than itself.
                out.write_all(&(packed.len() as u32).to_be_bytes())?;
                out.write_all(&packed)?;
                block.clear();
            }
        }
        Compression::Lz4 => {
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            io::copy(plain, &mut encoder)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, packing.level.unwrap_or(ZSTD_LEVEL))?;
            io::copy(plain, &mut encoder)?;
            encoder.finish()?;
        }
    }
    Ok(())
}

/// −1 is gzip's default too.
fn gzip_level(level: Option<i32>) -> flate2::Compression {
    match level.and_then(|level| u32::try_from(level).ok()) {
        Some(level) => flate2::Compression::new(level.min(flate2::Compression::best().level())),
        None => flate2::Compression::default(),
    }
}
