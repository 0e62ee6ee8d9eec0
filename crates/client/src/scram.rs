//! SCRAM credentials of users.

use bytes::Bytes;
use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::describe_user_scram_credentials_request::UserName;
use kafka_protocol::messages::{AlterUserScramCredentialsRequest, DescribeUserScramCredentialsRequest};
use ottla_model::ErrorCode;
use ottla_protocol::Api;

use crate::cluster::Client;
use crate::convert::{error_of, text};
use crate::error::{ClientError, Outcome};

/// A change of one user's credential for one mechanism, which Kafka's number names.
#[derive(Clone, PartialEq, Eq)]
pub enum ScramChange {
    Set { mechanism: i8, iterations: u32, salt: Vec<u8>, salted_password: Vec<u8> },
    Delete { mechanism: i8 },
}

/// A user and its credentials: the mechanism's number and its iterations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribedUser {
    pub name: String,
    pub error: ErrorCode,
    pub message: Option<String>,
    pub credentials: Vec<(i8, i32)>,
}

impl Client {
    /// Changes the credentials of one user.
    pub async fn alter_user_scram_credentials(&self, user: &str, changes: &[ScramChange]) -> Result<(), ClientError> {
        let mut request = AlterUserScramCredentialsRequest::default();
        for change in changes {
            match change {
                ScramChange::Set { mechanism, iterations, salt, salted_password } => request.upsertions.push(
                    ScramCredentialUpsertion::default()
                        .with_name(text(user))
                        .with_mechanism(*mechanism)
                        .with_iterations(i32::try_from(*iterations).unwrap_or(i32::MAX))
                        .with_salt(Bytes::copy_from_slice(salt))
                        .with_salted_password(Bytes::copy_from_slice(salted_password)),
                ),
                ScramChange::Delete { mechanism } => request
                    .deletions
                    .push(ScramCredentialDeletion::default().with_name(text(user)).with_mechanism(*mechanism)),
            }
        }
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            let api = Api::AlterUserScramCredentials;
            let result = response.results.into_iter().next().ok_or(ClientError::Incomplete(api))?;
            match error_of(result.error_code) {
                ErrorCode::None => Ok(()),
                code => {
                    Err(ClientError::Refused { code, message: result.error_message.map(|message| message.to_string()) })
                }
            }
        };
        self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await
    }

    /// The users with credentials; of these names, or all.
    pub async fn describe_user_scram_credentials(&self, users: &[&str]) -> Result<Vec<DescribedUser>, ClientError> {
        let names = users.iter().map(|user| UserName::default().with_name(text(user))).collect::<Vec<_>>();
        let users = (!names.is_empty()).then_some(names);
        let request = DescribeUserScramCredentialsRequest::default().with_users(users);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response.results),
                code => Err(ClientError::Refused {
                    code,
                    message: response.error_message.map(|message| message.to_string()),
                }),
            }
        };
        let results = self.retry(None, |_| true, attempt).await?;
        let described = results.into_iter().map(|result| DescribedUser {
            name: result.user.to_string(),
            error: error_of(result.error_code),
            message: result.error_message.map(|message| message.to_string()),
            credentials: result.credential_infos.iter().map(|info| (info.mechanism, info.iterations)).collect(),
        });
        Ok(described.collect())
    }
}
