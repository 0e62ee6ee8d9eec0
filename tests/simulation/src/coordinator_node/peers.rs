//! Connections to other coordinators: questions for their identity, and one stream of Raft messages to each. What
//! follows from an answer, [`ottla_quorum_node::identity`] decides, and what from the end of a stream,
//! [`ottla_quorum_node::peer_link`].

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_consensus::Outgoing;
use ottla_model::{BrokerId, CoordinatorId, IncarnationId, MonotonicMs};
use ottla_quorum_node::identity::{Conflict, Identified, OwnIdentity};
use ottla_quorum_node::opinions::Opinions;
use ottla_quorum_node::peer_link::{StreamEnd, after_end};
use ottla_quorum_node::{Event, Members};

use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// As the service has it: a question is given up after this long.
const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(500);
/// Messages that wait until a stream is open.
pub(super) const QUEUED_MESSAGES_MAX: usize = 256;

/// Where a coordinator is reached, in every list of the simulation.
pub fn address_of(id: CoordinatorId) -> String {
    format!("c{id}")
}

fn node_at(address: &str) -> Option<NodeId> {
    address.strip_prefix('c')?.parse().ok().map(NodeId::Coordinator)
}

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("connection refused")]
    Refused,
    #[error("silent")]
    Silent,
    #[error("no such address")]
    NoAddress,
}

pub(super) type Answer = Result<Identified, NoAnswer>;

struct Question<A> {
    to: NodeId,
    until: MonotonicMs,
    about: A,
}

/// Questions that wait for their answers.
pub(super) struct Questions<A> {
    last_call: u64,
    waiting: BTreeMap<CallId, Question<A>>,
}

impl<A> Default for Questions<A> {
    fn default() -> Self {
        Self { last_call: 0, waiting: BTreeMap::new() }
    }
}

impl<A> Questions<A> {
    /// Asks the coordinator at an address who it is, and whether it has opened a stream. Gives `about` back if there is
    /// no such address.
    pub fn ask(
        &mut self,
        now: MonotonicMs,
        own: &OwnIdentity,
        (address, stream): (&str, Option<u64>),
        about: A,
        out: &mut Outbox,
    ) -> Result<(), A> {
        let Some(to) = node_at(address) else { return Err(about) };
        // An answer to a former life of this process has ended with its connection: no number is used again (seed
        // 17891).
        self.last_call = (self.last_call + 1).max(now.0 << 16);
        let call = CallId(self.last_call);
        let listed = own.voters().into_values().collect();
        out.send(to, Message::Identify { call, asker: own.id, disk: own.disk, listed, stream });
        self.waiting.insert(call, Question { to, until: now + IDENTIFY_TIMEOUT, about });
        Ok(())
    }

    /// What the answer to this call is about; none: it comes too late, or again.
    pub fn answered(&mut self, call: CallId) -> Option<A> {
        self.waiting.remove(&call).map(|question| question.about)
    }

    /// The questions that this process refused.
    pub fn refused(&mut self, by: NodeId) -> Vec<A> {
        self.waiting.extract_if(.., |_, question| question.to == by).map(|(_, question)| question.about).collect()
    }

    pub fn expired(&mut self, now: MonotonicMs) -> Vec<A> {
        let expired = self.waiting.extract_if(.., |_, question| question.until <= now);
        expired.map(|(_, question)| question.about).collect()
    }
}

enum Link {
    /// Not dialled before.
    Closed { until: MonotonicMs },
    /// The identity is asked for. Messages wait meanwhile.
    Asking { queued: Vec<Outgoing> },
    /// As the stream of this name.
    Open(u64),
}

struct Peer {
    address: String,
    link: Link,
}

/// The streams to the other members.
pub(super) struct Peers {
    last_stream: u64,
    by_id: BTreeMap<CoordinatorId, Peer>,
}

/// Who is to be asked for its identity, and where.
pub(super) type ToAsk = Vec<(CoordinatorId, String)>;

impl Peers {
    /// `unused`: a former process of this coordinator has not named its streams like this.
    pub fn new(unused: u64) -> Self {
        Self { last_stream: unused, by_id: BTreeMap::new() }
    }

    /// Whether this process has opened that stream to a peer.
    pub fn has_stream(&self, to: CoordinatorId, stream: u64) -> bool {
        self.by_id.get(&to).is_some_and(|peer| matches!(peer.link, Link::Open(open) if open == stream))
    }

    /// There is a stream to each of the members' destinations, and to nobody else.
    pub fn follow(&mut self, me: CoordinatorId, members: &Members, now: MonotonicMs) {
        let destinations: BTreeMap<_, _> = members.destinations().filter(|(id, _)| *id != me).collect();
        self.by_id.retain(|id, peer| destinations.get(id) == Some(&peer.address.as_str()));
        for (id, address) in destinations {
            let fresh = || Peer { address: address.to_owned(), link: Link::Closed { until: now } };
            self.by_id.entry(id).or_insert_with(fresh);
        }
    }

