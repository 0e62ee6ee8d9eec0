//! What the handlers of the group APIs share: who asks, the way to the groups and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ottla_group_coordinator::request::{ClientInfo, GroupTopic};
use ottla_group_coordinator::{GroupAnswer, Request as GroupRequest};
use ottla_metadata::Image;
use ottla_model::{ErrorCode, GroupId, InstanceId, MemberId, TopicId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use tokio::time::Instant;

use super::budget::{ResponseBudget, group_answer_bytes};
use super::heavy::LARGE_REQUEST_BYTES;
use super::meter::Meter;
use super::wire;
use crate::broker::Broker;
use crate::coordinators::pending_answer::all_ready;
use crate::groups::PendingAnswer;
use crate::request::RequestContext;

/// A response with more is made beside the workers: it takes more than a millisecond.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// How an API tells of groups, with so many bytes of them at most; none if there are more.
pub type Tell = fn(&Arc<Broker>, &RequestContext, RequestHeader, Bytes, usize) -> Option<Reply>;

/// Answers a request that asks for groups and changes none. If there is much to tell, what was found is dropped and the
/// request handled again beside the workers, one at a time: what waits for its turn holds nothing.
pub fn tell(
    broker: &Arc<Broker>,
    context: &RequestContext,
    header: RequestHeader,
    body: BytesMut,
    tell: Tell,
) -> Reply {
    let body = body.freeze();
    if body.len() >= LARGE_REQUEST_BYTES {
        // It is beside the workers already.
        return of_any_size(tell(broker, context, header, body, usize::MAX));
    }
    if let Some(reply) = tell(broker, context, header.clone(), body.clone(), INLINE_BYTES_MAX) {
        return reply;
    }
    let (meter, body_bytes) = (Meter::of(broker, context, &header), body.len());
    let (owned, context) = (Arc::clone(broker), context.clone());
    meter.carry_out_if(broker, true, body_bytes, move || of_any_size(tell(&owned, &context, header, body, usize::MAX)))
}

/// What was asked for without a bound: there is always an answer.
pub fn of_any_size(reply: Option<Reply>) -> Reply {
    reply.unwrap_or_else(|| Reply::close("an answer without a bound"))
}

pub fn group_id(id: &messages::GroupId) -> GroupId {
    GroupId::new(id.as_str())
}

pub fn wire_group_id(id: &GroupId) -> messages::GroupId {
    messages::GroupId(wire::text(id.as_str()))
}

pub fn member_id(text: &StrBytes) -> MemberId {
    MemberId::new(text.as_str())
}

pub fn instance_id(text: Option<&StrBytes>) -> Option<InstanceId> {
    text.map(|text| InstanceId::new(text.as_str()))
}

pub fn wire_instance_id(id: Option<&InstanceId>) -> Option<StrBytes> {
    id.map(|id| wire::text(id.as_str()))
}

pub fn owned(text: &StrBytes) -> String {
    text.as_str().to_owned()
}

/// Who asks, in Kafka's words.
pub fn client(context: &RequestContext, header: &RequestHeader) -> ClientInfo {
    ClientInfo { client_id: header.client_id.clone().unwrap_or_default(), client_host: context.client_host() }
}

/// Text that no member ever had.
pub fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Asks the group's coordinator, which has to be this broker.
pub fn submit(broker: &Arc<Broker>, group: &GroupId, request: GroupRequest) -> PendingAnswer {
    broker.groups.submit(&broker.metadata.peek(), group, request)
}

/// One group's answer as its API has it. `patience`: how long the answer may wait for replicas; none where it waits for
/// members.
pub fn respond<R: Request>(
    header: RequestHeader,
    asked: PendingAnswer,
    patience: Option<Duration>,
    make: impl FnOnce(GroupAnswer) -> R::Response + Send + 'static,
) -> Reply {
    match asked {
        PendingAnswer::Ready(answer) => Reply::encode::<R>(&header, &make(answer)),
        waiting => Reply::later(async move {
            let answer = match patience {
                Some(patience) => waiting.answer_within(patience).await,
                None => waiting.answer().await,
            };
            Response::encode_or_close::<R>(&header, &make(answer))
        }),
    }
}

/// The answers of several groups, in the order in which they are asked. What does not fit into the budget is dropped
/// before the next group is asked, and answered with INVALID_REQUEST. None if there are more than `max_bytes` at once.
pub fn respond_all<R: Request, T: Send + 'static>(
    broker: &Arc<Broker>,
    header: RequestHeader,
    max_bytes: usize,
    asking: impl Iterator<Item = (T, PendingAnswer)>,
    make: impl FnOnce(Vec<(T, GroupAnswer)>) -> R::Response + Send + 'static,
) -> Option<Reply> {
    let mut found = Found { budget: broker.response_budget(), bytes: 0 };
    let mut asked = Vec::new();
    for (of, answer) in asking {
        let answer = match answer {
            PendingAnswer::Ready(answer) => PendingAnswer::Ready(found.take(answer)),
            waiting => waiting,
        };
        if found.bytes > max_bytes {
            return None;
        }
        asked.push((of, answer));
    }
    let asked = match all_ready(asked) {
        Ok(answers) => return Some(Reply::encode::<R>(&header, &make(answers))),
        Err(asked) => asked,
    };
    let broker = Arc::clone(broker);
    Some(Reply::later(async move {
        let deadline = Instant::now() + broker.groups.commit_timeout();
        let mut answers = Vec::with_capacity(asked.len());
        for (of, asked) in asked {
            let answer = match asked {
                PendingAnswer::Ready(answer) => answer,
                waiting => found.take(waiting.answer_by(deadline).await),
            };
            answers.push((of, answer));
        }
        let is_small = found.bytes <= INLINE_BYTES_MAX;
        let respond = move || Response::encode_or_close::<R>(&header, &make(answers));
        if is_small { respond() } else { broker.heavy_work.make(respond).await }
    }))
}

