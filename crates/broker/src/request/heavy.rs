//! Responses that take long to make: beside the workers, one at a time.
//!
//! A worker serves many connections; a response of thousands of partitions would keep their records and heartbeats
//! waiting. Such a response is made on a thread of its own when it is the first of its connection that has not left, so
//! that a connection has one in the queue at most, however many requests it has sent in advance.

use std::sync::Arc;

use tokio::sync::Semaphore;

use ottla_network::response::{Answer, Response};

pub struct HeavyWork {
    turn: Arc<Semaphore>,
}

impl Default for HeavyWork {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)) }
    }
}

impl HeavyWork {
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
