//! Three members on a network in memory: election, replication, restart, snapshots, losses, and the order of
//! persistence and promises.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ottla_consensus::jitter::Jitter;
use ottla_consensus::snapshot::{Encoder, Pairs};
use ottla_consensus::{
    Effects, LogStore, Member, MemberConfig, Membership, MemoryStore, Outgoing, ProposeError, Role, Snapshot,
};
use ottla_model::{CoordinatorId, Revision};

/// A member with its state machine: the applied entries, by revision.
struct Node {
    member: Member<MemoryStore>,
    applied: BTreeMap<u64, Bytes>,
    applied_revision: u64,
    applied_term: u64,
    confirmed_reads: Vec<(Vec<u8>, u64)>,
    /// Every `(revision, term)` that this node applied; a state machine that survives a crash must not see one twice.
    steps: Vec<(u64, u64)>,
}

struct Net {
    nodes: BTreeMap<u64, Option<Node>>,
    stores: BTreeMap<u64, (MemoryStore, BTreeMap<u64, Bytes>, u64, u64)>,
    wire: VecDeque<(u64, Outgoing)>,
    cut: Vec<(u64, u64)>,
    loss: Option<(Jitter, usize)>,
    seed: u64,
}

fn store() -> MemoryStore {
    let mut store = MemoryStore::new();
    let membership = Membership::new([1, 2, 3].map(CoordinatorId)).expect("three voters");
    store.bootstrap(membership.to_conf_state()).expect("memory");
    store
}

fn start(id: u64, seed: u64, store: MemoryStore, applied: BTreeMap<u64, Bytes>, at: (u64, u64)) -> Node {
    let mut config = MemberConfig::new(CoordinatorId(id), seed.wrapping_mul(31).wrapping_add(id));
    config.applied = Revision(at.0);
    let member = Member::new(&config, store).expect("a member");
    Node { member, applied, applied_revision: at.0, applied_term: at.1, confirmed_reads: Vec::new(), steps: Vec::new() }
}

