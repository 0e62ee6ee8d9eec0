//! SIGTERM and SIGINT: how people and supervisors ask a process to stop.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Completes with the first SIGTERM or SIGINT. The signals have a thread of their own: they must be heard while the
/// control runtime is busy or not yet there.
pub fn stop_asked() -> std::io::Result<impl Future<Output = ()>> {
    let (stop, stopped) = oneshot::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || wait_for_signal(stop))?;
    Ok(async {
        // A sender that is gone is a signal that can no longer come: run on.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

fn wait_for_signal(stop: oneshot::Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    runtime.block_on(async {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(());
    });
}
