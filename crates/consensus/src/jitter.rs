//! The jitter of election timeouts, from a seed: the Raft library would use the thread's entropy, and a run could not
//! be replayed.

/// SplitMix64: a full period over 64 bits, and good enough to keep three members from timing out together.
#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number in `low..=high`; `low` if the range is empty.
    pub fn draw(&mut self, low: usize, high: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let width = high.saturating_sub(low) as u64 + 1;
        low + usize::try_from(mixed % width).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_range_and_repeats_by_seed() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..1_000).map(|_| jitter.draw(11, 20)).collect::<Vec<_>>()
        };
        let first = draw(7);
        assert_eq!(first, draw(7));
        assert_ne!(first, draw(8));
        for value in 11..=20 {
            assert!(first.contains(&value), "{value} is never drawn");
        }
        assert!(first.iter().all(|value| (11..=20).contains(value)));
        assert_eq!(Jitter::new(1).draw(5, 4), 5);
    }
}
