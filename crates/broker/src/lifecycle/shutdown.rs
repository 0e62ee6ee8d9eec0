//! After the controlled shutdown: the broker sends its clients to the next leaders, and answers what it has read.
//! Bounded, because a client that takes no answers must not keep a process.

use std::time::Duration;

use ottla_network::ConnectionShared;
use tokio::time::Instant;

use crate::broker::Broker;

/// How long clients are told of the next leaders (NOT_LEADER_OR_FOLLOWER, KIP-951) before their connections end. A
/// client whose connection ends while it still takes this broker for a leader connects again at once, is refused, and
/// waits longer after each refusal: librdkafka up to 10 s. It waits for as long when the broker is back and leads again
/// within a second, and its readers and writers stand still meanwhile. Clients that are busy ask within this time.
const REDIRECT: Duration = Duration::from_millis(300);
/// For answers that are under way. Parked ones end when leadership moves, so little is left by now.
const DRAIN_MAX: Duration = Duration::from_millis(250);
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// Goes on to serve clients, so that they leave by themselves.
pub async fn redirect_clients() {
    tokio::time::sleep(REDIRECT).await;
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
