//! The runtime that accepts connections, shakes hands and takes logins, before connections go to the data runtime.
//!
//! Whoever can reach a port costs these threads their time, and clients that are there nothing but the share of the
//! cores that one more busy thread takes.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

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