impl Net {
    fn new(seed: u64) -> Self {
        let nodes = [1, 2, 3].map(|id| (id, Some(start(id, seed, store(), BTreeMap::new(), (0, 0)))));
        Self {
            nodes: BTreeMap::from(nodes),
            stores: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: Vec::new(),
            loss: None,
            seed,
        }
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).and_then(Option::as_mut).expect("a living node")
    }

    fn living(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.is_some()).map(|(&id, _)| id).collect()
    }

    /// Carries out the effects of one node in the documented order.
    fn settle(&mut self, id: u64) {
        loop {
            let node = self.node(id);
            let Some(effects) = node.member.effects() else { break };
            let mut sent = effects.messages.clone();
            if let Some(snapshot) = &effects.persist.snapshot {
                node.applied = Pairs::new(snapshot.data.clone())
                    .expect("a snapshot")
                    .map(|pair| pair.map(|(key, value)| (u64::from_be_bytes(key[..].try_into().expect("u64")), value)))
                    .collect::<Result<_, _>>()
                    .expect("pairs");
                node.applied_revision = snapshot.get_metadata().index;
                node.applied_term = snapshot.get_metadata().term;
            }
            node.member.store_mut().persist(&effects.persist).expect("memory");
            let after = node.member.persisted();
            sent.extend(effects.messages_after_persist.iter().cloned());
            sent.extend(after.messages.iter().cloned());
            for entry in effects.committed.iter().chain(&after.committed) {
                assert_eq!(entry.revision.0, node.applied_revision + 1, "applied without gap or repetition");
                node.applied_revision = entry.revision.0;
                node.applied_term = entry.term;
                node.steps.push((entry.revision.0, entry.term));
                if !entry.data.is_empty() {
                    node.applied.insert(entry.revision.0, entry.data.clone());
                }
            }
            let applied = Revision(node.applied_revision);
            node.member.applied(applied);
            for read in effects.reads {
                node.confirmed_reads.push((read.context, read.revision.0));
            }
            if node.member.take_snapshot_wanted() {
                let mut encoder = Encoder::new();
                for (revision, data) in &node.applied {
                    encoder.pair(&revision.to_be_bytes(), data);
                }
                let mut snapshot = Snapshot { data: encoder.finish(), ..Snapshot::default() };
                snapshot.mut_metadata().index = node.applied_revision;
                snapshot.mut_metadata().term = node.applied_term;
                let conf_state = node.member.store().conf_state().clone();
                snapshot.mut_metadata().set_conf_state(conf_state);
                node.member.store_mut().set_snapshot(snapshot);
            }
            self.wire.extend(sent.into_iter().map(|message| (id, message)));
        }
    }

    fn deliver_all(&mut self) {
        for id in self.living() {
            self.settle(id);
        }
        while let Some((from, message)) = self.wire.pop_front() {
            let to = message.to.0;
            let lost = self.loss.as_mut().is_some_and(|(dice, percent)| dice.draw(1, 100) <= *percent);
            let cut = self.cut.iter().any(|&(a, b)| (a, b) == (from, to) || (b, a) == (from, to));
            let delivered = !lost && !cut && self.nodes.get(&to).is_some_and(Option::is_some);
            if delivered {
                self.node(to).member.step(&message.to_bytes()).expect("a message of a member");
                self.settle(to);
            }
            if message.is_snapshot() && self.nodes.get(&from).is_some_and(Option::is_some) {
                self.node(from).member.report_snapshot(message.to, delivered);
                self.settle(from);
            }
        }
    }

    fn tick(&mut self) {
        for id in self.living() {
            self.node(id).member.tick();
        }
        self.deliver_all();
    }

    fn leaders(&mut self) -> Vec<(u64, u64)> {
        let mut leaders = Vec::new();
        for id in self.living() {
            let role = self.node(id).member.role();
            if role.role == Role::Leader {
                leaders.push((role.term, id));
            }
        }
        leaders.sort();
        leaders
    }

    /// Ticks until one member leads and has committed in its term.
    fn elect(&mut self) -> u64 {
        for _ in 0..400 {
            self.tick();
            if let Some(&(_, leader)) = self.leaders().last()
                && self.node(leader).member.has_committed_in_term()
            {
                return leader;
            }
        }
        panic!("seed {}: no leader within 400 ticks", self.seed);
    }

    fn propose(&mut self, leader: u64, texts: &[&str]) -> u64 {
        let entries = texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let proposed = self.node(leader).member.propose(entries).expect("a leader takes proposals");
        self.deliver_all();
        proposed.first.0
    }

    /// The machine loses power: unsynced writes are lost.
    fn crash(&mut self, id: u64) {
        let node = self.nodes.insert(id, None).flatten().expect("a living node");
        let mut store = node.member.into_store();
        store.crash();
        // The state machine is as durable as the log: both are in one store, and lose the same writes.
        self.stores.insert(id, (store, BTreeMap::new(), 0, 0));
    }

    /// The process dies, its writes stay.
    fn kill(&mut self, id: u64) {
        let node = self.nodes.insert(id, None).flatten().expect("a living node");
        let state = (node.applied, node.applied_revision, node.applied_term);
        self.stores.insert(id, (node.member.into_store(), state.0, state.1, state.2));
    }

    fn restart(&mut self, id: u64) {
        let (store, applied, revision, term) = self.stores.remove(&id).expect("a stopped node");
        self.seed += 1;
        self.nodes.insert(id, Some(start(id, self.seed, store, applied, (revision, term))));
    }

    fn assert_converged(&mut self) {
        for _ in 0..60 {
            self.tick();
        }
        let living = self.living();
        let first = self.node(living[0]).applied.clone();
        for &id in &living[1..] {
            let seed = self.seed;
            assert_eq!(self.node(id).applied, first, "seed {seed}: {id} differs from {}", living[0]);
        }
    }
}

#[test]
fn elects_one_leader_and_replicates() {
    let mut net = Net::new(1);
    let leader = net.elect();
    assert_eq!(net.leaders().len(), 1);
    net.propose(leader, &["a", "b", "c"]);
    for id in [1, 2, 3] {
        let values: Vec<_> = net.node(id).applied.values().cloned().collect();
        assert_eq!(values, ["a", "b", "c"].map(Bytes::from), "at {id}, without a tick");
        let role = net.node(id).member.role();
        assert_eq!(role.leader, Some(CoordinatorId(leader)));
    }
    let other = [1, 2, 3].into_iter().find(|&id| id != leader).expect("a follower");
    let refused = net.node(other).member.propose(vec![Bytes::from_static(b"x")]);
    assert_eq!(refused, Err(ProposeError::NotLeader), "followers do not forward");
}

