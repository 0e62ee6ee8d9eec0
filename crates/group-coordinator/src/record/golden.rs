//! Records byte for byte as Kafka 4.3's own classes write them (`MessageUtil.toVersionPrefixedBytes`), each worked out
//! by hand from the schema too.

use bytes::Bytes;
use ottla_model::{GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, TimestampMs, TopicId};

use super::*;

const TIME: TimestampMs = TimestampMs(1_234_567_890_123);
const TOPIC: TopicId = TopicId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record encodes to these bytes and decodes from them.
fn both_ways(record: &Record, key: &str, value: &str) {
    let raw = record.encode();
    assert_eq!(hex(&raw.key), hex(&bytes(key)));
    assert_eq!(raw.value.as_deref().map(hex).unwrap_or_default(), hex(&bytes(value)));
    reads(key, value, record);
}

fn reads(key: &str, value: &str, record: &Record) {
    let (key, value) = (bytes(key), bytes(value));
    let value = Some(value.as_slice()).filter(|value| !value.is_empty());
    assert_eq!(Record::decode(&key, value).unwrap().as_ref(), Some(record));
}

fn group() -> GroupId {
    GroupId::new("g")
}

fn member() -> MemberId {
    MemberId::new("mem")
}

fn topic_partitions(partitions: &[i32], epochs: &[i32]) -> TopicPartitions {
    TopicPartitions {
        topic: TOPIC,
        partitions: partitions.iter().copied().map(PartitionId).collect(),
        assignment_epochs: epochs.to_vec(),
    }
}

#[test]
fn offsets() {
    let key = OffsetKey { group: group(), topic: "top".to_owned(), partition: PartitionId(7) };
    let with = |value| Record::Offset { key: key.clone(), value: Some(value) };
    let plain = OffsetValue {
        offset: Offset(1000),
        leader_epoch: LeaderEpoch(5),
        metadata: "m".to_owned(),
        commit_timestamp: TIME,
        expire_timestamp: None,
        topic_id: TopicId::ZERO,
    };
    let key_bytes = "0001 0001 67 0003 746f70 00000007";
    both_ways(&with(plain.clone()), key_bytes, "0004 00000000000003e8 00000005 02 6d 0000011f71fb04cb 00");
    both_ways(
        &with(OffsetValue { topic_id: TOPIC, ..plain.clone() }),
        key_bytes,
        "0004 00000000000003e8 00000005 02 6d 0000011f71fb04cb 01 00 10 0102030405060708090a0b0c0d0e0f10",
    );
    let old = OffsetValue { leader_epoch: LeaderEpoch::NONE, ..plain.clone() };
    both_ways(
        &with(OffsetValue { expire_timestamp: Some(TimestampMs(1_234_567_890_999)), ..old.clone() }),
        key_bytes,
        "0001 00000000000003e8 0001 6d 0000011f71fb04cb 0000011f71fb0837",
    );
    both_ways(&Record::Offset { key: key.clone(), value: None }, key_bytes, "");
    // What older releases wrote.
    for (version, expected) in [("0000", &old), ("0002", &old)] {
        reads(key_bytes, &format!("{version} 00000000000003e8 0001 6d 0000011f71fb04cb"), &with(expected.clone()));
    }
    reads(key_bytes, "0001 00000000000003e8 0001 6d 0000011f71fb04cb ffffffffffffffff", &with(old.clone()));
    reads(key_bytes, "0003 00000000000003e8 00000005 0001 6d 0000011f71fb04cb", &with(plain));
    reads("0000 0001 67 0003 746f70 00000007", "0000 00000000000003e8 0001 6d 0000011f71fb04cb", &with(old));
}

