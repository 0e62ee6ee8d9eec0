//! Tokens of every kind of signature, and those that are refused. `test_data/signed.json` has public keys, and tokens
//! that openssl signed with the private ones.

use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::settings::{BearerSettings, KeysSettings, Location};
use super::token_source::{TokenEndpoint, TokenSource};
use super::*;
use crate::jaas::{self, JaasEntry};

/// Within the life of the tokens, which is from 1000 s to 2000 s.
const NOW_MS: i64 = 1_500_000;

fn data() -> Value {
    serde_json::from_str(include_str!("test_data/signed.json")).expect("JSON")
}

fn keys() -> KeySet {
    KeySet::parse(data().to_string().as_bytes()).expect("keys")
}

fn token(algorithm: &str) -> String {
    data()["tokens"][algorithm].as_str().expect("a token").to_owned()
}

fn rules() -> BearerRules {
    BearerRules {
        is_signed: true,
        audiences: BTreeSet::from(["kafka".to_owned()]),
        issuer: Some("https://issuer.example".to_owned()),
        clock_skew_ms: 30_000,
        scope_claim: "scope".to_owned(),
        sub_claim: "sub".to_owned(),
        required_scope: BTreeSet::new(),
    }
}

#[test]
fn every_kind_of_signature_is_verified() {
    assert_eq!(format!("{:?}", keys()), "3 keys");
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"] {
        let token = token(algorithm);
        let expected = Bearer { user: "alice".to_owned(), expires_ms: 2_000_000 };
        assert_eq!(rules().check(&token, &keys(), NOW_MS), Ok(expected), "{algorithm}");
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let (header, _) = signed.split_once('.').expect("three parts");
        let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"mallory","iat":1000,"exp":2000}"#);
        let forged = format!("{header}.{other}.{signature}");
        assert_eq!(rules().check(&forged, &keys(), NOW_MS), Err(TokenError::Signature), "{algorithm}");
        for cut in [0, 1, signature.len() / 2, signature.len() - 4] {
            let cut = format!("{signed}.{}", &signature[..cut]);
            assert!(rules().check(&cut, &keys(), NOW_MS).is_err(), "{algorithm}");
        }
    }
}

/// No byte of a token may be another one. Most of these are no tokens any more.
#[test]
fn a_token_that_was_altered_anywhere_is_refused() {
    let keys = keys();
    for algorithm in ["RS256", "ES384"] {
        let token = token(algorithm);
        for at in 0..token.len() {
            for other in [b'A', b'z', b'.', b'=', b'{', 0, 0x7f] {
                let mut altered = token.clone().into_bytes();
                altered[at] = other;
                let altered = String::from_utf8(altered).expect("ASCII");
                let checked = rules().check(&altered, &keys, NOW_MS);
                assert!(altered == token || checked.is_err(), "{algorithm} with {other} at {at}");
            }
        }
    }
}

/// The attacks on JSON web tokens: no signature, a public key as a shared secret, a key of another kind or name.
#[test]
fn a_token_chooses_neither_its_check_nor_its_key() {
    let (keys, claims) = (keys(), token("RS256"));
    let parts: Vec<&str> = claims.split('.').collect();
    let with = |header: Value, signature: &str| {
        format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string()), parts[1])
    };
    let error = |token: String| rules().check(&token, &keys, NOW_MS).expect_err("refused");
    assert!(matches!(error(with(json!({"alg": "none"}), "")), TokenError::Malformed(_)));
    assert!(matches!(error(with(json!({"alg": "None"}), parts[2])), TokenError::Malformed(_)));
    assert!(matches!(error(with(json!({"alg": "HS256", "kid": "shared"}), parts[2])), TokenError::Algorithm(_)));
    assert!(matches!(error(with(json!({"alg": "EdDSA"}), parts[2])), TokenError::Algorithm(_)));
    assert_eq!(error(with(json!({"alg": "RS256", "kid": "p256"}), parts[2])), TokenError::UnknownKey("p256".into()));
    assert_eq!(error(with(json!({"alg": "RS256", "kid": "new"}), parts[2])), TokenError::UnknownKey("new".into()));
    assert_eq!(error(with(json!({"alg": "RS256", "kid": "rsa"}), parts[2])), TokenError::Signature);
    assert!(error(with(json!({"alg": "RS256", "kid": "rsa", "crit": ["x"]}), parts[2])) != TokenError::Signature);
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", "a.b", "\u{0}", "🦀.🦀.🦀"] {
        assert!(rules().check(text, &keys, NOW_MS).is_err(), "{text:?}");
        assert!(unsecured_rules("").check(text, &keys, NOW_MS).is_err(), "{text:?}");
    }
    assert!(matches!(error("a".repeat(TOKEN_BYTES_MAX + 1)), TokenError::TooLong(_)));
    // A signed token where unsecured ones are accepted.
    assert!(matches!(unsecured_rules("").check(&claims, &keys, NOW_MS), Err(TokenError::Algorithm(_))));
}

