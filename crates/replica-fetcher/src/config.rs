//! Limits and pauses.

use std::time::Duration;

/// The first pause after an error of one partition. Most such errors come from a leader that does not know of its
/// leadership yet, and learns of it within milliseconds. Kafka waits one second.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The first and the longest pause between attempts to connect: a leader that restarts should find its followers
/// waiting.
pub const RECONNECT_MIN: Duration = Duration::from_millis(20);
pub const RECONNECT_MAX: Duration = Duration::from_millis(250);

/// The pause after the source refused a request as a whole: its image does not have this broker's registration yet, or
/// its sessions are used up.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// Fetches under way at a time: one that the source holds, one that ends it because it names partitions that came or
/// went.
pub const FETCHES_UNDERWAY_MAX: usize = 2;

/// Partitions that one request adds to the source's session. A leader takes each of them under its partition's lock:
/// 33,000 in one request kept the others of its worker waiting for 0.3 s.
pub const ADDED_MAX: usize = 2_000;

/// The configuration of a fetcher's requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetcherConfig {
    /// `replica.fetch.wait.max.ms`
    pub max_wait: Duration,
    /// `replica.socket.timeout.ms`: the connection is closed if a response is late by more than this beyond `max_wait`.
    pub socket_timeout: Duration,
    /// `replica.fetch.backoff.ms`: the longest pause after an error of one partition; the first is [`BACKOFF_MIN`].
    pub backoff_max: Duration,
    pub rules: BrokenRules,
}

/// Switches for the simulation, which proves that it would notice a rule's absence. Everything else uses the default,
/// in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: a change of a partition that waits for its leader's bounds, or for the end of a pause, drops the
    /// partition.
    pub change_drops_waiting: bool,
    /// Broken: requests for log bounds that a broken connection left unanswered are not repeated.
    pub forget_questions_of_broken_connection: bool,
}
