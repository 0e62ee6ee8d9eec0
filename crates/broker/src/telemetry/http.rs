//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process lives), `/readyz` (it is registered and serves).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use super::Telemetry;

/// Whether clients are served; told to `/readyz`.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

fn router(telemetry: Arc<Telemetry>, readiness: Arc<Readiness>) -> Router {
    let metrics = move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry.render()) };
    let ready = move || async move {
        if readiness.get() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
    };
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
    let server = async move {
        if let Err(error) = axum::serve(socket, router(telemetry, readiness)).await {
            tracing::warn!(%error, "the metrics port stopped");
        }
    };
    Ok((bound, server))
}
