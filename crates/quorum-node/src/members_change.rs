//! How the quorum leader changes the members: one member at a time, a learner first, which becomes a voter when it has
//! the log. A change after which the voters that answer were no majority is refused, or waits.
//!
//! The tree remembers how far a change has got: a leader promotes the learners that it finds, whoever asked for them,
//! and a request that is repeated goes on where the change stands.

use std::time::Duration;

use ottla_metadata::controller::{Answer, ChangeQuorum, Now, QuorumChanged, Refusal, Request, SetMember};
use ottla_metadata::image::{CoordinatorNode, Standing};
use ottla_metadata::limits::{self, MAX_ADDRESS_BYTES};
use ottla_model::{CoordinatorId, ErrorCode, IncarnationId, MonotonicMs, Revision};

use crate::event::{CallId, Output, RequestError, Sink, note};
use crate::node::Node;
use crate::store::QuorumStore;

/// Requests that wait for a change. People send them.
const WAITING_MAX: usize = 32;
/// Voters and learners, as many as a change may leave: more only make commits slower.
const MEMBERS_MAX: usize = 16;
/// Coordinators that the tree remembers, those that were removed among them: each costs some hundred bytes.
const REMEMBERED_MAX: usize = 1_024;
/// A member that was silent for longer than this does not count as one that answers: some heartbeats, and more than an
/// election.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How long an heir may take. Raft gives a transfer up after an election timeout, a second at most.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Entries that an heir may lack: as many as there are messages in flight to it. One that lacks more would not take
/// over in time, and until then nothing is decided.
pub(crate) const HEIR_LACKS_MAX: u64 = 256;
const NO_HEIR: &str = "No other voter answers";

/// A request that waits until the tree has its change.
struct Waiting {
    call: CallId,
    coordinator: CoordinatorId,
    /// The disk that is to vote; none: the coordinator is to be gone.
    disk: Option<IncarnationId>,
}

struct Transfer {
    call: CallId,
    to: CoordinatorId,
    /// The caller wants this heir, and no other.
    is_named: bool,
    until: MonotonicMs,
}

/// The changes that a leader has under way.
#[derive(Default)]
pub(crate) struct MemberChanges {
    waiting: Vec<Waiting>,
    transfer: Option<Transfer>,
    /// The change that was proposed: it is proposed again until it is applied.
    proposed: Option<SetMember>,
    /// The commit index that a learner must reach to have the log: that of the last look.
    mark: Option<(CoordinatorId, Revision)>,
}

impl MemberChanges {
    pub fn is_under_way(&self) -> bool {
        self.proposed.is_some() || self.transfer.is_some() || !self.waiting.is_empty()
    }
}

fn refused(error: ErrorCode, message: impl Into<String>) -> Answer {
    Answer::ChangeQuorum(Err(Refusal::new(error, message)))
}

impl<S: QuorumStore> Node<S> {
    pub(crate) fn change_quorum(&mut self, now: Now, call: CallId, change: ChangeQuorum, out: &mut impl Sink) {
        if !self.is_deciding() {
            // A leader that does not decide yet will: the caller tries again.
            let outcome = match self.member.is_leader() {
                true => Ok(Answer::Unavailable),
                false => Err(RequestError::NotLeader { leader: self.other_leader() }),
            };
            out.put(Output::Respond { call, outcome });
            return;
        }
        let answer = match change {
            ChangeQuorum::Add { coordinator, disk, address } => self.add(call, coordinator, disk, address, out),
            ChangeQuorum::Remove { coordinator, disk, force } => self.remove(now, call, coordinator, disk, force, out),
            ChangeQuorum::TransferLeadership { to } => self.transfer(now, call, to),
        };
        if let Some(answer) = answer {
            out.put(Output::Respond { call, outcome: answer });
        }
        self.advance_members(now, out);
    }

    fn done(&self) -> Option<Result<Answer, RequestError>> {
        Some(Ok(Answer::ChangeQuorum(Ok(QuorumChanged { revision: self.tree.revision() }))))
    }

