#!/usr/bin/env python3
"""held_transaction.py BOOTSTRAP TOPIC TRANSACTIONAL_ID: opens a transaction, writes a record to partition 0 and prints
`ready`. A line on standard input ends it: the script commits, and prints one JSON line with the error (null: none)."""
import json
import os
import sys

from confluent_kafka import KafkaException, Producer

BOOTSTRAP, TOPIC, TRANSACTIONAL_ID = sys.argv[1:]
SETTINGS = {"bootstrap.servers": BOOTSTRAP, "log_level": 0} | json.loads(os.environ.get("OTTLA_CLIENT_SETTINGS", "{}"))
producer = Producer(SETTINGS | {"transactional.id": TRANSACTIONAL_ID})
producer.init_transactions(60)
producer.begin_transaction()
producer.produce(TOPIC, value=b"held", partition=0)
producer.flush(60)
print("ready", flush=True)
sys.stdin.readline()
try:
    producer.commit_transaction(60)
    error = None
except KafkaException as failed:
    error = failed.args[0].name()
print(json.dumps({"error": error}), flush=True)
