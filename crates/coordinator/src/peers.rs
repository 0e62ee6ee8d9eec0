//! The connections to the other members: one stream of frames each, dialled again when it breaks.
//!
//! Raft tolerates lost, late and repeated messages, so nothing waits here: a full queue drops messages, a broken stream
//! is reported, and its queued messages are dropped. Before each stream the peer's identity is checked, so that a wrong
//! address or a lost disk is detected.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_metrics::Reminder;
use ottla_quorum_node::Event;
use ottla_quorum_node::identity::Conflict;
use ottla_quorum_node::peer_link::{StreamEnd, after_end};
use ottla_rpc::channel::is_refused_handshake;
use ottla_rpc::coordinators::describe;
use ottla_rpc::quorum::RaftFrame;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::driver::{DriverHandle, Peer, PeerMessage};
use crate::error::CoordinatorError;
use crate::identify;
use crate::shared::Shared;

/// Larger messages are cut into frames of this size, so that a snapshot does not hold up a heartbeat's connection for
/// long.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Frames between the queue and the transport: few, so that the queue is where messages wait.
const FRAMES_IN_TRANSIT_MAX: usize = 8;
/// Between two lines about a peer that cannot be reached for the same reason.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// Why a stream ended.
enum End {
    /// The driver has stopped.
    Stopped,
    Broken(Status),
    Conflict(Conflict),
}

/// Runs until the driver drops the queue. An error that makes this coordinator unfit for its quorum goes to `fatal`.
pub async fn run(
    mut peer: Peer,
    shared: Arc<Shared>,
    driver: DriverHandle,
    fatal: mpsc::Sender<CoordinatorError>,
) -> Result<(), CoordinatorError> {
    let channel = shared.channel(&peer.address)?;
    let mut unreachable = Reminder::new(REMIND_INTERVAL);
    let mut was_connected = false;
    loop {
        let end = connect(&mut peer, &shared, &driver, &channel, &mut was_connected).await;
        let was_open = std::mem::take(&mut was_connected);
        let (redial, said) = match &end {
            End::Stopped => return Ok(()),
            End::Broken(status) => (after_end(peer.id, end_of(status), was_open), describe(status)),
            End::Conflict(conflict) => {
                (after_end(peer.id, StreamEnd::Conflict(conflict), was_open), conflict.to_string())
            }
        };
        for event in redial.events {
            if driver.send(event).await.is_err() {
                return Ok(());
            }
        }
        let Some(pause) = redial.pause else {
            if let End::Conflict(conflict) = end {
                let _ = fatal.send(conflict.into()).await;
            }
            return Ok(());
        };
        if was_open {
            unreachable.reset();
        }
        unreachable.run(&said, |more| {
            tracing::info!(more, "cannot reach coordinator {} at {}: {said}", peer.id, peer.address);
        });
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        // One that was removed is seldom there to be connected to, which would show it.
        if !forget_queued(&mut peer, &driver).await {
            return Ok(());
        }
    }
}

