//! SCRAM (RFC 5802, RFC 7677): credentials as Kafka stores them, and the messages of both sides.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq as _;

/// Kafka's bounds of iterations. The upper one keeps a client from computing for minutes.
pub const ITERATIONS_MIN: u32 = 4096;
pub const ITERATIONS_MAX: u32 = 16_384;

/// The salts of users that Ottla makes, and of those that do not exist: another length would tell which exist.
pub const SALT_BYTES: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ScramHash {
    Sha256,
    Sha512,
}

impl ScramHash {
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub fn mechanism_name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// The number of the mechanism in Describe- and AlterUserScramCredentials.
    pub fn code(self) -> i8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    pub fn from_code(code: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.code() == code)
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.mechanism_name() == name)
    }

    /// Bytes of a key.
    pub fn key_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }

    pub(crate) fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), bytes).as_ref().to_vec()
    }

    /// `Hi(password, salt, iterations)`: what Kafka's clients send as a salted password.
    pub fn salted_password(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = vec![0; self.key_bytes()];
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(algorithm, iterations, salt, password, &mut salted);
        salted
    }

    pub(crate) fn client_key(self, salted: &[u8]) -> Vec<u8> {
        self.hmac(salted, b"Client Key")
    }
}

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramCredential {
    pub salt: Vec<u8>,
    pub stored_key: Vec<u8>,
    pub server_key: Vec<u8>,
    pub iterations: u32,
}

/// The keys are as good as the password for a server that is not ours.
impl fmt::Debug for ScramCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramCredential").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

fn salt(hash: ScramHash, secret: &[u8; 32], name: &str) -> Vec<u8> {
    let mut salt = hash.hmac(secret, name.as_bytes());
    salt.truncate(SALT_BYTES);
    salt
}

impl ScramCredential {
    pub fn of_password(hash: ScramHash, password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let salted = hash.salted_password(password.as_bytes(), &salt, iterations);
        Self::of_salted_password(hash, &salted, salt, iterations)
    }

    pub fn of_salted_password(hash: ScramHash, salted: &[u8], salt: Vec<u8>, iterations: u32) -> Self {
        let stored_key = hash.digest(&hash.client_key(salted));
        let server_key = hash.hmac(salted, b"Server Key");
        Self { salt, stored_key, server_key, iterations }
    }

    /// For a user of a broker's configuration: its salt is that of a user of this name who does not exist.
    pub fn of_configured(hash: ScramHash, secret: &[u8; 32], user: &str, password: &str) -> Self {
        Self::of_password(hash, password, salt(hash, secret, user), ITERATIONS_MIN)
    }

    /// For a delegation token: its salt is the same on every server that shares the secret, as that of a token that
    /// does not exist is.
    pub fn of_token(hash: ScramHash, secret: &[u8; 32], id: &str, password: &str) -> Self {
        Self::of_password(hash, password, salt(hash, secret, id), ITERATIONS_MIN)
    }

    /// For a user that does not exist: a salt that is always the same for this name, as long as those of users, and
    /// keys that no proof fits.
    pub(crate) fn of_nobody(hash: ScramHash, secret: &[u8; 32], user: &str) -> Self {
        let salt = salt(hash, secret, user);
        let unknown = hash.hmac(secret, &salt);
        Self { stored_key: unknown.clone(), server_key: unknown, salt, iterations: ITERATIONS_MIN }
    }

    /// Kafka's text of a credential, as it stood in ZooKeeper.
    pub fn to_text(&self) -> String {
        format!(
            "salt={},stored_key={},server_key={},iterations={}",
            STANDARD.encode(&self.salt),
            STANDARD.encode(&self.stored_key),
            STANDARD.encode(&self.server_key),
            self.iterations
        )
    }

    /// None for a text that is no credential of this hash.
    pub fn from_text(hash: ScramHash, text: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = text.split(',').filter_map(|field| field.trim().split_once('=')).collect();
        let bytes = |name: &str| STANDARD.decode(fields.get(name)?).ok();
        let credential = Self {
            salt: bytes("salt")?,
            stored_key: bytes("stored_key")?,
            server_key: bytes("server_key")?,
            iterations: fields.get("iterations")?.parse().ok()?,
        };
        let is_whole = [&credential.stored_key, &credential.server_key].iter().all(|k| k.len() == hash.key_bytes());
        (is_whole && credential.iterations >= ITERATIONS_MIN).then_some(credential)
    }

    /// Whether a proof over `auth_message` was made from the password.
    pub(crate) fn is_proved(&self, hash: ScramHash, auth_message: &[u8], proof: &[u8]) -> bool {
        let signature = hash.hmac(&self.stored_key, auth_message);
        if proof.len() != signature.len() {
            return false;
        }
        let client_key: Vec<u8> = signature.iter().zip(proof).map(|(a, b)| a ^ b).collect();
        hash.digest(&client_key).ct_eq(&self.stored_key).into()
    }

    pub(crate) fn server_signature(&self, hash: ScramHash, auth_message: &[u8]) -> Vec<u8> {
        hash.hmac(&self.server_key, auth_message)
    }
}

