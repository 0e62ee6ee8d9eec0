//! Requests that take long to handle, and responses that take long to make: beside the workers, one at a time.
//!
//! A request of [`LARGE_REQUEST_BYTES`] may name a hundred thousand groups or topics: decoded it takes some tens of
//! megabytes and up to a second. One at a time is decoded, whatever the number of connections that send some; a few
//! more where that one takes very long, which means that it waits for a disk.
//!
//! A worker serves many connections; a response of thousands of partitions would keep their records and heartbeats
//! waiting. Such a response is made on a thread of its own, and its connection handles no further request before it is
//! made: a connection has one in the queue at most, and holds one request for it, however many it has sent in advance.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use ottla_network::response::{Reply, Response};

/// From here on a request is handled beside the workers: it names thousands of things. Produce and Fetch have their own
/// parsers and bounds.
pub const LARGE_REQUEST_BYTES: usize = 16 * 1024;

/// Whether a request goes beside the workers that takes long; a large one is there already.
pub fn goes_beside(is_long: bool, body_bytes: usize) -> bool {
    is_long && body_bytes < LARGE_REQUEST_BYTES
}

pub struct HeavyWork {
    turn: Arc<Semaphore>,
    /// Of large requests. They do not wait for responses that are being made.
    requests: Arc<Semaphore>,
    /// Of those that have waited for [`Self::patience`].
    extra_requests: Arc<Semaphore>,
    patience: Duration,
    /// Of what clients have packed.
    unpacking: Arc<Semaphore>,
}

/// How long a connection waits for its turn to unpack: its records wait with it.
const UNPACKING_PATIENCE: Duration = Duration::from_secs(1);
/// No request takes that long that waits for no disk. One that does holds up the others no longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Each log directory whose disk stalls may keep about one: further requests for it are refused when the stall is
/// known.
const EXTRA_REQUESTS: usize = 3;

const STOPPED: &str = "the broker stops";

impl Default for HeavyWork {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            requests: Arc::new(Semaphore::new(1)),
            extra_requests: Arc::new(Semaphore::new(EXTRA_REQUESTS)),
            patience: PATIENCE,
            unpacking: Arc::new(Semaphore::new(1)),
        }
    }
}

impl HeavyWork {
    /// Handles a large request in its turn. The connection handles no further request meanwhile, so that each of them
    /// has one in the queue at most, and requests keep their order.
    pub fn carry_out(&self, handle: impl FnOnce() -> Reply + Send + 'static) -> Reply {
        let (turn, extra, patience) = (Arc::clone(&self.requests), Arc::clone(&self.extra_requests), self.patience);
        Reply::Held(Box::pin(async move {
            let turn = tokio::select! {
                biased;
                turn = turn.acquire_owned() => turn,
                turn = async {
                    tokio::time::sleep(patience).await;
                    extra.acquire_owned().await
                } => turn,
            };
            let Ok(turn) = turn else { return Reply::close(STOPPED) };
            beside(turn, handle).await.unwrap_or_else(|| Reply::close(STOPPED))
        }))
    }

    /// Handles a request that unpacks what a client has packed: a few KiB may be megabytes. It is told whether it has
    /// its turn in time; if not it has to answer at once. Each connection has one in the queue at most.
    pub fn unpack(&self, handle: impl FnOnce(bool) -> Reply + Send + 'static) -> Reply {
        let turn = Arc::clone(&self.unpacking);
        Reply::Held(Box::pin(async move {
            let Ok(Ok(turn)) = tokio::time::timeout(UNPACKING_PATIENCE, turn.acquire_owned()).await else {
                return handle(false);
            };
            beside(turn, || handle(true)).await.unwrap_or_else(|| Reply::close(STOPPED))
        }))
    }

