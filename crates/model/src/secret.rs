//! The secret that the processes of one cluster share.

use std::fmt;
use std::sync::Arc;

/// Never shown: its `Debug` form has no content, and it has no `Display` form.
#[derive(Clone)]
pub struct ClusterSecret(Arc<str>);

impl ClusterSecret {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Compares in a time that does not depend on where the first difference is.
    pub fn matches(&self, other: &[u8]) -> bool {
        let own = self.as_bytes();
        own.len() == other.len() && own.iter().zip(other).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_match_and_nothing_is_shown() {
        let secret = ClusterSecret::new("s3cret");
        assert!(secret.matches(b"s3cret"));
        for other in [&b"s3creT"[..], b"s3cre", b"s3cret ", b""] {
            assert!(!secret.matches(other));
        }
        assert_eq!(format!("{secret:?}"), "ClusterSecret");
    }
}
