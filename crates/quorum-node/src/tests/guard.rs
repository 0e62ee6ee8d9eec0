//! A transaction that cannot be applied is not proposed; a committed one that cannot be applied ends no member.

use bytes::Bytes;
use ottla_consensus::Membership;
use ottla_consensus::log_store::HardState;
use ottla_consensus::{Entry, LogStore as _, Persist, Snapshot};
use ottla_metadata::controller::{AlterConfig, AlterConfigs, Answer, ConfigOp, Request};
use ottla_metadata::image::{ConfigEntity, Image};
use ottla_metadata::limits::MAX_NODE_BYTES;
use ottla_metadata::transaction::{Change, Transaction};
use ottla_metadata::tree::Path;
use ottla_model::{CoordinatorId, Revision};

use super::{Outputs, Store, disk, leader, node, now, step};
use crate::disks::{SenderError, Voter, check_sender};
use crate::members::Members;
use crate::{CallId, Event, Outcome, Output, RequestError};

fn create(path: &str, bytes: usize) -> Change {
    Change::Create { path: Path::new(path).expect("a path"), payload: vec![7; bytes].into() }
}

#[test]
fn only_another_voter_with_its_known_disk_is_listened_to() {
    let voter = |disk| Voter { address: String::new(), disk };
    let voters = [(CoordinatorId(1), voter(Some(disk(1)))), (CoordinatorId(2), voter(None))].into();
    let membership = Membership::new([1, 2].map(CoordinatorId)).expect("two");
    let members = Members::new(&membership, &Image::empty(), &voters);
    let check = |id, shown| check_sender(&members, CoordinatorId(1), CoordinatorId(id), disk(shown), None);
    assert_eq!(check(1, 1), Err(SenderError::Stranger(CoordinatorId(1))));
    assert_eq!(check(3, 3), Err(SenderError::Stranger(CoordinatorId(3))));
    assert_eq!(check(2, 2), Ok(()));
    let vouched = |shown| check_sender(&members, CoordinatorId(1), CoordinatorId(3), disk(shown), Some(disk(3)));
    assert_eq!((vouched(3), vouched(4)), (Ok(()), Err(SenderError::Stranger(CoordinatorId(3)))));
}

pub(super) fn outcome(out: &Outputs, of: CallId) -> Outcome {
    let found = out.all.iter().find_map(|output| match output {
        Output::Respond { call, outcome } if *call == of => Some(outcome.clone()),
        _ => None,
    });
    found.expect("an outcome")
}

pub(super) fn alter(call: u64, entity: ConfigEntity, name: &str, value: String) -> Event {
    let change = (name.to_owned(), ConfigOp::Set(value));
    let alter = AlterConfig { entity, changes: vec![change], replace_all: false };
    let request = Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false });
    Event::Request { call: CallId(call), request, entropy: [1; 16] }
}

/// A6: a change above the limit of one message was committed, and blocked every watcher.
#[test]
fn a_change_that_is_too_large_has_a_definite_error_and_nothing_else_suffers() {
    let mut out = Outputs::default();
    let mut node = leader(&mut out);
    let revision = node.view().revision;
    let brokers = ConfigEntity::default_broker();
    step(&mut node, alter(1, brokers.clone(), "unknown.key", "v".repeat(MAX_NODE_BYTES)), &mut out);
    match outcome(&out, CallId(1)) {
        Err(RequestError::Refused(_)) => {}
        // The controller's own limits may be lower.
        Ok(Answer::AlterConfigs(outcomes)) => assert!(outcomes.entities.iter().all(|(_, refusal)| refusal.is_some())),
        other => panic!("{other:?}"),
    }
    assert_eq!(node.view().revision, revision, "nothing was proposed");
    step(&mut node, alter(2, brokers, "unknown.key", "v".to_owned()), &mut out);
    assert!(matches!(outcome(&out, CallId(2)), Ok(Answer::AlterConfigs(_))));
    assert!(node.view().revision > revision);
}

/// A1: an entry that could not be decoded ended every member, at each restart again.
#[test]
fn an_entry_that_cannot_be_read_is_skipped() {
    let mut store = Store::default();
    let good = Transaction { changes: vec![create("/good", 1)] };
    let entry = |index, data: Vec<u8>| Entry { index, term: 1, data: data.into(), ..Entry::default() };
    let entries = vec![entry(1, vec![0xFF; 9]), entry(2, good.encode())];
    let hard_state = HardState { term: 1, commit: 2, ..HardState::default() };
    let persist = Persist { entries, hard_state: Some(hard_state), must_sync: true, ..Persist::default() };
    let membership = Membership::new([CoordinatorId(1)]).expect("one");
    store.bootstrap(membership.to_conf_state()).expect("memory");
    store.persist(&persist).expect("memory");
    let mut out = Outputs::default();
    let mut node = node(1, 1, store);
    node.flush(now(0), &mut out).expect("it goes on");
    assert!(node.view().tree.get_str("/good").is_some());
    assert!(node.is_deciding());
    assert!(
        out.notes().iter().any(|note| note.contains("entry 1 cannot be decoded and is skipped")),
        "{:?}",
        out.notes()
    );
}

#[test]
fn peers_speak_for_themselves_with_their_own_disk_and_readable_snapshots() {
    use protobuf::Message as _;
    use raft::eraftpb::{Message, MessageType};

    let mut out = Outputs::default();
    let mut node = node(1, 3, Store::default());
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    (message.from, message.to, message.term) = (2, 1, 1);
    let raft = |sender, shown, message: &Message| Event::Raft {
        sender: CoordinatorId(sender),
        disk: disk(shown),
        message: message.write_to_bytes().expect("written").into(),
    };
    for (sender, shown) in [(2, 3), (3, 3), (4, 4), (1, 1)] {
        step(&mut node, raft(sender, shown, &message), &mut out);
        assert_eq!(node.role().term, 0, "{sender} with disk {shown}");
    }
    step(&mut node, raft(2, 2, &message), &mut out);
    assert_eq!(node.role().term, 1);

    let mut snapshot = Snapshot { data: Bytes::from_static(&[1, 2, 3]), ..Snapshot::default() };
    (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (9, 1);
    snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
    message.set_msg_type(MessageType::MsgSnapshot);
    message.set_snapshot(snapshot);
    step(&mut node, raft(2, 2, &message), &mut out);
    assert_eq!(node.view().revision, Revision(0), "what cannot become the tree does not get to the disk");
}
