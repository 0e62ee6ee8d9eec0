//! Which cluster a call is for, as metadata of the call: its chroot, and its secret.
//!
//! The secret keeps clients out of the services between brokers and coordinators; on a network that others can read it
//! is no protection.

use ottla_model::{Chroot, ClusterSecret};
use tonic::metadata::{Ascii, Binary, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

const SECRET: &str = "ottla-secret-bin";
const CHROOT: &str = "ottla-chroot";

/// Adds the chroot and the secret to each call.
#[derive(Clone, Debug, Default)]
pub struct ClusterMetadata {
    secret: Option<MetadataValue<Binary>>,
    chroot: Option<MetadataValue<Ascii>>,
}

impl ClusterMetadata {
    pub fn new(secret: Option<&ClusterSecret>, chroot: Option<&Chroot>) -> Self {
        let secret = secret.map(|secret| {
            let mut value = MetadataValue::from_bytes(secret.as_bytes());
            value.set_sensitive(true);
            value
        });
        // A chroot has only characters that metadata may have.
        let chroot = chroot.and_then(|chroot| chroot.as_str().parse().ok());
        Self { secret, chroot }
    }

    pub fn to(&self, channel: Channel) -> ClusterChannel {
        InterceptedService::new(channel, self.clone())
    }
}

impl Interceptor for ClusterMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.secret {
            request.metadata_mut().insert_bin(SECRET, value.clone());
        }
        if let Some(value) = &self.chroot {
            request.metadata_mut().insert(CHROOT, value.clone());
        }
        Ok(request)
    }
}

/// A channel whose calls name their cluster.
pub type ClusterChannel = InterceptedService<Channel, ClusterMetadata>;

/// The chroot of a call; none: the root.
pub fn chroot(metadata: &MetadataMap) -> Result<Option<Chroot>, Status> {
    let Some(value) = metadata.get(CHROOT) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Status::invalid_argument("the chroot is no text"))?;
    Chroot::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Refuses a call without the secret, if there is one.
pub fn check_secret(secret: Option<&ClusterSecret>, metadata: &MetadataMap) -> Result<(), Status> {
    let Some(secret) = secret else { return Ok(()) };
    let shown = metadata.get_bin(SECRET).and_then(|value| value.to_bytes().ok());
    match shown {
        Some(shown) if secret.matches(&shown) => Ok(()),
        Some(_) => Err(Status::unauthenticated("cluster.secret is another one here")),
        None => Err(Status::unauthenticated(
            "this call needs the cluster's secret (cluster.secret; of ottla: --cluster-secret-file FILE)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(secret: Option<&ClusterSecret>, chroot: Option<&Chroot>) -> MetadataMap {
        let call = ClusterMetadata::new(secret, chroot).call(Request::new(())).expect("attached");
        call.metadata().clone()
    }

    #[test]
    fn a_call_must_show_the_secret_if_there_is_one() {
        let secret = ClusterSecret::new("s3cret");
        assert!(check_secret(Some(&secret), &call(Some(&secret), None)).is_ok());
        assert!(check_secret(Some(&secret), &call(Some(&ClusterSecret::new("other")), None)).is_err());
        assert!(check_secret(Some(&secret), &call(None, None)).is_err());
        assert!(check_secret(None, &call(None, None)).is_ok());
        assert!(check_secret(None, &call(Some(&secret), None)).is_ok());
    }

    #[test]
    fn a_call_names_its_chroot() {
        let kafka = Chroot::parse("/kafka/one").expect("valid");
        assert_eq!(chroot(&call(None, kafka.as_ref())).expect("valid"), kafka);
        assert_eq!(chroot(&call(None, None)).expect("valid"), None);
        let mut bad = MetadataMap::new();
        bad.insert(CHROOT, MetadataValue::from_static("../x"));
        assert!(chroot(&bad).is_err());
    }
}
