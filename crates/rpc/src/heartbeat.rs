//! The heartbeat stream of one broker, with the coordinator that led when the stream was opened. That coordinator ends
//! it when it no longer leads.

use std::time::Duration;

use ottla_metadata::controller::{Beat, BeatAnswer};
use ottla_model::IncarnationKey;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::cluster::{HeartbeatRequest, HeartbeatResponse};
use crate::cluster_client::generated;
use crate::cluster_metadata::ClusterChannel;
use crate::convert;
use crate::coordinators::{CallError, Coordinators, Repeat, Target, describe};
use crate::leader_hint::NotLeader;

const OPERATION: &str = "heartbeat";
/// Beats that wait for the transport. A beat that finds no room is dropped: the next one replaces it.
const QUEUED_BEATS_MAX: usize = 4;

/// Both directions of a session with the quorum leader. Dropping it ends the stream, which the leader notices at once.
#[derive(Debug)]
pub struct HeartbeatStream {
    sender: mpsc::Sender<HeartbeatRequest>,
    responses: Streaming<HeartbeatResponse>,
    coordinators: Coordinators,
    target: Target,
}

pub(crate) async fn open(
    coordinators: &Coordinators,
    first: Beat,
    key: Option<&IncarnationKey>,
    timeout: Duration,
) -> Result<HeartbeatStream, CallError> {
    let attempt = |channel: ClusterChannel| {
        let (sender, receiver) = mpsc::channel(QUEUED_BEATS_MAX);
        let first = convert::first_beat_to_proto(&first, key);
        async move {
            // The channel is new and empty: this cannot fail or wait.
            let _ = sender.send(first).await;
            let response = generated(channel).heartbeat(ReceiverStream::new(receiver)).await?;
            Ok(response.map(|responses| (sender, responses)))
        }
    };
    let ((sender, responses), target) = coordinators.call(OPERATION, timeout, Repeat::Freely, attempt).await?;
    Ok(HeartbeatStream { sender, responses, coordinators: coordinators.clone(), target })
}

impl HeartbeatStream {
    /// The address of the coordinator at the other end.
    pub fn coordinator(&self) -> &str {
        &self.target.address
    }

    /// Ends the stream. Its coordinator answers nothing: the next call asks another one first.
    pub fn give_up(self) {
        self.coordinators.move_on(&self.target);
    }

    /// Queues a beat. False if the stream has ended, or if the transport has not taken the last few beats: then
    /// [`HeartbeatStream::next`] returns the reason, or the caller opens another stream.
    pub fn beat(&self, beat: &Beat) -> bool {
        self.sender.try_send(convert::beat_to_proto(beat)).is_ok()
    }

    /// The next answer. An error ends the stream; where the coordinator named another leader, the next call goes there.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<BeatAnswer, CallError> {
        let reason = match self.responses.message().await {
            Ok(Some(response)) => return Ok(convert::beat_answer_from_proto(&response)),
            Ok(None) => "closed".to_owned(),
            Err(status) => {
                if let Some(said) = NotLeader::from_status(&status) {
                    self.coordinators.note(&self.target, &said);
                }
                describe(&status)
            }
        };
        Err(CallError::StreamEnded { operation: OPERATION, address: self.target.address.clone(), reason })
    }
}
