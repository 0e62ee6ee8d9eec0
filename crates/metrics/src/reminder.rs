//! A state that lasts is told of when it begins and when its reason changes, and then now and again.

use std::time::{Duration, Instant};

/// One line for each reason at once, and for the same reason again after an interval.
pub struct Reminder {
    interval: Duration,
    last: Option<(Instant, String)>,
    left_out: u64,
}

impl Reminder {
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None, left_out: 0 }
    }

    /// Runs `line` with the number of lines left out before it, unless the last one had the same reason and the
    /// interval has not passed since.
    pub fn run(&mut self, reason: &str, line: impl FnOnce(u64)) {
        let is_told = |(at, last): &(Instant, String)| last == reason && at.elapsed() < self.interval;
        if self.last.as_ref().is_some_and(is_told) {
            self.left_out += 1;
            return;
        }
        self.last = Some((Instant::now(), reason.to_owned()));
        line(std::mem::take(&mut self.left_out));
    }

    /// The state is over: the next line is written whatever its reason.
    pub fn reset(&mut self) {
        self.last = None;
        self.left_out = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_another_one_at_once() {
        let mut reminder = Reminder::new(Duration::from_secs(3_600));
        let mut lines = Vec::new();
        for reason in ["a", "a", "a", "b", "b", "a"] {
            reminder.run(reason, |left_out| lines.push((reason, left_out)));
        }
        assert_eq!(lines, [("a", 0), ("b", 2), ("a", 1)]);
        reminder.reset();
        reminder.run("a", |left_out| lines.push(("a", left_out)));
        assert_eq!(lines.last(), Some(&("a", 0)));
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn the_same_reason_is_told_again_after_the_interval() {
        let mut reminder = Reminder::new(Duration::ZERO);
        let mut lines = 0;
        for _ in 0..3 {
            reminder.run("a", |_| lines += 1);
        }
        assert_eq!(lines, 3);
    }
}
