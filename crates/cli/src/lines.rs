//! Lines of standard input, read by a thread of their own: reading a terminal blocks.

use std::io::{BufRead as _, IsTerminal as _};
use std::pin::Pin;
use std::process::ExitCode;

use tokio::sync::{mpsc, oneshot};

use crate::kafka_tools::console_consumer::terminated;
use crate::kafka_tools::format::LineError;
use crate::output;
use crate::producer::{Outgoing, PieceReceiver, RecordSource};

/// A piece of lines is handed over when it has so many records or bytes, or when no further line is there.
const PIECE_RECORDS: usize = 1_000;
const PIECE_BYTES: usize = 256 * 1_024;
/// Pieces that wait to be sent.
const QUEUE_PIECES: usize = 8;
const READ_BYTES: usize = 256 * 1_024;

/// The records of lines, until the input ends or a signal asks for the end: what was read by then is still sent, as
/// Kafka's tool does.
pub struct Lines {
    records: PieceReceiver,
    signal: Pin<Box<dyn Future<Output = u8> + Send>>,
    /// The exit code of the signal that came.
    ended_by: Option<u8>,
}

impl Lines {
    /// The exit code if a signal ended the lines: the reader may wait for one that never comes.
    pub fn ended_by(&self) -> Option<ExitCode> {
        self.ended_by.map(ExitCode::from)
    }
}

impl RecordSource for Lines {
    async fn next(&mut self) -> Option<Outgoing> {
        if self.ended_by.is_none() {
            tokio::select! {
                // A fast input must not outrun the signal.
                biased;
                code = &mut self.signal => {
                    self.ended_by = Some(code);
                    self.records.close();
                }
                record = self.records.next() => return record,
            }
        }
        self.records.next().await
    }

    fn try_next(&mut self) -> Option<Outgoing> {
        self.records.try_next()
    }
}

/// Waits for Ctrl-C or SIGTERM; the exit code of it.
async fn signalled() -> u8 {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => 130,
        () = terminated() => 143,
    }
}

