//! A member of a consumer group that reads topics: begins at the committed positions, commits every few seconds,
//! before it gives its share up, and at the end.
//!
//! The committed position covers the records that were returned to the caller: a record counts as read when the next
//! one is requested. With a named partition the consumer is no member, as with Kafka's consumers: it reads that
//! partition and commits its offset for the group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_client::{Beat, CommittedOffset, Committer, Membership, MembershipConfig};
use ottla_model::{ErrorCode, Offset, PartitionId, TopicName, TopicPartition};
use tokio::time::Instant;

use crate::consumer::{Incoming, Position, Reading, Settings, Topics};
use crate::err;
use crate::kafka::{Kafka, KafkaError};

/// How a member behaves. The defaults are those of Kafka's consumer.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    pub group: String,
    /// `group.instance.id`, for a static member.
    pub instance: Option<String>,
    /// None commits nothing.
    pub commit_every: Option<Duration>,
    /// Reading begins at the committed positions, where there are any.
    pub begins_at_commit: bool,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub rebalance_timeout: Duration,
}

impl GroupSettings {
    pub fn new(group: &str) -> Self {
        let defaults = MembershipConfig::new(group, Vec::new());
        Self {
            group: group.to_owned(),
            instance: None,
            commit_every: Some(Duration::from_secs(5)),
            begins_at_commit: true,
            session_timeout: defaults.session_timeout,
            heartbeat_interval: defaults.heartbeat_interval,
            rebalance_timeout: defaults.rebalance_timeout,
        }
    }
}

/// How often a group's leader looks whether the topic has got more partitions.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long the last commit is tried again while the coordinator moves, and new partitions are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries of either, and to take a share.
const PAUSE: Duration = Duration::from_millis(100);

pub struct GroupConsumer {
    kafka: Kafka,
    topics: Topics,
    /// Those of the last look.
    names: Vec<String>,
    settings: Settings,
    group: GroupSettings,
    /// None if a partition was named.
    membership: Option<Membership>,
    /// None between two shares.
    reading: Option<Reading>,
    /// Whether there is nothing in the share: then no record is waited for.
    is_idle: bool,
    /// How far the caller has read, as it would be committed.
    positions: BTreeMap<TopicPartition, CommittedOffset>,
    /// The committed part of these positions.
    committed: BTreeMap<TopicPartition, Offset>,
    next_commit: Instant,
    next_look: Instant,
    /// How long the group has taken to give out shares.
    joining: Duration,
    /// The partitions of the share, until they are given up.
    share: Vec<TopicPartition>,
    listener: Option<Listener>,
}

/// A change of a member's share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareChange {
    Assigned,
    Revoked,
}

/// Is told of each change at once, with the partitions.
type Listener = Box<dyn FnMut(ShareChange, &[TopicPartition])>;

impl GroupConsumer {
    /// It joins when the first record is requested.
    pub async fn open(kafka: &Kafka, topics: Topics, settings: Settings) -> Result<Self, KafkaError> {
        let names = topics.names(kafka).await?;
        let group = settings.group.clone().unwrap_or_else(|| GroupSettings::new(""));
        let membership = settings.partition.is_none().then(|| {
            let config = MembershipConfig {
                instance: group.instance.clone(),
                session_timeout: group.session_timeout,
                rebalance_timeout: group.rebalance_timeout,
                heartbeat_interval: group.heartbeat_interval,
                ..MembershipConfig::new(&group.group, names.clone())
            };
            Membership::new(kafka.client().clone(), config)
        });
        let now = Instant::now();
        Ok(Self {
            kafka: kafka.clone(),
            topics,
            names,
            settings,
            group,
            membership,
            reading: None,
            is_idle: false,
            positions: BTreeMap::new(),
            committed: BTreeMap::new(),
            next_commit: now,
            next_look: now,
            joining: Duration::ZERO,
            share: Vec::new(),
            listener: None,
        })
    }

    pub fn listen(&mut self, listener: impl FnMut(ShareChange, &[TopicPartition]) + 'static) {
        self.listener = Some(Box::new(listener));
    }

    fn assigned(&mut self, share: Vec<TopicPartition>) {
        self.share = share;
        if let Some(listener) = &mut self.listener {
            listener(ShareChange::Assigned, &self.share);
        }
    }

    fn give_up_share(&mut self) {
        self.reading = None;
        let share = std::mem::take(&mut self.share);
        if let Some(listener) = self.listener.as_mut().filter(|_| !share.is_empty()) {
            listener(ShareChange::Revoked, &share);
        }
    }

