//! Frames against trees: what a client is answered, and what it is told.

mod reassignments;
mod writes;

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ottla_metadata::controller::Request;
use ottla_metadata::transaction::{Change, Transaction};
use ottla_metadata::tree::{Path, Tree};
use ottla_model::{CoordinatorId, MonotonicMs, Revision, TimestampMs};
use proptest::prelude::*;

use crate::connect::ConnectRequest;
use crate::jute::{Reader, Writer};
use crate::sessions::{Opened, SESSIONS_MAX, Sessions, TimeoutLimits, password};
use crate::watches::{EventType, Wants, WatchBudget, Watches};
use crate::{Client, ErrorCode, MayWrite, Next, below, first_path, znodes};

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
        Client::new(address, chroot.to_owned(), self.tree.clone(), WatchBudget::new(1 << 20), MayWrite::Everything)
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
    let stat = znodes::znode(&world.tree, &path("/config/topics")).expect("is shown").stat;
    assert_eq!((stat.children, stat.newest_child), (2, 3));
    let stat = znodes::znode(&world.tree, &path("/config/topics/t")).expect("is there").stat;
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
    assert_eq!(watches.events(&before, &world.tree), expected);
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
    let client_with = |budget| Client::new(address, String::new(), world.tree.clone(), budget, MayWrite::Everything);
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

fn connect(session: i64, password: &[u8]) -> ConnectRequest {
    let password = password.to_vec();
    ConnectRequest { last_seen: 0, timeout_ms: 10_000, session, password, knows_read_only: true }
}

#[test]
fn a_session_goes_on_until_nothing_was_heard_for_its_timeout() {
    let mut sessions = Sessions::new(CoordinatorId(1), LIMITS, TimestampMs(1_700_000_000_000));
    let at = MonotonicMs;
    let Opened::Session { id, timeout_ms } = sessions.open(&connect(0, &[]), 5, at(0)) else { panic!() };
    assert_eq!(timeout_ms, 10_000);
    sessions.heard(id, at(5_000));
    let again = connect(id, &password(id));
    assert_eq!(sessions.open(&again, 5, at(14_999)), Opened::Session { id, timeout_ms });
    assert_eq!(sessions.open(&connect(id, b"wrong"), 5, at(15_000)), Opened::Expired);
    assert_eq!(sessions.open(&again, 5, at(24_999)), Opened::Expired);
    // A coordinator that did not open it takes it over.
    let mut other = Sessions::new(CoordinatorId(2), LIMITS, TimestampMs(1_700_000_000_000));
    assert_eq!(other.open(&again, 5, at(0)), Opened::Session { id, timeout_ms });
    // So does this one after a restart: it cannot know.
    let mut restarted = Sessions::new(CoordinatorId(1), LIMITS, TimestampMs(1_700_000_100_000));
    assert_eq!(restarted.open(&again, 5, at(0)), Opened::Session { id, timeout_ms });
    let ahead = ConnectRequest { last_seen: 6, ..connect(0, &[]) };
    assert_eq!(restarted.open(&ahead, 5, at(0)), Opened::Refused, "it has seen what is not here yet");
    let hasty = ConnectRequest { timeout_ms: 1, ..connect(0, &[]) };
    assert!(matches!(restarted.open(&hasty, 5, at(0)), Opened::Session { timeout_ms: 4_000, .. }));
}

#[test]
fn sessions_without_a_connection_make_room_for_others() {
    let mut sessions = Sessions::new(CoordinatorId(1), LIMITS, TimestampMs(1));
    let open = |sessions: &mut Sessions| sessions.open(&connect(0, &[]), 5, MonotonicMs(0));
    let ids: Vec<i64> = (0..SESSIONS_MAX)
        .map(|_| match open(&mut sessions) {
            Opened::Session { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(open(&mut sessions), Opened::Refused);
    sessions.disconnected(ids[7]);
    assert!(matches!(open(&mut sessions), Opened::Session { .. }));
    assert_eq!(open(&mut sessions), Opened::Refused);
    assert_eq!(sessions.open(&connect(ids[7], &password(ids[7])), 5, MonotonicMs(1)), Opened::Refused);
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
            for (event, path) in watches.events(&seen, &world.tree) {
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
    assert_eq!(first_path(&request), Some("/a/b/brokers/ids"));
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
    assert_eq!(first_path(&ping), None);
}
