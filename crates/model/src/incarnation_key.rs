//! Proves that a request comes from the process start that an [`IncarnationId`] names.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::ids::IncarnationId;

/// The secret of one start of a broker. The public incarnation id is a digest of it, so only that
/// start, and those to which it sent the key, can present it. Never logged: its `Debug` form has no content.
#[derive(Clone, PartialEq, Eq)]
pub struct IncarnationKey([u8; Self::BYTES]);

impl IncarnationKey {
    pub const BYTES: usize = 32;

    /// For a new start: 244 random bits, in two UUIDs of version 4.
    pub fn random() -> Self {
        let mut bytes = [0; Self::BYTES];
        let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        bytes.iter_mut().zip(random.iter().flat_map(|half| half.as_bytes())).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// What a request shows.
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The incarnation whose key this is: 122 bits of a SHA-256 digest, as a UUID of version 8 (RFC 9562, 5.8).
    pub fn incarnation(&self) -> IncarnationId {
        let digest = Sha256::digest(self.0);
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
        IncarnationId(*uuid::Builder::from_custom_bytes(bytes).as_uuid().as_bytes())
    }
}

impl fmt::Debug for IncarnationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IncarnationKey")
    }
}

/// Whether there is a key to this incarnation. Brokers of version 0.1 have random incarnation ids (UUIDs of version 4).
fn has_key(incarnation: IncarnationId) -> bool {
    uuid::Uuid::from_bytes(incarnation.0).get_version_num() == 8
}

/// Whether a request in the name of this incarnation shows its key. Brokers of version 0.1 have none, and must be
/// believed while a cluster is upgraded one broker after the other.
pub fn is_proved(incarnation: IncarnationId, key: Option<&IncarnationKey>) -> bool {
    !has_key(incarnation) || key.is_some_and(|key| key.incarnation() == incarnation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_leads_to_its_incarnation() {
        let key = IncarnationKey::new([7; 32]);
        let incarnation = key.incarnation();
        assert_eq!(IncarnationKey::new(*key.as_bytes()).incarnation(), incarnation);
        assert_ne!(IncarnationKey::new([8; 32]).incarnation(), incarnation);
        assert_ne!(IncarnationKey::random(), IncarnationKey::random());
        assert!(has_key(incarnation) && has_key(IncarnationKey::random().incarnation()));
        let without_key = IncarnationId(*uuid::Uuid::new_v4().as_bytes());
        assert!(!has_key(without_key) && is_proved(without_key, None) && is_proved(without_key, Some(&key)));
        assert!(is_proved(incarnation, Some(&key)) && !is_proved(incarnation, None));
        assert!(!is_proved(incarnation, Some(&IncarnationKey::random())));
        assert_eq!(format!("{key:?}"), "IncarnationKey");
    }
}
