//! The bound on calls that ask brokers.

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Code, Status};

use super::errors::status;

/// Calls that ask brokers at a time: each may hold an answer of `kafka::ANSWER_BYTES_MAX`.
const CALLS_MAX: usize = 4;

/// The bound on calls of brokers.
pub struct BrokerCalls(Semaphore);

impl Default for BrokerCalls {
    fn default() -> Self {
        Self(Semaphore::new(CALLS_MAX))
    }
}

impl BrokerCalls {
    pub fn permit(&self) -> Result<SemaphorePermit<'_>, Status> {
        let busy = |_| {
            let text = format!("this coordinator asks brokers in {CALLS_MAX} calls already: try again");
            status(Code::ResourceExhausted, "TOO_MANY_CALLS", text)
        };
        self.0.try_acquire().map_err(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_brokers_are_bounded() {
        let calls = BrokerCalls::default();
        let permits: Vec<_> = std::iter::from_fn(|| calls.permit().ok()).collect();
        assert_eq!(permits.len(), CALLS_MAX);
        assert_eq!(calls.permit().err().map(|status| status.code()), Some(Code::ResourceExhausted));
        drop(permits);
        assert!(calls.permit().is_ok());
    }
}
