#!/usr/bin/env python3
"""written_until_killed.py BOOTSTRAP TOPIC CODEC CONFIG…: creates a topic with one partition and these configurations
(name=value) and writes numbered records with few keys and acks=all, as fast as they are acknowledged, until a line
arrives on standard input; the broker may have been killed by then. Prints `ready` at the first acknowledgement, and at
the end one JSON object of offset and number of the acknowledged records."""
import json
import sys
import threading

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, codec = sys.argv[1:4]
config = dict(pair.split("=", 1) for pair in sys.argv[4:])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()

admin = AdminClient({"bootstrap.servers": bootstrap})
while True:
    try:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1, config=config)])[topic].result(30)
        break
    except KafkaException as error:
        # A broker that has only just started.
        if stop.is_set() or not error.args[0].retriable():
            raise

producer = Producer(
    {
        "bootstrap.servers": bootstrap,
        "compression.type": codec,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 1,
        "batch.num.messages": 9,
        "queue.buffering.max.messages": 200,
    }
)
acknowledged = {}
number = 0


def done(number):
    def delivered(error, message):
        if error is None:
            if not acknowledged:
                print("ready", flush=True)
            acknowledged[message.offset()] = number

    return delivered


while not stop.is_set():
    try:
        value = b"%d:" % number + b"x" * (number * 37 % 9000)
        producer.produce(topic, value, key=b"%d" % (number % 23), on_delivery=done(number))
        number += 1
        producer.poll(0)
    except BufferError:
        producer.poll(0.05)
producer.purge()
producer.poll(0)
print(json.dumps(acknowledged), flush=True)
