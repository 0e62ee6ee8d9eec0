//! Logins request by request.

use ottla_protocol::kafka_protocol::protocol::Request;
use ottla_protocol::{decode_response, encode_request};
use ottla_sasl::oauth::{Bearer, TokenError};
use ottla_sasl::{ClientCredentials, ClientSession, Credentials, ScramCredential, ScramHash, TokenCredential};

use super::*;
use crate::response::Part;

struct Users;

impl Credentials for Users {
    fn password(&self, user: &str) -> Option<String> {
        ["alice", "bob"].contains(&user).then(|| format!("{user}-secret"))
    }

    fn scram(&self, hash: ScramHash, user: &str) -> Option<ScramCredential> {
        let password = self.password(user)?;
        Some(ScramCredential::of_password(hash, &password, b"salt".to_vec(), 4096))
    }

    /// The token `token-N` is alice's and lives for N more seconds.
    fn token(&self, hash: ScramHash, id: &str) -> Option<TokenCredential> {
        let left_ms: i64 = id.strip_prefix("token-")?.parse::<i64>().ok()? * 1_000;
        let credential = ScramCredential::of_token(hash, &self.nobody_secret(), id, "hmac");
        Some(TokenCredential { credential, owner: "alice".to_owned(), expires_ms: wall_ms() + left_ms })
    }

    /// `alice.N` is a bearer token of alice that lives for N more seconds.
    fn bearer(&self, token: &str) -> Result<Bearer, TokenError> {
        let left = token.strip_prefix("alice.").and_then(|left| left.parse::<i64>().ok());
        let left_ms = left.ok_or(TokenError::Signature)? * 1_000;
        Ok(Bearer { user: "alice".to_owned(), expires_ms: wall_ms() + left_ms })
    }

    fn nobody_secret(&self) -> [u8; 32] {
        [9; 32]
    }
}

const SCRAM: Mechanism = Mechanism::Scram(ScramHash::Sha512);

struct Bench {
    login: Authentication,
    principal: KafkaPrincipal,
    now: Instant,
}

impl Bench {
    fn new(reauth_max: Option<Duration>) -> Self {
        let listener = SaslListener {
            mechanisms: [Mechanism::Plain, SCRAM, Mechanism::OAuthBearer].into(),
            credentials: Arc::new(Users),
            watcher: None,
            reauth_max,
            receive_bytes_max: 1_000,
            failure_delay: Duration::ZERO,
        };
        let login = Authentication::new(Arc::new(listener));
        Self { login, principal: KafkaPrincipal::anonymous(), now: Instant::now() }
    }

    fn take(&mut self, frame: &[u8]) -> Outcome {
        self.login.take(&BytesMut::from(frame), self.now, || [5; NONCE_BYTES], &mut self.principal)
    }

    /// What becomes of a request of an API that needs a login.
    fn serves(&mut self) -> bool {
        matches!(self.take(&[0, 3, 0, 1, 0, 0, 0, 9, 255, 255, 0, 0, 0, 0]), Outcome::Serve)
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        let frame = encode_request(version, 7, None, request).expect("encodes");
        let bytes = answer(self.take(&frame[4..])).await?;
        Some(decode_response::<R>(version, bytes.slice(4..)).expect("decodes").1)
    }

