//! The port for metrics and health. A connection serves one request and lives for a few seconds; there are few at a
//! time, and if there are too many the oldest is closed: a scrape takes milliseconds, so that an old connection is an
//! idle one. Neither many nor silent clients keep descriptors from the service or a probe from its answer.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ottla_metrics::RateLimit;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use crate::descriptors::HTTP_CONNECTIONS_MAX;

/// For the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// For a request and its response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left), before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped, and its connections with it.
pub async fn serve(listener: TcpListener, router: Router) {
    serve_at_most(listener, router, HTTP_CONNECTIONS_MAX as usize).await;
}

async fn serve_at_most(listener: TcpListener, router: Router, connections_max: usize) {
    let complaints = RateLimit::per_second();
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    complaints.run(|more| tracing::warn!(%error, more, "http.port: accepting failed"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            // Empties the set as tasks end; without any, this branch waits for the other.
            Some(_) = tasks.join_next() => continue,
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= connections_max
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            complaints.run(|more| tracing::warn!(more, "http.port: too many connections; the oldest is closed"));
        }
        open.push_back(tasks.spawn(serve_one(stream, router.clone())));
    }
}

/// Answers one request, and ends the connection.
pub async fn serve_one<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A peer that leaves, or sends no HTTP, is no concern of ours.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn answer(address: std::net::SocketAddr) -> String {
        let mut client = TcpStream::connect(address).await.expect("accepted");
        client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("an answer, then the end");
        text
    }

    #[tokio::test]
    async fn silent_connections_give_way_to_those_that_ask() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/healthz", get(|| async { "ok" }));
        let server = tokio::spawn(serve_at_most(listener, router, 4));
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(address).await.expect("accepted"));
        }
        let text = answer(address).await;
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"), "{text}");
        // The oldest were closed when the others came, the rest by the time-out for their headers.
        for mut connection in silent {
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(60), connection.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "a silent connection is still open");
        }
        server.abort();
    }
}
