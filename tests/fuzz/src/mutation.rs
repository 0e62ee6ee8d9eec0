//! Ways to spoil bytes, drawn from a seeded generator.

/// Seeded pseudo-random numbers (xorshift): the same seed gives the same run everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Neighbouring seeds begin alike: a few steps part them.
        for _ in 0..8 {
            random.next();
        }
        random
    }

    #[allow(clippy::should_implement_trait, reason = "an endless stream has no use for an option")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Numbers that decoders trip over: extremes and signs as lengths, counts and variable-length numbers.
const TRIPS: &[&[u8]] = &[
    &[0xff, 0xff],
    &[0xff, 0xfe],
    &[0x7f, 0xff],
    &[0x80, 0x00],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xfe],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0, 0x0f, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0x3f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    &[0, 0, 0, 0, 0, 0, 0, 0],
];

/// `bytes` with one to four places spoilt. The first `keep` bytes stay.
pub fn mutate(random: &mut Random, bytes: &[u8], keep: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let span = out.len().saturating_sub(keep);
        if span == 0 {
            out.push(random.next() as u8);
            continue;
        }
        let at = keep + random.below(span);
        match random.below(8) {
            0 => out.truncate(at),
            1 | 2 => out[at] = random.next() as u8,
            3 => out[at] ^= 1 << random.below(8),
            4 | 5 => {
                let trip = TRIPS[random.below(TRIPS.len())];
                let end = (at + trip.len()).min(out.len());
                out[at..end].copy_from_slice(&trip[..end - at]);
            }
            6 => {
                let trip = TRIPS[random.below(TRIPS.len())];
                out.splice(at..at, trip.iter().copied());
            }
            _ => {
                let end = (at + 1 + random.below(32)).min(out.len());
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
        }
    }
    out
}
