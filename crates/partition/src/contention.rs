//! What callers do when the lock of a replica is not free: presumably its holder waits for a disk, and nobody knows
//! when that answers. The partitions of other directories must not wait for it, nor the image, which names other
//! leaders, nor what needs no disk.

use ottla_model::ErrorCode;
use ottla_storage::DirectoryHealth;

/// Why somebody wants the lock of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errand {
    /// A producer's batch, or a marker. One request, whose connection waits for nothing else.
    Append,
    /// A look for a fetch, which asks for many partitions.
    Fetch,
    /// A round over many replicas, which comes again: the ticks of leaders, the cleaner's look at logs.
    Tick,
    /// Another broker is live again: its partitions are ticked without waiting for that round.
    BrokerNews,
    /// The image has another state of the partition, or another configuration, or the replica ends.
    Image,
    /// The quorum's answer to an ISR proposal.
    IsrDecided,
}

/// What a caller does that does not get the lock at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenHeld {
    /// It waits, on a thread that may.
    Waits,
    /// It waits for a moment, then passes the replica by.
    WaitsBriefly,
    /// It passes the replica by: a fetch says that it cannot be read, a tick comes again with the next round.
    PassesBy,
    /// A thread of the directory does it later, in the order of the calls.
    Later,
}

impl Errand {
    /// Whether the errand is tried at all, before the lock: a disk that has failed, or is known not to answer, would
    /// only take the caller's time.
    ///
    /// # Errors
    /// What the client is told.
    #[inline]
    pub fn check(self, health: &DirectoryHealth) -> Result<(), ErrorCode> {
        match self {
            Self::Append | Self::Fetch if health.is_unusable() => Err(ErrorCode::KafkaStorageError),
            _ => Ok(()),
        }
    }

    /// See [`WhenHeld`].
    pub fn when_held(self, health: &DirectoryHealth) -> WhenHeld {
        match self {
            Self::Append => WhenHeld::Waits,
            Self::Fetch | Self::Tick if !health.is_stalled() => WhenHeld::WaitsBriefly,
            Self::Fetch | Self::Tick | Self::BrokerNews => WhenHeld::PassesBy,
            // In the order of the image's revisions: a later state must not be overtaken by this one.
            Self::Image | Self::IsrDecided => WhenHeld::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_holds_up_what_waits_for_it_alone() {
        let health = DirectoryHealth::new(true);
        let held = |health: &DirectoryHealth| {
            [Errand::Append, Errand::Fetch, Errand::BrokerNews, Errand::Image].map(|errand| errand.when_held(health))
        };
        use WhenHeld::{Later, PassesBy, Waits, WaitsBriefly};
        assert_eq!(held(&health), [Waits, WaitsBriefly, PassesBy, Later]);
        health.set_stalled(true);
        assert_eq!(held(&health), [Waits, PassesBy, PassesBy, Later]);
        // Its only directory: the image and other leaders' names have to go on.
        assert_eq!(held(&DirectoryHealth::new(false)), [Waits, WaitsBriefly, PassesBy, Later]);
    }

    #[test]
    fn clients_are_refused_before_they_wait_and_the_image_is_not() {
        let health = DirectoryHealth::new(true);
        assert_eq!(Errand::Append.check(&health), Ok(()));
        health.set_stalled(true);
        let refused = Err(ErrorCode::KafkaStorageError);
        assert_eq!([Errand::Append, Errand::Fetch].map(|errand| errand.check(&health)), [refused; 2]);
        assert_eq!([Errand::Image, Errand::Tick].map(|errand| errand.check(&health)), [Ok(()); 2]);
    }
}
