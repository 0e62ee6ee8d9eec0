//! Levels of `ottla.version`: who is asked before one is finalized, who is refused afterwards, and what waits for it.

use ottla_model::{
    BrokerEpoch, BrokerId, CoordinatorId, ErrorCode, FeatureLevel, FeatureLevels, KafkaPrincipal, OTTLA_VERSION,
};

use super::harness::*;
use crate::controller::*;
use crate::image::ConfigEntity;
use crate::limits;

const OLDER: FeatureLevels = FeatureLevels { min: FeatureLevel(1), max: FeatureLevel(1) };
const NEWER: FeatureLevels = FeatureLevels { min: FeatureLevel(1), max: FeatureLevel(2) };

/// A cluster that began with the older release; its controller is of the newer one since.
fn begun_by_the_older() -> Cluster {
    let mut cluster = Cluster::with(|config| config.levels = OLDER);
    cluster.config.levels = NEWER;
    cluster.change_leader_to_a_new_one();
    cluster
}

fn start(cluster: &mut Cluster, id: i32, levels: FeatureLevels) -> Result<(), Refusal> {
    let register = Register { levels, ..cluster.registration(id, 10 + id as u8, BrokerEpoch::NONE) };
    match cluster.ask(Request::Register(register)) {
        Answer::Register(answer) => answer.map(|registered| cluster.joined(&registered, 10 + id as u8)),
        other => panic!("not the answer: {other:?}"),
    }
}

fn update(cluster: &mut Cluster, level: i16, change: FeatureChange, validate_only: bool) -> Result<(), String> {
    let updates = vec![FeatureUpdate { name: OTTLA_VERSION.to_owned(), level, change }];
    match cluster.ask(Request::UpdateFeatures(UpdateFeatures { updates, validate_only })) {
        Answer::UpdateFeatures(Ok(_)) => Ok(()),
        Answer::UpdateFeatures(Err(refusal)) => {
            assert_eq!(refusal.error, ErrorCode::InvalidUpdateVersion);
            Err(refusal.message)
        }
        other => panic!("not the answer: {other:?}"),
    }
}

fn upgrade(cluster: &mut Cluster, level: i16) -> Result<(), String> {
    update(cluster, level, FeatureChange::Upgrade, false)
}

fn level(cluster: &Cluster) -> i16 {
    cluster.image.finalized().level.0
}

fn create_token(cluster: &mut Cluster) -> Result<(), ErrorCode> {
    let user = || KafkaPrincipal::user("alice");
    let change = TokenChange::Create {
        owner: user(),
        requester: user(),
        renewers: Vec::new(),
        lifetime_ms: 50_000,
        renewal_ms: 20_000,
    };
    match cluster.ask(Request::AlterDelegationToken(AlterDelegationToken { token_id: "t".to_owned(), change })) {
        Answer::AlterDelegationToken(altered) => altered.map(drop).map_err(|refusal| refusal.error),
        other => panic!("not the answer: {other:?}"),
    }
}

fn subscribe(cluster: &mut Cluster, op: ConfigOp) -> Option<ErrorCode> {
    let entity = ConfigEntity::client_metrics("s");
    let entities = vec![AlterConfig { entity, changes: vec![("interval.ms".to_owned(), op)], replace_all: false }];
    match cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false })) {
        Answer::AlterConfigs(outcomes) => outcomes.entities[0].1.as_ref().map(|refusal| refusal.error),
        other => panic!("not the answer: {other:?}"),
    }
}

#[test]
fn a_new_cluster_begins_at_the_highest_level() {
    assert_eq!(level(&Cluster::of(1)), FeatureLevel::NEWEST.0);
    assert_eq!(level(&begun_by_the_older()), 1);
}

#[test]
fn a_level_is_finalized_when_every_broker_works_at_it_also_one_that_is_down() {
    let mut cluster = begun_by_the_older();
    start(&mut cluster, 1, NEWER).expect("the level is 1");
    start(&mut cluster, 2, OLDER).expect("the level is 1");
    let refused = Err("Invalid update version 2 for feature ottla.version. Broker 2 only supports versions 1-1".into());
    assert_eq!(upgrade(&mut cluster, 2), refused);
    cluster.kill(2);
    cluster.run(10_000);
    assert!(cluster.image.broker(ottla_model::BrokerId(2)).is_none(), "it is fenced");
    assert_eq!(upgrade(&mut cluster, 2), refused);
    start(&mut cluster, 2, NEWER).expect("of the newer release");
    assert_eq!(update(&mut cluster, 2, FeatureChange::Upgrade, true), Ok(()));
    assert_eq!(level(&cluster), 1, "it was only checked");
    assert_eq!(upgrade(&mut cluster, 2), Ok(()));
    assert_eq!(level(&cluster), 2);
    let before = cluster.transactions;
    assert_eq!(upgrade(&mut cluster, 2), Ok(()));
    assert_eq!(cluster.transactions, before, "nothing changes");
}

