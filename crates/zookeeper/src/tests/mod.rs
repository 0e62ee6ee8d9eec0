//! Frames against trees: what a client is answered, and what it is told.

mod reassignments;
mod writes;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use ottla_metadata::controller::Request;
use ottla_metadata::transaction::{Change, Transaction};
use ottla_metadata::tree::{Path, Tree};
use ottla_model::{ClusterSecret, CoordinatorId, MonotonicMs, Revision, TimestampMs};
use proptest::prelude::*;

use crate::connect::ConnectRequest;
use crate::jute::{Reader, Writer};
use crate::operation::below;
use crate::sessions::{Opened, Password, SESSIONS_MAX, SessionKey, Sessions, TimeoutLimits};
use crate::watches::{EventType, Wants, WatchBudget, Watches};
use crate::znodes::{Znode, Znodes};
use crate::{Client, ErrorCode, MayWrite, Next, Reassignments, RequestError, chroots_of, is_ping};

const LIMITS: TimeoutLimits = TimeoutLimits { min_ms: 4_000, max_ms: 40_000 };

fn path(text: &str) -> Path {
    Path::new(text).expect("a path")
}

/// A tree to which each change is applied at the next revision.
#[derive(Default)]
struct World {
    tree: Tree,
}

impl World {
    fn change(&mut self, change: Change) {
        let revision = Revision(self.tree.revision().0 + 1);
        self.tree.apply(revision, &Transaction { changes: vec![change] }).expect("applies");
    }

    fn create(&mut self, text: &str) {
        self.change(Change::Create { path: path(text), payload: Bytes::new() });
    }

    fn set(&mut self, text: &str) {
        let expected = self.tree.get_str(text).expect("is there").version;
        self.change(Change::Set { path: path(text), payload: Bytes::from_static(b"x"), expected });
    }

    fn delete(&mut self, text: &str) {
        let expected = self.tree.get_str(text).expect("is there").version;
        self.change(Change::Delete { path: path(text), expected });
    }

    fn client_below(&self, chroot: &str) -> Client {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (tree, budget) = (self.tree.clone(), WatchBudget::new(1 << 20));
        Client::new(address, chroot.to_owned(), tree, budget, Arc::default(), MayWrite::Everything)
    }

    fn znode(&self, text: &str) -> Option<Znode> {
        Znodes { tree: &self.tree, reassignments: &Reassignments::default() }.znode(&path(text))
    }

    fn count_below(&self, text: &str) -> usize {
        Znodes { tree: &self.tree, reassignments: &Reassignments::default() }.count_below(&path(text))
    }

    fn client(&self) -> Client {
        self.client_below("")
    }
}

fn frame(xid: i32, code: i32, body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::frame(&mut out);
    writer.int(xid);
    writer.int(code);
    body(&mut writer);
    writer.finish();
    out.split_off(4)
}

fn path_and_watch(xid: i32, code: i32, text: &str, watch: bool) -> Vec<u8> {
    frame(xid, code, |writer| {
        writer.string(text);
        writer.bool(watch);
    })
}

/// One received packet: an event, or an answer with its error and body.
#[derive(Debug, PartialEq)]
enum Packet {
    Event(i32, String),
    Answer { xid: i32, zxid: i64, error: i32, body: Vec<u8> },
}

fn packets(mut out: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while !out.is_empty() {
        let (length, rest) = out.split_at(4);
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        let (packet, rest) = rest.split_at(length);
        out = rest;
        let mut reader = Reader::new(packet);
        let (xid, zxid, error) = (reader.int().unwrap(), reader.long().unwrap(), reader.int().unwrap());
        packets.push(if xid == -1 {
            let (kind, state, path) = (reader.int().unwrap(), reader.int().unwrap(), reader.string().unwrap());
            assert_eq!(state, 3);
            Packet::Event(kind, path.to_owned())
        } else {
            Packet::Answer { xid, zxid, error, body: packet[16..].to_vec() }
        });
    }
    packets
}

/// Sends one request; the events that came before its answer, and the answer's error and body.
fn ask(client: &mut Client, world: &World, frame: &[u8]) -> (Vec<(i32, String)>, i32, Vec<u8>) {
    let mut out = Vec::new();
    assert_eq!(client.request(frame, &world.tree, &mut out), Ok(Next::Continue));
    let mut events = Vec::new();
    for packet in packets(&out) {
        match packet {
            Packet::Event(kind, path) => events.push((kind, path)),
            Packet::Answer { zxid, error, body, .. } => {
                assert_eq!(zxid, world.tree.revision().0 as i64);
                return (events, error, body);
            }
        }
    }
    panic!("no answer");
}

