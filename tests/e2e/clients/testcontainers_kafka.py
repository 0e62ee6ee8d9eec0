#!/usr/bin/env python3
"""testcontainers_kafka.py IMAGE: starts the image with Testcontainers' Kafka module, as ZooKeeper-era and as KRaft
Kafka, and sends a record through each."""
import sys
import warnings

from confluent_kafka import Consumer, Producer

warnings.simplefilter("ignore")
from testcontainers.kafka import KafkaContainer  # noqa: E402

image = sys.argv[1]
for container in [KafkaContainer(image), KafkaContainer(image).with_kraft()]:
    with container as kafka:
        servers = {"bootstrap.servers": kafka.get_bootstrap_server()}
        producer = Producer(servers)
        producer.produce("topic", b"value")
        assert producer.flush(30) == 0, "the record was not acknowledged"
        consumer = Consumer({**servers, "group.id": "group", "auto.offset.reset": "earliest"})
        consumer.subscribe(["topic"])
        message = consumer.poll(30)
        consumer.close()
        assert message is not None and message.value() == b"value", message
