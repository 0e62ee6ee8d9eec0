//! Configurations are altered at run time.
//!
//! A change that lowers min.insync.replicas clears ELRs: afterwards the HW moves with fewer members, and a former
//! member may lack committed records. The ELRs are cleared no later than the change, in the same or earlier
//! transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{BrokerId, ErrorCode, Revision, TopicIdPartition, TopicName};

use super::draft::Draft;
use super::electorate::{TopicElectorate, min_insync_replicas_of, unclean_election_of};
use super::features::Gated;
use super::ledger;
use super::topics::Repeated;
use super::work_queue::{PARTITIONS_PER_TRANSACTION, Work};
use super::{
    AlterConfig, AlterConfigs, Answer, ConfigOp, ConfigOutcomes, Controller, IdempotencyKey, Refusal, RequestId,
};
use crate::broker_config::{self, BrokerConfigError};
use crate::client_metrics_config::Subscription;
use crate::config_value;
use crate::election::PartitionChange;
use crate::group_config;
use crate::image::{ConfigEntity, ConfigImage, ConfigKind, MIN_INSYNC_REPLICAS};
use crate::limits;
use crate::nodes;
use crate::nodes::config::DEFAULT_ENTITY;
use crate::quota_config;
use crate::topic_config;
use crate::tree::Path;

impl Controller {
    pub(super) fn alter_configs(&mut self, id: RequestId, request: AlterConfigs, key: Option<IdempotencyKey>) {
        let repeated = Repeated::of(request.entities.iter().map(|alter| alter.entity.clone()));
        let mut entities = Vec::with_capacity(request.entities.len());
        if request.entities.len() > limits::MAX_ITEMS_PER_REQUEST {
            let refused = || Some(Refusal::new(ErrorCode::PolicyViolation, String::new()));
            let entities = request.entities.into_iter().map(|alter| (alter.entity, refused())).collect();
            return self.answer(id, Answer::AlterConfigs(ConfigOutcomes { entities, revision: Revision(0) }));
        }
        let last = request.entities.len().saturating_sub(1);
        let mut is_to_be_remembered = false;
        for (number, alter) in request.entities.iter().enumerate() {
            let planned = match repeated.contains(&alter.entity) {
                true => Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate resource.")),
                false => self.plan_config(alter),
            };
            entities.push((alter.entity.clone(), planned.as_ref().err().cloned()));
            if let (Ok((entity, entries)), false) = (planned, request.validate_only) {
                // With the last change the answer is known.
                let answer = (number == last).then(|| {
                    Answer::AlterConfigs(ConfigOutcomes { entities: entities.clone(), revision: Revision(0) })
                });
                if self.write_config(&entity, &entries, key.zip(answer)) {
                    is_to_be_remembered = number != last;
                }
            }
        }
        let answer = Answer::AlterConfigs(ConfigOutcomes { entities, revision: Revision(0) });
        // The last entity was refused, or is as it was, and others were written.
        if let Some(memory) = key.filter(|_| is_to_be_remembered).and_then(|key| self.memory_of(key, &answer)) {
            self.propose(memory);
        }
        self.answer(id, answer);
    }