    async fn handshake(&mut self, version: i16, mechanism: &str) -> (i16, usize) {
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(mechanism.to_owned()));
        let response = self.call(version, &request).await.expect("an answer");
        (response.error_code, response.mechanisms.len())
    }

    /// Logs in; the code and the text, and how long the login holds.
    async fn log_in(&mut self, mechanism: Mechanism, user: &str, password: &str) -> (i16, String, i64) {
        assert_eq!(self.handshake(1, mechanism.name()).await, (0, 3));
        let is_token = user.starts_with("token-");
        let (user, password) = (user.to_owned(), password.to_owned());
        let credentials = ClientCredentials { mechanism, user, password, is_token };
        let mut session = ClientSession::new(credentials, &[1; 18]);
        let (mut token, mut lifetime_ms) = (Vec::new(), 0);
        while let Some(next) = session.step(&token).expect("an honest server") {
            let request = SaslAuthenticateRequest::default().with_auth_bytes(next.into());
            let response = self.call(2, &request).await.expect("an answer");
            if response.error_code != 0 {
                return (response.error_code, response.error_message.unwrap_or_default().to_string(), 0);
            }
            (token, lifetime_ms) = (response.auth_bytes.to_vec(), response.session_lifetime_ms);
        }
        (0, String::new(), lifetime_ms)
    }
}

/// The bytes of an answer; none: the connection ends.
async fn answer(outcome: Outcome) -> Option<Bytes> {
    let Outcome::Reply(mut answer) = outcome else { panic!("no answer") };
    loop {
        match answer {
            Reply::Held(future) => answer = future.await,
            Reply::Ready(response) => {
                return response.parts.into_iter().find_map(|part| match part {
                    Part::Bytes(bytes) => Some(bytes),
                    Part::Records(_) => None,
                });
            }
            _ => return None,
        }
    }
}

#[tokio::test]
async fn who_logs_in_is_served_under_its_name() {
    for mechanism in [Mechanism::Plain, SCRAM] {
        let mut bench = Bench::new(None);
        assert_eq!(bench.login.frame_bytes_max(5_000), 1_000);
        assert_eq!(bench.log_in(mechanism, "alice", "alice-secret").await, (0, String::new(), 0));
        assert_eq!(bench.principal, KafkaPrincipal::user("alice"));
        assert!(bench.serves());
        assert_eq!(bench.login.frame_bytes_max(5_000), 5_000);
        // Logins do not end here: the service refuses a second one.
        let again = encode_request(1, 7, None, &SaslHandshakeRequest::default()).expect("encodes");
        assert!(matches!(bench.take(&again[4..]), Outcome::Serve));
    }
}

#[tokio::test]
async fn wrong_passwords_are_told_as_kafka_tells_them() {
    for (mechanism, text) in [
        (Mechanism::Plain, "Authentication failed: Invalid username or password"),
        (
            SCRAM,
            "Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512",
        ),
    ] {
        for (user, password) in [("alice", "bob-secret"), ("nobody", "alice-secret")] {
            let mut bench = Bench::new(None);
            let code = ErrorCode::SaslAuthenticationFailed.code();
            assert_eq!(bench.log_in(mechanism, user, password).await, (code, text.to_owned(), 0));
            assert!(bench.login.failure.is_some() && !bench.serves());
            assert_eq!(bench.principal, KafkaPrincipal::anonymous());
        }
    }
}

#[tokio::test]
async fn what_comes_before_the_login_ends_the_connection() {
    assert!(!Bench::new(None).serves());
    // Tokens before a handshake, and a handshake instead of tokens.
    let mut bench = Bench::new(None);
    assert!(bench.call(1, &SaslAuthenticateRequest::default()).await.is_none());
    let mut bench = Bench::new(None);
    assert_eq!(bench.handshake(1, "PLAIN").await, (0, 3));
    assert!(bench.call(1, &SaslHandshakeRequest::default()).await.is_none());
    let mut bench = Bench::new(None);
    let code = ErrorCode::UnsupportedSaslMechanism.code();
    assert_eq!(bench.handshake(1, "GSSAPI").await, (code, 3), "the offered ones are named");
    assert!(!bench.serves());
    let versions = ottla_protocol::messages::api_versions::ApiVersionsResponse::encode_request(4, 5, None);
    assert!(matches!(Bench::new(None).take(&versions[4..]), Outcome::Early));
}