    /// How long the member has spent on getting its shares.
    pub fn joining(&self) -> Duration {
        self.joining
    }

    /// The next record if it is there and nothing else is due.
    pub fn try_next(&mut self) -> Option<Result<Incoming, KafkaError>> {
        if self.due() <= Instant::now() {
            return None;
        }
        let next = self.reading.as_mut()?.try_next()?;
        Some(self.handed_out(next))
    }

    pub async fn next(&mut self) -> Result<Option<Incoming>, KafkaError> {
        loop {
            if self.reading.is_none() {
                match self.take_share().await {
                    // The brokers of a share may be away: a member waits for them, as Kafka's do. A topic that is not
                    // there may be misspelt.
                    Err(error)
                        if !self.settings.exit_at_end
                            && error.may_pass()
                            && !error.is(ErrorCode::UnknownTopicOrPartition) =>
                    {
                        err!("the share of group {} cannot be read now: {error}", self.group.group);
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    taken => taken?,
                }
            }
            let due = self.due();
            let (reading, is_idle) = (&mut self.reading, self.is_idle);
            let record = async {
                match reading {
                    Some(reading) if !is_idle => reading.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => self.upkeep().await?,
                record = record => return match record {
                    Some(record) => self.handed_out(record).map(Some),
                    None => Ok(None),
                },
            }
        }
    }

    fn handed_out(&mut self, record: Result<Incoming, KafkaError>) -> Result<Incoming, KafkaError> {
        let record = record?;
        let at = TopicPartition::new(record.topic.clone(), record.partition);
        let mut position = CommittedOffset::from(Offset(record.record.offset.0 + 1));
        position.leader_epoch = Some(record.leader_epoch);
        self.positions.insert(at, position);
        Ok(record)
    }

    fn due(&self) -> Instant {
        let commit = self.group.commit_every.map(|_| self.next_commit);
        let beat = self.membership.as_ref().map(Membership::heartbeat_due);
        commit.into_iter().chain(beat).min().unwrap_or_else(|| Instant::now() + LOOK_EVERY)
    }

    /// Joins, finds out where to begin, and begins.
    async fn take_share(&mut self) -> Result<(), KafkaError> {
        let began = Instant::now();
        let share: Vec<TopicPartition> = match (&mut self.membership, self.settings.partition) {
            (Some(membership), _) => membership.join().await?,
            (None, Some(only)) => {
                let topic = self.names.first().and_then(|name| TopicName::new(name).ok());
                topic.map(|topic| vec![TopicPartition::new(topic, PartitionId(only))]).unwrap_or_default()
            }
            (None, None) => Vec::new(),
        };
        self.wait_known(&share).await?;
        let client = self.kafka.client();
        let committed = client.committed_offsets(&self.group.group, Some(&share), true).await?;
        self.committed = committed.into_iter().map(|(at, committed)| (at, committed.offset)).collect();
        self.positions.clear();
        let mut positions = Vec::new();
        for at in share.iter().cloned() {
            // An explicit start offset wins over the committed one.
            let next = match self.settings.from {
                crate::consumer::From::At(_) | crate::consumer::From::Nearest(_) => None,
                _ => self.committed.get(&at).copied().filter(|_| self.group.begins_at_commit),
            };
            let position = Position::find(client, at.clone(), next, &self.settings).await?;
            // Where it is not known yet, there is nothing to commit.
            if position.later.is_none() {
                self.positions.insert(at, position.next.into());
            }
            positions.push(position);
        }
        self.assigned(share);
        self.is_idle = positions.is_empty();
        self.reading = Some(Reading::begin(&self.kafka, positions, &self.settings));
        let now = Instant::now();
        self.joining += now - began;
        self.next_commit = now + self.group.commit_every.unwrap_or_default();
        self.next_look = now + LOOK_EVERY;
        Ok(())
    }

    /// The group's leader may know of new partitions from a broker that is ahead of this member's brokers.
    async fn wait_known(&self, share: &[TopicPartition]) -> Result<(), KafkaError> {
        let began = Instant::now();
        loop {
            let mut is_known = true;
            for name in &self.names {
                let known = self.kafka.partitions_led(name, self.settings.exit_at_end).await?;
                let of_topic = share.iter().filter(|at| at.topic.as_str() == name);
                is_known &= of_topic.into_iter().all(|at| known.contains(&at.partition));
            }
            if is_known || began.elapsed() > PATIENCE {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tasks that are due besides records: commits, and a member's heartbeats.
    async fn upkeep(&mut self) -> Result<(), KafkaError> {
        let now = Instant::now();
        if self.group.commit_every.is_some() && now >= self.next_commit {
            self.commit_now_and_then().await?;
        }
        let Some(membership) = &mut self.membership else { return Ok(()) };
        if now < membership.heartbeat_due() {
            return Ok(());
        }
        let mut beat = membership.heartbeat().await?;
        if beat == Beat::Steady && now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            // If the cluster does not answer now, the next check repeats the question.
            let names = self.topics.names(&self.kafka).await.unwrap_or_else(|_| self.names.clone());
            if names != self.names {
                membership.subscribe(names.clone());
                self.names = names;
                beat = Beat::Rejoin;
            } else if membership.topics_changed().await.unwrap_or(false) {
                beat = Beat::Rejoin;
            }
        }
        match beat {
            Beat::Steady => {}
            Beat::Rejoin => {
                self.commit_now_and_then().await?;
                self.give_up_share();
            }
            Beat::Lost => {
                self.positions.clear();
                self.give_up_share();
            }
        }
        Ok(())
    }

    /// A commit that does not succeed is made up for by the next one: until then records may be read twice, never lost.
    async fn commit_now_and_then(&mut self) -> Result<(), KafkaError> {
        let Some(every) = self.group.commit_every else { return Ok(()) };
        self.next_commit = Instant::now() + every;
        match self.commit().await {
            Err(error) if !passes(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// One try to commit the positions that are not committed yet.
    async fn commit(&mut self) -> Result<(), KafkaError> {
        self.commit_these(&self.uncommitted()).await
    }

    async fn commit_these(&mut self, news: &BTreeMap<TopicPartition, CommittedOffset>) -> Result<(), KafkaError> {
        if news.is_empty() {
            return Ok(());
        }
        match &mut self.membership {
            Some(membership) => membership.commit(news).await?,
            None => {
                let client = self.kafka.client();
                let outcomes = client.commit_offsets(&self.group.group, &Committer::nobody(), news).await?;
                if let Some(code) = outcomes.into_values().find(|code| !code.is_ok()) {
                    return Err(ottla_client::ClientError::refused(code).into());
                }
            }
        }
        self.committed.extend(news.iter().map(|(at, committed)| (at.clone(), committed.offset)));
        Ok(())
    }

    fn uncommitted(&self) -> BTreeMap<TopicPartition, CommittedOffset> {
        let news = self.positions.iter().filter(|(at, position)| self.committed.get(at) != Some(&position.offset));
        news.map(|(at, position)| (at.clone(), position.clone())).collect()
    }

    /// Commits what was read of some partitions, where nothing else does; the positions, and whether they are
    /// committed.
    pub async fn commit_read(
        &mut self,
        partitions: &BTreeSet<PartitionId>,
    ) -> (BTreeMap<TopicPartition, Offset>, Result<(), KafkaError>) {
        let mut news = self.uncommitted();
        news.retain(|at, _| partitions.contains(&at.partition));
        let result = self.commit_these(&news).await;
        (news.into_iter().map(|(at, position)| (at, position.offset)).collect(), result)
    }

    pub async fn close(mut self) -> Result<(), KafkaError> {
        self.reading = None;
        let began = Instant::now();
        let mut result = Ok(());
        while self.group.commit_every.is_some() {
            result = self.commit().await;
            let again = result.as_ref().is_err_and(KafkaError::may_pass) && began.elapsed() < PATIENCE;
            if !again {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.give_up_share();
        if let Some(membership) = self.membership.take() {
            // If the leave request is lost, the session timeout removes the member.
            let _ = membership.leave().await;
        }
        match result {
            Err(error) if passes(&error) => {
                err!("the last positions of group {} were not committed: {error}", self.group.group);
                Ok(())
            }
            other => other,
        }
    }
}

/// Whether a commit failed for a reason that the group itself clears up.
fn passes(error: &KafkaError) -> bool {
    error.may_pass()
        || [
            ErrorCode::RebalanceInProgress,
            ErrorCode::IllegalGeneration,
            ErrorCode::UnknownMemberId,
            ErrorCode::StaleMemberEpoch,
        ]
        .into_iter()
        .any(|code| error.is(code))
}