/// The waiting messages were for a stream that has ended; Raft knows of the loss, and sends current messages. False:
/// the driver has dropped the queue.
async fn forget_queued(peer: &mut Peer, driver: &DriverHandle) -> bool {
    loop {
        match peer.queue.try_recv() {
            Ok(message) if is_snapshot(&message) => {
                let _ = driver.send(Event::SnapshotSent { to: peer.id, sent: false }).await;
            }
            Ok(_) => {}
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

async fn connect(
    peer: &mut Peer,
    shared: &Arc<Shared>,
    driver: &DriverHandle,
    channel: &Channel,
    was_connected: &mut bool,
) -> End {
    let found = match identify::identify(shared, channel.clone()).await {
        Ok(found) => found,
        Err(status) => return End::Broken(status),
    };
    if let Err(conflict) = shared.check_identity(&peer.address, peer.id, &found) {
        return End::Conflict(conflict);
    }
    if found.is_empty {
        return End::Broken(Status::unavailable("it has not finished its first start"));
    }
    if driver.send(Event::PeerIdentified { id: peer.id, disk: found.disk, levels: found.levels }).await.is_err() {
        return End::Stopped;
    }
    let token = shared.open_stream(peer.id);
    let (frames, receiver) = mpsc::channel(FRAMES_IN_TRANSIT_MAX);
    let mut client = identify::client(shared, channel.clone());
    let stream = client.raft(ReceiverStream::new(receiver));
    tokio::pin!(stream);
    *was_connected = true;
    tracing::debug!("connected to coordinator {}", peer.id);
    loop {
        tokio::select! {
            ended = &mut stream => return End::Broken(match ended {
                Ok(_) => closed(),
                Err(status) => status,
            }),
            message = peer.queue.recv() => {
                let Some(message) = message else { return End::Stopped };
                let (to, is_snapshot) = (peer.id, is_snapshot(&message));
                let sending = send(shared, &frames, &token, message);
                let sent = tokio::select! {
                    sent = sending => sent,
                    ended = &mut stream => Err(ended.err().unwrap_or_else(|| Status::unavailable("closed"))),
                };
                if is_snapshot && driver.send(Event::SnapshotSent { to, sent: sent.is_ok() }).await.is_err() {
                    return End::Stopped;
                }
                if let Err(status) = sent {
                    return End::Broken(status);
                }
            }
        }
    }
}

fn is_snapshot(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(message) if message.is_snapshot())
}

fn closed() -> Status {
    Status::unavailable("the stream was closed")
}

/// Waits for room: messages that cannot be sent now fill the queue, which then drops.
async fn send(
    shared: &Shared,
    frames: &mpsc::Sender<RaftFrame>,
    token: &Bytes,
    message: PeerMessage,
) -> Result<(), Status> {
    let from = shared.id.0;
    let disk_id = Bytes::copy_from_slice(shared.disk.as_bytes());
    let message = match message {
        PeerMessage::Raft(message) => message,
        PeerMessage::BrokersAsked(brokers) => {
            let asking_brokers = brokers.into_iter().map(|broker| broker.0).collect();
            let frame = RaftFrame { from, disk_id, token: token.clone(), asking_brokers, ..RaftFrame::default() };
            return frames.send(frame).await.map_err(|_| closed());
        }
    };
    // The data of a snapshot is shared with the ways to the other peers: frames are parts of it, not copies.
    let (mut part, mut data) = (message.head, message.snapshot_data.unwrap_or_default());
    loop {
        if part.is_empty() {
            part = std::mem::take(&mut data);
        }
        let payload = part.split_to(part.len().min(FRAME_BYTES_MAX));
        let last = part.is_empty() && data.is_empty();
        let (disk_id, token) = (disk_id.clone(), token.clone());
        let frame = RaftFrame { from, disk_id, payload, last, token, asking_brokers: Vec::new() };
        frames.send(frame).await.map_err(|_| closed())?;
        if last {
            return Ok(());
        }
    }
}

fn end_of(status: &Status) -> StreamEnd<'static> {
    match status.code() {
        _ if is_refused_connection(status) => StreamEnd::ConnectionRefused,
        Code::PermissionDenied | Code::Unauthenticated => StreamEnd::Refused,
        _ if is_refused_handshake(status) => StreamEnd::Refused,
        _ => StreamEnd::Broken,
    }
}

/// Whether the connection was refused: the process has ended, and is not merely slow.
fn is_refused_connection(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use ottla_model::{BrokerId, CoordinatorId};

    use super::*;
    use crate::driver::queue::queue;
    use crate::shared::testing;

    /// A member that was removed because its machine is gone was dialled until the process ended.
    #[tokio::test]
    async fn a_peer_that_is_none_any_more_and_does_not_answer_is_not_dialled_for_ever() {
        let (inputs, _taken) = queue(64);
        let (messages, queue) = mpsc::channel(1);
        // Nobody listens at port 0.
        let peer = Peer { id: CoordinatorId(2), address: "127.0.0.1:0".to_owned(), queue };
        assert!(messages.try_send(PeerMessage::BrokersAsked(vec![BrokerId(1)])).is_ok());
        drop(messages);
        let ended = run(peer, testing::formed(1), DriverHandle::new(inputs), mpsc::channel(1).0);
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        ended.expect("it ends").expect("without an error");
    }
}
