//! Security, where it is on: what the admins, the intruder and the impostor do, and what is checked of it.

use ottla_authorizer::{Authorizer, Operation, ResourceType};
use ottla_metadata::Tree;
use ottla_model::{KafkaPrincipal, TimestampMs};
use ottla_sasl::ClientCredentials;

use super::*;
use crate::broker::{AccessConfig, DerivedTokens};
use crate::facts::{Checked, LoggedIn};
use crate::security::admin::Ended;
use crate::security::impostor::Impostor;
use crate::security::ledger::Outcome;
use crate::security::model::{self, Model};
use crate::security::{ADMINS, IMPOSTOR, INTRUDER, Security, address_of, user_of};

/// A broker that hears from the quorum's leader has a change of rules after this time: longer than any message takes
/// here, and than several watches that bring nothing.
const LAG_MAX_MS: u64 = 12_000;
/// Without a word of the leader for so long, a broker does not hear from it.
const SILENCE_MS: u64 = 1_500;
/// So many changes in a hundred bring other super users along.
const CHANGES_WITH_SUPER_USERS: u32 = 8;
/// Questions that every new state of the rules is asked at a broker.
const QUESTIONS: u64 = 30;

impl World {
    pub(super) fn begin_security(&mut self, seed: u64) {
        let Some(config) = self.config.security.clone() else { return };
        let coordinators: Vec<_> = self.coordinators.keys().copied().collect();
        let brokers: Vec<_> = self.brokers.keys().copied().collect();
        let clients: Vec<u32> = self
            .producers
            .keys()
            .chain(self.consumers.keys())
            .chain(self.transactors.keys())
            .copied()
            .chain([INTRUDER])
            .collect();
        let derived = DerivedTokens::default();
        let security = Security::new(config, &coordinators, &brokers, &clients, seed);
        for broker in self.brokers.values_mut() {
            broker.access = Some(AccessConfig {
                authorizer: security.config.authorizer(&security.super_users),
                reauth_max: security.config.reauth_max,
                login_rules: security.config.rules.logins,
                derived: derived.clone(),
            });
        }
        self.security = Some(Box::new(security));
    }

    // ---- who acts

    /// The clients that security adds.
    pub(super) fn security_clients(&self) -> Vec<NodeId> {
        let ids = [ADMINS[0], ADMINS[1], INTRUDER, IMPOSTOR];
        ids.into_iter().filter(|_| self.security.is_some()).map(NodeId::Client).collect()
    }

    pub(super) fn tick_security(&mut self, client: u32, out: &mut Outbox) {
        let now = self.now;
        let partitions = if client == INTRUDER { self.partitions() } else { Vec::new() };
        let Some(security) = self.security.as_deref_mut() else { return };
        let (is_set_up, is_led) = (security.is_set_up(), security.is_led);
        if let Some(admin) = security.admins.get_mut(&client) {
            let ended = admin.tick(now, is_set_up && !is_led, (&mut security.ledger, &mut security.logins), out);
            self.change_ended(ended);
        } else if client == INTRUDER && is_set_up {
            security.intruder.set_partitions(&partitions);
            security.intruder.tick(now, out);
        } else if client == IMPOSTOR {
            security.impostor.tick(now, &self.image, out);
        }
    }

    fn change_ended(&mut self, ended: Option<Ended>) {
        let (Some(security), Some(ended)) = (self.security.as_deref_mut(), ended) else { return };
        security.ledger.end(ended.change, ended.outcome);
        security.counts.changes += 1;
        security.counts.uncertain += u64::from(ended.outcome == Outcome::Unknown);
        if ended.outcome == Outcome::Made {
            security.acknowledged = security.acknowledged.max(ended.revision);
        }
        if !security.is_led && security.random.percent(CHANGES_WITH_SUPER_USERS) {
            self.change_super_users();
        }
    }

