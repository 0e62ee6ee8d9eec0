//! Requests that are carried out in slices. A worker serves many connections: a request that names a thousand
//! partitions, each with work for the disk, must not keep their records and heartbeats waiting for a second.
//!
//! The first slice is carried out where the request is handled, and is all of an ordinary request. Between further
//! slices everything else that waits for the worker has its turn. The connection handles no further request meanwhile,
//! so that requests keep their order, and each connection has one slice among those of the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla_model::MonotonicMs;
use ottla_network::response::Reply;
use ottla_replica_manager::clock;
use ottla_resources::giving_way::give_way;

use crate::broker::Broker;
use crate::request::RequestContext;

/// How long a slice takes: as much as a turn of a connection with many small requests, so that neither is favoured.
const SLICE_MAX: Duration = Duration::from_millis(2);
/// So many steps are taken without a look at the clock: an ordinary request of a client takes fewer.
const UNTIMED_STEPS: usize = 8;
/// How often a request that waits for a disk, without a thread, looks whether it may have one: a disk that is that slow
/// takes as long for a few writes.
pub const CROWDED_PAUSE: Duration = Duration::from_millis(50);
/// How long a request waits at most for a disk for which too many others wait. A disk that does not answer at all is
/// known to be so earlier if something is written to it; one that is only slow has then others to serve until the
/// client's time is up.
const CROWDED_MAX: Duration = Duration::from_secs(10);

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

/// How far a slice has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All steps are done.
    Done,
    /// Others have their turn first.
    UsedUp,
    /// The next step waits for a disk, beside too many others that hold a thread meanwhile.
    Crowded,
}

/// A request that can stop after each of its steps and go on later.
pub trait Sliced: Sized + Send + 'static {
    /// Takes steps until all are done, the slice is used up, or the next one has to wait.
    fn go_on(&mut self, broker: &Broker, slice: &mut Slice) -> Progress;

    /// Called once, when all steps are done.
    fn answer(self, broker: &Arc<Broker>, context: &RequestContext) -> Reply;
}

/// Carries out a request, the first slice of it now.
pub fn carry_out(broker: &Arc<Broker>, context: &RequestContext, mut work: impl Sliced) -> Reply {
    let progress = work.go_on(broker, &mut Slice::default());
    if progress == Progress::Done {
        return work.answer(broker, context);
    }
    let (broker, context) = (Arc::clone(broker), context.clone());
    Reply::Held(Box::pin(async move {
        pause(progress).await;
        carried_out(&broker, &context, work).await
    }))
}

/// As [`carry_out`], for a request that is held already.
pub async fn carried_out(broker: &Arc<Broker>, context: &RequestContext, mut work: impl Sliced) -> Reply {
    loop {
        match work.go_on(broker, &mut Slice::default()) {
            Progress::Done => return work.answer(broker, context),
            progress => pause(progress).await,
        }
    }
}

/// Whether a request waits on for disks for which too many others wait; `since` when it has.
pub fn may_wait(since: &mut Option<MonotonicMs>) -> bool {
    let now = clock::monotonic();
    now.since(*since.get_or_insert(now)) < CROWDED_MAX
}

async fn pause(progress: Progress) {
    match progress {
        Progress::Done | Progress::UsedUp => give_way().await,
        Progress::Crowded => tokio::time::sleep(CROWDED_PAUSE).await,
    }
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
