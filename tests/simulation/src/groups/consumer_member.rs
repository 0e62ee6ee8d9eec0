//! A consumer of the KIP-848 protocol: it gives up what it is not assigned any more, then takes what is new, then
//! tells.

use std::collections::{BTreeMap, BTreeSet};

use ottla_group_coordinator::answer::ConsumerHeartbeatAnswer;
use ottla_group_coordinator::request::{ClientInfo, ConsumerGroupHeartbeat};
use ottla_group_coordinator::{GroupAnswer, Request};
use ottla_model::{ErrorCode, GroupId, MemberId, PartitionId, TopicId};

use super::client::{BACKOFF_MS, Behaviour, REQUEST_TIMEOUT_MS, Turn, error_of, is_about_the_coordinator};
use super::topics::{TopicIds, Tp};
use crate::clock::SimTime;

const LEAVING_EPOCH: i32 = -1;
const LEAVING_FOR_A_WHILE_EPOCH: i32 = -2;

#[derive(Debug)]
pub struct ConsumerMember {
    pub group: GroupId,
    pub member: MemberId,
    pub epoch: i32,
    pub owned: BTreeSet<Tp>,
    /// Of the topics that it was told of.
    pub topic_ids: TopicIds,
    pub behaviour: Behaviour,
    pub is_gone: bool,
    name: String,
    /// What it shall own, while it is not there yet.
    target: Option<BTreeSet<Tp>>,
    /// It gives partitions up until then.
    revoking_until: Option<SimTime>,
    /// It has given up what it must, and reads these from then on.
    taking: Option<(SimTime, BTreeSet<Tp>)>,
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
            topic_ids: TopicIds::new(),
            behaviour,
            is_gone: false,
            name,
            target: None,
            revoking_until: None,
            taking: None,
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
        self.epoch > 0 && self.target.is_none() && self.taking.is_none() && !self.acknowledges && !self.is_gone
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
            let request = self.heartbeat(self.epoch);
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
        let call = turn.commit(&self.group, &self.member, instance, self.epoch, &self.owned, &self.topic_ids);
        self.committing = Some((call, turn.now.plus_ms(REQUEST_TIMEOUT_MS)));
    }

    fn reconcile(&mut self, turn: &mut Turn<'_>) {
        // An assignment in progress is completed, as in Java, even if another one arrives meanwhile.
        if let Some((_, taken)) = self.taking.take_if(|(until, _)| *until <= turn.now) {
            self.owned = taken;
            self.acknowledges = true;
            self.target.take_if(|target| *target == self.owned);
        }
        let Some(target) = self.target.clone().filter(|_| self.taking.is_none()) else { return };
        if !self.owned.is_subset(&target) {
            let (low, high) = self.behaviour.revocation_ms;
            let until = *self.revoking_until.get_or_insert_with(|| turn.now.plus_ms(turn.random.between(low, high)));
            if turn.now < until {
                return;
            }
        }
        self.revoking_until = None;
        self.owned.retain(|tp| target.contains(tp));
        let (low, high) = self.behaviour.taking_ms;
        if self.owned.len() < target.len() && high > 0 {
            self.taking = Some((turn.now.plus_ms(turn.random.between(low, high)), target));
            return;
        }
        // One that says everything each time is given its assignment each time: there is nothing new to confirm.
        self.acknowledges |= self.owned != target || !self.behaviour.says_all;
        self.owned = target;
        self.target = None;
    }

    fn heartbeat(&self, epoch: i32) -> Request {
        let all = epoch == 0 || self.tells_all || self.behaviour.says_all;
        let mut owned: BTreeMap<TopicId, Vec<PartitionId>> = BTreeMap::new();
        if epoch > 0 {
            for (topic, partition) in &self.owned {
                let id = self.topic_ids.get(topic).copied().unwrap_or_default();
                owned.entry(id).or_default().push(PartitionId(*partition));
            }
        }
        // Whoever joins says both, if only that there are none (seed 6304): the group may know its instance id, or its
        // member id, of a process that subscribed in the other way. What a heartbeat leaves out stays as it was.
        let Behaviour { topics, regex, .. } = &self.behaviour;
        let names = if regex.is_some() { Vec::new() } else { topics.iter().cloned().collect() };
        let regex = regex.clone().or_else(|| (epoch == 0).then(String::new));
        Request::ConsumerGroupHeartbeat(ConsumerGroupHeartbeat {
            group: self.group.clone(),
            member: self.member.clone(),
            fresh_id: String::new(),
            member_epoch: epoch,
            instance: self.behaviour.instance.clone(),
            rack: self.behaviour.rack.clone().filter(|_| all),
            rebalance_timeout_ms: if all {
                i32::try_from(self.behaviour.rebalance_timeout_ms).unwrap_or(i32::MAX)
            } else {
                -1
            },
            client: ClientInfo { client_id: self.name.clone(), client_host: "/127.0.0.1".to_owned() },
            subscribed_topics: all.then_some(names),
            subscribed_regex: regex.filter(|_| all),
            visible_topics: ottla_group_coordinator::VisibleTopics::default(),
            server_assignor: self.behaviour.assignor.clone().filter(|_| all),
            owned: (all || self.acknowledges).then(|| owned.into_iter().collect()),
        })
    }

    /// Leaves for good, or, mostly, for a while if it is static.
    pub fn leave(&mut self, turn: &mut Turn<'_>) {
        if self.epoch > 0 {
            let for_a_while = self.behaviour.instance.is_some() && turn.random.percent(60);
            turn.send(self.heartbeat(if for_a_while { LEAVING_FOR_A_WHILE_EPOCH } else { LEAVING_EPOCH }));
        }
        self.owned.clear();
        self.is_gone = true;
    }

    pub fn answered(&mut self, turn: &mut Turn<'_>, call: u64, answer: GroupAnswer) {
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
            (ErrorCode::None, GroupAnswer::ConsumerGroupHeartbeat(answer)) => self.told(turn, answer),
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
        self.taking = None;
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
                    // What it owns of a topic that was deleted is not what it is given of the topic of that name now.
                    if self.topic_ids.insert(topic.clone(), id).is_some_and(|former| former != id) {
                        self.owned.retain(|(owned, _)| *owned != topic);
                    }
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
