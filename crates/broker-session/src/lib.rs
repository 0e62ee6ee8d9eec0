//! A broker's session with the quorum: registration, heartbeats, fencing, the registration after it, and the controlled
//! shutdown.
//!
//! Layer 1: synchronous, no I/O. [`Session`] takes what happened (an answer, a lost stream, a new image) and says from
//! [`Session::tick`] what to do. The caller sends, keeps the time, writes to disk, and carries the effects out in their
//! order.
//!
//! Invariants:
//! - clients are served once the broker's own image shows its registration as ready, and not before;
//! - heartbeats carry the epoch of the last registration, and the revision that the broker's partitions have taken: by
//!   it the quorum knows that this broker knows what it may not lead any more;
//! - a broker that was fenced loses nothing by it: it registers again with the epoch that it had, unless it is
//!   stopping;
//! - every registration is remembered on disk before its first heartbeat leaves (the first one), or while heartbeats go
//!   on (later ones): a process that is killed before it is remembered is taken for one that lost data, which is safe;
//! - a stream whose coordinator answers nothing is given up, though its connection lives: the coordinator's disk may
//!   have stalled, and another may lead by now;
//! - the broker stops by itself only for what waiting cannot cure: another cluster, an id that a living broker keeps, a
//!   refusal for good.

mod config;
mod give_up;
mod heartbeats;
mod registration;
mod session;
mod stopping;
#[cfg(test)]
mod tests;

pub use config::{
    BEAT_DISTANCE_MIN, BrokenRules, CONTROLLED_SHUTDOWN_MAX, DUPLICATE_MARGIN, IMAGE_LAG_MAX, REFUSED_PAUSE,
    REGISTER_RETRY, REGISTER_RETRY_MAX, REOPEN_PAUSE, SHUTDOWN_ASK_INTERVAL, SessionConfig,
};
pub use give_up::GiveUp;
pub use registration::Applicant;
pub use session::{Effect, Session, Standing};
pub use stopping::Closing;
