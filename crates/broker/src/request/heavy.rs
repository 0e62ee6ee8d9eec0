//! Requests that take long to handle, and responses that take long to make: beside the workers, one at a time.
//!
//! A request of [`LARGE_REQUEST_BYTES`] may name a hundred thousand groups or topics: decoded it takes some tens of
//! megabytes and up to a second. One at a time is decoded, whatever the number of connections that send some.
//!
//! A worker serves many connections; a response of thousands of partitions would keep their records and heartbeats
//! waiting. Such a response is made on a thread of its own when it is the first of its connection that has not left, so
//! that a connection has one in the queue at most, however many requests it has sent in advance.

use std::sync::Arc;

use tokio::sync::Semaphore;

use ottla_network::response::{Answer, Response};

/// From here on a request is handled beside the workers: it names thousands of things. Produce and Fetch have their own
/// parsers and bounds.
pub const LARGE_REQUEST_BYTES: usize = 16 * 1024;

pub struct HeavyWork {
    turn: Arc<Semaphore>,
    /// Of large requests. They do not wait for responses that are being made.
    requests: Arc<Semaphore>,
}

const STOPPED: &str = "the broker stops";

impl Default for HeavyWork {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), requests: Arc::new(Semaphore::new(1)) }
    }
}

impl HeavyWork {
    /// Handles a large request in its turn. The connection handles no further request meanwhile, so that each of them
    /// has one in the queue at most, and requests keep their order.
    pub fn carry_out(&self, handle: impl FnOnce() -> Answer + Send + 'static) -> Answer {
        let turn = Arc::clone(&self.requests);
        Answer::Held(Box::pin(async move {
            let Ok(turn) = turn.acquire_owned().await else { return Answer::close(STOPPED) };
            let handled = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                handle()
            });
            handled.await.unwrap_or_else(|_| Answer::close(STOPPED))
        }))
    }

    /// The response that `make` makes, in its turn.
    pub fn answer(&self, make: impl FnOnce() -> Response + Send + 'static) -> Answer {
        let turn = Arc::clone(&self.turn);
        Answer::later(async move {
            let Ok(turn) = turn.acquire_owned().await else { return Response::closing() };
            let made = tokio::task::spawn_blocking(move || {
                // Held to the end of the work, also where the connection has ended.
                let _turn = turn;
                make()
            });
            made.await.unwrap_or_else(|_| Response::closing())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// G3, G8: each connection's large request was decoded on a worker, all of them at a time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn g8_large_requests_are_handled_one_at_a_time() {
        let work = HeavyWork::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answers = (0..8).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            work.carry_out(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                Answer::None
            })
        });
        let tasks: Vec<_> = answers
            .map(|answer| match answer {
                Answer::Held(future) => tokio::spawn(future),
                other => panic!("{other:?}"),
            })
            .collect();
        for task in tasks {
            assert!(matches!(task.await.expect("no panic"), Answer::None));
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
