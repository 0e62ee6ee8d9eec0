#!/usr/bin/env python3
"""confluent_transactions.py BOOTSTRAP: librdkafka's Python client commits and aborts transactions over several
partitions, a reader of committed records sees the committed ones alone, new producers fence the former ones, and
offsets move with transactions: what is read from one topic is written to another exactly once."""
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP = sys.argv[1]
PARTITIONS = 3


def create(*topics):
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    wanted = [NewTopic(topic, num_partitions=PARTITIONS) for topic in topics]
    for future in admin.create_topics(wanted).values():
        future.result(60)


def producer(transactional_id):
    settings = {"transactional.id": transactional_id, "transaction.timeout.ms": 30000}
    made = Producer({"bootstrap.servers": BOOTSTRAP, **settings})
    made.init_transactions(60)
    return made


def write(by, topic, values):
    for i, value in enumerate(values):
        by.produce(topic, value=value.encode(), partition=i % PARTITIONS)


def read(topic, isolation, count, quiet=3):
    """All values; waits until there are `count`, and then a moment longer for those that must not be there."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    values, deadline = [], time.time() + 60
    while time.time() < deadline:
        message = consumer.poll(0.5)
        if message is not None:
            if message.error():
                raise KafkaException(message.error())
            values.append(message.value().decode())
        if len(values) >= count:
            deadline = min(deadline, time.time() + quiet)
    consumer.close()
    return sorted(values)


def commits_and_aborts():
    create("pairs")
    first = producer("pairs")
    committed, aborted = [], []
    for turn in range(6):
        values = [f"{turn}-{i}" for i in range(9)]
        first.begin_transaction()
        write(first, "pairs", values)
        first.flush(30)
        if turn % 2:
            first.abort_transaction(30)
            aborted += values
        else:
            first.commit_transaction(30)
            committed += values
    assert read("pairs", "read_committed", len(committed)) == sorted(committed)
    both = sorted(committed + aborted)
    assert read("pairs", "read_uncommitted", len(both)) == both
    # An open transaction holds readers of committed records back, and no others.
    first.begin_transaction()
    write(first, "pairs", ["open"])
    first.flush(30)
    assert read("pairs", "read_committed", len(committed)) == sorted(committed)
    assert "open" in read("pairs", "read_uncommitted", len(both) + 1)
    # Another producer of the id ends it, and fences the first.
    second = producer("pairs")
    try:
        first.commit_transaction(30)
        raise AssertionError("a fenced producer committed")
    except KafkaException as refused:
        assert refused.args[0].fatal() or refused.args[0].txn_requires_abort(), refused
    second.begin_transaction()
    write(second, "pairs", ["last"])
    second.commit_transaction(30)
    assert read("pairs", "read_committed", len(committed) + 1) == sorted(committed + ["last"])


def many_ids_are_taken_over():
    """What Flink's sinks and Spring's factories do after a failure: initialize all of the ids that they used before.
    That ends the transactions which the former producers left open, and fences these."""
    create("pooled")
    names = [f"pool-{i}" for i in range(20)]
    former = [producer(name) for name in names]
    for made in former:
        made.begin_transaction()
        write(made, "pooled", ["left open"] * PARTITIONS)
        made.flush(30)
    assert read("pooled", "read_committed", 0) == []
    latter = [producer(name) for name in names]
    for name, made in zip(names, latter):
        made.begin_transaction()
        write(made, "pooled", [name])
        made.commit_transaction(30)
    for made in former:
        try:
            made.commit_transaction(30)
            raise AssertionError("a fenced producer committed")
        except KafkaException as refused:
            assert refused.args[0].fatal() or refused.args[0].txn_requires_abort(), refused
    assert read("pooled", "read_committed", len(names)) == sorted(names)


def offsets_move_with_transactions():
    create("source", "target")
    plain = Producer({"bootstrap.servers": BOOTSTRAP})
    inputs = [f"record-{i}" for i in range(60)]
    write(plain, "source", inputs)
    plain.flush(30)
    copied = 0
    for round_number in range(40):
        copier = producer("copier")
        consumer = Consumer(
            {
                "bootstrap.servers": BOOTSTRAP,
                "group.id": "copiers",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 6000,
            }
        )
        consumer.subscribe(["source"])
        batch, deadline = [], time.time() + 20
        while len(batch) < 7 and time.time() < deadline:
            message = consumer.poll(0.5)
            if message is not None and not message.error():
                batch.append(message)
            if copied + len(batch) == len(inputs):
                break
        copier.begin_transaction()
        for message in batch:
            copier.produce("target", value=message.value(), partition=message.partition())
        positions = consumer.position(consumer.assignment())
        copier.send_offsets_to_transaction(
            [position for position in positions if position.offset >= 0], consumer.consumer_group_metadata(), 30
        )
        if round_number % 3 == 2:
            copier.abort_transaction(30)
        else:
            copier.commit_transaction(30)
            copied += len(batch)
        consumer.close()
        if copied >= len(inputs):
            break
    assert read("target", "read_committed", len(inputs)) == sorted(inputs)


commits_and_aborts()
many_ids_are_taken_over()
offsets_move_with_transactions()
print("ok")