#[test]
fn classic_groups() {
    let first = ClassicGroupMember {
        member: member(),
        instance: None,
        client_id: "cl".to_owned(),
        client_host: "/h".to_owned(),
        rebalance_timeout_ms: 300_000,
        session_timeout_ms: 45_000,
        subscription: Bytes::from_static(&[1, 2]),
        assignment: Bytes::from_static(&[3]),
    };
    let second =
        ClassicGroupMember { member: MemberId::new("m2"), instance: Some(InstanceId::new("i")), ..first.clone() };
    let metadata = ClassicGroupMetadata {
        protocol_type: "consumer".to_owned(),
        generation: 3,
        protocol: Some("range".to_owned()),
        leader: Some(member()),
        current_state_timestamp: Some(TIME),
        members: vec![first.clone(), second.clone()],
    };
    let with = |value| Record::ClassicGroup { group: group(), value: Some(value) };
    let key = "0002 0001 67";
    both_ways(
        &with(metadata.clone()),
        key,
        "0003 0008 636f6e73756d6572 00000003 0005 72616e6765 0003 6d656d 0000011f71fb04cb 00000002
         0003 6d656d ffff 0002 636c 0002 2f68 000493e0 0000afc8 00000002 0102 00000001 03
         0002 6d32 0001 69 0002 636c 0002 2f68 000493e0 0000afc8 00000002 0102 00000001 03",
    );
    both_ways(
        &with(ClassicGroupMetadata {
            protocol_type: String::new(),
            generation: 0,
            protocol: None,
            leader: None,
            current_state_timestamp: Some(TimestampMs(5)),
            members: Vec::new(),
        }),
        key,
        "0003 0000 00000000 ffff ffff 0000000000000005 00000000",
    );
    both_ways(&Record::ClassicGroup { group: group(), value: None }, key, "");
    reads(
        key,
        "0004 09 636f6e73756d6572 00000003 06 72616e6765 04 6d656d 0000011f71fb04cb 03
         04 6d656d 00 03 636c 03 2f68 000493e0 0000afc8 03 0102 02 03 00
         03 6d32 02 69 03 636c 03 2f68 000493e0 0000afc8 03 0102 02 03 00 00",
        &with(metadata.clone()),
    );
    // Version 2 knows no instances, 1 no state time, 0 no rebalance timeout.
    let nameless = vec![first.clone(), ClassicGroupMember { instance: None, ..second }];
    let body = "00000002
         0003 6d656d 0002 636c 0002 2f68 000493e0 0000afc8 00000002 0102 00000001 03
         0002 6d32 0002 636c 0002 2f68 000493e0 0000afc8 00000002 0102 00000001 03";
    let head = "0008 636f6e73756d6572 00000003 0005 72616e6765 0003 6d656d";
    let two = ClassicGroupMetadata { members: nameless, ..metadata };
    reads(key, &format!("0002 {head} 0000011f71fb04cb {body}"), &with(two.clone()));
    let one = ClassicGroupMetadata { current_state_timestamp: None, ..two };
    reads(key, &format!("0001 {head} {body}"), &with(one.clone()));
    let zero =
        ClassicGroupMetadata { members: vec![ClassicGroupMember { rebalance_timeout_ms: 45_000, ..first }], ..one };
    reads(
        key,
        &format!("0000 {head} 00000001 0003 6d656d 0002 636c 0002 2f68 0000afc8 00000002 0102 00000001 03"),
        &with(zero),
    );
}

#[test]
fn consumer_groups() {
    let with = |metadata_hash| Record::ConsumerGroup {
        group: group(),
        value: Some(ConsumerGroupMetadata { epoch: 9, metadata_hash }),
    };
    both_ways(&with(0), "0003 0001 67", "0000 00000009 00");
    both_ways(&with(0x1122_3344_5566_7788), "0003 0001 67", "0000 00000009 01 00 08 1122334455667788");
    both_ways(&Record::ConsumerGroup { group: group(), value: None }, "0003 0001 67", "");
}

#[test]
fn partition_metadata() {
    let topic = TopicMetadata {
        id: TOPIC,
        name: "foo".to_owned(),
        partitions: 2,
        racks: vec![PartitionRacks { partition: PartitionId(1), racks: vec!["r".to_owned()] }],
    };
    both_ways(
        &Record::PartitionMetadata { group: group(), value: Some(vec![topic]) },
        "0004 0001 67",
        "0000 02 0102030405060708090a0b0c0d0e0f10 04 666f6f 00000002 02 00000001 02 02 72 00 00 00",
    );
    both_ways(&Record::PartitionMetadata { group: group(), value: None }, "0004 0001 67", "");
}

