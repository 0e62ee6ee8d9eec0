//! How much of the services' thread ZooKeeper's clients may take together: it also carries Raft's messages and the
//! streams of brokers, which must notice nothing of them.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// For each time that requests take, the thread is left to others this many times as long.
const LEFT_TO_OTHERS: u32 = 3;
/// What is left to others may be behind by this much: small requests follow each other at once.
const BEHIND_MAX: Duration = Duration::from_millis(20);

/// Bounds requests by the time that they took: what each will take, nobody knows before.
pub struct Pace {
    /// When others will have had their share.
    even_at: Mutex<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        Self { even_at: Mutex::new(Instant::now()) }
    }

    /// Waits until another request may begin.
    pub async fn turn(&self) {
        while let Some(at) = self.next_turn(Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// A request that began then has ended now.
    pub fn took(&self, began: Instant) {
        self.took_until(began, Instant::now());
    }

    /// None: now.
    fn next_turn(&self, now: Instant) -> Option<Instant> {
        let even_at = *self.even_at.lock();
        (even_at > now + BEHIND_MAX).then_some(even_at)
    }

    fn took_until(&self, began: Instant, ended: Instant) {
        let mut even_at = self.even_at.lock();
        *even_at = (*even_at).max(began) + ended.saturating_duration_since(began) * (1 + LEFT_TO_OTHERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_take_a_quarter_of_the_time() {
        const REQUEST: Duration = Duration::from_millis(1);
        let pace = Pace::new();
        let start = Instant::now();
        let (mut now, mut requests) = (start, 0);
        while now < start + Duration::from_secs(1) {
            match pace.next_turn(now) {
                Some(at) => now = at,
                None => {
                    pace.took_until(now, now + REQUEST);
                    now += REQUEST;
                    requests += 1;
                }
            }
        }
        assert!((240..=260).contains(&requests), "{requests}");
    }

    #[test]
    fn a_long_request_lets_others_go_first_and_small_ones_do_not_wait() {
        let pace = Pace::new();
        let start = Instant::now();
        let long = Duration::from_millis(50);
        pace.took_until(start, start + long);
        assert_eq!(pace.next_turn(start + long), Some(start + long + long * LEFT_TO_OTHERS));
        let pace = Pace::new();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert_eq!(pace.next_turn(now), None);
            pace.took_until(now, now + Duration::from_micros(20));
            now += Duration::from_micros(20);
        }
    }
}