fn events(client: &mut Client, world: &World) -> Vec<(i32, String)> {
    let mut out = Vec::new();
    client.advance(&world.tree, &mut out);
    let event = |packet| match packet {
        Packet::Event(kind, path) => (kind, path),
        Packet::Answer { .. } => panic!("nothing was asked"),
    };
    packets(&out).into_iter().map(event).collect()
}

fn event(kind: EventType, path: &str) -> (i32, String) {
    (kind as i32, path.to_owned())
}

const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const GET_CHILDREN_2: i32 = 12;

#[test]
fn parents_without_nodes_and_zookeepers_own_are_shown() {
    let mut world = World::default();
    world.create("/brokers/topics/t/partitions/0/state");
    let mut client = world.client();
    let mut list = |text: &str| {
        let (_, error, body) = ask(&mut client, &world, &path_and_watch(1, GET_CHILDREN, text, false));
        assert_eq!(error, 0, "{text}");
        Reader::new(&body).vector(|reader| reader.string().map(str::to_owned)).unwrap()
    };
    let top = list("/");
    for name in ["admin", "brokers", "cluster", "config", "consumers", "isr_change_notification", "zookeeper"] {
        assert!(top.iter().any(|found| found == name), "{name} in {top:?}");
    }
    assert_eq!(list("/brokers"), ["ids", "topics"]);
    assert_eq!(list("/brokers/topics/t/partitions"), ["0"]);
    assert_eq!(list("/zookeeper"), ["config", "quota"]);
    assert_eq!(list("/brokers/topics/t/partitions/0/state"), [] as [&str; 0]);
    let (_, error, body) = ask(&mut client, &world, &path_and_watch(2, EXISTS, "/nowhere", false));
    assert_eq!((error, body), (-101, Vec::new()));
}

#[test]
fn a_stat_counts_writes_and_children() {
    let mut world = World::default();
    world.create("/config/topics/t");
    world.set("/config/topics/t");
    world.create("/config/topics/u");
    let stat = world.znode("/config/topics").expect("is shown").stat;
    assert_eq!((stat.children, stat.newest_child), (2, 3));
    let stat = world.znode("/config/topics/t").expect("is there").stat;
    assert_eq!((stat.created, stat.modified, stat.version, stat.children), (1, 2, 1, 0));
}

#[test]
fn a_watch_tells_once_and_before_any_answer_shows_the_change() {
    let mut world = World::default();
    world.create("/config/topics/t");
    let mut client = world.client();
    assert_eq!(ask(&mut client, &world, &path_and_watch(1, GET_DATA, "/config/topics/t", true)).1, 0);
    assert_eq!(ask(&mut client, &world, &path_and_watch(2, GET_CHILDREN_2, "/config/topics", true)).1, 0);
    assert_eq!(ask(&mut client, &world, &path_and_watch(3, EXISTS, "/config/topics/later", true)).1, -101);
    world.set("/config/topics/t");
    world.create("/config/topics/later");
    let (told, _, _) = ask(&mut client, &world, &path_and_watch(4, GET_DATA, "/config/topics/t", false));
    let expected = [
        event(EventType::Created, "/config/topics/later"),
        event(EventType::DataChanged, "/config/topics/t"),
        event(EventType::ChildrenChanged, "/config/topics"),
    ];
    assert_eq!(told, expected);
    world.set("/config/topics/t");
    world.delete("/config/topics/later");
    assert_eq!(events(&mut client, &world), [], "each told once");
    assert!(!client.watches());
}

#[test]
fn the_disappearance_of_a_parent_that_was_no_node_is_told() {
    let mut world = World::default();
    world.create("/brokers/topics/t/partitions/0/state");
    let mut client = world.client();
    for (xid, text) in ["/brokers/topics/t/partitions", "/brokers/topics/t"].into_iter().enumerate() {
        assert_eq!(ask(&mut client, &world, &path_and_watch(xid as i32, GET_CHILDREN, text, true)).1, 0);
    }
    world.delete("/brokers/topics/t/partitions/0/state");
    let expected =
        [event(EventType::Deleted, "/brokers/topics/t/partitions"), event(EventType::Deleted, "/brokers/topics/t")];
    assert_eq!(events(&mut client, &world), expected);
}

