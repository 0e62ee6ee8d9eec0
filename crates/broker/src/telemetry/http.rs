//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process lives), `/readyz` (it is registered and serves).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use ottla_resources::http_port;
use ottla_rpc::ports;
use tokio::net::TcpListener;

use super::Telemetry;
use super::readiness::Readiness;

fn answer(readiness: &Readiness) -> (StatusCode, String) {
    match readiness.missing() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    }
}

fn router(telemetry: Arc<Telemetry>, readiness: Arc<Readiness>) -> Router {
    let metrics = move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry.render()) };
    let ready = move || async move { answer(&readiness) };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

/// Binds before it returns, so that a port in use is an error of the start; the future serves until it is dropped.
pub async fn serve(
    address: SocketAddr,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
) -> io::Result<(SocketAddr, impl Future<Output = ()> + Send + 'static)> {
    let socket = bind(address).await?;
    let bound = socket.local_addr()?;
    Ok((bound, http_port::serve(socket, router(telemetry, readiness))))
}

/// An outgoing connection of any process may have the port for a while: it is waited for, as at every listener.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let retry = ports::Retry::new(address.port());
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && retry.wait().await => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::Duration;

    use ottla_broker_session::Standing;

    use super::*;
    use crate::telemetry::readiness::Stage;

    #[tokio::test]
    async fn a_port_that_a_connection_has_is_waited_for() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let stream = TcpStream::connect(server.local_addr().expect("bound")).expect("connected");
        let address = stream.local_addr().expect("connected");
        let refused = TcpListener::bind(address).await.expect_err("in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let bound = tokio::spawn(bind(address));
        tokio::task::yield_now().await;
        // Closed by the server first, the connection leaves no waiting state on this port.
        drop(server.accept().await);
        drop(stream);
        assert_eq!(bound.await.expect("ran").expect("bound").local_addr().expect("bound"), address);
    }

    #[tokio::test]
    async fn a_port_that_another_listener_has_is_not_waited_for() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let refused = bind(other.local_addr().expect("bound")).await.expect_err("in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_start_says_how_far_it_is() {
        let readiness = Readiness::new(Duration::from_secs(3600));
        let (status, text) = answer(&readiness);
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: 0 of 0 logs opened\n"));
        readiness.enter(Stage::InSession(Standing::Live));
        assert_eq!(answer(&readiness), (StatusCode::OK, "ready\n".to_owned()));
    }
}