/// A token that fits to all keys of its provider was tried with each. It names none, or, as here, all have its name.
#[test]
fn a_token_is_tried_with_few_keys() {
    let token = token("RS256");
    let keys = data()["keys"].as_array().expect("keys").clone();
    let right = keys.iter().find(|key| key["kid"] == "rsa").expect("an RSA key");
    let modulus = right["n"].as_str().expect("a modulus");
    let checked = |position: usize, name: &str| {
        let mut other = right.clone();
        // Another odd number of the same length.
        other["n"] = json!(format!("{}AAAA{}", &modulus[..40], &modulus[44..]));
        other["kid"] = json!(name);
        let before = std::iter::repeat_n(other.clone(), position);
        let set: Vec<Value> = before.chain([right.clone()]).chain(std::iter::repeat_n(other, 20)).collect();
        let keys = KeySet::parse(json!({ "keys": set }).to_string().as_bytes()).expect("keys");
        rules().check(&token, &keys, NOW_MS).map(|bearer| bearer.user)
    };
    for position in 0..30 {
        let expected = if position < 4 { Ok("alice".to_owned()) } else { Err(TokenError::Signature) };
        assert_eq!(checked(position, "rsa"), expected, "at {position}");
        assert_eq!(checked(position, "other"), Ok("alice".to_owned()), "a named key is found wherever it is");
    }
}

#[test]
fn claims_have_to_be_as_configured() {
    let (keys, token) = (keys(), token("ES256"));
    let check = |rules: BearerRules, now_ms| rules.check(&token, &keys, now_ms).map(|bearer| bearer.user);
    assert_eq!(check(rules(), 2_029_999), Ok("alice".to_owned()), "within the skew of the clocks");
    assert_eq!(check(rules(), 2_030_000), Err(TokenError::Expired));
    assert_eq!(check(BearerRules { issuer: Some("other".to_owned()), ..rules() }, NOW_MS), Err(TokenError::Issuer));
    let audiences = BTreeSet::from(["third".to_owned()]);
    assert_eq!(check(BearerRules { audiences, ..rules() }, NOW_MS), Err(TokenError::Audience));
    let other = |claim: &str| BearerRules { sub_claim: claim.to_owned(), ..rules() };
    assert_eq!(check(other("iss"), NOW_MS), Ok("https://issuer.example".to_owned()));
    for claim in ["name", "exp", "aud"] {
        assert_eq!(check(other(claim), NOW_MS), Err(TokenError::Claim(claim.to_owned())));
    }
    let scope = BearerRules { scope_claim: "exp".to_owned(), ..rules() };
    assert_eq!(check(scope, NOW_MS), Err(TokenError::Claim("exp".to_owned())));
}

fn module(options: &str) -> JaasEntry {
    let text = format!("org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required {options};");
    jaas::parse(&text).expect("a module").remove(0)
}

fn unsecured_rules(options: &str) -> BearerRules {
    let module = module(&format!("unsecuredLoginStringClaim_sub=\"x\" {options}"));
    let settings = BearerSettings::read(&|_| None, None, Some(&module)).expect("unsecured");
    assert_eq!(settings.keys, None);
    settings.rules
}

#[test]
fn unsecured_tokens_are_made_and_read() {
    let login = module(
        "unsecuredLoginStringClaim_sub=\"al ice\" unsecuredLoginListClaim_scope=\",a,b\" \
         unsecuredLoginLifetimeSeconds=\"60\"",
    );
    let Ok(TokenSource::Unsecured(login)) = TokenSource::read(&|_| None, &login) else { panic!("unsecured") };
    let (token, none) = (login.token(NOW_MS), KeySet::default());
    let accepted = unsecured_rules("").check(&token, &none, NOW_MS);
    assert_eq!(accepted, Ok(Bearer { user: "al ice".to_owned(), expires_ms: NOW_MS + 60_000 }));
    assert_eq!(unsecured_rules("").check(&token, &none, NOW_MS + 60_000), Err(TokenError::Expired));
    assert_eq!(unsecured_rules("").check(&token, &none, NOW_MS - 5_000), Err(TokenError::NotYet));
    let skewed = unsecured_rules("unsecuredValidatorAllowableClockSkewMs=\"5000\"");
    assert!(skewed.check(&token, &none, NOW_MS - 5_000).is_ok());
    assert!(unsecured_rules("unsecuredValidatorRequiredScope=\"a b\"").check(&token, &none, NOW_MS).is_ok());
    let scope = unsecured_rules("unsecuredValidatorRequiredScope=\"c\"");
    assert_eq!(scope.check(&token, &none, NOW_MS), Err(TokenError::Scope));
    // Nobody gets in with it where tokens have to be signed.
    assert!(rules().check(&token, &keys(), NOW_MS).is_err());
}