#[test]
fn persistent_watches_stay_until_they_are_removed() {
    let mut world = World::default();
    let mut client = world.client();
    let add = |xid, text: &str, mode| {
        frame(xid, 106, |writer| {
            writer.string(text);
            writer.int(mode);
        })
    };
    assert_eq!(ask(&mut client, &world, &add(1, "/brokers/ids", 0)).1, 0);
    assert_eq!(ask(&mut client, &world, &add(2, "/config", 1)).1, 0);
    for _ in 0..2 {
        world.create("/brokers/ids/1");
        world.create("/config/topics/t");
        let expected =
            [event(EventType::Created, "/config/topics/t"), event(EventType::ChildrenChanged, "/brokers/ids")];
        assert_eq!(events(&mut client, &world), expected);
        world.delete("/brokers/ids/1");
        world.delete("/config/topics/t");
        assert_eq!(events(&mut client, &world)[0], event(EventType::Deleted, "/config/topics/t"));
    }
    let remove = |xid, text: &str, kind| {
        frame(xid, 18, |writer| {
            writer.string(text);
            writer.int(kind);
        })
    };
    assert_eq!(ask(&mut client, &world, &remove(3, "/config", 4)).1, -121, "it is a recursive one");
    assert_eq!(ask(&mut client, &world, &remove(4, "/config", 5)).1, 0);
    assert_eq!(ask(&mut client, &world, &remove(5, "/brokers/ids", 3)).1, 0);
    assert!(!client.watches());
}

#[test]
fn a_node_that_was_deleted_and_created_again_is_told_as_both() {
    let mut world = World::default();
    world.create("/controller");
    let mut watches = Watches::new(WatchBudget::new(1 << 20));
    assert!(watches.add(&path("/controller"), Wants::PERSISTENT));
    let before = world.tree.clone();
    world.delete("/controller");
    world.create("/controller");
    let expected = [(EventType::Deleted, path("/controller")), (EventType::Created, path("/controller"))];
    assert_eq!(watches.events(&before, &world.tree, &Reassignments::default()), expected);
}

#[test]
fn a_child_that_was_deleted_and_created_again_is_a_change_of_children() {
    let mut world = World::default();
    world.create("/brokers/ids/1");
    let mut client = world.client();
    let list = path_and_watch(1, GET_CHILDREN, "/brokers/ids", true);
    assert_eq!(ask(&mut client, &world, &list).1, 0);
    world.delete("/brokers/ids/1");
    world.create("/brokers/ids/1");
    assert_eq!(events(&mut client, &world), [event(EventType::ChildrenChanged, "/brokers/ids")]);
    assert!(!client.watches());
    assert_eq!(ask(&mut client, &world, &list).1, 0);
    world.set("/brokers/ids/1");
    assert_eq!(events(&mut client, &world), [], "a write is none");
}

#[test]
fn a_client_that_comes_back_is_told_what_it_missed() {
    let mut world = World::default();
    world.create("/brokers/ids/1");
    world.create("/controller");
    let since = world.tree.revision().0 as i64;
    world.set("/controller");
    world.create("/brokers/ids/2");
    let mut client = world.client();
    let set = frame(-8, 101, |writer| {
        writer.long(since);
        for list in [["/controller", "/brokers/ids/1"].as_slice(), &["/brokers/ids/2", "/none"], &["/brokers/ids"]] {
            writer.count(list.len());
            list.iter().for_each(|path| writer.string(path));
        }
    });
    let (told, error, _) = ask(&mut client, &world, &set);
    let expected = [
        event(EventType::DataChanged, "/controller"),
        event(EventType::Created, "/brokers/ids/2"),
        event(EventType::ChildrenChanged, "/brokers/ids"),
    ];
    assert_eq!((told.as_slice(), error), (expected.as_slice(), 0));
    world.set("/brokers/ids/1");
    world.create("/none");
    let told = events(&mut client, &world);
    assert_eq!(told, [event(EventType::Created, "/none"), event(EventType::DataChanged, "/brokers/ids/1")]);
}

