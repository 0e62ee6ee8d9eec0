//! Basic types: ids, offsets, epochs, times and error codes as distinct types, so that two numbers that mean different
//! things cannot be swapped, and [`deferred`] answers that wait for a log position.
//!
//! Layer 0: imports nothing of the workspace and does no I/O.

pub mod chroot;
pub mod deferred;
pub mod epoch;
pub mod error_code;
pub mod feature_level;
pub mod ids;
pub mod incarnation_key;
pub mod isr_member;
pub mod offset;
pub mod principal;
pub mod secret;
pub mod security_protocol;
pub mod time;
pub mod transaction;

pub use chroot::{Chroot, InvalidChroot};
pub use deferred::Deferred;
pub use epoch::{BrokerEpoch, ControllerEpoch, LeaderEpoch, PartitionEpoch, ProducerEpoch, Revision};
pub use error_code::ErrorCode;
pub use feature_level::{FeatureLevel, FeatureLevels, KAFKAS_FEATURES, OTTLA_VERSION};
pub use ids::{
    BrokerId, ClientInstanceId, ClusterId, CoordinatorId, GroupId, IncarnationId, InstanceId, ListenerName, MemberId,
    PartitionId, ProducerId, TopicId, TopicIdPartition, TopicName, TopicNameError, TopicPartition, TransactionalId,
};
pub use incarnation_key::IncarnationKey;
pub use isr_member::IsrMember;
pub use offset::Offset;
pub use principal::{InvalidPrincipal, KafkaPrincipal};
pub use secret::ClusterSecret;
pub use security_protocol::SecurityProtocol;
pub use time::{MonotonicMs, TimestampMs, rounded};
pub use transaction::TransactionResult;
