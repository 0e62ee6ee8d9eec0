//! Delegation tokens of this broker's cluster (KIP-48): their HMACs, the logins with them, and the end of those whose
//! time is over. The tokens themselves are in the cluster's tree.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla_config::DelegationTokenConfig;
use ottla_metadata::Image;
use ottla_metadata::controller::{AlterDelegationToken, TokenChange};
use ottla_metadata::logins::BrokenRules;
use ottla_model::{BrokerId, KafkaPrincipal, Revision, TimestampMs};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::QuorumHandle;
use ottla_sasl::{ScramCredential, ScramHash, TokenCredential, TokenSecret};

/// Credentials that were derived from tokens and are kept: deriving one takes milliseconds. A thousand take 300 KB.
const CREDENTIALS_MAX: usize = 1_000;
/// How long the quorum may take over the end of one token.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is needed to check tokens.
pub struct Tokens {
    secret: TokenSecret,
    hmacs: Mutex<HmacIndex>,
    derived: Mutex<Derived>,
}

impl Tokens {
    /// None: there are no tokens.
    pub fn new(config: Option<&DelegationTokenConfig>) -> Option<Self> {
        let secret = TokenSecret::new(config?.secret.reveal());
        Some(Self { secret, hmacs: Mutex::default(), derived: Mutex::default() })
    }

    pub fn hmac(&self, id: &str) -> Vec<u8> {
        self.secret.hmac(id)
    }

    /// The id of the token that has this HMAC.
    pub fn find(&self, image: &Image, hmac: &[u8]) -> Option<String> {
        let fingerprint = self.secret.fingerprint(hmac);
        let mut hmacs = self.hmacs.lock().unwrap_or_else(PoisonError::into_inner);
        hmacs.follow(image, &self.secret);
        hmacs.ids.get(&fingerprint).cloned()
    }

    /// What a client has to know that logs in with a token. None: there is no such token, or its time is over.
    pub fn credential(
        &self,
        image: &Image,
        hash: ScramHash,
        id: &str,
        salt_secret: &[u8; 32],
    ) -> Option<TokenCredential> {
        let token = image.valid_token(id, now(), BrokenRules::default())?;
        // A login keeps the name alone.
        if &*token.owner.principal_type != KafkaPrincipal::USER {
            return None;
        }
        let key = (hash, id.to_owned());
        let known = self.derived.lock().unwrap_or_else(PoisonError::into_inner).credentials.get(&key).cloned();
        let credential = known.unwrap_or_else(|| {
            let made = ScramCredential::of_token(hash, salt_secret, id, &self.secret.password(id));
            self.derived.lock().unwrap_or_else(PoisonError::into_inner).keep(key, made.clone());
            made
        });
        Some(TokenCredential { credential, owner: token.owner.name.to_string(), expires_ms: token.expires.0 })
    }
}

/// The credentials that are kept. One makes room for one, each in its turn: where more tokens are in use than are kept,
/// most logins find theirs still.
#[derive(Default)]
struct Derived {
    credentials: BTreeMap<(ScramHash, String), ScramCredential>,
    /// The one that made room last.
    went: Option<(ScramHash, String)>,
}

impl Derived {
    fn keep(&mut self, key: (ScramHash, String), made: ScramCredential) {
        if self.credentials.len() >= CREDENTIALS_MAX && !self.credentials.contains_key(&key) {
            let after = self.went.take().map_or(Bound::Unbounded, Bound::Excluded);
            let next =
                self.credentials.range((after, Bound::Unbounded)).next().or_else(|| self.credentials.iter().next());
            self.went = next.map(|(key, _)| key.clone());
            if let Some(went) = &self.went {
                self.credentials.remove(went);
            }
        }
        self.credentials.insert(key, made);
    }
}

/// The tokens of an image by the fingerprints of their HMACs. To make those of all tokens anew for each request that
/// names one takes milliseconds of the worker, and everybody who has logged in may send such requests.
#[derive(Default)]
struct HmacIndex {
    /// The image that it follows.
    revision: Option<Revision>,
    ids: BTreeMap<Vec<u8>, String>,
    fingerprints: BTreeMap<String, Vec<u8>>,
}

impl HmacIndex {
    fn follow(&mut self, image: &Image, secret: &TokenSecret) {
        if self.revision == Some(image.revision()) {
            return;
        }
        self.revision = Some(image.revision());
        self.ids.retain(|_, id| image.delegation_token(id).is_some());
        self.fingerprints.retain(|id, _| image.delegation_token(id).is_some());
        for (id, _) in image.delegation_tokens() {
            if !self.fingerprints.contains_key(id) {
                let fingerprint = secret.fingerprint(&secret.hmac(id));
                self.ids.insert(fingerprint.clone(), id.to_owned());
                self.fingerprints.insert(id.to_owned(), fingerprint);
            }
        }
    }
}