/// As clients send it: with the access rights of an open node.
fn create_frame(text: &str, data: Option<&str>, flags: i32) -> Vec<u8> {
    frame(7, 1, |writer| {
        writer.string(text);
        writer.buffer(data.map(str::as_bytes));
        writer.count(1);
        writer.int(0x1f);
        writer.string("world");
        writer.string("anyone");
        writer.int(flags);
    })
}

fn set_frame(text: &str, data: &str, version: i32) -> Vec<u8> {
    frame(8, 5, |writer| {
        writer.string(text);
        writer.buffer(Some(data.as_bytes()));
        writer.int(version);
    })
}

/// What the quorum is asked, and the answer that the client gets when it has agreed.
fn agreed(client: &mut Client, world: &World, frame: &[u8]) -> (Request, Packet) {
    let mut out = Vec::new();
    let next = client.request(frame, &world.tree, &mut out);
    let Ok(Next::Decide { request, write }) = next else { panic!("{next:?} {:?}", packets(&out)) };
    client.decided(&write, ErrorCode::Ok, &world.tree, &mut out);
    (request, packets(&out).remove(0))
}

fn body_of(packet: Packet) -> Vec<u8> {
    match packet {
        Packet::Answer { error: 0, body, .. } => body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn watches_are_bounded_for_all_clients_together() {
    let world = World::default();
    let budget = WatchBudget::new(1_000);
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let client_with =
        |budget| Client::new(address, String::new(), world.tree.clone(), budget, Arc::default(), MayWrite::Everything);
    let mut client = client_with(budget.clone());
    let set = |client: &mut Client| {
        (0..100).filter(|n| ask(client, &world, &path_and_watch(1, EXISTS, &format!("/w{n}"), true)).1 == -101).count()
    };
    let first = set(&mut client);
    assert!((1..20).contains(&first), "{first}");
    drop(client);
    assert_eq!(budget.used_bytes(), 0);
    let mut client = client_with(budget);
    assert_eq!(set(&mut client), first);
}

/// A `multiRead` of the data or the children of each path.
fn multi_read<'a>(code: i32, paths: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    frame(9, 22, |writer| {
        for path in paths {
            writer.int(code);
            writer.bool(false);
            writer.int(-1);
            writer.string(path);
            writer.bool(false);
        }
        writer.int(-1);
        writer.bool(true);
        writer.int(-1);
    })
}

/// The error of each read of a `multiRead`, where all of them read data or fail.
fn errors_of_reads(body: &[u8]) -> Vec<i32> {
    let mut reader = Reader::new(body);
    let mut errors = Vec::new();
    loop {
        let (code, is_last, error) = (reader.int().unwrap(), reader.bool().unwrap(), reader.int().unwrap());
        if is_last {
            return errors;
        }
        errors.push(error);
        if code == -1 {
            assert_eq!(reader.int().unwrap(), error);
        } else {
            reader.buffer().unwrap();
            // The stat.
            (0..17).for_each(|_| assert!(reader.int().is_ok()));
        }
    }
}

#[test]
fn a_multi_read_is_bounded_by_its_work_also_where_nothing_is_found() {
    const READS: usize = 10_000;
    let mut world = World::default();
    world.create("/config/topics/t");
    let mut client = world.client();
    for (path, expected) in [("/admin/reassign_partitions", -101), ("/none", -101), ("/config/topics/t", 0)] {
        let (_, error, body) = ask(&mut client, &world, &multi_read(GET_DATA, std::iter::repeat_n(path, READS)));
        let errors = errors_of_reads(&body);
        assert_eq!((error, errors.len()), (0, READS));
        let read = errors.iter().take_while(|error| **error == expected).count();
        assert!((1_000..4_000).contains(&read), "{read} of {path}");
        assert!(errors[read..].iter().all(|error| *error == -8));
    }
}

#[test]
fn the_answer_to_a_multi_read_of_long_lists_is_bounded() {
    const TOPICS: usize = 1_000;
    const READS: usize = 200;
    let mut world = World::default();
    (0..TOPICS).for_each(|number| world.create(&format!("/brokers/topics/topic-{number}")));
    let mut client = world.client();
    let frame = multi_read(GET_CHILDREN, std::iter::repeat_n("/brokers/topics", READS));
    let (_, error, body) = ask(&mut client, &world, &frame);
    assert_eq!(error, 0);
    assert!(body.len() < 512 * 1024, "{}", body.len());
}

