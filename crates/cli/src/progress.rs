//! One line that says how far something is: rewritten on a terminal, written when it changes elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Written to standard error, so that a command's output contains only its results.
pub struct Progress {
    started: Instant,
    shown: String,
    terminal: bool,
    /// Nothing is shown before this much time has passed: quick work needs no line.
    quiet_for: Duration,
}

impl Progress {
    pub fn new(quiet_for: Duration) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { started: Instant::now(), shown: String::new(), terminal, quiet_for }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn show(&mut self, text: &str) {
        if self.elapsed() < self.quiet_for {
            return;
        }
        let mut err = std::io::stderr().lock();
        // A progress line that cannot be written is no reason to stop.
        if self.terminal {
            let _ = write!(err, "\r\x1b[K{text} ({:.1} s)", self.elapsed().as_secs_f64());
        } else if text != self.shown {
            let _ = writeln!(err, "{text} ({:.1} s)", self.elapsed().as_secs_f64());
        }
        let _ = err.flush();
        text.clone_into(&mut self.shown);
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K");
            let _ = err.flush();
        }
        self.shown.clear();
    }
}
