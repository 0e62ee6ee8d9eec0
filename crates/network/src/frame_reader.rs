//! Frames out of a byte stream: four bytes of size, then as many bytes.
//!
//! Invariants: a connection that has only claimed a size holds no more than [`READ_CHUNK_BYTES`], and one that waits
//! after a few bytes holds those; memory grows in steps, each only after the one before has been filled by bytes that
//! really came; a frame up to [`STEP_BYTES`] is read into a buffer of its own exact size, so that no byte of it is
//! copied twice.

use bytes::{Buf as _, BytesMut};
use ottla_protocol::frame::{self, FrameError, LENGTH_BYTES};

/// What is read at a time while no frame's size is known. Within what the allocator serves from its per-thread
/// cache, so that an idle connection can give the buffer back at no cost.
pub const READ_CHUNK_BYTES: usize = 16 * 1024;

/// As above before a client has logged in: longer than most logins, and little enough for thousands of clients.
pub const LOGIN_CHUNK_BYTES: usize = 1024;

/// A copy of up to this many bytes costs less than the page that they would keep.
const REST_BYTES_MAX: usize = 1024;

/// What a frame of a client that is known may hold without being counted in a budget.
pub const PROBATION_BYTES: usize = 64 * 1024;

/// The room of a frame that has passed its probation: all of it for what a producer sends by default,
/// `max.request.size`.
const STEP_BYTES: usize = 1024 * 1024;
/// A larger frame gets this many times the room each time it has filled what it had: a quarter of its bytes is copied
/// once more, and a claimed size costs no more than four times what came.
const STEP_FACTOR: usize = 4;

/// A larger buffer is not kept for the next frame.
const KEPT_BYTES_MAX: usize = 2 * STEP_BYTES;

#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    frame_bytes_max: usize,
    is_before_login: bool,
}