/// Sets watches of the data of `count` nodes that are not there; all of them have changed.
fn set_watches(count: usize) -> Vec<u8> {
    frame(-8, 101, |writer| {
        writer.long(0);
        writer.count(count);
        (0..count).for_each(|number| writer.string(&format!("/{number}")));
        writer.count(0);
        writer.count(0);
    })
}

#[test]
fn watches_that_are_set_again_are_bounded() {
    let world = World::default();
    let mut client = world.client();
    let (told, error, _) = ask(&mut client, &world, &set_watches(16_384));
    assert_eq!((told.len(), error), (16_384, 0));
    let mut out = Vec::new();
    let refused = client.request(&set_watches(16_385), &world.tree, &mut out);
    assert_eq!((refused, out.len()), (Err(RequestError::TooManyWatches), 0));
}

fn connect(session: i64, password: &[u8]) -> ConnectRequest {
    let password = password.to_vec();
    ConnectRequest { last_seen: 0, timeout_ms: 10_000, session, password, knows_read_only: true }
}

/// Of a quorum with a secret.
fn sessions(coordinator: u64, started_ms: i64) -> Sessions {
    let key = SessionKey::of_quorum(&ClusterSecret::new("s3cret"));
    Sessions::new(CoordinatorId(coordinator), LIMITS, key, TimestampMs(started_ms))
}

/// Of a quorum without one.
fn sessions_with(random: u8, coordinator: u64) -> Sessions {
    let key = SessionKey::of_process([random; 32]);
    Sessions::new(CoordinatorId(coordinator), LIMITS, key, TimestampMs(1_700_000_000_000))
}

fn opened(opened: Opened) -> (i64, Password, i32) {
    let Opened::Session { id, password, timeout_ms, .. } = opened else { panic!("{opened:?}") };
    (id, password, timeout_ms)
}

/// Ids follow from time: whoever computed the password out of the id took the session over, and its client's connection
/// ended.
#[test]
fn nobody_takes_over_the_session_of_another_client() {
    let at = MonotonicMs;
    let secret_or_not = [sessions(1, 1_700_000_000_000), sessions_with(1, 1)];
    for mut sessions in secret_or_not {
        let (id, password, _) = opened(sessions.open(&connect(0, &[]), 1, 5, at(0)));
        let (neighbour, of_neighbour, _) = opened(sessions.open(&connect(0, &[]), 2, 5, at(0)));
        assert_eq!(neighbour, id + 1);
        // What the former coordinator gave out for this id, what the attacker knows, and what is near.
        let of_other_key = opened(sessions_with(9, 1).open(&connect(0, &[]), 1, 5, at(0)));
        assert_eq!(of_other_key.0, id, "an attacker can know the id");
        let mut altered = password;
        altered[15] ^= 1;
        for shown in [&[][..], &[0; 16], &of_neighbour, &of_other_key.1, &altered, &password[..15]] {
            assert_eq!(sessions.open(&connect(id, shown), 3, 5, at(1)), Opened::Expired, "{shown:?}");
        }
        let again = sessions.open(&connect(id, &password), 4, 5, at(2));
        assert!(matches!(again, Opened::Session { replaced: Some(1), .. }), "its own client goes on: {again:?}");
    }
}

/// A coordinator that cannot check the password takes the session as new; then it is that client's.
#[test]
fn without_a_shared_secret_a_session_moves_once_and_is_kept() {
    let at = MonotonicMs;
    let (id, password, _) = opened(sessions_with(1, 1).open(&connect(0, &[]), 1, 5, at(0)));
    let mut other = sessions_with(2, 2);
    assert_eq!(opened(other.open(&connect(id, &password), 1, 5, at(0))).0, id);
    assert_eq!(other.open(&connect(id, &[7; 16]), 2, 5, at(1)), Opened::Expired);
    assert_eq!(opened(other.open(&connect(id, &password), 3, 5, at(2))).0, id);
    assert_eq!(other.open(&connect(id + 1, &[7; 15]), 4, 5, at(3)), Opened::Expired, "no password");
}

