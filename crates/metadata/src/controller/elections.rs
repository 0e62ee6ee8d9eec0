//! Elections on demand (ElectLeaders), and the return of leaderships to preferred replicas.
//!
//! A broker that came back leads again in the ISR change with which it is in sync again (see `alter_partition`). What
//! that misses, for example a replica that was in the ISR all the time, is found at intervals. A broker whose session
//! ended without a controlled shutdown leads its partitions again only after [`RETURN_PAUSE`] (ADR 0070).

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, PartitionId, Revision, TopicIdPartition};

use super::draft::Draft;
use super::work_queue::{PARTITIONS_PER_TRANSACTION, Progress, Work};
use super::{Answer, Controller, ElectLeaders, ElectionType, PartitionOutcome, PartitionOutcomes, Refusal, RequestId};
use crate::delta::{self, Delta};
use crate::election::{PartitionChange, Unclean};
use crate::image::{BrokerRegistration, LeaderSettings, PartitionState, TopicImage};
use crate::limits;
use crate::nodes;

/// Partitions of one entry that are named in the log when their elections are unclean. The rest is a number.
const MAX_NAMED_IN_LOG: usize = 10;

/// How long a broker that came back from an end without a controlled shutdown is ready before leaderships that it is
/// preferred for return to it. Clients that found its address refused wait before they connect there again, and stand
/// still if it leads meanwhile. librdkafka's waits are the longest: up to 10 s (`reconnect.backoff.max.ms`).
pub const RETURN_PAUSE: Duration = Duration::from_secs(10);

/// A batch of decisions that grows into transactions of bounded size.
struct Batch {
    draft: Draft,
    partitions: Vec<TopicIdPartition>,
}

