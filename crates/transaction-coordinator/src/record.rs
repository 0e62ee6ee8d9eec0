//! What a partition of `__transaction_state` holds, in Kafka's formats.
//!
//! A key starts with its version (an int16), which is always 0, and holds the transactional id; a value starts with its
//! version too: 0, or 1 with compact lengths and tagged fields. Version 1 is written, as Kafka does under
//! `transaction.version` 1 and
//! 2. Bytes from a log are not trusted: nothing is allocated beyond what they can fill. Keys of later versions decode
//!    to none.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicName, TopicPartition, TransactionalId};
use ottla_protocol::wire::{self, Reader, WireError};

use crate::effects::RawRecord;
use crate::transaction::{Producer, Transaction, TransactionState, TransactionVersion};

/// A record's bytes are not what the schema of its version says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    #[error("key: {0}")]
    Key(WireError),
    #[error("value of {id}: {source}")]
    Value { id: TransactionalId, source: WireError },
}

/// One record of `__transaction_state`. A transaction of none is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub id: TransactionalId,
    pub transaction: Option<Transaction>,
}

const KEY_VERSION: i16 = 0;
/// The version that is written; the first with tagged fields.
const VALUE_VERSION: i16 = 1;

/// Tags of the optional fields.
mod tag {
    pub const PREVIOUS_PRODUCER_ID: u32 = 0;
    pub const NEXT_PRODUCER_ID: u32 = 1;
    pub const CLIENT_TRANSACTION_VERSION: u32 = 2;
}

/// The least bytes of a topic in a value: a length and the number of its partitions.
const TOPIC_MIN_BYTES: usize = 2;

/// A record of a transaction, or the tombstone of an id.
pub fn encode(id: &TransactionalId, transaction: Option<&Transaction>) -> RawRecord {
    let mut key = BytesMut::with_capacity(4 + id.as_str().len());
    key.put_i16(KEY_VERSION);
    wire::put_string(&mut key, false, id.as_str());
    RawRecord { key: key.freeze(), value: transaction.map(encode_value) }
}

impl Record {
    /// Reads a record; none for a key of a version that is not known here.
    ///
    /// # Errors
    /// The bytes are not of the version that they name, or the value's version is not known.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let mut key = Reader::new(key, 0);
        if key.i16().map_err(RecordError::Key)? != KEY_VERSION {
            return Ok(None);
        }
        let id = TransactionalId::new(key.string(false).map_err(RecordError::Key)?);
        let transaction = match value.map(decode_value).transpose() {
            Ok(transaction) => transaction,
            Err(source) => return Err(RecordError::Value { id, source }),
        };
        Ok(Some(Self { id, transaction }))
    }
}

fn encode_value(transaction: &Transaction) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_i16(VALUE_VERSION);
    out.put_i64(transaction.producer.id.0);
    out.put_i16(transaction.producer.epoch.0);
    out.put_i32(transaction.timeout_ms);
    out.put_i8(transaction.state as i8);
    put_partitions(&mut out, transaction);
    out.put_i64(transaction.last_update.0);
    out.put_i64(transaction.start.0);
    put_tagged_fields(&mut out, transaction);
    out.freeze()
}

fn put_partitions(out: &mut BytesMut, transaction: &Transaction) {
    // Null, not an empty list, where no transaction has begun: as Kafka writes it.
    if transaction.state == TransactionState::Empty {
        wire::put_nullable_array(out, true, None);
        return;
    }
    let mut topics: BTreeMap<&TopicName, Vec<PartitionId>> = BTreeMap::new();
    for partition in &transaction.partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    wire::put_array(out, true, topics.len());
    for (topic, partitions) in topics {
        wire::put_string(out, true, topic.as_str());
        wire::put_array(out, true, partitions.len());
        partitions.iter().for_each(|partition| out.put_i32(partition.0));
        wire::put_no_tagged_fields(out, true);
    }
}

