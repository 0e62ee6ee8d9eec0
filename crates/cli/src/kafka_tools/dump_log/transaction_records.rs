//! Records of `__transaction_state` as JSON.

use std::collections::BTreeMap;

use ottla_model::ProducerId;
use ottla_transaction_coordinator::{Record, Transaction, TransactionState};

use super::decoder::{Decoded, number};
use crate::kafka_tools::json::Json;

pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Decoded, String> {
    let Some(record) = Record::decode(key, value).map_err(|error| error.to_string())? else {
        return Ok(Decoded::Unknown(number(key)));
    };
    let id = Json::Object(vec![("transactionalId", record.id.as_str().into())]);
    let value = value.zip(record.transaction.as_ref()).map(|(bytes, held)| (number(bytes), transaction(held)));
    Ok(Decoded::Known { key: (number(key), id), value })
}

fn transaction(held: &Transaction) -> Json {
    let mut fields = vec![("producerId", Json::from(held.producer.id.0))];
    // Tagged fields with their defaults are left out, here as in the bytes.
    for (name, id) in [("previousProducerId", held.previous_producer_id), ("nextProducerId", held.next_producer_id)] {
        if id != ProducerId::NONE {
            fields.push((name, id.0.into()));
        }
    }
    fields.push(("producerEpoch", i32::from(held.producer.epoch.0).into()));
    fields.push(("transactionTimeoutMs", held.timeout_ms.into()));
    fields.push(("transactionStatus", (held.state as i32).into()));
    fields.push(("transactionPartitions", partitions(held)));
    fields.push(("transactionLastUpdateTimestampMs", held.last_update.0.into()));
    fields.push(("transactionStartTimestampMs", held.start.0.into()));
    if held.version.level() != 0 {
        fields.push(("clientTransactionVersion", i32::from(held.version.level()).into()));
    }
    Json::Object(fields)
}

fn partitions(held: &Transaction) -> Json {
    if held.state == TransactionState::Empty {
        return Json::Null;
    }
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in &held.partitions {
        topics.entry(at.topic.as_str()).or_default().push(at.partition.0);
    }
    topics
        .into_iter()
        .map(|(topic, ids)| Json::Object(vec![("topic", topic.into()), ("partitionIds", ids.into_iter().collect())]))
        .collect()
}