    /// The new entries, if the change is valid.
    fn plan_config(&self, alter: &AlterConfig) -> Result<(ConfigEntity, BTreeMap<String, String>), Refusal> {
        let entity = self.check_entity(&alter.entity)?;
        let current = self.ledger.ahead().config(&entity).map(|config| config.entries.clone()).unwrap_or_default();
        let invalid = |error: &dyn std::fmt::Display| Refusal::new(ErrorCode::InvalidConfig, error.to_string());
        let before = bytes_of(&current);
        let mut entries = if alter.replace_all { BTreeMap::new() } else { current };
        for (name, op) in &alter.changes {
            let listed = |change: fn(Option<&str>, &str) -> String, op: &str, value: &str| {
                let list = List::of(entity.kind, name);
                if !list.is_list {
                    let text = format!("Can't {op} to key {name} because its type is not LIST.");
                    return Err(Refusal::new(ErrorCode::InvalidConfig, text));
                }
                let current = entries.get(name).map(String::as_str).or(list.default);
                Ok(change(current, value))
            };
            match op {
                ConfigOp::Set(value) => entries.insert(name.clone(), value.clone()),
                ConfigOp::Append(value) => {
                    let value = listed(config_value::append, "APPEND", value)?;
                    entries.insert(name.clone(), value)
                }
                ConfigOp::Subtract(value) => {
                    let value = listed(config_value::subtract, "SUBTRACT", value)?;
                    entries.insert(name.clone(), value)
                }
                ConfigOp::Delete => entries.remove(name),
            };
        }
        if bytes_of(&entries) > before && self.ledger.is_full() {
            return Err(Refusal::new(ErrorCode::PolicyViolation, "The cluster's metadata is as large as it may be."));
        }
        check_size(&entries, before)?;
        match entity.kind {
            ConfigKind::Topics => topic_config::validate(&entries).map_err(|error| invalid(&error))?,
            ConfigKind::Groups => group_config::validate(&entries, |_| None).map_err(|error| invalid(&error))?,
            ConfigKind::ClientMetrics => self.check_subscription(&entity, &entries)?,
            // Values that depend on a broker's own properties are checked by the broker before it sends the request.
            ConfigKind::Brokers => {
                let changed = alter.changes.iter().filter_map(|(name, _)| entries.get_key_value(name));
                let changed = changed.map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let per_broker = entity != ConfigEntity::default_broker();
                broker_config::validate(&changed, per_broker, |_| false).map_err(|error| match error {
                    BrokerConfigError::Value(_) => invalid(&error),
                    _ => Refusal::new(ErrorCode::InvalidRequest, error.to_string()),
                })?;
            }
            ConfigKind::Clients | ConfigKind::Users | ConfigKind::UserClients | ConfigKind::Ips => {
                let set = alter.changes.iter().filter_map(|(name, _)| entries.get_key_value(name));
                for (name, value) in set {
                    quota_config::validate(entity.kind, name, value).map_err(|error| invalid(&error))?;
                }
            }
        }
        Ok((entity, entries))
    }

    fn check_subscription(&self, entity: &ConfigEntity, entries: &BTreeMap<String, String>) -> Result<(), Refusal> {
        if !entries.is_empty() {
            self.check_finalized(Gated::ClientMetrics)?;
        }
        Subscription::parse(entries).map_err(|error| {
            let code = if error.is_invalid_request() { ErrorCode::InvalidRequest } else { ErrorCode::InvalidConfig };
            Refusal::new(code, error.to_string())
        })?;
        let most = limits::MAX_CLIENT_METRICS_SUBSCRIPTIONS;
        let others = self.ledger.ahead().client_metrics().filter(|(other, _)| *other != entity);
        if !entries.is_empty() && others.take(most).count() == most {
            let text = format!("There are {most} subscriptions to the metrics of clients; more are not possible.");
            return Err(Refusal::new(ErrorCode::PolicyViolation, text));
        }
        Ok(())
    }

