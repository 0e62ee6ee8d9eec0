//! A consumer of the KIP-848 protocol: it gives up what it is not assigned any more, then takes what is new, then tells.

use std::collections::{BTreeMap, BTreeSet};

use ottla_group_coordinator::answer::ConsumerHeartbeatAnswer;
use ottla_group_coordinator::request::{ClientInfo, ConsumerGroupHeartbeat};
use ottla_group_coordinator::{Answer, Request};
use ottla_model::{ErrorCode, GroupId, MemberId, PartitionId, TopicId};

use super::client::{BACKOFF_MS, Behaviour, REQUEST_TIMEOUT_MS, Turn, error_of, is_about_the_coordinator};
use super::topics::{SimTopics, Tp};
use crate::clock::SimTime;

const LEAVING_EPOCH: i32 = -1;
const LEAVING_FOR_A_WHILE_EPOCH: i32 = -2;

#[derive(Debug)]
pub struct ConsumerMember {
    pub group: GroupId,
    pub member: MemberId,
    pub epoch: i32,
    pub owned: BTreeSet<Tp>,
    pub behaviour: Behaviour,
    pub is_gone: bool,
    name: String,
    /// What it shall own, while it is not there yet.
    target: Option<BTreeSet<Tp>>,
    /// It gives partitions up until then.
    revoking_until: Option<SimTime>,
    /// Something was lost, or it is new: everything is told again.
    tells_all: bool,
    /// It has come to its target and says so at once.
    acknowledges: bool,
    interval_ms: u64,
    awaited: Option<(u64, SimTime)>,
    committing: Option<(u64, SimTime)>,
    not_before: SimTime,
    next_heartbeat: SimTime,
    next_commit: SimTime,
}

impl ConsumerMember {
    pub fn new(group: GroupId, name: String, member: MemberId, behaviour: Behaviour) -> Self {
        Self {
            group,
            member,
            epoch: 0,
            owned: BTreeSet::new(),
            behaviour,
            is_gone: false,
            name,
            target: None,
            revoking_until: None,
            tells_all: true,
            acknowledges: false,
            interval_ms: 500,
            awaited: None,
            committing: None,
            not_before: SimTime(0),
            next_heartbeat: SimTime(0),
            next_commit: SimTime(0),
        }
    }

