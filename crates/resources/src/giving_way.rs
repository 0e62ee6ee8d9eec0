//! Giving way to the other tasks of a worker. tokio keeps a task that yields with the worker on which it did, until
//! that worker looks at its sockets again. If a disk takes the worker away before, no other one would go on with the
//! task: a listener would accept nobody for as long as the disk does not answer.

use tokio::sync::Notify;

static GAVE_WAY: Notify = Notify::const_new();

/// As [`tokio::task::yield_now`], on a worker that may have to wait for a disk.
pub async fn give_way() {
    tokio::select! {
        biased;
        () = GAVE_WAY.notified() => {}
        () = tokio::task::yield_now() => {}
    }
}

/// Lets all tasks that gave way go on, on whichever worker has time. To be called outside of the runtime, when one of
/// its workers does not come back.
pub fn wake_all_that_gave_way() {
    GAVE_WAY.notify_waiters();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// The task that gave way is left with a worker that does not come back, and is taken over by another one.
    #[test]
    fn a_task_that_gave_way_to_one_that_waits_for_a_disk_goes_on() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        let (blocks, is_blocked) = mpsc::channel();
        let (answers, answer) = mpsc::channel::<()>();
        let (goes_on, went_on) = mpsc::channel();
        runtime.spawn(async move {
            // It is the next one on this worker.
            tokio::spawn(async move {
                blocks.send(()).expect("the test waits");
                let _ = answer.recv();
            });
            give_way().await;
            goes_on.send(()).expect("the test waits");
        });
        is_blocked.recv_timeout(LONG).expect("begun");
        went_on.recv_timeout(Duration::from_millis(200)).expect_err("nobody takes it over");
        wake_all_that_gave_way();
        went_on.recv_timeout(LONG).expect("taken over");
        drop(answers);
    }
}