fn settings(
    values: &[(&'static str, &'static str)],
    handler: Option<&str>,
    options: &str,
) -> Result<BearerSettings, String> {
    let usual = [
        ("sasl.oauthbearer.clock.skew.seconds", "30"),
        ("sasl.oauthbearer.jwks.endpoint.refresh.ms", "3600000"),
        ("sasl.oauthbearer.jwks.endpoint.retry.backoff.ms", "100"),
        ("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms", "10000"),
    ];
    let get = |name: &str| values.iter().chain(&usual).find(|(known, _)| *known == name).map(|(_, value)| *value);
    BearerSettings::read(&get, handler, Some(&module(options))).map_err(|error| error.to_string())
}

#[test]
fn settings_of_servers_are_kafkas() {
    const URL: &str = "sasl.oauthbearer.jwks.endpoint.url";
    const UNSECURED_CLASS: &str =
        "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler";
    let file = [(URL, "file:///etc/keys.json"), ("sasl.oauthbearer.expected.audience", "a, b")];
    let read = settings(&file, None, "ssl.truststore.location=\"/ca\"").expect("settings");
    assert_eq!(read.rules.audiences, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    let Some(KeysSettings { location, tls, .. }) = read.keys else { panic!("keys") };
    assert_eq!(location, Location::File("/etc/keys.json".into()));
    assert_eq!(tls.get("ssl.truststore.location"), Some("/ca"));
    // The login module may hold what other brokers are logged in to with.
    assert!(
        settings(&[(URL, "https://p.example/keys")], None, "unsecuredLoginStringClaim_sub=\"b\"")
            .expect("x")
            .rules
            .is_signed
    );
    // One listener of many may take unsecured tokens: its handler says so.
    for values in [&[][..], &[(URL, "https://p.example/keys")]] {
        let unsecured = settings(values, Some(UNSECURED_CLASS), "").expect("unsecured");
        assert!(!unsecured.rules.is_signed && unsecured.keys.is_none());
    }
    for (values, handler, expected) in [
        (&[][..], None, "needs the provider's keys"),
        (&[(URL, "https://p.example/keys")][..], Some("com.example.Own"), "no such class"),
        (&[(URL, "ftp://p.example/keys")][..], None, "no URL of the kinds"),
        (&[(URL, "https://me:secret@p.example/keys")][..], None, "no user and password"),
        (&[(URL, "file:keys")][..], None, "whole path"),
        (&[(URL, "https://p.example/keys"), ("sasl.oauthbearer.clock.skew.seconds", "-1")][..], None, "clock.skew"),
    ] {
        let error = settings(values, handler, "").expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn clients_get_their_tokens_where_they_are_told_to() {
    const URL: &str = "sasl.oauthbearer.token.endpoint.url";
    let read = |values: &[(&'static str, &'static str)], options: &str| {
        let get = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        TokenSource::read(&get, &module(options))
    };
    assert_eq!(read(&[(URL, "file:///run/token")], ""), Ok(TokenSource::File("/run/token".into())));
    let old = "clientId=\"me\" clientSecret=\"s:e c\" scope=\"a b\"";
    let Ok(TokenSource::Endpoint(endpoint)) = read(&[(URL, "https://p.example/token")], old) else { panic!("x") };
    assert_eq!(endpoint.form(), "grant_type=client_credentials&scope=a+b");
    assert_eq!(endpoint.authorization(), format!("Basic {}", STANDARD.encode("me:s:e c")));
    assert!(!format!("{endpoint:?}").contains("s:e c"));
    let new = [
        (URL, "https://p.example/token"),
        ("sasl.oauthbearer.client.credentials.client.id", "m&e"),
        ("sasl.oauthbearer.client.credentials.client.secret", "s"),
        ("sasl.oauthbearer.header.urlencode", "true"),
    ];
    let Ok(TokenSource::Endpoint(endpoint)) = read(&new, "") else { panic!("x") };
    assert_eq!(endpoint.authorization(), format!("Basic {}", STANDARD.encode("m%26e:s")));
    assert_eq!(endpoint.form(), "grant_type=client_credentials");
    let answer = br#"{"access_token":"a.b.c","expires_in":300}"#;
    assert_eq!(TokenEndpoint::token(answer), Some(("a.b.c".to_owned(), Some(300))));
    assert_eq!(TokenEndpoint::token(br#"{"error":"invalid_client"}"#), None);
    for (values, options, expected) in [
        (&[][..], "", "needs a file or an endpoint"),
        (&[(URL, "https://p.example/token")][..], "clientId=\"me\"", "client.secret: is missing"),
        (&[(URL, "file:///t")][..], "extension_x=\"y\"", "extension_x"),
        (&[("sasl.login.callback.handler.class", "com.example.Own")][..], "", "no such class"),
        (&[("sasl.oauthbearer.jwt.retriever.class", "org.x.JwtBearerJwtRetriever")][..], "", "only DefaultJwt"),
        (&[][..], "unsecuredLoginLifetimeSeconds=\"5\"", "_sub: is missing"),
    ] {
        let error = read(values, options).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
