//! ZooKeeper's four-letter words, for the health checks and monitors that speak nothing else. A word is all that such a
//! client sends; the answer is a text, and the connection ends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ottla_config::CoordinatorConfig;
use ottla_consensus::{Role, RoleChange};
use ottla_model::Revision;

use crate::shared::{Formed, Shared};
use crate::zookeeper::{ZooKeeper, timeout_limits};

/// Tools read the number to know which lines to expect: the last ZooKeeper whose output these are.
const VERSION: &str = concat!("3.9.2-ottla-", env!("CARGO_PKG_VERSION"));
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// Answers the words of one coordinator.
pub struct Words {
    shared: Arc<Shared>,
    config: CoordinatorConfig,
    zookeeper: Option<Arc<ZooKeeper>>,
    asked: AtomicU64,
}

/// What the words tell, at one moment.
struct State {
    mode: &'static str,
    revision: Revision,
    nodes: usize,
    ephemerals: usize,
    data_bytes: usize,
    followers: usize,
    /// ZooKeeper's word for all that follow a leader, with a vote or without.
    learners: usize,
    /// ZooKeeper's clients, and the one that asks.
    connections: usize,
    watches: usize,
}

impl Words {
    pub fn new(shared: Arc<Shared>, config: CoordinatorConfig, zookeeper: Option<Arc<ZooKeeper>>) -> Self {
        Self { shared, config, zookeeper, asked: AtomicU64::new(0) }
    }

    /// The answer to a word; none where it is none of ZooKeeper's that are answered.
    pub fn answer(&self, word: [u8; 4], peer: SocketAddr) -> Option<String> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let serving = |text: fn(&Self, &State, u64, SocketAddr) -> String| match self.state() {
            Some(state) => text(self, &state, asked, peer),
            None => NOT_SERVING.to_owned(),
        };
        Some(match &word {
            // Also before the quorum is formed: brokers that wait for this answer hand over the list that forms it.
            b"ruok" => "imok".to_owned(),
            b"srvr" => serving(|words, state, asked, _| words.server(state, asked)),
            b"stat" => serving(|words, state, asked, peer| words.statistics(state, asked, peer)),
            b"mntr" => serving(|_, state, asked, _| monitor(state, asked)),
            b"isro" => self.state().map_or("null", |_| "rw").to_owned(),
            b"conf" => self.configuration(),
            b"envi" => environment(),
            b"cons" => format!("{}\n", self.connections(peer)),
            b"dirs" => {
                "datadir_size: 0\nlogdir_size: 0\n".replace('0', &directory_bytes(&self.config.data_dir).to_string())
            }
            b"wchs" => {
                let (connections, watches) = self.clients();
                format!("{connections} connections watching {watches} paths\nTotal watches:{watches}\n")
            }
            _ => return None,
        })
    }

    /// None while no leader is known: ZooKeeper answers nothing then either.
    fn state(&self) -> Option<State> {
        let formed = self.shared.formed()?;
        let role: RoleChange = *formed.role.borrow();
        role.leader?;
        let leads = role.role == Role::Leader;
        let view = formed.view.get();
        let (connections, watches) = self.clients();
        let members = formed.members();
        let voters = members.voters().count();
        let is_voter = members.get(self.shared.id).is_some_and(|member| member.is_voter);
        let mode = mode(members.by_id.len(), is_voter, leads);
        Some(State {
            mode,
            revision: view.revision,
            nodes: view.tree.len(),
            ephemerals: view.image.broker_count(),
            data_bytes: view.tree.bytes(),
            followers: if leads { voters.saturating_sub(1) } else { 0 },
            learners: if leads { members.by_id.len().saturating_sub(1) } else { 0 },
            connections: connections + 1,
            watches,
        })
    }

    /// The open connections of ZooKeeper's clients, and the paths that they watch.
    fn clients(&self) -> (usize, usize) {
        self.zookeeper.as_ref().map_or((0, 0), |zookeeper| (zookeeper.connections(), zookeeper.watches()))
    }

    /// A line for each connection of ZooKeeper's clients, and for the one that asks.
    fn connections(&self, peer: SocketAddr) -> String {
        let clients = self.zookeeper.as_ref().map(|zookeeper| zookeeper.clients()).unwrap_or_default();
        let mut text: String = clients.into_iter().map(|(client, requests)| connection(client, requests)).collect();
        text.push_str(&connection_that_asks(peer));
        text
    }

    fn server(&self, state: &State, asked: u64) -> String {
        format!("Zookeeper version: {VERSION}, built on an unknown day\n{}", summary(state, asked))
    }

    fn statistics(&self, state: &State, asked: u64, peer: SocketAddr) -> String {
        let version = format!("Zookeeper version: {VERSION}, built on an unknown day\n");
        format!("{version}Clients:\n{}\n{}", self.connections(peer), summary(state, asked))
    }

    fn configuration(&self) -> String {
        let config = &self.config;
        let directory = config.data_dir.display();
        let limits = timeout_limits(config);
        let shown = |port: Option<u16>| port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let mut text = format!(
            "clientPort={}\nsecureClientPort={}\ndataDir={directory}\ndataLogDir={directory}\ntickTime={}\n\
             maxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nserverId={}\n",
            shown(config.client_port),
            shown(config.secure_client_port),
            config.tick_time.as_millis(),
            // 0 is ZooKeeper's word for no bound.
            config.client_connections_max.unwrap_or(0),
            limits.min_ms,
            limits.max_ms,
            self.shared.id
        );
        let members = self.shared.formed().map(Formed::members).unwrap_or_default();
        for (id, address) in self.shared.voters() {
            let has_vote = members.get(id).is_none_or(|member| member.is_voter);
            let role = if has_vote { "participant" } else { "observer" };
            // A string takes all text.
            let _ = writeln!(text, "server.{id}={address}:{role}");
        }
        text
    }
}

