//! A running broker, the requests to it, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ottla_model::{BrokerId, IncarnationKey, Offset, PartitionId, TopicId, TopicIdPartition};
use ottla_network::Service;
use ottla_network::response::{Part, Reply, Response};
use ottla_protocol::RequestHeader;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchRequest, FetchResponse};
use ottla_protocol::messages::produce::{self, PartitionProduceResponse, ProduceCall};
use ottla_replica_manager::manager::OpenedLogs;
use ottla_replica_manager::partition::Partition;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::super::transactions::Verifier;
use super::quorum::Quorum;
use super::{CLIENT, FETCH_VERSION, INTERNAL, PATIENCE, eventually};
use crate::broker::Broker;
use crate::handlers;
use crate::request::RequestContext;
use crate::request::test_context::context;

pub struct TestBroker {
    pub id: i32,
    pub broker: Arc<Broker>,
    pub verifier: Arc<Verifier>,
    pub opened: OpenedLogs,
    pub(super) runtime: Option<Runtime>,
    pub(super) quorum: Arc<Quorum>,
    pub(super) _stop: watch::Sender<bool>,
}

impl TestBroker {
    fn leave(&mut self) {
        self.quorum.tree.lock().members.remove(&BrokerId(self.id));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// What its followers' fetches show.
    pub fn incarnation_key(&self) -> IncarnationKey {
        self.broker.identity.key().clone()
    }

    /// Ends at once: nothing is flushed, closed or said. The tree still has it.
    pub fn kill(mut self) {
        self.broker.replicas.begin_shutdown();
        self.leave();
        self.wait_until_gone();
    }

    /// Anything that is left of this run would keep a directory's lock.
    fn wait_until_gone(self) {
        let replicas = Arc::downgrade(&self.broker.replicas);
        let directories: Vec<_> = self.broker.replicas.log_dirs().all().iter().map(Arc::downgrade).collect();
        drop(self);
        eventually("everything of the last run is gone", || {
            replicas.strong_count() == 0 && directories.iter().all(|directory| directory.strong_count() == 0)
        });
    }

    /// Ends as after SIGTERM.
    pub fn shut_down(mut self) {
        self.broker.replicas.shutdown_clean(self.broker.identity.epoch()).expect("the logs close");
        self.leave();
        self.wait_until_gone();
    }

    pub fn partition(&self, topic: TopicId, partition: i32) -> Arc<Partition> {
        let id = TopicIdPartition { topic_id: topic, partition: PartitionId(partition) };
        self.broker.replicas.partition(id).expect("the partition is hosted")
    }

    pub fn log_end(&self, topic: TopicId, partition: i32) -> Offset {
        self.partition(topic, partition).with_log(|log| log.log_end_offset()).expect("the log is open")
    }

    /// The bytes of a whole log.
    pub fn log_bytes(&self, topic: TopicId, partition: i32) -> Bytes {
        self.partition(topic, partition)
            .with_log(|log| {
                let end = log.log_end_offset();
                log.read(log.log_start_offset(), usize::MAX, end, true).expect("readable").read().expect("cached")
            })
            .expect("the log is open")
    }

    pub fn context(&self, listener: &str) -> RequestContext {
        RequestContext { is_inter_broker_listener: listener == INTERNAL, ..context(listener) }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("running")
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    /// Hands a request to its handler: the answer may still be to come.
    pub fn ask(&self, listener: &str, handle: Handler, version: i16, frame: &[u8]) -> Asked<'_> {
        let _inside = self.runtime().enter();
        let (header, start) = ottla_protocol::parse_header(&frame[4..]).expect("a valid header");
        assert_eq!(header.api_version, version);
        let body = BytesMut::from(&frame[4 + start..]);
        self.asked(handle(&self.broker, &self.context(listener), header, body))
    }

    /// Hands a whole frame to the handler of its API.
    pub fn dispatch(&self, listener: &str, frame: &[u8]) -> Asked<'_> {
        let _inside = self.runtime().enter();
        self.asked(Service::handle(&self.broker, &self.context(listener), BytesMut::from(&frame[4..])))
    }

