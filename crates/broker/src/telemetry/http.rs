//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process lives), `/readyz` (it is registered and serves).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use ottla_replica_manager::log_dirs::opening::OpeningProgress;
use ottla_resources::http_port;

use super::Telemetry;

/// Whether clients are served, and until then how far the logs are opened; told to `/readyz`.
#[derive(Debug, Default)]
pub struct Readiness {
    ready: AtomicBool,
    pub opening: OpeningProgress,
}

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub fn get(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn answer(&self) -> (StatusCode, String) {
        if self.get() {
            return (StatusCode::OK, "ready\n".to_owned());
        }
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", self.opening))
    }
}

fn router(telemetry: Arc<Telemetry>, readiness: Arc<Readiness>) -> Router {
    let metrics = move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry.render()) };
    let ready = move || async move { readiness.answer() };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

/// Binds at once, so that a port in use is an error of the start; the future serves until it is dropped.
pub async fn serve(
    address: SocketAddr,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
) -> io::Result<(SocketAddr, impl Future<Output = ()> + Send + 'static)> {
    let socket = tokio::net::TcpListener::bind(address).await?;
    let bound = socket.local_addr()?;
    Ok((bound, http_port::serve(socket, router(telemetry, readiness))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_says_how_far_it_is() {
        let readiness = Readiness::default();
        let (status, text) = readiness.answer();
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: 0 of 0 logs opened\n"));
        readiness.set(true);
        assert_eq!(readiness.answer(), (StatusCode::OK, "ready\n".to_owned()));
    }
}