/// In ZooKeeper's words: one without a vote is an observer.
fn mode(members: usize, is_voter: bool, leads: bool) -> &'static str {
    match (members, is_voter, leads) {
        (1, ..) => "standalone",
        (_, _, true) => "leader",
        (_, true, false) => "follower",
        (_, false, false) => "observer",
    }
}

/// Latencies are not measured, and no request waits: a connection's next one is read when the one before is answered.
fn summary(state: &State, asked: u64) -> String {
    format!(
        "Latency min/avg/max: 0/0.0/0\nReceived: {asked}\nSent: {}\nConnections: {}\nOutstanding: 0\nZxid: {:#x}\nMode: {}\nNode count: {}\n",
        asked.saturating_sub(1),
        state.connections,
        state.revision.0,
        state.mode,
        state.nodes
    )
}

fn monitor(state: &State, asked: u64) -> String {
    let mut text = format!("zk_version\t{VERSION}, built on an unknown day\nzk_server_state\t{}\n", state.mode);
    let mut add = |name: &str, value: u64| {
        // A string takes all text.
        let _ = writeln!(text, "zk_{name}\t{value}");
    };
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    add("packets_received", asked);
    add("packets_sent", asked.saturating_sub(1));
    add("num_alive_connections", count(state.connections));
    add("outstanding_requests", 0);
    add("znode_count", count(state.nodes));
    add("watch_count", count(state.watches));
    add("ephemerals_count", count(state.ephemerals));
    add("approximate_data_size", count(state.data_bytes));
    if state.mode == "leader" {
        add("learners", count(state.learners));
        add("followers", count(state.followers));
        add("synced_followers", count(state.followers));
    }
    text
}

/// Requests are answered in turn, one by one.
fn connection(client: SocketAddr, requests: u64) -> String {
    format!(" /{client}[1](queued=0,recved={requests},sent={requests})\n")
}

fn connection_that_asks(peer: SocketAddr) -> String {
    format!(" /{peer}[0](queued=0,recved=1,sent=0)\n")
}

fn environment() -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("Environment:\nzookeeper.version={VERSION}, built on an unknown day\nos.name={os}\nos.arch={arch}\n")
}

/// Of the files directly in a directory, as far as they can be read.
fn directory_bytes(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_a_vote_is_an_observer() {
        assert_eq!(mode(1, true, true), "standalone");
        assert_eq!(
            [mode(4, true, true), mode(4, true, false), mode(4, false, false)],
            ["leader", "follower", "observer"]
        );
    }
}
