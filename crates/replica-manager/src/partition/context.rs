//! What all partitions of a broker share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ottla_model::{BrokerEpoch, BrokerId};
use ottla_storage::DiskFault;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::alter_partition::AlterPartitionManager;
use crate::identity::Identity;
use crate::log_cleaner::LogCleaner;
use crate::log_dirs::LogDir;
use crate::manager::metrics::ReplicaMetrics;
use crate::metadata_cache::MetadataCache;
use crate::partition::touched::Touched;
use crate::replica_fetcher::Fetchers;
use crate::replication_throttles::ReplicationThrottles;

pub struct PartitionContext {
    pub identity: Arc<Identity>,
    pub metadata: Arc<MetadataCache>,
    pub alter_partition: Arc<AlterPartitionManager>,
    pub cleaner: Arc<LogCleaner>,
    pub throttles: Arc<ReplicationThrottles>,
    /// They hold partitions, which hold this.
    pub fetchers: Weak<Fetchers>,
    pub replica_lag_time_max: Duration,
    /// `transaction.partition.verification.enable`.
    pub verifies_transactions: bool,
    pub metrics: Arc<ReplicaMetrics>,
    /// The runtime for delayed work.
    pub data: Handle,
    /// Which partitions the timers have to look at.
    pub touched: Touched,
    /// Some high watermark moved since the last checkpoint.
    pub high_watermarks_moved: AtomicBool,
    /// Some checkpoint was not written when it was due.
    pub checkpoints_unwritten: AtomicBool,
    /// Somebody deleted records: the log starts want to be written down soon.
    pub log_start_moved: Notify,
    /// A segment was closed and is on the disk: the recovery point wants to be written down soon.
    pub segment_flushed: Notify,
    /// A directory's disk failed.
    pub storage_failed: Notify,
}

impl PartitionContext {
    /// Which brokers may be in an ISR, by the current image; looked up only when asked.
    pub fn eligible_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        ottla_partition::eligible_epoch(&self.metadata.peek(), broker)
    }

    /// A directory's disk refused: it is out of use until the process starts again.
    pub fn directory_failed(&self, directory: &LogDir, error: &dyn std::fmt::Display) {
        self.directory_fault(directory, error, DiskFault::Failed);
    }

    /// The directory did not do something because of `cause`. Says what that means for it.
    pub fn directory_refused(
        &self,
        directory: &LogDir,
        error: &dyn std::fmt::Display,
        cause: Option<&std::io::Error>,
    ) -> DiskFault {
        let fault = DiskFault::of(cause);
        self.directory_fault(directory, error, fault);
        fault
    }

    pub fn directory_fault(&self, directory: &LogDir, error: &dyn std::fmt::Display, fault: DiskFault) {
        let refusal = directory.health().refused(fault);
        if refusal.is_first {
            let directory = directory.path().display();
            match fault {
                DiskFault::Full => {
                    tracing::error!(%directory, %error, "log directory full: refusing writes until there is room");
                }
                DiskFault::OutOfDescriptors => {
                    tracing::warn!(%directory, %error, "no free file descriptor; trying again");
                }
                DiskFault::NameTaken => {
                    tracing::warn!(%directory, %error, "something is in the way: it is tried again");
                }
                DiskFault::Failed => {
                    tracing::error!(%directory, %error, "the log directory is out of use until a restart");
                }
            }
        }
        if refusal.needs_look {
            self.storage_failed.notify_one();
        }
    }
}