/// `client-first-message`.
pub(crate) struct ClientFirst<'a> {
    pub gs2_header: &'a str,
    pub bare: &'a str,
    pub authorization_id: String,
    pub user: String,
    pub nonce: &'a str,
    /// Kafka's extension `tokenauth=true`: the user is the id of a delegation token.
    pub is_token: bool,
}

impl<'a> ClientFirst<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, &'static str> {
        let (flag, rest) = text.split_once(',').ok_or("no GS2 header")?;
        if flag != "n" && flag != "y" {
            return Err("channel binding is not offered");
        }
        let (authorization_id, bare) = rest.split_once(',').ok_or("no GS2 header")?;
        let authorization_id = match authorization_id {
            "" => String::new(),
            id => unescape(id.strip_prefix("a=").ok_or("a GS2 header that is none")?)?,
        };
        let mut fields = bare.split(',');
        let mut first = fields.next().unwrap_or_default();
        if first.starts_with("m=") {
            return Err("a mandatory extension");
        }
        let user = unescape(first.strip_prefix("n=").ok_or("no user")?)?;
        first = fields.next().ok_or("no nonce")?;
        let nonce = first.strip_prefix("r=").filter(|nonce| !nonce.is_empty()).ok_or("no nonce")?;
        if user.is_empty() {
            return Err("no user");
        }
        // Other extensions are passed over, as RFC 5802 wants it.
        let is_token = fields
            .filter_map(|field| field.split_once('='))
            .any(|(name, value)| name == "tokenauth" && value.eq_ignore_ascii_case("true"));
        Ok(Self { gs2_header: &text[..text.len() - bare.len()], bare, authorization_id, user, nonce, is_token })
    }
}

/// `client-final-message`.
pub(crate) struct ClientFinal<'a> {
    pub without_proof: &'a str,
    pub channel_binding: &'a str,
    pub nonce: &'a str,
    pub proof: Vec<u8>,
}

impl<'a> ClientFinal<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, &'static str> {
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or("no proof")?;
        let mut fields = without_proof.split(',');
        let channel_binding = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or("no channel binding")?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or("no nonce")?;
        let proof = STANDARD.decode(proof).map_err(|_| "a proof that is not base64")?;
        Ok(Self { without_proof, channel_binding, nonce, proof })
    }
}

/// `server-first-message`.
pub(crate) struct ServerFirst<'a> {
    pub nonce: &'a str,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

impl<'a> ServerFirst<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, &'static str> {
        let mut fields = text.split(',');
        let mut field = |prefix: &str| fields.next().and_then(|field| field.strip_prefix(prefix));
        let nonce = field("r=").ok_or("no nonce")?;
        let salt = STANDARD.decode(field("s=").ok_or("no salt")?).map_err(|_| "a salt that is not base64")?;
        let iterations = field("i=").and_then(|text| text.parse().ok()).ok_or("no number of iterations")?;
        Ok(Self { nonce, salt, iterations })
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A name as a `saslname`.
pub(crate) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

fn unescape(name: &str) -> Result<String, &'static str> {
    let plain = name.replace("=2C", ",").replace("=3D", "=");
    // Each `=` of the escaped name begins one of the two escapes.
    let escapes = name.matches("=2C").count() + name.matches("=3D").count();
    if name.matches('=').count() == escapes { Ok(plain) } else { Err("a name with a bare `=`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_kafkas_text() {
        for hash in ScramHash::ALL {
            let credential = ScramCredential::of_password(hash, "secret", b"salt".to_vec(), 4096);
            assert_eq!(ScramCredential::from_text(hash, &credential.to_text()), Some(credential.clone()));
            assert!(!format!("{credential:?}").contains(&base64(&credential.stored_key)));
        }
        let short = ScramCredential::of_password(ScramHash::Sha256, "secret", b"salt".to_vec(), 4096).to_text();
        assert_eq!(ScramCredential::from_text(ScramHash::Sha512, &short), None);
        for text in ["", "salt=!,stored_key=,server_key=,iterations=4096", &short.replace("4096", "1")] {
            assert_eq!(ScramCredential::from_text(ScramHash::Sha256, text), None, "{text}");
        }
    }

    /// Neither the salt nor its length tells which users exist.
    #[test]
    fn salts_of_users_and_of_nobody_are_alike() {
        for hash in ScramHash::ALL {
            let nobody = ScramCredential::of_nobody(hash, &[7; 32], "alice");
            assert_eq!(nobody.salt.len(), SALT_BYTES);
            assert_eq!(ScramCredential::of_configured(hash, &[7; 32], "alice", "secret").salt, nobody.salt);
            assert_eq!(ScramCredential::of_token(hash, &[7; 32], "alice", "secret").salt, nobody.salt);
            assert_ne!(ScramCredential::of_nobody(hash, &[7; 32], "bob").salt, nobody.salt);
        }
    }

    #[test]
    fn names_are_escaped_and_come_back() {
        for name in ["alice", "a,b=c", "=2C", "ü"] {
            assert_eq!(unescape(&escape(name)).as_deref(), Ok(name));
        }
        assert!(unescape("a=b").is_err());
    }
}