#[tokio::test]
async fn bare_tokens_follow_a_handshake_of_version_0() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.handshake(0, "PLAIN").await, (0, 3));
    assert_eq!(answer(bench.take(b"\0bob\0bob-secret")).await.as_deref(), Some(&[0; 4][..]));
    assert!(bench.serves() && bench.principal == KafkaPrincipal::user("bob"));
    let mut bench = Bench::new(None);
    assert_eq!(bench.handshake(0, "PLAIN").await, (0, 3));
    assert!(answer(bench.take(b"\0bob\0wrong")).await.is_none());
    assert!(!bench.serves());
}

#[tokio::test]
async fn a_login_ends_and_is_renewed_by_the_same_user_only() {
    let lifetime = Duration::from_secs(60);
    let logged_in = async || {
        let mut bench = Bench::new(Some(lifetime));
        assert_eq!(bench.log_in(SCRAM, "alice", "alice-secret").await.2, 60_000);
        bench.now += lifetime / 2;
        bench
    };
    let mut bench = logged_in().await;
    assert_eq!(bench.log_in(SCRAM, "alice", "alice-secret").await.0, 0);
    bench.now += lifetime / 2;
    assert!(bench.serves(), "it was renewed");
    bench.now += lifetime / 2;
    assert!(!bench.serves(), "it has ended");
    for (mechanism, user) in [(SCRAM, "bob"), (Mechanism::Plain, "alice")] {
        let mut bench = logged_in().await;
        let (code, text, _) = bench.log_in(mechanism, user, &format!("{user}-secret")).await;
        assert_eq!(code, ErrorCode::SaslAuthenticationFailed.code());
        assert!(text.starts_with("Cannot change"), "{text}");
        assert!(!bench.serves());
        assert_eq!(bench.principal, KafkaPrincipal::user("alice"));
    }
}

#[tokio::test]
async fn a_login_by_a_token_ends_with_the_token() {
    let minute = Duration::from_secs(60);
    for (reauth_max, most_ms) in [(None, 3_600_000), (Some(minute), 60_000)] {
        let mut bench = Bench::new(reauth_max);
        let (code, _, lifetime_ms) = bench.log_in(SCRAM, "token-3600", "hmac").await;
        assert_eq!((code, &bench.principal), (0, &KafkaPrincipal::user("alice")));
        // What passes between the token and the answer to it is not known here.
        assert!(lifetime_ms > 0 && lifetime_ms <= most_ms, "{lifetime_ms}");
        assert!(bench.login.is_by_token() && bench.serves());
        bench.now += Duration::from_millis(most_ms.unsigned_abs());
        assert!(!bench.serves(), "the token has expired");
    }
    let mut bench = Bench::new(None);
    assert_eq!(bench.log_in(SCRAM, "alice", "alice-secret").await.0, 0);
    assert!(!bench.login.is_by_token());
    assert_ne!(Bench::new(None).log_in(SCRAM, "token-3600", "other").await.0, 0);
}

#[tokio::test]
async fn a_login_by_a_bearer_token_ends_with_it_too_and_is_no_delegation() {
    let mut bench = Bench::new(None);
    let (code, _, lifetime_ms) = bench.log_in(Mechanism::OAuthBearer, "", "alice.60").await;
    assert_eq!((code, &bench.principal), (0, &KafkaPrincipal::user("alice")));
    assert!((1..=60_000).contains(&lifetime_ms) && !bench.login.is_by_token());
    bench.now += Duration::from_secs(30);
    assert_eq!(bench.log_in(Mechanism::OAuthBearer, "", "alice.90").await.0, 0, "again, with the next token");
    bench.now += Duration::from_secs(60);
    assert!(bench.serves(), "the first token has expired, not the second");
    let (code, text, _) = Bench::new(None).log_in(Mechanism::OAuthBearer, "", "mallory.60").await;
    assert_eq!((code, text.as_str()), (ErrorCode::SaslAuthenticationFailed.code(), r#"{"status":"invalid_token"}"#));
}
