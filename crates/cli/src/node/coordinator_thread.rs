//! A coordinator on a thread and a runtime of its own, beside a broker or alone.

use std::sync::mpsc;

use anyhow::{Context as _, Result, anyhow};
use ottla_config::{CoordinatorConfig, HostPort};
use ottla_coordinator::Coordinator;
use tokio::sync::oneshot;

pub struct CoordinatorThread {
    /// Where it serves, with the port that was chosen if it was 0.
    pub address: HostPort,
    stop: oneshot::Sender<()>,
    ended: Option<oneshot::Receiver<()>>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl CoordinatorThread {
    /// Returns once its ports are bound.
    pub fn start(config: CoordinatorConfig) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ending, ended) = oneshot::channel::<()>();
        let (bound, address) = mpsc::channel();
        let thread = std::thread::Builder::new().name("coordinator".to_owned()).spawn(move || {
            // Dropped with the thread, whatever ends it.
            let _ending = ending;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(async {
                let coordinator = Coordinator::bind(config).await?;
                let address = coordinator.client_address().context("the coordinator's address")?;
                // Who started this waits for the address.
                let _ = bound.send(address);
                // A sender that is gone ends the coordinator too: its broker has ended.
                coordinator.run(async { drop(stopped.await) }).await?;
                Ok(())
            });
            runtime.shutdown_background();
            result
        })?;
        match address.recv() {
            Ok(address) => {
                let address = HostPort::new(address.ip().to_string(), address.port());
                Ok(Self { address, stop, ended: Some(ended), thread })
            }
            // It ended before it was bound, and says why.
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| anyhow!("the coordinator ended"))),
        }
    }

    /// Completes when it has ended by itself. Only the first call's future does.
    pub fn ended(&mut self) -> impl Future<Output = ()> + use<> {
        let ended = self.ended.take();
        async move {
            match ended {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        }
    }

    /// Ends it, and tells how it ended.
    pub fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        joined(self.thread)
    }
}

fn joined(thread: std::thread::JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("the coordinator's thread panicked")))
}
