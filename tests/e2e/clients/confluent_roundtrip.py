#!/usr/bin/env python3
"""confluent_roundtrip.py BOOTSTRAP: librdkafka's Python client writes and reads with every codec, every acks level, and
idempotence."""
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

BOOTSTRAP = sys.argv[1]
RECORDS = 500


def produce(topic, codec, acks, idempotent):
    failures = []
    producer = Producer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "compression.type": codec,
            "acks": acks,
            "enable.idempotence": idempotent,
            "linger.ms": 5,
        }
    )
    for i in range(RECORDS):
        producer.produce(
            topic,
            key=b"k%d" % i,
            value=(b"value-%d-" % i) * 20,
            headers=[("h", b"%d" % i), ("h", b"again"), ("none", None)],
            partition=i % 3,
            on_delivery=lambda error, message: failures.append(error) if error else None,
        )
    assert producer.flush(60) == 0, "not all delivered"
    assert not failures, failures


def consume(topic, count):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(3)])
    seen = {}
    deadline = time.time() + 60
    while len(seen) < count and time.time() < deadline:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                raise RuntimeError(message.error())
            continue
        seen[(message.partition(), message.offset())] = message
    for p in range(3):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), 10)
        assert low == 0 and high == sum(1 for key in seen if key[0] == p), (p, low, high)
    consumer.close()
    return [seen[key] for key in sorted(seen)]


def check(topic, count):
    messages = consume(topic, count)
    assert len(messages) == count, f"{topic}: {len(messages)} of {count}"
    by_partition = {}
    for message in messages:
        number = int(message.key()[1:])
        assert message.value() == (b"value-%d-" % number) * 20
        assert message.headers() == [("h", b"%d" % number), ("h", b"again"), ("none", None)], message.headers()
        by_partition.setdefault(message.partition(), []).append(number)
    for numbers in by_partition.values():
        assert numbers == sorted(numbers), "out of order"


def wait_for_leader(consumer, partition):
    deadline = time.time() + 30
    while True:
        try:
            return consumer.get_watermark_offsets(partition, 30)
        except KafkaException:
            if time.time() > deadline:
                raise
            time.sleep(0.02)


def wait_until(holds):
    deadline = time.time() + 60
    while not holds():
        assert time.time() < deadline, "it does not come"
        time.sleep(0.05)


def main():
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    topics = {}
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for acks, idempotent in (("0", False), ("1", False), ("all", False), ("all", True)):
            topics[f"rt-{codec}-{acks}-{idempotent}".lower()] = (codec, acks, idempotent)
    for future in admin.create_topics(
        [NewTopic(t, 3, 3, config={"min.insync.replicas": "2"}) for t in topics]
    ).values():
        future.result(30)
    # With acks=0 an error of a leader that has not opened the partition yet is not reported, in Kafka neither: wait for
    # all leaders.
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused"})
    for topic in topics:
        for p in range(3):
            wait_for_leader(consumer, TopicPartition(topic, p))
    consumer.close()
    for topic, (codec, acks, idempotent) in topics.items():
        produce(topic, codec, acks, idempotent)
    for topic in topics:
        check(topic, RECORDS)
    first = next(iter(topics))
    admin.create_partitions([NewPartitions(first, 5)])[first].result(30)
    # Each call may ask another broker, which may not have heard of it yet.
    wait_until(lambda: len(admin.list_topics(first, timeout=10).topics[first].partitions) == 5)
    resource = ConfigResource(ConfigResource.Type.TOPIC, first)
    configs = admin.describe_configs([resource])[resource].result(30)
    assert configs["min.insync.replicas"].value == "2", configs["min.insync.replicas"]
    for future in admin.delete_topics(list(topics)).values():
        future.result(30)
    wait_until(lambda: not set(topics) & set(admin.list_topics(timeout=10).topics))
    print("ok")


main()