impl Controller {
    pub(super) fn elect_leaders(&mut self, id: RequestId, request: ElectLeaders) {
        let named = request.topics.as_ref().map_or(0, |topics| topics.iter().map(|(_, named)| named.len()).sum());
        let is_too_large = named > limits::MAX_ITEMS_PER_REQUEST;
        let topics = match request.topics {
            Some(topics) => topics,
            None => self.needing(request.election),
        };
        let mut batch = Batch { draft: Draft::default(), partitions: Vec::new() };
        let mut outcomes = Vec::with_capacity(topics.len());
        for (topic, partitions) in topics {
            let mut decided = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let outcome = match is_too_large {
                    true => Err(Refusal::new(ErrorCode::PolicyViolation, String::new())),
                    false => self.elect_one(&mut batch, &topic, partition, request.election),
                };
                decided.push(PartitionOutcome { partition, refusal: outcome.err() });
            }
            outcomes.push((topic, decided));
        }
        self.propose(batch.draft);
        self.answer(id, Answer::ElectLeaders(PartitionOutcomes { topics: outcomes, revision: Revision(0) }));
    }

    /// Every partition that an election of this type could help.
    fn needing(&self, election: ElectionType) -> Vec<(String, Vec<PartitionId>)> {
        let ahead = self.ledger.ahead();
        let partitions: Vec<_> = match election {
            ElectionType::Preferred => ahead.imbalanced().chain(ahead.leaderless()).collect(),
            ElectionType::Unclean => ahead.leaderless().collect(),
        };
        let mut topics: BTreeMap<&str, Vec<PartitionId>> = BTreeMap::new();
        for partition in partitions {
            let Some(topic) = ahead.topic_by_id(partition.topic_id) else { continue };
            topics.entry(topic.name.as_str()).or_default().push(partition.partition);
        }
        topics.into_iter().map(|(topic, partitions)| (topic.to_owned(), partitions)).collect()
    }

    fn elect_one(
        &mut self,
        batch: &mut Batch,
        topic: &str,
        partition: PartitionId,
        election: ElectionType,
    ) -> Result<(), Refusal> {
        if batch.partitions.len() >= PARTITIONS_PER_TRANSACTION {
            batch.partitions.clear();
            self.propose(std::mem::take(&mut batch.draft));
        }
        let ahead = self.ledger.ahead();
        let unknown = |text: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, text);
        let image = ahead.topic(topic).ok_or_else(|| unknown(format!("No such topic as {topic}")))?;
        let state =
            image.partition(partition).ok_or_else(|| unknown(format!("No such partition as {topic}-{partition}")))?;
        let id = TopicIdPartition { topic_id: image.id, partition };
        let is_needed = match election {
            ElectionType::Preferred => state.leader != state.preferred_leader(),
            ElectionType::Unclean => !state.has_leader(),
        };
        // Named twice: the election of the first is in the draft already.
        if !is_needed || batch.partitions.contains(&id) {
            return Err(Refusal::new(ErrorCode::ElectionNotNeeded, String::new()));
        }
        let next = match election {
            ElectionType::Preferred => self.balanced(image, state).filter(|next| !next.is_imbalanced()),
            ElectionType::Unclean => {
                let change = PartitionChange::new(state).unclean(Unclean::Demanded);
                change.build(&self.electorate(image), ahead.controller_epoch())
            }
        };
        let Some(next) = next.filter(PartitionState::has_leader) else {
            let error = match election {
                ElectionType::Preferred => ErrorCode::PreferredLeaderNotAvailable,
                ElectionType::Unclean => ErrorCode::EligibleLeadersNotAvailable,
            };
            return Err(Refusal::new(error, String::new()));
        };
        batch.draft.partition(self.ledger.ahead_tree(), ahead, id, &next);
        batch.partitions.push(id);
        Ok(())
    }

    /// The state with the preferred replica as the leader; none if that changes nothing.
    pub(super) fn balanced(&self, topic: &TopicImage, state: &PartitionState) -> Option<PartitionState> {
        let change = PartitionChange::new(state).preferred(self.config.rules.preferred_may_lag);
        change.build(&self.electorate(topic), self.ledger.ahead().controller_epoch())
    }

    /// Whether leaderships that this broker is preferred for return to it by themselves.
    pub(super) fn returns_leaderships(&self, broker: BrokerId) -> bool {
        let registration = self.ledger.ahead().broker(broker);
        registration.is_some_and(|registration| {
            let is_awaited = registration.awaits_clients && !self.config.rules.abrupt_end_has_no_pause;
            registration.leaders.rebalance_interval_s > 0 && !is_awaited
        })
    }

    /// Whether a broker that registers gets its leaderships back only after a pause.
    pub(super) fn awaits_clients(&self, broker: BrokerId, leaders: LeaderSettings) -> bool {
        let memory = self.ledger.ahead().broker_memory(broker);
        leaders.rebalance_interval_s > 0 && memory.is_some_and(|memory| memory.ended_abruptly)
    }

    /// Ends the pauses that are over; their brokers lead again where they are in sync. A pause is counted from the time
    /// at which this controller knows that the broker is ready: the next controller counts again.
    pub(super) fn end_pauses(&mut self) {
        let (ahead, tree) = (self.ledger.ahead(), self.ledger.ahead_tree());
        let waiting = || ahead.brokers().filter(|broker| broker.awaits_clients && broker.is_active());
        self.pauses.retain(|(id, epoch), _| waiting().any(|broker| broker.id == *id && broker.epoch == *epoch));
        let now = self.now.monotonic;
        let mut over = Vec::new();
        for broker in waiting() {
            let until = *self.pauses.entry((broker.id, broker.epoch)).or_insert(now + RETURN_PAUSE);
            if until <= now {
                over.push(broker.clone());
            }
        }
        if over.is_empty() {
            return;
        }
        let mut draft = Draft::default();
        for broker in &over {
            let registration = BrokerRegistration { awaits_clients: false, ..(**broker).clone() };
            draft.put(tree, nodes::broker::path(broker.id), nodes::broker::encode(&registration));
        }
        self.propose(draft);
        for broker in over {
            self.work.begin_again(Work::Balance(broker.id));
            self.note(format!(
                "broker {} leads its partitions again, {} s after it came back",
                broker.id,
                RETURN_PAUSE.as_secs()
            ));
        }
    }

    /// Looks for leaderships that could return, at the shortest interval of all live brokers.
    pub(super) fn balance_if_due(&mut self) {
        let intervals = self.ledger.image().brokers().map(|broker| broker.leaders.rebalance_interval_s);
        let Some(interval_s) = intervals.filter(|interval| *interval > 0).min() else {
            self.balance_at = None;
            return;
        };
        let next = self.now.monotonic + Duration::from_secs(u64::from(interval_s));
        match self.balance_at {
            Some(at) if at <= self.now.monotonic => {
                for broker in self.imbalanced_brokers() {
                    if !self.work.contains(Work::Balance(broker)) {
                        self.work.push(Progress::new(Work::Balance(broker)));
                    }
                }
                self.balance_at = Some(next);
            }
            Some(at) if at <= next => {}
            _ => self.balance_at = Some(next),
        }
    }

    /// The brokers that others lead too many partitions for (Kafka's `leader.imbalance.per.broker.percentage`).
    fn imbalanced_brokers(&self) -> Vec<BrokerId> {
        let ahead = self.ledger.ahead();
        let preferred = |id: TopicIdPartition| ahead.partition(id).map(|state| state.preferred_leader());
        let mut led_by_others: BTreeMap<BrokerId, usize> = BTreeMap::new();
        for broker in ahead.imbalanced().filter_map(preferred) {
            *led_by_others.entry(broker).or_default() += 1;
        }
        led_by_others.retain(|broker, others| {
            let Some(registration) = ahead.broker(*broker) else { return false };
            let percent = usize::from(registration.leaders.imbalance_percent);
            let all = || ahead.index.hosted(*broker).filter(|id| preferred(*id) == Some(*broker)).count();
            percent == 0 || *others * 100 > percent * all()
        });
        led_by_others.into_keys().collect()
    }

    /// Unclean elections that are committed now: who leads, and which replicas may have had more records.
    pub(super) fn report_unclean_elections(&mut self, delta: &Delta) {
        self.tell_unclean_elections(delta.partitions.iter().filter_map(unclean_election).collect());
    }

    /// At the beginning of a term: the leader before may have ended before it told of elections that are not long ago.
    pub(super) fn report_recovering(&mut self) {
        let states = self.ledger.image().topics().flat_map(|topic| {
            topic
                .partitions()
                .filter(|(_, state)| state.is_recovering() && state.has_leader())
                .map(move |state| (topic, state))
        });
        let recovering = states.map(|(topic, (partition, state))| {
            format!(
                "unclean election: broker {} leads {}-{partition} in leader epoch {}; it was elected before this \
                 coordinator led, and records that only others have are lost",
                state.leader, topic.name, state.leader_epoch
            )
        });
        self.tell_unclean_elections(recovering.collect());
    }

    fn tell_unclean_elections(&mut self, unclean: Vec<String>) {
        if unclean.is_empty() || self.config.rules.unclean_is_not_told {
            return;
        }
        let not_named = unclean.len().saturating_sub(MAX_NAMED_IN_LOG);
        self.effects.unclean_elections += u64::try_from(unclean.len()).unwrap_or(u64::MAX);
        for text in unclean.into_iter().take(MAX_NAMED_IN_LOG) {
            self.warn(text);
        }
        if not_named > 0 {
            self.warn(format!("unclean leader elections of {not_named} further partitions"));
        }
    }
}

/// The line for the log, if this change is an unclean election.
fn unclean_election(change: &delta::PartitionChange) -> Option<String> {
    let (old, new) = (change.old.as_deref()?, change.new.as_deref()?);
    // It led before, or was in sync: one that comes back before it has changed its ISR is still recovering.
    let is_trusted =
        old.isr_member(new.leader).is_some_and(|member| !member.is_lost()) || old.elr.contains(&new.leader);
    if !new.is_recovering() || new.leader_epoch == old.leader_epoch || !new.has_leader() || is_trusted {
        return None;
    }
    let list = |brokers: Vec<BrokerId>| brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let isr = list(old.isr_ids().filter(|broker| *broker != new.leader).collect());
    Some(format!(
        "unclean election: broker {} leads {}-{} in leader epoch {}; records that only the former ISR [{isr}] or ELR \
         [{}] has are lost",
        new.leader,
        change.topic,
        change.partition,
        new.leader_epoch,
        list(old.elr.clone()),
    ))
}