    /// None: the answer comes when the coordinator votes.
    fn add(
        &mut self,
        call: CallId,
        id: CoordinatorId,
        disk: IncarnationId,
        address: String,
        out: &mut impl Sink,
    ) -> Option<Result<Answer, RequestError>> {
        let refuse = |error, message: String| Some(Ok(refused(error, message)));
        if let Err(error) = limits::check_coordinator(id, &address) {
            return refuse(ErrorCode::InvalidRequest, error.to_string());
        }
        match self.members.get(id) {
            Some(member) if member.disk != Some(disk) => {
                let known = member.disk.map_or("another disk".to_owned(), |disk| format!("disk {disk}"));
                let text = format!(
                    "Coordinator {id} is a member already, with {known}: remove it before one with disk {disk} is added"
                );
                return refuse(ErrorCode::DuplicateVoter, text);
            }
            Some(member) if member.is_voter => return self.done(),
            // A learner: it becomes a voter.
            Some(_) => {}
            None if self.members.was_removed(id, disk) => {
                let text = format!("Disk {disk} was removed from the quorum: coordinator {id} needs an empty one");
                return refuse(ErrorCode::InvalidVoterKey, text);
            }
            None => {
                let under_way = self.members.by_id.iter().find(|(_, member)| !member.is_voter).map(|(id, _)| *id);
                if let Some(other) = under_way {
                    let text = format!("Coordinator {other} is being added: one is added at a time");
                    return refuse(ErrorCode::InvalidRequest, text);
                }
                if self.members.by_id.len() >= MEMBERS_MAX {
                    let text = format!("A quorum has at most {MEMBERS_MAX} members");
                    return refuse(ErrorCode::InvalidRequest, text);
                }
                // One that was removed has its place among those that are remembered.
                if self.image.coordinator(id).is_none() && self.image.coordinators().count() >= REMEMBERED_MAX {
                    let text = format!(
                        "{REMEMBERED_MAX} coordinators belong to the quorum or belonged to it: \
                         add one of those that were removed, with an empty disk"
                    );
                    return refuse(ErrorCode::InvalidRequest, text);
                }
                let standing = Standing::Learner;
                let node = CoordinatorNode { disk, address, standing, is_live_change: true };
                if !self.propose_member(SetMember { coordinator: id, node }) {
                    return Some(Ok(Answer::Unavailable));
                }
            }
        }
        self.wait(call, id, Some(disk), out)
    }

    /// None: the answer comes when the coordinator is gone.
    fn remove(
        &mut self,
        now: Now,
        call: CallId,
        id: CoordinatorId,
        disk: Option<IncarnationId>,
        force: bool,
        out: &mut impl Sink,
    ) -> Option<Result<Answer, RequestError>> {
        let Some(member) = self.members.get(id).cloned() else {
            // It was done: the answer was lost, or came too late for the caller.
            let gone = self.image.coordinator(id).filter(|gone| gone.node.standing == Standing::Removed);
            if let Some(gone) = gone.filter(|gone| disk.is_none_or(|disk| disk == gone.node.disk)) {
                return Some(Ok(Answer::ChangeQuorum(Ok(QuorumChanged { revision: gone.modified }))));
            }
            let text = format!("Coordinator {id} is not a member of the quorum");
            return Some(Ok(refused(ErrorCode::VoterNotFound, text)));
        };
        let known = member.disk.unwrap_or_default();
        if let Some(disk) = disk.filter(|disk| *disk != known) {
            let text = format!("Coordinator {id} votes with disk {known}, not with {disk}");
            return Some(Ok(refused(ErrorCode::VoterNotFound, text)));
        }
        let remaining: Vec<_> = self.members.voters().filter(|voter| *voter != id).collect();
        if member.is_voter && remaining.is_empty() {
            let text = format!("Coordinator {id} is the last voter");
            return Some(Ok(refused(ErrorCode::InvalidRequest, text)));
        }
        if member.is_voter && !force && !self.is_majority_answering(now, &remaining) {
            let text = format!(
                "Without coordinator {id} the other {} voters lack a majority that answers: {}. Force it if they come back",
                remaining.len(),
                self.answering(now, &remaining)
            );
            return Some(Ok(refused(ErrorCode::InvalidRequest, text)));
        }
        if id == self.member.id() {
            // A leader does not remove itself: the next one does.
            if self.member.transfer_leadership().is_none() {
                return Some(Ok(refused(ErrorCode::InvalidRequest, NO_HEIR)));
            }
            return Some(Err(RequestError::NotLeader { leader: None }));
        }
        let node = CoordinatorNode {
            disk: known,
            address: limits::cut(member.address, MAX_ADDRESS_BYTES),
            standing: Standing::Removed,
            is_live_change: true,
        };
        if !self.propose_member(SetMember { coordinator: id, node }) {
            return Some(Ok(Answer::Unavailable));
        }
        self.wait(call, id, None, out)
    }

