//! How node changes become an image and a delta, and how two images are compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_model::{BrokerId, PartitionId, Revision, TopicIdPartition, TopicName};

use super::{
    Assignment, BrokerRegistration, ConfigImage, CoordinatorImage, FinalizedLevel, Image, MIN_INSYNC_REPLICAS,
    PartitionState, TopicImage, metric_name,
};
use crate::delta::{BrokerChange, Delta, PartitionChange};
use crate::nodes::{self, NodePath};
use crate::tree::{Node, NodeChange};

/// Both sides of everything that an apply touched.
#[derive(Default)]
struct Touched {
    partitions: BTreeMap<TopicIdPartition, TouchedPartition>,
    brokers: BTreeMap<BrokerId, Option<Arc<BrokerRegistration>>>,
}

struct TouchedPartition {
    topic: TopicName,
    /// Before the first change.
    old: Option<Arc<PartitionState>>,
    /// After the last one.
    new: Option<Arc<PartitionState>>,
}

impl Touched {
    fn partition(
        &mut self,
        id: TopicIdPartition,
        topic: &TopicName,
        old: Option<&Arc<PartitionState>>,
        new: Option<Arc<PartitionState>>,
    ) {
        let first = || TouchedPartition { topic: topic.clone(), old: old.cloned(), new: None };
        self.partitions.entry(id).or_insert_with(first).new = new;
    }
}

/// A change of a partition's state.
type StateChange<'a> = (&'a str, PartitionId, &'a NodeChange);

pub(super) fn apply(image: &Image, revision: Revision, changes: &[NodeChange]) -> (Image, Delta) {
    let mut next = image.clone();
    next.revision = image.revision.max(revision);
    let mut delta = Delta { revision: next.revision, ..Delta::default() };
    let mut touched = Touched::default();
    let mut states: Vec<StateChange<'_>> = Vec::new();
    for change in changes {
        // A state joins with its topic's assignment, which may come in the same list. A fencing changes tens of
        // thousands of states, and nothing else: they are known without a look at the other kinds.
        if let Some((topic, partition)) = nodes::partition::parts(&change.path) {
            states.push((topic, partition, change));
        } else if apply_node(&mut next, &mut delta, &mut touched, nodes::classify(&change.path), change).is_err() {
            delta.undecodable.push(change.path.clone());
        }
    }
    for of_topic in states.chunk_by(|(one, ..), (next, ..)| one == next) {
        apply_states(&mut next, &mut delta, &mut touched, of_topic);
    }
    for (id, TouchedPartition { topic, old, new }) in touched.partitions {
        if old != new {
            let (topic_id, partition) = (id.topic_id, id.partition);
            delta.partitions.push(PartitionChange { topic, topic_id, partition, old, new });
        }
    }
    for (id, old) in touched.brokers {
        let new = next.brokers.get(&id).cloned();
        if old != new {
            delta.brokers.push(BrokerChange { id, old, new });
        }
    }
    delta.controller_changed = next.controller != image.controller;
    // Topics show as created with the partitions that came along.
    for created in &mut delta.topics_created {
        if let Some(topic) = next.topics.get(&created.id) {
            *created = topic.clone();
        }
    }
    (next, delta)
}

fn config(node: &Node) -> Result<ConfigImage, nodes::NodeError> {
    let nodes::config::ConfigNode { entries, min_insync_replicas_modified } =
        nodes::config::ConfigNode::decode(&node.payload)?;
    // A node that was never changed has had the entry from the beginning, or never.
    let was_never_set = node.version == 0 && !entries.contains_key(MIN_INSYNC_REPLICAS);
    let min_insync_replicas_modified = match min_insync_replicas_modified {
        // No later than the node, whatever a restored tree says.
        Some(revision) => revision.min(node.modified),
        None if was_never_set => Revision(0),
        None => node.modified,
    };
    Ok(ConfigImage { entries, modified: node.modified, min_insync_replicas_modified })
}

