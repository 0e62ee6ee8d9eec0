//! The machine's own limits: synced RocksDB batches, plain file writes, sendfile and loopback TCP.

use std::fs::File;
use std::io::Read as _;
#[cfg(feature = "real-client")]
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

/// Bytes per write, read and send: the size of a full batch of a busy producer.
pub const PIECE_BYTES: usize = 1024 * 1024;

/// Write batches of one 256-byte entry, each synced, by one thread; per second.
pub fn synced_rocksdb_writes_per_s(folder: &Path, duration: Duration) -> Result<f64> {
    let database = rocksdb::DB::open_default(folder)?;
    let mut options = rocksdb::WriteOptions::default();
    options.set_sync(true);
    let started = Instant::now();
    let mut count = 0u64;
    while started.elapsed() < duration {
        let mut batch = rocksdb::WriteBatch::default();
        batch.put(count.to_be_bytes(), [7u8; 256]);
        database.write_opt(batch, &options)?;
        count += 1;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Plain buffered writes of one file, front to back.
pub fn plain_write(path: &Path, bytes: usize) -> Result<Duration> {
    let piece = vec![7u8; PIECE_BYTES];
    let file = File::create(path)?;
    let started = Instant::now();
    for at in (0..bytes).step_by(PIECE_BYTES) {
        file.write_all_at(&piece, u64::try_from(at)?)?;
    }
    Ok(started.elapsed())
}

/// Reads every file of a folder whose name ends so, front to back; how many bytes they have, and how long it took.
pub fn plain_read(folder: &Path, suffix: &str) -> Result<(usize, Duration)> {
    let mut piece = vec![0u8; PIECE_BYTES];
    let started = Instant::now();
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().ends_with(suffix) {
            continue;
        }
        let mut file = File::open(entry.path())?;
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                break;
            }
            bytes += count;
        }
    }
    Ok((bytes, started.elapsed()))
}

/// Sends a file's first `bytes` over loopback with sendfile, in pieces; a second thread reads and drops them.
pub fn sendfile_over_loopback(path: &Path, bytes: usize) -> Result<Duration> {
    let file = File::open(path)?;
    over_loopback(bytes, |stream| {
        let mut offset = 0u64;
        while offset < u64::try_from(bytes)? {
            let left = bytes - usize::try_from(offset)?;
            let sent = rustix::fs::sendfile(&*stream, &file, Some(&mut offset), left.min(PIECE_BYTES))?;
            ensure!(sent > 0, "the file ended early");
        }
        Ok(())
    })
}

/// Writes over loopback TCP from memory, in pieces.
#[cfg(feature = "real-client")]
pub fn write_over_loopback(bytes: usize) -> Result<Duration> {
    let piece = vec![7u8; PIECE_BYTES];
    over_loopback(bytes, |stream| {
        for _ in 0..bytes / PIECE_BYTES {
            stream.write_all(&piece)?;
        }
        Ok(())
    })
}

/// Times `send` until the reader at the other end has everything.
pub fn over_loopback(bytes: usize, send: impl FnOnce(&mut TcpStream) -> Result<()>) -> Result<Duration> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut peer, _) = listener.accept()?;
    let reader = std::thread::spawn(move || -> Result<()> {
        let mut buffer = vec![0u8; PIECE_BYTES];
        let mut left = bytes;
        while left > 0 {
            let count = peer.read(&mut buffer)?;
            ensure!(count > 0, "the sender closed early");
            left = left.saturating_sub(count);
        }
        Ok(())
    });
    let started = Instant::now();
    send(&mut stream)?;
    reader.join().map_err(|_| anyhow!("the reading thread panicked"))??;
    Ok(started.elapsed())
}
