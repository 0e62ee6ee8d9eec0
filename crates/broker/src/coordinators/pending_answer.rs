//! The answer to a request that was submitted to a coordinator.

use std::time::Duration;

use ottla_coordinator_partition::CoordinatorShard;
use ottla_model::ErrorCode;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub enum PendingAnswer<S: CoordinatorShard> {
    Ready(S::Answer),
    /// Ends without an answer only with the process.
    Waiting(oneshot::Receiver<S::Answer>),
}

impl<S: CoordinatorShard> PendingAnswer<S> {
    /// The answer to a request that fails as a whole.
    pub fn failed(error: ErrorCode) -> Self {
        Self::Ready(S::failed(error))
    }

    /// The answer, however long it takes. The future may be dropped at any time.
    pub async fn answer(self) -> S::Answer {
        match self {
            Self::Ready(answer) => answer,
            Self::Waiting(receiver) => receiver.await.unwrap_or_else(|_| S::failed(ErrorCode::NotCoordinator)),
        }
    }

    /// The answer, or after `timeout` the error that Kafka returns when records are not replicated in time.
    pub async fn answer_within(self, timeout: Duration) -> S::Answer {
        self.answer_by(Instant::now() + timeout).await
    }

    /// As [`Self::answer_within`], up to a time that several answers share.
    pub async fn answer_by(self, deadline: Instant) -> S::Answer {
        match self {
            Self::Ready(answer) => answer,
            waiting => tokio::time::timeout_at(deadline, waiting.answer())
                .await
                .unwrap_or_else(|_| S::failed(ErrorCode::CoordinatorNotAvailable)),
        }
    }
}

/// Of several that were asked: whom, and what there is of it.
type Each<T, A> = Vec<(T, A)>;

/// The answers, if none is waited for; else what was given.
pub fn all_ready<S: CoordinatorShard, T>(
    asked: Each<T, PendingAnswer<S>>,
) -> Result<Each<T, S::Answer>, Each<T, PendingAnswer<S>>> {
    if asked.iter().any(|(_, pending)| matches!(pending, PendingAnswer::Waiting(_))) {
        return Err(asked);
    }
    let ready = asked.into_iter().filter_map(|(of, pending)| match pending {
        PendingAnswer::Ready(answer) => Some((of, answer)),
        PendingAnswer::Waiting(_) => None,
    });
    Ok(ready.collect())
}
