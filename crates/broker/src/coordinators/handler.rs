//! A handler of requests that waits for the answer of a coordinator.

use ottla_coordinator_partition::Waiter;
use tokio::sync::oneshot;

/// A handler that waits for the answer to its request.
#[derive(Debug)]
pub struct Handler<A>(Option<oneshot::Sender<A>>);

impl<A> Handler<A> {
    /// A handler, and where it waits.
    pub fn new() -> (Self, oneshot::Receiver<A>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Nobody waits any more.
    pub fn gone() -> Self {
        Self(None)
    }

    pub fn answer(self, answer: A) {
        if let Some(sender) = self.0 {
            // The client may have gone.
            let _ = sender.send(answer);
        }
    }
}

impl<A> Waiter for Handler<A> {
    fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}
