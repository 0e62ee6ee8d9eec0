//! Names of things: brokers, coordinators, topics, partitions, producers, clusters.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number_id! {
    /// A broker's number, 0 or greater (`broker.id`, `node.id`).
    BrokerId(i32)
}
number_id! {
    /// A coordinator's number, 1 or greater; also its Raft id.
    CoordinatorId(u64)
}
number_id! {
    /// A partition's number within its topic, from 0.
    PartitionId(i32)
}
number_id! {
    /// The id of an idempotent or transactional producer; −1: none.
    ProducerId(i64)
}

impl BrokerId {
    /// The value on the wire for "no broker": no leader, no controller, an ordinary consumer.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    pub const NONE: Self = Self(-1);
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All zero: "none" on the wire.
            pub const ZERO: Self = Self([0; 16]);

            pub fn is_zero(&self) -> bool {
                *self == Self::ZERO
            }

            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        /// Kafka's form: 22 characters of URL-safe base64.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidUuid;
            fn from_str(text: &str) -> Result<Self, InvalidUuid> {
                let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidUuid)?;
                Self::from_slice(&bytes).ok_or(InvalidUuid)
            }
        }
    };
}

/// The text is not the URL-safe base64 form of 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an id of 16 bytes in URL-safe base64")]
pub struct InvalidUuid;

uuid_id! {
    /// Distinguishes a topic from all former topics of the same name (KIP-516).
    TopicId
}
uuid_id! {
    /// Distinguishes one client, from its start to its end, from every other (KIP-714).
    ClientInstanceId
}
uuid_id! {
    /// Distinguishes one start of a process, or one initialization of a disk, from every other.
    IncarnationId
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// The permanent id of a cluster; stored in every `meta.properties`.
    ClusterId
}
text_id! {
    /// Names a listener (`PLAINTEXT_HOST`), upper case by convention.
    ListenerName
}
text_id! {
    /// A topic's name, of a form that Kafka accepts.
    TopicName
}

text_id! {
    /// Names a consumer group. Any text; the empty one is a group without a name, which only commits offsets.
    GroupId
}
text_id! {
    /// Identifies one membership of a group member.
    MemberId
}
text_id! {
    /// `transactional.id`: names a producer whose transactions outlive its process.
    TransactionalId
}
text_id! {
    /// `group.instance.id`: identifies a static member across restarts (KIP-345).
    InstanceId
}

impl GroupId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

impl MemberId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Whether this is the id that a member sends before it has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TransactionalId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

impl InstanceId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

impl ClusterId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

impl ListenerName {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

/// A topic name that Kafka refuses; the texts are those of Kafka's `Topic.validate`, which its tools show.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopicNameError {
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    #[error("Topic name is invalid: '{0}' is not allowed")]
    Dots(String),
    #[error("Topic name is invalid: the length of '{0}' is longer than the max allowed length {max}", max = TopicName::MAX_LENGTH)]
    TooLong(String),
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    )]
    Characters(String),
}

impl TopicName {
    /// So that `NAME-PARTITION.UUID-delete` fits the 255 bytes of a file name.
    pub const MAX_LENGTH: usize = 249;

    pub fn new(text: &str) -> Result<Self, TopicNameError> {
        if text.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if text == "." || text == ".." {
            return Err(TopicNameError::Dots(text.to_owned()));
        }
        if text.len() > Self::MAX_LENGTH {
            return Err(TopicNameError::TooLong(text.to_owned()));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(TopicNameError::Characters(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// As [`Self::new`], sharing `known` where that is the name: lists of partitions have each name many times.
    pub fn shared(text: &str, known: Option<&Self>) -> Result<Self, TopicNameError> {
        match known.filter(|known| known.as_str() == text) {
            Some(known) => Ok(known.clone()),
            None => Self::new(text),
        }
    }

    /// Metric names turn `.` into `_`: two topics that become one there collide.
    pub fn collides_with(&self, other: &Self) -> bool {
        self != other && self.0.replace('.', "_") == other.0.replace('.', "_")
    }
}

/// One partition, by its topic's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    pub topic: TopicName,
    pub partition: PartitionId,
}

impl TopicPartition {
    pub fn new(topic: TopicName, partition: PartitionId) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// One partition, by its topic's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicIdPartition {
    pub topic_id: TopicId,
    pub partition: PartitionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafka() {
        assert!(TopicName::new("a.b_c-9").is_ok());
        assert_eq!(TopicName::new(""), Err(TopicNameError::Empty));
        assert_eq!(TopicName::new(".."), Err(TopicNameError::Dots("..".into())));
        assert!(TopicName::new(&"x".repeat(249)).is_ok());
        assert!(matches!(TopicName::new(&"x".repeat(250)), Err(TopicNameError::TooLong(_))));
        assert!(matches!(TopicName::new("ba/d"), Err(TopicNameError::Characters(_))));
        let (a, b) = (TopicName::new("a.b").expect("valid"), TopicName::new("a_b").expect("valid"));
        assert!(a.collides_with(&b) && !a.collides_with(&a));
        assert!(Arc::ptr_eq(&TopicName::shared("a.b", Some(&a)).expect("valid").0, &a.0));
        assert_eq!(TopicName::shared("a_b", Some(&a)), Ok(b));
        assert_eq!(TopicName::shared("", None), Err(TopicNameError::Empty));
    }

    #[test]
    fn ids_have_kafkas_text_form() {
        let id: TopicId = "od_-eKm-R_uinTKrbP9GCw".parse().expect("22 characters");
        assert_eq!(id.to_string(), "od_-eKm-R_uinTKrbP9GCw");
        assert_eq!("short".parse::<TopicId>(), Err(InvalidUuid));
    }
}
