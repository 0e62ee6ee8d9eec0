//! Clusters with security, step by step: what brokers that are cut off go on to believe, and until when.

use ottla_authorizer::{Operation, PatternType, Permission, ResourceType};
use ottla_broker_session::BrokenRules as SessionRules;
use ottla_metadata::controller::TokenChange;
use ottla_metadata::logins::BrokenRules as LoginRules;
use ottla_metadata::watch::BrokenRules as WatchRules;
use ottla_metadata::{ConfigEntity, ConfigKind};
use ottla_model::{ErrorCode, KafkaPrincipal};
use ottla_sasl::ClientCredentials;

use crate::coordinator_node::HISTORY_LIMITS;
use crate::invariants::Violation;
use crate::network::NodeId;
use crate::script::{Script, Step};
use crate::security::admin::{Change, acls, config, new_password, no_acls, rule, token};
use crate::security::clients::Logins;
use crate::security::{ADMINS, Security, SecurityConfig, SecurityRules, user_of};
use crate::world::WorldConfig;

/// A client that logs in where the script says.
const CLIENT: u32 = 7;

/// What scripts write as.
const SCRIPT_USER: &str = "script";

fn secured(seed: u64, rules: SecurityRules) -> Step<Script> {
    secured_in(seed, rules, WorldConfig::small())
}

fn secured_in(seed: u64, rules: SecurityRules, config: WorldConfig) -> Step<Script> {
    let security = SecurityConfig {
        allow_everyone_if_no_acl_found: false,
        brokers_are_super_users: true,
        reauth_max: None,
        rules,
    };
    Script::new(seed, WorldConfig { security: Some(security), ..config })
}

fn security(script: &mut Script) -> Step<&mut Security> {
    script.world.security.as_deref_mut().ok_or_else(|| Violation("security is off".to_owned()))
}

/// An admin makes these changes, one after the other.
fn make(script: &mut Script, changes: Vec<Change>) -> Step {
    let admin = security(script)?.admins.get_mut(&ADMINS[0]);
    let admin = admin.ok_or_else(|| Violation("no admin".to_owned()))?;
    changes.into_iter().for_each(|change| admin.then(change));
    script.wait("the changes to be made", |world| {
        world.security.as_deref().is_some_and(|security| security.admins.values().all(|admin| admin.is_idle()))
    })
}

fn change_password(script: &mut Script) -> Step<ClientCredentials> {
    let change = new_password(&user_of(CLIENT), &mut security(script)?.logins);
    make(script, vec![change])?;
    let newest = security(script)?.logins.password_of(&user_of(CLIENT));
    newest.ok_or_else(|| Violation("no password".to_owned()))
}

/// Which brokers take the client in.
fn who_takes(script: &mut Script, credentials: &ClientCredentials) -> Step<Vec<i32>> {
    let mut takers = Vec::new();
    let brokers: Vec<_> = script.world.brokers.keys().copied().collect();
    for broker in brokers {
        if script.world.log_in(broker, CLIENT, credentials.clone())? {
            takers.push(broker);
        }
    }
    Ok(takers)
}

/// Until a broker has what the cluster has.
fn wait_image(script: &mut Script, broker: i32) -> Step {
    script.wait("an image to be the newest", |world| {
        let own = world.brokers.get(&broker).and_then(|node| node.image());
        own.is_some_and(|own| own.revision() >= world.newest_revision())
    })
}

fn on_topic(operation: Operation, permission: Permission) -> ottla_authorizer::AclBinding {
    rule((ResourceType::Topic, PatternType::Literal, "t"), SCRIPT_USER, "*", operation, permission)
}

/// More changes than a watcher may be behind, none of which is about rules.
fn many_changes() -> Vec<Change> {
    let value = |number: usize| Some(number.to_string());
    let count = HISTORY_LIMITS.revisions + 5;
    (1..=count).map(|number| config(ConfigKind::Clients, "busy", "producer_byte_rate", value(number))).collect()
}

fn snapshot_story(seed: u64, watch: WatchRules) -> Step {
    let mut script = secured(seed, SecurityRules { watch, ..SecurityRules::default() })?;
    let former = on_topic(Operation::Describe, Permission::Deny);
    make(&mut script, vec![acls(vec![former.clone()])])?;
    script.converge()?;
    script.write(2)?;
    let leader = script.leader()?;
    script.cut_from_quorum(leader);
    let known = script.broker(leader)?.image().map(ottla_metadata::Image::revision);
    let mut changes = vec![no_acls(&[former]), acls(vec![on_topic(Operation::Write, Permission::Deny)])];
    changes.extend(many_changes());
    make(&mut script, changes)?;
    let behind = script.world.newest_revision().0 - known.map_or(0, |known| known.0);
    assert!(behind > HISTORY_LIMITS.revisions as u64, "only a snapshot can bring it");
    script.heal();
    script.converge()?;
    let brokers: Vec<_> = script.world.brokers.keys().copied().collect();
    for broker in brokers {
        let batch = script.batch(1)?;
        let answer = script.produce(broker, -1, batch)?;
        assert_eq!(answer.error, ErrorCode::TopicAuthorizationFailed, "b{broker}");
    }
    Ok(())
}

#[test]
fn scenario_56_rules_that_changed_while_a_broker_was_cut_off_come_by_a_snapshot() {
    ottla_test_support::each_seed(0..5, |seed| {
        snapshot_story(seed, WatchRules::default()).expect("the snapshot brings the rules");
    });
    let Violation(what) = snapshot_story(0, WatchRules { snapshots_keep_acls: true, ..WatchRules::default() })
        .expect_err("the rule is out");
    assert!(what.contains("its index has"), "{what}");
}

