//! A coordinator with an empty disk, which asks whether it may vote: [`ottla_quorum_node::first_start`] decides.

use ottla_model::MonotonicMs;
use ottla_quorum_node::first_start::{self, Begin, FirstStart, Formed, NotYet, ROUND_PAUSE, Step, Voters, Way};
use ottla_quorum_node::identity::{Conflict, OwnIdentity};
use ottla_quorum_node::opinions::Opinions;

use super::peers::{Answer, NoAnswer, Questions};
use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// Whom it asks.
enum Asks {
    Listed(FirstStart),
    /// Those on a list that a broker handed over; none: there is no list.
    Told(Option<Vec<String>>),
}

/// See the module.
pub(super) struct Starting {
    own: OwnIdentity,
    asks: Asks,
    opinions: Opinions,
    /// About the place of the coordinator among those that are asked.
    questions: Questions<usize>,
    /// The answers of this round; none between two rounds.
    round: Option<Vec<Option<Answer>>>,
    next_round: MonotonicMs,
    /// Why it waits, as it was told last.
    reason: String,
}

/// How a first start goes on.
pub(super) enum Start {
    /// It votes at once.
    Votes(Voters),
    Asks(Box<Starting>),
}

impl Starting {
    pub fn begin(way: Way, own: OwnIdentity) -> Start {
        let asks = match first_start::begin(way, &own) {
            Begin::Votes(voters) => return Start::Votes(voters),
            Begin::Asks(start) => Asks::Listed(start),
            Begin::WaitsForList => Asks::Told(None),
        };
        Start::Asks(Box::new(Self {
            own,
            asks,
            opinions: Opinions::default(),
            questions: Questions::default(),
            round: None,
            next_round: MonotonicMs(0),
            reason: String::new(),
        }))
    }

    /// Leads to a place in a quorum some time, or to a conflict that ends this coordinator.
    pub fn tick(&mut self, now: MonotonicMs, out: &mut Outbox) -> Result<Option<Formed>, Conflict> {
        for place in self.questions.expired(now) {
            self.note(place, Err(NoAnswer::Silent));
        }
        if self.round.is_none() && now >= self.next_round {
            self.ask(now, out);
        }
        self.end_round(now, out)
    }

    fn ask(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let addresses: Vec<String> = match &self.asks {
            Asks::Listed(start) => start.asked().iter().map(|peer| peer.address.clone()).collect(),
            Asks::Told(Some(addresses)) => addresses.clone(),
            Asks::Told(None) => return,
        };
        let mut round = Vec::new();
        for (place, address) in addresses.iter().enumerate() {
            let refused = self.questions.ask(now, &self.own, (address, None), place, out).is_err();
            round.push(refused.then_some(Err(NoAnswer::NoAddress)));
        }
        self.round = Some(round);
    }

    fn note(&mut self, place: usize, answer: Answer) {
        if let Some(slot) = self.round.as_mut().and_then(|round| round.get_mut(place)) {
            *slot = Some(answer);
        }
    }

    pub fn receive(
        &mut self,
        now: MonotonicMs,
        from: NodeId,
        message: Message,
        connect: &[String],
        out: &mut Outbox,
    ) -> Result<Option<Formed>, Conflict> {
        match (message, from) {
            (Message::IdentifyAnswer { call, identity, .. }, _) => {
                if let Some(place) = self.questions.answered(call) {
                    self.note(place, Ok(*identity));
                }
            }
            (Message::ConnectionLost, from) => {
                for place in self.questions.refused(from) {
                    self.note(place, Err(NoAnswer::Refused));
                }
            }
            (Message::Identify { call, asker, disk, listed, .. }, from) => {
                let identity = Box::new(self.own.answer(asker, Some(disk)));
                out.send(from, Message::IdentifyAnswer { call, identity, stream_confirmed: false });
                self.heard_of(&listed);
            }
            (Message::Raft { stream, .. }, from) => out.send(from, Message::RaftRefused { stream }),
            (Message::Cluster { call, .. }, from) => {
                // A broker's request brings its list of coordinators.
                if matches!(from, NodeId::Broker(_)) {
                    self.heard_of(connect);
                }
                self.refuse(from, call, out);
            }
            (Message::BeatOpen { connection, .. } | Message::Beat { connection, .. }, from) => {
                out.send(from, Message::BeatAnswer { connection, answer: None, leader: None });
            }
            (Message::Watch { .. }, from) => out.send(from, Message::ConnectionLost),
            _ => {}
        }
        self.end_round(now, out)
    }

    fn refuse(&self, to: NodeId, call: CallId, out: &mut Outbox) {
        out.send(to, Message::ClusterAnswer { call, answer: None, leader: None });
    }

    fn heard_of(&mut self, addresses: &[String]) {
        if let Asks::Told(told @ None) = &mut self.asks
            && !addresses.is_empty()
        {
            *told = Some(addresses.to_vec());
        }
    }

    /// Once every coordinator that was asked has answered, or will not.
    fn end_round(&mut self, now: MonotonicMs, out: &mut Outbox) -> Result<Option<Formed>, Conflict> {
        let Some(round) = self.round.take_if(|round| round.iter().all(Option::is_some)) else { return Ok(None) };
        let answers = round.into_iter().flatten().map(|answer| answer.map_err(|why| why.to_string()));
        let (pause, reason) = match &mut self.asks {
            Asks::Listed(start) => match start.round(&self.own, &mut self.opinions, answers)? {
                Step::Formed(formed) => return Ok(Some(formed)),
                Step::AskAgain { pause, reason } => (pause, reason),
            },
            Asks::Told(told) => {
                let addresses = told.take().unwrap_or_default();
                match first_start::members_behind(&self.own, addresses.into_iter().zip(answers)) {
                    Ok(listed) => {
                        self.own.listed = listed;
                        self.asks = Asks::Listed(FirstStart::new(&self.own));
                        (std::time::Duration::ZERO, "it has a list".to_owned())
                    }
                    Err(NotYet::Conflict(conflict)) => return Err(conflict),
                    Err(NotYet::Waiting(reason)) => (ROUND_PAUSE, reason),
                }
            }
        };
        if reason != self.reason {
            out.note(format_args!("{reason}"));
            self.reason = reason;
        }
        self.next_round = now + pause;
        Ok(None)
    }
}
