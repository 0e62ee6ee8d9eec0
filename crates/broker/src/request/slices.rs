//! Requests that are carried out in slices. A worker serves many connections: a request that names a thousand
//! partitions, each with work for the disk, must not keep their records and heartbeats waiting for a second.
//!
//! The first slice is carried out where the request is handled, and is all of an ordinary request. Between further
//! slices everything else that waits for the worker has its turn. The connection handles no further request meanwhile,
//! so that requests keep their order, and each connection has one slice among those of the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla_network::response::Reply;

use crate::broker::Broker;
use crate::request::RequestContext;

/// How long a slice takes: as much as a turn of a connection with many small requests, so that neither is favoured.
const SLICE_MAX: Duration = Duration::from_millis(2);
/// So many steps are taken without a look at the clock: an ordinary request of a client takes fewer.
const UNTIMED_STEPS: usize = 8;

/// The time that a request has before others have their turn.
#[derive(Default)]
pub struct Slice {
    steps: usize,
    began: Option<Instant>,
}

impl Slice {
    /// To be asked after each step.
    pub fn is_used_up(&mut self) -> bool {
        self.steps += 1;
        if self.steps < UNTIMED_STEPS {
            return false;
        }
        self.began.get_or_insert_with(Instant::now).elapsed() >= SLICE_MAX
    }
}

/// A request that can stop after each of its steps and go on later.
pub trait Sliced: Sized + Send + 'static {
    /// Takes steps until all are done or the slice is used up. Whether all are done.
    fn go_on(&mut self, broker: &Broker, slice: &mut Slice) -> bool;

    /// Called once, when all steps are done.
    fn answer(self, broker: &Arc<Broker>, context: &RequestContext) -> Reply;
}

/// Carries out a request, the first slice of it now.
pub fn carry_out(broker: &Arc<Broker>, context: &RequestContext, mut work: impl Sliced) -> Reply {
    if work.go_on(broker, &mut Slice::default()) {
        return work.answer(broker, context);
    }
    let (broker, context) = (Arc::clone(broker), context.clone());
    Reply::Held(Box::pin(async move {
        tokio::task::yield_now().await;
        carried_out(&broker, &context, work).await
    }))
}

/// As [`carry_out`], for a request that is held already.
pub async fn carried_out(broker: &Arc<Broker>, context: &RequestContext, mut work: impl Sliced) -> Reply {
    while !work.go_on(broker, &mut Slice::default()) {
        tokio::task::yield_now().await;
    }
    work.answer(broker, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_steps_are_one_slice_however_long_they_take_and_many_are_not() {
        let mut slice = Slice::default();
        for _ in 1..UNTIMED_STEPS {
            assert!(!slice.is_used_up());
        }
        assert!(!slice.is_used_up(), "the clock starts here");
        slice.began = Instant::now().checked_sub(SLICE_MAX);
        assert!(slice.is_used_up());
    }
}
