//! Both sides against each other, and the conversations of the RFCs.

use super::*;
use crate::oauth::{Bearer, TokenError};
use crate::server::{Credentials, ServerSession, Step, TokenCredential, TokenLogin};

struct Users;

impl Credentials for Users {
    fn password(&self, user: &str) -> Option<String> {
        (user == "alice").then(|| "secret".to_owned())
    }

    fn scram(&self, hash: ScramHash, user: &str) -> Option<ScramCredential> {
        (user == "a,l=ice").then(|| ScramCredential::of_password(hash, "secret", b"pepper".to_vec(), 4096))
    }

    fn token(&self, hash: ScramHash, id: &str) -> Option<TokenCredential> {
        let credential = ScramCredential::of_token(hash, &self.nobody_secret(), id, "aG1hYw==");
        (id == "t0ken").then(|| TokenCredential { credential, owner: "alice".to_owned(), expires_ms: 7 })
    }

    fn bearer(&self, token: &str) -> Result<Bearer, TokenError> {
        let bearer = Bearer { user: "alice".to_owned(), expires_ms: 7 };
        (token == "to.k.en").then_some(bearer).ok_or(TokenError::Signature)
    }

    fn nobody_secret(&self) -> [u8; 32] {
        [3; 32]
    }
}

/// The user, and how many messages the client sent.
fn log_in(mechanism: Mechanism, user: &str, password: &str) -> (Result<String, SaslError>, usize) {
    log_in_with(ClientCredentials { mechanism, user: user.to_owned(), password: password.to_owned(), is_token: false })
}

fn log_in_with(credentials: ClientCredentials) -> (Result<String, SaslError>, usize) {
    let mechanism = credentials.mechanism;
    let mut client = ClientSession::new(credentials, &[1; 18]);
    let mut server = ServerSession::new(mechanism, &[2; 18]);
    let (mut answer, mut messages) = (Vec::new(), 0);
    loop {
        let message = client.step(&answer).expect("an honest server").expect("the server has not accepted");
        messages += 1;
        match server.step(&message, &Users) {
            Ok(Step::Continue(next)) => answer = next,
            Ok(Step::Done { answer, user, token }) => {
                let is_delegation = mechanism != Mechanism::OAuthBearer;
                let expected = (user == "alice" && mechanism != Mechanism::Plain)
                    .then_some(TokenLogin { is_delegation, expires_ms: 7 });
                assert_eq!(token, expected);
                assert_eq!(client.step(&answer), Ok(None));
                assert_eq!(server.step(b"more", &Users), Err(SaslError::AfterTheEnd));
                return (Ok(user), messages);
            }
            Err(error) => return (Err(error), messages),
        }
    }
}

#[test]
fn who_knows_the_password_gets_in_and_nobody_else() {
    assert_eq!(log_in(Mechanism::Plain, "alice", "secret"), (Ok("alice".to_owned()), 1));
    for (user, password) in [("alice", "Secret"), ("alice", "secret "), ("bob", "secret")] {
        let wrong = SaslError::WrongCredentials { mechanism: Mechanism::Plain };
        assert_eq!(log_in(Mechanism::Plain, user, password), (Err(wrong), 1));
    }
    for hash in ScramHash::ALL {
        let mechanism = Mechanism::Scram(hash);
        assert_eq!(log_in(mechanism, "a,l=ice", "secret"), (Ok("a,l=ice".to_owned()), 2));
        // A user that does not exist takes as many messages.
        for (user, password) in [("a,l=ice", "Secret"), ("bob", "secret")] {
            assert_eq!(log_in(mechanism, user, password), (Err(SaslError::WrongCredentials { mechanism }), 2));
        }
    }
}

#[test]
fn a_token_speaks_for_its_owner_and_is_no_user() {
    for hash in ScramHash::ALL {
        let mechanism = Mechanism::Scram(hash);
        let credentials = |user: &str, password: &str, is_token| ClientCredentials {
            mechanism,
            user: user.to_owned(),
            password: password.to_owned(),
            is_token,
        };
        assert_eq!(log_in_with(credentials("t0ken", "aG1hYw==", true)), (Ok("alice".to_owned()), 2));
        let wrong = Err(SaslError::WrongCredentials { mechanism });
        // As a user, with a wrong password, of another id; and a user's password is none of a token.
        for (user, password, is_token) in [
            ("t0ken", "aG1hYw==", false),
            ("t0ken", "aG1hYw", true),
            ("t1ken", "aG1hYw==", true),
            ("a,l=ice", "secret", true),
        ] {
            assert_eq!(log_in_with(credentials(user, password, is_token)), (wrong.clone(), 2), "{user}");
        }
    }
}