    /// The streams that are to be dialled now.
    pub fn tick(&mut self, now: MonotonicMs) -> ToAsk {
        let mut ask = ToAsk::new();
        for (id, peer) in &mut self.by_id {
            if matches!(peer.link, Link::Closed { until } if until <= now) {
                peer.link = Link::Asking { queued: Vec::new() };
                ask.push((*id, peer.address.clone()));
            }
        }
        ask
    }

    /// False if the message found no room.
    pub fn send(&mut self, disk: IncarnationId, message: Outgoing, events: &mut Vec<Event>, out: &mut Outbox) -> bool {
        let to = message.to;
        // There is no connection to one that is neither a member nor vouched for.
        let Some(peer) = self.by_id.get_mut(&to) else { return true };
        match &mut peer.link {
            Link::Open(stream) => pass_on((*stream, disk), message, events, out),
            Link::Asking { queued } if queued.len() < QUEUED_MESSAGES_MAX => queued.push(message),
            Link::Asking { .. } => return false,
            Link::Closed { .. } => forget(vec![message], events),
        }
        true
    }

    /// Lost where there is no stream.
    pub fn tell_of_brokers(&self, to: CoordinatorId, disk: IncarnationId, brokers: Vec<BrokerId>, out: &mut Outbox) {
        if let Some(Peer { link: Link::Open(stream), .. }) = self.by_id.get(&to) {
            out.send(NodeId::Coordinator(to.0), Message::BrokersAsked { stream: *stream, disk, brokers });
        }
    }

    /// The identity of a peer, or why it is not known. A conflict ends this coordinator.
    pub fn identified(
        &mut self,
        now: MonotonicMs,
        own: &OwnIdentity,
        opinions: &mut Opinions,
        (id, answer): (CoordinatorId, Answer),
        (events, out): (&mut Vec<Event>, &mut Outbox),
    ) -> Result<(), Conflict> {
        let Some(peer) = self.by_id.get_mut(&id) else { return Ok(()) };
        let Link::Asking { queued } = &mut peer.link else { return Ok(()) };
        let queued = std::mem::take(queued);
        let answer = answer.map(|found| (own.check(opinions, &peer.address, id, &found), found));
        let end = match &answer {
            Ok((Ok(()), found)) if !found.is_empty => {
                events.push(Event::PeerIdentified { id, disk: found.disk, levels: found.levels });
                self.last_stream += 1;
                let stream = self.last_stream;
                peer.link = Link::Open(stream);
                queued.into_iter().for_each(|message| pass_on((stream, own.disk), message, events, out));
                return Ok(());
            }
            // It has not finished its first start.
            Ok((Ok(()), _)) => StreamEnd::Broken,
            Ok((Err(conflict), _)) => {
                out.note(format_args!("{conflict}"));
                StreamEnd::Conflict(conflict)
            }
            Err(NoAnswer::Refused) => StreamEnd::ConnectionRefused,
            Err(_) => StreamEnd::Broken,
        };
        let redial = after_end(id, end, false);
        events.extend(redial.events);
        forget(queued, events);
        match (redial.pause, answer) {
            (None, Ok((Err(conflict), _))) => return Err(conflict),
            (pause, _) => peer.link = Link::Closed { until: now + pause.unwrap_or_default() },
        }
        Ok(())
    }

    /// The stream to this peer ended, whichever it is or the one of this name; it is dialled again at once.
    pub fn broken(&mut self, now: MonotonicMs, id: CoordinatorId, ended: Option<u64>, events: &mut Vec<Event>) {
        let is_it = |peer: &&mut Peer| matches!(peer.link, Link::Open(open) if ended.is_none_or(|ended| ended == open));
        if let Some(peer) = self.by_id.get_mut(&id).filter(is_it) {
            let redial = after_end(id, StreamEnd::Broken, true);
            events.extend(redial.events);
            peer.link = Link::Closed { until: now + redial.pause.unwrap_or_default() };
        }
    }
}

fn pass_on((stream, disk): (u64, IncarnationId), message: Outgoing, events: &mut Vec<Event>, out: &mut Outbox) {
    let to = message.to;
    if message.is_snapshot() {
        events.push(Event::SnapshotSent { to, sent: true });
    }
    out.send(NodeId::Coordinator(to.0), Message::Raft { stream, disk, bytes: message.to_bytes() });
}

/// Raft knows that messages are lost; a snapshot it would wait for.
fn forget(messages: Vec<Outgoing>, events: &mut Vec<Event>) {
    let snapshots = messages.into_iter().filter(Outgoing::is_snapshot);
    events.extend(snapshots.map(|message| Event::SnapshotSent { to: message.to, sent: false }));
}
