#!/usr/bin/env python3
"""create_topic.py BOOTSTRAP TOPIC PARTITIONS [REPLICAS]: creates a topic, by default with replication factor 3 and
min.insync.replicas 2, and waits until every ISR has all replicas. OTTLA_CLIENT_SETTINGS: further settings, as JSON."""
import json
import os
import sys
import time

from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
replicas = int(sys.argv[4]) if len(sys.argv) > 4 else 3
settings = json.loads(os.environ.get("OTTLA_CLIENT_SETTINGS", "{}"))
admin = AdminClient({"bootstrap.servers": bootstrap} | settings)
new_topic = NewTopic(topic, partitions, replicas, config={"min.insync.replicas": str(min(2, replicas))})
admin.create_topics([new_topic])[topic].result(60)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    found = admin.list_topics(topic, timeout=10).topics[topic].partitions
    if len(found) == partitions and all(len(p.isrs) == replicas and p.leader >= 0 for p in found.values()):
        sys.exit(0)
    time.sleep(0.05)
sys.exit(f"{topic} has no full ISRs: {found}")
