//! Producer ids for idempotent producers, from blocks that the quorum gives to this broker alone.
//!
//! The next block is asked for before the current one is used up, so that a producer hardly ever waits for the quorum.
//! An id is given once; what remains of a block is lost with the process, which costs nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use ottla_metadata::controller::AllocatedProducerIds;
use ottla_model::ProducerId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use ottla_replica_manager::quorum_handle::{QuorumError, QuorumHandle};

/// Ask for the next block when less than this share of the current one is left (as Kafka does).
const PREFETCH_BELOW_PERCENT: i64 = 10;

/// Producers that wait for a block. More than that are told to try again: they hold memory, and each waits for the
/// quorum.
const WAITING_MAX: usize = 10_000;

pub struct ProducerIds {
    quorum: Arc<dyn QuorumHandle>,
    data: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Remaining>,
    next: Option<AllocatedProducerIds>,
    asking: bool,
    waiting: VecDeque<oneshot::Sender<ProducerId>>,
}

struct Remaining {
    next: i64,
    end: i64,
    block_length: i64,
}

impl State {
    fn take(&mut self) -> Option<ProducerId> {
        if self.current.as_ref().is_none_or(|block| block.next >= block.end) {
            let block = self.next.take()?;
            let length = i64::from(block.count.max(0));
            self.current =
                Some(Remaining { next: block.first, end: block.first.saturating_add(length), block_length: length });
        }
        let block = self.current.as_mut()?;
        if block.next >= block.end {
            return None;
        }
        block.next += 1;
        Some(ProducerId(block.next - 1))
    }

    fn runs_low(&self) -> bool {
        self.next.is_none()
            && self
                .current
                .as_ref()
                .is_none_or(|block| (block.end - block.next) * 100 < block.block_length * PREFETCH_BELOW_PERCENT)
    }
}

impl ProducerIds {
    /// The quorum is asked on `data`: a step of a transactional id, which takes an id, may be done by an I/O thread.
    pub fn new(quorum: Arc<dyn QuorumHandle>, data: &Handle) -> Arc<Self> {
        Arc::new(Self { quorum, data: data.clone(), state: Mutex::default() })
    }

    /// A new id, or a receiver that gets one when the quorum has given a block (and ends without one when it could
    /// not).
    pub fn take(self: &Arc<Self>) -> Result<ProducerId, oneshot::Receiver<ProducerId>> {
        let mut state = self.state.lock();
        let taken = state.take();
        let receiver = taken.is_none().then(|| {
            let (sender, receiver) = oneshot::channel();
            if state.waiting.len() < WAITING_MAX {
                state.waiting.push_back(sender);
            }
            receiver
        });
        self.ask_if_low(&mut state);
        drop(state);
        match (taken, receiver) {
            (Some(id), _) => Ok(id),
            (None, Some(receiver)) => Err(receiver),
            (None, None) => Err(oneshot::channel().1),
        }
    }

    /// A new id, or none for a caller that does not wait: the next block is on its way, and all of it is for those who
    /// ask then.
    pub fn take_now(self: &Arc<Self>) -> Option<ProducerId> {
        let mut state = self.state.lock();
        let taken = state.take();
        self.ask_if_low(&mut state);
        taken
    }

    fn ask_if_low(self: &Arc<Self>, state: &mut State) {
        if state.runs_low() && !state.asking {
            state.asking = true;
            let ids = self.clone();
            self.data.spawn(async move { ids.ask().await });
        }
    }

    async fn ask(&self) {
        let block = self.quorum.allocate_producer_ids().await;
        let mut state = self.state.lock();
        state.asking = false;
        match block {
            Ok(block) => {
                state.next = Some(block);
                while let Some(receiver) = state.waiting.pop_front() {
                    let Some(id) = state.take() else {
                        state.waiting.push_front(receiver);
                        break;
                    };
                    // A producer that went away meanwhile wastes an id.
                    let _ = receiver.send(id);
                }
            }
            Err(error) => {
                log_refusal(&error);
                state.waiting.clear();
            }
        }
        // Those whom a small block did not reach ask again themselves: their receivers end.
        state.waiting.clear();
    }
}

fn log_refusal(error: &QuorumError) {
    tracing::warn!(%error, "no producer ids from the quorum; producers will ask again");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ottla_metadata::controller::{Answer, Request};
    use ottla_metadata::quorum_progress::QuorumProgress;
    use ottla_model::{BrokerEpoch, BrokerId};
    use ottla_replica_manager::quorum_handle::QuorumFuture;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    /// A quorum that has ids.
    #[derive(Default)]
    pub(crate) struct Blocks(AtomicI64);

    impl QuorumHandle for Blocks {
        fn registration(&self) -> Result<(BrokerId, BrokerEpoch), QuorumError> {
            Ok((BrokerId(1), BrokerEpoch(1)))
        }

        fn decide(&self, request: Request, _: Duration) -> QuorumFuture<Answer> {
            assert!(matches!(request, Request::AllocateProducerIds(_)), "{request:?}");
            let first = self.0.fetch_add(100, Ordering::Relaxed);
            let block = AllocatedProducerIds { first, count: 100 };
            Box::pin(async move { Ok(Answer::AllocateProducerIds(Ok(block))) })
        }

        fn progress(&self, _: Duration) -> QuorumFuture<QuorumProgress> {
            Box::pin(async { Err(QuorumError::NotRegistered) })
        }
    }

    #[tokio::test]
    async fn ids_come_once_and_without_gaps_between_blocks() {
        let ids = ProducerIds::new(Arc::new(Blocks::default()), &Handle::current());
        for expected in 0..250 {
            let id = match ids.take() {
                Ok(id) => id,
                Err(receiver) => receiver.await.expect("the quorum answers"),
            };
            assert_eq!(id, ProducerId(expected));
            tokio::task::yield_now().await;
        }
    }

    /// Each try of a transactional id took an id of the next block along: while the quorum was slow, more tries than a
    /// block has came meanwhile, and none of them ever found one.
    #[tokio::test]
    async fn who_does_not_wait_takes_nothing_of_the_next_block() {
        let ids = ProducerIds::new(Arc::new(Blocks::default()), &Handle::current());
        assert!((0..1_000).all(|_| ids.take_now().is_none()));
        let Err(receiver) = ids.take() else { panic!("there is no block yet") };
        assert_eq!(receiver.await, Ok(ProducerId(0)));
        assert_eq!(ids.take_now(), Some(ProducerId(1)));
    }

    /// An I/O thread that took a step of a transactional id ended the process.
    #[tokio::test]
    async fn ids_are_asked_for_from_any_thread() {
        let ids = ProducerIds::new(Arc::new(Blocks::default()), &Handle::current());
        let taken = std::thread::spawn(move || ids.take()).join().expect("no panic");
        let Err(receiver) = taken else { panic!("there is no block yet") };
        assert_eq!(receiver.await, Ok(ProducerId(0)));
    }
}
