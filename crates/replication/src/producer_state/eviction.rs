//! How many producers one log remembers, by itself and as its share of the broker's, and which are forgotten first.
//! Anybody can write under a new id with each batch, and an entry is kept for a day (`producer.id.expiration.ms`).

use ottla_model::Offset;

use super::{Producer, ProducerStates};

/// The most producers of one log, at about 300 bytes each.
pub const PRODUCERS_MAX: usize = 100_000;

/// How many are forgotten at once: a look at all of them makes room for many.
const EVICTED_AT_ONCE: usize = PRODUCERS_MAX / 10;

impl ProducerStates {
    /// Before a producer is added: if there are too many, forgets those that wrote longest ago, by the order of the
    /// log (timestamps are the clients'). They are as if they had expired: any sequence number is accepted from them.
    /// Producers within a transaction stay.
    pub(super) fn make_room(&mut self) {
        let count = self.producers.len();
        let surplus = match count {
            PRODUCERS_MAX.. => EVICTED_AT_ONCE,
            _ if self.held.is_over_share(self.remembered()) => count.div_ceil(10),
            _ => return,
        };
        let mut ages: Vec<Offset> =
            self.producers.values().filter(|producer| is_idle(producer)).map(last_offset).collect();
        let Some(place) = ages.len().checked_sub(1).map(|last| last.min(surplus.saturating_sub(1))) else { return };
        let (_, newest_evicted, _) = ages.select_nth_unstable(place);
        let newest_evicted = *newest_evicted;
        self.producers.retain(|_, producer| !is_idle(producer) || last_offset(producer) > newest_evicted);
        self.held.forgotten(count - self.producers.len());
    }
}

fn is_idle(producer: &Producer) -> bool {
    producer.transaction_first_offset.is_none()
}

fn last_offset(producer: &Producer) -> Offset {
    producer.batches().last().map_or(Offset::UNKNOWN, |batch| batch.last_offset)
}

#[cfg(test)]
mod tests {
    use ottla_model::{ProducerEpoch, ProducerId, TimestampMs};

    use super::*;
    use crate::producer_state::{AppendTerms, ProducerBatch, ProducerBudget, ProducerCheck};

    fn batch(producer_id: i64, base_sequence: i32, offset: i64, is_transactional: bool) -> ProducerBatch {
        ProducerBatch {
            producer_id: ProducerId(producer_id),
            producer_epoch: ProducerEpoch(0),
            base_sequence,
            last_sequence: base_sequence,
            first_offset: Offset(offset),
            last_offset: Offset(offset),
            // A client's timestamp says nothing: this one never looks old.
            max_timestamp: TimestampMs(i64::MAX),
            is_transactional,
        }
    }

    #[test]
    fn new_ids_without_end_cost_no_more_memory_and_no_busy_producer() {
        const BUSY: i64 = -1 + (1 << 40);
        const IN_TRANSACTION: i64 = 1 << 41;
        let mut states = ProducerStates::new();
        states.apply(&batch(IN_TRANSACTION, 0, 0, true));
        let mut offset = 1;
        for id in 0..(3 * PRODUCERS_MAX as i64) {
            states.apply(&batch(id, 0, offset, false));
            offset += 1;
            if id % 10_000 == 0 {
                let sequence = i32::try_from(id / 10_000).expect("small");
                let next = batch(BUSY, sequence, offset, false);
                assert_eq!(states.check(&next, &AppendTerms::CLIENT), Ok(ProducerCheck::New));
                states.apply(&next);
                offset += 1;
            }
        }
        assert!(states.len() <= PRODUCERS_MAX, "{}", states.len());
        // The busy producer's retries are still recognised.
        let retry = batch(BUSY, 29, 0, false);
        assert!(matches!(states.check(&retry, &AppendTerms::CLIENT), Ok(ProducerCheck::Duplicate(_))));
        assert!(states.last_of(ProducerId(IN_TRANSACTION)).is_some());
        assert!(states.last_of(ProducerId(0)).is_none());
    }

    /// G10: each log had a ceiling, and a client wrote under new ids to a thousand of them.
    #[test]
    fn g10_new_ids_in_many_logs_stay_below_the_brokers_ceiling() {
        const CEILING: usize = 1_000;
        let budget = ProducerBudget::new(CEILING);
        let mut quiet = ProducerStates::within(Some(budget.clone()));
        quiet.apply(&batch(-1 + (1 << 40), 0, 0, false));
        let mut logs: Vec<_> = (0..100).map(|_| ProducerStates::within(Some(budget.clone()))).collect();
        let mut first = ProducerStates::within(Some(budget.clone()));
        for id in 0..5_000 {
            first.apply(&batch(id, 0, id, false));
        }
        assert!(first.len() <= CEILING, "{}", first.len());
        for id in 0..100 {
            for log in &mut logs {
                log.apply(&batch(id, 0, id, false));
            }
        }
        for id in 5_000..10_000 {
            first.apply(&batch(id, 0, id, false));
        }
        assert!(budget.used() < 2 * CEILING && budget.forgotten() > 0, "{budget:?}");
        assert!(first.len() < CEILING / 10, "the largest gives way: {}", first.len());
        // A log below its share is left alone, and takes another.
        assert!(quiet.last_of(ProducerId(-1 + (1 << 40))).is_some());
        quiet.apply(&batch(1 << 41, 0, 1, false));
        assert_eq!(quiet.len(), 2);
        drop((first, logs));
        assert_eq!(budget.used(), 2);
        quiet.clear(Offset(0));
        assert_eq!(budget.used(), 0);
    }
}