#[test]
fn many_entries_are_one_batch() {
    let mut net = Net::new(2);
    let leader = net.elect();
    let entries: Vec<Bytes> = (0..500).map(|number| Bytes::from(format!("entry {number}"))).collect();
    net.node(leader).member.propose(entries).expect("a leader");
    let effects = net.node(leader).member.effects().expect("something to do");
    assert_eq!(effects.persist.entries.len(), 500);
    assert!(effects.persist.must_sync);
    assert_eq!(effects.messages.len(), 2, "one message a follower");
}

/// The same seed gives the same run to the byte: the core uses no other randomness.
#[test]
fn a_seed_replays() {
    fn run(seed: u64) -> Vec<(u64, Vec<Effects>)> {
        let mut members: Vec<_> = [1, 2, 3].map(|id| start(id, seed, store(), BTreeMap::new(), (0, 0))).into();
        let mut history = Vec::new();
        let mut wire: VecDeque<Outgoing> = VecDeque::new();
        for _ in 0..120 {
            for node in &mut members {
                node.member.tick();
            }
            loop {
                for node in &mut members {
                    let mut seen = Vec::new();
                    while let Some(effects) = node.member.effects() {
                        node.member.store_mut().persist(&effects.persist).expect("memory");
                        let after = node.member.persisted();
                        for effects in [effects, after] {
                            wire.extend(effects.messages.iter().chain(&effects.messages_after_persist).cloned());
                            if let Some(last) = effects.committed.last() {
                                node.member.applied(last.revision);
                            }
                            seen.push(effects);
                        }
                    }
                    history.push((node.member.id().0, seen));
                }
                let Some(message) = wire.pop_front() else { break };
                let at = usize::try_from(message.to.0 - 1).expect("small");
                members[at].member.step(&message.to_bytes()).expect("a message");
            }
        }
        history
    }
    assert!(run(5) == run(5));
    assert!(run(5) != run(6));
}

#[test]
fn a_new_leader_has_what_was_committed() {
    ottla_test_support::each_seed(0..20, |seed| {
        let mut net = Net::new(seed);
        let leader = net.elect();
        net.propose(leader, &["kept"]);
        net.crash(leader);
        let next = net.elect();
        assert_ne!(next, leader);
        assert_eq!(net.node(next).applied.values().collect::<Vec<_>>(), ["kept"]);
        net.propose(next, &["more"]);
        net.restart(leader);
        net.assert_converged();
        assert_eq!(net.node(leader).applied.values().collect::<Vec<_>>(), ["kept", "more"]);
    });
}

