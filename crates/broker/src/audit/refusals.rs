//! Which refusals the audit log writes: denials by rules, and failed logins. One client can have any number of them,
//! and must not make the files turn over before somebody has read what others did.
//!
//! Each subject has [`LINES_PER_WINDOW`] lines in a window of [`WINDOW`], and of what repeats within it
//! [`REPEATS_MAX`]. What is left out is counted, and told when the window is over. A subject without a window has
//! nothing here; [`SUBJECTS_MAX`] have one, and those beyond share another.
//!
//! What is allowed has windows of its own, and more lines ([`ALLOWED_PER_WINDOW`]): a principal may be allowed to
//! change something again and again that is as it was.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ottla_resources::network_of;

/// Long enough for a line a second, which fills 100 MiB in a day at the earliest.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
pub(super) const LINES_PER_WINDOW: u32 = 60;
/// Of lines that differ only in their time: a client that tries again and again leaves room for what else it tries.
pub(super) const REPEATS_MAX: u32 = 5;
/// Changes of one kind that a principal is allowed, or its logins: apart, so that a principal does not hide one kind of
/// change by another.
pub(super) const ALLOWED_PER_WINDOW: u32 = 600;
/// Principals and networks with a window: 4 MiB with the longest names.
const SUBJECTS_MAX: usize = 1_024;

/// Whose lines count together.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Subject {
    /// Denials of a principal.
    Principal(String),
    /// Denials of clients at an address that did not log in.
    Anonymous(IpAddr),
    /// Failed logins from an address.
    Logins(IpAddr),
    /// What this principal is allowed, by the name of the operation.
    Allowed(String, &'static str),
    /// All that have no window of their own.
    Others,
}

impl Subject {
    pub fn anonymous(address: IpAddr) -> Self {
        Self::Anonymous(network_of(address))
    }

    pub fn logins(address: IpAddr) -> Self {
        Self::Logins(network_of(address))
    }
}

/// Lines of one subject that were not written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LeftOut {
    pub subject: Subject,
    pub lines: u64,
    /// The wall clock at the beginning of the window.
    pub since_ms: u64,
}

struct Window {
    began: Instant,
    since_ms: u64,
    written: u32,
    /// How often each line was written, by its hash.
    repeats: HashMap<u64, u32>,
    left_out: u64,
}

pub(super) struct Windows {
    windows: HashMap<Subject, Window>,
    lines_max: u32,
    repeats_max: Option<u32>,
}

impl Windows {
    pub fn of_refusals() -> Self {
        Self { windows: HashMap::new(), lines_max: LINES_PER_WINDOW, repeats_max: Some(REPEATS_MAX) }
    }

    pub fn of_allowed() -> Self {
        Self { windows: HashMap::new(), lines_max: ALLOWED_PER_WINDOW, repeats_max: None }
    }

    /// Whether this line is written. `line` is the same for lines that differ only in their time.
    pub fn admit(&mut self, subject: Subject, line: u64, now: Instant, now_ms: u64) -> bool {
        let is_known = self.windows.contains_key(&subject);
        let subject = if is_known || self.windows.len() < SUBJECTS_MAX { subject } else { Subject::Others };
        let window = self.windows.entry(subject).or_insert_with(|| Window {
            began: now,
            since_ms: now_ms,
            written: 0,
            repeats: HashMap::new(),
            left_out: 0,
        });
        if window.written >= self.lines_max {
            window.left_out += 1;
            return false;
        }
        if let Some(repeats_max) = self.repeats_max {
            // What was written is bounded by the window, and so are its hashes.
            let repeats = window.repeats.get(&line).copied().unwrap_or(0);
            if repeats >= repeats_max {
                window.left_out += 1;
                return false;
            }
            window.repeats.insert(line, repeats + 1);
        }
        window.written += 1;
        true
    }

    /// A line that was admitted could not be written.
    pub fn lost(&mut self, subject: &Subject) {
        let counted = if self.windows.contains_key(subject) { subject } else { &Subject::Others };
        if let Some(window) = self.windows.get_mut(counted) {
            window.left_out += 1;
        }
    }

    /// Ends the windows that are over, or all; what they left out.
    pub fn end_windows(&mut self, now: Instant, all: bool) -> Vec<LeftOut> {
        let ended = self.windows.extract_if(|_, window| all || now.saturating_duration_since(window.began) >= WINDOW);
        let left_out = ended.filter(|(_, window)| window.left_out > 0).map(|(subject, window)| LeftOut {
            subject,
            lines: window.left_out,
            since_ms: window.since_ms,
        });
        left_out.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> Subject {
        Subject::Principal(name.to_owned())
    }

    #[test]
    fn a_subject_has_its_lines_and_the_rest_is_counted() {
        let (mut refusals, start) = (Windows::of_refusals(), Instant::now());
        let written = (0..10_000).filter(|line| refusals.admit(principal("eve"), *line, start, 7)).count();
        assert_eq!(written, LINES_PER_WINDOW as usize);
        assert!(refusals.admit(principal("bob"), 1, start, 7), "others are not concerned");
        assert!(refusals.end_windows(start, false).is_empty());
        let left_out = LeftOut { subject: principal("eve"), lines: 10_000 - u64::from(LINES_PER_WINDOW), since_ms: 7 };
        assert_eq!(refusals.end_windows(start + WINDOW, false), [left_out]);
        assert!(refusals.windows.is_empty(), "a subject that is silent costs nothing");
        assert!(refusals.admit(principal("eve"), 1, start + WINDOW, 8));
    }

    #[test]
    fn what_repeats_leaves_room_for_what_does_not() {
        let (mut refusals, start) = (Windows::of_refusals(), Instant::now());
        let written = (0..10_000).filter(|_| refusals.admit(principal("eve"), 1, start, 7)).count();
        assert_eq!(written, REPEATS_MAX as usize);
        assert!(refusals.admit(principal("eve"), 2, start, 7));
    }

    #[test]
    fn subjects_are_bounded_and_those_beyond_share_a_window() {
        let (mut refusals, start) = (Windows::of_refusals(), Instant::now());
        let address = |at: u32| Subject::logins(IpAddr::from(at.to_be_bytes()));
        let count = u32::try_from(SUBJECTS_MAX).expect("small");
        assert!((0..count).all(|at| refusals.admit(address(at), 1, start, 7)));
        let beyond = (count..2 * count).filter(|at| refusals.admit(address(*at), u64::from(*at), start, 7)).count();
        assert_eq!(beyond, LINES_PER_WINDOW as usize);
        assert_eq!(refusals.windows.len(), SUBJECTS_MAX + 1);
        let left_out = refusals.end_windows(start, true);
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].subject, Subject::Others);
    }
}
