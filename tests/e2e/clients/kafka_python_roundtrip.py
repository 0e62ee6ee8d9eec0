#!/usr/bin/env python3
"""kafka_python_roundtrip.py BOOTSTRAP: kafka-python writes and reads every codec, in assign mode."""
import sys

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

BOOTSTRAP = sys.argv[1].split(",")
RECORDS = 300


def main():
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        topic = f"kp-{codec}".lower()
        admin.create_topics([NewTopic(name=topic, num_partitions=2, replication_factor=3)])
        producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, compression_type=codec, acks="all", linger_ms=5)
        futures = [
            producer.send(topic, key=b"k%d" % i, value=b"v%d" % i * 30, headers=[("h", b"x")], partition=i % 2)
            for i in range(RECORDS)
        ]
        producer.flush(60)
        for future in futures:
            future.get(timeout=30)
        producer.close()
        # A busy machine may take seconds to the first record; after the last one nothing waits.
        consumer = KafkaConsumer(
            bootstrap_servers=BOOTSTRAP, group_id=None, auto_offset_reset="earliest", consumer_timeout_ms=60000
        )
        partitions = [TopicPartition(topic, p) for p in range(2)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        seen = 0
        for message in consumer:
            number = int(message.key[1:])
            assert message.value == b"v%d" % number * 30
            assert message.headers == [("h", b"x")], message.headers
            seen += 1
            if seen == RECORDS:
                break
        assert seen == RECORDS, f"{topic}: {seen}"
        assert consumer.end_offsets(partitions) == {p: RECORDS // 2 for p in partitions}
        consumer.close()
    admin.close()
    print("ok")


main()
