//! Which operation on which resource a configuration needs.

use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_metadata::controller::Refusal;
use ottla_model::ErrorCode;

use super::resource_type::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::authorization::Access;

/// Why the configurations of a resource may not be described or altered; none if they may. A type that is not known is
/// refused as such.
pub fn denial(access: &Access, operation: Operation, kind: i8, name: &str) -> Option<Refusal> {
    let (resource_type, name, error) = match kind {
        TOPIC => (ResourceType::Topic, name, ErrorCode::TopicAuthorizationFailed),
        GROUP => (ResourceType::Group, name, ErrorCode::GroupAuthorizationFailed),
        BROKER | BROKER_LOGGER | CLIENT_METRICS => {
            (ResourceType::Cluster, CLUSTER, ErrorCode::ClusterAuthorizationFailed)
        }
        _ => return None,
    };
    let is_allowed = access.allows(operation, resource_type, name);
    (!is_allowed).then(|| Refusal::new(error, String::new()))
}
