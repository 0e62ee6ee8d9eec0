//! Delegation tokens (KIP-48).

use bytes::Bytes;
use kafka_protocol::messages::create_delegation_token_request::CreatableRenewers;
use kafka_protocol::messages::describe_delegation_token_request::DescribeDelegationTokenOwner;
use kafka_protocol::messages::{
    CreateDelegationTokenRequest, DescribeDelegationTokenRequest, ExpireDelegationTokenRequest,
    RenewDelegationTokenRequest,
};
use ottla_model::{KafkaPrincipal, TimestampMs};

use crate::cluster::Client;
use crate::convert::{checked, text};
use crate::error::{ClientError, Outcome};

/// A token as a broker shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct DescribedToken {
    pub id: String,
    /// What a client logs in with: a secret.
    pub hmac: Vec<u8>,
    pub owner: KafkaPrincipal,
    pub requester: KafkaPrincipal,
    pub renewers: Vec<KafkaPrincipal>,
    pub issued: TimestampMs,
    pub expires: TimestampMs,
    pub max: TimestampMs,
}

impl Client {
    /// Makes a token; without an owner it is for the user of this client. A lifetime below 0 is the brokers' longest.
    pub async fn create_delegation_token(
        &self,
        owner: Option<&KafkaPrincipal>,
        renewers: &[KafkaPrincipal],
        max_lifetime_ms: i64,
    ) -> Result<DescribedToken, ClientError> {
        let renewer = |one: &KafkaPrincipal| {
            CreatableRenewers::default()
                .with_principal_type(text(&one.principal_type))
                .with_principal_name(text(&one.name))
        };
        let request = CreateDelegationTokenRequest::default()
            .with_owner_principal_type(owner.map(|owner| text(&owner.principal_type)))
            .with_owner_principal_name(owner.map(|owner| text(&owner.name)))
            .with_renewers(renewers.iter().map(renewer).collect())
            .with_max_lifetime_ms(max_lifetime_ms);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            checked(response.error_code).map(|()| response)
        };
        // A second try would make a second token.
        let made = self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await?;
        Ok(DescribedToken {
            id: made.token_id.to_string(),
            hmac: made.hmac.to_vec(),
            owner: KafkaPrincipal::new(&*made.principal_type, &*made.principal_name),
            requester: KafkaPrincipal::new(
                &*made.token_requester_principal_type,
                &*made.token_requester_principal_name,
            ),
            renewers: renewers.to_vec(),
            issued: TimestampMs(made.issue_timestamp_ms),
            expires: TimestampMs(made.expiry_timestamp_ms),
            max: TimestampMs(made.max_timestamp_ms),
        })
    }

    /// Lets a token live for this time from now on; below 0 for the time that the brokers choose.
    pub async fn renew_delegation_token(&self, hmac: &[u8], period_ms: i64) -> Result<TimestampMs, ClientError> {
        let request = RenewDelegationTokenRequest::default()
            .with_hmac(Bytes::copy_from_slice(hmac))
            .with_renew_period_ms(period_ms);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            checked(response.error_code).map(|()| TimestampMs(response.expiry_timestamp_ms))
        };
        self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await
    }

    /// Ends a token after this time, below 0 at once.
    pub async fn expire_delegation_token(&self, hmac: &[u8], period_ms: i64) -> Result<TimestampMs, ClientError> {
        let request = ExpireDelegationTokenRequest::default()
            .with_hmac(Bytes::copy_from_slice(hmac))
            .with_expiry_time_period_ms(period_ms);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            checked(response.error_code).map(|()| TimestampMs(response.expiry_timestamp_ms))
        };
        self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await
    }

    /// The tokens that these principals own or may renew, or all; only those that this client may see.
    pub async fn describe_delegation_tokens(
        &self,
        owners: Option<&[KafkaPrincipal]>,
    ) -> Result<Vec<DescribedToken>, ClientError> {
        let owner = |one: &KafkaPrincipal| {
            DescribeDelegationTokenOwner::default()
                .with_principal_type(text(&one.principal_type))
                .with_principal_name(text(&one.name))
        };
        let request = DescribeDelegationTokenRequest::default()
            .with_owners(owners.map(|owners| owners.iter().map(owner).collect()));
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            checked(response.error_code).map(|()| response.tokens)
        };
        let tokens = self.retry(None, |_| true, attempt).await?;
        let described = tokens.into_iter().map(|token| DescribedToken {
            id: token.token_id.to_string(),
            hmac: token.hmac.to_vec(),
            owner: KafkaPrincipal::new(&*token.principal_type, &*token.principal_name),
            requester: KafkaPrincipal::new(
                &*token.token_requester_principal_type,
                &*token.token_requester_principal_name,
            ),
            renewers: token
                .renewers
                .iter()
                .map(|one| KafkaPrincipal::new(&*one.principal_type, &*one.principal_name))
                .collect(),
            issued: TimestampMs(token.issue_timestamp),
            expires: TimestampMs(token.expiry_timestamp),
            max: TimestampMs(token.max_timestamp),
        });
        Ok(described.collect())
    }
}