    /// An answer that is held back until it is the request's turn is waited for.
    fn asked(&self, mut answer: Reply) -> Asked<'_> {
        let was_held = matches!(answer, Reply::Held(_));
        while let Reply::Held(future) = answer {
            answer = self.runtime().block_on(async { tokio::time::timeout(PATIENCE, future).await }).expect("in time");
        }
        Asked { broker: self, answer, was_held }
    }

    pub fn produce(
        &self,
        topic: TopicRef,
        partition: i32,
        batch: &[u8],
        acks: i16,
        timeout_ms: i32,
    ) -> PartitionProduceResponse {
        self.begin_produce(topic, partition, batch, acks, timeout_ms).produced()
    }

    pub fn begin_produce(
        &self,
        topic: TopicRef,
        partition: i32,
        batch: &[u8],
        acks: i16,
        timeout_ms: i32,
    ) -> Asked<'_> {
        let version = if matches!(topic, TopicRef::Id(_)) { 13 } else { 12 };
        self.begin_produce_in(version, None, topic, partition, batch, acks, timeout_ms)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a request")]
    pub fn begin_produce_in(
        &self,
        version: i16,
        transactional_id: Option<&str>,
        topic: TopicRef,
        partition: i32,
        batch: &[u8],
        acks: i16,
        timeout_ms: i32,
    ) -> Asked<'_> {
        let call = ProduceCall {
            transactional_id: transactional_id.map(str::to_owned),
            acks,
            timeout_ms,
            topics: vec![(topic, vec![(PartitionId(partition), Bytes::copy_from_slice(batch))])],
        };
        let frame = produce::encode_request(version, 7, None, &call).expect("a small frame");
        self.ask(CLIENT, handlers::produce::handle, version, &frame)
    }

    pub fn begin_fetch(&self, listener: &str, request: &FetchRequest) -> Asked<'_> {
        let frame = fetch::encode_request(FETCH_VERSION, 7, None, request).expect("a small frame");
        self.ask(listener, handlers::fetch::handle, FETCH_VERSION, &frame)
    }

    pub fn fetch(&self, request: &FetchRequest) -> FetchResponse<Bytes> {
        self.begin_fetch(CLIENT, request).fetched()
    }

    /// The response to a fetch of a version that names topics, which old clients send.
    pub fn fetch_at_version(&self, version: i16, request: &FetchRequest) -> FetchResponse<Bytes> {
        let frame = fetch::encode_request(version, 7, None, request).expect("a small frame");
        let response = self.ask(CLIENT, handlers::fetch::handle, version, &frame).frame();
        fetch::decode_response(version, &response).expect("a fetch response").1
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.leave();
    }
}

type Handler = fn(&Arc<Broker>, &RequestContext, RequestHeader, BytesMut) -> Reply;

/// A request that was handled, with its answer or the wait for it.
pub struct Asked<'b> {
    broker: &'b TestBroker,
    answer: Reply,
    was_held: bool,
}

impl Asked<'_> {
    pub fn is_ready(&mut self) -> bool {
        if let Reply::Later(future) = &mut self.answer {
            let polled = self.broker.runtime().block_on(futures::future::poll_immediate(future));
            if let Some(response) = polled {
                self.answer = Reply::Ready(response);
            }
        }
        matches!(self.answer, Reply::Ready(_))
    }

    fn response(self) -> Response {
        match self.answer {
            Reply::Ready(response) => response,
            Reply::Later(future) => self
                .broker
                .runtime()
                .block_on(async { tokio::time::timeout(PATIENCE, future).await })
                .expect("an answer in time"),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The frame without its length.
    pub fn frame(self) -> Bytes {
        let mut frame = BytesMut::new();
        for part in self.response().parts {
            match part {
                Part::Bytes(bytes) => frame.extend_from_slice(&bytes),
                Part::Records(slice) => frame.extend_from_slice(&slice.read().expect("readable")),
            }
        }
        frame.freeze().slice(4..)
    }

    /// The bytes that the answer puts on the wire: none if the connection is closed or nothing is answered.
    pub fn wire_bytes(self) -> usize {
        match self.answer {
            Reply::Close(_) | Reply::None => 0,
            _ => self.response().size_bytes(),
        }
    }

    /// Whether the response was there when the handler returned.
    pub fn is_immediate(&self) -> bool {
        !self.was_held && matches!(self.answer, Reply::Ready(_))
    }

    pub fn closes(&self) -> bool {
        matches!(self.answer, Reply::Close(_))
    }

    pub fn has_no_answer(&self) -> bool {
        matches!(self.answer, Reply::None)
    }

    pub fn produced(self) -> PartitionProduceResponse {
        // Both versions that are used have the same form but for how the topic is named, which is not looked at.
        let frame = self.frame();
        let (_, response) = produce::decode_response(13, &frame)
            .or_else(|_| produce::decode_response(12, &frame))
            .expect("a produce response");
        response.topics[0].partitions[0].clone()
    }

    pub fn fetched(self) -> FetchResponse<Bytes> {
        fetch::decode_response(FETCH_VERSION, &self.frame()).expect("a fetch response").1
    }
}
