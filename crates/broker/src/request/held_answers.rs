//! Answers that would send a client to a leader that has just died wait a moment for its successor.
//!
//! The suspects, and how long each is worth a wait, are those of `ottla_replica_manager::suspects`. A client may notice
//! a leader's end before this broker's own connections to it do, and ask within a millisecond: on a connection that is
//! not new, an answer that names another broker is made [`NOTICE`] after the request.

use std::time::{Duration, Instant};

use ottla_metadata::Image;
use ottla_model::{BrokerId, MonotonicMs};
use ottla_network::response::{Reply, Response};
use ottla_replica_manager::clock;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_resources::Share;

use crate::broker::Broker;

/// What a held request takes beside its body.
const REQUEST_BYTES: u64 = 1_024;
/// The smallest element of a body (a topic, a key) takes two bytes there, and this many times as much when decoded.
const DECODED_FACTOR: u64 = 40;

/// How long a broker may take to notice the end of a connection that its clients have noticed.
const NOTICE: Duration = Duration::from_millis(20);
/// A client asks on a new connection because it has begun, on an older one often because a leader is gone.
const NEW_FOR: Duration = Duration::from_secs(1);

/// The permission to wait: a part of what held requests may take together.
pub struct Hold {
    _share: Share,
    /// No answer is made before.
    not_before: Option<tokio::time::Instant>,
}

/// Whether a request on a connection that was opened then may be there because a leader is gone.
pub fn may_know_more(opened: Instant) -> bool {
    opened.elapsed() >= NEW_FOR
}

/// Whether the answer is to wait. `names` says whether an answer that is made of the image names as a leader a broker
/// that the predicate holds for. Almost always there is no suspect, and this costs one look at an atomic. Where too
/// many wait already, the answer leaves at once, as Kafka's does.
///
/// `may_know_more`: see [`may_know_more`].
pub fn hold(
    broker: &Broker,
    may_know_more: bool,
    body_bytes: usize,
    names: impl Fn(&Image, &dyn Fn(BrokerId) -> bool) -> bool,
) -> Option<Hold> {
    let local = broker.identity.id();
    let is_other = |leader: BrokerId| leader != local && leader != BrokerId::NONE;
    let waits = may_know_more && names(&broker.metadata.peek(), &is_other);
    if !waits && named_suspects_end(&broker.metadata, &names).is_none() {
        return None;
    }
    Some(Hold { _share: room(broker, body_bytes)?, not_before: waits.then(|| tokio::time::Instant::now() + NOTICE) })
}

impl Hold {
    /// Waits until the image names other leaders, the suspects have turned out to be there, or the holds are over.
    pub async fn wait(&self, metadata: &MetadataCache, names: impl Fn(&Image, &dyn Fn(BrokerId) -> bool) -> bool) {
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at).await;
        }
        // Subscribed before the first look: nothing can be missed between a look and the wait after it.
        let mut revisions = metadata.subscribe();
        let mut reached = metadata.suspects().subscribe();
        while let Some(end) = named_suspects_end(metadata, &names) {
            let changed = tokio::select! {
                changed = revisions.changed() => changed.is_ok(),
                changed = reached.changed() => changed.is_ok(),
                () = tokio::time::sleep_until(clock::instant(end)) => true,
            };
            if !changed {
                return;
            }
        }
    }
}

/// The room that a request takes while it waits; none: it is answered at once.
pub fn room(broker: &Broker, body_bytes: usize) -> Option<Share> {
    broker.resources.held.take(REQUEST_BYTES + DECODED_FACTOR * body_bytes as u64)
}

/// When the first hold ends, if the answer would name a suspect.
fn named_suspects_end(
    metadata: &MetadataCache,
    names: &impl Fn(&Image, &dyn Fn(BrokerId) -> bool) -> bool,
) -> Option<MonotonicMs> {
    let image = metadata.peek();
    let held = metadata.suspects().held(&image)?;
    names(&image, &|broker| held.contains(broker)).then(|| held.next_end())?
}

/// The response of an answer that was made after the wait.
pub async fn response(mut answer: Reply) -> Response {
    loop {
        match answer {
            Reply::Ready(response) => return response,
            Reply::Later(response) => return response.await,
            // It has waited, so that the connection handles what comes after it anyway.
            Reply::Held(handling) => answer = handling.await,
            Reply::None | Reply::Close(_) => return Response::closing(),
        }
    }
}
