//! Threads that read cold records into the page cache: a share of them for each disk.
//!
//! The runtime has a bounded number of threads for what blocks, also for the workers that take over from those that
//! wait. A crowd of consumers that lag behind would have all of them wait for one disk that does not answer. What is
//! beyond a disk's share waits without a thread, in order, until its connection ends.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Threads that read from one disk at a time. A disk serves no more requests at a time any faster.
const THREADS_PER_DISK: usize = 32;

/// What tells disks apart.
pub type Disk = (u32, u32);

/// The reads of all connections. There are as many disks as the log directories are on.
#[derive(Default)]
pub struct ColdReads {
    turns: Mutex<BTreeMap<Disk, Arc<Semaphore>>>,
}

impl ColdReads {
    /// Reads in its turn.
    pub fn begin(&self, disk: Disk, read: impl FnOnce() -> io::Result<()> + Send + 'static) -> ColdRead {
        let new = || Arc::new(Semaphore::new(THREADS_PER_DISK));
        let turns = Arc::clone(self.turns.lock().entry(disk).or_insert_with(new));
        ColdRead(tokio::spawn(async move {
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            let reading = tokio::task::spawn_blocking(move || {
                // Held to the end of the read, also where the connection has ended.
                let _turn = turn;
                read()
            });
            reading.await.map_err(io::Error::other)?
        }))
    }
}

/// A read that waits for its turn, or for the disk; one that has not begun does not when this is dropped.
pub struct ColdRead(JoinHandle<io::Result<()>>);

impl Future for ColdRead {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).map_err(io::Error::other)?)
    }
}

impl Drop for ColdRead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const STALLED: Disk = (8, 0);
    const OTHER: Disk = (8, 1);

    /// A7: a crowd of consumers that lagged behind on one disk took every thread, and the other disks' had none.
    #[test]
    fn a_disk_that_does_not_answer_has_its_share_of_the_threads() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(THREADS_PER_DISK + 1)
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (reads, begun) = (ColdReads::default(), Arc::new(AtomicUsize::new(0)));
            let (answer, answers) = mpsc::channel::<()>();
            let answers = Arc::new(Mutex::new(answers));
            let stuck = || {
                let (begun, answers) = (Arc::clone(&begun), Arc::clone(&answers));
                move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    // Also when the sender is gone.
                    let _ = answers.lock().recv();
                    Ok(())
                }
            };
            let mut lagging: Vec<_> = (0..2 * THREADS_PER_DISK).map(|_| reads.begin(STALLED, stuck())).collect();
            let other = tokio::time::timeout(Duration::from_secs(60), reads.begin(OTHER, || Ok(()))).await;
            // Those whose connections end meanwhile read nothing.
            drop(lagging.split_off(THREADS_PER_DISK + 1));
            drop(answer);
            other.expect("in time").expect("read");
            for read in lagging {
                read.await.expect("read");
            }
            assert!(begun.load(Ordering::SeqCst) <= THREADS_PER_DISK + 1, "one after another");
        });
    }
}
