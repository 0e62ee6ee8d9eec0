//! Two admins, who change rules, credentials, tokens and quotas at the same time, each one change after the other, by
//! the controller's own requests. They repeat a request as the brokers' client of the quorum does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, CLUSTER, EntryFilter, Operation, PatternFilter, PatternType, Permission,
    ResourceFilter, ResourcePattern, ResourceType,
};
use ottla_metadata::controller::{
    AlterConfig, AlterConfigs, AlterDelegationToken, ConfigOp, CreateAcls, DeleteAcls, IdempotencyKey, TokenChange,
};
use ottla_metadata::leader_search::{Attempted, Attempts, LeaderSearch, Repeat};
use ottla_metadata::{Answer, ConfigEntity, ConfigKind, Request};
use ottla_model::{CoordinatorId, KafkaPrincipal, MonotonicMs, Revision};

use super::clients::{Logins, MECHANISM};
use super::ledger::{ChangeId, Ledger, Outcome, Slot};
use super::{BROKER, INTRUDER, SecurityConfig, address_of, user_of};
use crate::clock::SimTime;
use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

/// For all attempts of one change: as brokers have it for small requests.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Between two changes of an admin.
const PAUSE_MS: (u64, u64) = (20, 900);
/// Tokens live so long.
const TOKEN_MS: (u64, u64) = (500, 12_000);

/// Of the rules that name nothing but their own number: whether one comes back shows that a request was decided twice.
const MARKER: &str = "marker";

/// A change that is to be made.
#[derive(Clone)]
pub struct Change {
    request: Request,
    writes: Vec<(Slot, Option<String>)>,
    sweeps: Option<KafkaPrincipal>,
    /// Whether anything is to be done is for the quorum to say, and its answer does not tell.
    is_conditional: bool,
}

struct Pending {
    id: ChangeId,
    /// It is made again until it is certain.
    scripted: Option<Change>,
    is_conditional: bool,
    request: Arc<Request>,
    attempts: Attempts,
    began: MonotonicMs,
    /// Whom it asks; none while it pauses.
    asked: Option<u64>,
    until: MonotonicMs,
    /// An attempt without an answer may have been decided.
    maybe_done: bool,
}

/// How a change ended.
pub struct Ended {
    pub change: ChangeId,
    pub name: &'static str,
    pub outcome: Outcome,
    /// At which it holds.
    pub revision: Revision,
}

pub struct Admin {
    id: u32,
    random: Random,
    search: Option<LeaderSearch<u64>>,
    /// To be done before anything else, in order.
    script: VecDeque<Change>,
    pending: Option<Pending>,
    next_call: u64,
    next_at: SimTime,
    is_set_up: bool,
    /// Nothing new is drawn any more.
    pub is_stopping: bool,
}

pub fn every_rule() -> AclFilter {
    AclFilter {
        pattern: ResourceFilter { resource_type: None, pattern: PatternFilter::Any, name: None },
        entry: EntryFilter::default(),
    }
}

pub fn rule(
    (resource_type, pattern_type, name): (ResourceType, PatternType, &str),
    principal: &str,
    host: &str,
    operation: Operation,
    permission: Permission,
) -> AclBinding {
    AclBinding {
        pattern: ResourcePattern { resource_type, pattern_type, name: name.to_owned() },
        entry: AclEntry { principal: KafkaPrincipal::user(principal), host: host.to_owned(), operation, permission },
    }
}

/// Everybody may use the topic. Nothing takes it away for good.
fn open_topic() -> AclBinding {
    let topic = (ResourceType::Topic, PatternType::Literal, "t");
    rule(topic, "*", "*", Operation::All, Permission::Allow)
}

pub fn acls(rules: Vec<AclBinding>) -> Change {
    let writes = rules.iter().map(|rule| (Slot::Acl(rule.clone()), Some(String::new()))).collect();
    Change { request: Request::CreateAcls(CreateAcls { bindings: rules }), writes, sweeps: None, is_conditional: false }
}

fn exactly(rule: &AclBinding) -> AclFilter {
    let AclEntry { principal, host, operation, permission } = rule.entry.clone();
    AclFilter {
        pattern: ResourceFilter {
            resource_type: Some(rule.pattern.resource_type),
            pattern: PatternFilter::Is(rule.pattern.pattern_type),
            name: Some(rule.pattern.name.clone()),
        },
        entry: EntryFilter {
            principal: Some(principal),
            host: Some(host),
            operation: Some(operation),
            permission: Some(permission),
        },
    }
}

pub fn no_acls(rules: &[AclBinding]) -> Change {
    let writes = rules.iter().map(|rule| (Slot::Acl(rule.clone()), None)).collect();
    let filters = rules.iter().map(exactly).collect();
    Change { request: Request::DeleteAcls(DeleteAcls { filters }), writes, sweeps: None, is_conditional: false }
}

