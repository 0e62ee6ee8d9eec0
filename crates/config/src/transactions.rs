//! What a broker's configuration says about transactions and about the topic that keeps them. Ranges are Kafka's.

use crate::error::ConfigError;
use crate::groups::OffsetsReplication;
use crate::reader::Reader;

/// `transaction.*` and `transactional.*`. Fields are named after their properties.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionsConfig {
    /// The longest time-out that a producer may ask for.
    pub max_timeout_ms: i32,
    /// How long an unused transactional id is remembered.
    pub transactional_id_expiration_ms: i32,
    pub abort_timed_out_interval_ms: i32,
    pub remove_expired_interval_ms: i32,
    /// Whether producers may ask for transactions that never time out (KIP-939).
    pub two_phase_commit_enable: bool,
    /// Bytes of `__transaction_state` that are read at a time.
    pub state_log_load_buffer_bytes: usize,
    pub state_log_min_isr: i32,
    pub state_log_num_partitions: i32,
    pub state_log_replication_factor: OffsetsReplication,
    pub state_log_segment_bytes: i32,
}

impl TransactionsConfig {
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        const REPLICATION: &str = "transaction.state.log.replication.factor";
        let positive = |name| reader.number(name, 1..=i32::MAX);
        let factor = reader.number(REPLICATION, 1..=i16::MAX)?;
        let is_set = reader.property(REPLICATION).is_some_and(|property| property.origin.is_static());
        Ok(Self {
            max_timeout_ms: positive("transaction.max.timeout.ms")?,
            transactional_id_expiration_ms: positive("transactional.id.expiration.ms")?,
            abort_timed_out_interval_ms: positive("transaction.abort.timed.out.transaction.cleanup.interval.ms")?,
            remove_expired_interval_ms: positive("transaction.remove.expired.transaction.cleanup.interval.ms")?,
            two_phase_commit_enable: reader.boolean("transaction.two.phase.commit.enable")?,
            state_log_load_buffer_bytes: usize::try_from(positive("transaction.state.log.load.buffer.size")?)
                .unwrap_or(usize::MAX),
            state_log_min_isr: positive("transaction.state.log.min.isr")?,
            state_log_num_partitions: positive("transaction.state.log.num.partitions")?,
            state_log_replication_factor: match is_set {
                true => OffsetsReplication::Exactly(factor),
                false => OffsetsReplication::UpTo(factor),
            },
            state_log_segment_bytes: positive("transaction.state.log.segment.bytes")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{BrokerConfig, Sources};

    use super::*;

    fn load(flags: &[(&str, &str)]) -> Result<TransactionsConfig, String> {
        let mut all = vec![("coordinator.connect".to_owned(), "localhost".to_owned())];
        all.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let sources = Sources { flags: all, ..Sources::default() };
        BrokerConfig::load(&sources).map(|loaded| loaded.config.transactions).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_kafkas_and_ranges_are_held() {
        let config = load(&[]).expect("valid");
        assert_eq!((config.max_timeout_ms, config.transactional_id_expiration_ms), (900_000, 604_800_000));
        assert_eq!((config.abort_timed_out_interval_ms, config.remove_expired_interval_ms), (10_000, 3_600_000));
        assert_eq!((config.state_log_num_partitions, config.state_log_min_isr), (50, 2));
        assert_eq!(config.state_log_replication_factor, OffsetsReplication::UpTo(3));
        let set = load(&[("transaction.state.log.replication.factor", "1")]).expect("valid");
        assert_eq!(set.state_log_replication_factor, OffsetsReplication::Exactly(1));
        for key in ["transaction.max.timeout.ms", "transaction.state.log.min.isr", "transactional.id.expiration.ms"] {
            let error = load(&[(key, "0")]).expect_err(key);
            assert!(error.contains(key) && !error.contains('\n'), "{error}");
        }
    }
}
