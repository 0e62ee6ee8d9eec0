//! What happened, as lines: hashed for the comparison of two runs, and the last ones kept for a failure's report.

use std::collections::VecDeque;
use std::fmt;

use crate::clock::SimTime;

/// Lines that a failure shows without `--steps`: of what processes did, and of every message.
const KEPT_LINES: usize = 40;
const KEPT_MESSAGES: usize = 20;

/// The story of a run.
pub struct Trace {
    hash: u64,
    lines: u64,
    kept: VecDeque<String>,
    kept_messages: VecDeque<String>,
    /// What processes and the world did, for a transcript; none: nobody asked.
    recorded: Option<Vec<(SimTime, String)>>,
    /// Show every line as it happens.
    prints: bool,
    buffer: String,
}

impl Trace {
    pub fn new(prints: bool) -> Self {
        Self {
            hash: 0xCBF2_9CE4_8422_2325,
            lines: 0,
            kept: VecDeque::new(),
            kept_messages: VecDeque::new(),
            recorded: None,
            prints,
            buffer: String::new(),
        }
    }

    /// Something that a process, or the world, did.
    pub fn line(&mut self, at: SimTime, what: fmt::Arguments<'_>) {
        self.take_down(at, what);
        if let Some(recorded) = &mut self.recorded {
            recorded.push((at, what.to_string()));
        }
        keep(&mut self.kept, KEPT_LINES, &self.buffer);
    }

    /// A message that arrived: there are many.
    pub fn message(&mut self, at: SimTime, what: fmt::Arguments<'_>) {
        self.take_down(at, what);
        keep(&mut self.kept_messages, KEPT_MESSAGES, &self.buffer);
    }

    /// What somebody who follows the run wants to see beside its story: it is printed, and no part of the hash.
    pub fn detail(&self, at: SimTime, what: fmt::Arguments<'_>) {
        if self.prints {
            show(&format!("{at}     {what}"));
        }
    }

    fn take_down(&mut self, at: SimTime, what: fmt::Arguments<'_>) {
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
    }

    /// The lines since the last call, without messages. The first call begins the record.
    pub fn take_recorded(&mut self) -> Vec<(SimTime, String)> {
        self.recorded.replace(Vec::new()).unwrap_or_default()
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
        let mut lines: Vec<_> = self.kept.iter().chain(&self.kept_messages).cloned().collect();
        lines.sort();
        lines
    }
}

fn keep(kept: &mut VecDeque<String>, at_most: usize, line: &str) {
    let mut place = if kept.len() == at_most { kept.pop_front().unwrap_or_default() } else { String::new() };
    place.clear();
    place.push_str(line);
    kept.push_back(place);
}

/// The lines of a run are its output where they are asked for.
#[allow(clippy::print_stdout)]
fn show(line: &str) {
    println!("{line}");
}
