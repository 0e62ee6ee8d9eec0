#!/usr/bin/env python3
"""pushing_producer.py BOOTSTRAP TOPIC CLIENT_ID: writes a record every 20 ms until standard input ends. librdkafka
pushes its metrics to a broker where the cluster asks for them (KIP-714)."""
import select
import sys

from confluent_kafka import Producer

BOOTSTRAP, TOPIC, CLIENT_ID = sys.argv[1:4]
producer = Producer({"bootstrap.servers": BOOTSTRAP, "client.id": CLIENT_ID, "enable.metrics.push": True})
while not select.select([sys.stdin], [], [], 0.02)[0]:
    producer.produce(TOPIC, b"record")
    producer.poll(0)
producer.flush(30)
