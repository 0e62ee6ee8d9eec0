//! The authenticated identity of a connection, as Kafka's ACLs, quotas and `super.users` name it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `TYPE:NAME`, for example `User:alice`. Types and names are compared letter by letter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KafkaPrincipal {
    pub principal_type: Arc<str>,
    pub name: Arc<str>,
}

/// A text that is no principal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no principal of the form TYPE:NAME, for example User:alice")]
pub struct InvalidPrincipal(String);

impl KafkaPrincipal {
    pub const USER: &'static str = "User";
    /// The name of a client that did not authenticate.
    pub const ANONYMOUS: &'static str = "ANONYMOUS";

    pub fn new(principal_type: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { principal_type: principal_type.into(), name: name.into() }
    }

    pub fn user(name: impl Into<Arc<str>>) -> Self {
        Self::new(Self::USER, name)
    }

    pub fn anonymous() -> Self {
        Self::user(Self::ANONYMOUS)
    }
}

impl Default for KafkaPrincipal {
    fn default() -> Self {
        Self::anonymous()
    }
}

impl fmt::Display for KafkaPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.principal_type, self.name)
    }
}

impl FromStr for KafkaPrincipal {
    type Err = InvalidPrincipal;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        match text.split_once(':') {
            Some((principal_type, name)) if !principal_type.is_empty() && !name.is_empty() => {
                Ok(Self::new(principal_type, name))
            }
            _ => Err(InvalidPrincipal(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_read_as_they_are_written() {
        for text in ["User:alice", "User:CN=broker,O=a:b", "Group:x"] {
            assert_eq!(text.parse::<KafkaPrincipal>().map(|principal| principal.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "alice", ":alice", "User:"] {
            assert_eq!(text.parse::<KafkaPrincipal>(), Err(InvalidPrincipal(text.to_owned())));
        }
        assert_eq!(KafkaPrincipal::default().to_string(), "User:ANONYMOUS");
    }
}