/// A coordinator hears nothing of the others, and answers the brokers that watch it. They hear of the leader by their
/// heartbeats.
fn lagging_story(seed: u64, session_rules: SessionRules) -> Step {
    let config = WorldConfig { session_rules, ..WorldConfig::small() };
    let mut script = secured_in(seed, SecurityRules::default(), config)?;
    script.converge()?;
    let lagging = script.quorum_leader()? % 3 + 1;
    for id in (1..=3).filter(|id| *id != lagging) {
        script.world.network.cut_both(NodeId::Coordinator(lagging), NodeId::Coordinator(id));
    }
    make(&mut script, vec![acls(vec![on_topic(Operation::Write, Permission::Deny)])])?;
    // Longer than the bound of the world's own check.
    script.run_ms(15_000)?;
    let brokers: Vec<_> = script.world.brokers.keys().copied().collect();
    for broker in brokers {
        let batch = script.batch(1)?;
        let answer = script.produce(broker, -1, batch)?;
        assert_eq!(answer.error, ErrorCode::TopicAuthorizationFailed, "b{broker}");
    }
    script.heal();
    script.converge()
}

#[test]
fn scenario_22_a_rule_comes_to_brokers_whose_coordinator_lags() {
    ottla_test_support::each_seed(0..5, |seed| {
        lagging_story(seed, SessionRules::default()).expect("they watch another one");
    });
    let broken = SessionRules { stays_with_lagging_watch: true, ..SessionRules::default() };
    let noticed = (0..5).filter_map(|seed| lagging_story(seed, broken).err());
    let named = noticed.filter(|Violation(what)| what.contains("does not have the change of revision")).count();
    assert!(named > 0, "no seed notices");
}

fn token_story(seed: u64, logins: LoginRules) -> Step {
    const LIFETIME_MS: i64 = 4_000;
    let mut script = secured(seed, SecurityRules { logins, ..SecurityRules::default() })?;
    let id = security(&mut script)?.logins.new_token(&user_of(CLIENT));
    let owner = KafkaPrincipal::user(user_of(CLIENT));
    let change = TokenChange::Create {
        requester: owner.clone(),
        owner,
        renewers: Vec::new(),
        lifetime_ms: LIFETIME_MS,
        renewal_ms: LIFETIME_MS,
    };
    make(&mut script, vec![token(&id, change, Some(String::new()))])?;
    script.converge()?;
    let credentials = Logins::credentials_of_token(&id);
    let brokers: Vec<_> = script.world.brokers.keys().copied().collect();
    assert_eq!(who_takes(&mut script, &credentials)?, brokers);
    for coordinator in 1..=script.world.config.coordinators {
        script.world.kill(NodeId::Coordinator(coordinator));
    }
    script.run_ms(LIFETIME_MS.unsigned_abs())?;
    let now = script.world.now;
    for broker in &brokers {
        let node = script.broker(*broker)?;
        assert!(node.image().is_some_and(|image| image.delegation_token(&id).is_some()), "nobody could remove it");
        assert!(node.needs_login(now, CLIENT), "b{broker} serves a login that has ended");
    }
    assert_eq!(who_takes(&mut script, &credentials)?, [0; 0]);
    Ok(())
}

#[test]
fn scenario_59_a_tokens_time_ends_while_no_quorum_can_remove_it() {
    ottla_test_support::each_seed(0..5, |seed| {
        token_story(seed, LoginRules::default()).expect("it ends by every broker's own clock");
    });
    let Violation(what) = token_story(0, LoginRules { expired_tokens_log_in: true }).expect_err("the rule is out");
    assert!(what.contains("took token-"), "{what}");
}

fn password_story(seed: u64, watch: WatchRules) -> Step {
    let mut script = secured(seed, SecurityRules { watch, ..SecurityRules::default() })?;
    let former = change_password(&mut script)?;
    script.converge()?;
    let brokers: Vec<_> = script.world.brokers.keys().copied().collect();
    assert_eq!(who_takes(&mut script, &former)?, brokers);
    let cut = script.followers()?[0];
    script.cut_from_quorum(cut);
    let newest = change_password(&mut script)?;
    let others: Vec<_> = brokers.iter().copied().filter(|broker| *broker != cut).collect();
    for broker in &others {
        wait_image(&mut script, *broker)?;
    }
    // It knows nothing else: nobody who hears of the change is kept waiting for it.
    assert_eq!(who_takes(&mut script, &former)?, [cut]);
    assert_eq!(who_takes(&mut script, &newest)?, others);
    make(&mut script, many_changes())?;
    script.heal();
    script.converge()?;
    assert_eq!(who_takes(&mut script, &former)?, [0; 0]);
    assert_eq!(who_takes(&mut script, &newest)?, brokers);
    let user = ConfigEntity { kind: ConfigKind::Users, name: user_of(CLIENT) };
    make(&mut script, vec![config(user.kind, &user.name, crate::security::clients::MECHANISM, None)])?;
    script.converge()?;
    assert_eq!(who_takes(&mut script, &newest)?, [0; 0]);
    Ok(())
}

#[test]
fn scenario_61_a_password_changes_while_a_broker_is_cut_off() {
    ottla_test_support::each_seed(0..5, |seed| {
        password_story(seed, WatchRules::default()).expect("the former one ends when the link is back");
    });
    let broken = WatchRules { snapshots_keep_configs: true, ..WatchRules::default() };
    let Violation(what) = password_story(0, broken).expect_err("the rule is out");
    assert!(what.contains("its users and clients are not"), "{what}");
}
