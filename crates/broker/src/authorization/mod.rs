//! Whether a request may do what it asks for. [`requirements`] says what each API asks for.
//!
//! Without an authorizer, and for super users, an [`Access`] holds nothing and every check is a comparison with none.

mod memo;
mod requirements;

use std::fmt;
use std::sync::Arc;

use ottla_authorizer::{AclIndex, Authorizer, BrokenRules, CLUSTER, Operation, Requester, ResourceType};
use ottla_config::AuthorizerConfig;
use ottla_metadata::Image;
use ottla_metrics::RateLimit;
use ottla_model::ErrorCode;
use ottla_network::RequestContext;
use ottla_protocol::messages::TopicRef;
use ottla_replica_manager::metadata_cache::MetadataCache;

use crate::audit::{self, AuditLog};
use crate::request::wire;

use memo::Memo;
pub use requirements::{Checked, requirements};

/// The authorizer of a broker, with its settings. The rules are in the image.
pub struct Authorization {
    authorizer: Authorizer,
    denials: RateLimit,
    memo: Memo,
    /// Checks so far, for the test that says how many a fetch costs.
    #[cfg(test)]
    pub checks: std::sync::atomic::AtomicU64,
}

impl Authorization {
    /// None: everybody may do everything.
    pub fn new(config: Option<&AuthorizerConfig>) -> Option<Arc<Self>> {
        let AuthorizerConfig { super_users, allow_everyone_if_no_acl_found } = config?.clone();
        let broken = BrokenRules::default();
        let authorizer = Authorizer { super_users, allow_everyone_if_no_acl_found, broken };
        Some(Arc::new(Self {
            authorizer,
            denials: RateLimit::per_second(),
            memo: Memo::default(),
            #[cfg(test)]
            checks: std::sync::atomic::AtomicU64::new(0),
        }))
    }
}

/// What the sender of one request may do, by the rules of one image.
#[derive(Clone)]
pub struct Access {
    /// None: everything.
    checks: Option<Checks>,
    audited: Option<Audited>,
}

/// Whose checks are written, and where.
#[derive(Clone)]
struct Audited {
    log: Arc<AuditLog>,
    requester: Requester,
    /// Nothing will be changed, whatever is allowed.
    only_validates: bool,
}

#[derive(Clone)]
struct Checks {
    authorization: Arc<Authorization>,
    image: Arc<Image>,
    requester: Requester,
}

impl Access {
    /// What the sender of a request may do now.
    pub fn of(
        authorization: Option<&Arc<Authorization>>,
        audit: Option<&Arc<AuditLog>>,
        metadata: &MetadataCache,
        context: &RequestContext,
    ) -> Self {
        let requester =
            || Requester { principal: context.principal.clone(), address: context.peer.ip().to_canonical() };
        let bound = authorization.filter(|bound| !bound.authorizer.is_super_user(&context.principal));
        let checks = bound.map(|authorization| Checks {
            authorization: Arc::clone(authorization),
            image: metadata.current(),
            requester: requester(),
        });
        let audited = audit.map(|log| Audited { log: Arc::clone(log), requester: requester(), only_validates: false });
        Self { checks, audited }
    }

    /// For a request that may only ask whether a change is valid: then the audit log has what is denied of it.
    #[must_use]
    pub fn validating(mut self, only_validates: bool) -> Self {
        if let Some(audited) = &mut self.audited {
            audited.only_validates = only_validates;
        }
        self
    }

    /// May do everything.
    pub fn unlimited() -> Self {
        Self { checks: None, audited: None }
    }

    /// Whether the sender may do everything.
    pub fn is_unlimited(&self) -> bool {
        self.checks.is_none()
    }

    /// What the sender is, and the rules that its access rests on; none if it may do everything.
    pub fn grounds(&self) -> Option<(&Requester, &Arc<AclIndex>)> {
        self.checks.as_ref().map(|checks| (&checks.requester, checks.image.acls()))
    }

