#!/usr/bin/env python3
"""login_cases.py LIBRARY FILE: each case of the file (JSON) is a client with its own settings that writes a record and
reads it back. For each case a line: its id, a tab, and "ok" or the name of the library's error; "hang" where there was
neither in time. Many cases run at a time: most of them wait."""
import asyncio
import concurrent.futures
import json
import logging
import ssl
import sys
import time

LIBRARY, CASES = sys.argv[1], json.load(open(sys.argv[2]))
AT_A_TIME = 16
PATIENCE_S = 40
# What a library waits for a broker before it gives up: all of it where a client is refused and is not told so. One that
# comes in needs it where the machine is busy.
REFUSED_TIMEOUT_MS, CLIENT_TIMEOUT_MS = 5_000, 30_000
# librdkafka connects again in the background after an error: for so long its connections are counted.
OBSERVED_S = 3
logging.disable(logging.CRITICAL)


def timeout_ms(case):
    return CLIENT_TIMEOUT_MS if case["right"] else REFUSED_TIMEOUT_MS


def context(case):
    tls = ssl.create_default_context(cafile=case["ca"])
    if case.get("certificate"):
        tls.load_cert_chain(case["certificate"], case["key"])
    return tls


def confluent(case):
    from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

    settings = {"bootstrap.servers": case["bootstrap"], "security.protocol": case["protocol"]}
    settings |= {"ssl.ca.location": case["ca"]}
    if case.get("certificate"):
        settings |= {"ssl.certificate.location": case["certificate"], "ssl.key.location": case["key"]}
    if mechanism := case.get("mechanism"):
        settings["sasl.mechanism"] = mechanism
        if mechanism == "OAUTHBEARER":
            settings["oauth_cb"] = lambda _: (case["password"], time.time() + 300)
        else:
            settings |= {"sasl.username": case["user"], "sasl.password": case["password"]}
    told, delivered = [], []
    fatal = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._ALL_BROKERS_DOWN)
    on_error = lambda error: told.append(error.name()) if error.code() in fatal else None
    on_delivery = lambda error, message: delivered.append(error or message.offset())
    producer = Producer({**settings, "error_cb": on_error, "acks": "all"}, logger=logging.getLogger("quiet"))
    producer.produce(case["topic"], case["id"].encode(), partition=0, on_delivery=on_delivery)
    deadline = time.time() + PATIENCE_S
    while not delivered and not told and time.time() < deadline:
        producer.poll(0.1)
    if told:
        producer.poll(OBSERVED_S)
        producer.purge()
        # That no broker is left is told by another thread, before or after the reason.
        return next((error for error in told if error != "_ALL_BROKERS_DOWN"), told[0])
    if not delivered:
        return "hang"
    if not isinstance(delivered[0], int):
        return delivered[0].name()
    consumer = Consumer({**settings, "group.id": "unused"}, logger=logging.getLogger("quiet"))
    consumer.assign([TopicPartition(case["topic"], 0, delivered[0])])
    message = consumer.poll(PATIENCE_S)
    consumer.close()
    return "ok" if message and not message.error() and message.value() == case["id"].encode() else "no record"


def login(case, tokens):
    """The settings of a login, by names that kafka-python and aiokafka share."""
    mechanism = case.get("mechanism")
    if not mechanism:
        return {}
    if mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": tokens}
    password = {"sasl_plain_username": case["user"], "sasl_plain_password": case["password"]}
    return {"sasl_mechanism": mechanism} | password


def kafka_python(case):
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.errors import KafkaError
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):
        def token(self):
            return case["password"]

    settings = {"bootstrap_servers": case["bootstrap"], "security_protocol": case["protocol"]}
    settings |= {"ssl_context": context(case), "bootstrap_timeout_ms": timeout_ms(case)}
    settings |= login(case, Provider())
    try:
        producer = KafkaProducer(**settings, acks="all", max_block_ms=timeout_ms(case))
        try:
            sent = producer.send(case["topic"], case["id"].encode(), partition=0).get(timeout=PATIENCE_S)
        finally:
            producer.close(timeout=1)
    except KafkaError as error:
        return type(error).__name__
    consumer = KafkaConsumer(**settings, consumer_timeout_ms=PATIENCE_S * 1000)
    consumer.assign([TopicPartition(case["topic"], 0)])
    consumer.seek(TopicPartition(case["topic"], 0), sent.offset)
    value = next(iter(consumer)).value
    consumer.close()
    return "ok" if value == case["id"].encode() else "another record"


async def with_aiokafka(case):
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
    from aiokafka.abc import AbstractTokenProvider
    from aiokafka.errors import KafkaError

    class Provider(AbstractTokenProvider):
        async def token(self):
            return case["password"]

    settings = {"bootstrap_servers": case["bootstrap"], "security_protocol": case["protocol"]}
    settings |= {"ssl_context": context(case)}
    settings |= login(case, Provider())
    producer = AIOKafkaProducer(**settings, acks="all", request_timeout_ms=timeout_ms(case))
    try:
        await producer.start()
        sent = await producer.send_and_wait(case["topic"], case["id"].encode(), partition=0)
    except KafkaError as error:
        return type(error).__name__
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(**settings)
    await consumer.start()
    consumer.assign([TopicPartition(case["topic"], 0)])
    consumer.seek(TopicPartition(case["topic"], 0), sent.offset)
    record = await consumer.getone()
    await consumer.stop()
    return "ok" if record.value == case["id"].encode() else "another record"


async def in_time(case):
    try:
        return await asyncio.wait_for(with_aiokafka(case), PATIENCE_S)
    except asyncio.TimeoutError:
        return "hang"


def aiokafka(case):
    return asyncio.run(in_time(case))


def outcome(case):
    try:
        return {"confluent-kafka": confluent, "kafka-python": kafka_python, "aiokafka": aiokafka}[LIBRARY](case)
    except Exception as error:
        return f"{type(error).__name__} {error}"


with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
    for case, came in zip(CASES, pool.map(outcome, CASES)):
        print(f"{case['id']}\t{came}", flush=True)