    /// The entity with its name in the tree (Kafka's empty name is the default entity).
    fn check_entity(&self, entity: &ConfigEntity) -> Result<ConfigEntity, Refusal> {
        let refuse = |text: &str| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        if entity.name.len() > limits::MAX_ENTITY_NAME_BYTES && entity.kind != ConfigKind::UserClients {
            return refuse(&format!(
                "The name of the resource has {} bytes; at most {} are possible.",
                entity.name.len(),
                limits::MAX_ENTITY_NAME_BYTES
            ));
        }
        let is_default = entity.name.is_empty() || entity.name == DEFAULT_ENTITY;
        match entity.kind {
            ConfigKind::Groups if is_default => refuse("Default group resources are not allowed."),
            ConfigKind::Groups => Ok(entity.clone()),
            ConfigKind::ClientMetrics if is_default => refuse("Subscription name can't be empty"),
            ConfigKind::ClientMetrics => Ok(entity.clone()),
            ConfigKind::Topics if is_default => refuse("Default topic resources are not allowed."),
            ConfigKind::Topics => {
                let name = TopicName::new(&entity.name)
                    .map_err(|invalid| Refusal::new(ErrorCode::InvalidTopicException, invalid.to_string()))?;
                match self.ledger.ahead().topic(name.as_str()) {
                    Some(_) => Ok(entity.clone()),
                    None => {
                        let text = format!("The topic '{name}' does not exist.");
                        Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text))
                    }
                }
            }
            ConfigKind::Brokers if is_default => Ok(ConfigEntity::default_broker()),
            ConfigKind::Brokers => match entity.name.parse::<i32>() {
                Ok(id) if id >= 0 => Ok(ConfigEntity::broker(BrokerId(id))),
                Ok(_) => refuse("Invalid negative broker ID."),
                Err(_) => refuse("Unable to parse broker name as a base 10 number."),
            },
            ConfigKind::Clients | ConfigKind::Users | ConfigKind::Ips if is_default => {
                Ok(ConfigEntity { name: DEFAULT_ENTITY.to_owned(), ..entity.clone() })
            }
            ConfigKind::Clients | ConfigKind::Users | ConfigKind::Ips => Ok(entity.clone()),
            // Both names together make the path, which may be too long.
            ConfigKind::UserClients => match entity.as_user_client() {
                Some((user, client)) if entity.path() != Path::root() => Ok(ConfigEntity::user_client(&user, &client)),
                _ => refuse("The names of the user and the client make no path of the tree."),
            },
        }
    }

    /// Whether anything was to be written. `answer`: of the request, for a retry of it.
    fn write_config(
        &mut self,
        entity: &ConfigEntity,
        entries: &BTreeMap<String, String>,
        answer: Option<(IdempotencyKey, Answer)>,
    ) -> bool {
        let current = self.ledger.ahead().config(entity);
        // A broker's configuration is written even if it is unchanged, so that brokers read the files again to which
        // its entries point (KAFKA-14136).
        if current.is_some_and(|config| config.entries == *entries) && entity.kind != ConfigKind::Brokers {
            return false;
        }
        let before = current.and_then(|config| min_insync_replicas_of(&config.entries));
        let unclean_before = current.and_then(|config| unclean_election_of(&config.entries));
        let mut draft = Draft::default();
        if before != min_insync_replicas_of(entries) {
            draft = self.end_elrs(entity, entries);
        }
        let node = nodes::config::ConfigNode {
            entries: entries.clone(),
            min_insync_replicas_modified: self.min_insync_replicas_modified(entity, entries),
        };
        draft.put(self.ledger.ahead_tree(), entity.path(), node.encode());
        if let Some((key, answer)) = answer {
            self.remember(&mut draft, Some(key), &answer);
        }
        self.propose(draft);
        // Partitions that wait for a leader need not wait any longer, also where what forbade the election is gone.
        if unclean_before != unclean_election_of(entries) {
            self.work.begin_again(Work::ElectAll);
        }
        // A broker that is cordoned no more may take replicas that topics lack.
        self.may_grow |= entity.kind == ConfigKind::Brokers;
        true
    }

    /// When `min.insync.replicas` got the value that `entries` leave unchanged, for every coordinator that leads later:
    /// it must know which value a leader has heard of ([`TopicElectorate`]). None if they change it, or if the change
    /// is in flight, at a revision that nobody knows yet.
    fn min_insync_replicas_modified(
        &self,
        entity: &ConfigEntity,
        entries: &BTreeMap<String, String>,
    ) -> Option<Revision> {
        if !matches!(entity.kind, ConfigKind::Topics | ConfigKind::Brokers)
            || self.config.rules.min_insync_replicas_revision_is_not_kept
        {
            return None;
        }
        let current = self.ledger.ahead().config(entity)?;
        let is_unchanged = current.entries.get(MIN_INSYNC_REPLICAS) == entries.get(MIN_INSYNC_REPLICAS);
        let modified = current.min_insync_replicas_modified;
        (is_unchanged && !ledger::is_provisional(modified)).then_some(modified)
    }

    /// Clears the ELRs that the new entries invalidate. Returns the last batch, which goes into the same transaction as
    /// the change itself.
    fn end_elrs(&mut self, entity: &ConfigEntity, entries: &BTreeMap<String, String>) -> Draft {
        let ahead = self.ledger.ahead();
        let mut after = ahead.clone();
        let never = Revision(u64::MAX);
        let changed = ConfigImage { entries: entries.clone(), modified: never, min_insync_replicas_modified: never };
        after.configs.insert(entity.clone(), Arc::new(changed));
        let concerned: BTreeSet<TopicIdPartition> = match entity.kind {
            ConfigKind::Topics => ahead.topic(&entity.name).map_or_else(BTreeSet::new, |topic| {
                let with_elr = topic.partitions().filter(|(_, state)| !state.elr.is_empty());
                with_elr.map(|(partition, _)| TopicIdPartition { topic_id: topic.id, partition }).collect()
            }),
            _ => ahead.index.with_elr().collect(),
        };
        let states: Vec<_> = concerned
            .into_iter()
            .filter_map(|partition| {
                let topic = after.topic_by_id(partition.topic_id)?;
                let electorate =
                    TopicElectorate { image: &after, liveness: &self.liveness, topic, rules: self.config.rules };
                let change = PartitionChange::new(topic.partition(partition.partition)?);
                Some((partition, change.build(&electorate, after.controller_epoch())?))
            })
            .collect();
        let mut draft = Draft::default();
        for (at, (partition, state)) in states.iter().enumerate() {
            if at % PARTITIONS_PER_TRANSACTION == 0 {
                self.propose(std::mem::take(&mut draft));
            }
            draft.partition(self.ledger.ahead_tree(), self.ledger.ahead(), *partition, state);
        }
        draft
    }
}

