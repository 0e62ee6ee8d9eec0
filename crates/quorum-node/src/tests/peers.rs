//! Three nodes, and those that join them, that hand each other their messages.

use ottla_consensus::LogStore as _;
use ottla_metadata::controller::{
    AlterConfig, AlterConfigs, Answer, ChangeQuorum, ConfigOp, Now, QuorumChanged, Refusal, Request,
};
use ottla_metadata::image::ConfigEntity;
use ottla_model::{CoordinatorId, IncarnationId};

use super::Store;
use super::{Outputs, disk, joining, node, now};
use crate::{CallId, Event, Node, Output, Voter};

pub(super) struct Peers {
    pub nodes: Vec<Node<Store>>,
    pub outputs: Vec<Outputs>,
    /// By place, as the nodes: coordinator `place + 1`.
    disks: Vec<IncarnationId>,
    ms: u64,
}

impl Peers {
    pub fn new() -> Self {
        Self::of(3)
    }

    pub fn of(members: u64) -> Self {
        let nodes: Vec<_> = (1..=members).map(|id| node(id, members, Store::default())).collect();
        let outputs = nodes.iter().map(|_| Outputs::default()).collect();
        Self { nodes, outputs, disks: (1..=members).map(disk).collect(), ms: 0 }
    }

    pub fn now(&self) -> Now {
        now(self.ms)
    }

    pub fn step(&mut self, at: usize, event: Event) {
        let now = now(self.ms);
        self.nodes[at].step(now, event, &mut self.outputs[at]).expect("taken");
        self.nodes[at].flush(now, &mut self.outputs[at]).expect("memory");
    }

    /// A tick of every member that is not away, and all its consequences.
    pub fn tick(&mut self, away: Option<usize>) {
        self.ms += 50;
        for at in (0..self.nodes.len()).filter(|at| Some(*at) != away) {
            self.nodes[at].tick(now(self.ms), 1, &mut self.outputs[at]);
            self.nodes[at].flush(now(self.ms), &mut self.outputs[at]).expect("memory");
        }
        loop {
            let mut is_quiet = true;
            for from in (0..self.nodes.len()).filter(|at| Some(*at) != away) {
                for message in std::mem::take(&mut self.outputs[from].sent) {
                    is_quiet = false;
                    let to = usize::try_from(message.to.0).expect("small") - 1;
                    if message.is_snapshot() {
                        self.step(from, Event::SnapshotSent { to: message.to, sent: true });
                    }
                    if Some(to) != away && to < self.nodes.len() {
                        let id = from as u64 + 1;
                        let message = message.to_bytes();
                        self.step(to, Event::Raft { sender: CoordinatorId(id), disk: self.disks[from], message });
                    }
                }
                if self.outputs[from].all.iter().any(|output| matches!(output, Output::MakeSnapshot)) {
                    self.outputs[from].all.clear();
                    let made = self.nodes[from].store().make_snapshot();
                    self.step(from, Event::SnapshotMade(made));
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    /// A coordinator with an empty disk waits to be added, or takes the place of one whose disk is gone. A member that
    /// it asked vouches for it, as the service has it.
    pub fn join(&mut self, at: usize, disk: IncarnationId) {
        let members = self.nodes[0].members().by_id.clone();
        let listed = members.into_iter().map(|(id, member)| (id, Voter { address: member.address, disk: member.disk }));
        let node = joining(at as u64 + 1, listed.collect());
        if at == self.nodes.len() {
            self.nodes.push(node);
            self.outputs.push(Outputs::default());
            self.disks.push(disk);
        } else {
            self.nodes[at] = node;
            self.outputs[at] = Outputs::default();
            self.disks[at] = disk;
        }
    }

    /// The quorum leader's answer to a change of the quorum, after as many ticks as it takes.
    pub fn change(&mut self, call: u64, change: ChangeQuorum, away: Option<usize>) -> Result<QuorumChanged, Refusal> {
        for _ in 0..10 {
            let at = self.leader().unwrap_or_else(|| self.elect());
            let request = Request::ChangeQuorum(change.clone());
            self.step(at, Event::Request { call: CallId(call), request, entropy: [0; 16] });
            for _ in 0..60 {
                let answer = self.outputs[at]
                    .all
                    .iter()
                    .position(|output| matches!(output, Output::Respond { call: of, .. } if *of == CallId(call)));
                match answer.map(|place| self.outputs[at].all.remove(place)) {
                    Some(Output::Respond { outcome: Ok(Answer::ChangeQuorum(answer)), .. }) => return answer,
                    Some(_) => break,
                    None => self.tick(away),
                }
            }
            self.tick(away);
        }
        panic!("{change:?} has no answer")
    }

    /// Ticks until one decides.
    pub fn elect(&mut self) -> usize {
        let mut decides = || {
            self.tick(None);
            self.leader()
        };
        (0..200).find_map(|_| decides()).expect("an election")
    }

    pub fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(Node::is_deciding)
    }
}

/// D: with the way to a peer full, the loss of a snapshot itself was lost, and the peer waited for it until the next
/// election.
#[test]
fn a_snapshot_that_finds_no_room_is_sent_again() {
    let mut peers = Peers::new();
    let leader = peers.elect();
    let away = (leader + 1) % 3;
    // So much happens without it that the log does not reach back.
    for call in 0..100 {
        let change = ("unknown.key".to_owned(), ConfigOp::Set(call.to_string()));
        let alter = AlterConfig { entity: ConfigEntity::default_broker(), changes: vec![change], replace_all: false };
        let request = Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false });
        peers.step(leader, Event::Request { call: CallId(call), request, entropy: [1; 16] });
        peers.tick(Some(away));
    }
    let (has, needs) = (peers.nodes[away].store().last_index(), peers.nodes[leader].store().first_index());
    assert!(has + 1 < needs, "it needs a snapshot: {has}, {needs}");
    assert_eq!(peers.leader(), Some(leader));
    peers.outputs[leader].lost_snapshots = 2;
    for _ in 0..60 {
        peers.tick(None);
    }
    assert_eq!(peers.outputs[leader].lost_snapshots, 0);
    assert_eq!(peers.leader(), Some(leader), "no election was needed");
    assert_eq!(peers.nodes[away].view().revision, peers.nodes[leader].view().revision);
}
