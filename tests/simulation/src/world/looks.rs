//! Looks at the whole cluster.

use ottla_metadata::PartitionState;

use super::*;

impl World {
    /// None before the first entry is applied.
    pub fn newest_image(&self) -> Option<&Image> {
        (self.image.revision() > Revision(0)).then_some(&self.image)
    }

    pub fn newest_revision(&self) -> Revision {
        self.newest_image().map_or(Revision(0), Image::revision)
    }

    /// All partitions of the topics, as the newest image has them.
    pub fn partitions(&self) -> Vec<TopicIdPartition> {
        let Some(image) = self.newest_image() else { return Vec::new() };
        image
            .topics()
            .flat_map(|topic| {
                topic.partitions().map(|(partition, _)| TopicIdPartition { topic_id: topic.id, partition })
            })
            .collect()
    }

    /// Those of which the newest image has a reassignment, under way or waiting.
    pub fn reassigning(&self) -> Vec<TopicIdPartition> {
        self.newest_image().into_iter().flat_map(|image| image.reassigning().chain(image.queued())).collect()
    }

    /// The broker that leads by the newest image.
    pub fn leader_of(&self, partition: TopicIdPartition) -> Option<i32> {
        let state = self.newest_image()?.partition(partition)?;
        state.has_leader().then_some(state.leader.0)
    }

    /// None if the cluster is as it should be: every ISR full, every log equal, every HW at the log's end, every
    /// member of the quorum (but one that lost its disk) at the same revision.
    pub fn what_is_missing(&self) -> Option<String> {
        let revision = self.newest_revision();
        for (id, coordinator) in &self.coordinators {
            if self.has_lost_disk(*id) || self.was_removed(*id) {
                continue;
            }
            match coordinator.tree() {
                Some(tree) if tree.revision() == revision => {}
                Some(tree) => return Some(format!("c{id} is at {} of {revision}", tree.revision())),
                None => return Some(format!("c{id} does not run")),
            }
        }
        if !self.coordinators.values().any(CoordinatorNode::is_leading) {
            return Some("no coordinator leads".to_owned());
        }
        let image = self.newest_image()?;
        for (id, broker) in &self.brokers {
            let Some(own) = broker.image() else { return Some(format!("b{id} does not run")) };
            if own.revision() != revision {
                return Some(format!("b{id} is at {} of {revision}", own.revision()));
            }
            if broker.active_epoch().is_none() {
                return Some(format!("b{id} is not registered"));
            }
            if let Some((partition, leader)) = broker.may_fetch().find(|(partition, leader)| {
                !broker.fetcher_state(*leader, *partition).is_fetching && !self.has_rot(*leader, *partition)
            }) {
                return Some(format!("b{id} may fetch partition {} from b{leader} and does not", partition.partition));
            }
        }
        if !self.admin.is_empty() {
            return Some("the admin waits".to_owned());
        }
        for topic in image.topics() {
            for (number, state) in topic.partitions() {
                let partition = TopicIdPartition { topic_id: topic.id, partition: number };
                if self.is_for_people(partition, state) {
                    continue;
                }
                let name = format!("{}-{number}", topic.name);
                if !state.has_leader() {
                    return Some(format!("{name} has no leader: {state:?}"));
                }
                if let Some(reassignment) = &state.reassignment {
                    return Some(format!("{name} is still reassigned: {reassignment:?} of {:?}", state.replicas));
                }
                // One that people have to mend keeps its turn.
                if let Some(target) = topic.queued(number).filter(|_| self.for_people() == 0) {
                    return Some(format!("{name} still waits to become {target:?} of {:?}", state.replicas));
                }
                if state.isr.len() != state.replicas.len() {
                    return Some(format!("{name} has ISR {:?} of {:?}", state.isr, state.replicas));
                }
                if self.config.leaders.rebalance_interval_s > 0 && state.is_imbalanced() {
                    return Some(format!("{name} is led by b{}, not by b{}", state.leader, state.preferred_leader()));
                }
                if let Some(what) = self.replica_differs(partition, &state.replicas, state.leader) {
                    return Some(format!("{name}: {what}"));
                }
            }
        }
        if let Some(what) = self.security_is_missing() {
            return Some(what);
        }
        if self.is_balancing() && self.for_people() == 0 {
            return Some("the admin balances".to_owned());
        }
        None
    }