#[test]
fn all_restart_from_what_they_synced() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.propose(leader, &["a"]);
    net.propose(leader, &["b"]);
    for id in [1, 2, 3] {
        net.crash(id);
    }
    for id in [1, 2, 3] {
        net.restart(id);
    }
    net.elect();
    net.assert_converged();
    assert_eq!(net.node(1).applied.values().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_killed_process_does_not_apply_twice() {
    let mut net = Net::new(4);
    let leader = net.elect();
    net.propose(leader, &["a", "b"]);
    for id in [1, 2, 3] {
        net.kill(id);
        net.restart(id);
    }
    let leader = net.elect();
    net.propose(leader, &["c"]);
    net.assert_converged();
    assert_eq!(net.node(1).applied.values().collect::<Vec<_>>(), ["a", "b", "c"]);
    let steps = net.node(1).steps.clone();
    assert!(steps.iter().all(|&(revision, _)| revision > 3), "the first life's entries came again: {steps:?}");
}

#[test]
fn a_member_that_lags_gets_a_snapshot() {
    let mut net = Net::new(6);
    let leader = net.elect();
    let lagging = [1, 2, 3].into_iter().find(|&id| id != leader).expect("a follower");
    net.kill(lagging);
    for round in 0..50 {
        net.propose(leader, &[&format!("{round}")]);
    }
    let through = net.node(leader).applied_revision;
    net.node(leader).member.store_mut().compact(through).expect("memory");
    net.restart(lagging);
    net.assert_converged();
    assert_eq!(net.node(lagging).applied.len(), 50);
    let first = net.node(lagging).member.store().first_index();
    assert!(first > 50, "it came by snapshot, not by entries: {first}");
    // It continues from there, also after a crash right after the snapshot.
    net.crash(lagging);
    let (store, ..) = net.stores.remove(&lagging).expect("crashed");
    let revision = store.first_index() - 1;
    let node = net.node(leader);
    let (applied, term) = (node.applied.clone(), node.applied_term);
    net.stores.insert(lagging, (store, applied, revision, term));
    net.restart(lagging);
    net.propose(leader, &["after"]);
    net.assert_converged();
}

#[test]
fn survives_lost_messages() {
    ottla_test_support::each_seed(0..30, |seed| {
        let mut net = Net::new(seed);
        let leader = net.elect();
        net.loss = Some((Jitter::new(seed), 30));
        let mut acknowledged = Vec::new();
        let mut at = leader;
        for round in 0..60 {
            if let Some(&(_, leader)) = net.leaders().last() {
                at = leader;
            }
            let text = format!("{round}");
            if let Ok(proposed) = net.node(at).member.propose(vec![Bytes::from(text.clone())]) {
                net.deliver_all();
                net.tick();
                if net.node(at).applied.get(&proposed.first.0).is_some_and(|data| *data == text.as_bytes()) {
                    acknowledged.push((proposed.first.0, text));
                }
            } else {
                net.tick();
            }
        }
        net.loss = None;
        net.elect();
        net.assert_converged();
        assert!(acknowledged.len() > 10, "seed {seed}: the quorum got nothing done");
        for (revision, text) in acknowledged {
            assert_eq!(net.node(1).applied.get(&revision).map(|data| &data[..]), Some(text.as_bytes()), "seed {seed}");
        }
    });
}

#[test]
fn a_leader_without_a_majority_steps_down_and_comes_back_quietly() {
    let mut net = Net::new(8);
    let leader = net.elect();
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|&id| id != leader).collect();
    net.cut = others.iter().map(|&other| (leader, other)).collect();
    net.node(leader).member.propose(vec![Bytes::from_static(b"lost")]).expect("it does not know yet");
    for _ in 0..25 {
        net.tick();
    }
    assert!(!net.node(leader).member.is_leader(), "check-quorum");
    let next = net.elect();
    net.propose(next, &["won"]);
    let term = net.node(next).member.role().term;
    for _ in 0..100 {
        net.tick();
    }
    net.cut.clear();
    net.assert_converged();
    assert_eq!(net.node(leader).applied.values().collect::<Vec<_>>(), ["won"]);
    assert_eq!(net.node(next).member.role().term, term, "pre-vote: the returning member deposed nobody");
}

#[test]
fn nothing_is_promised_before_it_is_persisted() {
    let mut net = Net::new(9);
    let leader = net.elect();
    let follower = [1, 2, 3].into_iter().find(|&id| id != leader).expect("a follower");
    net.node(leader).member.propose(vec![Bytes::from_static(b"x")]).expect("a leader");
    let to_followers = net.node(leader).member.effects().expect("something to send");
    let append = to_followers.messages.iter().find(|message| message.to.0 == follower).expect("an append");
    let node = net.node(follower);
    node.member.step(&append.to_bytes()).expect("an append");
    let effects = node.member.effects().expect("something to persist");
    assert_eq!(effects.persist.entries.len(), 1);
    assert!(effects.persist.must_sync);
    assert!(effects.messages.is_empty(), "the acknowledgement must wait for the disk");
    assert_eq!(effects.messages_after_persist.len(), 1);
    assert!(effects.committed.is_empty());
    // Power is lost before the batch is written: the member comes back without the entry and has promised nothing.
    let last = node.member.store().durable_last_index();
    assert_eq!(last, node.applied_revision);
}

