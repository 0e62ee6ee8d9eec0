//! `/admin/delete_topics/T`: a topic whose deletion takes more than one transaction. Its name is not free until the
//! last piece has removed this node too. Empty in ZooKeeper; the id is kept for the log.

use bytes::Bytes;
use ottla_model::{TopicId, TopicName};
use prost::Message;

use super::NodeError;
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteTopicPayload {
    #[prost(bytes = "bytes", tag = "1")]
    topic_id: Bytes,
}

pub fn path(topic: &TopicName) -> Path {
    Path::built(format!("/admin/delete_topics/{topic}"))
}

pub fn encode(id: TopicId) -> Bytes {
    DeleteTopicPayload { topic_id: Bytes::copy_from_slice(id.as_bytes()) }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<TopicId, NodeError> {
    let payload = DeleteTopicPayload::decode(payload.clone())?;
    TopicId::from_slice(&payload.topic_id).ok_or_else(|| NodeError::field("topic_id", &payload.topic_id))
}