    /// Partitions that nobody can lead without losing records, where that is neither enabled nor demanded, or whose
    /// leader's disk holds other bytes than were written: its followers refuse them.
    pub fn for_people(&self) -> usize {
        let Some(image) = self.newest_image() else { return 0 };
        let partitions = self.partitions();
        let states = partitions.iter().filter_map(|id| image.partition(*id).map(|state| (*id, state)));
        states.filter(|(id, state)| self.is_for_people(*id, state)).count()
    }

    fn has_rot(&self, broker: BrokerId, partition: TopicIdPartition) -> bool {
        let replica = self.brokers.get(&broker.0).and_then(|node| node.replica(partition));
        replica.is_some_and(|replica| replica.rot.is_some())
    }

    fn is_for_people(&self, partition: TopicIdPartition, state: &PartitionState) -> bool {
        let replica = |broker: BrokerId| self.brokers.get(&broker.0)?.replica(partition);
        if state.has_leader() {
            return self.has_rot(state.leader, partition);
        }
        // Where it is enabled, whoever can read its log and did not lose it must be elected. Who could not read it in
        // its present registration is not, although it has begun a new log since.
        let could_not_read = |broker: BrokerId| {
            let registered = self.newest_image().and_then(|image| image.broker(broker));
            registered.is_some_and(|registered| state.is_offline(broker, registered.epoch))
        };
        let may_lack = |broker: BrokerId| {
            let is_lost = state.isr_member(broker).is_some_and(|member| member.is_lost());
            !is_lost && !could_not_read(broker) && replica(broker).is_some_and(|replica| !replica.is_offline())
        };
        if self.elects_uncleanly() && state.replicas.iter().copied().any(may_lack) {
            return false;
        }
        // The tree counts on it, it can be read, and it has everything: it must be elected.
        let may_lead = |broker: BrokerId| {
            replica(broker).is_some_and(|replica| {
                !replica.is_offline() && self.invariants.holds_committed(partition, &replica.content)
            })
        };
        let members = state.isr.iter().filter(|member| !member.is_lost()).map(|member| member.broker);
        !members.chain(state.elr.iter().copied()).any(may_lead)
    }

    pub(super) fn replica_differs(
        &self,
        partition: TopicIdPartition,
        replicas: &[BrokerId],
        leader: BrokerId,
    ) -> Option<String> {
        let of = |broker: BrokerId| self.brokers.get(&broker.0).and_then(|node| node.replica(partition));
        let Some(leading) = of(leader) else { return Some(format!("b{leader} has no replica")) };
        if leading.leader().is_none() {
            return Some(format!("b{leader} does not lead"));
        }
        let end = leading.log_end();
        if leading.core.last_stable_offset() != Some(end) && !self.invariants.is_exempt(partition) {
            return Some(format!("b{leader} has open transactions from {:?} on", leading.core.last_stable_offset()));
        }
        for &broker in replicas {
            let Some(replica) = of(broker) else { return Some(format!("b{broker} has no replica")) };
            if replica.log_end() != end {
                return Some(format!("b{broker} ends at {} of {end}", replica.log_end()));
            }
            if replica.high_watermark() != end {
                return Some(format!("b{broker} has HW {} of {end}", replica.high_watermark()));
            }
            // What lies before is deleted at one of them.
            let from = replica.log_start().max(leading.log_start());
            if !replica.content.iter_from(from).eq(leading.content.iter_from(from)) {
                return Some(format!("b{broker} holds other records than b{leader}"));
            }
        }
        None
    }
}