/// Fields that have their default are left out.
fn put_tagged_fields(out: &mut BytesMut, transaction: &Transaction) {
    let mut fields: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut producer_id = |tag: u32, id: ProducerId| {
        if id != ProducerId::NONE {
            fields.push((tag, id.0.to_be_bytes().to_vec()));
        }
    };
    producer_id(tag::PREVIOUS_PRODUCER_ID, transaction.previous_producer_id);
    producer_id(tag::NEXT_PRODUCER_ID, transaction.next_producer_id);
    if transaction.version != TransactionVersion::V0 {
        fields.push((tag::CLIENT_TRANSACTION_VERSION, transaction.version.level().to_be_bytes().to_vec()));
    }
    wire::put_unsigned_varint(out, fields.len() as u32);
    for (tag, bytes) in fields {
        wire::put_unsigned_varint(out, tag);
        wire::put_unsigned_varint(out, bytes.len() as u32);
        out.put_slice(&bytes);
    }
}

fn decode_value(bytes: &[u8]) -> Result<Transaction, WireError> {
    let mut reader = Reader::new(bytes, 0);
    let version = reader.i16()?;
    if !(0..=VALUE_VERSION).contains(&version) {
        return Err(WireError::UnknownVersion(version));
    }
    let is_flexible = version >= 1;
    let producer = Producer { id: ProducerId(reader.i64()?), epoch: ProducerEpoch(reader.i16()?) };
    let timeout_ms = reader.i32()?;
    let state_id = reader.i8()?;
    let state = TransactionState::from_id(state_id)
        .ok_or(WireError::InvalidField { name: "TransactionStatus", value: i64::from(state_id) })?;
    let partitions = read_partitions(&mut reader, is_flexible)?;
    let (last_update, start) = (TimestampMs(reader.i64()?), TimestampMs(reader.i64()?));
    let mut transaction = Transaction {
        producer,
        previous_producer_id: ProducerId::NONE,
        next_producer_id: ProducerId::NONE,
        last_epoch: ProducerEpoch::NONE,
        timeout_ms,
        state,
        partitions: if state == TransactionState::Empty { BTreeSet::new() } else { partitions },
        start,
        last_update,
        version: TransactionVersion::V0,
    };
    if is_flexible {
        read_tagged_fields(&mut reader, &mut transaction)?;
    }
    Ok(transaction)
}

fn read_partitions(reader: &mut Reader<'_>, is_flexible: bool) -> Result<BTreeSet<TopicPartition>, WireError> {
    let mut found = BTreeSet::new();
    let topics = reader.nullable_array(is_flexible, TOPIC_MIN_BYTES, usize::MAX)?.unwrap_or(0);
    for _ in 0..topics {
        let text = reader.string(is_flexible)?;
        let topic =
            TopicName::new(&text).map_err(|_| WireError::InvalidField { name: "Topic", value: text.len() as i64 })?;
        for _ in 0..reader.array_length(is_flexible, size_of::<i32>(), usize::MAX)? {
            found.insert(TopicPartition::new(topic.clone(), PartitionId(reader.i32()?)));
        }
        if is_flexible {
            reader.skip_tagged_fields()?;
        }
    }
    Ok(found)
}