#[test]
fn a_session_goes_on_until_nothing_was_heard_for_its_timeout() {
    let (mut sessions, at) = (sessions(1, 1_700_000_000_000), MonotonicMs);
    let (id, password, timeout_ms) = opened(sessions.open(&connect(0, &[]), 1, 5, at(0)));
    assert_eq!(timeout_ms, 10_000);
    sessions.heard(id, 1, at(5_000));
    sessions.disconnected(id, 1);
    let again = connect(id, &password);
    let continued = Opened::Session { id, password, timeout_ms, replaced: None };
    assert_eq!(sessions.open(&again, 2, 5, at(14_999)), continued);
    assert_eq!(sessions.open(&connect(id, b"wrong"), 3, 5, at(15_000)), Opened::Expired);
    assert_eq!(sessions.open(&again, 3, 5, at(24_999)), Opened::Expired);
    // A coordinator that did not open it takes it over.
    let mut other = self::sessions(2, 1_700_000_000_000);
    assert_eq!(other.open(&again, 1, 5, at(0)), continued);
    // So does this one after a restart: it cannot know.
    let mut restarted = self::sessions(1, 1_700_000_100_000);
    assert_eq!(restarted.open(&again, 1, 5, at(0)), continued);
    let ahead = ConnectRequest { last_seen: 6, ..connect(0, &[]) };
    assert_eq!(restarted.open(&ahead, 2, 5, at(0)), Opened::Refused, "it has seen what is not here yet");
    let hasty = ConnectRequest { timeout_ms: 1, ..connect(0, &[]) };
    assert!(matches!(restarted.open(&hasty, 2, 5, at(0)), Opened::Session { timeout_ms: 4_000, .. }));
}

/// A client that noticed before the coordinator that its connection had ended.
#[test]
fn a_connection_that_was_replaced_does_not_end_its_session() {
    let (mut sessions, at) = (sessions(1, 1), MonotonicMs);
    let (id, password, timeout_ms) = opened(sessions.open(&connect(0, &[]), 1, 5, at(0)));
    let again = connect(id, &password);
    let continued = |replaced| Opened::Session { id, password, timeout_ms, replaced: Some(replaced) };
    assert_eq!(sessions.open(&again, 2, 5, at(9_000)), continued(1));
    // What comes of the first one later is nothing that the session's client has said.
    sessions.heard(id, 1, at(9_500));
    sessions.disconnected(id, 1);
    sessions.close(id, 1);
    assert_eq!(sessions.open(&again, 3, 5, at(18_999)), continued(2), "heard of at 9,000");
    sessions.close(id, 3);
    assert_eq!(sessions.open(&again, 4, 5, at(19_000)), Opened::Expired);
}

#[test]
fn sessions_without_a_connection_make_room_for_others() {
    let mut sessions = sessions(1, 1);
    let open = |sessions: &mut Sessions| sessions.open(&connect(0, &[]), 1, 5, MonotonicMs(0));
    let all: Vec<_> = (0..SESSIONS_MAX).map(|_| opened(open(&mut sessions))).collect();
    let (id, password, _) = all[7];
    assert_eq!(open(&mut sessions), Opened::Refused);
    sessions.disconnected(id, 1);
    assert!(matches!(open(&mut sessions), Opened::Session { .. }));
    assert_eq!(open(&mut sessions), Opened::Refused);
    assert_eq!(sessions.open(&connect(id, &password), 2, 5, MonotonicMs(1)), Opened::Refused);
}

/// Names of a small tree, so that random changes meet.
fn random_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]", 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

