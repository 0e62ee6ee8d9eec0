#!/usr/bin/env python3
"""secure_roundtrip.py LIBRARY TOPIC JSON: a client with these settings (librdkafka's names) writes and reads one record
in each partition; `oauth.token` is a bearer token. It prints "ok", or the class of what the login or the handshake came
to, and ends with 0 either way; what hangs ends with 1."""
import json
import sys
import time

LIBRARY, TOPIC, SETTINGS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
TOKEN = SETTINGS.pop("oauth.token", None)
# Reached only where something is wrong: a busy machine takes seconds for a handshake.
PATIENCE_S = 60


def confluent():
    from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

    told = []
    # With TLS 1.3 a client learns only after the handshake that its certificate was refused: no broker is left then.
    fatal = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._ALL_BROKERS_DOWN)
    on_error = lambda error: told.append(error) if error.code() in fatal else None
    if TOKEN:
        SETTINGS["oauth_cb"] = lambda _: (TOKEN, time.time() + 300)
    producer = Producer({**SETTINGS, "error_cb": on_error, "acks": "all"})
    delivered = []
    producer.produce(TOPIC, b"value", partition=0, on_delivery=lambda error, message: delivered.append(error))
    deadline = time.time() + PATIENCE_S
    while not delivered and not told and time.time() < deadline:
        producer.poll(0.1)
    if told:
        # That no broker is left is told by another thread, before or after the reason.
        is_reason = lambda error: error.code() != KafkaError._ALL_BROKERS_DOWN
        if not any(map(is_reason, told)):
            producer.poll(3)
        return next(filter(is_reason, told), told[0]).name()
    if not delivered or delivered[0]:
        return None
    consumer = Consumer({**SETTINGS, "group.id": "secure-" + TOPIC, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    while time.time() < deadline:
        message = consumer.poll(1.0)
        if message is not None and not message.error():
            consumer.close()
            return "ok" if message.value() == b"value" else None
    return None


def kafka_python():
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.errors import KafkaError

    names = {"bootstrap.servers": "bootstrap_servers", "security.protocol": "security_protocol"}
    names |= {"sasl.mechanism": "sasl_mechanism", "sasl.username": "sasl_plain_username"}
    names |= {"sasl.password": "sasl_plain_password", "ssl.ca.location": "ssl_cafile"}
    names |= {"ssl.certificate.location": "ssl_certfile", "ssl.key.location": "ssl_keyfile"}
    settings = {names[name]: value for name, value in SETTINGS.items()}
    if TOKEN:
        from kafka.net.sasl.oauth import AbstractTokenProvider

        class Provider(AbstractTokenProvider):
            def token(self):
                return TOKEN

        settings["sasl_oauth_token_provider"] = Provider()
    try:
        producer = KafkaProducer(**settings, acks="all")
        producer.send(TOPIC, b"value", partition=0).get(timeout=PATIENCE_S)
    except KafkaError as error:
        return type(error).__name__
    producer.close()
    consumer = KafkaConsumer(**settings, auto_offset_reset="earliest", consumer_timeout_ms=PATIENCE_S * 1000)
    consumer.assign([TopicPartition(TOPIC, 0)])
    consumer.seek_to_beginning(TopicPartition(TOPIC, 0))
    value = next(iter(consumer)).value
    consumer.close()
    return "ok" if value == b"value" else None


outcome = {"confluent": confluent, "kafka-python": kafka_python}[LIBRARY]()
print(outcome)
sys.stdout.flush()
sys.exit(0 if outcome else 1)
