//! What is checked after every turn.

use super::*;

/// Longer than eight looks at the directory (the quorum may not answer after the first four), and an election.
const STALLED_MAX_MS: u64 = 15_000;

impl World {
    pub(super) fn check_coordinator(&mut self, id: u64, observed: &[Observed]) -> Result<(), Violation> {
        for seen in observed {
            match seen {
                Observed::Applied { revision, digest, tree, problem } => {
                    if let Some(problem) = problem {
                        return Err(Violation(format!("what was proposed does not apply on c{id}: {problem}")));
                    }
                    self.invariants.tree_applied(id, *revision, *digest)?;
                    self.check_applied_security(*revision, tree)?;
                }
                Observed::Read { asked_at, revision } if revision < asked_at => {
                    return Err(Violation(format!(
                        "a read of c{id} is answered with revision {revision}, though {asked_at} was applied before it"
                    )));
                }
                Observed::Watched { reached, revision } if revision <= reached && reached.0 > 0 => {
                    return Err(Violation(format!(
                        "the watch of c{id} went back: who had revision {reached} was told of {revision}"
                    )));
                }
                Observed::VotesFirst { replaces_member: true } if self.newest_revision() > Revision(0) => {
                    return Err(Violation(format!(
                        "c{id} votes with an empty disk in the place of one that had a vote, as if there were no quorum"
                    )));
                }
                Observed::Ended(conflict) => {
                    self.invariants.checks += 1;
                    self.check_ended(id, conflict)?;
                }
                Observed::VotesFirst { .. } | Observed::Read { .. } | Observed::Watched { .. } => {
                    self.invariants.checks += 1;
                }
            }
        }
        let applied = observed.iter().any(|seen| matches!(seen, Observed::Applied { .. }));
        let Some(node) = self.coordinators.get(&id) else { return Ok(()) };
        if let Some((sender, _)) = node.taken_streams().find(|(_, stream)| self.forged_streams.contains(stream)) {
            return Err(Violation(format!("c{id} takes a stream as that of c{sender}, which a stranger has opened")));
        }
        if let Some(term) = node.term_if_leader() {
            self.invariants.quorum_leads(id, term)?;
        }
        let Some(image) = node.image().filter(|_| applied) else { return Ok(()) };
        self.ready.extend(image.brokers().filter(|broker| broker.ready).map(|broker| broker.incarnation));
        if image.revision() > self.image.revision() {
            releases::check_levels(image)?;
            let (before, image) = (self.image.clone(), image.clone());
            self.see_unclean_elections(&before, &image)?;
        }
        let Some(image) = self.coordinators.get(&id).and_then(CoordinatorNode::image) else { return Ok(()) };
        if image.revision() > self.image.revision() {
            check_reassignments(&self.image, image)?;
            balancing::check_new_topics(&self.image, image)?;
            balancing::check_new_voters(&self.image, image, &self.coordinators)?;
            self.check_waves(image)?;
            check_moves(&self.image, image, self.config.reassignments_per_broker_max)?;
            self.returns.see(&self.image, image, self.now);
            if self.config.leaders.rebalance_interval_s > 0 {
                self.returns.check(&self.image, image, self.now)?;
            }
            self.invariants.checks += 7;
            for id in self.coordinators.keys().copied().map(CoordinatorId) {
                if let Some(disk) = image.coordinator_disk(id)
                    && self.image.coordinator_disk(id) != Some(disk)
                {
                    self.disks_since.insert(id, self.now);
                }
            }
            self.image = image.clone();
            if self.invariants.has_lossy() {
                for (topic, (partition, state)) in
                    image.topics().flat_map(|topic| topic.partitions().map(move |one| (topic, one)))
                {
                    let partition = TopicIdPartition { topic_id: topic.id, partition };
                    self.invariants.reassigned(partition, &state.replicas);
                }
            }
        }
        if self.invariants.has_lossy() {
            for topic in image.topics() {
                for (partition, state) in topic.partitions() {
                    let partition = TopicIdPartition { topic_id: topic.id, partition };
                    // A sole member never left the ISR, and it cannot have caught up.
                    for member in state.isr.iter().filter(|_| state.isr.len() > 1) {
                        self.invariants.in_sync(partition, member.broker, member.epoch);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the quorum answers is decided: the coordinator that says so has applied it.
    pub(super) fn check_answers(&mut self, id: u64, sends: &[(NodeId, Message)]) -> Result<(), Violation> {
        let answers = sends.iter().filter_map(|(_, message)| match message {
            Message::ClusterAnswer { answer, .. } => answer.as_deref(),
            _ => None,
        });
        for answer in answers {
            self.invariants.checks += 1;
            let image = self.coordinators.get(&id).and_then(|node| node.image());
            let is_applied = match answer {
                Answer::Register(Ok(registered)) => {
                    image.is_some_and(|image| BrokerEpoch::from(image.revision()) >= registered.epoch)
                }
                Answer::AlterPartitions(altered) => altered.partitions.iter().all(|altered| {
                    let state = image.and_then(|image| image.partition(altered.partition));
                    state.is_none_or(|state| state.partition_epoch >= altered.partition_epoch)
                }),
                _ => true,
            };
            if !is_applied {
                return Err(Violation(format!("c{id} answers with what it has not applied: {answer:?}")));
            }
        }
        Ok(())
    }

    /// A follower that may fetch is in the fetcher of its leader (scenario 37). That it fetches again is asked when
    /// everything is healed: [`World::what_is_missing`].
    pub(super) fn check_fetchers(&mut self, id: i32) -> Result<(), Violation> {
        let Some(broker) = self.brokers.get(&id) else { return Ok(()) };
        for (partition, leader) in broker.may_fetch() {
            self.invariants.checks += 1;
            if !broker.fetcher_state(leader, partition).is_held {
                return Err(Violation(format!(
                    "b{id} follows b{leader} in partition {}, and does not fetch it any more",
                    partition.partition
                )));
            }
        }
        Ok(())
    }

    /// A replica whose disk does not answer gives up its leadership within a bound, where another member of the ISR can
    /// lead. To be asked while there are no other faults.
    pub fn check_stalled(&mut self) -> Result<(), Violation> {
        let image = &self.image;
        let is_active = |broker: BrokerId| image.broker(broker).is_some_and(|broker| broker.is_active());
        let mut leading = BTreeSet::new();
        for (id, broker) in &self.brokers {
            for partition in broker.held_up() {
                let Some(state) = image.partition(partition).filter(|state| state.leader.0 == *id) else { continue };
                let has_other = state.isr.iter().any(|member| member.broker.0 != *id && is_active(member.broker));
                if has_other && is_active(BrokerId(*id)) {
                    leading.insert((*id, partition));
                }
            }
        }
        self.held_leaders.retain(|leader, _| leading.contains(leader));
        for leader in leading {
            self.invariants.checks += 1;
            let since = *self.held_leaders.entry(leader).or_insert(self.now);
            if self.now >= since.plus_ms(STALLED_MAX_MS) {
                return Err(Violation(format!(
                    "b{} leads partition {} since {since}, though its disk does not answer",
                    leader.0, leader.1.partition
                )));
            }
        }
        Ok(())
    }

    /// An image never goes back (scenario 22).
    pub(super) fn check_image(&mut self, id: i32) -> Result<(), Violation> {
        let life = self.life(NodeId::Broker(id));
        let Some(revision) = self.brokers.get(&id).and_then(BrokerNode::image).map(Image::revision) else {
            return Ok(());
        };
        if let Some(epoch) = self.brokers.get(&id).and_then(BrokerNode::active_epoch) {
            self.registrations.insert(id, epoch);
        }
        match self.image_revisions.insert(id, (life, revision)) {
            Some((former, known)) if former == life && known > revision => {
                Err(Violation(format!("the image of b{id} went back from {known} to {revision}")))
            }
            _ => {
                self.check_secured_image(id)?;
                self.check_lag(id)
            }
        }
    }

    pub(super) fn check_fact(&mut self, node: NodeId, fact: &Fact) -> Result<(), Violation> {
        let NodeId::Broker(id) = node else { return Ok(()) };
        let life = self.life(node);
        let Some(broker) = self.brokers.get(&id) else { return Ok(()) };
        let view = |partition: &TopicIdPartition| {
            broker.replica(*partition).map(|replica| Replica { broker: BrokerId(id), life, content: &replica.content })
        };
        match fact {
            Fact::Leads { partition, leader_epoch } => match view(partition) {
                Some(replica) => self.invariants.leads(*partition, *leader_epoch, replica),
                None => Ok(()),
            },
            Fact::HighWatermark { partition, leader_epoch, offset } => match view(partition) {
                Some(replica) => self.invariants.high_watermark(*partition, *leader_epoch, *offset, replica),
                None => Ok(()),
            },
            Fact::Appended { partition, from } => match view(partition) {
                Some(replica) => {
                    self.invariants.appended(*partition, replica, *from)?;
                    self.check_intruder(id, *partition, *from)
                }
                None => Ok(()),
            },
            Fact::Acknowledged { partition, leader_epoch, first, next, record, min_isr } => match view(partition) {
                Some(replica) => {
                    if replica.content.get(*first) != record.as_ref() {
                        return Err(Violation(format!(
                            "b{id} acknowledged the record at {first} of partition {}, and its log has another there: \
                             {:?}, not {record:?}",
                            partition.partition,
                            replica.content.get(*first)
                        )));
                    }
                    self.invariants.acknowledged(*partition, *leader_epoch, *first..*next, *min_isr, replica)
                }
                None => Ok(()),
            },
            Fact::Opened { partition, content } => {
                let replica = Replica { broker: BrokerId(id), life, content };
                self.invariants.opened(*partition, replica, broker.last_content(*partition))
            }
            Fact::Began { partition } if broker.must_hold(*partition) => Err(Violation(format!(
                "b{id} begins an empty log of partition {}, though a disk of it holds one",
                partition.partition
            ))),
            Fact::Began { partition } => {
                self.invariants.began(*partition, BrokerId(id));
                Ok(())
            }
            Fact::LogsOffline => {
                self.note_power_loss(id);
                Ok(())
            }
            Fact::Serves { incarnation } if !self.ready.contains(incarnation) => {
                Err(Violation(format!("b{id} serves clients, and the quorum has no registration of it that is ready")))
            }
            Fact::Serves { .. } => {
                self.invariants.checks += 1;
                Ok(())
            }
            Fact::Checked(checked) => self.check_decision(id, checked),
            Fact::LoggedIn(login) => self.check_login(id, login),
            Fact::Broken { what } => Err(Violation(format!("b{id}: {what}"))),
        }
    }
}

/// A reassignment ends with its target, all of it in the ISR, or with the replicas before.
fn check_reassignments(before: &Image, now: &Image) -> Result<(), Violation> {
    for id in before.reassigning() {
        let (Some(old), Some(new)) = (before.partition(id), now.partition(id)) else { continue };
        // What lies between them was not seen.
        if new.is_reassigning() || new.partition_epoch != old.partition_epoch.next() {
            continue;
        }
        let original = old.assignment().original();
        let is_whole = new.replicas.iter().all(|broker| new.in_isr(*broker));
        let is_back = new.replicas.iter().all(|broker| original.contains(broker));
        if !is_whole && !is_back {
            return Err(Violation(format!("the reassignment of {id:?} ended half-way: {old:?} became {new:?}")));
        }
    }
    Ok(())
}

/// No broker gets more replicas at once than it may, whatever plans there are.
fn check_moves(before: &Image, now: &Image, most: usize) -> Result<(), Violation> {
    let moved = |image: &Image| {
        let mut counts: BTreeMap<BrokerId, usize> = BTreeMap::new();
        let states = image.reassigning().filter_map(|id| image.partition(id));
        for broker in states.flat_map(|state| state.adding().iter().copied()) {
            *counts.entry(broker).or_default() += 1;
        }
        counts
    };
    let known = moved(before);
    for (broker, count) in moved(now) {
        if count > most.max(known.get(&broker).copied().unwrap_or(0)) {
            return Err(Violation(format!("{count} partitions are moved to b{broker} at once, more than {most}")));
        }
    }
    Ok(())
}