proptest! {
    /// A client that keeps a copy of what it watches, and changes it by events alone, has the tree in the end.
    #[test]
    fn persistent_watches_lose_nothing(
        changes in prop::collection::vec((random_path(), 0..3_u8), 1..40),
        every in 1..5_usize,
    ) {
        let mut world = World::default();
        let mut watches = Watches::new(WatchBudget::new(1 << 20));
        prop_assert!(watches.add(&Path::root(), Wants::RECURSIVE));
        let mut seen = world.tree.clone();
        let mut copy = std::collections::BTreeMap::new();
        for (position, (text, what)) in changes.iter().enumerate() {
            match (world.tree.get_str(text).is_some(), what) {
                (false, _) => world.create(text),
                (true, 0) => world.delete(text),
                (true, _) => world.set(text),
            }
            if position % every != 0 && position + 1 != changes.len() {
                continue;
            }
            for (event, path) in watches.events(&seen, &world.tree, &Reassignments::default()) {
                match event {
                    EventType::Created => prop_assert!(copy.insert(path.clone(), 0).is_none(), "{path} twice"),
                    EventType::Deleted => prop_assert!(copy.remove(&path).is_some(), "{path} was not there"),
                    EventType::DataChanged => prop_assert!(copy.contains_key(&path), "{path} is not there"),
                    EventType::ChildrenChanged => prop_assert!(false, "recursive watches do not tell it"),
                }
            }
            seen = world.tree.clone();
            let with_parents = |path: &Path| std::iter::successors(Some(path.clone()), Path::parent);
            let shown = world.tree.iter().flat_map(|(path, _)| with_parents(path));
            let shown: std::collections::BTreeSet<Path> = shown.filter(|path| path.as_str() != "/").collect();
            prop_assert!(copy.keys().eq(shown.iter()), "{copy:?} {shown:?}");
        }
    }

    /// Below each node are those that a list of all of them names.
    #[test]
    fn the_nodes_below_each_node_are_counted_once(paths in prop::collection::btree_set(
        prop::collection::vec("[ab]-?", 1..5).prop_map(|names| format!("/{}", names.join("/"))),
        0..30,
    )) {
        let mut world = World::default();
        paths.iter().for_each(|text| world.create(text));
        let tree = &world.tree;
        let znodes = Znodes { tree, reassignments: &Reassignments::default() };
        let mut all = vec![Path::root()];
        let mut next = 0;
        while next < all.len() {
            let here = all[next].clone();
            let names = znodes.znode(&here).expect("is shown").children;
            let prefix = here.as_str().trim_end_matches('/').to_owned();
            all.extend(names.iter().map(|name| path(&format!("{prefix}/{name}"))));
            next += 1;
        }
        for here in &all {
            let prefix = format!("{}/", here.as_str().trim_end_matches('/'));
            let below = all.iter().filter(|path| path.as_str() != "/" && path.as_str().starts_with(&prefix)).count();
            prop_assert_eq!(znodes.count_below(here), below, "{}", here);
        }
    }

    /// Whatever a write says, it is answered or becomes a bounded question to the quorum.
    #[test]
    fn random_writes_are_answered_or_asked(
        path in prop::sample::select(vec![
            "/config/topics/t", "/config/topics/none", "/config/brokers/1", "/config/brokers/<default>",
            "/config/users/%4", "/config/users/u", "/admin/reassign_partitions", "/config/changes/config_change_", "/admin/preferred_replica_election",
            "/admin/delete_topics/t", "/admin/delete_topics/", "/", "", "/brokers/ids/1",
        ]),
        data in prop::sample::select(vec![
            r#"{"version":1,"config":{"retention.ms":"1000"}}"#,
            r#"{"version":1,"partitions":[{"topic":"t","partition":0},{"topic":"","partition":-1}]}"#,
            r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,2]}]}"#,
            r#"{"config":{"":""},"partitions":[]}"#,
        ]),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        number in prop_oneof![-2..4_i32, any::<i32>()],
        sets in any::<bool>(),
        cut in prop_oneof![Just(0), 0..40_usize],
    ) {
        let mut world = World::default();
        world.create("/brokers/topics/t");
        world.create("/config/topics/t");
        let mut client = world.client();
        let mut bytes = if sets { set_frame(path, data, number) } else { create_frame(path, Some(data), number) };
        for (at, byte) in &spoilt {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let kept = bytes.len().saturating_sub(cut);
        let mut out = Vec::new();
        if let Ok(Next::Decide { request, write }) = client.request(&bytes[..kept], &world.tree, &mut out) {
            prop_assert!(out.is_empty());
            let asked_bytes = format!("{:?}", request).len();
            prop_assert!(asked_bytes < 16 * bytes.len(), "{} of {}", asked_bytes, bytes.len());
            client.decided(&write, ErrorCode::Ok, &world.tree, &mut out);
            prop_assert_eq!(packets(&out).len(), 1);
        }
        prop_assert!(out.len() < 1024);
    }

    /// No frame is worth a panic, and no answer is larger than what the tree and the frame can justify.
    #[test]
    fn random_frames_are_answered_or_refused(
        frames in prop::collection::vec((any::<i32>(), -12..110_i32, prop::collection::vec(any::<u8>(), 0..60)), 1..30),
        cut in 0..12_usize,
    ) {
        let mut world = World::default();
        world.create("/brokers/ids/1");
        let mut client = world.client();
        let mut out = Vec::new();
        for (xid, code, body) in frames {
            let mut bytes = [xid.to_be_bytes(), code.to_be_bytes()].concat();
            bytes.extend(&body);
            let kept = bytes.len().saturating_sub(cut);
            let _ = client.request(&bytes[..kept], &world.tree, &mut out);
        }
        let _ = ConnectRequest::parse(&out);
        prop_assert!(out.len() < 64 * 1024);
    }
}

