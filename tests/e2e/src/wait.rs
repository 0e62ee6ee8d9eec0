//! Waiting for a state that comes by itself.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a state may take before the test fails. Reached only where something is wrong: machines are shared, and
/// their disks too.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The pause between two looks: short at first, because most states come at once; then longer, because a look may cost
/// a whole process.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Tries until `attempt` succeeds, and returns what it returned. Its last error is reported with `what` if it never
/// does.
pub fn until_ok<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let (deadline, mut pause) = (Instant::now() + PATIENCE, PAUSE_MIN);
    loop {
        match attempt() {
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what}: not within {PATIENCE:?}")));
            }
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            succeeded => return succeeded,
        }
    }
}

/// Looks until `holds` says yes. An error of it ends the wait.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    until_ok(what, || match holds() {
        Ok(true) => Ok(Ok(())),
        Ok(false) => bail!("it does not hold"),
        Err(error) => Ok(Err(error)),
    })?
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn an_attempt_is_repeated_until_it_succeeds() {
        let mut tries = 0;
        let third = until_ok("the third", || {
            tries += 1;
            ensure!(tries == 3, "not yet");
            Ok(tries)
        });
        assert_eq!(third.expect("the third succeeds"), 3);
    }

    #[test]
    fn an_error_ends_the_wait_for_a_state() {
        let mut looks = 0;
        let failed = until("a state", || {
            looks += 1;
            match looks {
                1 => Ok(false),
                _ => bail!("it cannot come any more"),
            }
        });
        assert_eq!(failed.expect_err("it ends").to_string(), "it cannot come any more");
        assert_eq!(looks, 2);
        until("the state", || Ok(true)).expect("it holds");
    }
}
