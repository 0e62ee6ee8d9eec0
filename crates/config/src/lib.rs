//! Configuration: where every property comes from, and what it comes to.
//!
//! Layers, later ones win: built-in defaults < a properties file < environment < flags (`key=value`). [`Sources`]
//! gathers them, [`Properties`] holds the flat result (one text per Kafka property name, with its origin), and
//! [`BrokerConfig::load`] and [`CoordinatorConfig::load`] read typed structs out of it.
//!
//! Invariants: a key that nobody knows is a warning with the nearest known name, never an error; a value that cannot
//! be meant is an error of one line that names key, value, origin and what is accepted; nothing here is logged,
//! because logging itself is configured by it (warnings travel in [`Loaded`]).

mod address;
mod audit;
mod authorizer;
mod broker;
mod broker_client;
mod cleaner;
mod connections;
mod coordinator;
mod coordinator_client;
mod coordinator_tls;
mod delegation_tokens;
mod environment;
mod error;
mod file;
mod formatted;
mod groups;
mod host;
pub mod known;
mod listeners;
mod logging;
mod nearest;
mod node;
mod properties;
mod reader;
mod replica_selector;
mod roles;
mod security;
mod topic_defaults;
mod transactions;

pub use address::HostPort;
pub use audit::AuditConfig;
pub use authorizer::AuthorizerConfig;
pub use broker::{BrokerConfig, TopicToCreate};
pub use broker_client::BrokerClientConfig;
pub use cleaner::CleanerConfig;
pub use connections::ConnectionRates;
pub use coordinator::{CoordinatorConfig, QuorumServer};
pub use coordinator_client::{CoordinatorTlsError, coordinator_tls};
pub use coordinator_tls::CoordinatorTls;
pub use delegation_tokens::DelegationTokenConfig;
pub use environment::{BROKER_FAMILIES, COORDINATOR_FAMILIES, Effect, Family, Row, property_name, unused_variables};
pub use error::ConfigError;
pub use file::parse as parse_properties;
pub use formatted::{FORMATTED_FILE, FormattedUser, formatted_text, formatted_users};
pub use groups::{GroupsConfig, MigrationPolicy, OffsetsReplication};
pub use host::Host;
pub use listeners::Listener;
pub use logging::{LoggingConfig, LoggingFormat};
pub use node::{Node, NodeDefaults, Service};
pub use ottla_model::SecurityProtocol;
pub use properties::{Derived, Origin, Properties, Property, Sources};
pub use replica_selector::ReplicaSelector;
pub use roles::RolesConfig;
pub use security::{ListenerSecurity, PeerSecurity, SaslConfig, SecurityConfig};
pub use topic_defaults::{TOPIC_SYNONYMS, TopicSynonym};
pub use transactions::TransactionsConfig;

/// A configuration and what should be said about it once logging works.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    pub config: C,
    /// One line each, in the order found.
    pub warnings: Vec<String>,
}
