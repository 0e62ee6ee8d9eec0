//! The node of the reassignments under way, which is not in the tree.

use ottla_metadata::image::{Assignment, Reassignment};
use ottla_metadata::nodes::topic::{self, TopicNode};
use ottla_metadata::transaction::Change;
use ottla_model::{BrokerId, PartitionId, TopicId};

use super::{EXISTS, GET_CHILDREN, GET_DATA, World, ask, event, events, path, path_and_watch};
use crate::jute::Reader;
use crate::watches::EventType;

const PATH: &str = "/admin/reassign_partitions";

/// A topic whose partition 0 has replica 1, and moves to `target` if there is one.
fn put(world: &mut World, name: &str, target: Option<i32>) {
    let assignment = match target {
        None => vec![BrokerId(1)].into(),
        Some(target) => Assignment {
            replicas: [target, 1].map(BrokerId).to_vec(),
            reassignment: Some(Box::new(Reassignment { adding: vec![BrokerId(target)], removing: vec![BrokerId(1)] })),
        },
    };
    let id = TopicId::from_slice(&[7; 16]).expect("an id");
    let payload = topic::encode(&TopicNode {
        id,
        assignment: vec![(PartitionId(0), assignment)],
        grows_to: 0,
        queued: Default::default(),
    });
    let path = path(&format!("/brokers/topics/{name}"));
    let change = match world.tree.get(&path) {
        None => Change::Create { path, payload },
        Some(node) => Change::Set { expected: node.version, path, payload },
    };
    world.change(change);
}

#[test]
fn reassignments_are_shown_until_they_are_done() {
    let mut world = World::default();
    put(&mut world, "a", None);
    put(&mut world, "b", None);
    let mut client = world.client();
    let is_shown = |client: &mut _, world: &World| {
        let shown = ask(client, world, &path_and_watch(1, EXISTS, PATH, true)).1 == 0;
        let (_, _, body) = ask(client, world, &path_and_watch(2, GET_CHILDREN, "/admin", true));
        let children = Reader::new(&body).vector(Reader::string).expect("names").join(" ");
        assert_eq!(children.contains("reassign_partitions"), shown, "{children}");
        assert_eq!(world.count_below("/admin"), 1 + usize::from(shown));
        shown
    };
    assert!(!is_shown(&mut client, &world));
    put(&mut world, "b", Some(2));
    let appeared = [event(EventType::Created, PATH), event(EventType::ChildrenChanged, "/admin")];
    assert_eq!(events(&mut client, &world), appeared);
    assert!(is_shown(&mut client, &world));
    put(&mut world, "a", Some(3));
    assert_eq!(events(&mut client, &world), [event(EventType::DataChanged, PATH)]);
    let (_, error, body) = ask(&mut client, &world, &path_and_watch(3, GET_DATA, PATH, true));
    let data = r#"{"version":1,"partitions":[{"topic":"a","partition":0,"replicas":[3]},{"topic":"b","partition":0,"replicas":[2]}]}"#;
    assert_eq!((error, Reader::new(&body).buffer()), (0, Ok(data.as_bytes())));
    // What is no reassignment tells nothing.
    put(&mut world, "c", None);
    assert!(events(&mut client, &world).is_empty());
    put(&mut world, "a", None);
    put(&mut world, "b", None);
    let gone = [event(EventType::Deleted, PATH), event(EventType::ChildrenChanged, "/admin")];
    assert_eq!(events(&mut client, &world), gone);
    assert!(!is_shown(&mut client, &world));
}
