//! Which broker coordinates a group or a transactional id, and requests to it.

use std::sync::Arc;

use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use ottla_model::{BrokerId, ErrorCode};
use ottla_protocol::Api;

use crate::cluster::{Client, Link};
use crate::convert::{error_of, text};
use crate::error::ClientError;
use crate::metadata::BrokerAddress;

/// From here on FindCoordinator takes several keys.
const SEVERAL_KEYS_FROM: i16 = 4;

/// What a coordinator coordinates: Kafka's `CoordinatorType` with its key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum CoordinatorKey {
    Group(String),
    TransactionalId(String),
}

impl CoordinatorKey {
    fn kind(&self) -> i8 {
        match self {
            Self::Group(_) => 0,
            Self::TransactionalId(_) => 1,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Group(key) | Self::TransactionalId(key) => key,
        }
    }
}

impl Client {
    /// The coordinator of a group. One try.
    pub(crate) async fn group_coordinator(&self, group: &str) -> Result<BrokerAddress, ClientError> {
        self.coordinator(&CoordinatorKey::Group(group.to_owned())).await
    }

    /// One try.
    pub(crate) async fn coordinator(&self, key: &CoordinatorKey) -> Result<BrokerAddress, ClientError> {
        if let Some(known) = self.known_coordinator(key) {
            return Ok(known);
        }
        let link = self.any_link().await?;
        let request = FindCoordinatorRequest::default().with_key_type(key.kind());
        let request = if link.version(Api::FindCoordinator)? >= SEVERAL_KEYS_FROM {
            request.with_coordinator_keys(vec![text(key.text())])
        } else {
            request.with_key(text(key.text()))
        };
        let broker = named(link.call(&request).await?)?;
        self.learn_coordinator(key.clone(), broker.clone());
        Ok(broker)
    }

    /// As [`Client::at_coordinator`], for a group.
    pub(crate) async fn at_group_coordinator<T, F>(
        &self,
        group: &str,
        may_repeat: impl Fn(&ClientError) -> bool,
        attempt: impl Fn(Arc<Link>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.at_coordinator(&CoordinatorKey::Group(group.to_owned()), may_repeat, attempt).await
    }

    /// Runs `attempt` with a connection to the coordinator until it succeeds, fails with a definite error, or
    /// the retry timeout is over.
    pub(crate) async fn at_coordinator<T, F>(
        &self,
        key: &CoordinatorKey,
        may_repeat: impl Fn(&ClientError) -> bool,
        attempt: impl Fn(Arc<Link>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let attempt = &attempt;
        let once = || async move {
            let coordinator = self.coordinator(key).await?;
            let result = match self.link_to(coordinator.id).await {
                Ok(link) => attempt(link).await,
                Err(error) => Err(error),
            };
            if result.as_ref().is_err_and(ClientError::is_retriable) {
                self.forget_coordinator(key);
            }
            result
        };
        self.retry(None, may_repeat, once).await
    }
}

/// The broker that an answer names, in whichever version.
fn named(response: FindCoordinatorResponse) -> Result<BrokerAddress, ClientError> {
    let (code, message, id, host, port) = match response.coordinators.into_iter().next() {
        Some(found) => (found.error_code, found.error_message, found.node_id, found.host, found.port),
        None => (response.error_code, response.error_message, response.node_id, response.host, response.port),
    };
    match error_of(code) {
        ErrorCode::None => Ok(BrokerAddress { id: BrokerId(id.0), host: host.to_string(), port, rack: None }),
        code => Err(ClientError::Refused { code, message: message.map(|message| message.to_string()) }),
    }
}