    /// Whether the operation is allowed; one that is not is logged.
    pub fn allows(&self, operation: Operation, resource_type: ResourceType, name: &str) -> bool {
        let is_allowed = self.shows(operation, resource_type, name);
        self.audit(operation, resource_type, name, is_allowed);
        if let Some(checks) = self.checks.as_ref().filter(|_| !is_allowed) {
            checks.authorization.denials.run(|more| {
                let Requester { principal, address } = &checks.requester;
                let (operation, resource_type) = (operation.name(), resource_type.name());
                // A name of a certificate or a token may hold what ends the line.
                let principal = principal.to_string().replace(char::is_control, "\u{fffd}");
                let name = audit::cut(name);
                tracing::info!(%principal, host = %address, operation, resource_type, name, more, "denied");
            });
        }
        is_allowed
    }

    /// Tells the audit log what is allowed on a topic because it is allowed on the cluster.
    pub fn granted(&self, operation: Operation, topic: &str) {
        self.audit(operation, ResourceType::Topic, topic, true);
    }

    fn audit(&self, operation: Operation, resource_type: ResourceType, name: &str, is_allowed: bool) {
        if let Some(Audited { log, requester, only_validates }) = &self.audited
            && !(is_allowed && *only_validates)
        {
            log.checked(requester, operation, resource_type, name, is_allowed);
        }
    }

    /// As [`Access::allows`], for what is left out of an answer: nobody asked for it by name.
    pub fn shows(&self, operation: Operation, resource_type: ResourceType, name: &str) -> bool {
        self.checks.as_ref().is_none_or(|checks| {
            #[cfg(test)]
            checks.authorization.checks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Checks { authorization, image, requester } = checks;
            authorization.memo.recall(image.acls(), requester, (operation, resource_type, name), || {
                authorization.authorizer.is_allowed(image.acls(), requester, operation, resource_type, name)
            })
        })
    }

    pub fn cluster(&self, operation: Operation) -> bool {
        self.allows(operation, ResourceType::Cluster, CLUSTER)
    }

    pub fn topic(&self, operation: Operation, name: &str) -> bool {
        self.allows(operation, ResourceType::Topic, name)
    }

    /// A topic id that the image of these rules does not know is refused as such. What is done later looks into a newer
    /// image, which may know it: then nothing was checked.
    pub fn topic_ref(&self, operation: Operation, topic: &TopicRef) -> Result<(), ErrorCode> {
        let Some(checks) = &self.checks else { return Ok(()) };
        let name = match topic {
            TopicRef::Name(name) => name.as_str(),
            TopicRef::Id(id) => checks.image.topic_by_id(*id).ok_or(ErrorCode::UnknownTopicId)?.name.as_str(),
        };
        if self.topic(operation, name) { Ok(()) } else { Err(ErrorCode::TopicAuthorizationFailed) }
    }

    pub fn group(&self, operation: Operation, group: &str) -> bool {
        self.allows(operation, ResourceType::Group, group)
    }

    pub fn transactional_id(&self, operation: Operation, id: &str) -> bool {
        self.allows(operation, ResourceType::TransactionalId, id)
    }

    /// Whether an idempotent producer may get an id: it may write somewhere.
    pub fn idempotent_write(&self) -> bool {
        let Some(checks) = &self.checks else { return true };
        let (rules, requester) = (checks.image.acls(), &checks.requester);
        self.shows(Operation::IdempotentWrite, ResourceType::Cluster, CLUSTER)
            || checks.authorization.authorizer.is_allowed_somewhere(
                rules,
                requester,
                Operation::Write,
                ResourceType::Topic,
            )
    }

    /// The operations that are allowed on a resource, as answers have them.
    pub fn operations(&self, resource_type: ResourceType, name: &str) -> i32 {
        match &self.checks {
            None => wire::all_operations(resource_type),
            Some(checks) => {
                let authorizer = &checks.authorization.authorizer;
                authorizer.allowed_operations(checks.image.acls(), &checks.requester, resource_type, name)
            }
        }
    }

    /// The operations on the cluster. None without DESCRIBE on the cluster.
    pub fn cluster_operations(&self) -> i32 {
        match self.cluster(Operation::Describe) {
            true => self.operations(ResourceType::Cluster, CLUSTER),
            false => 0,
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&self.checks.as_ref().map(|checks| &checks.requester)).finish()
    }
}
