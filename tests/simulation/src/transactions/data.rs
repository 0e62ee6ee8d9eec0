//! A partition that producers write to, as its leader keeps it. Its log loses nothing: what is tried here is the
//! coordinator.

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, PartitionId, TopicName, TopicPartition};
use ottla_transaction_coordinator::{Marker, Producer, TransactionVersion};

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Produced {
    Appended,
    Repeated,
    /// The coordinator has to say that the partition is in the transaction. The number proves that no marker came
    /// meanwhile.
    Unverified(u64),
    Refused(ErrorCode),
}

#[derive(Debug)]
struct ProducerState {
    epoch: i16,
    last_sequence: i64,
    coordinator_epoch: i32,
    /// Batches of the transaction that runs.
    open: Vec<DataBatch>,
    /// Grows with each marker.
    markers: u64,
}

#[derive(Debug)]
pub struct DataPartition {
    pub name: TopicPartition,
    pub leader: i32,
    pub is_deleted: bool,
    producers: BTreeMap<i64, ProducerState>,
}

impl DataPartition {
    /// # Panics
    /// Never: the name is valid.
    pub fn new(index: i32, leader: i32) -> Self {
        let topic = TopicName::new(&format!("topic-{index}")).unwrap_or_else(|_| unreachable!("a valid name"));
        let name = TopicPartition::new(topic, PartitionId(0));
        Self { name, leader, is_deleted: false, producers: BTreeMap::new() }
    }

    /// Whether some transaction runs here.
    pub fn has_open(&self) -> bool {
        self.producers.values().any(|state| !state.open.is_empty())
    }

    pub fn produce(&mut self, batch: &DataBatch, verified: Option<u64>) -> Produced {
        let Producer { id, epoch } = batch.producer;
        let state = self.producers.entry(id.0).or_insert_with(|| ProducerState {
            epoch: epoch.0,
            last_sequence: -1,
            coordinator_epoch: -1,
            open: Vec::new(),
            markers: 0,
        });
        if epoch.0 < state.epoch {
            return Produced::Refused(ErrorCode::InvalidProducerEpoch);
        }
        if epoch.0 == state.epoch && batch.sequence <= state.last_sequence {
            return Produced::Repeated;
        }
        if state.open.is_empty() {
            match verified {
                None => return Produced::Unverified(state.markers),
                Some(markers) if markers != state.markers => return Produced::Refused(ErrorCode::NotEnoughReplicas),
                Some(_) => {}
            }
        } else if epoch.0 > state.epoch {
            return Produced::Refused(ErrorCode::InvalidTxnState);
        }
        if epoch.0 > state.epoch {
            (state.epoch, state.last_sequence) = (epoch.0, -1);
        }
        state.last_sequence = batch.sequence;
        state.open.push(batch.clone());
        Produced::Appended
    }

    /// Writes a marker; the batches whose transaction ends with it, or why it is refused. None: it was there already.
    pub fn marker(&mut self, marker: &Marker) -> Result<Option<Vec<DataBatch>>, ErrorCode> {
        let Some(state) = self.producers.get_mut(&marker.producer_id.0) else { return Ok(Some(Vec::new())) };
        let epoch = marker.producer_epoch.0;
        if marker.coordinator_epoch.0 < state.coordinator_epoch {
            return Err(ErrorCode::TransactionCoordinatorFenced);
        }
        if epoch < state.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        state.coordinator_epoch = marker.coordinator_epoch.0;
        if marker.version.bumps_epoch() && epoch == state.epoch {
            // A repeated marker, or one that would end the transaction after the one that it is for.
            return if state.open.is_empty() { Ok(None) } else { Err(ErrorCode::InvalidProducerEpoch) };
        }
        if epoch > state.epoch {
            (state.epoch, state.last_sequence) = (epoch, -1);
        }
        state.markers += 1;
        Ok(Some(std::mem::take(&mut state.open)))
    }
}