fn apply_node(
    next: &mut Image,
    delta: &mut Delta,
    touched: &mut Touched,
    kind: NodePath,
    change: &NodeChange,
) -> Result<(), nodes::NodeError> {
    let node = change.node.as_ref();
    match kind {
        NodePath::Broker(id) => {
            touched.brokers.entry(id).or_insert_with(|| next.brokers.get(&id).cloned());
            // Remove it first: a registration that cannot be decoded does not count.
            next.brokers.remove(&id);
            if let Some(node) = node {
                let registration = nodes::broker::decode(id, node)?;
                next.brokers.insert(id, Arc::new(registration));
            }
        }
        NodePath::BrokerMemory(id) => {
            next.memories.remove(&id);
            if let Some(node) = node {
                next.memories.insert(id, Arc::new(nodes::broker_memory::decode(id, &node.payload)?));
            }
        }
        NodePath::Topic(name) => apply_topic(next, delta, touched, name, node)?,
        NodePath::Config(entity) => {
            next.configs.remove(&entity);
            delta.configs.push(entity.clone());
            if let Some(node) = node {
                next.configs.insert(entity, Arc::new(config(node)?));
            }
        }
        NodePath::Acl(pattern) => {
            delta.acls_changed = true;
            let rules = node.map(|node| nodes::acl::decode(&node.payload)).transpose();
            // A node that cannot be decoded has no rules.
            let set = rules.as_ref().ok().cloned().flatten().unwrap_or_default();
            Arc::make_mut(&mut next.acls).set(&pattern, set);
            rules?;
        }
        NodePath::DelegationToken(id) => {
            delta.delegation_tokens_changed = true;
            next.delegation_tokens.remove(&id);
            if let Some(node) = node {
                next.delegation_tokens.insert(id, Arc::new(nodes::delegation_token::decode(&node.payload)?));
            }
        }
        NodePath::Controller => {
            next.controller = None;
            if let Some(node) = node {
                next.controller = Some(nodes::controller::decode(&node.payload)?.broker);
            }
        }
        NodePath::ControllerEpoch => {
            if let Some(node) = node {
                next.controller_epoch = nodes::controller_epoch::decode(&node.payload)?;
            }
        }
        NodePath::ClusterId => {
            next.cluster_id = match node {
                Some(node) => Some(nodes::cluster_id::decode(&node.payload)?),
                None => None,
            };
        }
        NodePath::DeleteTopic(name) => {
            next.deleting.remove(&name);
            if let Some(node) = node {
                let id = nodes::delete_topic::decode(&node.payload)?;
                next.deleting.insert(name, id);
            }
        }
        NodePath::Coordinator(id) => {
            delta.coordinators_changed = true;
            next.coordinators.remove(&id);
            if let Some(node) = node {
                let (modified, node) = (node.modified, nodes::coordinator::decode(&node.payload)?);
                next.coordinators.insert(id, Arc::new(CoordinatorImage { node, modified }));
            }
        }
        NodePath::ProducerIds => {
            next.producer_ids = match node {
                Some(node) => nodes::producer_ids::decode(&node.payload)?,
                None => None,
            };
        }
        NodePath::Feature => {
            delta.finalized_changed = true;
            next.finalized = match node {
                Some(node) => FinalizedLevel { level: nodes::feature::decode(&node.payload)?, since: node.modified },
                None => FinalizedLevel::default(),
            };
        }
        NodePath::Partition(..) | NodePath::SequenceId | NodePath::Other => {}
    }
    Ok(())
}

