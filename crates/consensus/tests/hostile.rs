//! Mutated messages of members, which no member would send: no member panics, and members that received none of them
//! continue.
//!
//! `OTTLA_FUZZ_MESSAGES` sets how many (20,000 without it), `OTTLA_SEED` replays the round that a failure names.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use ottla_consensus::jitter::Jitter;
use ottla_consensus::{
    Effects, LogStore, Member, MemberConfig, MemberError, Membership, MemoryStore, MessageError, Outgoing, Snapshot,
};
use ottla_model::{CoordinatorId, Revision};
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

const MESSAGES: u64 = 20_000;
/// Hostile messages in one round, which begins with fresh members.
const MESSAGES_PER_ROUND: u64 = 400;
/// Real messages that are kept to be changed.
const RECORDED_MAX: usize = 64;
/// Numbers that bring arithmetic to its limits.
const EDGES: [u64; 12] =
    [0, 1, 2, 3, 1 << 24, 1 << 32, 1 << 60, 1 << 62, i64::MAX as u64, u64::MAX - 2, u64::MAX - 1, u64::MAX];

struct Node {
    member: Member<MemoryStore>,
    applied: (u64, u64),
}

struct Round {
    nodes: Vec<Node>,
    wire: VecDeque<Outgoing>,
    recorded: VecDeque<Message>,
    dice: Jitter,
    hostile: u64,
    refused: u64,
}

impl Round {
    fn new(seed: u64) -> Self {
        let nodes = (1..=3).map(|id| {
            let mut store = MemoryStore::new();
            let membership = Membership::new([1, 2, 3].map(CoordinatorId)).expect("three voters");
            store.bootstrap(membership.to_conf_state()).expect("memory");
            let config = MemberConfig::new(CoordinatorId(id), seed.wrapping_mul(31).wrapping_add(id));
            Node { member: Member::new(&config, store).expect("a member"), applied: (0, 0) }
        });
        Self {
            nodes: nodes.collect(),
            wire: VecDeque::new(),
            recorded: VecDeque::new(),
            dice: Jitter::new(seed),
            hostile: 0,
            refused: 0,
        }
    }

    fn pick(&mut self, count: usize) -> usize {
        self.dice.draw(0, count - 1)
    }

    fn roll(&mut self, below: usize) -> u64 {
        self.pick(below) as u64
    }

