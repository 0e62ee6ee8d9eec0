//! The replicas of a broker: the handles around `ottla_partition::Replica` (lock, wakes, I/O threads), the log
//! directories, the fetchers that follow other brokers, and what looks after all of them.
//!
//! - [`partition`]: one replica behind its lock, and what waits at it;
//! - [`manager`]: all replicas: found, made and unmade as the tree says, moved, checkpointed, closed;
//! - [`log_dirs`], [`log_io`]: the log directories and their I/O threads;
//! - [`replica_fetcher`]: the connections to the brokers whose partitions are followed here;
//! - [`fetch_session`]: what fetchers of this broker read;
//! - [`log_cleaner`]: threads that compact logs;
//! - [`alter_partition`]: ISR changes on their way to the quorum, through a [`quorum_handle`];
//! - [`departed`]: brokers that have just left, which Metadata lists for a while;
//! - [`suspects`]: the leaders that do not answer, and whose successors clients' answers wait for;
//! - [`metadata_cache`], [`identity`], [`live_config`], [`topic_settings`], [`clock`]: what decides about replicas from
//!   outside.
//!
//! Kafka's wire types stop at [`replica_fetcher`].

pub mod alter_partition;
pub mod clock;
pub mod departed;
pub mod fetch_session;
pub mod identity;
pub mod live_config;
pub mod log_cleaner;
pub mod log_dirs;
pub mod log_io;
pub mod manager;
pub mod metadata_cache;
pub mod partition;
pub mod quorum_handle;
pub mod replica_fetcher;
pub mod replication_throttles;
pub mod suspects;
pub mod topic_settings;
