//! Helpers of all tests: the seeds that a test runs, free ports, files that are generated, and the report of a skipped
//! test.
//!
//! Variables of the environment, the same for every seeded test:
//!
//! - `SEED=n` runs only that seed, `SEEDS=n` runs n seeds instead of the test's own number;
//! - `FUZZ_SECS=n` runs further seeds until that time is over (only in tests that call [`each_seed`]);
//! - `OTTLA_WRITE_DOCS=1` writes generated files anew, instead of comparing them;
//! - `OTTLA_SKIPPED=file` collects the tests that were skipped; `make test` prints them at its end.

mod ports;

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

pub use ports::free_ports;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.trim().parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

/// Whether one seed is replayed: a test may then print more.
pub fn is_replay() -> bool {
    std::env::var_os("SEED").is_some()
}

/// The seeds to run: `default`, unless `SEED` or `SEEDS` say otherwise.
pub fn seeds(default: Range<u64>) -> Range<u64> {
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => default.start..default.start + count,
        (None, None) => default,
    }
}

/// Whether at least `count` seeds run: only then can a test check what its seeds reached.
pub fn runs_at_least(count: u64) -> bool {
    let seeds = seeds(0..count);
    seeds.end - seeds.start >= count
}

/// What a test of one seed returns.
pub trait SeedResult {
    /// Fails the running test if the seed failed.
    fn check(self);
}

impl SeedResult for () {
    fn check(self) {}
}

impl<E: Debug> SeedResult for Result<(), E> {
    fn check(self) {
        if let Err(error) = self {
            panic!("{error:?}");
        }
    }
}

/// Runs `test` with every seed to run; when it panics or returns an error, says how to replay it.
pub fn each_seed<R: SeedResult>(default: Range<u64>, mut test: impl FnMut(u64) -> R) {
    let seeds = seeds(default);
    let fuzzing = number("FUZZ_SECS").filter(|_| !is_replay()).map(Duration::from_secs);
    let begun = Instant::now();
    let mut seed = seeds.start;
    while seed < seeds.end || fuzzing.is_some_and(|time| begun.elapsed() < time) {
        let _replay = Replay(seed);
        test(seed).check();
        seed += 1;
    }
}

/// The line that replays `seed` of the running test.
pub fn replay(seed: u64) -> String {
    let package = std::env::var("CARGO_PKG_NAME").map(|name| format!(" -p {name}")).unwrap_or_default();
    let test = std::thread::current().name().map(|name| format!(" {name}")).unwrap_or_default();
    format!("replay: SEED={seed} cargo test{package}{test}")
}

/// Says which seed it was when a test panics.
struct Replay(u64);

impl Drop for Replay {
    #[allow(clippy::print_stderr, reason = "a test's output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", replay(self.0));
        }
    }
}

/// Compares a file that is generated with what it has to hold, or writes it anew.
pub fn generated(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    if written == text {
        return;
    }
    let (mut found, mut expected) = (written.lines(), text.lines());
    let differing = loop {
        match (found.next(), expected.next()) {
            (found, expected) if found == expected && found.is_some() => {}
            (found, expected) => break format!("found:    {found:?}\nexpected: {expected:?}"),
        }
    };
    panic!("{} is old: run this test with OTTLA_WRITE_DOCS=1\n{differing}", path.display());
}

/// Reports that the running test is skipped, and why.
#[allow(clippy::print_stderr, reason = "a test's output")]
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {reason}");
    let Some(file) = std::env::var_os("OTTLA_SKIPPED") else { return };
    let written = OpenOptions::new().append(true).create(true).open(&file);
    // One write: tests of several threads append to the file, and a line in pieces would mix with another one.
    let line = format!("{test}: {reason}\n");
    let written = written.and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("OTTLA_SKIPPED={}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_variables_a_test_runs_its_own_seeds() {
        if number("SEED").or(number("SEEDS")).or(number("FUZZ_SECS")).is_some() {
            return;
        }
        assert_eq!(seeds(3..9), 3..9);
        let mut seen = Vec::new();
        each_seed(2..5, |seed| seen.push(seed));
        assert_eq!(seen, [2, 3, 4]);
    }

    #[test]
    #[should_panic(expected = "seed 3 is odd")]
    fn a_seed_that_returns_an_error_fails_the_test() {
        Err::<(), _>("seed 3 is odd").check();
    }

    #[test]
    fn a_line_replays_the_test() {
        assert_eq!(replay(7), "replay: SEED=7 cargo test -p ottla-test-support tests::a_line_replays_the_test");
    }
}
