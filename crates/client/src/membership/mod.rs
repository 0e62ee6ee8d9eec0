//! A member of a classic consumer group: joins with the range assignor, gets its share, sends heartbeats, commits,
//! leaves.
//!
//! The caller drives it: [`Membership::join`] until there is a share, then [`Membership::heartbeat`] when it is due; if
//! the heartbeat requires a rejoin, the caller commits its positions and joins again. Its requests use a separate
//! connection, because a JoinGroup waits in the broker for the other members and blocks later requests on the same
//! connection. As in Kafka's consumers, only `join` retries without an end; to stop waiting, drop the future.

mod consumer_protocol;
mod range;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponse;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest};
use ottla_model::{ErrorCode, TopicName, TopicPartition};
use ottla_protocol::Api;
use tokio::time::Instant;

use crate::cluster::{Client, Link};
use crate::convert::{checked, error_of, group_id, millis, text};
use crate::coordinator::CoordinatorKey;
use crate::error::ClientError;
use crate::offsets::{self, CommittedOffset, Committer};
use range::Candidate;

pub(crate) use consumer_protocol::assigned;

/// The protocol type of consumer groups.
const PROTOCOL_TYPE: &str = "consumer";
const RANGE: &str = "range";
/// From here on LeaveGroup names several members, and a static one could be named.
const LEAVE_SEVERAL_FROM: i16 = 3;
/// How much longer a JoinGroup may take than the rebalance timeout that the coordinator counts.
const JOIN_SLACK: Duration = Duration::from_secs(10);
/// How long leaving may take before the session timeout is left to do it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// How a member takes part. The defaults are those of Kafka's consumer.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    pub group: String,
    pub topics: Vec<String>,
    /// `group.instance.id`, for a static member.
    pub instance: Option<String>,
    /// How long the coordinator waits for a heartbeat.
    pub session_timeout: Duration,
    /// How long the coordinator waits for this member when others join.
    pub rebalance_timeout: Duration,
    pub heartbeat_interval: Duration,
}

impl MembershipConfig {
    pub fn new(group: &str, topics: Vec<String>) -> Self {
        Self {
            group: group.to_owned(),
            topics,
            instance: None,
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(3),
        }
    }
}

/// The result of a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    /// The share is unchanged.
    Steady,
    /// Others join or leave: commit, then join again.
    Rejoin,
    /// The group continued without this member: its partitions may have other owners. Join again, and commit nothing.
    Lost,
}

/// How often a request to the coordinator is tried again, and how long after.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub struct Membership {
    client: Client,
    config: MembershipConfig,
    identity: Committer,
    link: Option<Arc<Link>>,
    /// The time of the coordinator's last response: after a session timeout without one the coordinator has removed
    /// this member.
    heard: Instant,
    due: Instant,
    /// The partition counts that this member assigned by, if it led the group; they may grow.
    led_by: Option<BTreeMap<TopicName, usize>>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("group", &self.config.group).field("identity", &self.identity).finish()
    }
}

/// Why one round of joining did not end in a share.
enum Again {
    /// Something changed: at once.
    AtOnce,
    /// The coordinator is away, or busy.
    Later(ClientError),
    Never(ClientError),
}

impl From<ClientError> for Again {
    fn from(error: ClientError) -> Self {
        if error.is_retriable() { Self::Later(error) } else { Self::Never(error) }
    }
}

impl Membership {
    /// A member that has not joined yet.
    pub fn new(client: Client, config: MembershipConfig) -> Self {
        let identity = Committer { instance: config.instance.clone(), ..Committer::nobody() };
        let now = Instant::now();
        Self { client, config, identity, link: None, heard: now, due: now, led_by: None }
    }

    /// The member id that the coordinator gave; empty before.
    pub fn member_id(&self) -> &str {
        &self.identity.member
    }

    pub fn generation(&self) -> i32 {
        self.identity.generation
    }

    /// Whether this member was the one to assign.
    pub fn is_leader(&self) -> bool {
        self.led_by.is_some()
    }

    /// When the next heartbeat is due.
    pub fn heartbeat_due(&self) -> Instant {
        self.due
    }