/// All rules of a principal go.
fn sweep(principal: &str) -> Change {
    let principal = KafkaPrincipal::user(principal);
    let mut filter = every_rule();
    filter.entry.principal = Some(principal.clone());
    Change {
        request: Request::DeleteAcls(DeleteAcls { filters: vec![filter] }),
        writes: Vec::new(),
        sweeps: Some(principal),
        is_conditional: false,
    }
}

pub fn config(kind: ConfigKind, name: &str, key: &str, value: Option<String>) -> Change {
    let entity = ConfigEntity { kind, name: name.to_owned() };
    let changes = vec![(key.to_owned(), ConfigOp::from(value.clone()))];
    let altered = AlterConfig { entity: entity.clone(), changes, replace_all: false };
    Change {
        request: Request::AlterConfigs(AlterConfigs { entities: vec![altered], validate_only: false }),
        writes: vec![(Slot::Config(entity, key.to_owned()), value)],
        sweeps: None,
        is_conditional: false,
    }
}

pub fn new_password(user: &str, logins: &mut Logins) -> Change {
    config(ConfigKind::Users, user, MECHANISM, Some(logins.new_password(user)))
}

pub fn token(id: &str, change: TokenChange, value: Option<String>) -> Change {
    Change {
        request: Request::AlterDelegationToken(AlterDelegationToken { token_id: id.to_owned(), change }),
        writes: vec![(Slot::Token(id.to_owned()), value)],
        sweeps: None,
        is_conditional: false,
    }
}

impl Admin {
    pub fn new(id: u32, coordinators: &[u64], mut random: Random) -> Self {
        let next_call = random.next_u64() >> 1;
        Self {
            id,
            random,
            search: LeaderSearch::new(coordinators.to_vec()),
            script: VecDeque::new(),
            pending: None,
            next_call,
            next_at: SimTime(0),
            is_set_up: false,
            is_stopping: false,
        }
    }

    /// The intruder is denied everything before anybody is allowed anything; then everybody gets a password.
    pub fn set_up(&mut self, config: &SecurityConfig, logins: &mut Logins) {
        let topics = (ResourceType::Topic, PatternType::Prefixed, "t");
        let mut first = vec![rule(topics, &user_of(INTRUDER), "*", Operation::All, Permission::Deny)];
        if !config.brokers_are_super_users {
            let cluster = (ResourceType::Cluster, PatternType::Literal, CLUSTER);
            first.push(rule(cluster, BROKER, "*", Operation::ClusterAction, Permission::Allow));
        }
        self.script.push_back(acls(first));
        self.script.push_back(acls(vec![open_topic()]));
        for user in logins.users() {
            self.script.push_back(new_password(&user, logins));
        }
    }

    /// It makes this change after what it has to do already.
    pub fn then(&mut self, change: Change) {
        self.script.push_back(change);
    }

    pub fn is_set_up(&self) -> bool {
        self.is_set_up
    }

    pub fn is_idle(&self) -> bool {
        self.script.is_empty() && self.pending.is_none()
    }

    /// Faults are over: every client gets a new password, and no rule keeps it from the topic.
    pub fn restore(&mut self, ledger: &Ledger, logins: &mut Logins) {
        let denying = ledger.held().filter_map(|slot| match slot {
            Slot::Acl(rule)
                if rule.entry.permission == Permission::Deny && *rule.entry.principal.name != *user_of(INTRUDER) =>
            {
                Some(rule.clone())
            }
            _ => None,
        });
        self.script.push_back(no_acls(&denying.collect::<Vec<_>>()));
        self.script.push_back(acls(vec![open_topic()]));
        for user in logins.users() {
            self.script.push_back(new_password(&user, logins));
        }
    }

    // ---- what is changed

    fn a_rule(&mut self, users: &[String]) -> AclBinding {
        let patterns = [
            (ResourceType::Topic, PatternType::Literal, "t"),
            (ResourceType::Topic, PatternType::Literal, "*"),
            (ResourceType::Topic, PatternType::Prefixed, "t"),
            (ResourceType::Topic, PatternType::Prefixed, "to"),
            (ResourceType::Topic, PatternType::Literal, "topic"),
            (ResourceType::Group, PatternType::Prefixed, "g"),
            (ResourceType::Cluster, PatternType::Literal, CLUSTER),
        ];
        let operations = [Operation::Write, Operation::Read, Operation::All, Operation::Describe, Operation::Alter];
        let mut principals: Vec<&str> =
            users.iter().map(String::as_str).filter(|user| *user != user_of(INTRUDER)).collect();
        principals.push("*");
        let pattern = self.random.pick(&patterns).copied().unwrap_or(patterns[0]);
        let principal = self.random.pick(&principals).copied().unwrap_or("*");
        let operation = self.random.pick(&operations).copied().unwrap_or(Operation::All);
        let permission = if self.random.percent(60) { Permission::Allow } else { Permission::Deny };
        let hosts = ["*".to_owned(), address_of(1).to_string(), address_of(101).to_string(), "10.9.9.9".to_owned()];
        let host = self.random.pick(&hosts).cloned().unwrap_or_default();
        rule(pattern, principal, &host, operation, permission)
    }