#[test]
fn a_bearer_token_is_accepted_or_refused_in_two_steps() {
    let mechanism = Mechanism::OAuthBearer;
    assert_eq!(log_in(mechanism, "", "to.k.en"), (Ok("alice".to_owned()), 1));
    let refused = SaslError::InvalidToken(TokenError::Signature);
    assert_eq!(refused.told(), r#"{"status":"invalid_token"}"#);
    assert_eq!(log_in(mechanism, "", "oth.e.r"), (Err(refused), 2));
    let mut server = ServerSession::new(mechanism, &[2; 18]);
    let for_another = b"n,a=bob,\x01auth=Bearer to.k.en\x01\x01";
    assert_eq!(server.step(for_another, &Users), Err(SaslError::OtherAuthorizationId));
}

/// RFC 7677, section 3.
#[test]
fn the_conversation_of_the_rfc() {
    struct Pencil;
    impl Credentials for Pencil {
        fn password(&self, _: &str) -> Option<String> {
            None
        }
        fn scram(&self, hash: ScramHash, user: &str) -> Option<ScramCredential> {
            let salt = scram::from_base64("W22ZaJ0SNY7soEsUEjb6gQ==")?;
            (user == "user").then(|| ScramCredential::of_password(hash, "pencil", salt, 4096))
        }
        fn token(&self, _: ScramHash, _: &str) -> Option<TokenCredential> {
            None
        }
        fn bearer(&self, _: &str) -> Result<Bearer, TokenError> {
            Err(TokenError::Signature)
        }
        fn nobody_secret(&self) -> [u8; 32] {
            [0; 32]
        }
    }
    let mut server = ServerSession::with_nonce(ScramHash::Sha256, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let first = server.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", &Pencil);
    let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(first, Ok(Step::Continue(expected.as_bytes().to_vec())));
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let answer = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec();
    assert_eq!(server.step(last.as_bytes(), &Pencil), Ok(Step::Done { answer, user: "user".to_owned(), token: None }));
}

/// Debian 12's kcat could not log in: librdkafka before 2.6.1 repeats the client's nonce in its last message.
#[test]
fn a_last_message_may_repeat_the_clients_nonce_before_the_whole_one() {
    let hash = ScramHash::Sha512;
    let log_in = |nonce_of: &dyn Fn(&str) -> String| {
        let mut server = ServerSession::new(Mechanism::Scram(hash), &[2; 18]);
        let bare = "n=a=2Cl=3Dice,r=mine";
        let Ok(Step::Continue(first)) = server.step(format!("n,,{bare}").as_bytes(), &Users) else { panic!("known") };
        let first = String::from_utf8(first).expect("a text");
        let nonce = first.strip_prefix("r=").and_then(|rest| rest.split(',').next()).expect("a nonce");
        let without_proof = format!("c=biws,r={}", nonce_of(nonce));
        let salted = hash.salted_password(b"secret", b"pepper", 4096);
        let stored_key = ScramCredential::of_salted_password(hash, &salted, b"pepper".to_vec(), 4096).stored_key;
        let signature = hash.hmac(&stored_key, format!("{bare},{first},{without_proof}").as_bytes());
        let proof: Vec<u8> = hash.client_key(&salted).iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        server.step(format!("{without_proof},p={}", scram::base64(&proof)).as_bytes(), &Users)
    };
    for nonce_of in [&(|nonce: &str| nonce.to_owned()) as &dyn Fn(&str) -> String, &|nonce| format!("mine{nonce}")] {
        assert!(matches!(log_in(nonce_of), Ok(Step::Done { user, .. }) if user == "a,l=ice"));
    }
    assert!(log_in(&|nonce| format!("{nonce}x")).is_err());
    assert!(log_in(&|_| "mine".to_owned()).is_err());
}

#[test]
fn a_false_server_is_noticed() {
    let credentials = |mechanism| {
        let (user, password) = ("u".to_owned(), "p".to_owned());
        ClientCredentials { mechanism, user, password, is_token: false }
    };
    let start = || {
        let mut client = ClientSession::new(credentials(Mechanism::Scram(ScramHash::Sha256)), &[1; 18]);
        client.step(b"").expect("a first message");
        client
    };
    let nonce = scram::base64(&[1; 18]);
    for answer in [
        "r=other,s=AAAA,i=4096".to_owned(),
        format!("r={nonce},s=AAAA,i=4096"),
        format!("r={nonce}x,s=AAAA,i=1"),
        format!("r={nonce}x,s=AAAA,i=1000000000"),
        "x".to_owned(),
    ] {
        assert!(start().step(answer.as_bytes()).is_err(), "{answer}");
    }
    let mut client = start();
    client.step(format!("r={nonce}x,s=AAAA,i=4096").as_bytes()).expect("a good answer");
    assert_eq!(client.step(b"v=AAAA"), Err(SaslError::WrongServer));
    assert_eq!(format!("{:?}", credentials(Mechanism::Plain)), "PLAIN as u");
}

/// Hostile first and last messages: an error, never a panic.
#[test]
fn what_is_no_message_is_refused() {
    let messages: &[&[u8]] = &[
        b"",
        b"\0",
        b"\0\0",
        b"\0a\0",
        b"\0\0b",
        b"x\0a\0b",
        b"a\0b\0c\0d",
        b"\xff\0a\0b",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=",
        b"n,,n=a",
        b"n,,n=a,r=",
        b"n,,n=a=b,r=x",
        b"p=tls-unique,,n=a,r=x",
        b"n,a=b,n=a,r=x",
        b"n,,m=x,n=a,r=x",
        b"c=biws,r=x,p=AAAA",
        b",p=",
        b"\xff\xfe",
    ];
    for mechanism in Mechanism::ALL {
        for message in messages {
            let mut server = ServerSession::new(mechanism, &[2; 18]);
            assert!(server.step(message, &Users).is_err(), "{mechanism} {message:?}");
            let mut server = ServerSession::new(Mechanism::Scram(ScramHash::Sha512), &[2; 18]);
            server.step(b"n,,n=a,r=x", &Users).expect("a first message");
            assert!(server.step(message, &Users).is_err(), "{message:?}");
        }
    }
}
