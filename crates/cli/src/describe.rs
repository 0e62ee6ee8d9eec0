//! Topics as Kafka's tools print them.

use crate::kafka::{PartitionDescription, TopicDescription};

/// Which partitions are shown; all where nothing is set.
#[derive(Clone, Copy, Default, Debug)]
pub struct Shown {
    pub under_replicated: bool,
    pub unavailable: bool,
    pub under_min_isr: bool,
    pub at_min_isr: bool,
    /// Topics with configurations of their own, without their partitions.
    pub only_overridden: bool,
}

impl Shown {
    fn everything(&self) -> bool {
        !(self.under_replicated || self.unavailable || self.under_min_isr || self.at_min_isr || self.only_overridden)
    }

    fn wants(&self, partition: &PartitionDescription, min_isr: usize) -> bool {
        (self.under_replicated && partition.isr.len() < replication_factor(partition))
            || (self.unavailable && partition.leader.is_none())
            || (self.under_min_isr && partition.isr.len() < min_isr)
            || (self.at_min_isr && partition.isr.len() == min_isr)
    }
}

/// The lines for these topics, in the order given.
pub fn lines(topics: &[TopicDescription], shown: &Shown) -> Vec<String> {
    let mut lines = Vec::new();
    for topic in topics {
        if shown.everything() || (shown.only_overridden && !topic.configs.is_empty()) {
            lines.push(topic_line(topic));
        }
        for partition in &topic.partitions {
            if shown.everything() || shown.wants(partition, topic.min_insync_replicas) {
                lines.push(partition_line(&topic.name, partition));
            }
        }
    }
    lines
}

/// Without the replicas that are being added.
fn replication_factor(partition: &PartitionDescription) -> usize {
    let adding = partition.reassignment.as_ref().map_or(0, |(adding, _)| adding.len());
    partition.replicas.len().saturating_sub(adding)
}

fn topic_line(topic: &TopicDescription) -> String {
    let replicas = topic.partitions.first().map_or(0, replication_factor);
    let configs: Vec<String> = topic.configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!(
        "Topic: {}\tTopicId: {}\tPartitionCount: {}\tReplicationFactor: {replicas}\tConfigs: {}",
        topic.name,
        topic.topic_id,
        topic.partitions.len(),
        configs.join(",")
    )
}

fn partition_line(topic: &str, partition: &PartitionDescription) -> String {
    let ids = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let maybe = |known: &Option<Vec<i32>>| known.as_deref().map_or("N/A".to_owned(), ids);
    let moves = partition.reassignment.as_ref().map_or(String::new(), |(adding, removing)| {
        format!("\tAdding Replicas: {}\tRemoving Replicas: {}", ids(adding), ids(removing))
    });
    let leader = partition.leader.map_or("none".to_owned(), |leader| leader.to_string());
    format!(
        "\tTopic: {topic}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}{moves}\tElr: {}\tLastKnownElr: {}",
        partition.partition,
        ids(&partition.replicas),
        ids(&partition.isr),
        maybe(&partition.elr),
        maybe(&partition.last_known_elr)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(partition: i32, leader: Option<i32>, replicas: &[i32], isr: &[i32]) -> PartitionDescription {
        PartitionDescription {
            partition,
            leader,
            replicas: replicas.to_vec(),
            isr: isr.to_vec(),
            elr: Some(vec![]),
            last_known_elr: Some(vec![]),
            reassignment: None,
        }
    }

    fn topic() -> TopicDescription {
        TopicDescription {
            name: "my-topic".into(),
            topic_id: "KmANm_caQReOHVvOHzE9fg".into(),
            partitions: vec![partition(0, Some(1), &[1, 2, 3], &[1, 2, 3]), partition(1, None, &[2, 3, 1], &[2])],
            configs: vec![("min.insync.replicas".into(), "2".into())],
            min_insync_replicas: 2,
        }
    }

    #[test]
    fn lines_are_kafkas() {
        let expected = [
            "Topic: my-topic\tTopicId: KmANm_caQReOHVvOHzE9fg\tPartitionCount: 2\tReplicationFactor: 3\tConfigs: min.insync.replicas=2",
            "\tTopic: my-topic\tPartition: 0\tLeader: 1\tReplicas: 1,2,3\tIsr: 1,2,3\tElr: \tLastKnownElr: ",
            "\tTopic: my-topic\tPartition: 1\tLeader: none\tReplicas: 2,3,1\tIsr: 2\tElr: \tLastKnownElr: ",
        ];
        assert_eq!(lines(&[topic()], &Shown::default()), expected);
    }

    #[test]
    fn replicas_that_come_and_go_are_shown_and_not_counted() {
        let moving = PartitionDescription {
            reassignment: Some((vec![4], vec![1])),
            ..partition(0, Some(1), &[4, 2, 1], &[1, 2])
        };
        let topic = TopicDescription { partitions: vec![moving], ..topic() };
        let lines = lines(std::slice::from_ref(&topic), &Shown::default());
        assert!(lines[0].contains("ReplicationFactor: 2"), "{lines:?}");
        let told = "\tReplicas: 4,2,1\tIsr: 1,2\tAdding Replicas: 4\tRemoving Replicas: 1\tElr: ";
        assert!(lines[1].contains(told), "{lines:?}");
        assert!(super::lines(&[topic], &Shown { under_replicated: true, ..Shown::default() }).is_empty());
    }

    #[test]
    fn filters_show_only_what_they_name() {
        let count = |shown: Shown| lines(&[topic()], &shown).len();
        assert_eq!(count(Shown { under_replicated: true, ..Shown::default() }), 1);
        assert_eq!(count(Shown { unavailable: true, ..Shown::default() }), 1);
        assert_eq!(count(Shown { under_min_isr: true, ..Shown::default() }), 1);
        assert_eq!(count(Shown { at_min_isr: true, ..Shown::default() }), 0);
        assert_eq!(count(Shown { only_overridden: true, ..Shown::default() }), 1);
        let plain = TopicDescription { configs: vec![], ..topic() };
        assert!(lines(&[plain], &Shown { only_overridden: true, ..Shown::default() }).is_empty());
    }
}