#[test]
fn consumer_members() {
    let with = |classic| Record::ConsumerMember {
        group: group(),
        member: member(),
        value: Some(ConsumerMemberMetadata {
            instance: Some(InstanceId::new("i")),
            rack: None,
            client_id: "cl".to_owned(),
            client_host: "/h".to_owned(),
            subscribed_topics: vec!["foo".to_owned(), "bar".to_owned()],
            subscribed_regex: None,
            rebalance_timeout_ms: 1000,
            server_assignor: Some("uniform".to_owned()),
            classic,
        }),
    };
    let key = "0005 0001 67 0003 6d656d";
    let body = "0000 02 69 00 03 636c 03 2f68 03 04 666f6f 04 626172 00 000003e8 08 756e69666f726d";
    both_ways(&with(None), key, &format!("{body} 01 00 01 00"));
    both_ways(&with(Some(ClassicMemberMetadata::default())), key, &format!("{body} 00"));
    let classic = ClassicMemberMetadata {
        session_timeout_ms: 45_000,
        protocols: vec![("range".to_owned(), Bytes::from_static(&[7, 8]))],
    };
    both_ways(&with(Some(classic)), key, &format!("{body} 01 00 11 01 0000afc8 02 06 72616e6765 03 0708 00 00"));
    both_ways(&Record::ConsumerMember { group: group(), member: member(), value: None }, key, "");
}

#[test]
fn target_assignments() {
    let with =
        |timestamp| Record::TargetAssignment { group: group(), value: Some(TargetAssignment { epoch: 4, timestamp }) };
    both_ways(&with(TimestampMs(0)), "0006 0001 67", "0000 00000004 00");
    both_ways(&with(TIME), "0006 0001 67", "0000 00000004 01 00 08 0000011f71fb04cb");
    let target = vec![topic_partitions(&[0, 1], &[])];
    both_ways(
        &Record::TargetMember { group: group(), member: member(), value: Some(target) },
        "0007 0001 67 0003 6d656d",
        "0000 02 0102030405060708090a0b0c0d0e0f10 03 00000000 00000001 00 00",
    );
}

#[test]
fn current_assignments() {
    let with = |assigned, pending_revocation| Record::CurrentAssignment {
        group: group(),
        member: member(),
        value: Some(CurrentAssignment {
            member_epoch: 5,
            previous_member_epoch: 4,
            state: MemberState::UnrevokedPartitions,
            assigned: vec![assigned],
            pending_revocation,
        }),
    };
    let key = "0008 0001 67 0003 6d656d";
    both_ways(
        &with(topic_partitions(&[0, 1], &[]), vec![topic_partitions(&[2], &[])]),
        key,
        "0000 00000005 00000004 01 02 0102030405060708090a0b0c0d0e0f10 03 00000000 00000001 00
         02 0102030405060708090a0b0c0d0e0f10 02 00000002 00 00",
    );
    both_ways(
        &with(topic_partitions(&[0, 1], &[3, 5]), Vec::new()),
        key,
        "0000 00000005 00000004 01 02 0102030405060708090a0b0c0d0e0f10 03 00000000 00000001
         01 00 09 03 00000003 00000005 01 00",
    );
}

#[test]
fn regular_expressions() {
    let value = ResolvedExpression { topics: vec!["foo".to_owned()], version: 10, timestamp: TIME };
    both_ways(
        &Record::RegularExpression { group: group(), expression: "f.*".to_owned(), value: Some(value) },
        "0010 0001 67 0003 662e2a",
        "0000 02 04 666f6f 000000000000000a 0000011f71fb04cb 00",
    );
}

#[test]
fn unknown_types_are_told_from_malformed_records() {
    // A share group's epoch.
    assert_eq!(Record::decode(&bytes("000b 0001 67"), Some(&bytes("0000 00000001 00"))), Ok(None));
    assert_eq!(
        Record::decode(&bytes("0003 0001 67"), Some(&bytes("0001 00000009 00"))),
        Err(RecordError { record_type: 3, source: WireError::UnknownVersion(1) })
    );
    assert_eq!(Record::decode(&[0], None), Err(RecordError { record_type: -1, source: WireError::Truncated }));
}
