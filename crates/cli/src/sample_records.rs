//! A record of tests, as a consumer receives it.

use bytes::Bytes;
use ottla_model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};
use ottla_protocol::record_batch::{Header, Record, TimestampType};

use crate::consumer::Incoming;

/// The record at offset 7 of t-2.
pub fn incoming(key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<Header>) -> Incoming {
    let record = Record {
        offset: Offset(7),
        timestamp: TimestampMs(1_700_000_000_000),
        key: key.map(Bytes::copy_from_slice),
        value: value.map(Bytes::copy_from_slice),
        headers,
    };
    Incoming {
        topic: TopicName::new("t").expect("a name"),
        partition: PartitionId(2),
        record,
        timestamp_type: TimestampType::CreateTime,
        leader_epoch: LeaderEpoch(3),
    }
}
