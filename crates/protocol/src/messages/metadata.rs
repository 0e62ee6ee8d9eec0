//! Metadata: the writer of responses, versions 0 to 13. Requests go through the codec.
//!
//! A response may name every partition of the cluster. They are written one by one into the frame: 100,000 of them take
//! some milliseconds, and no memory beside the frame.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, TopicId};

use crate::api::Api;
use crate::frame::{self, FrameOverflow};
use crate::wire;

const CONTROLLER_FROM: i16 = 1;
const CLUSTER_ID_FROM: i16 = 2;
const THROTTLE_TIME_FROM: i16 = 3;
const OFFLINE_REPLICAS_FROM: i16 = 5;
const LEADER_EPOCH_FROM: i16 = 7;
const TOPIC_OPERATIONS_FROM: i16 = 8;
const CLUSTER_OPERATIONS_IN: std::ops::RangeInclusive<i16> = 8..=10;
const FLEXIBLE_FROM: i16 = 9;
const TOPIC_IDS_FROM: i16 = 10;
const ERROR_CODE_FROM: i16 = 13;

/// What precedes the topics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<'a> {
    pub brokers: &'a [Broker<'a>],
    pub cluster_id: Option<&'a str>,
    pub controller: BrokerId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broker<'a> {
    pub id: BrokerId,
    pub host: &'a str,
    pub port: u16,
    /// From version 1.
    pub rack: Option<&'a str>,
}

/// What precedes the partitions of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topic<'a> {
    pub error: ErrorCode,
    /// None only from version 12 on.
    pub name: Option<&'a str>,
    /// From version 10.
    pub id: TopicId,
    /// From version 1.
    pub is_internal: bool,
}

/// One partition. Its lists of replicas are iterators, which are walked twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partition<R, I, O> {
    pub error: ErrorCode,
    pub partition: PartitionId,
    pub leader: BrokerId,
    /// From version 7.
    pub leader_epoch: LeaderEpoch,
    pub replicas: R,
    pub isr: I,
    /// From version 5.
    pub offline: O,
}

/// Writes a response in the order of the wire: [`Self::begin`]; for each topic [`Self::topic`], its partitions and
/// [`Self::end_topic`]; [`Self::finish`].
#[derive(Debug)]
pub struct ResponseWriter {
    out: BytesMut,
    version: i16,
}

impl ResponseWriter {
    /// `body_bytes`: about how many bytes the response will have.
    pub fn begin(version: i16, correlation_id: i32, body_bytes: usize, head: &Head<'_>, topic_count: usize) -> Self {
        let mut out = frame::begin_response(Api::Metadata, version, correlation_id, body_bytes);
        let flexible = version >= FLEXIBLE_FROM;
        if version >= THROTTLE_TIME_FROM {
            out.put_i32(0);
        }
        wire::put_array(&mut out, flexible, head.brokers.len());
        for broker in head.brokers {
            out.put_i32(broker.id.0);
            wire::put_string(&mut out, flexible, broker.host);
            out.put_i32(i32::from(broker.port));
            if version >= 1 {
                wire::put_nullable_string(&mut out, flexible, broker.rack);
            }
            wire::put_no_tagged_fields(&mut out, flexible);
        }
        if version >= CLUSTER_ID_FROM {
            wire::put_nullable_string(&mut out, flexible, head.cluster_id);
        }
        if version >= CONTROLLER_FROM {
            out.put_i32(head.controller.0);
        }
        wire::put_array(&mut out, flexible, topic_count);
        Self { out, version }
    }

    fn is_flexible(&self) -> bool {
        self.version >= FLEXIBLE_FROM
    }

    pub fn topic(&mut self, topic: &Topic<'_>, partition_count: usize) {
        let flexible = self.is_flexible();
        self.out.put_i16(topic.error.code());
        wire::put_nullable_string(&mut self.out, flexible, topic.name);
        if self.version >= TOPIC_IDS_FROM {
            self.out.put_slice(topic.id.as_bytes());
        }
        if self.version >= 1 {
            self.out.put_u8(topic.is_internal.into());
        }
        wire::put_array(&mut self.out, flexible, partition_count);
    }

    pub fn partition<R, I, O>(&mut self, partition: &Partition<R, I, O>)
    where
        R: Iterator<Item = BrokerId> + Clone,
        I: Iterator<Item = BrokerId> + Clone,
        O: Iterator<Item = BrokerId> + Clone,
    {
        self.out.put_i16(partition.error.code());
        self.out.put_i32(partition.partition.0);
        self.out.put_i32(partition.leader.0);
        if self.version >= LEADER_EPOCH_FROM {
            self.out.put_i32(partition.leader_epoch.0);
        }
        self.brokers(partition.replicas.clone());
        self.brokers(partition.isr.clone());
        if self.version >= OFFLINE_REPLICAS_FROM {
            self.brokers(partition.offline.clone());
        }
        let flexible = self.is_flexible();
        wire::put_no_tagged_fields(&mut self.out, flexible);
    }

    fn brokers(&mut self, brokers: impl Iterator<Item = BrokerId> + Clone) {
        let flexible = self.is_flexible();
        wire::put_array(&mut self.out, flexible, brokers.clone().count());
        brokers.for_each(|broker| self.out.put_i32(broker.0));
    }

    /// `operations`: those that the client may carry out, from version 8.
    pub fn end_topic(&mut self, operations: i32) {
        if self.version >= TOPIC_OPERATIONS_FROM {
            self.out.put_i32(operations);
        }
        let flexible = self.is_flexible();
        wire::put_no_tagged_fields(&mut self.out, flexible);
    }

