//! `ottla.cluster.v1`: the requests of brokers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use ottla_metadata::controller::{Beat, StreamId};
use ottla_model::Revision;
use ottla_quorum_node::Event;
use ottla_rpc::cluster::cluster_server::Cluster;
use ottla_rpc::cluster::{
    DecideRequest, DecideResponse, DescribeQuorumRequest, DescribeQuorumResponse, HeartbeatRequest, HeartbeatResponse,
    WatchEvent, WatchRequest,
};
use ottla_rpc::{NotLeader, convert};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::requests::{said_by_driver, stopping};
use super::{caller, watching};
use crate::driver::{DriverHandle, Input};
use crate::shared::Shared;

/// Heartbeat answers that a broker has not read.
const BEAT_RESPONSES_MAX: usize = 4;
/// The first heartbeat comes with the stream.
const FIRST_BEAT_TIMEOUT: Duration = Duration::from_secs(1);

pub struct ClusterService {
    shared: Arc<Shared>,
}

impl ClusterService {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for ClusterService {
    type HeartbeatStream = ResponseStream<HeartbeatResponse>;
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;

    async fn decide(&self, request: Request<DecideRequest>) -> Result<Response<DecideResponse>, Status> {
        let caller = caller(&request)?;
        let mut message = request.into_inner();
        let connect = std::mem::take(&mut message.coordinator_connect);
        let request = convert::request_from_proto(message)?;
        caller.check_request(&request)?;
        self.shared.heard_of(connect);
        if let Some(broker) = request.registers() {
            self.shared.asked_by(broker);
        }
        let answer = self.shared.decide(request).await?;
        Ok(Response::new(convert::answer_to_proto(answer)))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let caller = caller(&request)?;
        let driver = self.shared.require_formed()?.driver.clone();
        let mut beats = request.into_inner();
        let first = tokio::time::timeout(FIRST_BEAT_TIMEOUT, beats.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first heartbeat"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("a heartbeat stream without heartbeat"))?;
        let beat = convert::first_beat_from_proto(&first)?;
        caller.check_broker(beat.broker)?;
        self.shared.asked_by(beat.broker);
        self.shared.require_leader()?;
        let stream = driver.next_stream();
        let (responses, receiver) = mpsc::channel(BEAT_RESPONSES_MAX);
        driver.send(Input::OpenStream { stream, beat, responses }).await.map_err(|_| stopping())?;
        tokio::spawn(async move {
            forward_beats(&driver, stream, beat, &mut beats).await;
            let _ = driver.send(Event::StreamClosed { stream }).await;
        });
        let responses = ReceiverStream::new(receiver).map(|answer| match answer {
            Ok(answer) => Ok(convert::beat_answer_to_proto(&answer)),
            Err(not_leader) => Err(NotLeader::into_status(not_leader)),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn describe_quorum(
        &self,
        _: Request<DescribeQuorumRequest>,
    ) -> Result<Response<DescribeQuorumResponse>, Status> {
        let progress = said_by_driver(self.shared.require_leader()?.driver.progress()).await?;
        let progress = progress.ok_or_else(|| self.shared.not_leader().into_status())?;
        Ok(Response::new(convert::progress_to_proto(progress)))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let driver = &self.shared.require_formed()?.driver;
        let permit = self.shared.watch_permit(&caller(&request)?)?;
        let watching = driver.watch(Revision(request.into_inner().from_revision)).await.map_err(|_| stopping())?;
        Ok(Response::new(watching::serve(watching, permit)))
    }
}

/// Runs until the stream or the driver ends, or a heartbeat names another broker than the first one did.
async fn forward_beats(driver: &DriverHandle, stream: StreamId, first: Beat, beats: &mut Streaming<HeartbeatRequest>) {
    let mut last = first;
    while let Ok(Some(beat)) = beats.message().await {
        let Ok(beat) = convert::beat_from_proto(&beat) else { return };
        if (beat.broker, beat.incarnation) != (first.broker, first.incarnation) {
            return;
        }
        let has_news = std::mem::replace(&mut last, beat) != beat;
        let event = Event::StreamBeat { stream, beat };
        // Else it only says that the broker is there, which is asked with the next tick.
        let sent = if has_news { driver.send(event).await } else { driver.send_quietly(event).await };
        if sent.is_err() {
            return;
        }
    }
}
