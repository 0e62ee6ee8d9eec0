//! A partition that producers write to: one replica that ships ([`ottla_partition::Replica`]), which leads alone and
//! loses nothing. It decides about verification, epochs, sequences and markers; what is tried here is the coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_coordinator_partition::Now;
use ottla_model::{ErrorCode, PartitionId, TopicName, TopicPartition, TransactionResult};
use ottla_partition::{Append, BrokenRules, ReplicaConfig};
use ottla_protocol::record_batch::{BatchBuilder, TimestampType};
use ottla_replication::{AppendTerms, EndMarker, VerificationGuard, VerificationRequest};
use ottla_transaction_coordinator::{Marker, Producer, TransactionVersion};

use crate::coordinator_log::{LocalReplica, START, any_epoch, new_replica, replica_config, state_of};

/// The replica's own name of its broker, whoever leads in the world.
const LOCAL: i32 = 1;

/// One batch of a producer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataBatch {
    pub producer: Producer,
    pub sequence: i64,
    /// The transaction that the client means.
    pub transaction: u64,
    pub version: TransactionVersion,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Produced {
    Appended,
    Repeated,
    /// The coordinator has to say that the partition is in the transaction.
    Unverified(VerificationGuard),
    Refused(ErrorCode),
}

pub struct DataPartition {
    pub name: TopicPartition,
    pub leader: i32,
    pub is_deleted: bool,
    replica: LocalReplica,
    /// What was appended of the transactions that run, by producer, for the invariants.
    open: BTreeMap<i64, Vec<DataBatch>>,
}

impl DataPartition {
    /// # Panics
    /// Never: the name is valid.
    pub fn new(index: i32, leader: i32, rules: BrokenRules) -> Self {
        let topic = TopicName::new(&format!("topic-{index}")).unwrap_or_else(|_| unreachable!("a valid name"));
        let name = TopicPartition::new(topic, PartitionId(0));
        let config = ReplicaConfig { rules, ..replica_config(LOCAL, 1) };
        let mut replica = new_replica(name.clone(), &config);
        let state = Arc::new(state_of(Some(LOCAL), [LOCAL], [LOCAL]));
        let _ = replica.assume(&state, START.monotonic, START.wall, &config, &any_epoch);
        Self { name, leader, is_deleted: false, replica, open: BTreeMap::new() }
    }

    /// Whether some transaction runs here.
    pub fn has_open(&self) -> bool {
        self.open.values().any(|open| !open.is_empty())
    }

    /// `verified`: the coordinator has confirmed what [`Produced::Unverified`] asked.
    pub fn produce(&mut self, batch: &DataBatch, verified: Option<&VerificationGuard>, now: Now) -> Produced {
        let Producer { id, epoch } = batch.producer;
        let sequence = i32::try_from(batch.sequence).unwrap_or(i32::MAX);
        if verified.is_none() {
            let request = VerificationRequest {
                producer_id: id,
                producer_epoch: epoch,
                base_sequence: sequence,
                supports_epoch_bump: batch.version.bumps_epoch(),
            };
            match self.replica.begin_verification(&request, now.wall) {
                Ok(None) => {}
                Ok(Some(guard)) => return Produced::Unverified(guard),
                Err(error) => return Produced::Refused(error),
            }
        }
        let records = BatchBuilder::new().producer(id, epoch, sequence).transactional();
        let Ok(mut records) = records.record(now.wall, None, Some(b"record")).build() else {
            return Produced::Refused(ErrorCode::UnknownServerError);
        };
        let terms = AppendTerms { guard: verified, ..AppendTerms::CLIENT };
        let append = Append { records: &mut records, header: None, acks_all: true, terms };
        match self.replica.append(append, now.monotonic, now.wall, &any_epoch) {
            Ok((appended, _)) if appended.is_duplicate => Produced::Repeated,
            Ok(_) => {
                self.open.entry(id.0).or_default().push(batch.clone());
                Produced::Appended
            }
            Err(error) => Produced::Refused(error.error_code()),
        }
    }

    /// Writes a marker; the batches whose transaction ends with it, or why it is refused.
    pub fn marker(&mut self, marker: &Marker, now: Now) -> Result<Vec<DataBatch>, ErrorCode> {
        let end = EndMarker {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            result: if marker.is_commit { TransactionResult::Commit } else { TransactionResult::Abort },
            coordinator_epoch: marker.coordinator_epoch.0,
        };
        let version = i8::try_from(marker.version.level()).unwrap_or(0);
        let timestamps = TimestampType::CreateTime;
        let written = self.replica.append_marker(&end, version, timestamps, now.monotonic, now.wall, &any_epoch);
        let _ = written.map_err(|error| error.error_code())?;
        Ok(self.open.remove(&marker.producer_id.0).unwrap_or_default())
    }
}
