//! The admin, who creates and deletes topics, and what clients are told.

use super::*;

impl World {
    pub fn create_topic(&mut self, topic: &str) {
        self.admin.push(AdminTask::Create { topic: topic.to_owned() });
        self.topics.insert(topic.to_owned());
    }

    pub fn delete_topic(&mut self, topic: &str) {
        self.admin.push(AdminTask::Delete { topic: topic.to_owned() });
    }

    /// A partition gets these replicas; none cancels its reassignment.
    pub fn reassign(&mut self, partition: TopicIdPartition, target: Option<Vec<BrokerId>>) {
        let Some(topic) = self.image.topic_by_id(partition.topic_id) else { return };
        let topic = topic.name.as_str().to_owned();
        self.trace.line(self.now, format_args!("admin: {topic}-{} is to have {target:?}", partition.partition));
        self.admin.push(AdminTask::Reassign { topic, partition: partition.partition, target });
    }

    /// All partitions of the topics are to have these replicas, at once.
    pub fn reassign_all(&mut self, target: &[BrokerId]) {
        let topics = self.image.topics().map(|topic| {
            let name = topic.name.as_str().to_owned();
            (name, topic.partitions().map(|(number, _)| (number, Some(target.to_vec()))).collect())
        });
        let topics = topics.collect();
        self.trace.line(self.now, format_args!("admin: every partition is to have {target:?}"));
        self.admin.push(AdminTask::ReassignAll { topics });
    }

    pub fn elect_preferred(&mut self) {
        self.returns.may_be_demanded = true;
        self.admin.push(AdminTask::ElectPreferred);
    }

    /// Partitions without a leader are to get one, whatever it lacks.
    pub fn elect_unclean(&mut self) {
        self.admin.push(AdminTask::ElectUnclean);
    }

    pub fn is_admin_done(&self) -> bool {
        self.admin.is_empty()
    }

    pub(super) fn tick_admin(&mut self, out: &mut Outbox) {
        self.step_balancing();
        if self.admin.is_empty() || self.now < self.admin_sent.plus_ms(ADMIN_RETRY_MS) && self.admin_sent.0 > 0 {
            return;
        }
        self.admin_sent = self.now;
        let Some(task) = self.admin.first() else { return };
        let request = match task {
            AdminTask::Create { topic } => Request::CreateTopics(CreateTopics {
                topics: vec![NewTopic {
                    name: topic.clone(),
                    partitions: self.config.partitions,
                    replication_factor: self.config.replication_factor,
                    grows_to: 0,
                    assignments: Vec::new(),
                    configs: self.topic_configs(),
                }],
                validate_only: false,
                default_partitions: 1,
                default_replication_factor: 1,
            }),
            AdminTask::Delete { topic } => {
                Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name(topic.clone())] })
            }
            AdminTask::ElectPreferred => {
                Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics: None })
            }
            AdminTask::ElectUnclean => {
                Request::ElectLeaders(ElectLeaders { election: ElectionType::Unclean, topics: None })
            }
            AdminTask::ChangeQuorum(change) => Request::ChangeQuorum(change.clone()),
            AdminTask::Cordon { broker, is_cordoned } => {
                Request::AlterConfigs(Self::cordon_request(*broker, *is_cordoned))
            }
            AdminTask::ChangeLevel(level) => self.level_request(*level),
            AdminTask::ChangeToken { is_made } => releases::token_request(*is_made),
            AdminTask::ReassignAll { topics } => Request::AlterReassignments(AlterReassignments {
                topics: topics.clone(),
                allow_replication_factor_change: true,
            }),
            AdminTask::Reassign { topic, partition, target } => Request::AlterReassignments(AlterReassignments {
                topics: vec![(topic.clone(), vec![(*partition, target.clone())])],
                allow_replication_factor_change: true,
            }),
        };
        self.next_call += 1;
        let call = CallId(self.next_call);
        out.send(NodeId::Coordinator(self.admin_target), Message::Cluster { call, request: Arc::new(request) });
        // The answer, if it comes, knows better.
        let next = self.coordinators.range(self.admin_target + 1..).next().or(self.coordinators.first_key_value());
        self.admin_target = next.map_or(1, |(id, _)| *id);
    }

    fn topic_configs(&self) -> Vec<(String, Option<String>)> {
        let unclean =
            self.config.unclean_election.map(|enabled| ("unclean.leader.election.enable", enabled.to_string()));
        let set = std::iter::once(("min.insync.replicas", self.config.min_isr.to_string())).chain(unclean);
        set.map(|(name, value)| (name.to_owned(), Some(value))).collect()
    }

    pub(super) fn admin_answered(&mut self, message: Message) {
        let Message::ClusterAnswer { call, answer, leader } = message else { return };
        if call.0 != self.next_call || self.admin.is_empty() {
            return;
        }
        if let Some(leader) = leader {
            self.admin_target = leader.0;
        }
        let Some(answer) = answer else { return };
        if let Answer::ChangeQuorum(changed) = *answer {
            return self.quorum_changed(changed.err());
        }
        if let Answer::AlterReassignments(outcomes) | Answer::ElectLeaders(outcomes) = *answer {
            for refusal in
                outcomes.topics.iter().flat_map(|(_, decided)| decided).filter_map(|one| one.refusal.as_ref())
            {
                self.trace.line(self.now, format_args!("admin: {refusal}"));
            }
            if matches!(self.admin.remove(0), AdminTask::ElectUnclean) {
                self.unclean.demanded(self.now);
            }
            self.admin_sent = SimTime(0);
            return;
        }
        if let Answer::UpdateFeatures(Err(refusal)) | Answer::AlterDelegationToken(Err(refusal)) = &*answer {
            self.trace.line(self.now, format_args!("admin: {refusal}"));
        }
        if let Answer::AlterConfigs(_) | Answer::UpdateFeatures(_) | Answer::AlterDelegationToken(_) = *answer {
            self.admin.remove(0);
            self.admin_sent = SimTime(0);
            return;
        }
        let (Answer::CreateTopics(outcomes) | Answer::DeleteTopics(outcomes)) = *answer else { return };
        let Some(outcome) = outcomes.topics.first() else { return };
        use ottla_model::ErrorCode::{TopicAlreadyExists, UnknownTopicOrPartition};
        let is_done = match &outcome.refusal {
            None => true,
            // The answer to an earlier attempt was lost.
            Some(refusal) => matches!(refusal.error, TopicAlreadyExists | UnknownTopicOrPartition),
        };
        if let Some(refusal) = &outcome.refusal {
            self.trace.line(self.now, format_args!("admin: {refusal}"));
        }
        if is_done {
            self.admin.remove(0);
            self.admin_sent = SimTime(0);
        }
    }

    /// Clients write to and read from what the newest image shows.
    pub(super) fn tell_clients(&mut self) {
        let revision = self.newest_revision();
        if revision == self.clients_know {
            return;
        }
        self.clients_know = revision;
        let partitions = self.partitions();
        for producer in self.producers.values_mut() {
            producer.set_partitions(&partitions);
        }
        for consumer in self.consumers.values_mut() {
            consumer.set_partitions(&partitions);
        }
        for transactor in self.transactors.values_mut() {
            transactor.set_partitions(&partitions);
        }
    }
}
