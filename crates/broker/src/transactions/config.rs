//! What the broker's configuration means for transactions.

use std::sync::Arc;

use ottla_config::BrokerConfig;
use ottla_transaction_coordinator::config::BrokenRules;
use ottla_transaction_coordinator::{IdBudget, TransactionConfig};

pub fn transaction_config(config: &BrokerConfig, budget: &Arc<IdBudget>) -> TransactionConfig {
    let transactions = &config.transactions;
    TransactionConfig {
        max_timeout_ms: transactions.max_timeout_ms,
        id_expiration_ms: transactions.transactional_id_expiration_ms,
        abort_timed_out_interval_ms: transactions.abort_timed_out_interval_ms,
        remove_expired_interval_ms: transactions.remove_expired_interval_ms,
        two_phase_commit_is_enabled: transactions.two_phase_commit_enable,
        max_batch_bytes: i32::try_from(config.message_max_bytes).unwrap_or(i32::MAX),
        budget: Arc::clone(budget),
        broken_rules: BrokenRules::default(),
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::HostPort;

    use super::*;

    #[test]
    fn the_defaults_are_the_cores() {
        let config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        assert_eq!(transaction_config(&config, &Arc::default()), TransactionConfig::default());
    }
}