fn apply_topic(
    next: &mut Image,
    delta: &mut Delta,
    touched: &mut Touched,
    name: TopicName,
    node: Option<&Node>,
) -> Result<(), nodes::NodeError> {
    let decoded = node.map(|node| nodes::topic::decode(&node.payload)).transpose();
    if decoded.is_err() {
        next.unreadable_topics.insert(name.clone());
    } else if !next.unreadable_topics.is_empty() {
        next.unreadable_topics.remove(&name);
    }
    let new_id = decoded.as_ref().ok().and_then(|topic| topic.as_ref()).map(|topic| topic.id);
    let old = next.topic(name.as_str()).cloned();
    // Deleted, or deleted and created again under the same name (KIP-516): the state of the old id is gone.
    if let Some(old) = old.as_ref().filter(|old| Some(old.id) != new_id) {
        for (partition, state) in old.partitions() {
            let id = TopicIdPartition { topic_id: old.id, partition };
            touched.partition(id, &name, Some(state), None);
            next.index.change(id, Some(state), None);
        }
        next.topics.remove(&old.id);
        next.queued_topics.remove(&old.id);
        next.topic_ids.remove(&name);
        if let Some(metric) = metric_name(&name).filter(|metric| next.metric_names.get(metric) == Some(&name)) {
            next.metric_names.remove(&metric);
        }
        delta.topics_deleted.push(old.clone());
    }
    let (Some(topic), Some(node)) = (decoded?, node) else { return Ok(()) };
    let (grows_to, assignment, queued) = (topic.grows_to, Arc::new(topic.assignment), Arc::new(topic.queued));
    match queued.is_empty() {
        true => next.queued_topics.remove(&topic.id),
        false => next.queued_topics.insert(topic.id),
    };
    match old.filter(|old| old.id == topic.id) {
        Some(old) => {
            let mut changed = TopicImage { assignment, queued, grows_to, created: node.created, ..(*old).clone() };
            // A reassignment: the states show the replicas that the topic's node has now.
            for (partition, state) in old.partitions() {
                let assigned = changed.assigned(partition).cloned().unwrap_or_default();
                let Assignment { replicas, reassignment } = assigned;
                if replicas != state.replicas || reassignment != state.reassignment {
                    let id = TopicIdPartition { topic_id: old.id, partition };
                    let new = Arc::new(PartitionState { replicas, reassignment, ..(**state).clone() });
                    touched.partition(id, &name, Some(state), Some(new.clone()));
                    next.index.change(id, Some(state), Some(&new));
                    changed.partitions.insert(partition, new);
                }
            }
            next.topics.insert(changed.id, Arc::new(changed));
        }
        None => {
            let created = Arc::new(TopicImage {
                name: name.clone(),
                id: topic.id,
                created: node.created,
                grows_to,
                partitions: Default::default(),
                assignment,
                queued,
            });
            if let Some(metric) = metric_name(&name) {
                next.metric_names.insert(metric, name.clone());
            }
            next.topic_ids.insert(name, created.id);
            next.topics.insert(created.id, created.clone());
            delta.topics_created.push(created);
        }
    }
    Ok(())
}

