//! What happened, as lines: hashed for the comparison of two runs, and the last ones kept for a failure's report.

use std::collections::VecDeque;
use std::fmt;

use crate::clock::SimTime;

/// Lines that a failure shows without `--steps`.
const KEPT_LINES: usize = 60;

/// The story of a run.
pub struct Trace {
    hash: u64,
    lines: u64,
    kept: VecDeque<String>,
    /// Show every line as it happens.
    prints: bool,
    buffer: String,
}

impl Trace {
    pub fn new(prints: bool) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, lines: 0, kept: VecDeque::new(), prints, buffer: String::new() }
    }

    pub fn line(&mut self, at: SimTime, what: fmt::Arguments<'_>) {
        use fmt::Write as _;
        self.buffer.clear();
        // Writing to a string does not fail.
        let _ = write!(self.buffer, "{at} {what}");
        // FNV-1a: order matters, and nothing here defends against an adversary.
        for byte in self.buffer.as_bytes() {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.lines += 1;
        if self.prints {
            show(&self.buffer);
        }
        let mut line =
            if self.kept.len() == KEPT_LINES { self.kept.pop_front().unwrap_or_default() } else { String::new() };
        line.clear();
        line.push_str(&self.buffer);
        self.kept.push_back(line);
    }

    /// Two runs that told the same story have the same hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn len(&self) -> u64 {
        self.lines
    }

    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    pub fn tail(&self) -> Vec<String> {
        self.kept.iter().cloned().collect()
    }
}

/// The lines of a run are its output where they are asked for.
#[allow(clippy::print_stdout)]
fn show(line: &str) {
    println!("{line}");
}
