//! The monitoring port's pages: /healthz, /readyz and /metrics of all quorums of this coordinator.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use futures::future::join_all;
use ottla_metrics::Registry;
use ottla_model::Chroot;
use ottla_resources::ConnectionLimits;

use crate::quorums::{Quorum, Quorums};

/// A page waits this long for the drivers' word on the other coordinators.
const PROGRESS_TIMEOUT: Duration = Duration::from_millis(20);

/// What the health and metrics server tells of.
struct Shown {
    quorums: Arc<Quorums>,
    /// Of each port.
    connections: Vec<Arc<ConnectionLimits>>,
}

/// The health and metrics server's routes.
pub fn routes(quorums: Arc<Quorums>, connections: Vec<Arc<ConnectionLimits>>) -> Router {
    let shown = Arc::new(Shown { quorums, connections });
    Router::new()
        .route("/healthz", get(|State(shown): State<Arc<Shown>>| async move { healthy(&shown.quorums) }))
        .route("/readyz", get(|State(shown): State<Arc<Shown>>| async move { ready(&shown.quorums) }))
        .route("/metrics", get(|State(shown): State<Arc<Shown>>| async move { page(&shown).await }))
        .with_state(shown)
}

fn healthy(quorums: &Quorums) -> (StatusCode, String) {
    let stalled = quorums.all().into_iter().find(|quorum| !quorum.metrics.is_healthy());
    verdict(stalled.map(|quorum| format!("the driver{} stalls\n", below(quorum.shared.chroot()))))
}

fn ready(quorums: &Quorums) -> (StatusCode, String) {
    let missing = quorums.all().into_iter().find_map(|quorum| {
        let missing = quorum.metrics.missing()?;
        Some(format!("not ready{}: {missing}\n", below(quorum.shared.chroot())))
    });
    verdict(missing)
}

fn below(chroot: Option<&Chroot>) -> String {
    chroot.map(|chroot| format!(" of chroot {chroot}")).unwrap_or_default()
}

/// Prometheus' text form.
async fn page(shown: &Shown) -> String {
    let quorums = shown.quorums.all();
    let open = shown.connections.iter().map(|limits| limits.open()).sum::<usize>();
    shown.quorums.root_metrics().connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    join_all(quorums.iter().map(show_cluster)).await;
    Registry::render_all(quorums.iter().map(|quorum| &quorum.metrics.registry))
}

async fn show_cluster(quorum: &Quorum) {
    let Some(formed) = quorum.shared.formed() else { return };
    let view = formed.view.get();
    quorum.metrics.cluster.show(&view.image);
    // A driver that stalls does not keep the page back.
    let progress = tokio::time::timeout(PROGRESS_TIMEOUT, formed.driver.progress()).await;
    let progress = progress.ok().and_then(Result::ok).flatten();
    quorum.metrics.cluster.show_progress(progress.as_ref());
}

fn verdict(problem: Option<String>) -> (StatusCode, String) {
    match problem {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}
