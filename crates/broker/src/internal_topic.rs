//! How `__consumer_offsets` and `__transaction_state` come into being: with the first request for a coordinator,
//! whatever `auto.create.topics.enable` says.
//!
//! Where a topic's replication factor is set, the topic has as many replicas or is not created, and clients are told
//! why. Where it is not, the topic gets as many as there are brokers, up to three, and the quorum adds the missing ones
//! as brokers join.

use std::sync::Arc;
use std::time::Duration;

use ottla_config::{BrokerConfig, OffsetsReplication};
use ottla_metadata::controller::{CreateTopics, NewTopic};
use ottla_model::ErrorCode;
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::groups::OFFSETS_TOPIC;
use crate::transactions::STATE_TOPIC;
use ottla_metrics::RateLimit;

/// After it the creation may be tried again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log says that the topic cannot be created: every client asks again several times a second.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The topics of coordinators.
pub struct InternalTopics {
    pub offsets: Arc<InternalTopic>,
    pub transaction_state: Arc<InternalTopic>,
}

impl Default for InternalTopics {
    fn default() -> Self {
        let topic = |name, form| Arc::new(InternalTopic::new(name, form));
        Self { offsets: topic(OFFSETS_TOPIC, offsets_topic), transaction_state: topic(STATE_TOPIC, transaction_state) }
    }
}

impl InternalTopics {
    /// The internal topic of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<InternalTopic>> {
        [&self.offsets, &self.transaction_state].into_iter().find(|topic| topic.name == name)
    }
}

pub struct InternalTopic {
    name: &'static str,
    form: fn(&BrokerConfig) -> Form,
    state: Mutex<State>,
    complaints: RateLimit,
}

/// What the configuration says about a topic.
struct Form {
    partitions: i32,
    replication: OffsetsReplication,
    configs: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct State {
    under_way: bool,
    /// Why the last attempt came to nothing, for clients.
    refusal: Option<String>,
}

impl InternalTopic {
    fn new(name: &'static str, form: fn(&BrokerConfig) -> Form) -> Self {
        Self { name, form, state: Mutex::default(), complaints: RateLimit::new(COMPLAINT_INTERVAL) }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Starts the creation unless it is under way. Must be called within the data runtime.
    pub fn create(self: &Arc<Self>, broker: &Arc<Broker>) {
        {
            let mut state = self.state.lock();
            if state.under_way {
                return;
            }
            state.under_way = true;
        }
        let decision = broker.quorum.submit(command(self.name, (self.form)(&broker.config)), TIMEOUT);
        let topic = Arc::clone(self);
        tokio::spawn(async move {
            let name = topic.name;
            let outcome = match decision.await {
                Ok(outcomes) => outcomes.topics.into_iter().next().and_then(|topic| topic.refusal),
                Err(error) => {
                    tracing::warn!(%error, "{name} is not created yet");
                    None
                }
            };
            // Another broker was asked for it at the same time.
            let refusal = outcome.filter(|refusal| refusal.error != ErrorCode::TopicAlreadyExists);
            if let Some(refusal) = &refusal {
                topic.complaints.run(|more| {
                    tracing::warn!(%refusal, more, "{name} cannot be created: its clients have no coordinator");
                });
            }
            let mut state = topic.state.lock();
            state.under_way = false;
            state.refusal = refusal.map(|refusal| format!("{name} cannot be created: {}", refusal.message));
        });
    }

    /// Why there is no topic, if the quorum has said so.
    pub fn refusal(&self) -> Option<String> {
        self.state.lock().refusal.clone()
    }
}

/// As Kafka has it.
fn offsets_topic(config: &BrokerConfig) -> Form {
    let groups = &config.groups;
    Form {
        partitions: groups.offsets_topic_num_partitions,
        replication: groups.offsets_topic_replication_factor,
        configs: vec![
            ("cleanup.policy", "compact".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("segment.bytes", groups.offsets_topic_segment_bytes.to_string()),
        ],
    }
}

/// As Kafka has it.
fn transaction_state(config: &BrokerConfig) -> Form {
    let transactions = &config.transactions;
    Form {
        partitions: transactions.state_log_num_partitions,
        replication: transactions.state_log_replication_factor,
        configs: vec![
            ("cleanup.policy", "compact".to_owned()),
            ("compression.type", "uncompressed".to_owned()),
            ("min.insync.replicas", transactions.state_log_min_isr.to_string()),
            ("segment.bytes", transactions.state_log_segment_bytes.to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ],
    }
}

fn command(name: &str, form: Form) -> CreateTopics {
    let (replication_factor, grows_to) = match form.replication {
        OffsetsReplication::Exactly(factor) => (i32::from(factor), 0),
        OffsetsReplication::UpTo(factor) => (-1, i32::from(factor)),
    };
    let configs = form.configs.into_iter().map(|(name, value)| (name.to_owned(), Some(value)));
    CreateTopics {
        topics: vec![NewTopic {
            name: name.to_owned(),
            partitions: form.partitions,
            replication_factor,
            grows_to,
            assignments: Vec::new(),
            configs: configs.collect(),
        }],
        validate_only: false,
        default_partitions: form.partitions,
        default_replication_factor: 1,
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::Sources;

    use super::*;

    /// B3: created by a client's question, `__transaction_state` was an ordinary topic, for ever.
    #[test]
    fn internal_topics_have_the_form_that_their_configuration_says() {
        let flags = [
            ("coordinator.connect", "127.0.0.1:1"),
            ("broker.id", "1"),
            ("log.dirs", "/tmp"),
            ("num.partitions", "7"),
            ("transaction.state.log.num.partitions", "11"),
            ("transaction.state.log.replication.factor", "2"),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.state.log.segment.bytes", "1048576"),
            ("offsets.topic.num.partitions", "13"),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let config = BrokerConfig::load(&Sources { flags, ..Sources::default() }).expect("valid").config;
        let topics = InternalTopics::default();
        let asked = |name: &str| {
            let topic = topics.named(name).expect("an internal topic");
            command(topic.name(), (topic.form)(&config)).topics.remove(0)
        };
        let value = |topic: &NewTopic, key: &str| {
            let found = topic.configs.iter().find(|(name, _)| name == key);
            found.and_then(|(_, value)| value.clone()).unwrap_or_default()
        };
        let state = asked(STATE_TOPIC);
        assert_eq!((state.partitions, state.replication_factor), (11, 2));
        assert_eq!(value(&state, "cleanup.policy"), "compact");
        assert_eq!(
            (value(&state, "min.insync.replicas"), value(&state, "segment.bytes")),
            ("1".into(), "1048576".into())
        );
        assert_eq!(value(&state, "unclean.leader.election.enable"), "false");
        let offsets = asked(OFFSETS_TOPIC);
        assert_eq!((offsets.partitions, value(&offsets, "cleanup.policy").as_str()), (13, "compact"));
    }
}
