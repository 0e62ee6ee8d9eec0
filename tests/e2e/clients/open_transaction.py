#!/usr/bin/env python3
"""open_transaction.py BOOTSTRAP TOPIC TRANSACTIONAL_ID: opens a transaction, writes a record to partition 0 and ends
without a word, as a process that is killed. Prints the record's offset."""
import os
import sys

from confluent_kafka import Producer

BOOTSTRAP, TOPIC, TRANSACTIONAL_ID = sys.argv[1:]

producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": TRANSACTIONAL_ID})
producer.init_transactions(60)
producer.begin_transaction()
offsets = []


def delivered(error, message):
    assert error is None, error
    offsets.append(message.offset())


producer.produce(TOPIC, value=b"open", partition=0, on_delivery=delivered)
while not offsets:
    producer.poll(0.1)
print(offsets[0], flush=True)
os._exit(0)
