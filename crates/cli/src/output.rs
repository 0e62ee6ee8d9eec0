//! The output of the tools. If the reader is gone (`| head`), the program ends quietly instead of with a panic.

use std::fmt::Arguments;
use std::io::{self, Write as _};

use crate::calendar::civil;

/// Writes a line to standard output; see [`crate::out!`].
pub fn line(text: Arguments<'_>) {
    ended(writeln!(io::stdout().lock(), "{text}"));
}

/// Writes bytes to standard output as they are.
pub fn bytes(bytes: &[u8]) {
    ended(io::stdout().lock().write_all(bytes));
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
