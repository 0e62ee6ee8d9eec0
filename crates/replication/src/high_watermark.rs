//! The high watermark (HW): the offset below which every record is on all in-sync replicas, so that no election loses
//! it.

use ottla_model::Offset;

/// The HW and how it moves. Invariant: it never falls, and never passes the log's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HighWatermark(Offset);

impl HighWatermark {
    /// A replica starts with the HW that it knew last, which may be above the end of its log after a crash, or below
    /// its log start after retention (scenario 13).
    pub fn known(high_watermark: Offset, log_start: Offset, log_end: Offset) -> Self {
        Self(high_watermark.max(log_start).min(log_end))
    }

    pub fn get(self) -> Offset {
        self.0
    }

    /// Moves up to `candidate`, at most to `log_end`; the new value if it moved.
    pub fn advance(&mut self, candidate: Offset, log_end: Offset) -> Option<Offset> {
        let target = candidate.min(log_end);
        if target <= self.0 {
            return None;
        }
        self.0 = target;
        Some(target)
    }

    /// The log was cut to `log_end`: nothing beyond it can be called replicated. A correct truncation never gets below
    /// the HW; see [`Follower`](crate::Follower).
    pub fn clamp(&mut self, log_start: Offset, log_end: Offset) {
        self.0 = self.0.max(log_start).min(log_end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_up_only_and_within_the_log() {
        let mut hw = HighWatermark::known(Offset(5), Offset(0), Offset(10));
        assert_eq!(hw.advance(Offset(5), Offset(10)), None);
        assert_eq!(hw.advance(Offset(4), Offset(10)), None);
        assert_eq!(hw.advance(Offset(50), Offset(10)), Some(Offset(10)));
        assert_eq!(hw.advance(Offset::UNKNOWN, Offset(10)), None);
    }

    #[test]
    fn scenario_13_a_checkpoint_ahead_of_the_log_is_clamped() {
        assert_eq!(HighWatermark::known(Offset(50), Offset(0), Offset(10)).get(), Offset(10));
        assert_eq!(HighWatermark::known(Offset(3), Offset(8), Offset(10)).get(), Offset(8));
    }
}
