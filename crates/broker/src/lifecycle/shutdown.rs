//! After the controlled shutdown: the broker answers what it has read. Bounded, because a client that takes no answers
//! must not keep a process.

use std::time::Duration;

use ottla_network::ConnectionShared;
use tokio::time::Instant;

use crate::broker::Broker;

/// For answers that are under way. Parked ones end when leadership moves, so little is left by now.
const DRAIN_MAX: Duration = Duration::from_millis(250);
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// Lets the connections answer what they have read; says how many answers were left.
pub async fn drain(connections: &ConnectionShared<Broker>) -> i64 {
    connections.drain();
    let deadline = Instant::now() + DRAIN_MAX;
    while connections.pending() > 0 && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    connections.pending()
}