    /// A rule that nobody else makes, ever.
    fn marker(&mut self) -> AclBinding {
        let name = format!("{}-{:016x}", self.id, self.random.next_u64());
        let group = (ResourceType::Group, PatternType::Literal, name.as_str());
        rule(group, MARKER, "*", Operation::Read, Permission::Allow)
    }

    fn draw(&mut self, ledger: &Ledger, logins: &mut Logins) -> Change {
        let users = logins.users();
        let user = self.random.pick(&users).cloned().unwrap_or_default();
        match self.random.below(100) {
            0..30 => {
                let mut rules: Vec<_> = (0..self.random.between(0, 2)).map(|_| self.a_rule(&users)).collect();
                rules.push(self.marker());
                acls(rules)
            }
            30..52 => self.removal(ledger),
            52..62 => new_password(&user, logins),
            62..65 => config(ConfigKind::Users, &user, MECHANISM, None),
            65..88 => self.token_change(&user, logins),
            _ => self.quota(&user),
        }
    }

    /// Of one or two rules that may be there, or of all that mark requests.
    fn removal(&mut self, ledger: &Ledger) -> Change {
        if self.random.percent(40) {
            return sweep(MARKER);
        }
        let is_kept = |rule: &AclBinding| {
            *rule.entry.principal.name == *user_of(INTRUDER) || *rule.entry.principal.name == *BROKER
        };
        let rules = ledger.held().filter_map(|slot| match slot {
            Slot::Acl(rule) if !is_kept(rule) => Some(rule.clone()),
            _ => None,
        });
        let rules: Vec<_> = rules.collect();
        let mut chosen: Vec<_> =
            (0..self.random.between(1, 2)).filter_map(|_| self.random.pick(&rules).cloned()).collect();
        chosen.sort_unstable();
        chosen.dedup();
        no_acls(&chosen)
    }

    fn quota(&mut self, user: &str) -> Change {
        let kind = *self.random.pick(&[ConfigKind::Users, ConfigKind::Clients]).unwrap_or(&ConfigKind::Users);
        let value = self.random.percent(70).then(|| self.random.between(1, 1 << 40).to_string());
        config(kind, user, "producer_byte_rate", value)
    }

    fn token_change(&mut self, user: &str, logins: &mut Logins) -> Change {
        let lifetime_ms = i64::try_from(self.random.between(TOKEN_MS.0, TOKEN_MS.1)).unwrap_or(1_000);
        let (known, present) = (logins.tokens_of(user).to_vec(), Some(String::new()));
        let owner = KafkaPrincipal::user(user);
        match (self.random.below(4), self.random.pick(&known).cloned()) {
            (1, Some(id)) => token(&id, TokenChange::Renew { by: owner, period_ms: lifetime_ms / 2 }, present),
            (2, Some(id)) => token(&id, TokenChange::Expire { by: owner, period_ms: None }, None),
            (3, Some(id)) => Change { is_conditional: true, ..token(&id, TokenChange::RemoveExpired, None) },
            _ => {
                let id = logins.new_token(user);
                let change = TokenChange::Create {
                    requester: owner.clone(),
                    owner,
                    renewers: Vec::new(),
                    lifetime_ms,
                    renewal_ms: lifetime_ms / 2,
                };
                token(&id, change, present)
            }
        }
    }

    // ---- how

