//! Packing records as Kafka's clients expect them: gzip, snappy in Java's framing, LZ4 frames of independent blocks, zstd.

use std::io::{self, Write};

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
    /// Of gzip 1 to 9, of zstd −131,072 to 22; none is the codec's own choice. Snappy has no levels, and the LZ4 that is used here has one.
    pub level: Option<i32>,
}

impl From<Compression> for Packing {
    fn from(compression: Compression) -> Self {
        Self { compression, level: None }
    }
}

/// Appends the packed form of `plain` to `out`.
pub fn compress(packing: Packing, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match packing.compression {
        Compression::None => out.extend_from_slice(plain),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, gzip_level(packing.level));
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
        Compression::Snappy => {
            out.extend_from_slice(&XERIAL_HEADER);
            let mut encoder = snap::raw::Encoder::new();
            for block in plain.chunks(SNAPPY_BLOCK_BYTES) {
                let packed = encoder.compress_vec(block)?;
                // A block of 32 KiB packs to little more than itself.
                out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                out.extend_from_slice(&packed);
            }
        }
        Compression::Lz4 => {
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(plain)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, packing.level.unwrap_or(ZSTD_LEVEL))?;
            encoder.write_all(plain)?;
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