    /// Joins, or rejoins, and returns this member's share, sorted. It retries until the group accepts it or refuses it
    /// with a definite error.
    pub async fn join(&mut self) -> Result<Vec<TopicPartition>, ClientError> {
        loop {
            match self.join_once().await {
                Ok(mut share) => {
                    self.heard = Instant::now();
                    self.due = self.heard + self.config.heartbeat_interval;
                    share.sort();
                    return Ok(share);
                }
                Err(Again::AtOnce) => {}
                Err(Again::Later(error)) => {
                    tracing::debug!(group = %self.config.group, %error, "joining again");
                    self.forget_coordinator();
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(Again::Never(error)) => return Err(error),
            }
        }
    }

    async fn join_once(&mut self) -> Result<Vec<TopicPartition>, Again> {
        let link = self.link().await?;
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(RANGE))
            .with_metadata(consumer_protocol::subscription(&self.config.topics)?);
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(&self.config.group))
            .with_member_id(text(&self.identity.member))
            .with_group_instance_id(self.config.instance.as_deref().map(text))
            .with_session_timeout_ms(millis(self.config.session_timeout))
            .with_rebalance_timeout_ms(millis(self.config.rebalance_timeout))
            .with_protocol_type(text(PROTOCOL_TYPE))
            .with_protocols(vec![protocol]);
        let joined = link.call_within(self.config.rebalance_timeout + JOIN_SLACK, &request).await?;
        if error_of(joined.error_code) == ErrorCode::MemberIdRequired {
            self.identity.member = joined.member_id.to_string();
            return Err(Again::AtOnce);
        }
        self.may_go_on(joined.error_code)?;
        self.identity.member = joined.member_id.to_string();
        self.identity.generation = joined.generation_id;
        let leads = joined.leader == joined.member_id && !joined.skip_assignment;
        let shares = if leads { self.shares(&joined).await? } else { Vec::new() };
        if !leads {
            self.led_by = None;
        }
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.config.group))
            .with_member_id(text(&self.identity.member))
            .with_generation_id(self.identity.generation)
            .with_group_instance_id(self.config.instance.as_deref().map(text))
            .with_protocol_type(Some(text(PROTOCOL_TYPE)))
            .with_protocol_name(Some(text(RANGE)))
            .with_assignments(shares);
        let synced = link.call_within(self.config.rebalance_timeout + JOIN_SLACK, &request).await?;
        self.may_go_on(synced.error_code)?;
        Ok(assigned(&synced.assignment)?)
    }

    /// The consequence of an error of JoinGroup or SyncGroup for the next attempt.
    fn may_go_on(&mut self, code: i16) -> Result<(), Again> {
        match error_of(code) {
            ErrorCode::None => Ok(()),
            code @ (ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration) => {
                self.start_over(code);
                Err(Again::AtOnce)
            }
            ErrorCode::RebalanceInProgress => Err(Again::AtOnce),
            code => Err(ClientError::refused(code).into()),
        }
    }

    fn start_over(&mut self, code: ErrorCode) {
        let instance = self.config.instance.clone();
        self.identity = identity_after(code, std::mem::replace(&mut self.identity, Committer::nobody()), instance);
    }

    /// The leader's part: the share of each member.
    async fn shares(&mut self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let members = joined.members.iter().map(|member| {
            Ok(Candidate {
                id: member.member_id.to_string(),
                instance: member.group_instance_id.as_ref().map(ToString::to_string),
                topics: consumer_protocol::subscribed(&member.metadata)?.into_iter().collect(),
            })
        });
        let members: Vec<Candidate> = members.collect::<Result<_, ClientError>>()?;
        let topics: std::collections::BTreeSet<&str> =
            members.iter().flat_map(|member| member.topics.iter().map(String::as_str)).collect();
        let topics: Vec<&str> = topics.into_iter().collect();
        let counts = self.counts(&topics).await?;
        let shares = range::assign(members, &counts);
        self.led_by = Some(counts);
        let shares = shares.iter().map(|(member, share)| {
            let assignment = consumer_protocol::assignment(share)?;
            Ok(SyncGroupRequestAssignment::default().with_member_id(text(member)).with_assignment(assignment))
        });
        shares.collect()
    }

    async fn counts(&self, topics: &[&str]) -> Result<BTreeMap<TopicName, usize>, ClientError> {
        let view = self.client.metadata(Some(topics)).await?;
        let known = view.topics.into_values().filter(|topic| topic.error.is_ok());
        Ok(known.filter_map(|topic| Some((TopicName::new(&topic.name).ok()?, topic.partitions.len()))).collect())
    }

    /// Wants these topics from the next join on.
    pub fn subscribe(&mut self, topics: Vec<String>) {
        self.config.topics = topics;
    }

    /// Whether topics have grown, appeared or disappeared since this member assigned them; always false for a member
    /// that did not assign. A leader calls it periodically, and rejoins if it returns true.
    pub async fn topics_changed(&self) -> Result<bool, ClientError> {
        let Some(led_by) = &self.led_by else { return Ok(false) };
        let topics: Vec<&str> =
            led_by.keys().map(TopicName::as_str).chain(self.config.topics.iter().map(String::as_str)).collect();
        Ok(self.counts(&topics).await? != *led_by)
    }

    /// Sends a heartbeat. If the coordinator cannot be reached, the next heartbeat looks for it again, until the
    /// session must have ended.
    pub async fn heartbeat(&mut self) -> Result<Beat, ClientError> {
        self.due = Instant::now() + self.config.heartbeat_interval;
        match self.beat().await {
            Ok(ErrorCode::None) => {
                self.heard = Instant::now();
                Ok(Beat::Steady)
            }
            Ok(ErrorCode::RebalanceInProgress) => Ok(Beat::Rejoin),
            Ok(code @ (ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration)) => {
                self.start_over(code);
                Ok(Beat::Lost)
            }
            Ok(code) => self.silent(ClientError::refused(code)),
            Err(error) => self.silent(error),
        }
    }

    async fn beat(&mut self) -> Result<ErrorCode, ClientError> {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.config.group))
            .with_member_id(text(&self.identity.member))
            .with_generation_id(self.identity.generation)
            .with_group_instance_id(self.config.instance.as_deref().map(text));
        Ok(error_of(self.link().await?.call(&request).await?.error_code))
    }

    fn silent(&mut self, error: ClientError) -> Result<Beat, ClientError> {
        if !error.is_retriable() {
            return Err(error);
        }
        tracing::debug!(group = %self.config.group, %error, "no heartbeat");
        self.forget_coordinator();
        self.due = Instant::now() + RETRY_PAUSE.min(self.config.heartbeat_interval);
        if self.heard.elapsed() < self.config.session_timeout {
            return Ok(Beat::Steady);
        }
        self.start_over(ErrorCode::UnknownMemberId);
        Ok(Beat::Lost)
    }

    /// Commits as this member, once. REBALANCE_IN_PROGRESS, ILLEGAL_GENERATION and similar errors mean that the member
    /// may not commit any more; the next heartbeat returns the required action.
    pub async fn commit(&mut self, offsets: &BTreeMap<TopicPartition, CommittedOffset>) -> Result<(), ClientError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let link = self.link().await?;
        match offsets::commit(&link, &self.config.group, &self.identity, offsets).await {
            Ok(outcomes) => match outcomes.into_values().find(|error| !error.is_ok()) {
                None => Ok(()),
                Some(code) => Err(ClientError::refused(code)),
            },
            Err(error) => {
                if error.is_retriable() {
                    self.forget_coordinator();
                }
                Err(error)
            }
        }
    }

    /// Leaves, so that the others need not wait for the session to end. A static member does not leave: its partitions
    /// wait for its return (KIP-345).
    pub async fn leave(mut self) -> Result<(), ClientError> {
        if self.identity.member.is_empty() || self.config.instance.is_some() {
            return Ok(());
        }
        let leaving = async {
            let link = self.link().await?;
            let request = LeaveGroupRequest::default().with_group_id(group_id(&self.config.group));
            let request = if link.version(Api::LeaveGroup)? >= LEAVE_SEVERAL_FROM {
                let member = MemberIdentity::default().with_member_id(text(&self.identity.member));
                request.with_members(vec![member])
            } else {
                request.with_member_id(text(&self.identity.member))
            };
            checked(link.call(&request).await?.error_code)
        };
        // If the request is lost, the session timeout removes the member.
        tokio::time::timeout(LEAVE_PATIENCE, leaving).await.unwrap_or(Ok(()))
    }

    /// The connection to the coordinator.
    async fn link(&mut self) -> Result<Arc<Link>, ClientError> {
        if let Some(link) = self.link.as_ref().filter(|link| !link.connection.is_closed()) {
            return Ok(link.clone());
        }
        let coordinator = self.client.group_coordinator(&self.config.group).await?;
        let link = Link::open(&coordinator.address(), &self.client.config().connection).await?;
        self.link = Some(link.clone());
        Ok(link)
    }

    fn forget_coordinator(&mut self) {
        self.client.forget_coordinator(&CoordinatorKey::Group(self.config.group.clone()));
        self.link = None;
    }
}

/// The identity with which a member joins again. One whose generation has passed is still a member: under another id it
/// would join beside its former self, and every round would wait for that one until its session ends.
fn identity_after(code: ErrorCode, former: Committer, instance: Option<String>) -> Committer {
    let member = if code == ErrorCode::IllegalGeneration { former.member } else { String::new() };
    Committer { member, instance, ..Committer::nobody() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_a_generation_that_has_passed_keeps_its_id() {
        let former = || Committer { member: "m".to_owned(), generation: 7, instance: None };
        let next = identity_after(ErrorCode::IllegalGeneration, former(), None);
        assert_eq!((next.member.as_str(), next.generation), ("m", -1));
        let next = identity_after(ErrorCode::UnknownMemberId, former(), Some("i".to_owned()));
        assert_eq!((next.member.as_str(), next.generation, next.instance.as_deref()), ("", -1, Some("i")));
    }
}