#[test]
fn a_vote_is_on_the_disk_before_it_is_cast() {
    let mut net = Net::new(10);
    // One campaigns: pre-votes first, which promise nothing; then the vote.
    net.node(1).member.campaign().expect("raft");
    let mut votes_seen = 0;
    let mut queue: VecDeque<Outgoing> = VecDeque::new();
    for _ in 0..20 {
        for id in [1, 2, 3] {
            let node = net.node(id);
            while let Some(effects) = node.member.effects() {
                if let Some(hard_state) = &effects.persist.hard_state
                    && hard_state.vote != 0
                {
                    assert!(effects.persist.must_sync);
                    assert!(effects.messages.is_empty());
                    assert_ne!(node.member.store().durable_hard_state().vote, hard_state.vote);
                    votes_seen += 1;
                }
                node.member.store_mut().persist(&effects.persist).expect("memory");
                let after = node.member.persisted();
                queue.extend(effects.messages.into_iter().chain(effects.messages_after_persist).chain(after.messages));
            }
        }
        if votes_seen >= 2 {
            return;
        }
        while let Some(message) = queue.pop_front() {
            net.node(message.to.0).member.step(&message.to_bytes()).expect("a message");
        }
    }
    panic!("no votes were cast");
}

#[test]
fn linearizable_reads_are_confirmed_by_a_majority() {
    let mut net = Net::new(11);
    let leader = net.elect();
    let at = net.propose(leader, &["x"]);
    for id in [1, 2, 3] {
        net.node(id).member.read_index(vec![u8::try_from(id).expect("small")]);
        net.deliver_all();
        let reads = std::mem::take(&mut net.node(id).confirmed_reads);
        assert_eq!(reads, [(vec![u8::try_from(id).expect("small")], at)], "at {id}");
    }
    // A leader that is cut off confirms nothing, though it does not know yet that another may lead.
    net.cut = [1, 2, 3].into_iter().filter(|&id| id != leader).map(|other| (leader, other)).collect();
    net.node(leader).member.read_index(vec![9]);
    net.deliver_all();
    assert!(net.node(leader).confirmed_reads.is_empty());
}

#[test]
fn leadership_moves_when_asked() {
    let mut net = Net::new(12);
    let leader = net.elect();
    net.propose(leader, &["x"]);
    let heir = net.node(leader).member.transfer_leadership().expect("an heir");
    net.deliver_all();
    assert!(net.node(heir.0).member.is_leader(), "without a tick");
    assert!(!net.node(leader).member.is_leader());
    assert_eq!(net.node(heir.0).member.transfer_leadership().map(|id| id != heir), Some(true));
}

/// A process that is known to have ended is replaced without waiting; and a false alarm deposes no leader.
#[test]
fn a_leader_that_is_gone_is_replaced_at_once() {
    ottla_test_support::each_seed(0..20, |seed| {
        let mut net = Net::new(seed);
        let leader = net.elect();
        net.propose(leader, &["x"]);
        net.crash(leader);
        for id in net.living() {
            net.node(id).member.leader_gone(CoordinatorId(leader));
        }
        let mut ticks = 0;
        while net.leaders().is_empty() {
            net.tick();
            ticks += 1;
            assert!(ticks <= 10, "seed {seed}: an election that nobody had to wait for took {ticks} ticks");
        }
    });
    let mut net = Net::new(99);
    let leader = net.elect();
    let term = net.node(leader).member.role().term;
    let follower = [1, 2, 3].into_iter().find(|&id| id != leader).expect("a follower");
    net.node(follower).member.leader_gone(CoordinatorId(leader));
    for _ in 0..40 {
        net.tick();
    }
    let role = net.node(leader).member.role();
    assert_eq!((role.role, role.term), (Role::Leader, term));
    assert_eq!(net.node(follower).member.role().leader, Some(CoordinatorId(leader)));
}

#[test]
fn refuses_messages_that_are_not_for_it() {
    let mut net = Net::new(13);
    net.node(1).member.campaign().expect("raft");
    let effects = net.node(1).member.effects().expect("pre-votes");
    let to_two = effects
        .messages
        .iter()
        .chain(&effects.messages_after_persist)
        .find(|message| message.to.0 == 2)
        .expect("to 2")
        .clone();
    assert!(net.node(3).member.step(&to_two.to_bytes()).is_err(), "for another");
    assert!(net.node(3).member.step(&Bytes::from_static(b"\xff\xff\xff")).is_err(), "not a message");
    assert!(net.node(2).member.step(&to_two.to_bytes()).is_ok());
}