    /// The response that `make` makes, in its turn. The connection handles no further request meanwhile: each of those
    /// that waited would be held, and a request of 16 KiB takes half a megabyte when it is decoded.
    pub fn answer(&self, make: impl FnOnce() -> Response + Send + 'static) -> Reply {
        let made = made(Arc::clone(&self.turn), make);
        Reply::Held(Box::pin(async move { Reply::Ready(made.await) }))
    }

    /// As [`Self::answer`], for a response whose request has waited for something else, and takes little.
    pub async fn make(&self, make: impl FnOnce() -> Response + Send + 'static) -> Response {
        made(Arc::clone(&self.turn), make).await
    }
}

async fn made(turn: Arc<Semaphore>, make: impl FnOnce() -> Response + Send + 'static) -> Response {
    let Ok(turn) = turn.acquire_owned().await else { return Response::closing() };
    beside(turn, make).await.unwrap_or_else(Response::closing)
}

/// What `work` gives on a thread of its own; none if the broker stops.
async fn beside<T: Send + 'static>(turn: OwnedSemaphorePermit, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let worked = tokio::task::spawn_blocking(move || {
        // Held to the end of the work, also where the connection has ended.
        let _turn = turn;
        work()
    });
    worked.await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// G3, G8: each connection's large request was decoded on a worker, all of them at a time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn g8_large_requests_are_handled_one_at_a_time() {
        let work = HeavyWork { patience: Duration::from_secs(3_600), ..HeavyWork::default() };
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answers = (0..8).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            work.carry_out(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                Reply::None
            })
        });
        let tasks: Vec<_> = answers
            .map(|answer| match answer {
                Reply::Held(future) => tokio::spawn(future),
                other => panic!("{other:?}"),
            })
            .collect();
        for task in tasks {
            assert!(matches!(task.await.expect("no panic"), Reply::None));
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unpacked_has_its_turn_or_is_told_that_it_has_none() {
        let work = HeavyWork::default();
        let told = |reply: Reply| match reply {
            Reply::Held(future) => future,
            other => panic!("{other:?}"),
        };
        let say = |in_time: bool| Reply::close(in_time);
        let turn = Arc::clone(&work.unpacking).acquire_owned().await.expect("a turn");
        let late = told(work.unpack(say)).await;
        assert!(matches!(&late, Reply::Close(said) if said == "false"), "{late:?}");
        drop(turn);
        let in_time = told(work.unpack(say)).await;
        assert!(matches!(&in_time, Reply::Close(said) if said == "true"), "{in_time:?}");
    }

    /// A connection that sent a thousand requests for large answers in advance had all of them decoded at once.
    #[tokio::test]
    async fn a_response_that_waits_for_its_turn_holds_one_request_of_its_connection() {
        let Reply::Held(answer) = HeavyWork::default().answer(Response::closing) else { panic!("the next is handled") };
        assert!(matches!(answer.await, Reply::Ready(response) if response.close_after));
    }

    #[test]
    fn a_small_request_that_takes_long_leaves_the_worker() {
        assert!(goes_beside(true, 100) && !goes_beside(false, 100));
        assert!(!goes_beside(true, LARGE_REQUEST_BYTES), "it has left");
    }

    /// A7: a large request that waited for a disk held up every other one, to whatever directory.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_request_that_waits_for_a_disk_holds_up_others_for_a_while_only() {
        let work = HeavyWork { patience: Duration::from_millis(1), ..HeavyWork::default() };
        let begin = |answer: Reply| match answer {
            Reply::Held(future) => tokio::spawn(future),
            other => panic!("{other:?}"),
        };
        let (disk_answers, answer) = std::sync::mpsc::channel::<()>();
        let stuck = begin(work.carry_out(move || {
            let _ = answer.recv();
            Reply::None
        }));
        let other = begin(work.carry_out(|| Reply::None));
        let outcome = tokio::time::timeout(Duration::from_secs(60), other).await;
        drop(disk_answers);
        assert!(matches!(outcome, Ok(Ok(Reply::None))));
        assert!(matches!(stuck.await, Ok(Reply::None)));
    }
}
