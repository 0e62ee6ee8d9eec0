//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process lives), `/readyz` (it is registered and serves).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use bytes::Bytes;
use ottla_resources::http_port;
use ottla_rpc::ports;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::Telemetry;
use super::readiness::Readiness;

fn answer(readiness: &Readiness) -> (StatusCode, String) {
    match readiness.missing() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    }
}

/// A page of metrics that is larger is made once in a while, and whoever asks meanwhile gets the same: each reader that
/// is slow would hold one of its own, and making them takes a thread.
const SHARED_PAGE_BYTES: usize = 1 << 20;
const SHARED_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
struct LastPage(Mutex<Option<(Instant, Bytes)>>);

impl LastPage {
    fn or_made(&self, now: Instant, make: impl FnOnce() -> String) -> Bytes {
        let mut last = self.0.lock();
        if let Some((made_at, page)) = &*last
            && now.duration_since(*made_at) < SHARED_FOR
        {
            return page.clone();
        }
        let page = Bytes::from(make());
        *last = (page.len() > SHARED_PAGE_BYTES).then(|| (now, page.clone()));
        page
    }
}

fn router(telemetry: Arc<Telemetry>, readiness: Arc<Readiness>) -> Router {
    let last = Arc::new(LastPage::default());
    let metrics = move || async move {
        let page = last.or_made(Instant::now(), || telemetry.render());
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page)
    };
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

    /// Thirty readers that took a page slowly held thirty pages.
    #[test]
    fn large_pages_are_shared_for_a_while() {
        let (last, now) = (LastPage::default(), Instant::now());
        let page = |bytes: usize, after: Duration| last.or_made(now + after, || "x".repeat(bytes)).len();
        assert_eq!((page(10, Duration::ZERO), page(20, Duration::ZERO)), (10, 20), "small ones are not");
        let large = SHARED_PAGE_BYTES + 1;
        assert_eq!((page(large, Duration::ZERO), page(30, SHARED_FOR / 2)), (large, large));
        assert_eq!((page(40, SHARED_FOR), page(50, SHARED_FOR)), (40, 50));
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