impl FrameReader {
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), frame_bytes_max, is_before_login: false }
    }

    /// From the next frame on: the largest frame, and whether its client has to log in first.
    pub fn set_stage(&mut self, frame_bytes_max: usize, is_before_login: bool) {
        (self.frame_bytes_max, self.is_before_login) = (frame_bytes_max, is_before_login);
    }

    /// The size of the frame at the front, prefix excluded; none while the prefix is not complete.
    fn size(&self) -> Result<Option<usize>, FrameError> {
        match self.buffer.first_chunk::<LENGTH_BYTES>() {
            Some(prefix) => frame::parse_length(*prefix, self.frame_bytes_max).map(Some),
            None => Ok(None),
        }
    }

    /// The next whole frame, without its prefix.
    pub fn next_frame(&mut self) -> Result<Option<BytesMut>, FrameError> {
        let Some(size) = self.size()? else { return Ok(None) };
        if self.buffer.len() < LENGTH_BYTES + size {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(size);
        if size > KEPT_BYTES_MAX {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some(frame))
    }

    /// The room that a budget must have granted before [`FrameReader::prepare`].
    pub fn wanted_bytes(&self) -> usize {
        // The buffer of a former frame may be larger than what is needed now.
        let kept = if self.is_in_frame() { self.buffer.capacity() } else { 0 };
        self.next_capacity().max(kept)
    }

    /// What is read at a time while no frame's size is known.
    fn chunk_bytes(&self) -> usize {
        if self.is_before_login { LOGIN_CHUNK_BYTES } else { READ_CHUNK_BYTES }
    }

    /// The capacity that the buffer should have for the next read.
    fn next_capacity(&self) -> usize {
        let Ok(Some(size)) = self.size() else { return self.chunk_bytes() };
        let whole = LENGTH_BYTES + size;
        let arrived = self.buffer.len();
        let first_step = match arrived {
            _ if self.is_before_login => LOGIN_CHUNK_BYTES,
            0..READ_CHUNK_BYTES => READ_CHUNK_BYTES,
            READ_CHUNK_BYTES..PROBATION_BYTES => PROBATION_BYTES,
            PROBATION_BYTES.. => STEP_BYTES,
        };
        let mut step = first_step;
        while step <= arrived {
            step = step.saturating_mul(STEP_FACTOR);
        }
        whole.min(step)
    }

    /// What the buffer holds now.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Makes room; returns the buffer and how many bytes may be read into it now (never 0).
    ///
    /// While no frame is under way, and for small frames, a chunk: what follows in the stream comes along. For a large
    /// frame no more than what is missing of it.
    pub fn prepare(&mut self) -> (&mut BytesMut, usize) {
        let capacity = self.next_capacity().max(self.buffer.len() + 1);
        if self.buffer.capacity() < capacity {
            let missing = capacity - self.buffer.len();
            // Reuses the buffer of the frame before where its handler has let go of it; else a new one of the exact
            // size: `reserve` would double.
            if !self.buffer.try_reclaim(missing) {
                let mut larger = BytesMut::with_capacity(capacity);
                larger.extend_from_slice(&self.buffer);
                self.buffer = larger;
            }
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let missing_of_frame = match self.size() {
            Ok(Some(size)) => (LENGTH_BYTES + size).saturating_sub(self.buffer.len()),
            _ => 0,
        };
        let limit = room.min(missing_of_frame.max(self.chunk_bytes()));
        (&mut self.buffer, limit)
    }

    /// Whether part of a frame has arrived, and its rest has not.
    pub fn is_in_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Bytes that have arrived of the frame under way.
    pub fn arrived_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing comes at the moment: an idle connection holds no buffer, and ten thousand that have sent a size and
    /// nothing else must not hold a page each.
    pub fn rest(&mut self) {
        let is_large = self.buffer.capacity() > 2 * REST_BYTES_MAX;
        if self.buffer.is_empty() || (is_large && self.buffer.len() <= REST_BYTES_MAX) {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut as _;

    const MAX: usize = 100 * 1024 * 1024;

    fn feed(reader: &mut FrameReader, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (buffer, limit) = reader.prepare();
            assert!(limit > 0);
            let count = limit.min(bytes.len());
            buffer.put_slice(&bytes[..count]);
            bytes = &bytes[count..];
        }
    }

    fn frame(size: usize, fill: u8) -> Vec<u8> {
        let mut bytes = i32::try_from(size).expect("fits").to_be_bytes().to_vec();
        bytes.resize(4 + size, fill);
        bytes
    }

    #[test]
    fn frames_come_out_whole_wherever_they_are_cut() {
        let mut wire = frame(9, 1);
        wire.extend(frame(30, 2));
        for cut in 0..=wire.len() {
            let mut reader = FrameReader::new(MAX);
            let mut frames = Vec::new();
            for piece in [&wire[..cut], &wire[cut..]] {
                feed(&mut reader, piece);
                while let Some(frame) = reader.next_frame().expect("good frames") {
                    frames.push((frame.len(), frame[0]));
                }
            }
            assert_eq!(frames, [(9, 1), (30, 2)], "cut at {cut}");
            assert!(!reader.is_in_frame());
        }
    }

    #[test]
    fn a_claimed_size_costs_nothing() {
        let mut reader = FrameReader::new(MAX);
        feed(&mut reader, &i32::try_from(MAX).expect("fits").to_be_bytes());
        assert!(reader.next_frame().expect("allowed").is_none());
        let (buffer, _) = reader.prepare();
        assert!(buffer.capacity() <= READ_CHUNK_BYTES);
        assert_eq!(reader.wanted_bytes(), READ_CHUNK_BYTES);
        reader.rest();
        assert!(reader.buffer.capacity() <= 2 * REST_BYTES_MAX);
        assert_eq!(reader.arrived_bytes(), 4);
    }

    #[test]
    fn a_large_frame_grows_with_what_came_and_is_read_exactly() {
        let size = 3 * 1024 * 1024;
        let wire = frame(size, 7);
        let mut reader = FrameReader::new(MAX);
        let mut sent = 0;
        while sent < wire.len() {
            let (buffer, limit) = reader.prepare();
            let step = match sent {
                0..READ_CHUNK_BYTES => READ_CHUNK_BYTES,
                READ_CHUNK_BYTES..PROBATION_BYTES => PROBATION_BYTES,
                _ => wire.len(),
            };
            assert!(buffer.capacity() <= step + 64, "{} after {sent}", buffer.capacity());
            let count = limit.min(wire.len() - sent);
            buffer.put_slice(&wire[sent..sent + count]);
            sent += count;
        }
        assert_eq!(reader.next_frame().expect("good").map(|frame| frame.len()), Some(size));
        reader.rest();
        assert_eq!(reader.buffer.capacity(), 0);
    }

    #[test]
    fn a_claimed_size_is_wanted_in_steps() {
        let mut reader = FrameReader::new(MAX);
        let wire = frame(MAX, 7);
        let mut wanted = Vec::new();
        let mut sent = 0;
        while sent < 20 * STEP_BYTES {
            wanted.push(reader.wanted_bytes());
            let (buffer, limit) = reader.prepare();
            buffer.put_slice(&wire[sent..sent + limit]);
            sent += limit;
        }
        wanted.dedup();
        let large = [STEP_BYTES, 4 * STEP_BYTES, 16 * STEP_BYTES, 64 * STEP_BYTES];
        assert_eq!(wanted[..2], [READ_CHUNK_BYTES, PROBATION_BYTES]);
        assert_eq!(wanted[2..], large);
    }

    /// What came is the bound of what is held, from the first byte on.
    #[test]
    fn before_the_login_a_frame_holds_four_times_what_came_at_most() {
        const LOGIN_MAX: usize = 512 * 1024;
        let wire = frame(LOGIN_MAX, 7);
        let mut reader = FrameReader::new(MAX);
        reader.set_stage(LOGIN_MAX, true);
        let mut sent = 0;
        while sent < wire.len() {
            let wanted = reader.wanted_bytes();
            assert!(wanted <= LOGIN_CHUNK_BYTES.max(STEP_FACTOR * sent), "{wanted} after {sent}");
            let (buffer, limit) = reader.prepare();
            assert!(buffer.capacity() <= wanted, "{} and {wanted}", buffer.capacity());
            buffer.put_slice(&wire[sent..sent + limit]);
            sent += limit;
        }
        assert_eq!(reader.next_frame().expect("good").map(|frame| frame.len()), Some(LOGIN_MAX));
        feed(&mut reader, &frame(60, 1));
        assert!(reader.next_frame().expect("good").is_some());
        reader.rest();
        assert_eq!(reader.held_bytes(), 0, "an idle connection holds nothing");
    }

    #[test]
    fn the_buffer_of_a_handled_frame_is_used_again() {
        let mut reader = FrameReader::new(MAX);
        feed(&mut reader, &frame(1024 * 1024, 7));
        drop(reader.next_frame().expect("good").expect("whole"));
        feed(&mut reader, &frame(1024 * 1024, 8)[..READ_CHUNK_BYTES]);
        let before = reader.prepare().0.capacity();
        assert!(before >= 1024 * 1024, "{before}");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [
            &(-1i32).to_be_bytes()[..],
            &0i32.to_be_bytes(),
            &i32::MAX.to_be_bytes(),
            b"GET / HTTP/1.1\r\n",
            b"POST /",
            &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01],
        ] {
            let mut reader = FrameReader::new(MAX);
            feed(&mut reader, bytes);
            assert!(reader.next_frame().is_err(), "{bytes:?}");
        }
    }
}
