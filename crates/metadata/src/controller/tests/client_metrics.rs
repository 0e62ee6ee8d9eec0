//! Subscriptions to metrics of clients: their checks, and how many there may be.

use ottla_model::ErrorCode;

use super::harness::*;
use crate::controller::*;
use crate::image::ConfigEntity;
use crate::limits;

/// The error of a change of one configuration of a subscription.
fn alter(cluster: &mut Cluster, name: &str, key: &str, op: ConfigOp) -> Option<(ErrorCode, String)> {
    let entity = ConfigEntity::client_metrics(name);
    let entities = vec![AlterConfig { entity, changes: vec![(key.to_owned(), op)], replace_all: false }];
    match cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false })) {
        Answer::AlterConfigs(outcomes) => {
            outcomes.entities[0].1.clone().map(|refusal| (refusal.error, refusal.message))
        }
        other => panic!("not the answer: {other:?}"),
    }
}

#[test]
fn a_subscription_is_checked_as_kafka_does() {
    let mut cluster = Cluster::of(1);
    let set = |value: &str| ConfigOp::Set(value.to_owned());
    assert_eq!(alter(&mut cluster, "s", "interval.ms", set("1000")), None);
    assert_eq!(alter(&mut cluster, "s", "match", set("client_id=a.*")), None);
    let cases = [
        ("s", "interval.ms", set("1"), ErrorCode::InvalidRequest),
        ("s", "interval.ms", set("soon"), ErrorCode::InvalidConfig),
        ("s", "match", set("host=x"), ErrorCode::InvalidConfig),
        ("s", "no.such", set("1"), ErrorCode::InvalidRequest),
        ("s", "metrics", ConfigOp::Append("a".to_owned()), ErrorCode::InvalidConfig),
        ("", "interval.ms", set("1000"), ErrorCode::InvalidRequest),
    ];
    for (name, key, op, code) in cases {
        let refused = alter(&mut cluster, name, key, op.clone());
        assert_eq!(refused.as_ref().map(|(error, _)| *error), Some(code), "{key} {op:?}: {refused:?}");
    }
    let entries = &cluster.image.config(&ConfigEntity::client_metrics("s")).expect("it is there").entries;
    assert_eq!(entries.len(), 2);
}

#[test]
fn subscriptions_are_bounded_and_deleted_ones_make_room() {
    let mut cluster = Cluster::of(1);
    let set = || ConfigOp::Set("1000".to_owned());
    for number in 0..limits::MAX_CLIENT_METRICS_SUBSCRIPTIONS {
        assert_eq!(alter(&mut cluster, &format!("s{number}"), "interval.ms", set()), None);
    }
    let refused = alter(&mut cluster, "more", "interval.ms", set());
    assert_eq!(refused.map(|(error, _)| error), Some(ErrorCode::PolicyViolation));
    assert_eq!(alter(&mut cluster, "s7", "metrics", set()), None, "one that is there may change");
    assert_eq!(alter(&mut cluster, "s8", "interval.ms", ConfigOp::Delete), None);
    assert_eq!(alter(&mut cluster, "more", "interval.ms", set()), None);
}
