//! The runtime that serves connections and touches the partitions, and what keeps it going when a disk does not answer.
//!
//! Appends are written by the worker that has read them, because a hop to another thread costs more than the write. A
//! write that does not return takes that worker away, and with it whatever only this worker would have done: it may be
//! the one that waits for sockets and timers, and may be the only one. So each log directory has a worker in reserve,
//! which a watch lets go as soon as a write to the directory lasts. From then on writes there hold no worker beside one
//! that is under way ([`DirectoryHealth::begin_write`]), so that one in reserve for each directory is enough.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ottla_config::BrokerConfig;
use ottla_resources::giving_way::wake_all_that_gave_way;
use ottla_storage::{DirectoryHealth, SLOW_LOOK_INTERVAL, SlowWatch};
use tokio::runtime::{Builder, Handle, Runtime};

/// For a thread to be started.
const START_MAX: Duration = Duration::from_secs(10);
/// For what still runs at the end.
const END_MAX: Duration = Duration::from_millis(100);
/// For a worker to go back into reserve. Where all have more to do than that, one more is welcome. The directories are
/// not looked at meanwhile.
const BACK_MAX: Duration = Duration::from_millis(50);
/// How long a directory has been quick when its worker goes back: a disk that has just been slow often is so again.
const QUICK_BEFORE_BACK: Duration = Duration::from_secs(60);

pub struct DataRuntime {
    runtime: Runtime,
    reserve: Vec<Reserve>,
    quick_before_back: Duration,
}

/// A worker that waits until this is dropped. Nothing else is on it: a task that waited there would not be taken over
/// by the others.
struct Reserve {
    _release: mpsc::Sender<()>,
}

impl Reserve {
    /// Takes the worker that comes first; none if none comes in time. To be called outside of the runtime.
    fn take(runtime: &Handle, wait: Duration) -> Option<Self> {
        let (release, released) = mpsc::channel::<()>();
        let (taken, is_taken) = mpsc::channel();
        runtime.spawn(async move {
            // The task that the worker would run next has a place from which no other worker takes it: this one takes
            // the place, and that one goes to the worker's queue.
            tokio::spawn(std::future::ready(()));
            let _ = taken.send(());
            // On purpose without letting go of the worker.
            let _ = released.recv();
        });
        is_taken.recv_timeout(wait).ok()?;
        // It may have been the one that waits for sockets and timers, and others may have given way to it.
        wake_another(runtime);
        Some(Self { _release: release })
    }
}

/// A worker without anything to do does not know that the one which waits for sockets and timers does not come back to
/// that. Whoever wakes up takes it over.
fn wake_another(runtime: &Handle) {
    runtime.spawn(std::future::ready(()));
    wake_all_that_gave_way();
}

/// Looks at the directories until it is dropped.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DataRuntime {
    /// As many workers as `num.network.threads` says, if it is set. By default half of the cores: waking a thread
    /// on another core costs more than handling the request (on two cores a second worker cost a fifth of the CPU of
    /// small requests), and the page cache, the disks and the clients need the other half.
    pub fn start(config: &BrokerConfig) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = match config.properties.explicit("num.network.threads") {
            Some(_) => config.num_network_threads,
            None => cores / 2,
        };
        Self::with(workers.max(1), config.log_dirs.len(), QUICK_BEFORE_BACK)
    }

    fn with(workers: usize, directories: usize, quick_before_back: Duration) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers + directories)
            .thread_name("data")
            .enable_all()
            .build()?;
        // One after the other, so that none is left in the queue of another that waits already.
        let take = |_| Reserve::take(runtime.handle(), START_MAX);
        let reserve: Option<Vec<_>> = (0..directories).map(take).collect();
        let reserve = reserve.ok_or_else(|| io::Error::other("a worker did not start"))?;
        Ok(Self { runtime, reserve, quick_before_back })
    }

    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Watches over the directories from now on. Called once, before clients are served.
    pub fn watch(&mut self, directories: Vec<Arc<DirectoryHealth>>) -> io::Result<Watch> {
        let mut reserve = std::mem::take(&mut self.reserve).into_iter();
        let quick_before_back = self.quick_before_back;
        let mut watched: Vec<_> = directories
            .into_iter()
            .map(|health| Watched {
                health,
                watch: SlowWatch::default(),
                reserve: reserve.next(),
                quick_since: Instant::now(),
                quick_before_back,
            })
            .collect();
        let (is_over, data) = (Arc::new(AtomicBool::new(false)), self.runtime.handle().clone());
        let thread = std::thread::Builder::new().name("disk-watch".to_owned()).spawn({
            let is_over = is_over.clone();
            move || look_until(&is_over, &mut watched, &data)
        })?;
        Ok(Watch { is_over, thread: Some(thread) })
    }

    /// Whatever still blocks (a disk that does not answer) must not keep the process.
    pub fn shut_down(self) {
        drop(self.reserve);
        self.runtime.shutdown_timeout(END_MAX);
    }
}

/// Between two looks a whole interval passes, whoever unparks the thread meanwhile: what lasts that long is slow.
fn look_until(is_over: &AtomicBool, watched: &mut [Watched], data: &Handle) {
    for directory in watched.iter() {
        directory.health.watched_by(std::thread::current());
    }
    let mut next_look = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        let wait = next_look.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::park_timeout(wait);
            continue;
        }
        // Not `any`: each of them is looked at.
        if watched.iter_mut().map(Watched::look).fold(false, |any, is_slow| any | is_slow) {
            wake_another(data);
        }
        watched.iter_mut().for_each(|directory| directory.take_back(data));
        // Not `all`: each of them must know that the thread rests.
        if watched.iter().filter(|directory| directory.health.rest()).count() == watched.len() {
            std::thread::park();
        }
        next_look = Instant::now() + SLOW_LOOK_INTERVAL;
    }
}

