#!/usr/bin/env python3
"""steady_producer.py BOOTSTRAP TOPIC PARTITIONS [PAUSE_S [FIRST]]: writes numbered records with acks=all to every
partition, from partition FIRST (0), spread evenly over rounds of PAUSE_S (20 ms). Prints `ready` when all partitions
have acknowledged a record.

A line `mark` on standard input ends a period: one JSON line tells the records acknowledged in it, and the longest time
that a record waited for its acknowledgement (`stall_s`, in `partition`). Any other line ends the writing: the script
reads back everything that was written since its start and prints one JSON line with the acknowledged records, the
client's errors, the missing, duplicated or reordered records (in all, and in each period), and the longest time that a
partition had no acknowledgement (for information; tests assert no times)."""
import bisect
import json
import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

BOOTSTRAP, TOPIC = sys.argv[1:3]
SETTINGS = {"bootstrap.servers": BOOTSTRAP, "log_level": 0} | json.loads(os.environ.get("OTTLA_CLIENT_SETTINGS", "{}"))
PAUSE_S = float(sys.argv[4]) if len(sys.argv) > 4 else 0.02
FIRST = int(sys.argv[5]) if len(sys.argv) > 5 else 0
PARTITIONS = range(FIRST, FIRST + int(sys.argv[3]))
# Without one, 500 partitions are asked for their ends one by one, twice.
READ_PATIENCE_S = 60 + len(PARTITIONS) / 10
stop = threading.Event()
marks = threading.Semaphore(0)


def listen():
    while sys.stdin.readline() == "mark\n":
        marks.release()
    stop.set()


threading.Thread(target=listen, daemon=True).start()
acknowledged = {p: {} for p in PARTITIONS}
last = {}
longest = {p: 0.0 for p in PARTITIONS}
# When the records that are not acknowledged yet were sent, by partition and number.
waiting = {}
stall = (0.0, None)
acknowledged_before = 0
# The first number of each period.
periods = [0]
errors = []


def on_delivery(partition, number):
    def done(error, message):
        global stall
        now = time.monotonic()
        stall = max(stall, (now - waiting.pop((partition, number)), partition), key=lambda known: known[0])
        if error:
            errors.append(error.name())
            return
        longest[partition] = max(longest[partition], now - last.get(partition, now))
        last[partition] = now
        acknowledged[partition][number] = message.offset()

    return done


def end_period(number):
    """What is not acknowledged yet has waited, too."""
    global stall, acknowledged_before
    now = time.monotonic()
    for (partition, _), sent in waiting.items():
        stall = max(stall, (now - sent, partition), key=lambda known: known[0])
    count = sum(map(len, acknowledged.values()))
    period = {
        "acknowledged": count - acknowledged_before,
        "stall_s": round(stall[0], 3),
        "partition": stall[1],
    }
    print(json.dumps(period), flush=True)
    stall, acknowledged_before = (0.0, None), count
    periods.append(number)


consumer = Consumer(SETTINGS | {"group.id": "unused", "enable.auto.commit": False})


def end_of(p):
    """This call of librdkafka does not try again when a leader has just changed; it may wait for one broker only. Nor
    does it ask for metadata when a leader that it has heard of is a broker that it has been told is gone: a consumer
    without an assignment asks for none by itself for minutes."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return consumer.get_watermark_offsets(TopicPartition(TOPIC, p), 5)[1]
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        try:
            consumer.list_topics(TOPIC, timeout=5)
        except KafkaException:
            # The broker that was asked has just gone.
            pass


begins = {p: end_of(p) for p in PARTITIONS}
producer = Producer(
    SETTINGS
    | {
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,
        "retry.backoff.ms": 20,
        "retry.backoff.max.ms": 200,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "delivery.timeout.ms": 90000,
        # What is written until a delivery times out fits: a stall shows as one, not as a queue that is full.
        "queue.buffering.max.messages": 1000000,
    }
)
number = 0
ready = False
due = time.monotonic()
while not stop.is_set():
    for p in PARTITIONS:
        waiting[p, number] = time.monotonic()
        producer.produce(TOPIC, b"%d" % number, partition=p, on_delivery=on_delivery(p, number))
        due += PAUSE_S / len(PARTITIONS)
        # A call of poll returns with the first acknowledgement.
        while (left := due - time.monotonic()) > 0:
            producer.poll(left)
    # A machine that was too busy does not write faster afterwards.
    due = max(due, time.monotonic())
    producer.poll(0)
    number += 1
    if marks.acquire(blocking=False):
        end_period(number)
    if not ready and errors:
        # Whoever waits for `ready` would wait for ever.
        sys.exit(f"{TOPIC}: the first records were not acknowledged: {sorted(set(errors))}")
    if not ready and all(acknowledged.values()):
        ready = True
        print("ready", flush=True)
unsent = producer.flush(90)

ends = {p: end_of(p) for p in PARTITIONS}
consumer.assign([TopicPartition(TOPIC, p, begins[p]) for p in PARTITIONS])
read = {p: {} for p in PARTITIONS}
left = sum(ends[p] - begins[p] for p in PARTITIONS)
deadline = time.monotonic() + READ_PATIENCE_S
while left > 0 and time.monotonic() < deadline:
    for message in consumer.consume(1000, 0.5):
        if not message.error() and message.offset() not in read[message.partition()]:
            read[message.partition()][message.offset()] = int(message.value())
            left -= 1
consumer.close()
wrong = [{"missing": 0, "duplicates": 0, "out_of_order": 0} for _ in periods]


def count(what, number):
    wrong[bisect.bisect_right(periods, number) - 1][what] += 1


for p in PARTITIONS:
    for n, offset in acknowledged[p].items():
        if read[p].get(offset) != n:
            count("missing", n)
    values = [read[p][offset] for offset in sorted(read[p])]
    seen = set()
    for before, n in zip([-1, *values], values):
        if n in seen:
            count("duplicates", n)
        elif n < before:
            count("out_of_order", n)
        seen.add(n)
result = {what: sum(period[what] for period in wrong) for what in wrong[0]}
result |= {
    "acknowledged": sum(map(len, acknowledged.values())),
    "errors": sorted(set(errors)),
    "unsent": unsent,
    "longest_s": round(max(longest.values()), 2),
    "periods": wrong,
}
print(json.dumps(result), flush=True)