/// The exit code of the first signal. Whoever does not want to wait for brokers that do not answer asks a second time,
/// and `end` is called: on a task of its own, because nobody looks for signals while batches are on their way.
fn interrupted<S: Future<Output = u8> + Send + 'static>(
    signalled: impl Fn() -> S + Send + 'static,
    end: impl FnOnce(u8) + Send + 'static,
) -> impl Future<Output = u8> + Send {
    let (asks, asked) = oneshot::channel();
    tokio::spawn(async move {
        let first = signalled();
        // The lines may have ended.
        let _ = asks.send(first.await);
        let second = signalled();
        end(second.await);
    });
    async move {
        match asked.await {
            Ok(code) => code,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Reads standard input to its end and makes a record of each line. The channel ends with the input, or after the first
/// line that `read` refuses, whose error is sent. On a terminal a prompt is shown before each line.
pub fn records(
    read: impl FnMut(&[u8]) -> Result<Outgoing, LineError> + Send + 'static,
) -> (Lines, std::thread::JoinHandle<Result<(), LineError>>) {
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
    let thread = std::thread::spawn(move || {
        let input = std::io::stdin().lock();
        let prompt = input.is_terminal();
        hand_over(std::io::BufReader::with_capacity(READ_BYTES, input), prompt, read, |piece| {
            sender.blocking_send(piece).is_ok()
        })
    });
    let signal = Box::pin(interrupted(signalled, |code| std::process::exit(i32::from(code))));
    (Lines { records: receiver.into(), signal, ended_by: None }, thread)
}

fn hand_over(
    mut input: std::io::BufReader<impl std::io::Read>,
    prompt: bool,
    mut read: impl FnMut(&[u8]) -> Result<Outgoing, LineError>,
    mut send: impl FnMut(Vec<Outgoing>) -> bool,
) -> Result<(), LineError> {
    let mut line = Vec::new();
    let (mut piece, mut bytes) = (Vec::new(), 0);
    loop {
        if prompt {
            output::bytes(b">");
            output::flush();
        }
        line.clear();
        let record = match input.read_until(b'\n', &mut line) {
            Ok(0) => Ok(None),
            Ok(_) => read(without_end(&line)).map(Some),
            // What came before is sent; that it was not all must be known.
            Err(error) => Err(LineError::Input(error.to_string())),
        };
        if let Ok(Some(record)) = record {
            piece.push(record);
            bytes += line.len();
            // A line that has come is not kept back until the next one.
            let is_full = piece.len() == PIECE_RECORDS || bytes >= PIECE_BYTES;
            if !is_full && input.buffer().contains(&b'\n') {
                continue;
            }
            bytes = 0;
            if !send(std::mem::take(&mut piece)) {
                return Ok(());
            }
            continue;
        }
        if !piece.is_empty() {
            send(piece);
        }
        return record.map(drop);
    }
}

/// The line without its end, as Java reads lines: `\n` or `\r\n`.
fn without_end(line: &[u8]) -> &[u8] {
    let Some(line) = line.strip_suffix(b"\n") else { return line };
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn bad() -> LineError {
        LineError::KeySeparator(2, "bad".to_owned())
    }

    fn pieces(text: impl std::io::Read, capacity: usize) -> (Vec<Vec<Vec<u8>>>, Result<(), LineError>) {
        let mut pieces = Vec::new();
        let read = |line: &[u8]| match line {
            b"bad" => Err(bad()),
            line => Ok(Outgoing { value: Some(line.to_vec().into()), ..Outgoing::default() }),
        };
        let values = |piece: Vec<Outgoing>| -> Vec<Vec<u8>> {
            piece.into_iter().map(|record| record.value.unwrap_or_default().to_vec()).collect()
        };
        let result = hand_over(BufReader::with_capacity(capacity, text), false, read, |piece| {
            pieces.push(values(piece));
            true
        });
        (pieces, result)
    }

    #[test]
    fn each_line_is_a_record() {
        let (seen, result) = pieces(&b"a\r\n\nb \xff\n\r\nlast"[..], 64);
        let all: Vec<Vec<u8>> = seen.into_iter().flatten().collect();
        let wanted: [&[u8]; 5] = [b"a", b"", b"b \xff", b"", b"last"];
        assert_eq!((all, result), (wanted.map(<[u8]>::to_vec).to_vec(), Ok(())));
    }

    #[test]
    fn a_line_that_has_come_is_handed_over() {
        // The second line is not there as a whole when the first has been read.
        let (seen, _) = pieces(&b"one\ntwo\n"[..], 5);
        assert_eq!(seen.len(), 2);
        let (seen, result) = pieces(&b"one\nbad\nthree\n"[..], 64);
        assert_eq!((seen, result), (vec![vec![b"one".to_vec()]], Err(bad())));
        let many = "x\n".repeat(PIECE_RECORDS + 1);
        assert_eq!(pieces(many.as_bytes(), 1 << 16).0.len(), 2);
    }

    /// A directory as standard input, or a disk that fails, looked like the end of the lines.
    #[test]
    fn an_input_that_cannot_be_read_has_not_ended() {
        struct Broken;
        impl std::io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("no disk"))
            }
        }
        let (seen, result) = pieces(std::io::Read::chain(&b"one\n"[..], Broken), 64);
        let expected = (vec![vec![b"one".to_vec()]], Err(LineError::Input("no disk".to_owned())));
        assert_eq!((seen, result), expected);
    }

    /// Of a hundred lines that waited for their batch none was written.
    #[tokio::test]
    async fn what_was_read_before_a_signal_is_still_handed_over() {
        let record = |text: &'static str| Outgoing { value: Some(text.into()), ..Outgoing::default() };
        let (sender, pieces) = mpsc::channel(2);
        sender.try_send(vec![record("a"), record("b")]).expect("room");
        sender.try_send(vec![record("c")]).expect("room");
        let signal = Box::pin(std::future::ready(143_u8));
        let mut lines = Lines { records: pieces.into(), signal, ended_by: None };
        for text in ["a", "b", "c"] {
            assert_eq!(lines.next().await, Some(record(text)));
        }
        assert_eq!((lines.next().await, lines.ended_by), (None, Some(143)));
        assert!(sender.try_send(vec![record("d")]).is_err(), "the reader ends");
    }

    /// While a producer waited for brokers that were away, signals were kept for later, and a second one was lost.
    #[tokio::test]
    async fn a_second_signal_ends_also_a_producer_that_does_not_look_for_lines() {
        let (signals, more) = mpsc::channel(2);
        let more = std::sync::Arc::new(tokio::sync::Mutex::new(more));
        let signalled = move || {
            let more = std::sync::Arc::clone(&more);
            async move { more.lock().await.recv().await.unwrap_or(0) }
        };
        let (ends, ended) = oneshot::channel();
        let end = |code| ends.send(code).expect("the test waits");
        let first = interrupted(signalled, end);
        for code in [130, 143] {
            signals.send(code).await.expect("room");
        }
        assert_eq!((ended.await, first.await), (Ok(143), 130));
    }
}