    pub fn is_stable(&self) -> bool {
        self.epoch > 0 && self.target.is_none() && !self.acknowledges && !self.is_gone
    }

    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        if self.is_gone {
            return;
        }
        if self.committing.is_some_and(|(_, until)| until <= turn.now) {
            self.committing = None;
        }
        if let Some((call, until)) = self.awaited
            && until <= turn.now
        {
            self.lost(turn, call);
        }
        // One that stood still commits where it stopped, before it hears that it is nobody any more.
        self.commit(turn);
        self.reconcile(turn);
        if self.awaited.is_some() || turn.now < self.not_before {
            return;
        }
        if self.acknowledges || self.tells_all || self.next_heartbeat <= turn.now {
            let request = self.heartbeat(turn.topics, self.epoch);
            self.next_heartbeat = turn.now.plus_ms(self.interval_ms);
            self.acknowledges = false;
            self.tells_all = false;
            let call = turn.send(request);
            self.awaited = Some((call, turn.now.plus_ms(REQUEST_TIMEOUT_MS)));
        }
    }

    fn commit(&mut self, turn: &mut Turn<'_>) {
        if self.epoch <= 0 || self.owned.is_empty() || self.committing.is_some() || turn.now < self.next_commit {
            return;
        }
        let (low, high) = self.behaviour.commit_every_ms;
        self.next_commit = turn.now.plus_ms(turn.random.between(low, high));
        let instance = self.behaviour.instance.as_ref();
        let call = turn.commit(&self.group, &self.member, instance, self.epoch, &self.owned);
        self.committing = Some((call, turn.now.plus_ms(REQUEST_TIMEOUT_MS)));
    }

    fn reconcile(&mut self, turn: &mut Turn<'_>) {
        let Some(target) = &self.target else { return };
        if !self.owned.is_subset(target) {
            let (low, high) = self.behaviour.revocation_ms;
            let until = *self.revoking_until.get_or_insert_with(|| turn.now.plus_ms(turn.random.between(low, high)));
            if turn.now < until {
                return;
            }
        }
        self.revoking_until = None;
        if let Some(target) = self.target.take() {
            self.owned = target;
            self.acknowledges = true;
        }
    }

    fn heartbeat(&self, topics: &SimTopics, epoch: i32) -> Request {
        let all = epoch == 0 || self.tells_all;
        let mut owned: BTreeMap<TopicId, Vec<PartitionId>> = BTreeMap::new();
        if epoch > 0 {
            for (topic, partition) in &self.owned {
                owned.entry(topics.id(topic)).or_default().push(PartitionId(*partition));
            }
        }
        let names = self.behaviour.regex.is_none().then(|| self.behaviour.topics.iter().cloned().collect());
        Request::ConsumerGroupHeartbeat(ConsumerGroupHeartbeat {
            group: self.group.clone(),
            member: self.member.clone(),
            fresh_id: String::new(),
            member_epoch: epoch,
            instance: self.behaviour.instance.clone(),
            rack: None,
            rebalance_timeout_ms: if all {
                i32::try_from(self.behaviour.rebalance_timeout_ms).unwrap_or(i32::MAX)
            } else {
                -1
            },
            client: ClientInfo { client_id: self.name.clone(), client_host: "/127.0.0.1".to_owned() },
            subscribed_topics: names.filter(|_| all),
            subscribed_regex: self.behaviour.regex.clone().filter(|_| all),
            server_assignor: None,
            owned: (all || self.acknowledges).then(|| owned.into_iter().collect()),
        })
    }

    /// Leaves for good, or for a while if it is static.
    pub fn leave(&mut self, turn: &mut Turn<'_>) {
        if self.epoch > 0 {
            let epoch = if self.behaviour.instance.is_some() { LEAVING_FOR_A_WHILE_EPOCH } else { LEAVING_EPOCH };
            turn.send(self.heartbeat(turn.topics, epoch));
        }
        self.owned.clear();
        self.is_gone = true;
    }

    pub fn answered(&mut self, turn: &mut Turn<'_>, call: u64, answer: Answer) {
        let error = error_of(&answer);
        if self.committing.is_some_and(|(awaited, _)| awaited == call) {
            self.committing = None;
            turn.forgets_coordinator |= is_about_the_coordinator(error);
            return;
        }
        if self.awaited.is_none_or(|(awaited, _)| awaited != call) || self.is_gone {
            return;
        }
        self.awaited = None;
        match (error, answer) {
            (ErrorCode::None, Answer::ConsumerGroupHeartbeat(answer)) => self.told(turn, answer),
            (ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch | ErrorCode::GroupIdNotFound, _) => {
                turn.notes.push(format!("{error:?}: begins anew"));
                self.begin_anew();
            }
            (ErrorCode::FencedInstanceId, _) => {
                turn.notes.push("fenced: another has the instance id".to_owned());
                self.owned.clear();
                self.is_gone = true;
            }
            (error, _) => {
                turn.forgets_coordinator |= is_about_the_coordinator(error);
                self.tells_all = true;
                self.not_before = turn.now.plus_ms(BACKOFF_MS);
            }
        }
    }

    fn begin_anew(&mut self) {
        self.epoch = 0;
        self.owned.clear();
        self.target = None;
        self.revoking_until = None;
        self.acknowledges = false;
        self.tells_all = true;
    }

    fn told(&mut self, turn: &mut Turn<'_>, answer: ConsumerHeartbeatAnswer) {
        self.epoch = answer.member_epoch;
        self.interval_ms = u64::try_from(answer.heartbeat_interval_ms).unwrap_or(500).max(1);
        self.next_heartbeat = turn.now.plus_ms(self.interval_ms);
        if let Some(assignment) = answer.assignment {
            let mut target = BTreeSet::new();
            for (id, partitions) in assignment {
                if let Some(topic) = turn.topics.name(id) {
                    target.extend(partitions.into_iter().map(|partition| (topic.clone(), partition.0)));
                }
            }
            self.target = Some(target);
            self.reconcile(turn);
        }
    }

    /// No answer will come.
    pub fn lost(&mut self, turn: &mut Turn<'_>, call: u64) {
        if self.committing.is_some_and(|(awaited, _)| awaited == call) {
            self.committing = None;
        }
        if self.awaited.is_some_and(|(awaited, _)| awaited == call) {
            self.awaited = None;
            self.tells_all = true;
            self.not_before = turn.now.plus_ms(BACKOFF_MS);
        }
        turn.forgets_coordinator = true;
    }
}
