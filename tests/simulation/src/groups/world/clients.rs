//! What clients do: their turns, their requests, and what becomes of their processes.

use ottla_group_coordinator::{GroupAnswer, Request};
use ottla_model::{ErrorCode, GroupId};

use super::{Event, Kind, World};
use crate::coordinator_log::LogWorld as _;
use crate::groups::broker::Caller;
use crate::groups::client::Turn;
use crate::groups::topics::{TopicIds, by_id};
use crate::invariants::Violation;

impl World {
    /// Lets a client take a turn, carries out what it wants, and asks the invariants about what it believes.
    pub fn with_client(&mut self, id: u32, act: impl FnOnce(&mut Kind, &mut Turn<'_>)) -> Result<(), Violation> {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_running) else { return Ok(()) };
        let mut turn = Turn {
            now: self.now,
            topics: &self.topics,
            random: &mut client.random,
            next_call: &mut self.next_call,
            next_commit: &mut self.next_commit,
            forgets_coordinator: false,
            sends: Vec::new(),
            commits: Vec::new(),
            notes: Vec::new(),
        };
        act(&mut client.kind, &mut turn);
        let Turn { forgets_coordinator, sends, commits, notes, .. } = turn;
        if forgets_coordinator {
            client.coordinator = None;
        }
        let group = client.group().clone();
        let belief = match &client.kind {
            Kind::Classic(member) => {
                Some((member.member.clone(), member.generation, by_id(&member.owned, &member.topic_ids)))
            }
            Kind::Consumer(member) => {
                Some((member.member.clone(), member.epoch, by_id(&member.owned, &member.topic_ids)))
            }
            Kind::Admin(_) | Kind::Script { .. } => None,
        };
        for note in notes {
            self.trace.line(self.now, format_args!("client {id}: {note}"));
        }
        for issued in commits {
            self.invariants.issue(issued);
        }
        if let Some((member, generation, owned)) = belief {
            self.invariants.believes(id, &group, &member, generation, &owned)?;
        }
        for (call, request) in sends {
            self.send(id, &group, call, request);
        }
        Ok(())
    }

    fn send(&mut self, client: u32, group: &GroupId, call: u64, request: Request) {
        let leader = self.leader_of(self.partition_of(group));
        let Some(found) = self.clients.get_mut(&client) else { return };
        let Some(broker) = found.coordinator.or(leader) else {
            let answer = Box::new(GroupAnswer::Failed(ErrorCode::CoordinatorNotAvailable));
            self.schedule_us(500, Event::Answered { client, call, answer, topic_ids: TopicIds::new() });
            return;
        };
        found.coordinator = Some(broker);
        self.calls.insert(call, (client, broker));
        if self.random.happens(self.weather.lost_ppm) {
            return;
        }
        let life = self.brokers.get(&broker).map_or(0, |broker| broker.life);
        let delay = self.draw_us(self.weather.latency_us);
        self.schedule_us(delay, Event::Arrive { broker, life, client, call, request: Box::new(request) });
    }

    /// The answer leaves the broker.
    pub(super) fn reply(&mut self, caller: &Caller, answer: GroupAnswer) {
        let Caller { client, call, .. } = *caller;
        self.trace.message(self.now, format_args!("to client {client}, call {call}: {answer:?}"));
        if self.random.happens(self.weather.lost_ppm) {
            return;
        }
        let delay = self.draw_us(self.weather.latency_us);
        let topic_ids = caller.topic_ids.clone();
        self.schedule_us(delay, Event::Answered { client, call, answer: Box::new(answer), topic_ids });
    }

    /// `kill -9`, or the end of the machine.
    pub fn crash_client(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.is_running = false;
        let group = client.group().clone();
        self.paused_clients.remove(&id);
        self.invariants.forgets(id, &group);
        self.note(format_args!("client {id} of {group} crashes"));
    }

    pub fn pause_client(&mut self, id: u32, ms: u64) {
        self.note(format_args!("client {id} stands still for {ms} ms"));
        self.paused_clients.entry(id).or_default();
        self.schedule_us(ms * 1_000, Event::ResumeClient(id));
    }

    pub fn leave(&mut self, id: u32) -> Result<(), Violation> {
        self.note(format_args!("client {id} leaves"));
        self.with_client(id, |kind, turn| match kind {
            Kind::Classic(member) => member.leave(turn),
            Kind::Consumer(member) => member.leave(turn),
            Kind::Admin(_) | Kind::Script { .. } => {}
        })
    }

    pub fn is_client_paused(&self, id: u32) -> bool {
        self.paused_clients.contains_key(&id)
    }
}
