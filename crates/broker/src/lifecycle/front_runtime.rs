//! The runtime that accepts connections, shakes hands and takes logins, before connections go to the data runtime.
//!
//! Whoever can reach a port costs these threads their time, and clients that are there nothing but the share of the
//! cores that threads of a lower priority get beside busy ones.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// The priority of its threads (`nice`): a third of the weight of the others where all are busy. Enough for a hundred
/// handshakes a second on a core that data uses up.
const NICE: i32 = 5;
/// One thread for so many cores: it accepts some 20,000 connections a second, or shakes hands with some 1,000 clients.
const CORES_PER_THREAD: usize = 4;
/// For what still runs at the end.
const END_MAX: Duration = Duration::from_millis(100);

pub struct FrontRuntime(Runtime);

impl FrontRuntime {
    pub fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads((cores / CORES_PER_THREAD).max(1))
            .thread_name("front")
            .on_thread_start(|| {
                // Of this thread alone, as Linux has it. Without the lower priority everything works as well.
                if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                    tracing::debug!(%error, "a thread that accepts connections has the priority of the others");
                }
            })
            .enable_all()
            .build()?;
        Ok(Self(runtime))
    }

    pub fn handle(&self) -> &Handle {
        self.0.handle()
    }

    pub fn shut_down(self) {
        self.0.shutdown_timeout(END_MAX);
    }
}