#[test]
fn a_level_is_finalized_when_every_member_of_the_quorum_has_told_that_it_works_at_it() {
    let mut cluster = begun_by_the_older();
    let mut tell = |third: Option<FeatureLevels>| {
        let levels = [Some(NEWER), Some(NEWER), third].into_iter().zip(1..);
        cluster.step(Input::QuorumLevels(levels.map(|(levels, id)| (CoordinatorId(id), levels)).collect()));
        upgrade(&mut cluster, 2)
    };
    assert!(tell(None).is_err_and(|text| text.ends_with("Coordinator 3 has not told which versions it supports")));
    assert!(tell(Some(OLDER)).is_err_and(|text| text.ends_with("Coordinator 3 only supports versions 1-1")));
    assert_eq!(tell(Some(NEWER)), Ok(()));
}

#[test]
fn a_broker_that_does_not_work_at_the_finalized_level_is_refused() {
    let mut cluster = Cluster::of(1);
    let refused = start(&mut cluster, 2, OLDER).expect_err("the level is 2");
    assert_eq!(refused.error, ErrorCode::UnsupportedVersion);
    let text = "Unable to register because the broker does not support finalized version 2 of ottla.version. The \
                broker wants a version between 1 and 1, inclusive.";
    assert_eq!(refused.message, text);
}

/// While it waits for its predecessor to be gone, its level is finalized away.
#[test]
fn a_registration_that_waits_is_checked_again() {
    let mut cluster = begun_by_the_older();
    start(&mut cluster, 1, NEWER).expect("the level is 1");
    // Only one that was reached before counts as gone where it cannot be reached.
    cluster.run(1_000);
    cluster.stop_running(1);
    let predecessor = cluster.brokers[&1].incarnation;
    // The predecessor is being dialled.
    let register = Register { levels: OLDER, ..cluster.registration(1, 99, BrokerEpoch::NONE) };
    let waiting = cluster.send(Request::Register(register));
    cluster.commit_all();
    assert!(!cluster.answers.contains_key(&waiting));
    assert_eq!(upgrade(&mut cluster, 2), Ok(()));
    let refused = ProbeResult::Refused;
    cluster.step(Input::Probed { broker: BrokerId(1), incarnation: predecessor, result: refused });
    cluster.run(500);
    let answer = cluster.answers.remove(&waiting);
    let Some(Answer::Register(Err(refused))) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.error, ErrorCode::UnsupportedVersion);
}

#[test]
fn tokens_and_subscriptions_wait_for_their_level() {
    let mut cluster = begun_by_the_older();
    assert_eq!(create_token(&mut cluster), Err(ErrorCode::UnsupportedVersion));
    assert_eq!(subscribe(&mut cluster, ConfigOp::Set("1000".to_owned())), Some(ErrorCode::UnsupportedVersion));
    assert_eq!((cluster.image.delegation_tokens().count(), cluster.image.client_metrics().count()), (0, 0));
    assert_eq!(upgrade(&mut cluster, 2), Ok(()));
    assert_eq!(create_token(&mut cluster), Ok(()));
    assert_eq!(subscribe(&mut cluster, ConfigOp::Set("1000".to_owned())), None);
}

#[test]
fn a_level_goes_down_only_when_it_is_asked_to_and_nothing_would_be_lost() {
    let mut cluster = Cluster::of(1);
    assert_eq!(update(&mut cluster, 2, FeatureChange::SafeDowngrade, false), Ok(()), "it stays");
    assert!(upgrade(&mut cluster, 1).is_err_and(|text| text.contains("either safe or unsafe downgrade")));
    assert_eq!(create_token(&mut cluster), Ok(()));
    let safe = update(&mut cluster, 1, FeatureChange::SafeDowngrade, false);
    assert!(safe.is_err_and(|text| text.contains("1 delegation tokens. Retry using UNSAFE_DOWNGRADE")));
    assert_eq!(update(&mut cluster, 1, FeatureChange::UnsafeDowngrade, false), Ok(()));
    assert_eq!(level(&cluster), 1);
    // What exceeds the level can be removed.
    let change = TokenChange::Expire { by: KafkaPrincipal::user("alice"), period_ms: None };
    let ended = cluster.ask(Request::AlterDelegationToken(AlterDelegationToken { token_id: "t".to_owned(), change }));
    assert!(matches!(ended, Answer::AlterDelegationToken(Ok(_))), "{ended:?}");
    assert!(update(&mut cluster, 2, FeatureChange::SafeDowngrade, false).is_err_and(|t| t.contains("newer version")));
    assert_eq!(upgrade(&mut cluster, 2), Ok(()));
    assert_eq!(update(&mut cluster, 1, FeatureChange::SafeDowngrade, false), Ok(()), "nothing is left");
}