/// Changes of states of one topic, which is looked up once: a fencing has hundreds of a topic.
fn apply_states(next: &mut Image, delta: &mut Delta, touched: &mut Touched, changes: &[StateChange<'_>]) {
    let Some((name, ..)) = changes.first() else { return };
    // A state without its topic belongs to a large deletion that is still under way.
    let Some(topic_id) = next.topic_ids.get(*name).copied() else { return };
    let Some(topic) = next.topics.get_mut(&topic_id) else { return };
    for (_, partition, change) in changes {
        let id = TopicIdPartition { topic_id, partition: *partition };
        let old = topic.partition(*partition).cloned();
        let Ok(new) = state_of(topic, *partition, change.node.as_ref()) else {
            delta.undecodable.push(change.path.clone());
            continue;
        };
        next.index.change(id, old.as_deref(), new.as_deref());
        touched.partition(id, &topic.name, old.as_ref(), new.clone());
        // Copied with the first of its partitions, and changed in place with the others.
        let topic = Arc::make_mut(topic);
        match new {
            Some(new) => topic.partitions.insert(*partition, new),
            None => topic.partitions.remove(partition),
        };
    }
}

fn state_of(
    topic: &TopicImage,
    partition: PartitionId,
    node: Option<&Node>,
) -> Result<Option<Arc<PartitionState>>, nodes::NodeError> {
    let Some(node) = node else { return Ok(None) };
    let assignment = topic.assigned(partition).ok_or(nodes::NodeError::NoAssignment)?;
    Ok(Some(Arc::new(nodes::partition::decode(&node.payload, assignment)?)))
}

/// Compares both images completely; shared parts are skipped if the maps share their pointers.
pub(crate) fn diff(old: &Image, new: &Image) -> Delta {
    use imbl::ordmap::DiffItem;

    let mut delta = Delta { revision: new.revision, ..Delta::default() };
    let change = |topic: &TopicImage, partition, old, new| PartitionChange {
        topic: topic.name.clone(),
        topic_id: topic.id,
        partition,
        old,
        new,
    };
    for item in old.topics.diff(&new.topics) {
        match item {
            DiffItem::Add(_, topic) => {
                delta.topics_created.push(topic.clone());
                delta.partitions.extend(topic.partitions().map(|(p, s)| change(topic, p, None, Some(s.clone()))));
            }
            DiffItem::Remove(_, topic) => {
                delta.topics_deleted.push(topic.clone());
                delta.partitions.extend(topic.partitions().map(|(p, s)| change(topic, p, Some(s.clone()), None)));
            }
            DiffItem::Update { old: (_, before), new: (_, topic) } => {
                for item in before.partitions.diff(&topic.partitions) {
                    delta.partitions.push(match item {
                        DiffItem::Add(p, s) => change(topic, *p, None, Some(s.clone())),
                        DiffItem::Remove(p, s) => change(topic, *p, Some(s.clone()), None),
                        DiffItem::Update { old: (p, old), new: (_, new) } => {
                            change(topic, *p, Some(old.clone()), Some(new.clone()))
                        }
                    });
                }
            }
        }
    }
    delta.partitions.sort_by_key(|change| (change.topic_id, change.partition));
    for item in old.brokers.diff(&new.brokers) {
        delta.brokers.push(match item {
            DiffItem::Add(id, new) => BrokerChange { id: *id, old: None, new: Some(new.clone()) },
            DiffItem::Remove(id, old) => BrokerChange { id: *id, old: Some(old.clone()), new: None },
            DiffItem::Update { old: (id, old), new: (_, new) } => {
                BrokerChange { id: *id, old: Some(old.clone()), new: Some(new.clone()) }
            }
        });
    }
    for item in old.configs.diff(&new.configs) {
        match item {
            DiffItem::Add(entity, _) | DiffItem::Remove(entity, _) | DiffItem::Update { old: (entity, _), .. } => {
                delta.configs.push(entity.clone());
            }
        }
    }
    delta.acls_changed = !Arc::ptr_eq(&old.acls, &new.acls) && old.acls != new.acls;
    delta.coordinators_changed = old.coordinators != new.coordinators;
    delta.delegation_tokens_changed =
        !old.delegation_tokens.ptr_eq(&new.delegation_tokens) && old.delegation_tokens != new.delegation_tokens;
    delta.controller_changed = old.controller != new.controller;
    delta.finalized_changed = old.finalized != new.finalized;
    delta
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_model::TopicId;

    use super::*;
    use crate::nodes::topic::TopicNode;
    use crate::tree::Path;

    /// A topic's node, of a release that this one does not understand or of this one, or its deletion.
    #[test]
    fn a_topic_that_cannot_be_read_is_not_gone() {
        let change = |revision, payload: Option<Bytes>| {
            let revision = Revision(revision);
            let node = payload.map(|payload| Node { payload, created: revision, modified: revision, version: 0 });
            [NodeChange { path: Path::built("/brokers/topics/t".to_owned()), node }]
        };
        let readable = nodes::topic::encode(&TopicNode {
            id: TopicId([1; 16]),
            assignment: vec![],
            grows_to: 0,
            queued: Default::default(),
        });
        let unreadable = Some(Bytes::from_static(&[0xFF]));
        let (image, delta) = Image::empty().apply(Revision(1), &change(1, unreadable.clone()));
        assert_eq!((image.is_unreadable_topic("t"), delta.undecodable.len()), (true, 1));
        assert!(image.topic("t").is_none() && !image.is_unreadable_topic("u"));
        let (read, _) = image.apply(Revision(2), &change(2, Some(readable)));
        assert!(read.topic("t").is_some() && !read.is_unreadable_topic("t"));
        let (again, _) = read.apply(Revision(3), &change(3, unreadable));
        assert!(again.is_unreadable_topic("t"));
        let (gone, _) = again.apply(Revision(4), &change(4, None));
        assert!(!gone.is_unreadable_topic("t"));
    }
}