/// Milliseconds since 1970.
fn now() -> TimestampMs {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    TimestampMs(i64::try_from(now).unwrap_or(i64::MAX))
}

/// Removes the tokens whose time is over while this broker is the controller; ends only with its task.
pub async fn remove_expired(
    broker: BrokerId,
    interval: Duration,
    metadata: Arc<MetadataCache>,
    quorum: Arc<dyn QuorumHandle>,
) {
    let mut looks = tokio::time::interval(interval);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let image = metadata.current();
        if image.controller() != Some(broker) {
            continue;
        }
        let now = now();
        let expired: Vec<String> =
            image.delegation_tokens().filter(|(_, token)| token.is_expired(now)).map(|(id, _)| id.to_owned()).collect();
        drop(image);
        for token_id in expired {
            let request = AlterDelegationToken { token_id: token_id.clone(), change: TokenChange::RemoveExpired };
            match quorum.submit(request, PATIENCE).await {
                Ok(Ok(_)) => tracing::info!(token_id, "a delegation token has expired"),
                // Somebody was faster; a token that stays is looked at again.
                Ok(Err(refusal)) => tracing::debug!(token_id, %refusal, "an expired token was not removed"),
                Err(error) => {
                    tracing::debug!(%error, "expired tokens were not removed");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::tree::Node;
    use ottla_metadata::{DelegationToken, nodes};

    use super::*;

    fn image(revision: u64, ids: &[&str]) -> Image {
        let token = DelegationToken {
            owner: KafkaPrincipal::user("alice"),
            requester: KafkaPrincipal::user("alice"),
            renewers: Vec::new(),
            issued: TimestampMs(0),
            max: TimestampMs(i64::MAX),
            expires: TimestampMs(i64::MAX),
        };
        let payload = nodes::delegation_token::encode(&token);
        let node = Node { payload, created: Revision(1), modified: Revision(1), version: 0 };
        let paths: Vec<_> = ids.iter().map(|id| nodes::delegation_token::path(id)).collect();
        Image::from_nodes(Revision(revision), paths.iter().map(|path| (path, &node))).0
    }

    #[test]
    fn a_token_is_found_by_its_hmac_for_as_long_as_it_is_there() {
        let tokens = Tokens { secret: TokenSecret::new("secret"), hmacs: Mutex::default(), derived: Mutex::default() };
        let find = |image: &Image, id: &str| tokens.find(image, &tokens.hmac(id));
        let first = image(1, &["a", "b"]);
        assert_eq!((find(&first, "a"), find(&first, "b")), (Some("a".to_owned()), Some("b".to_owned())));
        assert_eq!((find(&first, "c"), tokens.find(&first, b"")), (None, None));
        let second = image(2, &["b", "c"]);
        assert_eq!((find(&second, "a"), find(&second, "c")), (None, Some("c".to_owned())));
        let hmacs = tokens.hmacs.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!((hmacs.ids.len(), hmacs.fingerprints.len()), (2, 2));
    }

    /// All were forgotten with the first one too many: each login beyond took milliseconds of a worker.
    #[test]
    fn one_credential_makes_room_for_one() {
        let made = ScramCredential::of_token(ScramHash::Sha256, &[0; 32], "t", "password");
        let key = |number: usize| (ScramHash::Sha256, format!("{number:05}"));
        let mut derived = Derived::default();
        (0..CREDENTIALS_MAX + 2).for_each(|number| derived.keep(key(number), made.clone()));
        assert_eq!(derived.credentials.len(), CREDENTIALS_MAX);
        let is_kept = |derived: &Derived, number| derived.credentials.contains_key(&key(number));
        assert_eq!([0, 1, 2, CREDENTIALS_MAX + 1].map(|number| is_kept(&derived, number)), [false, false, true, true]);
        // One that comes back does not go first.
        derived.keep(key(0), made.clone());
        derived.keep(key(1), made.clone());
        assert_eq!([0, 1, 2, 3, 4].map(|number| is_kept(&derived, number)), [true, true, false, false, true]);
        // One that is there needs no room; after the last one it is the first one's turn.
        derived.keep(key(4), made.clone());
        assert!(is_kept(&derived, 5));
        derived.went = Some(key(CREDENTIALS_MAX + 1));
        derived.keep(key(2), made);
        assert_eq!((is_kept(&derived, 0), derived.credentials.len()), (false, CREDENTIALS_MAX));
    }
}
