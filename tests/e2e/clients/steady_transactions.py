#!/usr/bin/env python3
"""steady_transactions.py BOOTSTRAP TOPIC PARTITIONS: transactions, one after the other, that each write a numbered
record to every partition; every fourth one is aborted. Prints `ready` when the first one is committed.

A line `mark` on standard input ends a period: one JSON line tells the transactions ended in it, and the longest time
that one took (`stall_s`). Any other line ends the writing: the script reads the topic back as a reader of committed
records does, and prints one JSON line: the transactions that were committed, aborted, and of unknown outcome (the
client gave up); the records missing, twice or out of order; the records of aborted transactions that are seen
(`phantoms`), and the transactions of unknown outcome that are seen in part (`torn`)."""
import json
import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

BOOTSTRAP, TOPIC, PARTITIONS = sys.argv[1], sys.argv[2], range(int(sys.argv[3]))
SETTINGS = {"bootstrap.servers": BOOTSTRAP, "log_level": 0} | json.loads(os.environ.get("OTTLA_CLIENT_SETTINGS", "{}"))
PAUSE_S = 0.05
stop = threading.Event()
lock = threading.Lock()
# When the transaction began that runs now, if one does; the longest of those that have ended in this period.
began = None
stall = 0.0
outcomes, errors = [], []


def listen():
    """Answers at once, also while a transaction waits: it counts with the time that it has waited."""
    global stall
    ended_before = 0
    while sys.stdin.readline() == "mark\n":
        with lock:
            longest = max(stall, time.monotonic() - began if began else 0.0)
            period = {"ended": len(outcomes) - ended_before, "stall_s": round(longest, 3), "partition": None}
            stall, ended_before = 0.0, len(outcomes)
        print(json.dumps(period), flush=True)
    stop.set()


threading.Thread(target=listen, daemon=True).start()


def tried(call, seconds=90):
    """Again, for as long as the client says that this may help."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def new_producer():
    producer = Producer(
        SETTINGS
        | {
            "transactional.id": TOPIC,
            "transaction.timeout.ms": 60000,
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 200,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
        }
    )
    tried(lambda: producer.init_transactions(60))
    return producer


def run(producer, number):
    """The outcome of one transaction, and the producer of the next one: another one after an error that ends it."""
    try:
        producer.begin_transaction()
        for p in PARTITIONS:
            producer.produce(TOPIC, b"%d" % number, partition=p)
        if number % 4 == 3:
            producer.flush(60)
            tried(lambda: producer.abort_transaction(60))
            return "aborted", producer
        tried(lambda: producer.commit_transaction(60))
        return "committed", producer
    except KafkaException as error:
        errors.append(error.args[0].name())
        if error.args[0].txn_requires_abort():
            try:
                tried(lambda: producer.abort_transaction(60))
                return "aborted", producer
            except KafkaException as another:
                errors.append(another.args[0].name())
    # Its successor ends the transaction one way or the other before it goes on.
    return "unknown", new_producer()


producer = new_producer()
while not stop.is_set():
    with lock:
        began = time.monotonic()
    outcome, producer = run(producer, len(outcomes))
    with lock:
        stall = max(stall, time.monotonic() - began)
        began = None
        outcomes.append(outcome)
    if len(outcomes) == 1:
        print("ready", flush=True)
    time.sleep(PAUSE_S)

consumer = Consumer(
    SETTINGS
    | {
        "group.id": "unused",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    }
)
# The last transaction has ended: the last stable offset is the end, and each partition says when it is reached.
consumer.assign([TopicPartition(TOPIC, p, 0) for p in PARTITIONS])
seen = {p: [] for p in PARTITIONS}
ends = set()
deadline = time.monotonic() + 90
while len(ends) < len(PARTITIONS) and time.monotonic() < deadline:
    for message in consumer.consume(1000, 0.5):
        if message.error():
            # Any other error passes, or shows as an end that is not reached.
            if message.error().code() == KafkaError._PARTITION_EOF:
                ends.add(message.partition())
            else:
                errors.append(message.error().name())
        else:
            ends.discard(message.partition())
            seen[message.partition()].append(int(message.value()))
consumer.close()
result = {"committed": 0, "aborted": 0, "unknown": 0, "missing": 0, "duplicates": 0, "phantoms": 0, "torn": 0}
counts = {p: {} for p in PARTITIONS}
for p, numbers in seen.items():
    for number in numbers:
        counts[p][number] = counts[p].get(number, 0) + 1
for number, outcome in enumerate(outcomes):
    result[outcome] += 1
    found = [counts[p].get(number, 0) for p in PARTITIONS]
    result["duplicates"] += sum(count > 1 for count in found)
    match outcome:
        case "committed":
            result["missing"] += found.count(0)
        case "aborted":
            result["phantoms"] += sum(found)
        case "unknown":
            result["torn"] += 0 in found and any(found)
result["out_of_order"] = sum(
    after < before for numbers in seen.values() for before, after in zip(numbers, numbers[1:])
)
result["errors"] = sorted(set(errors))
result["unread"] = len(PARTITIONS) - len(ends)
print(json.dumps(result), flush=True)
