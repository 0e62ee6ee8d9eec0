//! Whose TLS handshake is calculated now.
//!
//! A step of a handshake (a key exchange, a signature, the check of a certificate) takes a worker some tenths of a
//! millisecond. A worker looks at its sockets when nothing else is left to do, so that a record would wait for the
//! steps of a whole crowd. Here one step is calculated at a time, and whoever has sent something meanwhile comes before
//! the next one. A handshake that has begun goes before those that have not: in a crowd that is larger than what can be
//! calculated in time some get done, instead of all being half done when their time is over.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use ottla_resources::giving_way::give_way;
use ottla_resources::handshakes::HandshakePlace;
use tokio::sync::Semaphore;

/// A shorter step has calculated nothing: it waits for the client's bytes.
const CALCULATED_MIN: Duration = Duration::from_micros(30);

pub(crate) struct HandshakeTurns {
    turns: Semaphore,
    /// Of those that have not had a turn yet, as many ask for one at a time: the others do not stand before handshakes
    /// that have begun.
    first_turns: Semaphore,
}

impl Default for HandshakeTurns {
    /// As many at a time as there are workers by default: half of the cores.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new((cores / 2).max(1))
    }
}

impl HandshakeTurns {
    fn new(at_a_time: usize) -> Self {
        Self { turns: Semaphore::new(at_a_time), first_turns: Semaphore::new(at_a_time) }
    }

    /// Carries out a handshake, each of its steps in its turn. Turns are given in the order of the requests for them.
    pub(crate) async fn take<H: Future>(&self, place: &HandshakePlace, handshake: H) -> H::Output {
        let mut handshake = pin!(handshake);
        let mut has_begun = false;
        loop {
            place.waits_for_turn();
            // The semaphores are never closed.
            let first_turn = if has_begun { None } else { self.first_turns.acquire().await.ok() };
            let turn = self.turns.acquire().await;
            let began = Instant::now();
            let polled = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context))).await;
            let has_calculated = began.elapsed() >= CALCULATED_MIN;
            has_begun |= has_calculated;
            place.had_turn(has_calculated.then(Instant::now));
            if has_calculated {
                // The worker looks at its sockets, and goes on with this before those that want something. The second
                // time it has served them.
                give_way().await;
                give_way().await;
            }
            drop((turn, first_turn));
            match polled {
                Poll::Ready(done) => return done,
                // Something may have come while others had their turn: the handshake has not been asked since.
                Poll::Pending if has_calculated => {}
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Completes when the task is woken next, by whatever the handshake waits for.
async fn woken() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ottla_resources::handshakes::{HandshakePermit, Handshakes};
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::*;

    type Steps = Arc<Mutex<Vec<&'static str>>>;

    fn permit() -> HandshakePermit {
        let handshakes = Arc::new(Handshakes::default());
        handshakes.enter([10, 0, 0, 1].into(), Instant::now()).expect("room")
    }

    fn calculate(steps: &Steps, what: &'static str) {
        std::thread::sleep(CALCULATED_MIN);
        steps.lock().push(what);
    }

    /// A record that came during the first step waited for those of the whole crowd.
    #[tokio::test]
    async fn a_record_waits_for_one_step_and_not_for_the_crowd() {
        let turns = Arc::new(HandshakeTurns::new(1));
        let steps = Steps::default();
        let arrived = Arc::new(Notify::new());
        let mut crowd = Vec::new();
        for _ in 0..20 {
            let (turns, steps, arrived) = (Arc::clone(&turns), Arc::clone(&steps), Arc::clone(&arrived));
            crowd.push(tokio::spawn(async move {
                let step = async {
                    calculate(&steps, "handshake");
                    arrived.notify_one();
                };
                turns.take(&permit().place, step).await;
            }));
        }
        let record = tokio::spawn({
            let (steps, arrived) = (Arc::clone(&steps), Arc::clone(&arrived));
            async move {
                arrived.notified().await;
                steps.lock().push("record");
            }
        });
        record.await.expect("no panic");
        assert_eq!(*steps.lock(), ["handshake", "record"]);
        for handshake in crowd {
            handshake.await.expect("no panic");
        }
        assert_eq!(steps.lock().len(), 21);
    }

    /// What arrives while a handshake has no turn is not overlooked, and one that only waits keeps nobody up.
    #[tokio::test]
    async fn a_handshake_that_waits_for_its_client_keeps_nobody_up_and_goes_on() {
        let turns = Arc::new(HandshakeTurns::new(1));
        let steps = Steps::default();
        let (hello, finished) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = tokio::spawn({
            let (turns, steps) = (Arc::clone(&turns), Arc::clone(&steps));
            let (hello, finished) = (Arc::clone(&hello), Arc::clone(&finished));
            async move {
                let handshake = async {
                    hello.notified().await;
                    calculate(&steps, "hello");
                    finished.notified().await;
                    calculate(&steps, "finished");
                };
                turns.take(&permit().place, handshake).await;
            }
        });
        tokio::task::yield_now().await;
        turns.take(&permit().place, async { calculate(&steps, "other") }).await;
        hello.notify_one();
        while steps.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        // It comes while the slow one gives way.
        finished.notify_one();
        slow.await.expect("no panic");
        assert_eq!(*steps.lock(), ["other", "hello", "finished"]);
        assert_eq!((turns.turns.available_permits(), turns.first_turns.available_permits()), (1, 1));
    }

    /// It came after all of a crowd that began meanwhile, and after its own time-out where the crowd was large.
    #[tokio::test]
    async fn a_handshake_that_has_begun_goes_before_a_crowd_that_has_not() {
        let turns = Arc::new(HandshakeTurns::new(1));
        let steps = Steps::default();
        let finished = Arc::new(Notify::new());
        let begun = tokio::spawn({
            let (turns, steps, finished) = (Arc::clone(&turns), Arc::clone(&steps), Arc::clone(&finished));
            async move {
                let handshake = async {
                    calculate(&steps, "hello");
                    finished.notified().await;
                    calculate(&steps, "finished");
                };
                turns.take(&permit().place, handshake).await;
            }
        });
        while steps.lock().is_empty() || turns.turns.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        let mut crowd = Vec::new();
        for _ in 0..10 {
            let (turns, steps, finished) = (Arc::clone(&turns), Arc::clone(&steps), Arc::clone(&finished));
            crowd.push(tokio::spawn(async move {
                let step = async {
                    calculate(&steps, "new");
                    finished.notify_one();
                };
                turns.take(&permit().place, step).await;
            }));
        }
        begun.await.expect("no panic");
        // One more may have asked for its turn before the client had sent its last message.
        assert!(steps.lock().len() <= 4, "{:?}", steps.lock());
        for handshake in crowd {
            handshake.await.expect("no panic");
        }
    }
}
