//! The room of a log directory's file system. One that does not answer, as of a server or a disk that is gone, keeps
//! every thread that asks it: one at a time asks, and others take its answer, or the one before.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// A file system that answers does so at once, if it is not very busy.
const PATIENCE: Duration = Duration::from_secs(1);

/// All bytes of a file system and those that are left.
pub type Space = (u64, u64);

#[derive(Default)]
struct State {
    is_asked: bool,
    last: Option<Space>,
}

/// What a file system said of its room.
#[derive(Default)]
pub struct Room {
    state: watch::Sender<State>,
}

impl Room {
    /// Whether the caller is to ask; [`Self::answered`] must follow then.
    fn begin(&self) -> bool {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.is_asked, true))
    }

    fn answered(&self, answer: &io::Result<Space>) {
        self.state.send_modify(|state| *state = State { is_asked: false, last: answer.as_ref().ok().copied() });
    }

    fn last(&self) -> io::Result<Space> {
        self.state.borrow().last.ok_or_else(|| ErrorKind::TimedOut.into())
    }

    /// Asks on this thread, which may have to wait. While another one asks: its last answer.
    pub fn ask(&self, ask: impl FnOnce() -> io::Result<Space>) -> io::Result<Space> {
        if !self.begin() {
            return self.last();
        }
        let answer = ask();
        self.answered(&answer);
        answer
    }

    /// Asks on a thread that may wait, unless one does. If there is no answer in time: the last one, or
    /// [`ErrorKind::TimedOut`].
    pub async fn ask_in_time(
        self: &Arc<Self>,
        ask: impl FnOnce() -> io::Result<Space> + Send + 'static,
    ) -> io::Result<Space> {
        let mut state = self.state.subscribe();
        if self.begin() {
            let room = self.clone();
            let asking = tokio::task::spawn_blocking(move || {
                let answer = ask();
                room.answered(&answer);
                answer
            });
            return match tokio::time::timeout(PATIENCE, asking).await {
                Ok(answer) => answer.map_err(|_stopped| io::Error::from(ErrorKind::Interrupted))?,
                Err(_silent) => self.last(),
            };
        }
        // The sender is here.
        let _ = tokio::time::timeout(PATIENCE, state.wait_for(|state| !state.is_asked)).await;
        self.last()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Each question kept a thread for as long as the file system did not answer: 512 of them, and nothing that waits
    /// for a disk went on.
    #[tokio::test]
    async fn one_thread_waits_for_a_file_system_that_does_not_answer() {
        let room = Arc::new(Room::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let question = |answers: mpsc::Receiver<io::Result<Space>>| {
            let asked = asked.clone();
            move || {
                asked.fetch_add(1, Ordering::Relaxed);
                answers.recv().unwrap_or_else(|_| Err(ErrorKind::Other.into()))
            }
        };
        let (first, answers) = mpsc::channel();
        first.send(Ok((100, 40))).expect("is heard");
        assert_eq!(room.ask_in_time(question(answers)).await.expect("known"), (100, 40));
        // It is silent from here on.
        let (silent, answers) = mpsc::channel();
        assert_eq!(room.ask_in_time(question(answers)).await.expect("the last answer"), (100, 40));
        for _ in 0..2 {
            let (_, answers) = mpsc::channel();
            assert_eq!(room.ask_in_time(question(answers)).await.expect("the last answer"), (100, 40));
            let (_, answers) = mpsc::channel();
            assert_eq!(room.ask(question(answers)).expect("the last answer"), (100, 40));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        // Those who wait hear of the answer.
        let (_, answers) = mpsc::channel();
        let (waiting, ()) = tokio::join!(room.ask_in_time(question(answers)), async {
            silent.send(Ok((100, 10))).expect("is heard");
        });
        assert_eq!(waiting.expect("known"), (100, 10));
        let (third, answers) = mpsc::channel();
        third.send(Ok((100, 5))).expect("is heard");
        assert_eq!(room.ask(question(answers)).expect("asked again"), (100, 5));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn without_any_answer_there_is_an_error() {
        let room = Arc::new(Room::default());
        let (answer, answers) = mpsc::channel::<io::Result<Space>>();
        let ask = move || answers.recv().unwrap_or_else(|_| Err(ErrorKind::Other.into()));
        let error = room.ask_in_time(ask).await.expect_err("no answer yet");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(room.ask(|| Ok((1, 1))).expect_err("one asks").kind(), ErrorKind::TimedOut);
        drop(answer);
    }
}