struct Watched {
    health: Arc<DirectoryHealth>,
    watch: SlowWatch,
    reserve: Option<Reserve>,
    /// Since the directory was slow last, or since a worker was asked for last.
    quick_since: Instant,
    quick_before_back: Duration,
}

impl Watched {
    /// Lets the worker in reserve go when a write lasts. Whether one does.
    fn look(&mut self) -> bool {
        let is_slow = self.watch.look(&self.health);
        if is_slow {
            self.quick_since = Instant::now();
            if self.reserve.take().is_some() {
                tracing::info!("a write to a log directory lasts: its worker in reserve serves clients meanwhile");
            }
        }
        is_slow
    }

    fn take_back(&mut self, data: &Handle) {
        if self.reserve.is_none() && self.quick_since.elapsed() >= self.quick_before_back {
            self.quick_since = Instant::now();
            self.reserve = Reserve::take(data, BACK_MAX);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the watch over the log directories ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Writes that do not return before the sender is dropped, each begun by a task that a socket has woken.
    fn stuck_write(runtime: &DataRuntime, health: &Arc<DirectoryHealth>) -> mpsc::Sender<()> {
        let (answers, answer) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        let health = health.clone();
        runtime.handle().spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("connected");
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.write_all(b"x").await.expect("sent");
                std::future::pending::<()>().await;
            });
            let (mut stream, _) = listener.accept().await.expect("accepted");
            stream.read_u8().await.expect("received");
            begun.send(()).expect("the test waits");
            let _ = ottla_replica_manager::log_io::writing(&health, || answer.recv());
        });
        has_begun.recv_timeout(LONG).expect("begun");
        answers
    }

    /// Whether the sockets and timers of a runtime are served.
    fn is_served(runtime: &DataRuntime) -> Receiver<()> {
        let (served, is_served) = mpsc::channel();
        runtime.handle().spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (mut connected, mut accepted) = (connected.expect("connected"), accepted.expect("accepted").0);
            tokio::time::sleep(Duration::from_millis(1)).await;
            connected.write_all(b"x").await.expect("sent");
            accepted.read_u8().await.expect("received");
            let _ = served.send(());
        });
        is_served
    }

    /// Of one worker and of several, with one directory and with several, again and again.
    #[test]
    fn writes_that_do_not_return_hold_up_nothing_else() {
        for (workers, directories) in [(1, 1), (2, 1), (1, 2), (3, 2)] {
            let mut runtime = DataRuntime::with(workers, directories, QUICK_BEFORE_BACK).expect("a runtime");
            let health: Vec<_> = (0..directories).map(|_| Arc::new(DirectoryHealth::new(directories > 1))).collect();
            let watch = runtime.watch(health.clone()).expect("a thread");
            is_served(&runtime).recv_timeout(LONG).expect("before");
            for round in 0..3 {
                // As many at the same time as there are workers, in every directory.
                let stuck: Vec<_> = health.iter().flat_map(|health| (0..workers).map(move |_| health)).collect();
                let stuck: Vec<_> = stuck.into_iter().map(|health| stuck_write(&runtime, health)).collect();
                is_served(&runtime).recv_timeout(LONG).unwrap_or_else(|_| panic!("{workers}, {directories}, {round}"));
                drop(stuck);
            }
            drop(watch);
            runtime.shut_down();
        }
    }
    /// As many workers serve as before the write that lasted: one that waits for something keeps all others waiting.
    /// Tasks are always woken meanwhile, and none of them is left with the worker that goes back.
    #[test]
    fn the_worker_goes_back_when_the_directory_is_quick_again() {
        let mut runtime = DataRuntime::with(1, 1, Duration::from_millis(10)).expect("a runtime");
        let health = Arc::new(DirectoryHealth::new(false));
        let watch = runtime.watch(vec![health.clone()]).expect("a thread");
        let writes_on = Arc::new(AtomicBool::new(true));
        // An idle directory is not watched.
        let writer = std::thread::spawn({
            let (health, writes_on) = (health.clone(), writes_on.clone());
            move || {
                while writes_on.load(Ordering::Acquire) {
                    health.end_write(health.begin_write());
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        for _ in 0..3 {
            let stuck = stuck_write(&runtime, &health);
            is_served(&runtime).recv_timeout(LONG).expect("by the one in reserve");
            drop(stuck);
            let began = Instant::now();
            loop {
                assert!(began.elapsed() < LONG, "two workers serve");
                let (ends, end) = mpsc::channel::<()>();
                let (begun, has_begun) = mpsc::channel();
                runtime.handle().spawn(async move {
                    let _ = begun.send(());
                    let _ = end.recv();
                });
                has_begun.recv_timeout(LONG).expect("a worker is there");
                let served = is_served(&runtime);
                let is_alone = served.recv_timeout(Duration::from_millis(500)).is_err();
                drop(ends);
                if is_alone {
                    served.recv_timeout(LONG).expect("the one worker serves again");
                    break;
                }
            }
        }
        writes_on.store(false, Ordering::Release);
        writer.join().expect("ended");
        drop(watch);
        runtime.shut_down();
    }
}