    pub fn tick(
        &mut self,
        at: SimTime,
        may_draw: bool,
        (ledger, logins): (&mut Ledger, &mut Logins),
        out: &mut Outbox,
    ) -> Option<Ended> {
        let now = at.clocks().monotonic;
        if self.pending.is_none() && at >= self.next_at {
            let scripted = self.script.pop_front();
            let wanted = match &scripted {
                None if may_draw && !self.is_stopping => Some(self.draw(ledger, logins)),
                scripted => (*scripted).clone(),
            };
            let Some(Change { request, writes, sweeps, is_conditional }) = wanted else {
                self.is_set_up = true;
                return None;
            };
            let repeat = request.repeat();
            let (request, repeat) = match request.is_remembered() {
                true => (Request::Once(IdempotencyKey(self.random.bytes_16()), Box::new(request)), Repeat::Freely),
                false => (request, repeat),
            };
            out.note(format_args!("wants {request:?}"));
            self.pending = Some(Pending {
                id: ledger.begin(writes, sweeps),
                scripted,
                is_conditional,
                request: Arc::new(request),
                attempts: Attempts::new(TIMEOUT, repeat),
                began: now,
                asked: None,
                until: now,
                maybe_done: false,
            });
        }
        if self.pending.as_ref().is_none_or(|pending| now < pending.until) {
            return None;
        }
        match self.pending.as_ref().and_then(|pending| pending.asked) {
            Some(asked) => self.failed(at, asked, Attempted::Nothing, out),
            None => self.attempt(at, out),
        }
    }

    fn attempt(&mut self, at: SimTime, out: &mut Outbox) -> Option<Ended> {
        let now = at.clocks().monotonic;
        let (pending, search) = (self.pending.as_mut()?, self.search.as_ref()?);
        let Some(patience) = pending.attempts.next(now.since(pending.began)) else {
            let outcome = if pending.maybe_done { Outcome::Unknown } else { Outcome::Refused };
            return self.end(at, outcome, Revision(0), out);
        };
        let leader = *search.guess();
        (pending.asked, pending.until) = (Some(leader), now + patience);
        self.next_call += 1;
        let message = Message::Cluster { call: CallId(self.next_call), request: pending.request.clone() };
        out.send(NodeId::Coordinator(leader), message);
        None
    }

    fn failed(&mut self, at: SimTime, asked: u64, result: Attempted<u64>, out: &mut Outbox) -> Option<Ended> {
        let now = at.clocks().monotonic;
        let (pending, search) = (self.pending.as_mut()?, self.search.as_mut()?);
        pending.maybe_done |= result == Attempted::Nothing;
        let pause = search.attempted(&mut pending.attempts, now.since(pending.began), &asked, result);
        if pause.is_zero() {
            return self.attempt(at, out);
        }
        (pending.asked, pending.until) = (None, now + pause);
        None
    }

    pub fn received(&mut self, at: SimTime, from: NodeId, message: Message, out: &mut Outbox) -> Option<Ended> {
        let NodeId::Coordinator(from) = from else { return None };
        let pending = self.pending.as_mut().filter(|pending| pending.asked == Some(from))?;
        match message {
            Message::ConnectionLost => self.failed(at, from, Attempted::Nothing, out),
            Message::ClusterAnswer { call, answer, leader } if call.0 == self.next_call => match answer.map(|one| *one)
            {
                // Its decision is not certain, and the coordinator has asked for it in vain.
                Some(Answer::Unavailable) => {
                    pending.maybe_done = true;
                    self.failed(at, from, Attempted::Nothing, out)
                }
                Some(answer) => {
                    let (is_made, revision) = result_of(&answer);
                    self.end(at, if is_made { Outcome::Made } else { Outcome::Refused }, revision, out)
                }
                None => {
                    let leader = leader.map(|leader| (leader, Some(leader.0)));
                    self.failed(at, from, Attempted::NotLeader { answered_by: CoordinatorId(from), leader }, out)
                }
            },
            _ => None,
        }
    }

    fn end(&mut self, at: SimTime, outcome: Outcome, revision: Revision, out: &mut Outbox) -> Option<Ended> {
        let pending = self.pending.take()?;
        let name = pending.request.name();
        if let Some(change) = pending.scripted.filter(|_| outcome != Outcome::Made) {
            self.script.push_front(change);
        }
        // What it led to is in the tree.
        let outcome = if pending.is_conditional && outcome == Outcome::Made { Outcome::Refused } else { outcome };
        out.note(format_args!("{name}: {outcome:?} at {revision}"));
        let pause = if self.script.is_empty() { self.random.between(PAUSE_MS.0, PAUSE_MS.1) } else { 1 };
        self.next_at = at.plus_ms(pause);
        Some(Ended { change: pending.id, name, outcome, revision })
    }
}

/// Whether everything that was asked for holds, and from which revision on.
fn result_of(answer: &Answer) -> (bool, Revision) {
    match answer {
        Answer::CreateAcls(created) => (created.refusals.iter().all(Option::is_none), created.revision),
        Answer::DeleteAcls(deleted) => (deleted.filters.iter().all(Result::is_ok), deleted.revision),
        Answer::AlterConfigs(altered) => {
            (altered.entities.iter().all(|(_, refusal)| refusal.is_none()), altered.revision)
        }
        Answer::AlterDelegationToken(Ok(altered)) => (true, altered.revision),
        _ => (false, Revision(0)),
    }
}