    /// A client of security receives this; false if it is none.
    pub(super) fn security_receives(
        &mut self,
        client: u32,
        from: NodeId,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<bool, Violation> {
        let now = self.now;
        let Some(security) = self.security.as_deref_mut() else { return Ok(false) };
        if let Some(admin) = security.admins.get_mut(&client) {
            let ended = admin.received(now, from, message.clone(), out);
            self.change_ended(ended);
            return Ok(true);
        }
        match (client, message) {
            (INTRUDER, Message::ProduceAnswer { call, answer }) => {
                let _ = security.intruder.answered(now, *call, answer, out);
            }
            (INTRUDER, _) => {
                if let NodeId::Broker(broker) = from {
                    security.intruder.connection_lost(now, broker);
                }
            }
            (IMPOSTOR, Message::ClusterAnswer { answer: Some(answer), .. }) => {
                security.counts.forged += 1;
                if Impostor::has_got_through(answer) {
                    return Err(Violation(format!("{from} decided what only a broker may ask for: {answer:?}")));
                }
            }
            (IMPOSTOR, _) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A client's connection to a broker begins, before its first request there, with a login.
    pub(super) fn log_in_first(&mut self, broker: i32, from: NodeId, message: &Message) -> Result<(), Violation> {
        let now = self.now;
        let NodeId::Client(client) = from else { return Ok(()) };
        if !matches!(message, Message::Produce { .. } | Message::Fetch { .. }) || from == SCRIPT {
            return Ok(());
        }
        let (Some(security), Some(node)) = (self.security.as_deref_mut(), self.brokers.get(&broker)) else {
            return Ok(());
        };
        if !node.needs_login(now, client) {
            return Ok(());
        }
        let Some(credentials) = security.logins.attempt(now, client, broker) else { return Ok(()) };
        if !self.log_in(broker, client, credentials)?
            && let Some(security) = self.security.as_deref_mut()
        {
            security.logins.refused(now, client, broker);
        }
        Ok(())
    }

    /// A client logs in with these; whether the broker took it.
    pub fn log_in(&mut self, broker: i32, client: u32, credentials: ClientCredentials) -> Result<bool, Violation> {
        let now = self.now;
        let Some(node) = self.brokers.get_mut(&broker).filter(|node| node.is_running()) else { return Ok(false) };
        let mut out = Outbox::default();
        node.log_in(now, client, credentials, &mut out);
        let is_in = !node.needs_login(now, client);
        self.finish_turn(NodeId::Broker(broker), out, Vec::new())?;
        Ok(is_in)
    }

    /// Brokers have other super users from their next start on: `super.users` is read then.
    fn change_super_users(&mut self) {
        let Some(security) = self.security.as_deref_mut() else { return };
        let users: Vec<_> = security.logins.users().into_iter().filter(|user| *user != user_of(INTRUDER)).collect();
        let is_empty = security.random.percent(40);
        let user = security.random.pick(&users).filter(|_| !is_empty);
        security.super_users = user.map(|user| KafkaPrincipal::user(user.as_str())).into_iter().collect();
        self.trace.line(self.now, format_args!("super users are to be {:?}", security.super_users));
        let authorizer = security.config.authorizer(&security.super_users);
        for access in self.brokers.values_mut().filter_map(|broker| broker.access.as_mut()) {
            access.authorizer = authorizer.clone();
        }
    }

    /// Faults are over: clients may do again what they are to do.
    pub(super) fn restore_security(&mut self) {
        let Some(security) = self.security.as_deref_mut().filter(|security| !security.is_led) else { return };
        for admin in security.admins.values_mut() {
            admin.is_stopping = true;
        }
        security.is_restoring = true;
    }

    /// Once the admins have ended what they were at.
    pub(super) fn continue_restoring(&mut self) {
        let Some(security) = self.security.as_deref_mut().filter(|security| security.is_restoring) else { return };
        if !security.admins.values().all(crate::security::admin::Admin::is_idle) {
            return;
        }
        security.is_restoring = false;
        if let Some(admin) = security.admins.get_mut(&ADMINS[0]) {
            admin.restore(&security.ledger, &mut security.logins);
        }
    }

    pub(super) fn security_is_missing(&self) -> Option<String> {
        let security = self.security.as_deref()?;
        if security.is_restoring || security.admins.values().any(|admin| !admin.is_idle()) {
            return Some("an admin waits for its change".to_owned());
        }
        let newest = security.models.last_key_value().map(|(_, model)| model)?;
        let behind = self.brokers.iter().find_map(|(id, broker)| {
            let difference = newest.difference(broker.image()?)?;
            Some(format!("b{id}: {difference}"))
        });
        behind.or_else(|| security.ledger.missing())
    }

    // ---- what is checked

    /// A coordinator applied an entry, and has this tree.
    pub(super) fn check_applied_security(&mut self, revision: Revision, tree: &Tree) -> Result<(), Violation> {
        let Some(security) = self.security.as_deref_mut() else { return Ok(()) };
        if security.models.contains_key(&revision) {
            return Ok(());
        }
        let is_newest = security.models.last_key_value().is_none_or(|(newest, _)| *newest < revision);
        let former = security.models.range(..revision).next_back().map(|(_, model)| model.clone());
        let model = match former.filter(|former| former.fingerprint == model::fingerprint(tree)) {
            Some(former) => former,
            None => Arc::new(Model::of(tree).map_err(Violation)?),
        };
        security.models.insert(revision, model.clone());
        if is_newest {
            self.invariants.checks += 1;
            if let Some(wrong) = security.ledger.see(&model) {
                return Err(Violation(format!("at revision {revision} {wrong}")));
            }
        }
        Ok(())
    }

    /// What a broker's image has of security is what the tree has at its revision, and its index decides as one would
    /// who reads all rules.
    pub(super) fn check_secured_image(&mut self, id: i32) -> Result<(), Violation> {
        let Some(security) = self.security.as_deref_mut() else { return Ok(()) };
        let Some(node) = self.brokers.get(&id) else { return Ok(()) };
        let (Some(image), Some(authorizer)) = (node.image(), node.authorizer()) else { return Ok(()) };
        let Some(model) = security.models.get(&image.revision()) else { return Ok(()) };
        let is_same = |known: &(Arc<Model>, Arc<ottla_authorizer::AclIndex>)| {
            Arc::ptr_eq(&known.0, model) && Arc::ptr_eq(&known.1, image.acls())
        };
        if security.compared.get(&id).is_some_and(is_same) {
            return Ok(());
        }
        self.invariants.checks += 1;
        security.counts.compared += 1;
        let revision = image.revision();
        if let Some(difference) = model.difference(image) {
            return Err(Violation(format!("b{id} is at {revision}, and {difference}")));
        }
        let clients = security.logins.users();
        let operations = [Operation::Read, Operation::Write, Operation::Describe, Operation::Alter, Operation::Create];
        let resources = [
            (ResourceType::Topic, "t"),
            (ResourceType::Topic, "topic"),
            (ResourceType::Topic, "other"),
            (ResourceType::Group, "g"),
            (ResourceType::Cluster, ottla_authorizer::CLUSTER),
        ];
        for _ in 0..QUESTIONS {
            let random = &mut security.random;
            let Some(user) = random.pick(&clients) else { break };
            let requester = ottla_authorizer::Requester {
                principal: KafkaPrincipal::user(user.as_str()),
                address: address_of(*random.pick(&[1, 2, 101]).unwrap_or(&1)),
            };
            let operation = *random.pick(&operations).unwrap_or(&Operation::Read);
            let (resource_type, name) = *random.pick(&resources).unwrap_or(&resources[0]);
            let is_allowed = authorizer.is_allowed(image.acls(), &requester, operation, resource_type, name);
            let name = name.to_owned();
            agrees(
                id,
                model,
                authorizer,
                &Checked { requester, operation, resource_type, name, is_allowed, revision },
            )?;
        }
        security.compared.insert(id, (model.clone(), image.acls().clone()));
        Ok(())
    }

    /// What a broker decided for a request is what the tree says at its image's revision.
    pub(super) fn check_decision(&mut self, id: i32, checked: &Checked) -> Result<(), Violation> {
        let Some(security) = self.security.as_deref_mut() else { return Ok(()) };
        let authorizer = self.brokers.get(&id).and_then(BrokerNode::authorizer);
        let (Some(model), Some(authorizer)) = (security.models.get(&checked.revision), authorizer) else {
            return Ok(());
        };
        self.invariants.checks += 1;
        match checked.is_allowed {
            true => security.counts.allowed += 1,
            false => security.counts.refused += 1,
        }
        agrees(id, model, authorizer, checked)
    }

    /// Passwords and tokens are good exactly as long as they are in the tree, and tokens until their time is over.
    pub(super) fn check_login(&mut self, id: i32, login: &LoggedIn) -> Result<(), Violation> {
        let Some(security) = self.security.as_deref_mut() else { return Ok(()) };
        let LoggedIn { credentials, user, wall, revision } = login;
        let Some(model) = security.models.get(revision) else { return Ok(()) };
        self.invariants.checks += 1;
        match user {
            Some(_) => security.counts.logins += 1,
            None => security.counts.refused_logins += 1,
        }
        let (name, wall): (_, TimestampMs) = (&credentials.user, *wall);
        let expected = if credentials.is_token {
            let token = model.tokens.get(name).filter(|_| model.has_token(name, wall));
            token.map(|token| token.owner.name.to_string())
        } else {
            let in_tree = model.credential(name, crate::security::clients::MECHANISM);
            let is_good = in_tree.is_some() && in_tree == security.logins.credential_of(name, &credentials.password);
            is_good.then(|| name.clone())
        };
        if *user != expected {
            return Err(Violation(format!(
                "b{id} took {name} for {user:?} at revision {revision}, where it is {expected:?}"
            )));
        }
        Ok(())
    }

    /// Nothing of the intruder is in a log.
    pub(super) fn check_intruder(&self, id: i32, partition: TopicIdPartition, from: Offset) -> Result<(), Violation> {
        let Some(security) = self.security.as_deref() else { return Ok(()) };
        // Where a resource without rules is open, it is open to the intruder too until the first rule has come.
        if security.config.allow_everyone_if_no_acl_found {
            return Ok(());
        }
        let Some(replica) = self.brokers.get(&id).and_then(|broker| broker.replica(partition)) else { return Ok(()) };
        let first = i64::from(INTRUDER) * 1_000;
        match replica.content.iter_from(from).find(|(_, record)| (first..first + 1_000).contains(&record.producer.0)) {
            Some((offset, _)) => Err(Violation(format!("b{id} has a record of the intruder at {offset}"))),
            None => Ok(()),
        }
    }

    /// A broker heard from the quorum's leader that it has applied this.
    pub(super) fn heard(&mut self, id: i32, revision: Revision) {
        let now = self.now;
        if let Some(security) = self.security.as_deref_mut() {
            security.heard.insert(id, (now, revision));
        }
    }

    /// A change that was acknowledged holds at every broker that hears from the quorum, within a bound (scenario 22).
    pub(super) fn check_lag(&mut self, id: i32) -> Result<(), Violation> {
        let now = self.now;
        let revision = self.brokers.get(&id).and_then(BrokerNode::image).map(Image::revision);
        let (Some(security), Some(revision)) = (self.security.as_deref_mut(), revision) else { return Ok(()) };
        let (since, of) = security.lags_since.get(&id).copied().unwrap_or((now, security.acknowledged));
        let is_heard = |(at, heard): &(SimTime, Revision)| now < at.plus_ms(SILENCE_MS) && *heard >= of;
        if revision >= of || !security.heard.get(&id).is_some_and(is_heard) {
            security.lags_since.remove(&id);
            return Ok(());
        }
        security.lags_since.insert(id, (since, of));
        if now >= since.plus_ms(LAG_MAX_MS) {
            return Err(Violation(format!(
                "b{id} hears from the quorum, and does not have the change of revision {of} since {since}: {revision}"
            )));
        }
        Ok(())
    }
}

/// A broker decided as one would who reads all rules.
fn agrees(id: i32, model: &Model, authorizer: &Authorizer, checked: &Checked) -> Result<(), Violation> {
    let Checked { requester, operation, resource_type, name, is_allowed, revision } = checked;
    if model.is_allowed(authorizer, requester, *operation, *resource_type, name) == *is_allowed {
        return Ok(());
    }
    Err(Violation(format!(
        "b{id} says {is_allowed} to {operation:?} of {name} by {requester:?} at {revision}, by the rules {:?}",
        model.acls
    )))
}
