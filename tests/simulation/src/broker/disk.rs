//! A broker's disk: opening the logs, syncing them now and then, checkpoints, and the clean end.

use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, MonotonicMs, Offset, PartitionId, TimestampMs, TopicName,
    TopicPartition,
};
use ottla_storage::OpenOptions;
use ottla_storage::checkpoint::{clean_shutdown, offsets};
use ottla_storage::env::{Env, FaultyEnv};

use super::process::{Process, fail};
use super::replica::{DiskFailed, NotOpened, Replica, Role};
use super::{data, path};
use crate::facts::Fact;
use crate::outbox::Outbox;

const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// The boot of the host and the broker epoch of the last registration.
pub(super) const LIFE: &str = "life";
/// In the place of `meta.properties`.
const CLUSTER: &str = "cluster";
const LOG_STARTS: &str = "log-start-offset-checkpoint";

/// The content of a small file; none if it is not there.
pub(super) fn read_small(env: &FaultyEnv, name: &str) -> Result<Option<Vec<u8>>, DiskFailed> {
    let path = path(name);
    let failed = |error: std::io::Error| DiskFailed(error.to_string());
    if !env.exists(&path).map_err(failed)? {
        return Ok(None);
    }
    env.read_file(&path).map(Some).map_err(failed)
}

impl Process {
    fn checkpoint(&self, name: &str) -> Result<offsets::Offsets, DiskFailed> {
        let bytes = read_small(&self.env, name)?;
        Ok(bytes.and_then(|bytes| offsets::decode(name, &bytes).ok()).unwrap_or_default())
    }

    /// The cluster that this disk belongs to; none before the first registration.
    pub fn cluster_id(&self) -> Result<Option<ClusterId>, DiskFailed> {
        let bytes = read_small(&self.env, CLUSTER)?;
        Ok(bytes.map(|bytes| ClusterId::new(String::from_utf8_lossy(&bytes).as_ref())))
    }

    /// Writes down what the next process must know: the cluster, and in which epoch the logs were whole.
    pub fn remember(&self, id: &ClusterId, epoch: BrokerEpoch) -> Result<(), DiskFailed> {
        let write = |name, text: &str| {
            self.env.write_file_atomically(&path(name), text.as_bytes()).map_err(|error| DiskFailed(error.to_string()))
        };
        if self.cluster_id()?.is_none() {
            write(CLUSTER, id.as_str())?;
        }
        write(LIFE, &format!("{} {epoch}", self.boot))
    }

    pub fn write_all_checkpoints(&mut self, out: &mut Outbox) {
        self.write_recovery_points(out);
        self.write_offsets(LOG_STARTS, |replica| replica.log.log_start_offset(), out);
        self.write_offsets(HIGH_WATERMARKS, Replica::high_watermark, out);
    }

    /// Opens every log in the data directory. One that cannot be opened is put aside.
    pub fn open_logs(&mut self, wall: TimestampMs, clean_shutdown: bool, out: &mut Outbox) {
        let read = || -> Result<_, DiskFailed> {
            Ok((self.checkpoint(RECOVERY_POINTS)?, self.checkpoint(LOG_STARTS)?, self.checkpoint(HIGH_WATERMARKS)?))
        };
        let (points, starts, watermarks) = match read() {
            Ok(checkpoints) => checkpoints,
            Err(error) => return self.die(&error, out),
        };
        let entries = self.env.list(data()).unwrap_or_default();
        for name in entries.iter().filter(|entry| entry.is_directory).map(|entry| &entry.name) {
            let Some(partition) = parse_name(name) else { continue };
            let of = |offsets: &offsets::Offsets| offsets.get(&partition).copied().unwrap_or(Offset::ZERO);
            let options = OpenOptions {
                clean_shutdown,
                recovery_point: of(&points),
                log_start: of(&starts),
                high_watermark: of(&watermarks),
                now: wall,
                progress: None,
            };
            let config = self.settings.log_config.clone();
            match Replica::open(&self.env, self.faults, partition.clone(), config, options) {
                Ok(None) => {
                    let _ = self.env.remove_directory(&path(name));
                }
                Ok(Some(replica)) => {
                    out.note(format_args!(
                        "opens {name}: {}..{}, HW {}",
                        replica.log.log_start_offset(),
                        replica.log.log_end_offset(),
                        replica.high_watermark()
                    ));
                    out.facts.push(Fact::Opened { partition: replica.id });
                    self.replicas.insert(replica.id, replica);
                }
                Err(NotOpened::Disk(error)) => return self.die(&error, out),
                Err(NotOpened::Damaged(reason)) => {
                    out.note(format_args!("does not open {name}: {reason}"));
                    self.damaged.insert(partition);
                }
            }
        }
    }

    pub(super) fn write_checkpoints(&mut self, now: MonotonicMs, out: &mut Outbox) {
        // Like the system's own write-back: now and then, some log.
        self.sync(now, 30, out);
        self.write_all_checkpoints(out);
    }

    /// Syncs each log with this chance, in percent.
    pub fn sync(&mut self, now: MonotonicMs, percent: u32, out: &mut Outbox) {
        let mut failed = None;
        for replica in self.replicas.values_mut() {
            if self.random.percent(percent)
                && let Err(error) = replica.log.flush(now)
            {
                failed = Some(DiskFailed(error.to_string()));
            }
        }
        match failed {
            Some(error) => self.die(&error, out),
            None => self.write_recovery_points(out),
        }
    }

    pub fn write_recovery_points(&mut self, out: &mut Outbox) {
        self.write_offsets(RECOVERY_POINTS, |replica| replica.log.recovery_point(), out);
    }

    pub(super) fn write_offsets(&mut self, name: &str, of: impl Fn(&Replica) -> Offset, out: &mut Outbox) {
        let all: offsets::Offsets = self.replicas.values().map(|replica| (replica.name.clone(), of(replica))).collect();
        let bytes = offsets::encode(all.iter().map(|(name, offset)| (name, *offset)));
        if let Err(error) = self.env.write_file_atomically(&path(name), &bytes) {
            self.die(&DiskFailed(error.to_string()), out);
        }
    }

    /// Closes everything, so that the next start trusts it.
    pub fn close_all(&mut self, now: MonotonicMs, out: &mut Outbox) -> Result<(), DiskFailed> {
        for replica in self.replicas.values_mut() {
            let failed = match &mut replica.role {
                Role::Leader(leading) => leading.waiters.fail_all(),
                _ => Vec::new(),
            };
            fail(&failed, ErrorCode::NotLeaderOrFollower, BrokerId::NONE, out);
            replica.log.close(now).map_err(|error| DiskFailed(error.to_string()))?;
        }
        self.write_all_checkpoints(out);
        let epoch = self.session.whole_since();
        self.env
            .write_file_atomically(&path(clean_shutdown::FILE_NAME), &clean_shutdown::encode(epoch))
            .map_err(|error| DiskFailed(error.to_string()))
    }
}

fn parse_name(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    Some(TopicPartition::new(TopicName::new(topic).ok()?, PartitionId(partition.parse().ok()?)))
}
