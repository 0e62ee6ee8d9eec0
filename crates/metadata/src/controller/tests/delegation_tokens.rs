//! Delegation tokens: who may renew and end them, how long they live, and how many there may be.

use ottla_model::{ErrorCode, KafkaPrincipal};

use super::harness::*;
use crate::controller::*;
use crate::limits;
use crate::nodes;

fn user(name: &str) -> KafkaPrincipal {
    KafkaPrincipal::user(name)
}

fn ask(cluster: &mut Cluster, id: &str, change: TokenChange) -> Result<AlteredDelegationToken, ErrorCode> {
    let request = AlterDelegationToken { token_id: id.to_owned(), change };
    match cluster.ask(Request::AlterDelegationToken(request)) {
        Answer::AlterDelegationToken(altered) => altered.map_err(|refusal| refusal.error),
        other => panic!("not the answer: {other:?}"),
    }
}

fn create(cluster: &mut Cluster, id: &str, lifetime_ms: i64, renewal_ms: i64) -> Result<(), ErrorCode> {
    let (owner, requester, renewers) = (user("alice"), user("admin"), vec![user("bob")]);
    ask(cluster, id, TokenChange::Create { owner, requester, renewers, lifetime_ms, renewal_ms }).map(drop)
}

fn expires(cluster: &Cluster, id: &str) -> Option<(i64, i64)> {
    let token = cluster.image.delegation_token(id)?;
    Some((token.expires.0 - token.issued.0, token.max.0 - token.issued.0))
}

#[test]
fn a_token_is_renewed_by_its_own_within_its_lifetime() {
    let mut cluster = Cluster::of(1);
    assert_eq!(create(&mut cluster, "t", 50_000, 20_000), Ok(()));
    assert_eq!(expires(&cluster, "t"), Some((20_000, 50_000)));
    assert!(nodes::json_at(&cluster.tree, &nodes::delegation_token::path("t")).is_some());
    // A second try of the same request.
    let before = cluster.transactions;
    assert_eq!(create(&mut cluster, "t", 50_000, 20_000), Ok(()));
    assert_eq!(cluster.transactions, before);
    for by in ["alice", "bob"] {
        let renewed = ask(&mut cluster, "t", TokenChange::Renew { by: user(by), period_ms: 90_000 });
        assert_eq!(renewed.map(|altered| altered.token.expires == altered.token.max), Ok(true));
    }
    for by in ["admin", "carol"] {
        let renewed = ask(&mut cluster, "t", TokenChange::Renew { by: user(by), period_ms: 1 });
        assert_eq!(renewed.err(), Some(ErrorCode::DelegationTokenOwnerMismatch), "{by}");
        let ended = ask(&mut cluster, "t", TokenChange::Expire { by: user(by), period_ms: None });
        assert_eq!(ended.err(), Some(ErrorCode::DelegationTokenOwnerMismatch), "{by}");
    }
    let other = ask(&mut cluster, "u", TokenChange::Renew { by: user("alice"), period_ms: 1 });
    assert_eq!(other.err(), Some(ErrorCode::DelegationTokenNotFound));
    assert!(ask(&mut cluster, "t", TokenChange::Expire { by: user("bob"), period_ms: None }).is_ok());
    assert_eq!((expires(&cluster, "t"), cluster.image.delegation_tokens().count()), (None, 0));
}

#[test]
fn an_expired_token_can_only_be_removed() {
    let mut cluster = Cluster::of(1);
    assert_eq!(create(&mut cluster, "t", 50_000, 20_000), Ok(()));
    assert!(ask(&mut cluster, "t", TokenChange::RemoveExpired).is_ok());
    assert!(cluster.image.delegation_token("t").is_some(), "it lives");
    let ended = ask(&mut cluster, "t", TokenChange::Expire { by: user("alice"), period_ms: Some(0) });
    assert!(ended.is_ok());
    cluster.now.wall.0 += 10;
    for change in [
        TokenChange::Renew { by: user("alice"), period_ms: 1_000 },
        TokenChange::Expire { by: user("alice"), period_ms: Some(1_000) },
        TokenChange::Expire { by: user("alice"), period_ms: None },
    ] {
        assert_eq!(ask(&mut cluster, "t", change).err(), Some(ErrorCode::DelegationTokenExpired));
    }
    assert!(ask(&mut cluster, "t", TokenChange::RemoveExpired).is_ok());
    assert!(cluster.image.delegation_token("t").is_none());
}

