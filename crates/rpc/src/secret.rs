//! The cluster's secret on the wire: metadata of a call. It keeps clients out of the services between brokers and
//! coordinators; on a network that others can read it is no protection.

use ottla_model::ClusterSecret;
use tonic::metadata::{Binary, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

const NAME: &str = "ottla-secret-bin";

/// Adds the secret to each call.
#[derive(Clone, Debug, Default)]
pub struct AttachSecret(Option<MetadataValue<Binary>>);

impl AttachSecret {
    pub fn new(secret: Option<&ClusterSecret>) -> Self {
        let value = |secret: &ClusterSecret| {
            let mut value = MetadataValue::from_bytes(secret.as_bytes());
            value.set_sensitive(true);
            value
        };
        Self(secret.map(value))
    }

    pub fn to(&self, channel: Channel) -> SecretChannel {
        InterceptedService::new(channel, self.clone())
    }
}

impl Interceptor for AttachSecret {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert_bin(NAME, value.clone());
        }
        Ok(request)
    }
}

/// A channel whose calls carry the secret, if there is one.
pub type SecretChannel = InterceptedService<Channel, AttachSecret>;

/// Refuses a call without the secret, if there is one.
pub fn check(secret: Option<&ClusterSecret>, metadata: &MetadataMap) -> Result<(), Status> {
    let Some(secret) = secret else { return Ok(()) };
    let shown = metadata.get_bin(NAME).and_then(|value| value.to_bytes().ok());
    match shown {
        Some(shown) if secret.matches(&shown) => Ok(()),
        Some(_) => Err(Status::unauthenticated("cluster.secret is another one here")),
        None => Err(Status::unauthenticated("this call needs the cluster's secret (cluster.secret)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_must_show_the_secret_if_there_is_one() {
        let secret = ClusterSecret::new("s3cret");
        let call = |attached: Option<&ClusterSecret>| {
            let call = AttachSecret::new(attached).call(Request::new(())).expect("attached");
            call.metadata().clone()
        };
        assert!(check(Some(&secret), &call(Some(&secret))).is_ok());
        assert!(check(Some(&secret), &call(Some(&ClusterSecret::new("other")))).is_err());
        assert!(check(Some(&secret), &call(None)).is_err());
        assert!(check(None, &call(None)).is_ok());
        assert!(check(None, &call(Some(&secret))).is_ok());
    }
}