#[test]
fn paths_of_a_chroot_are_stripped_and_given_back() {
    const EXISTS: i32 = 3;
    const GET_CHILDREN: i32 = 8;
    let mut world = World::default();
    world.create("/brokers/ids/1");
    let mut client = world.client_below("/a/b");
    let request = path_and_watch(1, GET_CHILDREN, "/a/b/brokers/ids", true);
    let chroots = ["/a/b".to_owned(), "/a".to_owned(), "/c".to_owned()];
    assert!(chroots_of(&request, &chroots).into_iter().eq(["/a/b"]));
    let (_, error, body) = ask(&mut client, &world, &request);
    assert_eq!((error, Reader::new(&body).vector(Reader::string).unwrap()), (0, vec!["1"]));
    let (_, error, _) = ask(&mut client, &world, &path_and_watch(2, EXISTS, "/a/b", true));
    assert_eq!(error, 0);
    for elsewhere in ["/brokers/ids", "/a/bc/brokers/ids", "/a"] {
        let (_, error, _) = ask(&mut client, &world, &path_and_watch(3, EXISTS, elsewhere, false));
        assert_eq!(error, -8, "{elsewhere}");
    }
    world.create("/brokers/ids/2");
    assert_eq!(events(&mut client, &world), [(4, "/a/b/brokers/ids".to_owned())]);
    assert_eq!(below("/a/b", "/a/b"), Some("/"));
    let ping = frame(4, 11, |_| {});
    assert!(is_ping(&ping) && !is_ping(&request) && !is_ping(&ping[..7]));
    assert!(chroots_of(&ping, &chroots).is_empty());
}

#[test]
fn watches_of_several_clusters_are_set_in_each() {
    let mut world = World::default();
    world.create("/controller");
    let chroots = ["/a/b".to_owned(), "/a".to_owned()];
    let set = frame(-8, 101, |writer| {
        writer.long(1_000);
        for list in [["/controller", "/a/controller", "/a/b/controller"].as_slice(), &["/a/new", "/ab/new"], &[]] {
            writer.count(list.len());
            list.iter().for_each(|path| writer.string(path));
        }
    });
    assert!(chroots_of(&set, &chroots).into_iter().eq(["", "/a", "/a/b"]));
    for (chroot, changed, waits) in [
        ("", "/controller", Some("/ab/new")),
        ("/a", "/a/controller", Some("/a/new")),
        ("/a/b", "/a/b/controller", None),
    ] {
        let mut client = world.client_below(chroot);
        let mut out = Vec::new();
        assert_eq!(client.request_here(&set, &chroots, &world.tree, &mut out), Ok(ErrorCode::Ok));
        assert_eq!(packets(&out), [Packet::Event(EventType::DataChanged as i32, changed.to_owned())]);
        assert_eq!(client.watches(), waits.is_some());
        let mut later = World { tree: world.tree.clone() };
        later.create("/new");
        later.create("/ab/new");
        let told = waits.map(|path| event(EventType::Created, path));
        assert_eq!(events(&mut client, &later), Vec::from_iter(told));
        out.clear();
        client.answer_for_all(&set, ErrorCode::Ok, &mut out).expect("well formed");
        assert!(matches!(packets(&out)[..], [Packet::Answer { xid: -8, error: 0, .. }]));
    }
    // Nothing else has paths of several.
    let reads = multi_read(GET_DATA, ["/controller", "/a/controller"]);
    assert!(chroots_of(&reads, &chroots).into_iter().eq(["", "/a"]));
    let mut out = Vec::new();
    let refused = world.client_below("/a").request_here(&reads, &chroots, &world.tree, &mut out);
    assert_eq!((refused, out.len()), (Ok(ErrorCode::BadArguments), 0));
}
