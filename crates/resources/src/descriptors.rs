//! The limit of open files (RLIMIT_NOFILE), and its shares. Files of logs and connections are descriptors of one
//! process: a client that opens connections must never take those that an append needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Standard streams, the runtimes' epoll and wake-up descriptors, listening sockets, locks, streams to the quorum.
const OWN: u64 = 64;
/// Connections of the HTTP port.
pub const HTTP_CONNECTIONS_MAX: u64 = 32;
/// Below this a broker may be too busy with opening and closing files; it works.
const SMALL_LIMIT: u64 = 1_024;
/// However small the limit is, somebody must be able to connect.
const CONNECTIONS_MIN: u64 = 16;
/// The open files of a coordinator's RocksDB (`max_open_files` and those of a compaction), and of a snapshot.
const COORDINATOR_FILES: u64 = 192;

/// Raises the soft limit to the hard one (a login shell's soft limit is 1,024), and says so. Returns the limit.
pub fn raise_limit() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    tracing::info!(limit, before = before.current.unwrap_or(u64::MAX), "limit of open files (RLIMIT_NOFILE)");
    if limit < SMALL_LIMIT {
        tracing::warn!(limit, "the limit of open files is small: logs are opened and closed often");
    }
    limit
}

/// How a broker divides its descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerDescriptors {
    /// Files that logs keep open between their operations: the least recently used are closed.
    pub kept_files: u64,
    /// Files that are open for a moment, or as long as a response is sent from them.
    pub brief_files: u64,
    /// Connections to other brokers.
    pub peers: u64,
    /// Connections of clients and other brokers to this one.
    pub connections: u64,
    /// How many of `connections` only the listener for brokers may use.
    pub kept_for_brokers: u64,
}

impl BrokerDescriptors {
    pub fn of(limit: u64) -> Self {
        let kept_files = limit / 8 * 3;
        let brief_files = (limit / 8).clamp(64, 65_536);
        let peers = (limit / 16).clamp(16, 1_024);
        let others = OWN + HTTP_CONNECTIONS_MAX + kept_files + brief_files + peers;
        let connections = limit.saturating_sub(others).max(CONNECTIONS_MIN);
        Self { kept_files, brief_files, peers, connections, kept_for_brokers: (connections / 4).min(1_024) }
    }
}

/// How a coordinator divides its descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoordinatorDescriptors {
    /// Connections of brokers and tools.
    pub connections: u64,
    /// Connections to the port for peers, where it is one of its own.
    pub peer_connections: u64,
}

impl CoordinatorDescriptors {
    pub fn of(limit: u64) -> Self {
        // Both ways of each of a few peers, dials of brokers included.
        const PEERS: u64 = 128;
        let left = limit.saturating_sub(OWN + HTTP_CONNECTIONS_MAX + COORDINATOR_FILES + 2 * PEERS);
        Self { connections: left.max(CONNECTIONS_MIN), peer_connections: PEERS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_a_broker_fit_into_every_limit_that_can_work() {
        for limit in [512, 1_024, 4_096, 20_000, 65_536, 1 << 20, 1 << 30] {
            let shares = BrokerDescriptors::of(limit);
            let BrokerDescriptors { kept_files, brief_files, peers, connections, kept_for_brokers } = shares;
            let sum = OWN + HTTP_CONNECTIONS_MAX + kept_files + brief_files + peers + connections;
            assert!(sum <= limit, "{limit}: {shares:?}");
            assert!(kept_for_brokers < connections && connections >= limit / 8, "{limit}: {shares:?}");
        }
        assert_eq!(BrokerDescriptors::of(1_024).connections, 352);
        assert_eq!(BrokerDescriptors::of(64).connections, CONNECTIONS_MIN);
    }

    #[test]
    fn the_shares_of_a_coordinator_fit() {
        for limit in [1_024, 20_000, 1 << 20] {
            let CoordinatorDescriptors { connections, peer_connections } = CoordinatorDescriptors::of(limit);
            assert!(OWN + HTTP_CONNECTIONS_MAX + COORDINATOR_FILES + connections + 2 * peer_connections <= limit);
        }
    }
}