/// Thousands may expire at once: what others may ask again must not give way to their removal.
#[test]
fn the_removal_of_an_expired_token_is_not_remembered() {
    let mut cluster = Cluster::of(1);
    assert_eq!(create(&mut cluster, "t", 50_000, 20_000), Ok(()));
    cluster.now.wall.0 += 60_000;
    let remove = AlterDelegationToken { token_id: "t".to_owned(), change: TokenChange::RemoveExpired };
    cluster.ask(Request::Once(IdempotencyKey([7; 16]), Box::new(Request::AlterDelegationToken(remove))));
    assert!(cluster.image.delegation_token("t").is_none());
    assert_eq!(cluster.tree.below(&nodes::decided_request::parent_path()).count(), 0);
}

#[test]
fn what_is_too_large_is_refused() {
    let mut cluster = Cluster::of(1);
    let long = "x".repeat(limits::MAX_PRINCIPAL_BYTES);
    let with = |renewers| TokenChange::Create {
        owner: user("a"),
        requester: user("a"),
        renewers,
        lifetime_ms: 1_000,
        renewal_ms: 1_000,
    };
    for (id, change) in [
        ("", with(vec![])),
        (long.as_str(), with(vec![])),
        ("t", with(vec![user(&long)])),
        ("t", with(vec![user("b"); limits::MAX_TOKEN_RENEWERS + 1])),
        ("t", with(vec![user(&"x".repeat(limits::MAX_PRINCIPAL_BYTES / 2)); 10])),
    ] {
        assert_eq!(ask(&mut cluster, id, change).err(), Some(ErrorCode::InvalidRequest));
    }
    for at in 0..limits::MAX_TOKENS_PER_REQUESTER {
        assert_eq!(create(&mut cluster, &format!("t{at}"), 1_000, 1_000), Ok(()));
    }
    assert_eq!(create(&mut cluster, "more", 1_000, 1_000), Err(ErrorCode::PolicyViolation));
    // Others may have some.
    for at in limits::MAX_TOKENS_PER_REQUESTER..limits::MAX_TOKENS {
        assert!(ask(&mut cluster, &format!("t{at}"), with(vec![])).is_ok(), "{at}");
    }
    let of_another = TokenChange::Create {
        owner: user("b"),
        requester: user("b"),
        renewers: vec![],
        lifetime_ms: 1_000,
        renewal_ms: 1_000,
    };
    assert_eq!(ask(&mut cluster, "more", of_another).err(), Some(ErrorCode::PolicyViolation));
}

#[test]
fn a_token_may_be_as_large_as_the_limits() {
    let mut cluster = Cluster::of(1);
    // A principal of this number of bytes, its type among them.
    let principal = |bytes: usize| user(&"x".repeat(bytes - "User".len()));
    let mut error = |id: &str, owner: KafkaPrincipal, renewers: &[usize]| {
        let change = TokenChange::Create {
            requester: owner.clone(),
            owner,
            renewers: renewers.iter().copied().map(principal).collect(),
            lifetime_ms: 1_000,
            renewal_ms: 1_000,
        };
        ask(&mut cluster, id, change).err()
    };
    let refused = Some(ErrorCode::InvalidRequest);
    let longest = "i".repeat(limits::MAX_TOKEN_ID_BYTES);
    assert_eq!(error(&longest, user("a"), &[]), None);
    assert_eq!(error(&format!("{longest}i"), user("a"), &[]), refused);
    assert_eq!(error("renewers", user("a"), &[6; limits::MAX_TOKEN_RENEWERS]), None);
    assert_eq!(error("too many", user("a"), &[6; limits::MAX_TOKEN_RENEWERS + 1]), refused);
    let most = limits::MAX_PRINCIPAL_BYTES;
    assert_eq!(error("long", principal(most), &[]), None);
    assert_eq!(error("too long", user("a"), &[most + 1]), refused);
    // The owner and the requester are half of them.
    assert_eq!(4 * most, limits::MAX_TOKEN_PRINCIPALS_BYTES);
    assert_eq!(error("all", principal(most), &[most, most - 6, 6]), None);
    assert_eq!(error("one byte more", principal(most), &[most, most - 6, 7]), refused);
}
