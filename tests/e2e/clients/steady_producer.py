#!/usr/bin/env python3
"""steady_producer.py BOOTSTRAP TOPIC PARTITIONS [PAUSE_S [FIRST]]: writes numbered records with acks=all to every
partition, from number FIRST (0), with a pause (20 ms) between two rounds, until a line arrives on standard input, then
reads everything back. Prints `ready` when all partitions have acknowledged a record, and at the end one JSON line: the
acknowledged records, the client's errors, the missing, duplicated or reordered records, and the longest time that a
partition had no acknowledgement (for information; tests assert no times)."""
import json
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

BOOTSTRAP, TOPIC = sys.argv[1:3]
PAUSE_S = float(sys.argv[4]) if len(sys.argv) > 4 else 0.02
FIRST = int(sys.argv[5]) if len(sys.argv) > 5 else 0
PARTITIONS = range(FIRST, FIRST + int(sys.argv[3]))
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
acknowledged = {p: {} for p in PARTITIONS}
last = {}
longest = {p: 0.0 for p in PARTITIONS}
errors = []


def on_delivery(partition, number):
    def done(error, message):
        if error:
            errors.append(error.name())
            return
        now = time.monotonic()
        longest[partition] = max(longest[partition], now - last.get(partition, now))
        last[partition] = now
        acknowledged[partition][number] = message.offset()

    return done


producer = Producer(
    {
        "bootstrap.servers": BOOTSTRAP,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,
        "retry.backoff.ms": 20,
        "retry.backoff.max.ms": 200,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "delivery.timeout.ms": 90000,
    }
)
number = 0
ready = False
while not stop.is_set():
    for p in PARTITIONS:
        producer.produce(TOPIC, b"%d" % number, partition=p, on_delivery=on_delivery(p, number))
    number += 1
    producer.poll(PAUSE_S)
    if not ready and all(acknowledged.values()):
        ready = True
        print("ready", flush=True)
unsent = producer.flush(90)

consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False})


def end_of(p):
    """This call of librdkafka does not try again when a leader has just changed; it may wait for one broker only."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return consumer.get_watermark_offsets(TopicPartition(TOPIC, p), 5)[1]
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


ends = {p: end_of(p) for p in PARTITIONS}
consumer.assign([TopicPartition(TOPIC, p, 0) for p in PARTITIONS])
read = {p: {} for p in PARTITIONS}
deadline = time.monotonic() + 60
while any(len(read[p]) < ends[p] for p in read) and time.monotonic() < deadline:
    message = consumer.poll(0.5)
    if message is not None and not message.error():
        read[message.partition()][message.offset()] = int(message.value())
consumer.close()
missing = sum(1 for p in acknowledged for n, offset in acknowledged[p].items() if read[p].get(offset) != n)
values = {p: [read[p][offset] for offset in sorted(read[p])] for p in read}
print(
    json.dumps(
        {
            "acknowledged": sum(map(len, acknowledged.values())),
            "errors": sorted(set(errors)),
            "unsent": unsent,
            "missing": missing,
            "duplicates": sum(len(v) - len(set(v)) for v in values.values()),
            "out_of_order": sum(1 for v in values.values() for a, b in zip(v, v[1:]) if b < a),
            "longest_s": round(max(longest.values()), 2),
        }
    ),
    flush=True,
)
