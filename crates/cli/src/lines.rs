//! Lines of standard input, read by a thread of their own: reading a terminal blocks.

use std::io::{BufRead as _, IsTerminal as _};

use tokio::sync::mpsc;

use crate::output;
use crate::producer::{Outgoing, QUEUE_RECORDS};

/// Reads standard input to its end and makes a record of each line. The channel ends with the input, or after the first
/// line that `read` refuses, whose error is sent. On a terminal a prompt is shown before each line.
pub fn records<E: Send + 'static>(
    mut read: impl FnMut(&[u8]) -> Result<Outgoing, E> + Send + 'static,
) -> (mpsc::Receiver<Outgoing>, std::thread::JoinHandle<Result<(), E>>) {
    let (sender, receiver) = mpsc::channel(QUEUE_RECORDS);
    let thread = std::thread::spawn(move || {
        let input = std::io::stdin().lock();
        let prompt = input.is_terminal();
        let mut input = std::io::BufReader::with_capacity(1 << 16, input);
        let mut line = Vec::new();
        loop {
            if prompt {
                output::bytes(b">");
                output::flush();
            }
            line.clear();
            // An input that cannot be read any more has ended.
            if !matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
                return Ok(());
            }
            if line.last() == Some(&b'\n') {
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
            }
            let record = read(&line)?;
            if sender.blocking_send(record).is_err() {
                return Ok(());
            }
        }
    });
    (receiver, thread)
}
