#!/usr/bin/env python3
"""steady_group.py BOOTSTRAP GROUP MEMBERS TOPIC…: members of a consumer group that read the topics from their present
ends on. Prints `ready` when each partition has an owner.

A line `mark` on standard input ends a period: one JSON line tells the records delivered in it, and the longest time
that a record took from its producer to the group (`wait_s`, in `partition`), by the clock that both share. Any other
line ends the reading: the script waits until everything up to the ends is delivered and prints one JSON line: the
records that the group did not get, got again, or got out of order."""
import json
import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

BOOTSTRAP, GROUP, MEMBERS = sys.argv[1], sys.argv[2], int(sys.argv[3])
TOPICS = sys.argv[4:]
SETTINGS = {"bootstrap.servers": BOOTSTRAP, "log_level": 0} | json.loads(os.environ.get("OTTLA_CLIENT_SETTINGS", "{}"))
CONFIG = SETTINGS | {"group.id": GROUP}
lock = threading.Lock()
delivered = {}
next_offset = {}
owned = [0] * MEMBERS
again = 0
out_of_order = 0
wait = (0.0, None)
period_start = 0
is_ended = threading.Event()


def take(message):
    global again, out_of_order, wait
    at = (message.topic(), message.partition())
    offset = message.offset()
    if offset in delivered[at]:
        again += 1
        return
    delivered[at].add(offset)
    # The group goes on where it was committed; what it gets for the first time stands in order.
    out_of_order += offset < next_offset.get(at, 0)
    next_offset[at] = offset + 1
    took = time.time() - message.timestamp()[1] / 1000
    wait = max(wait, (took, f"{at[0]}-{at[1]}"), key=lambda known: known[0])


def member(number):
    consumer = Consumer(CONFIG | {"auto.offset.reset": "error", "partition.assignment.strategy": "cooperative-sticky"})

    def assigned(consumer, partitions):
        owned[number] += len(partitions)

    def revoked(consumer, partitions):
        owned[number] -= len(partitions)

    consumer.subscribe(TOPICS, on_assign=assigned, on_revoke=revoked, on_lost=revoked)
    while not is_ended.is_set():
        messages = consumer.consume(1000, 0.02)
        with lock:
            for message in messages:
                if message.error():
                    # Records that are missing at the end may have this reason.
                    print(f"{GROUP}: {message.error()}", file=sys.stderr)
                else:
                    take(message)
    consumer.close()


def end_of(consumer, at):
    """This call of librdkafka does not try again when a leader has just changed; it may wait for one broker only. Nor
    does it ask for metadata when a leader that it has heard of is a broker that it has been told is gone: a consumer
    without an assignment asks for none by itself for minutes."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return consumer.get_watermark_offsets(TopicPartition(*at), 5)[1]
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        try:
            consumer.list_topics(at[0], timeout=5)
        except KafkaException:
            # The broker that was asked has just gone.
            pass


outside = Consumer(CONFIG | {"enable.auto.commit": False})
found = {}
deadline = time.monotonic() + 60
# The broker that is asked may not have heard of a topic that was made at another one.
while missing := [topic for topic in TOPICS if topic not in found or not found[topic].partitions]:
    if time.monotonic() > deadline:
        sys.exit(f"{GROUP}: no partitions of {missing}")
    found = outside.list_topics(timeout=30).topics
    time.sleep(0.05)
partitions = [(topic, p) for topic in TOPICS for p in found[topic].partitions]
begins = {at: end_of(outside, at) for at in partitions}
outside.commit(offsets=[TopicPartition(*at, begins[at]) for at in partitions], asynchronous=False)
delivered = {at: set() for at in partitions}
members = [threading.Thread(target=member, args=[number]) for number in range(MEMBERS)]
for thread in members:
    thread.start()
deadline = time.monotonic() + 170
while sum(owned) < len(partitions):
    if time.monotonic() > deadline:
        is_ended.set()
        sys.exit(f"{GROUP}: members own {owned} of {len(partitions)} partitions")
    time.sleep(0.05)
print("ready", flush=True)
while sys.stdin.readline() == "mark\n":
    with lock:
        count = sum(map(len, delivered.values()))
        period = {"delivered": count - period_start, "wait_s": round(wait[0], 3), "partition": wait[1]}
        wait, period_start = (0.0, None), count
    print(json.dumps(period), flush=True)
ends = {at: end_of(outside, at) for at in partitions}
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    with lock:
        missing = sum(ends[at] - begins[at] - len(delivered[at]) for at in partitions)
    if missing <= 0:
        break
    time.sleep(0.1)
is_ended.set()
for thread in members:
    thread.join()
outside.close()
result = {
    "delivered": sum(map(len, delivered.values())),
    "missing": missing,
    "again": again,
    "out_of_order": out_of_order,
}
print(json.dumps(result), flush=True)
