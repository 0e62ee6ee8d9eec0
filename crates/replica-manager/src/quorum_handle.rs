//! What the data side asks of the quorum. The calls run on the control runtime, by one client that follows leader hints
//! and retries within the call's deadline; the futures may be awaited anywhere, and dropping one does not take the call
//! back.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ottla_metadata::controller::{
    AllocateProducerIds, AllocatedProducerIds, AlterPartition, AlterPartitions, AlteredPartitions, Answer, Decision,
    Request, ResignLeadership, ResignReason,
};
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, Revision, TopicIdPartition};

pub type QuorumFuture<T> = Pin<Box<dyn Future<Output = Result<T, QuorumError>> + Send>>;

/// Why the quorum gave no answer. What it refused is an answer: an error code inside of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuorumError {
    /// No coordinator that can decide was reached in time: nothing was changed.
    #[error("no coordinator can decide at the moment: {0}")]
    Unavailable(String),
    /// The request may have been decided: only the image will tell.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// This broker has not registered yet, or stops.
    #[error("this broker is not part of the cluster at the moment")]
    NotRegistered,
}

/// The quorum as the data side sees it.
pub trait QuorumHandle: Send + Sync + 'static {
    /// This broker as it is registered: its own requests carry the epoch.
    fn registration(&self) -> Result<(BrokerId, BrokerEpoch), QuorumError>;
    /// Asks the controller.
    fn decide(&self, request: Request, timeout: Duration) -> QuorumFuture<Answer>;
    /// How far every replica of the quorum's log has got.
    fn progress(&self, timeout: Duration) -> QuorumFuture<QuorumProgress>;
}

/// How long a request of the broker's own may take, retries included. An ISR change that takes longer is sent again by
/// the partition.
const OWN_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl dyn QuorumHandle {
    /// As [`QuorumHandle::decide`], for one kind of request.
    pub fn submit<D: Decision>(&self, decision: D, timeout: Duration) -> QuorumFuture<D::Answer> {
        let answer = self.decide(decision.into_request(), timeout);
        Box::pin(async move {
            let other = || QuorumError::Unknown("an answer of another kind".to_owned());
            D::take_answer(answer.await?).ok_or_else(other)
        })
    }

    /// Asks for ISR changes; they are compare-and-set, so asking again is safe.
    pub fn alter_partitions(&self, partitions: Vec<AlterPartition>) -> QuorumFuture<AlteredPartitions> {
        self.submit_own(|broker, epoch| AlterPartitions { broker, epoch, partitions })
    }

    /// Gives up the leadership of some partitions, and the places in their ISRs (their directory stalls, is full or
    /// failed).
    pub fn resign_leadership(&self, partitions: Vec<TopicIdPartition>, reason: ResignReason) -> QuorumFuture<Revision> {
        let answer = self.submit_own(|broker, epoch| ResignLeadership { broker, epoch, partitions, reason });
        Box::pin(async move {
            let resigned = answer.await?;
            match resigned.error {
                ErrorCode::None => Ok(resigned.revision),
                refused => Err(own_request_refused(refused)),
            }
        })
    }

    /// A block of producer ids, this broker's alone for ever.
    pub fn allocate_producer_ids(&self) -> QuorumFuture<AllocatedProducerIds> {
        let answer = self.submit_own(|broker, epoch| AllocateProducerIds { broker, epoch });
        Box::pin(async move { answer.await?.map_err(own_request_refused) })
    }

    fn submit_own<D: Decision>(&self, make: impl FnOnce(BrokerId, BrokerEpoch) -> D) -> QuorumFuture<D::Answer> {
        match self.registration() {
            Ok((broker, epoch)) => self.submit(make(broker, epoch), OWN_REQUEST_TIMEOUT),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// The quorum fenced this broker meanwhile, or cannot do it now.
fn own_request_refused(error: ErrorCode) -> QuorumError {
    match error {
        ErrorCode::StaleBrokerEpoch => QuorumError::NotRegistered,
        other => QuorumError::Unavailable(format!("{other:?}")),
    }
}
