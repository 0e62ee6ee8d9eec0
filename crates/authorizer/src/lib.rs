//! Who may do what, as Kafka's `StandardAuthorizer` decides it: rules about resources, their index, and the decision.
//!
//! Layer 1: synchronous, without I/O. The index is persistent: a clone is cheap, and a changed resource costs its own
//! rules only. Start with [`Authorizer::is_allowed`].

mod authorizer;
mod filter;
mod index;
mod rule;

#[cfg(test)]
mod tests;

pub use authorizer::{Authorizer, BrokenRules, Requester};
pub use filter::{AclFilter, PatternFilter, ResourceFilter};
pub use index::AclIndex;
pub use rule::{
    AclBinding, AclEntry, EntryFilter, Operation, PatternType, Permission, ResourcePattern, ResourceType, Rules,
};

/// The name that stands for every resource of a type, every host, and every name of a principal.
pub const WILDCARD: &str = "*";
/// The only name of the only resource of type cluster.
pub const CLUSTER: &str = "kafka-cluster";