    /// Carries out the effects of one member.
    fn settle(&mut self, at: usize) {
        while let Some(Effects { messages, persist, messages_after_persist, committed, .. }) =
            self.nodes[at].member.effects()
        {
            let node = &mut self.nodes[at];
            if let Some(snapshot) = &persist.snapshot {
                node.applied = (snapshot.get_metadata().index, snapshot.get_metadata().term);
            }
            node.member.store_mut().persist(&persist).expect("memory");
            let after = node.member.persisted();
            for entry in committed.iter().chain(&after.committed) {
                node.applied = (entry.revision.0, entry.term);
            }
            node.member.applied(Revision(node.applied.0));
            if node.member.take_snapshot_wanted() && node.applied.0 > 0 {
                let mut snapshot = Snapshot { data: Bytes::from_static(b"data"), ..Snapshot::default() };
                (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = node.applied;
                snapshot.mut_metadata().set_conf_state(node.member.store().conf_state().clone());
                node.member.store_mut().set_snapshot(snapshot);
            }
            for message in [messages, after.messages, messages_after_persist].into_iter().flatten() {
                let real = Message::parse_from_carllerche_bytes(&message.to_bytes()).expect("a real message");
                self.recorded.push_back(real);
                if self.recorded.len() > RECORDED_MAX {
                    self.recorded.pop_front();
                }
                self.wire.push_back(message);
            }
        }
    }

    /// A number near those that the message and the members have, or at an edge.
    fn number(&mut self, near: u64) -> u64 {
        match self.roll(4) {
            0 => EDGES[self.pick(EDGES.len())],
            1 => near.wrapping_add(self.roll(5)).wrapping_sub(2),
            2 => {
                let at = self.pick(3);
                let status = self.nodes[at].member.status();
                let known = [status.role.term, status.last.0, status.committed.0];
                known[self.pick(3)].wrapping_add(self.roll(3)).wrapping_sub(1)
            }
            _ => near,
        }
    }

    fn mutate(&mut self, message: &mut Message) {
        const KINDS: [MessageType; 19] = [
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgPropose,
            MessageType::MsgAppend,
            MessageType::MsgAppendResponse,
            MessageType::MsgRequestVote,
            MessageType::MsgRequestVoteResponse,
            MessageType::MsgSnapshot,
            MessageType::MsgHeartbeat,
            MessageType::MsgHeartbeatResponse,
            MessageType::MsgUnreachable,
            MessageType::MsgSnapStatus,
            MessageType::MsgCheckQuorum,
            MessageType::MsgTransferLeader,
            MessageType::MsgTimeoutNow,
            MessageType::MsgReadIndex,
            MessageType::MsgReadIndexResp,
            MessageType::MsgRequestPreVote,
            MessageType::MsgRequestPreVoteResponse,
        ];
        match self.roll(15) {
            0 => message.set_msg_type(KINDS[self.pick(19)]),
            1 => message.term = self.number(message.term),
            2 => message.log_term = self.number(message.log_term),
            3 => message.index = self.number(message.index),
            4 => message.commit = self.number(message.commit),
            5 => message.commit_term = self.number(message.commit_term),
            6 => message.reject_hint = self.number(message.reject_hint),
            7 => message.reject = !message.reject,
            8 => message.request_snapshot = self.number(message.request_snapshot),
            9 => message.from = self.roll(5),
            10 => message.context = Bytes::from(vec![7; self.pick(400)]),
            11 => {
                let mut entry = Entry { data: Bytes::from_static(b"x"), ..Entry::default() };
                entry.index = self.number(message.index.wrapping_add(1));
                entry.term = self.number(message.term);
                if self.roll(4) == 0 {
                    entry.set_entry_type(EntryType::EntryConfChangeV2);
                }
                message.mut_entries().push(entry);
            }
            12 => {
                let count = message.get_entries().len();
                if count > 0 {
                    let at = self.pick(count);
                    let (index, term) = (message.get_entries()[at].index, message.get_entries()[at].term);
                    match self.roll(3) {
                        0 => drop(message.mut_entries().remove(at)),
                        1 => message.mut_entries()[at].index = self.number(index),
                        _ => message.mut_entries()[at].term = self.number(term),
                    }
                }
            }
            13 => {
                let near = message.get_snapshot().get_metadata().index;
                message.mut_snapshot().mut_metadata().index = self.number(near);
            }
            _ => {
                let near = message.get_snapshot().get_metadata().term;
                message.mut_snapshot().mut_metadata().term = self.number(near);
                if self.roll(2) == 0 {
                    let voters = [vec![1, 2, 3], vec![1, 2], vec![1, 1, 2, 3], vec![]];
                    let voters = voters[self.pick(4)].clone();
                    message.mut_snapshot().mut_metadata().mut_conf_state().voters = voters;
                }
            }
        }
    }

    /// One changed copy of a real message, for one of the members.
    fn attack(&mut self) {
        if self.recorded.is_empty() {
            return;
        }
        let at = self.pick(self.recorded.len());
        let mut message = self.recorded[at].clone();
        for _ in 0..=self.roll(3) {
            self.mutate(&mut message);
        }
        let mut bytes = message.write_to_bytes().expect("written");
        if self.roll(8) == 0 && !bytes.is_empty() {
            let at = self.pick(bytes.len());
            bytes[at] ^= 1 << self.roll(8);
        }
        let to = if (1..=3).contains(&message.to) { message.to } else { 1 };
        self.hostile += 1;
        self.step(to, &bytes.into(), true);
    }

    fn step(&mut self, to: u64, bytes: &Bytes, is_hostile: bool) {
        // An answer to a sender that there is not: whether one belongs to the quorum, the owner of a member checks.
        let at = usize::try_from(to).expect("small").wrapping_sub(1);
        let Some(node) = self.nodes.get_mut(at) else { return };
        match node.member.step(bytes) {
            Ok(()) => {}
            // A member that accepted a false statement may pass it on; only the other direction is guaranteed.
            Err(MemberError::Refused(_)) => self.refused += 1,
            Err(error) => panic!("{} message: {error}", if is_hostile { "a hostile" } else { "a real" }),
        }
    }

    fn run(&mut self) {
        while self.hostile < MESSAGES_PER_ROUND {
            match self.roll(8) {
                0 => {
                    for at in 0..3 {
                        self.nodes[at].member.tick();
                    }
                }
                1 => {
                    let at = self.pick(3);
                    let entry = Bytes::from(vec![7; 100]);
                    let _ = self.nodes[at].member.propose(vec![entry.clone(), entry]);
                }
                2 => {
                    let at = self.pick(3);
                    match self.roll(6) {
                        0 => drop(self.nodes[at].member.transfer_leadership()),
                        1 => self.nodes[at].member.read_index(vec![1; 24]),
                        2 => {
                            let applied = self.nodes[at].applied.0;
                            if applied > 4 {
                                self.nodes[at].member.store_mut().compact(applied - 2).expect("memory");
                            }
                        }
                        3 => self.nodes[at].member.report_unreachable(CoordinatorId(self.hostile % 3 + 1)),
                        4 => self.nodes[at].member.report_snapshot(CoordinatorId(self.hostile % 3 + 1), true),
                        _ => {}
                    }
                }
                3 | 4 => self.attack(),
                _ => {
                    if let Some(message) = self.wire.pop_front() {
                        let bytes = message.to_bytes();
                        self.step(message.to.0, &bytes, false);
                    }
                }
            }
            // Several inputs may meet between two turns of the owner.
            if self.roll(3) != 0 {
                for at in 0..3 {
                    self.settle(at);
                }
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_message_makes_a_member_panic() {
    let rounds = number("OTTLA_FUZZ_MESSAGES").unwrap_or(MESSAGES).div_ceil(MESSAGES_PER_ROUND);
    let seeds = number("OTTLA_SEED").map_or(0..rounds, |seed| seed..seed + 1);
    let (mut hostile, mut refused) = (0, 0);
    for seed in seeds {
        let mut round = Round::new(seed);
        let result = catch_unwind(AssertUnwindSafe(|| round.run()));
        assert!(result.is_ok(), "round {seed}: replay with OTTLA_SEED={seed}");
        hostile += round.hostile;
        refused += round.refused;
    }
    assert!(refused > hostile / 10, "{refused} of {hostile} were refused: nearly all would be harmless");
    assert!(refused < hostile * 9 / 10, "{refused} of {hostile} were refused: nearly none gets through");
}

/// A follower in term 1 of the leader 2, with an empty log.
fn follower() -> Member<MemoryStore> {
    let mut store = MemoryStore::new();
    let membership = Membership::new([1, 2, 3].map(CoordinatorId)).expect("three voters");
    store.bootstrap(membership.to_conf_state()).expect("memory");
    Member::new(&MemberConfig::new(CoordinatorId(1), 1), store).expect("a member")
}

fn from_two(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (2, 1, term);
    message
}

fn step(member: &mut Member<MemoryStore>, message: &Message) -> Option<MessageError> {
    let bytes = message.write_to_bytes().expect("written").into();
    match member.step(&bytes) {
        Ok(()) => None,
        Err(MemberError::Refused(refused)) => Some(refused),
        Err(error) => panic!("{error}"),
    }
}

/// G1: one heartbeat with the greatest term ended all members, at every restart again.
#[test]
fn a_term_near_the_greatest_is_refused_and_not_kept() {
    let mut member = follower();
    for term in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 25] {
        let refused = step(&mut member, &from_two(MessageType::MsgHeartbeat, term));
        assert_eq!(refused, Some(MessageError::Term { term, known: 0 }));
    }
    assert_eq!(member.role().term, 0);
    assert_eq!(step(&mut member, &from_two(MessageType::MsgHeartbeat, 1)), None);
    assert_eq!(member.role().term, 1);
    assert_eq!(
        step(&mut member, &from_two(MessageType::MsgRequestVote, 0)),
        Some(MessageError::Term { term: 0, known: 1 }),
        "term 0 would go back"
    );
}

/// G1: a commit index behind the end of the log ended the receiver.
#[test]
fn a_commit_index_behind_the_log_is_refused() {
    let mut member = follower();
    let mut heartbeat = from_two(MessageType::MsgHeartbeat, 1);
    heartbeat.commit = 1_000_000_000_000;
    let refused = step(&mut member, &heartbeat);
    assert_eq!(refused, Some(MessageError::Commit { commit: 1_000_000_000_000, last: 0 }));
    let mut append = from_two(MessageType::MsgAppend, 1);
    (append.index, append.commit) = (1_000_000_000_000, 1_000_000_000_000);
    assert_eq!(step(&mut member, &append), Some(MessageError::Entries), "no place has term 0");
}

#[test]
fn entries_with_a_hole_are_refused() {
    let mut member = follower();
    let mut append = from_two(MessageType::MsgAppend, 1);
    for index in [1, 3] {
        append.mut_entries().push(Entry { index, term: 1, ..Entry::default() });
    }
    assert_eq!(step(&mut member, &append), Some(MessageError::Entries));
}

#[test]
fn a_snapshot_of_other_members_is_refused() {
    let mut member = follower();
    let mut message = from_two(MessageType::MsgSnapshot, 1);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (9, 1);
    metadata.mut_conf_state().voters = vec![1, 2, 2];
    assert_eq!(step(&mut member, &message), Some(MessageError::Snapshot("impossible members")));
}
