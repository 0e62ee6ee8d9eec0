//! The way out: leaders move first, while this broker goes on serving; then it answers what it has read, closes its logs cleanly
//! and goes. Bounded at every step, because a quorum that is gone, or that all brokers leave at once, must not keep a process.

use std::time::Duration;

use ottla_metadata::controller::ControlledShutdown;
use ottla_model::ErrorCode;
use ottla_network::ConnectionShared;
use ottla_rpc::ClusterClient;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::identity::Identity;

/// For moving leaders away. A thousand leaderships take a fraction of it; what has not moved by then has nowhere to go.
const CONTROLLED_MAX: Duration = Duration::from_secs(3);
/// Without any answer from the quorum for this long, nothing will move: longer than an election.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// Between two questions. The others' images follow within a beat.
const ASK_INTERVAL: Duration = Duration::from_millis(25);
/// For answers that are under way. Parked ones end when leadership moves, so little is left by now.
const DRAIN_MAX: Duration = Duration::from_millis(250);
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// Asks the quorum to move this broker's leaderships until nothing remains to be moved.
pub async fn move_leaderships(client: &ClusterClient, identity: &Identity) {
    let began = Instant::now();
    let deadline = began + CONTROLLED_MAX;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            tracing::warn!("leaderships did not move in time; stopping all the same");
            return;
        }
        let request =
            ControlledShutdown { broker: identity.id(), epoch: identity.epoch(), incarnation: identity.incarnation() };
        match client.submit(request, remaining.min(SILENCE_MAX)).await {
            Ok(response) => {
                if response.error != ErrorCode::None {
                    let error = response.error;
                    tracing::warn!(?error, "the quorum does not move this broker's leaderships; stopping all the same");
                    return;
                }
                if response.done {
                    let remaining = response.remaining_leaderships;
                    tracing::info!(elapsed = ?began.elapsed(), remaining, "leaderships moved away");
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no quorum to move leaderships; stopping all the same");
                return;
            }
        }
        tokio::time::sleep(ASK_INTERVAL.min(remaining)).await;
    }
}

/// Lets the connections answer what they have read; says how many answers were left.
pub async fn drain(connections: &ConnectionShared<Broker>) -> i64 {
    connections.drain();
    let deadline = Instant::now() + DRAIN_MAX;
    while connections.pending() > 0 && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    connections.pending()
}
