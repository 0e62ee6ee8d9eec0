//! Epochs: counters that only grow and identify stale actors.

macro_rules! epoch {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The epoch after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

epoch! {
    /// Counts the leaders of one partition; Kafka's `leader_epoch`. Every batch carries the epoch it was appended in.
    LeaderEpoch(i32)
}
epoch! {
    /// Counts the changes of one partition's state (leader, ISR, ELR); the expected value of its compare-and-set.
    PartitionEpoch(i32)
}
epoch! {
    /// Names one registration of a broker: the revision at which it registered (ZooKeeper's czxid in Kafka).
    BrokerEpoch(i64)
}
epoch! {
    /// Counts the brokers that held `/controller`.
    ControllerEpoch(i32)
}
epoch! {
    /// Counts the incarnations of one producer id; an older one is fenced.
    ProducerEpoch(i16)
}
epoch! {
    /// The Raft index at which a change to the tree was applied; grows, never repeats. 0 is the empty tree.
    Revision(u64)
}

impl LeaderEpoch {
    /// The value on the wire and in the log for an unknown epoch.
    pub const NONE: Self = Self(-1);
    pub const ZERO: Self = Self(0);

    pub fn is_known(self) -> bool {
        self.0 >= 0
    }
}

impl BrokerEpoch {
    /// The value on the wire for an unknown broker epoch: a consumer's fetch, or a missing clean-shutdown file.
    pub const NONE: Self = Self(-1);

    pub fn is_known(self) -> bool {
        self.0 >= 0
    }
}

impl ProducerEpoch {
    pub const NONE: Self = Self(-1);
}

impl From<Revision> for BrokerEpoch {
    fn from(revision: Revision) -> Self {
        Self(i64::try_from(revision.0).unwrap_or(i64::MAX))
    }
}