#[test]
fn a_refused_downgrade_names_all_that_would_be_lost() {
    let mut cluster = Cluster::of(1);
    let safe = |cluster: &mut Cluster| {
        update(cluster, 1, FeatureChange::SafeDowngrade, true).map_err(|text| {
            let (_, after) = text.split_once("the cluster has ").expect("what it has");
            after.split_once(". Retry").expect("and what to do").0.to_owned()
        })
    };
    assert_eq!(safe(&mut cluster), Ok(()));
    assert_eq!(subscribe(&mut cluster, ConfigOp::Set("1000".to_owned())), None);
    assert_eq!(safe(&mut cluster), Err("1 subscriptions to metrics of clients".to_owned()));
    assert_eq!(create_token(&mut cluster), Ok(()));
    assert_eq!(safe(&mut cluster), Err("1 delegation tokens and 1 subscriptions to metrics of clients".to_owned()));
    assert_eq!(level(&cluster), 2, "it was only asked about");
}

#[test]
fn what_waits_for_a_level_is_named_with_the_level() {
    let cluster = begun_by_the_older();
    for (gated, what) in [
        (Gated::DelegationTokens, "Delegation tokens need ottla.version 2, and the cluster is at 1"),
        (Gated::ClientMetrics, "Subscriptions to metrics of clients need ottla.version 2, and the cluster is at 1"),
    ] {
        let refused = gated.check(&cluster.image).expect_err("the level is 1");
        assert!(refused.message.starts_with(what), "{refused}");
        assert_eq!(gated.check(&Cluster::of(1).image), Ok(()));
    }
}

#[test]
fn an_update_may_name_as_many_features_as_the_limit() {
    let mut cluster = Cluster::of(1);
    let mut error = |count| {
        let one = FeatureUpdate { name: "group.version".to_owned(), level: 1, change: FeatureChange::Upgrade };
        let request = UpdateFeatures { updates: vec![one; count], validate_only: false };
        match cluster.ask(Request::UpdateFeatures(request)) {
            Answer::UpdateFeatures(updated) => updated.err().map(|refusal| refusal.error),
            other => panic!("not the answer: {other:?}"),
        }
    };
    assert_eq!(error(limits::MAX_ITEMS_PER_REQUEST), None);
    assert_eq!(error(limits::MAX_ITEMS_PER_REQUEST + 1), Some(ErrorCode::PolicyViolation));
}

#[test]
fn other_levels_and_other_features_are_refused_and_then_nothing_changes() {
    let mut cluster = begun_by_the_older();
    for (bad, is_negative) in [(-1, true), (0, false), (3, false)] {
        let text = upgrade(&mut cluster, bad).expect_err("no process works at it");
        assert_eq!(text.ends_with("A feature version cannot be less than 0."), is_negative, "{text}");
    }
    let update = |name: &str, level| FeatureUpdate { name: name.to_owned(), level, change: FeatureChange::Upgrade };
    for (updates, text) in [
        (vec![update(OTTLA_VERSION, 2), update("group.version", 0)], "only supports versions 1-1"),
        (vec![update("share.version", 1), update(OTTLA_VERSION, 2)], "does not support this feature"),
        (vec![update(OTTLA_VERSION, 2), update(OTTLA_VERSION, 1)], "named more than once"),
    ] {
        let answer = cluster.ask(Request::UpdateFeatures(UpdateFeatures { updates, validate_only: false }));
        let Answer::UpdateFeatures(Err(refusal)) = answer else { panic!("{answer:?}") };
        assert!(refusal.message.contains(text), "{refusal}");
        assert_eq!(level(&cluster), 1);
    }
    let fixed = vec![update("group.version", 1), update("metadata.version", 30), update("transaction.version", 2)];
    let answer = cluster.ask(Request::UpdateFeatures(UpdateFeatures { updates: fixed, validate_only: false }));
    assert!(matches!(answer, Answer::UpdateFeatures(Ok(_))), "{answer:?}");
}