    fn transfer(&mut self, now: Now, call: CallId, to: Option<CoordinatorId>) -> Option<Result<Answer, RequestError>> {
        let me = self.member.id();
        if to == Some(me) {
            return self.done();
        }
        if let Some(named) = to.filter(|named| !self.members.voters().any(|voter| voter == *named)) {
            let text = format!("Coordinator {named} is not a voter of the quorum");
            return Some(Ok(refused(ErrorCode::VoterNotFound, text)));
        }
        if self.leadership.as_ref().is_none_or(|leadership| leadership.changes.transfer.is_some()) {
            return Some(Ok(Answer::Unavailable));
        }
        let heir = match to {
            Some(named) if !self.answers(now, named) => {
                let text = format!("Coordinator {named} does not answer");
                return Some(Ok(refused(ErrorCode::InvalidRequest, text)));
            }
            Some(named) if self.lacks(named) > HEIR_LACKS_MAX => {
                let text = format!("Coordinator {named} lacks {} revisions", self.lacks(named));
                return Some(Ok(refused(ErrorCode::InvalidRequest, text)));
            }
            Some(named) => {
                self.member.transfer_leadership_to(named);
                Some(named)
            }
            None => self.member.transfer_leadership(),
        };
        let is_named = to.is_some();
        let Some(to) = heir else {
            return Some(Ok(refused(ErrorCode::InvalidRequest, NO_HEIR)));
        };
        if let Some(leadership) = &mut self.leadership {
            let until = now.monotonic + TRANSFER_TIMEOUT;
            leadership.changes.transfer = Some(Transfer { call, to, is_named, until });
        }
        None
    }

    fn wait(
        &mut self,
        call: CallId,
        coordinator: CoordinatorId,
        disk: Option<IncarnationId>,
        out: &mut impl Sink,
    ) -> Option<Result<Answer, RequestError>> {
        let Some(leadership) = &mut self.leadership else { return Some(Ok(Answer::Unavailable)) };
        let waiting = &mut leadership.changes.waiting;
        // The caller of the oldest has waited for longest, and asks again if it is still there.
        if waiting.len() >= WAITING_MAX {
            let oldest = waiting.remove(0);
            out.put(Output::Respond { call: oldest.call, outcome: Ok(Answer::Unavailable) });
        }
        waiting.push(Waiting { call, coordinator, disk });
        None
    }

    /// One change at a time. False if there is another one.
    fn propose_member(&mut self, set: SetMember) -> bool {
        let is_changing = self.member.is_changing();
        let Some(leadership) = &mut self.leadership else { return false };
        let changes = &mut leadership.changes;
        if is_changing || changes.proposed.as_ref().is_some_and(|other| *other != set) {
            return false;
        }
        changes.proposed = Some(set);
        true
    }

    /// What follows from the time that passed, and from what was applied.
    pub(crate) fn advance_members(&mut self, now: Now, out: &mut impl Sink) {
        if !self.is_deciding() {
            return;
        }
        self.answer_waiting(now, out);
        self.promote(now);
        let Some(leadership) = &mut self.leadership else { return };
        if let Some(set) = leadership.changes.proposed.clone() {
            let known = self.image.coordinator(set.coordinator).map(|coordinator| &coordinator.node);
            if known == Some(&set.node) {
                leadership.changes.proposed = None;
            } else {
                // Proposed once: the controller knows what is in flight. Again if that was lost.
                leadership.request(now, None, Request::SetMember(set), [0; 16], out);
            }
        }
    }