fn bytes_of(entries: &BTreeMap<String, String>) -> usize {
    entries.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Refuses a change that would make the entity's node too large. A change that makes it smaller than `before` passes: a
/// tree of an earlier release may exceed the limit.
fn check_size(entries: &BTreeMap<String, String>, before: usize) -> Result<(), Refusal> {
    let refuse = |text| Err(Refusal::new(ErrorCode::InvalidConfig, text));
    let bytes = bytes_of(entries);
    if bytes < before {
        return Ok(());
    }
    if entries.len() > limits::MAX_CONFIGS_PER_ENTITY {
        let most = limits::MAX_CONFIGS_PER_ENTITY;
        return refuse(format!("The resource would have {} configs; at most {most} are possible.", entries.len()));
    }
    if let Some(name) = entries.keys().find(|name| name.len() > limits::MAX_CONFIG_NAME_BYTES) {
        let most = limits::MAX_CONFIG_NAME_BYTES;
        return refuse(format!("The name of a config has {} bytes; at most {most} are possible.", name.len()));
    }
    if bytes > limits::MAX_CONFIG_BYTES {
        let most = limits::MAX_CONFIG_BYTES;
        return refuse(format!("The configs of the resource would have {bytes} bytes; at most {most} are possible."));
    }
    Ok(())
}

/// The properties of a configuration that APPEND and SUBTRACT need.
struct List {
    is_list: bool,
    /// The value on which such a change is based if nothing is set. Kafka defines it for topics; a broker's static
    /// value is not known here.
    default: Option<&'static str>,
}

impl List {
    fn of(kind: ConfigKind, name: &str) -> Self {
        match kind {
            ConfigKind::Topics => {
                let key = topic_config::key(name);
                Self { is_list: key.is_some_and(|key| key.kind.is_list()), default: key.map(|key| key.default) }
            }
            ConfigKind::Brokers => {
                let config = broker_config::find(broker_config::without_listener(name).unwrap_or(name));
                let default = (name == "log.cleanup.policy").then_some("delete");
                Self { is_list: config.is_some_and(|config| config.kind.is_list()), default }
            }
            ConfigKind::Groups
            | ConfigKind::ClientMetrics
            | ConfigKind::Clients
            | ConfigKind::Users
            | ConfigKind::UserClients
            | ConfigKind::Ips => Self { is_list: false, default: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: usize, name_bytes: usize, value_bytes: usize) -> BTreeMap<String, String> {
        (0..names).map(|at| (format!("{at:0name_bytes$}"), "v".repeat(value_bytes))).collect()
    }

    /// Whether these entries may take the place of ones with `before` bytes.
    fn passes(entries: &BTreeMap<String, String>, before: usize) -> bool {
        check_size(entries, before).is_ok()
    }

    #[test]
    fn the_configs_of_an_entity_may_be_as_many_and_as_large_as_the_limits() {
        assert!(passes(&entries(limits::MAX_CONFIGS_PER_ENTITY, 9, 0), 0));
        assert!(!passes(&entries(limits::MAX_CONFIGS_PER_ENTITY + 1, 9, 0), 0));
        assert!(passes(&entries(1, limits::MAX_CONFIG_NAME_BYTES, 0), 0));
        assert!(!passes(&entries(1, limits::MAX_CONFIG_NAME_BYTES + 1, 0), 0));
        assert!(passes(&entries(1, 9, limits::MAX_CONFIG_BYTES - 9), 0));
        assert!(!passes(&entries(1, 9, limits::MAX_CONFIG_BYTES - 8), 0));
    }

    /// A tree of an earlier release may exceed the limits.
    #[test]
    fn what_becomes_smaller_passes_and_what_stays_does_not() {
        let large = entries(2, 9, limits::MAX_CONFIG_BYTES);
        let bytes = bytes_of(&large);
        assert_eq!(bytes, 2 * (9 + limits::MAX_CONFIG_BYTES));
        assert!(passes(&large, bytes + 1));
        assert!(!passes(&large, bytes));
    }
}
