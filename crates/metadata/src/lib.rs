//! The cluster's state and the decisions about it: the [`tree`] with ZooKeeper's paths, the typed [`image`] of it, and
//! the [`controller`], which turns cluster events into transactions of the tree.
//!
//! Layer 1: synchronous and deterministic. Time, wall clock and entropy come in with each input; collections are
//! ordered; nothing here does I/O. Protobuf types stop at [`nodes`].
//!
//! Start with [`tree::Tree::apply`] (every coordinator, for a committed entry), [`image::Image::apply`] (every
//! coordinator and broker, for the changes), [`controller::Controller`] (only the quorum leader).

pub mod balance;
pub mod broker_config;
pub mod client_metrics_config;
pub mod config_value;
pub mod controller;
pub mod delta;
pub mod election;
pub mod group_config;
pub mod image;
pub mod isr_change;
pub mod leader_search;
pub mod limits;
pub mod liveness;
pub mod logins;
pub mod nodes;
pub mod placement;
pub mod quorum_progress;
pub mod quota_config;
pub mod topic_config;
pub mod transaction;
pub mod tree;
pub mod watch;

pub use controller::{Answer, Controller, ControllerConfig, Effects, EntryId, Input, Now, Request, RequestId};
pub use delta::{BrokerChange, Delta, PartitionChange};
pub use image::{
    Assignment, BrokerMemory, BrokerRegistration, ConfigEntity, ConfigKind, Endpoint, Image, IsrMember, LeaderSettings,
    PartitionState, Reassignment, TopicImage,
};
pub use nodes::delegation_token::DelegationToken;
pub use transaction::{Change, Transaction, TransactionError};
pub use tree::{Node, NodeChange, Path, Tree};