fn read_tagged_fields(reader: &mut Reader<'_>, transaction: &mut Transaction) -> Result<(), WireError> {
    reader.tagged_fields(|tag, field| {
        match tag {
            tag::PREVIOUS_PRODUCER_ID => transaction.previous_producer_id = ProducerId(field.i64()?),
            tag::NEXT_PRODUCER_ID => transaction.next_producer_id = ProducerId(field.i64()?),
            tag::CLIENT_TRANSACTION_VERSION => {
                let level = field.i16()?;
                transaction.version = TransactionVersion::from_level(level)
                    .ok_or(WireError::InvalidField { name: "ClientTransactionVersion", value: i64::from(level) })?;
            }
            // NextProducerEpoch (3) is read by no release yet; later fields are not known.
            _ => {}
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
    }

    fn partition(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(TopicName::new(topic).unwrap(), PartitionId(partition))
    }

    fn ongoing() -> Transaction {
        Transaction {
            producer: Producer { id: ProducerId(4000), epoch: ProducerEpoch(3) },
            previous_producer_id: ProducerId(4000),
            next_producer_id: ProducerId::NONE,
            last_epoch: ProducerEpoch::NONE,
            timeout_ms: 60_000,
            state: TransactionState::Ongoing,
            partitions: [partition("foo", 0), partition("foo", 2)].into(),
            start: TimestampMs(1_234_567_890_000),
            last_update: TimestampMs(1_234_567_890_123),
            version: TransactionVersion::V2,
        }
    }

    const KEY: &str = "0000 0002 7478";
    const ONGOING: &str = "0001 0000000000000fa0 0003 0000ea60 01 02 04 666f6f 03 00000000 00000002 00
        0000011f71fb04cb 0000011f71fb0450 02 00 08 0000000000000fa0 02 02 0002";

    /// The bytes are those of Kafka 4.3's `TransactionLog.keyToBytes` and `valueToBytes`.
    #[test]
    fn records_are_those_of_kafka() {
        let id = TransactionalId::new("tx");
        let raw = encode(&id, Some(&ongoing()));
        assert_eq!((raw.key.to_vec(), raw.value.clone().unwrap().to_vec()), (bytes(KEY), bytes(ONGOING)));
        let read = Record::decode(&raw.key, raw.value.as_deref()).unwrap().unwrap();
        assert_eq!(read, Record { id: id.clone(), transaction: Some(ongoing()) });
        let empty = Transaction::new(ProducerId(1), 1, TimestampMs(5)).incremented(1, None, TimestampMs(5)).unwrap();
        let raw = encode(&id, Some(&empty));
        let expected =
            "0001 0000000000000001 0000 00000001 00 00 0000000000000005 ffffffffffffffff 01 00 08 0000000000000001";
        assert_eq!(raw.value.unwrap().to_vec(), bytes(expected));
        let tombstone = encode(&id, None);
        assert_eq!(tombstone.value, None);
        assert_eq!(Record::decode(&tombstone.key, None), Ok(Some(Record { id, transaction: None })));
    }

    #[test]
    fn what_older_releases_wrote_is_read() {
        let value = "0000 0000000000000fa0 0003 0000ea60 01 00000001 0003 666f6f 00000002 00000000 00000002
            0000011f71fb04cb 0000011f71fb0450";
        let read = Record::decode(&bytes(KEY), Some(&bytes(value))).unwrap().unwrap().transaction.unwrap();
        let expected =
            Transaction { previous_producer_id: ProducerId::NONE, version: TransactionVersion::V0, ..ongoing() };
        assert_eq!(read, expected);
        let empty = "0000 0000000000000fa0 0003 0000ea60 00 ffffffff 0000011f71fb04cb ffffffffffffffff";
        assert!(
            Record::decode(&bytes(KEY), Some(&bytes(empty)))
                .unwrap()
                .unwrap()
                .transaction
                .unwrap()
                .partitions
                .is_empty()
        );
    }

    #[test]
    fn later_versions_are_told_from_malformed_records() {
        assert_eq!(Record::decode(&bytes("0001 0002 7478"), None), Ok(None));
        assert_eq!(Record::decode(&bytes("00"), None), Err(RecordError::Key(WireError::Truncated)));
        let error = |source| Err(RecordError::Value { id: TransactionalId::new("tx"), source });
        assert_eq!(Record::decode(&bytes(KEY), Some(&bytes("0002"))), error(WireError::UnknownVersion(2)));
        assert_eq!(Record::decode(&bytes(KEY), Some(&bytes("0001 00"))), error(WireError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_record_or_an_error(
            version in 0_i16..3,
            state in 0_i8..9,
            rest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut value = version.to_be_bytes().to_vec();
            value.extend([0; 14]);
            value.push(state as u8);
            value.extend(rest);
            if let Ok(Some(record)) = Record::decode(&bytes(KEY), Some(&value)) {
                let raw = encode(&record.id, record.transaction.as_ref());
                prop_assert_eq!(Record::decode(&raw.key, raw.value.as_deref()), Ok(Some(record)));
            }
        }
    }
}
