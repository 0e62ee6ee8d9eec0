//! The public keys of an identity provider (a JSON web key set), and the signatures that they verify.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::signature::{Error as SignatureError, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};

use super::{Claims, TokenError};

/// Providers publish a handful: those in use, those before and those to come.
const KEYS_MAX: usize = 100;

/// Keys that a token is tried with: its sender chooses whether it names one, and each costs up to 0.1 ms. Kafka's
/// library tries one; a provider that changes its key without names has two.
const TRIALS_MAX: usize = 4;

/// Signatures of two parties. Those with a shared secret (HS256) are none here: a public key must not become one.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
];

/// A text that is no set of keys.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("no JSON web key set: {0}")]
    Malformed(String),
    #[error("the key set has no key that verifies RS, PS or ES signatures")]
    Empty,
    #[error("the key set has {0} keys; at most {KEYS_MAX} are read")]
    TooMany(usize),
}

struct Key {
    id: Option<String>,
    /// None: the key set does not restrict it.
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

impl Key {
    fn is_for(&self, id: Option<&String>, algorithm: Algorithm) -> bool {
        let is_named = id.is_none_or(|id| self.id.as_ref() == Some(id));
        is_named
            && self.key.family() == algorithm.family()
            && self.algorithm.is_none_or(|only| only == KeyAlgorithm::from(algorithm))
    }
}

/// The keys that may have signed a token.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl KeySet {
    /// Reads a key set; keys for other purposes are left out.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|error| KeySetError::Malformed(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany(set.keys.len()));
        }
        let verifies = |parameters: &AlgorithmParameters| {
            matches!(parameters, AlgorithmParameters::RSA(_) | AlgorithmParameters::EllipticCurve(_))
        };
        let usable = set.keys.into_iter().filter(|key| {
            verifies(&key.algorithm)
                && key.common.public_key_use.as_ref().is_none_or(|at| *at == PublicKeyUse::Signature)
        });
        let keys: Vec<Key> = usable
            .filter_map(|key| {
                let decoding = DecodingKey::from_jwk(&key).ok()?;
                Some(Key { id: key.common.key_id, algorithm: key.common.key_algorithm, key: decoding })
            })
            .collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self(keys)) }
    }

    /// The claims of a token that one of these keys has signed: the first [`TRIALS_MAX`] that fit to its algorithm, and
    /// to the name that it says. Its times are not checked.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        // Only the first call installs it, and nothing else of this process does.
        let _ = PROVIDER.install_default();
        let header = jsonwebtoken::decode_header(token).map_err(|error| TokenError::Malformed(error.to_string()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(TokenError::Algorithm(format!("{:?}", header.alg)));
        }
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let mut candidates = self.0.iter().filter(|key| key.is_for(header.kid.as_ref(), header.alg)).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey(header.kid.unwrap_or_default()));
        }
        let mut result = Err(TokenError::Signature);
        for candidate in candidates.take(TRIALS_MAX) {
            match jsonwebtoken::decode::<Claims>(token, &candidate.key, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => result = Err(TokenError::Malformed(error.to_string())),
            }
        }
        result
    }
}

/// Signatures by ring, as everything else here: the library's own choices are further libraries of cryptography.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| {
        Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }) as Box<dyn JwtVerifier>)
    },
    // Used by conversions of private keys and for thumbprints, neither of which is called here.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        compute_digest: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
};

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        let verified = match (self.algorithm, self.key.kind()) {
            (algorithm, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let parameters = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(SignatureError::new()),
                };
                // Some providers write a sign byte, which ring refuses.
                let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
                RsaPublicKeyComponents { n, e: e.as_slice() }.verify(parameters, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::ES384, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            _ => return Err(SignatureError::new()),
        };
        verified.map_err(|_| SignatureError::new())
    }
}
