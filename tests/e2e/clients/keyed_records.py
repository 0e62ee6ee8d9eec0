#!/usr/bin/env python3
"""keyed_records.py BOOTSTRAP TOPIC CODEC RECORDS VALUE_BYTES CONFIG…: creates a topic with one partition and these
configurations (name=value), writes records with few keys (repeated header keys, tombstones, an idempotent producer),
and prints the final state of a reader: one JSON object of key and length of the last value, without the keys whose last
record is a tombstone."""
import hashlib
import json
import sys
import time

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, codec, count, value_bytes = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
config = dict(pair.split("=", 1) for pair in sys.argv[6:])
KEYS = 23

admin = AdminClient({"bootstrap.servers": bootstrap})
for attempt in range(60):
    try:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1, config=config)])[topic].result(30)
        break
    except KafkaException as error:
        # A Kafka that has only just started may know no broker for a replica yet; the client sets `retriable` for
        # errors of transactions alone. A topic that is there by now was made by the attempt before.
        if attempt > 0 and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            break
        if attempt == 59:
            raise
        time.sleep(0.5)

failures = []
producer = Producer(
    {
        "bootstrap.servers": bootstrap,
        "compression.type": codec,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 2,
        "batch.num.messages": 7,
    }
)
table = {}
for i in range(count):
    key = "key %d" % (i * 5 % KEYS)
    # Half of it does not compress.
    noise = b"".join(hashlib.sha256(b"%d %d" % (i, n)).digest() for n in range(value_bytes // 64 + 1))
    value = None if i % 11 == 7 else (noise[: value_bytes // 2] + b"x" * (value_bytes // 2 + i % 50))
    headers = [("h", b"%d" % i), ("h", None), ("g", b""), ("h", b"again")]
    producer.produce(
        topic, key=key, value=value, headers=headers,
        on_delivery=lambda error, message: failures.append(error) if error else None,
    )
    producer.poll(0)
    if i % 500 == 499:
        producer.flush(60)
    if value is None:
        table.pop(key, None)
    else:
        table[key] = len(value)
assert producer.flush(60) == 0, "not all delivered"
assert not failures, failures
print(json.dumps(table))