    fn answer_waiting(&mut self, now: Now, out: &mut impl Sink) {
        let revision = self.tree.revision();
        let members = self.members.clone();
        let Some(leadership) = &mut self.leadership else { return };
        let changes = &mut leadership.changes;
        changes.waiting.retain(|one| {
            let member = members.get(one.coordinator);
            let answer = match (one.disk, member) {
                (None, None) => Answer::ChangeQuorum(Ok(QuorumChanged { revision })),
                (Some(disk), Some(member)) if member.is_voter && member.disk == Some(disk) => {
                    Answer::ChangeQuorum(Ok(QuorumChanged { revision }))
                }
                (Some(_), None) if members.removed.contains_key(&one.coordinator) && changes.proposed.is_none() => {
                    refused(ErrorCode::InvalidRequest, "The coordinator was removed before it had the log")
                }
                _ => return true,
            };
            out.put(Output::Respond { call: one.call, outcome: Ok(answer) });
            false
        });
        if let Some(transfer) = changes.transfer.take_if(|transfer| now.monotonic >= transfer.until) {
            let text = format!("Coordinator {} did not take over", transfer.to);
            let outcome = Ok(refused(ErrorCode::RequestTimedOut, text));
            out.put(Output::Respond { call: transfer.call, outcome });
        }
    }

    /// A learner that has the log becomes a voter, if a majority answers with it.
    fn promote(&mut self, now: Now) {
        let learner = self.members.by_id.iter().find(|(_, member)| !member.is_voter);
        let Some((id, member)) = learner.map(|(id, member)| (*id, member.clone())) else { return };
        let Some(disk) = member.disk else { return };
        let voters: Vec<_> = self.members.voters().chain([id]).collect();
        let has_log = self.has_log(id) || self.config.broken_rules.promotes_without_log;
        if !has_log || !self.answers(now, id) || !self.is_majority_answering(now, &voters) {
            return;
        }
        let node = CoordinatorNode { disk, address: member.address, standing: Standing::Voter, is_live_change: true };
        self.propose_member(SetMember { coordinator: id, node });
    }

    /// Whether the learner has what was committed at the last look: then it is at most one look behind.
    fn has_log(&mut self, id: CoordinatorId) -> bool {
        let status = self.member.status();
        let matched = status.peers.iter().find(|peer| peer.id == id).map_or(Revision(0), |peer| peer.matched);
        let Some(leadership) = &mut self.leadership else { return false };
        let mark = leadership.changes.mark.replace((id, status.committed));
        mark.is_some_and(|(of, mark)| of == id && matched >= mark)
    }

    /// Entries of the log that the member is not known to have.
    pub(crate) fn lacks(&self, id: CoordinatorId) -> u64 {
        let status = self.member.status();
        let matched = status.peers.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.matched.0);
        status.last.0.saturating_sub(matched)
    }

    pub(crate) fn answers(&self, now: Now, id: CoordinatorId) -> bool {
        let heard = self.leadership.as_ref().and_then(|leadership| leadership.times_of(id).heard);
        id == self.member.id() || heard.is_some_and(|heard| now.monotonic.since(heard) < ANSWERS_WITHIN)
    }

    fn is_majority_answering(&self, now: Now, voters: &[CoordinatorId]) -> bool {
        voters.iter().filter(|voter| self.answers(now, **voter)).count() > voters.len() / 2
    }

    fn answering(&self, now: Now, voters: &[CoordinatorId]) -> String {
        let answering: Vec<_> =
            voters.iter().filter(|voter| self.answers(now, **voter)).map(CoordinatorId::to_string).collect();
        match answering.as_slice() {
            [] => "none answers".to_owned(),
            ids => format!("only coordinators {} answer", ids.join(", ")),
        }
    }

    /// The leadership ends: what waits for a change is asked again, at the next leader.
    pub(crate) fn end_changes(&mut self, leader: Option<CoordinatorId>, out: &mut impl Sink) {
        let revision = self.tree.revision();
        let Some(leadership) = &mut self.leadership else { return };
        let changes = std::mem::take(&mut leadership.changes);
        for one in changes.waiting {
            out.put(Output::Respond { call: one.call, outcome: Err(RequestError::NotLeader { leader }) });
        }
        if let Some(transfer) = changes.transfer {
            note(out, false, format!("handed the quorum over, to coordinator {} if it took it", transfer.to));
            // Whoever leads now says whether it is the named one. Repeated there, a transfer to any other would be a
            // second one.
            let outcome = match transfer.is_named {
                true => Err(RequestError::NotLeader { leader }),
                false => Ok(Answer::ChangeQuorum(Ok(QuorumChanged { revision }))),
            };
            out.put(Output::Respond { call: transfer.call, outcome });
        }
    }
}
