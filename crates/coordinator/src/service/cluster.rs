//! `ottla.cluster.v1`: what brokers ask.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use ottla_metadata::controller::{Answer, Beat, Request as Decision};
use ottla_model::Revision;
use ottla_quorum_node::Event;
use ottla_rpc::cluster::cluster_server::Cluster;
use ottla_rpc::cluster::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterConfigsRequest, AlterConfigsResponse,
    AlterPartitionsRequest, AlterPartitionsResponse, ControlledShutdownRequest, ControlledShutdownResponse,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse,
    ResignLeadershipRequest, ResignLeadershipResponse, WatchEvent, WatchRequest,
};
use ottla_rpc::{NotLeader, convert};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::requests::{mismatch, stopping};
use super::watching;
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

/// Asks the controller, and takes the answer of the same kind.
macro_rules! decide {
    ($service:expr, $kind:ident, $request:expr) => {
        match $service.shared.decide(Decision::$kind($request)).await? {
            Answer::$kind(answer) => answer,
            _ => return Err(mismatch()),
        }
    };
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type HeartbeatStream = ResponseStream<HeartbeatResponse>;
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let mut request = request.into_inner();
        self.shared.heard_of(std::mem::take(&mut request.coordinator_connect));
        let request = convert::register_from_proto(request)?;
        let answer = decide!(self, Register, request);
        Ok(Response::new(convert::registered_to_proto(answer)))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let driver = self.shared.require_leader()?.driver.clone();
        let mut beats = request.into_inner();
        let first = tokio::time::timeout(FIRST_BEAT_TIMEOUT, beats.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first heartbeat"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("a heartbeat stream without heartbeat"))?;
        let beat = convert::beat_from_proto(&first)?;
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

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let driver = &self.shared.require_formed()?.driver;
        let permit = self.shared.watch_permit()?;
        let watching = driver.watch(Revision(request.into_inner().from_revision)).await.map_err(|_| stopping())?;
        Ok(Response::new(watching::serve(watching, permit)))
    }

    async fn alter_partitions(
        &self,
        request: Request<AlterPartitionsRequest>,
    ) -> Result<Response<AlterPartitionsResponse>, Status> {
        let request = convert::alter_partitions_from_proto(request.into_inner())?;
        Ok(Response::new(convert::altered_partitions_to_proto(decide!(self, AlterPartitions, request))))
    }

    async fn resign_leadership(
        &self,
        request: Request<ResignLeadershipRequest>,
    ) -> Result<Response<ResignLeadershipResponse>, Status> {
        let request = convert::resign_leadership_from_proto(request.into_inner())?;
        Ok(Response::new(convert::resigned_to_proto(&decide!(self, ResignLeadership, request))))
    }

    async fn controlled_shutdown(
        &self,
        request: Request<ControlledShutdownRequest>,
    ) -> Result<Response<ControlledShutdownResponse>, Status> {
        let request = convert::controlled_shutdown_from_proto(&request.into_inner())?;
        Ok(Response::new(convert::shutdown_progress_to_proto(&decide!(self, ControlledShutdown, request))))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<AllocateProducerIdsRequest>,
    ) -> Result<Response<AllocateProducerIdsResponse>, Status> {
        let request = convert::allocate_producer_ids_from_proto(&request.into_inner());
        Ok(Response::new(convert::allocated_producer_ids_to_proto(&decide!(self, AllocateProducerIds, request))))
    }

    async fn create_topics(
        &self,
        request: Request<CreateTopicsRequest>,
    ) -> Result<Response<CreateTopicsResponse>, Status> {
        let request = convert::create_topics_from_proto(request.into_inner());
        Ok(Response::new(convert::topics_created_to_proto(decide!(self, CreateTopics, request))))
    }

    async fn delete_topics(
        &self,
        request: Request<DeleteTopicsRequest>,
    ) -> Result<Response<DeleteTopicsResponse>, Status> {
        let request = convert::delete_topics_from_proto(request.into_inner())?;
        Ok(Response::new(convert::topics_deleted_to_proto(decide!(self, DeleteTopics, request))))
    }

    async fn create_partitions(
        &self,
        request: Request<CreatePartitionsRequest>,
    ) -> Result<Response<CreatePartitionsResponse>, Status> {
        let request = convert::create_partitions_from_proto(request.into_inner());
        Ok(Response::new(convert::partitions_outcomes_to_proto(decide!(self, CreatePartitions, request))))
    }

    async fn alter_configs(
        &self,
        request: Request<AlterConfigsRequest>,
    ) -> Result<Response<AlterConfigsResponse>, Status> {
        let request = convert::alter_configs_from_proto(request.into_inner())?;
        Ok(Response::new(convert::config_outcomes_to_proto(decide!(self, AlterConfigs, request))))
    }
}

/// Until the stream ends, the driver does, or a beat speaks for another broker than the first one did.
async fn forward_beats(
    driver: &DriverHandle,
    stream: ottla_metadata::controller::StreamId,
    first: Beat,
    beats: &mut Streaming<HeartbeatRequest>,
) {
    while let Ok(Some(beat)) = beats.message().await {
        let Ok(beat) = convert::beat_from_proto(&beat) else { return };
        if (beat.broker, beat.incarnation) != (first.broker, first.incarnation) {
            return;
        }
        if driver.send(Event::StreamBeat { stream, beat }).await.is_err() {
            return;
        }
    }
}
