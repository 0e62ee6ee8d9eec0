//! `ottla.quorum.v1`: the requests of the other members.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use ottla_consensus::Incoming;
use ottla_model::{BrokerId, CoordinatorId, IncarnationId};
use ottla_quorum_node::identity::{Addresses, names};
use ottla_quorum_node::{Admission, AdmissionStep, BrokenRules, Event, StreamRefused};
use ottla_rpc::quorum::quorum_server::Quorum;
use ottla_rpc::quorum::{IdentifyRequest, IdentifyResponse, RaftClosed, RaftFrame, Recognition};
use tonic::{Request, Response, Status, Streaming};

use super::caller;
use super::requests::stopping;
use crate::identify;
use crate::shared::{Formed, Shared};

/// The largest Raft message: a snapshot of more than a million partitions. One stream of each other member may hold as
/// much.
const ASSEMBLED_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The first frame comes with the first message, at the latest with a heartbeat or a vote; a client that sends none is
/// not a member.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(30);

pub struct QuorumService {
    shared: Arc<Shared>,
    /// Peers talk over this port.
    takes_raft: bool,
}

impl QuorumService {
    pub fn new(shared: Arc<Shared>, takes_raft: bool) -> Self {
        Self { shared, takes_raft }
    }

    /// The asking coordinator detects the conflict itself, and stops; this log line tells the operator of this one why.
    fn tell_of_conflict(
        &self,
        asker: CoordinatorId,
        listed: &Addresses,
        is_first_start: bool,
        answer: &IdentifyResponse,
    ) {
        if asker == self.shared.id {
            return;
        }
        if answer.asker() == Recognition::OtherDisk {
            tracing::warn!("refused: coordinator {asker} comes with another disk than it voted with before");
        }
        if answer.asker() == Recognition::Removed {
            tracing::warn!("refused: coordinator {asker} was removed from the quorum");
        }
        if self.shared.formed().is_none()
            && let Some(problem) = other_list(asker, is_first_start, &self.shared.voters(), listed)
        {
            tracing::warn!("{problem}");
        }
    }

    /// Checks who has opened a stream ([`ottla_quorum_node::stream_admission`]).
    async fn admit(&self, formed: &Formed, frame: &mut RaftFrame) -> Result<(CoordinatorId, IncarnationId), Status> {
        let id = CoordinatorId(frame.from);
        let disk = IncarnationId::from_slice(&frame.disk_id).unwrap_or_default();
        let token = std::mem::take(&mut frame.token);
        let members = formed.members();
        let (mut admission, mut step) = Admission::begin(&members, self.shared.id, (id, disk), BrokenRules::default());
        loop {
            step = match step {
                AdmissionStep::AskMembers(addresses) => {
                    let channels = addresses.iter().filter_map(|address| self.shared.channel(address).ok());
                    let answers = join_all(channels.map(|channel| identify::identify(&self.shared, channel))).await;
                    admission.members_answered(&members, answers.into_iter().flatten())
                }
                AdmissionStep::Confirm(address) => {
                    let answer = identify::ask_of_stream(&self.shared, &address, token.clone()).await.ok();
                    admission.confirmed(answer.as_ref().map(|(found, is_confirmed)| (found, *is_confirmed)))
                }
                AdmissionStep::Admitted => break,
                AdmissionStep::Refused(refused) => {
                    tracing::warn!("refused: {refused}");
                    return Err(match refused {
                        StreamRefused::Silent { .. } => Status::unavailable(refused.to_string()),
                        _ => Status::permission_denied(refused.to_string()),
                    });
                }
            };
        }
        if let Some(vouched) = admission.vouched() {
            formed.driver.send(vouched).await.map_err(|_| stopping())?;
        }
        Ok((id, disk))
    }
}

/// What to say, before this coordinator has a quorum, of another one's list of servers. Members of a quorum that runs
/// ask too, with the members that it has: a coordinator that is to be added lists itself beside them.
fn other_list(asker: CoordinatorId, is_first_start: bool, ours: &Addresses, theirs: &Addresses) -> Option<String> {
    let is_other = is_first_start && !ours.is_empty() && !theirs.is_empty() && !ours.keys().eq(theirs.keys());
    is_other.then(|| {
        let (ours, theirs) = (names(ours), names(theirs));
        format!(
            "coordinator {asker} has no quorum yet either, and the list of servers {theirs}; this one has {ours}: \
                 a first quorum needs one list"
        )
    })
}

/// Puts messages together from frames.
#[derive(Default)]
struct Assembly {
    parts: BytesMut,
}

impl Assembly {
    fn push(&mut self, frame: RaftFrame) -> Result<Option<Bytes>, Status> {
        if frame.last && self.parts.is_empty() {
            return Ok(Some(frame.payload));
        }
        if self.parts.len() + frame.payload.len() > ASSEMBLED_BYTES_MAX {
            return Err(Status::resource_exhausted("a raft message is too long"));
        }
        self.parts.extend_from_slice(&frame.payload);
        Ok(frame.last.then(|| std::mem::take(&mut self.parts).freeze()))
    }
}

