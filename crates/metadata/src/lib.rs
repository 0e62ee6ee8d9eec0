//! The cluster's state and the decisions about it: the [`tree`] as ZooKeeper would hold it, the typed [`image`] of it,
//! and the [`controller`], which turns what happens to the cluster into transactions of the tree.
//!
//! Layer 1: synchronous and deterministic. Time, wall clock and entropy come in with each input; collections are
//! ordered; nothing here does I/O. Protobuf types stop at [`nodes`].
//!
//! The way in: [`tree::Tree::apply`] (what every coordinator does with a committed entry), [`image::Image::apply`]
//! (what every coordinator and broker does with the changes), [`controller::Controller`] (what only the quorum leader has).

pub mod broker_config;
pub mod config_value;
pub mod controller;
pub mod delta;
pub mod election;
pub mod group_config;
pub mod image;
pub mod isr_change;
pub mod limits;
pub mod liveness;
pub mod nodes;
pub mod placement;
pub mod topic_config;
pub mod transaction;
pub mod tree;

pub use controller::{Answer, Controller, ControllerConfig, Effects, EntryId, Input, Now, Request, RequestId};
pub use delta::{BrokerChange, Delta, PartitionChange};
pub use image::{
    BrokerMemory, BrokerRegistration, ConfigEntity, ConfigKind, Endpoint, Image, IsrMember, PartitionState, TopicImage,
};
pub use transaction::{Change, Transaction, TransactionRefused};
pub use tree::{Node, NodeChange, Path, Tree};
