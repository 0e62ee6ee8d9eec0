//! A plan is carried out in waves of bounded size: a cluster must go on to serve its clients meanwhile.

use super::PlannedMove;

/// How much may be under way at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaveLimits {
    pub partitions: usize,
    /// A partition that is larger alone moves alone.
    pub bytes: u64,
}

impl Default for WaveLimits {
    /// So many partitions fit into few transactions of the quorum, and so many bytes are copied within seconds: a
    /// cancellation loses little.
    fn default() -> Self {
        Self { partitions: 100, bytes: 4 << 30 }
    }
}

/// How many of the moves that wait, from the first on, may begin beside those under way.
pub fn next_wave<K>(waiting: &[PlannedMove<K>], under_way: &[PlannedMove<K>], limits: WaveLimits) -> usize {
    let mut bytes: u64 = under_way.iter().map(|one| one.bytes).fold(0, u64::saturating_add);
    let mut begun = 0;
    for one in waiting {
        let partitions = under_way.len() + begun;
        let total = bytes.saturating_add(one.bytes);
        if partitions > 0 && (partitions >= limits.partitions || total > limits.bytes) {
            break;
        }
        bytes = total;
        begun += 1;
    }
    begun
}
