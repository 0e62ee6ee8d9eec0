#!/usr/bin/env python3
"""written_until_killed.py BOOTSTRAP TOPIC CODEC CONFIG…: creates a topic with one partition and these configurations
(name=value) and writes numbered records with few keys and acks=all, as fast as they are acknowledged, until a line
arrives on standard input; the broker may have been killed by then. Prints `ready` at the first acknowledgement, and at
the end one JSON object of offset and number of the acknowledged records."""
import json
import sys
import threading
import time

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, codec = sys.argv[1:4]
config = dict(pair.split("=", 1) for pair in sys.argv[4:])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()

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