    /// The whole frame. `cluster_operations`: those that the client may carry out, in versions 8 to 10.
    ///
    /// # Errors
    /// The frame is longer than its prefix can say.
    pub fn finish(mut self, cluster_operations: i32) -> Result<Bytes, FrameOverflow> {
        if CLUSTER_OPERATIONS_IN.contains(&self.version) {
            self.out.put_i32(cluster_operations);
        }
        if self.version >= ERROR_CODE_FROM {
            self.out.put_i16(ErrorCode::None.code());
        }
        let flexible = self.is_flexible();
        wire::put_no_tagged_fields(&mut self.out, flexible);
        frame::finish(&mut self.out, 0)?;
        Ok(self.out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages as theirs;
    use kafka_protocol::messages::metadata_response as parts;
    use kafka_protocol::protocol::StrBytes;
    use uuid::Uuid;

    use super::*;
    use crate::test_random::Random;

    const ROUNDS: u64 = 40;

    fn ids(random: &mut Random) -> Vec<BrokerId> {
        (0..random.below(4)).map(|_| BrokerId(random.i32())).collect()
    }

    fn wire_ids(ids: &[BrokerId]) -> Vec<theirs::BrokerId> {
        ids.iter().map(|id| theirs::BrokerId(id.0)).collect()
    }

    fn text(text: &str) -> StrBytes {
        StrBytes::from_string(text.to_owned())
    }

    /// Against the encoder that is made from Kafka's schema.
    #[test]
    fn responses_are_as_the_schema_has_them() {
        for version in 0..=13 {
            ottla_test_support::each_seed(0..ROUNDS, |seed| {
                let random = &mut Random::new(seed);
                let racks: Vec<_> = (0..random.below(4)).map(|_| random.coin().then(|| random.text())).collect();
                let brokers: Vec<_> = racks
                    .iter()
                    .map(|rack| Broker { id: BrokerId(random.i32()), host: "host", port: 9092, rack: rack.as_deref() })
                    .collect();
                let cluster_id = random.text();
                let cluster_id = random.coin().then_some(cluster_id.as_str());
                let head = Head { brokers: &brokers, cluster_id, controller: BrokerId(random.i32()) };
                let topic_count = random.below(4);
                let mut expected = theirs::MetadataResponse::default();
                let mut writer = ResponseWriter::begin(version, 7, 0, &head, topic_count as usize);
                for _ in 0..topic_count {
                    expected.topics.push(topic(random, version, &mut writer));
                }
                let operations = random.i32();
                if version >= 1 {
                    expected.controller_id = theirs::BrokerId(head.controller.0);
                }
                if version >= 2 {
                    expected.cluster_id = cluster_id.map(text);
                }
                if (8..=10).contains(&version) {
                    expected.cluster_authorized_operations = operations;
                }
                expected.brokers = brokers
                    .iter()
                    .map(|broker| {
                        parts::MetadataResponseBroker::default()
                            .with_node_id(theirs::BrokerId(broker.id.0))
                            .with_host(text(broker.host))
                            .with_port(i32::from(broker.port))
                            .with_rack(broker.rack.filter(|_| version >= 1).map(text))
                    })
                    .collect();
                let frame = writer.finish(operations).expect("a short frame");
                let theirs = crate::encode_response::<theirs::MetadataRequest>(version, 7, &expected);
                assert_eq!(frame, theirs.expect("encodes"), "version {version}, seed {seed}");
            });
        }
    }

    /// Writes a topic, and returns what it should be.
    fn topic(random: &mut Random, version: i16, writer: &mut ResponseWriter) -> parts::MetadataResponseTopic {
        let (name, id, is_internal) = (random.text(), TopicId(random.uuid()), random.coin());
        let name = (version < 12 || random.coin()).then_some(name.as_str());
        let error = ErrorCode::UnknownTopicOrPartition;
        let partitions: Vec<_> = (0..random.below(4)).map(|_| (random.i32(), [(); 3].map(|()| ids(random)))).collect();
        writer.topic(&Topic { error, name, id, is_internal }, partitions.len());
        for (number, [replicas, isr, offline]) in &partitions {
            writer.partition(&Partition {
                error: ErrorCode::None,
                partition: PartitionId(*number),
                leader: BrokerId(number / 2),
                leader_epoch: LeaderEpoch(number / 3),
                replicas: replicas.iter().copied(),
                isr: isr.iter().copied(),
                offline: offline.iter().copied(),
            });
        }
        let operations = random.i32();
        writer.end_topic(operations);
        let partitions = partitions.iter().map(|(number, [replicas, isr, offline])| {
            parts::MetadataResponsePartition::default()
                .with_partition_index(*number)
                .with_leader_id(theirs::BrokerId(number / 2))
                .with_leader_epoch(if version >= 7 { number / 3 } else { -1 })
                .with_replica_nodes(wire_ids(replicas))
                .with_isr_nodes(wire_ids(isr))
                .with_offline_replicas(if version >= 5 { wire_ids(offline) } else { Vec::new() })
        });
        parts::MetadataResponseTopic::default()
            .with_error_code(error.code())
            .with_name(name.map(|name| theirs::TopicName(text(name))))
            .with_topic_id(if version >= 10 { Uuid::from_bytes(id.0) } else { Uuid::nil() })
            .with_is_internal(version >= 1 && is_internal)
            .with_partitions(partitions.collect())
            .with_topic_authorized_operations(if version >= 8 { operations } else { i32::MIN })
    }
}
