//! What follows when the stream of Raft messages to another coordinator ends, or cannot be opened.

use std::time::Duration;

use ottla_model::CoordinatorId;

use crate::event::Event;
use crate::identity::Conflict;

/// Between two attempts to dial.
pub const REDIAL_PAUSE: Duration = Duration::from_millis(75);
/// The pause after a refusal whose cause will not change soon.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamEnd<'c> {
    /// The connection was refused: the process has ended, and is not merely slow.
    ConnectionRefused,
    /// The other one does not take messages of this one.
    Refused,
    /// What the other one says of itself, or of this one, keeps the two from talking.
    Conflict(&'c Conflict),
    /// Everything else: silence, a broken connection, a first start that is not finished.
    Broken,
}

/// What the shell does.
#[derive(Debug)]
pub struct Redial {
    /// For the node, in this order. What waits for the stream is forgotten after them: Raft knows of the loss, and
    /// sends current messages.
    pub events: Vec<Event>,
    /// Until the next attempt. None: there is none, because the conflict ends this coordinator.
    pub pause: Option<Duration>,
}

/// `was_open`: there was a stream.
pub fn after_end(peer: CoordinatorId, end: StreamEnd<'_>, was_open: bool) -> Redial {
    if matches!(end, StreamEnd::Conflict(conflict) if conflict.ends_this_one()) {
        return Redial { events: Vec::new(), pause: None };
    }
    let gone = matches!(end, StreamEnd::ConnectionRefused).then_some(Event::PeerGone(peer));
    let pause = match end {
        // A broken stream is dialled again at once: a refused connection shows quickly that the peer has ended.
        _ if was_open => Duration::ZERO,
        StreamEnd::Refused | StreamEnd::Conflict(_) => REFUSED_PAUSE,
        StreamEnd::ConnectionRefused | StreamEnd::Broken => REDIAL_PAUSE,
    };
    Redial { events: gone.into_iter().chain([Event::PeerUnreachable(peer)]).collect(), pause: Some(pause) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: CoordinatorId = CoordinatorId(2);

    #[test]
    fn only_a_refused_connection_says_that_the_process_has_ended() {
        let gone = |end| {
            matches!(after_end(PEER, end, false).events[..], [Event::PeerGone(PEER), Event::PeerUnreachable(PEER)])
        };
        assert!(gone(StreamEnd::ConnectionRefused));
        assert!(!gone(StreamEnd::Broken) && !gone(StreamEnd::Refused));
    }

    #[test]
    fn a_refusal_waits_longer_than_a_failure_and_a_stream_that_broke_not_at_all() {
        let pause = |end, was_open| after_end(PEER, end, was_open).pause;
        assert_eq!(pause(StreamEnd::Broken, false), Some(REDIAL_PAUSE));
        assert_eq!(pause(StreamEnd::Refused, false), Some(REFUSED_PAUSE));
        assert_eq!(pause(StreamEnd::Refused, true), Some(Duration::ZERO));
        let dispute = Conflict::DisputedDisk { me: CoordinatorId(1), id: PEER, address: "c2:2181".to_owned() };
        assert_eq!(pause(StreamEnd::Conflict(&dispute), false), Some(REFUSED_PAUSE));
        let duplicate = Conflict::DuplicateId { id: CoordinatorId(1), address: "c2:2181".to_owned() };
        assert_eq!(pause(StreamEnd::Conflict(&duplicate), false), None);
    }
}
