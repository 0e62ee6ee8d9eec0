//! The output of the tools. If the reader is gone (`| head`), the program ends quietly instead of with a panic.

use std::fmt::Arguments;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

use crate::calendar::civil;

/// Writes a line to standard output; see [`crate::out!`].
pub fn line(text: Arguments<'_>) {
    ended(writeln!(io::stdout().lock(), "{text}"));
}

/// A text up to this length is shown without a pager: every terminal has as many lines.
const SCREEN_LINES: usize = 24;
/// What a shell ends with if it does not find the program.
const NOT_FOUND: i32 = 127;

/// Shows a long text through PAGER, else `less`, where a person reads it. Whether it did: without a terminal or a pager
/// the caller writes the text itself.
pub fn page(text: &str) -> bool {
    let is_read = io::stdin().is_terminal() && io::stdout().is_terminal();
    is_read && text.lines().count() >= SCREEN_LINES && paged(text).unwrap_or(false)
}

fn paged(text: &str) -> io::Result<bool> {
    let own = std::env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty());
    // Less ends by itself if the text fits the screen, and leaves it there.
    let pager = own.as_deref().unwrap_or("less -FRX");
    let mut child = Command::new("sh").args(["-c", pager]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut to_pager) = child.stdin.take() {
        // Who leaves the pager early closes the pipe: no error.
        let _ = to_pager.write_all(text.as_bytes());
    }
    Ok(child.wait()?.code() != Some(NOT_FOUND))
}

/// Writes bytes to standard output as they are.
pub fn bytes(bytes: &[u8]) {
    ended(io::stdout().lock().write_all(bytes));
}

/// Bytes before they are written as a block: standard output itself writes every line by a call of its own.
#[derive(Default)]
pub struct Block(Vec<u8>);

/// A block is written when it has so many bytes.
const BLOCK_BYTES: usize = 64 * 1_024;

impl Block {
    /// Where to append.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    pub fn flush_if_full(&mut self) {
        if self.0.len() >= BLOCK_BYTES {
            self.flush();
        }
    }

    pub fn flush(&mut self) {
        if !self.0.is_empty() {
            bytes(&self.0);
            flush();
            self.0.clear();
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes the buffered output.
pub fn flush() {
    ended(io::stdout().lock().flush());
}

fn ended(result: io::Result<()>) {
    if result.is_err() {
        // The reader is gone (or the disk behind a redirection is full): an error message has no receiver.
        std::process::exit(i32::from(!result.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)));
    }
}

/// Writes a line to standard error; a failure is ignored.
pub fn error_line(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A line on standard output.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

/// A line on standard error.
#[macro_export]
macro_rules! err {
    ($($text:tt)*) => { $crate::output::error_line(format_args!($($text)*)) };
}

/// `2026-11-21 09:16:58,656`: the time as Kafka's tools log it, in UTC.
pub fn log_time(since_epoch: std::time::Duration) -> String {
    let (days, seconds) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{:03}", since_epoch.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_kafkas_tools_do() {
        assert_eq!(log_time(Duration::ZERO), "1970-01-01 00:00:00,000");
        assert_eq!(log_time(Duration::from_millis(951_782_399_999)), "2000-02-28 23:59:59,999");
        assert_eq!(log_time(Duration::from_secs(951_782_400)), "2000-02-29 00:00:00,000");
        assert_eq!(log_time(Duration::from_millis(1_795_252_618_656)), "2026-11-21 09:16:58,656");
    }
}
