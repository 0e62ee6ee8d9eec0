//! Topics that come into being because a client asked for their metadata (`auto.create.topics.enable`).
//!
//! The client is told "unknown" meanwhile, as Kafka does, and asks again; each name is on its way to the quorum once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::controller::{CreateTopics, NewTopic};
use ottla_model::{ErrorCode, TopicName};
use parking_lot::Mutex;

use crate::broker::Broker;

/// Names on their way to the quorum at once. Beyond it the next request for the name tries again: a client that asks
/// for a million names creates them no faster than the quorum takes them.
const UNDER_WAY_MAX: usize = 256;
/// After it the name may be tried again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The topic of share groups' coordinators, which are not built: as an ordinary topic it would have the wrong number of
/// partitions, for ever.
const SHARE_STATE_TOPIC: &str = "__share_group_state";

/// Whether the topic belongs to coordinators that there are not.
fn has_no_coordinator(name: &str) -> bool {
    name == SHARE_STATE_TOPIC
}

#[derive(Default)]
pub struct AutoCreation {
    under_way: Mutex<BTreeSet<TopicName>>,
}

impl AutoCreation {
    /// Starts the creation unless it is under way. Must be called within the data runtime.
    pub fn create(&self, broker: &Arc<Broker>, name: TopicName) {
        // Topics of coordinators have a form of their own, however they come about.
        if let Some(internal) = broker.internal_topics.named(name.as_str()) {
            internal.create(broker);
            return;
        }
        if has_no_coordinator(name.as_str()) {
            return;
        }
        {
            let mut under_way = self.under_way.lock();
            if under_way.len() >= UNDER_WAY_MAX || !under_way.insert(name.clone()) {
                return;
            }
        }
        let command = CreateTopics {
            topics: vec![NewTopic {
                name: name.as_str().to_owned(),
                partitions: -1,
                replication_factor: -1,
                grows_to: 0,
                assignments: Vec::new(),
                configs: Vec::new(),
            }],
            validate_only: false,
            default_partitions: broker.config.num_partitions,
            default_replication_factor: i32::from(broker.config.default_replication_factor),
        };
        let decision = broker.quorum.submit(command, TIMEOUT);
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            match decision.await {
                Ok(outcomes) => {
                    for refusal in outcomes.topics.iter().filter_map(|topic| topic.refusal.as_ref()) {
                        // Another broker was asked for it at the same time.
                        if refusal.error != ErrorCode::TopicAlreadyExists {
                            tracing::warn!(topic = %name, %refusal, "a topic was not created automatically");
                        }
                    }
                }
                Err(error) => tracing::warn!(topic = %name, %error, "a topic was not created automatically"),
            }
            broker.auto_creation.under_way.lock().remove(&name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B3.
    #[test]
    fn topics_of_coordinators_that_are_not_built_are_not_created() {
        assert!(has_no_coordinator("__share_group_state"));
        assert!(!has_no_coordinator("__consumer_offsets") && !has_no_coordinator("logs"));
    }
}