#[tonic::async_trait]
impl Quorum for QuorumService {
    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyResponse>, Status> {
        if self.shared.is_opening() {
            return Err(Status::unavailable("it reads its data directory"));
        }
        let caller = caller(&request)?;
        let asker = request.into_inner();
        let id = CoordinatorId(asker.coordinator_id);
        caller.check_coordinator(id)?;
        let is_first_start = asker.empty;
        let listed: Addresses =
            asker.voters.into_iter().map(|voter| (CoordinatorId(voter.coordinator_id), voter.address)).collect();
        let answer = self.shared.identify(id, &asker.disk_id, &asker.stream_token);
        self.tell_of_conflict(id, &listed, is_first_start, &answer);
        self.shared.heard_of(listed.into_values().collect());
        Ok(Response::new(answer))
    }

    async fn raft(&self, request: Request<Streaming<RaftFrame>>) -> Result<Response<RaftClosed>, Status> {
        if !self.takes_raft {
            return Err(Status::permission_denied("members must use the peer port"));
        }
        let Some(formed) = self.shared.formed() else {
            return Err(Status::unavailable("the first start is not finished"));
        };
        let caller = caller(&request)?;
        let mut frames = request.into_inner();
        let mut assembly = Assembly::default();
        let first = tokio::time::timeout(FIRST_FRAME_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first frame"))??;
        let Some(mut frame) = first else { return Ok(Response::new(RaftClosed {})) };
        caller.check_coordinator(CoordinatorId(frame.from))?;
        let (sender, disk) = self.admit(formed, &mut frame).await?;
        let ended = self.shared.begin_stream(sender);
        let mut members = formed.members.clone();
        loop {
            if frame.from != sender.0 {
                return Err(Status::invalid_argument("one stream has one sender"));
            }
            let brokers: Vec<_> = frame.asking_brokers.drain(..).map(BrokerId).collect();
            if !brokers.is_empty() {
                let event = Event::PeerWasAsked { sender, disk, brokers };
                formed.driver.send(event).await.map_err(|_| stopping())?;
            }
            if let Some(message) = assembly.push(frame)? {
                let may_wait = formed.driver.answers_may_wait()
                    && Incoming::parse(&message).is_ok_and(|it| it.is_plain_heartbeat_answer());
                let event = Event::Raft { sender, disk, message };
                match may_wait {
                    true => formed.driver.send_quietly(event).await,
                    false => formed.driver.send(event).await,
                }
                .map_err(|_| stopping())?;
            }
            let next = tokio::select! {
                // Then it asks who it is, and is told.
                _ = members.wait_for(|members| members.was_removed(sender, disk)) => {
                    return Err(Status::permission_denied("removed from the quorum"));
                }
                () = ended.cancelled() => return Err(Status::aborted("another stream of this sender has begun")),
                next = frames.message() => next?,
            };
            match next {
                Some(next) => frame = next,
                None => return Ok(Response::new(RaftClosed {})),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A coordinator that was to be added complained of the members' list.
    #[test]
    fn only_the_lists_of_first_starts_must_be_the_same() {
        let list =
            |ids: &[u64]| ids.iter().map(|id| (CoordinatorId(*id), format!("c{id}:2181"))).collect::<Addresses>();
        let (none, members, joining) = (list(&[]), list(&[1, 2, 3]), list(&[1, 2, 3, 4]));
        let of = |is_first_start, ours, theirs| other_list(CoordinatorId(1), is_first_start, ours, theirs);
        assert_eq!(of(false, &joining, &members), None);
        assert_eq!(of(true, &members, &members), None);
        assert_eq!(of(true, &members, &none), None);
        let problem = of(true, &joining, &members).expect("no quorum forms by two lists");
        assert!(problem.contains("1@c1:2181,2@c2:2181,3@c3:2181; this one has 1@c1:2181"), "{problem}");
    }

    #[test]
    fn frames_become_messages() {
        let frame = |payload: &'static [u8], last| RaftFrame {
            payload: Bytes::from_static(payload),
            last,
            ..RaftFrame::default()
        };
        let mut assembly = Assembly::default();
        assert_eq!(assembly.push(frame(b"one", true)).expect("fits"), Some(Bytes::from_static(b"one")));
        assert_eq!(assembly.push(frame(b"t", false)).expect("fits"), None);
        assert_eq!(assembly.push(frame(b"w", false)).expect("fits"), None);
        assert_eq!(assembly.push(frame(b"o", true)).expect("fits"), Some(Bytes::from_static(b"two")));
        assert_eq!(assembly.push(frame(b"three", true)).expect("fits"), Some(Bytes::from_static(b"three")));
    }
}
