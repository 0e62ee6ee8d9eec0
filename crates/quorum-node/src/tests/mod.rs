//! The node over a store in memory, alone in its quorum: every proposal commits at once.

mod guard;
mod hand_over;
mod leading;
mod members_change;
mod membership;
mod peers;
mod watching;

use std::collections::BTreeMap;

use ottla_consensus::{LogStore as _, Member, MemberConfig, Membership, Outgoing};
use ottla_metadata::controller::{ControllerConfig, Now};
use ottla_model::{ClusterId, CoordinatorId, IncarnationId, MonotonicMs, TimestampMs};

use crate::MemoryQuorumStore as Store;
use crate::{BrokenRules, Event, HistoryLimits, Node, NodeConfig, Output, QuorumStore as _, Sink, Voter};

/// Keeps all outputs of a node.
#[derive(Default)]
struct Outputs {
    all: Vec<Output>,
    sent: Vec<Outgoing>,
    /// This number of snapshots is dropped by the full queue.
    lost_snapshots: u32,
}

impl Sink for Outputs {
    fn send(&mut self, message: Outgoing) -> bool {
        if message.is_snapshot() && self.lost_snapshots > 0 {
            self.lost_snapshots -= 1;
            return false;
        }
        self.sent.push(message);
        true
    }

    fn put(&mut self, output: Output) {
        self.all.push(output);
    }
}

impl Outputs {
    fn notes(&self) -> Vec<&str> {
        let mut notes = Vec::new();
        for output in &self.all {
            if let Output::Note(note) = output {
                notes.push(note.text.as_str());
            }
        }
        notes
    }
}

fn disk(id: u64) -> IncarnationId {
    IncarnationId([u8::try_from(id).unwrap_or(0); 16])
}

fn now(ms: u64) -> Now {
    Now { monotonic: MonotonicMs(ms), wall: TimestampMs(1_700_000_000_000) }
}

/// Member `id` of a quorum of `members`.
fn node(id: u64, members: u64, store: Store) -> Node<Store> {
    node_with(id, members, store, BrokenRules::default())
}

fn node_with(id: u64, members: u64, store: Store, broken_rules: BrokenRules) -> Node<Store> {
    let voter = |id| (CoordinatorId(id), Voter { address: format!("c{id}:2181"), disk: Some(disk(id)) });
    let voters: BTreeMap<_, _> = (1..=members).map(voter).collect();
    let mut store = store;
    if store.conf_state_is_empty() {
        let membership = Membership::new(voters.keys().copied()).expect("voters");
        store.bootstrap(membership.to_conf_state()).expect("memory");
    }
    node_over(id, voters, store, broken_rules, false)
}

/// A coordinator with an empty disk that was told to join these.
fn joining(id: u64, members: BTreeMap<CoordinatorId, Voter>) -> Node<Store> {
    node_over(id, members, Store::default(), BrokenRules::default(), true)
}

fn node_over(
    id: u64,
    voters: BTreeMap<CoordinatorId, Voter>,
    store: Store,
    broken_rules: BrokenRules,
    joins: bool,
) -> Node<Store> {
    let mut member_config = MemberConfig::new(CoordinatorId(id), id);
    member_config.applied = store.applied().expect("memory").revision;
    member_config.joins = joins;
    let config = NodeConfig {
        voters,
        controller: ControllerConfig::new(ClusterId::new("test")),
        compact_bytes: 2_000,
        history: HistoryLimits { revisions: 10, bytes: 1 << 20 },
        nonce: 1,
        broken_rules,
    };
    let mut node = Node::new(config, Member::new(&member_config, store).expect("a member")).expect("a node");
    node.start().expect("a campaign");
    node
}

/// Alone, and deciding.
fn leader(out: &mut Outputs) -> Node<Store> {
    let mut node = node(1, 1, Store::default());
    node.flush(now(0), out).expect("memory");
    assert!(node.is_deciding(), "it has nobody to wait for");
    node
}

fn step(node: &mut Node<Store>, event: Event, out: &mut Outputs) {
    node.step(now(1), event, out).expect("taken");
    node.flush(now(1), out).expect("memory");
}
