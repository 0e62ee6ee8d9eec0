//! What is wrong with a ConsumerGroupHeartbeat before its group is asked; the texts are Kafka's.

use ottla_model::ErrorCode;

use super::error::HeartbeatError;
use super::member::{JOINING, LEFT, LEFT_FOR_A_WHILE};
use crate::config::GroupConfig;
use crate::request::ConsumerGroupHeartbeat;

pub(super) fn validate(request: &ConsumerGroupHeartbeat, config: &GroupConfig) -> Result<(), HeartbeatError> {
    let refuse = |message: &str| Err(HeartbeatError::new(ErrorCode::InvalidRequest, message));
    let epoch = request.member_epoch;
    // Members of version 0 are given an id when they join.
    let brings_id = request.fresh_id.is_empty() || epoch > JOINING || epoch == LEFT;
    if brings_id && request.member.as_str().trim().is_empty() {
        return refuse("MemberId can't be empty.");
    }
    if request.group.as_str().trim().is_empty() {
        return refuse("GroupId can't be empty.");
    }
    if request.instance.as_ref().is_some_and(|instance| instance.as_str().trim().is_empty()) {
        return refuse("InstanceId can't be empty.");
    }
    if request.rack.as_deref().is_some_and(|rack| rack.trim().is_empty()) {
        return refuse("RackId can't be empty.");
    }
    if epoch == JOINING {
        if request.rebalance_timeout_ms == -1 {
            return refuse("RebalanceTimeoutMs must be provided in first request.");
        }
        if !request.owned.as_ref().is_some_and(Vec::is_empty) {
            return refuse("TopicPartitions must be empty when (re-)joining.");
        }
        // Both may be empty: a member that reads nothing.
        if request.subscribed_topics.is_none() && request.subscribed_regex.is_none() {
            return refuse("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
    } else if epoch == LEFT_FOR_A_WHILE {
        if request.instance.is_none() {
            return refuse("InstanceId can't be null.");
        }
    } else if epoch < LEFT_FOR_A_WHILE {
        return refuse("MemberEpoch is invalid.");
    }
    match &request.server_assignor {
        Some(name) if !config.consumer_assignors.contains(name) => Err(HeartbeatError::new(
            ErrorCode::UnsupportedAssignor,
            format!(
                "ServerAssignor {name} is not supported. Supported assignors: {}.",
                config.consumer_assignors.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}
