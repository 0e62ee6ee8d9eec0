//! Requests to the controller, for every service that has some.

use std::time::Duration;

use ottla_metadata::controller::{Answer, Decision, Request};
use tonic::Status;

use crate::driver::RequestError;
use crate::shared::{Formed, Shared};

/// Number of attempts: the controller decided nothing (another entry interfered), and a retry may succeed at once.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(10);

pub fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

impl Shared {
    /// The quorum, or the error for requests before it is formed.
    pub fn require_formed(&self) -> Result<&Formed, Status> {
        self.formed().ok_or_else(|| self.not_leader().into_status())
    }

    /// As [`Shared::require_formed`], on the quorum leader only.
    pub fn require_leader(&self) -> Result<&Formed, Status> {
        let formed = self.require_formed()?;
        if self.leads() { Ok(formed) } else { Err(self.not_leader().into_status()) }
    }

    /// Sends a request to the controller.
    pub async fn decide(&self, request: Request) -> Result<Answer, Status> {
        let formed = self.require_leader()?;
        for _ in 0..ATTEMPTS_MAX {
            match formed.driver.submit(request.clone()).await {
                Ok(Ok(Answer::Unavailable)) => tokio::time::sleep(ATTEMPT_PAUSE).await,
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(RequestError::NotLeader(not_leader))) => return Err(not_leader.into_status()),
                Ok(Err(RequestError::Refused(why))) => return Err(Status::invalid_argument(why)),
                Err(_) => return Err(stopping()),
            }
        }
        Err(Status::unavailable("the quorum leader is too busy to decide"))
    }

    /// As [`Shared::decide`], for one kind of request.
    pub async fn submit<D: Decision>(&self, decision: D) -> Result<D::Answer, Status> {
        // Impossible, and not worth a panic.
        let mismatch = || Status::internal("the controller's answer is of another kind than the request");
        D::take_answer(self.decide(decision.into_request()).await?).ok_or_else(mismatch)
    }
}
