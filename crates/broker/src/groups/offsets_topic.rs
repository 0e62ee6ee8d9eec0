//! How `__consumer_offsets` comes into being: with the first request for a coordinator, whatever
//! `auto.create.topics.enable` says.
//!
//! Where `offsets.topic.replication.factor` is set, the topic has as many replicas or is not created, and clients are
//! told why. Where it is not, the topic gets as many as there are brokers, up to three, and the quorum adds the missing
//! ones as brokers join.

use std::sync::Arc;
use std::time::Duration;

use ottla_config::{GroupsConfig, OffsetsReplication};
use ottla_metadata::controller::{CreateTopics, NewTopic};
use ottla_metrics::RateLimit;
use ottla_model::ErrorCode;
use parking_lot::Mutex;

use super::OFFSETS_TOPIC;
use crate::broker::Broker;

/// After it the creation may be tried again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log says that the topic cannot be created: every client asks again several times a second.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

pub struct OffsetsTopic {
    state: Mutex<State>,
    complaints: RateLimit,
}

#[derive(Default)]
struct State {
    under_way: bool,
    /// Why the last attempt came to nothing, for clients.
    refusal: Option<String>,
}

impl Default for OffsetsTopic {
    fn default() -> Self {
        Self { state: Mutex::default(), complaints: RateLimit::new(COMPLAINT_INTERVAL) }
    }
}

impl OffsetsTopic {
    /// Starts the creation unless it is under way. Must be called within the data runtime.
    pub fn create(&self, broker: &Arc<Broker>) {
        {
            let mut state = self.state.lock();
            if state.under_way {
                return;
            }
            state.under_way = true;
        }
        let decision = broker.quorum.submit(command(&broker.config.groups), TIMEOUT);
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            let outcome = match decision.await {
                Ok(outcomes) => outcomes.topics.into_iter().next().and_then(|topic| topic.refusal),
                Err(error) => {
                    tracing::warn!(%error, "{OFFSETS_TOPIC} is not created yet");
                    None
                }
            };
            // Another broker was asked for it at the same time.
            let refusal = outcome.filter(|refusal| refusal.error != ErrorCode::TopicAlreadyExists);
            let topic = &broker.offsets_topic;
            if let Some(refusal) = &refusal {
                topic.complaints.run(|more| {
                    tracing::warn!(%refusal, more, "{OFFSETS_TOPIC} cannot be created: groups have no coordinator");
                });
            }
            let mut state = topic.state.lock();
            state.under_way = false;
            state.refusal = refusal.map(|refusal| format!("{OFFSETS_TOPIC} cannot be created: {}", refusal.message));
        });
    }

    /// Why there is no topic, if the quorum has said so.
    pub fn refusal(&self) -> Option<String> {
        self.state.lock().refusal.clone()
    }
}

fn command(config: &GroupsConfig) -> CreateTopics {
    let entry = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    let (replication_factor, grows_to) = match config.offsets_topic_replication_factor {
        OffsetsReplication::Exactly(factor) => (i32::from(factor), 0),
        OffsetsReplication::UpTo(factor) => (-1, i32::from(factor)),
    };
    CreateTopics {
        topics: vec![NewTopic {
            name: OFFSETS_TOPIC.to_owned(),
            partitions: config.offsets_topic_num_partitions,
            replication_factor,
            grows_to,
            assignments: Vec::new(),
            // As Kafka has it.
            configs: vec![
                entry("cleanup.policy", "compact"),
                entry("compression.type", "producer"),
                entry("segment.bytes", &config.offsets_topic_segment_bytes.to_string()),
            ],
        }],
        validate_only: false,
        default_partitions: config.offsets_topic_num_partitions,
        default_replication_factor: 1,
    }
}