/// What a response has so far.
struct Found {
    budget: ResponseBudget,
    bytes: usize,
}

impl Found {
    fn take(&mut self, answer: GroupAnswer) -> GroupAnswer {
        let bytes = group_answer_bytes(&answer);
        self.bytes += bytes;
        if self.budget.take(bytes) { answer } else { GroupAnswer::Failed(ErrorCode::InvalidRequest) }
    }
}

/// The error of an answer that carries nothing else.
pub fn failure(answer: &GroupAnswer) -> ErrorCode {
    match answer {
        GroupAnswer::Failed(error) => *error,
        _ => ErrorCode::UnknownServerError,
    }
}

/// The topic that a request names, with its id and its name as far as the image knows them; none for an id that it does
/// not know.
pub fn topic(image: &Image, topic: &TopicRef) -> Option<GroupTopic> {
    match topic {
        TopicRef::Name(name) => {
            let id = image.topic(name).map_or(TopicId::ZERO, |topic| topic.id);
            Some(GroupTopic { name: name.clone(), id })
        }
        TopicRef::Id(id) => {
            let found = image.topic_by_id(*id)?;
            Some(GroupTopic { name: found.name.as_str().to_owned(), id: *id })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_image::image;

    #[test]
    fn topics_are_found_by_either_name() {
        let image = image();
        let known = image.topics().next().expect("a topic");
        let expected = GroupTopic { name: known.name.as_str().to_owned(), id: known.id };
        assert_eq!(topic(&image, &TopicRef::Name(expected.name.clone())), Some(expected.clone()));
        assert_eq!(topic(&image, &TopicRef::Id(known.id)), Some(expected));
        assert_eq!(topic(&image, &TopicRef::Id(TopicId([9; 16]))), None);
        let unknown = topic(&image, &TopicRef::Name("nope".to_owned())).expect("a name is a name");
        assert!(unknown.id.is_zero());
    }
}
