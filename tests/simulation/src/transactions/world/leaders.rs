//! What the leaders of data partitions do with batches and markers.

use ottla_replication::{VerificationGuard, refusal_of, verdict_of};

use super::*;
use crate::coordinator_log::LogWorld as _;
use crate::transactions::data::Produced;

impl World {
    pub(super) fn produce(&mut self, client: u32, call: u64, index: usize, to: i32, batch: &DataBatch) {
        let is_up = self.brokers.get(&to).is_some_and(|broker| broker.is_running);
        let now = self.clocks();
        let Some(data) = self.data.get_mut(index).filter(|_| is_up) else { return };
        if data.is_deleted || data.leader != to {
            let error =
                if data.is_deleted { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::NotLeaderOrFollower };
            return self.tell_produced(client, call, index, Err(error));
        }
        match data.produce(batch, None, now) {
            Produced::Appended | Produced::Repeated => self.tell_produced(client, call, index, Ok(())),
            Produced::Refused(error) => self.tell_produced(client, call, index, Err(error)),
            Produced::Unverified(guard) => {
                let Some(id) = self.clients.get(&client).map(|client| client.id.clone()) else { return };
                let partitions = vec![data.name.clone()];
                let request = AddPartitions { id, producer: batch.producer, partitions, version: batch.version };
                // With KIP-890 part 2 the leader adds the partition itself.
                let request = if batch.version.bumps_epoch() {
                    Request::AddPartitions(request)
                } else {
                    Request::VerifyPartitions(request)
                };
                let caller = Caller::Leader { client, call, index, batch: batch.clone(), guard };
                self.ask(caller, request);
            }
        }
    }

    /// The coordinator has answered a leader.
    pub(super) fn verified(
        &mut self,
        client: u32,
        call: u64,
        index: usize,
        batch: &DataBatch,
        guard: &VerificationGuard,
        answer: &TransactionAnswer,
    ) {
        let error = match answer {
            TransactionAnswer::Verified(verified) => {
                verified.first().map_or(ErrorCode::UnknownServerError, |(_, error)| *error)
            }
            TransactionAnswer::Failed(error) => *error,
            _ => ErrorCode::None,
        };
        let (now, verdict) = (self.clocks(), verdict_of(error));
        let Some(data) = self.data.get_mut(index) else { return };
        let result = if verdict.is_ok() && !data.is_deleted {
            match data.produce(batch, Some(guard), now) {
                Produced::Appended | Produced::Repeated => Ok(()),
                Produced::Refused(error) => Err(error),
                Produced::Unverified(_) => Err(ErrorCode::NotEnoughReplicas),
            }
        } else {
            Err(refusal_of(verdict, batch.version.bumps_epoch()))
        };
        self.tell_produced(client, call, index, result);
    }

    fn tell_produced(&mut self, client: u32, call: u64, index: usize, result: Result<(), ErrorCode>) {
        let (latency, is_lost) = self.network();
        if !is_lost {
            self.schedule_us(latency, Event::Produced { client, call, index, result });
        }
    }

    /// A marker arrives at a broker.
    pub(super) fn mark(&mut self, from: i32, life: u32, partition: i32, marker: &Marker) -> Result<(), Violation> {
        self.trace.message(self.now, format_args!("b{from}, partition {partition}: {marker:?}"));
        let to = marker.broker.0;
        let (now, mut results) = (self.clocks(), None);
        if self.brokers.get(&to).is_some_and(|broker| broker.is_running) {
            let mut written = Results::new();
            for name in &marker.partitions {
                let Some(data) = self.data.iter_mut().find(|data| data.name == *name) else { continue };
                let result = if data.is_deleted {
                    ErrorCode::UnknownTopicOrPartition
                } else if data.leader != to {
                    ErrorCode::NotLeaderOrFollower
                } else {
                    match data.marker(marker, now) {
                        // A repeated marker ends nothing.
                        Ok(ended) if ended.is_empty() => ErrorCode::None,
                        Ok(ended) => {
                            self.invariants.marked(name, marker, &ended)?;
                            ErrorCode::None
                        }
                        Err(error) => error,
                    }
                };
                written.insert(name.clone(), result);
            }
            results = Some(written);
        }
        let (latency, is_lost) = self.network();
        let (after_us, results) = match results.filter(|_| !is_lost) {
            Some(results) => (latency, Some(results)),
            None => (PATIENCE_MS * 1_000, None),
        };
        let (number, epoch) = (marker.number, marker.coordinator_epoch);
        self.schedule_us(after_us, Event::Marked { to: from, life, partition, epoch, number, results });
        Ok(())
    }

    /// Another broker leads a data partition.
    pub fn move_data(&mut self, index: usize, to: i32) {
        if let Some(data) = self.data.get_mut(index) {
            data.leader = to;
        }
        self.note(format_args!("b{to} leads data partition {index}"));
    }

    pub fn delete_data(&mut self, index: usize) {
        let Some(data) = self.data.get_mut(index) else { return };
        data.is_deleted = true;
        self.invariants.deleted(&data.name);
        self.note(format_args!("data partition {index} is deleted"));
    }
}
