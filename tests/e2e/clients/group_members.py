#!/usr/bin/env python3
"""group_members.py LIBRARY PROTOCOL BOOTSTRAP GROUP TOPIC COUNT [key=value…]: members of one consumer group, each in a
thread (aiokafka: a task), until standard input ends. LIBRARY is confluent, kafka-python or aiokafka; PROTOCOL is
classic (eager), cooperative or consumer; further settings go to confluent's consumers, where `{n}` becomes the
member's number.

Each member commits after every poll that returned records, and waits for the response. Each event is one line of JSON
with the time in seconds: {"t", "m": member, "e": "assigned" | "revoked" | "lost", "p": [partition…]},
{"e": "failed", "error": text}, {"e": "read" | "committed", "o": [[partition, offset]…]}, where a committed offset is
the next one to read, and {"e": "left"}. At the end of input all members leave. SIGKILL simulates a crash."""
import asyncio
import json
import logging
import os
import sys
import threading
import time

LIBRARY, PROTOCOL, BOOTSTRAP, GROUP, TOPIC = sys.argv[1:6]
COUNT = int(sys.argv[6])
SETTINGS = [setting.split("=", 1) for setting in sys.argv[7:]]
SESSION_MS, HEARTBEAT_MS, METADATA_MS = 6000, 500, 1000
stop = threading.Event()
lock = threading.Lock()
# To standard error, as librdkafka does: the text of a failure has the last lines.
logging.basicConfig(level=logging.INFO, format="%(created).3f %(threadName)s %(name)s: %(message)s")


def tell(member, event, **what):
    line = json.dumps({"t": time.time(), "m": f"{os.getpid()}-{member}", "e": event} | what)
    with lock:
        print(line, flush=True)


def confluent(number):
    from confluent_kafka import Consumer, KafkaException

    config = {
        "bootstrap.servers": BOOTSTRAP,
        "group.id": GROUP,
        "client.id": f"member-{number}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "topic.metadata.refresh.interval.ms": METADATA_MS,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 500,
        "fetch.wait.max.ms": 200,
    }
    if PROTOCOL == "consumer":
        config["group.protocol"] = "consumer"
    else:
        strategy = "cooperative-sticky" if PROTOCOL == "cooperative" else "range"
        config |= {
            "partition.assignment.strategy": strategy,
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": HEARTBEAT_MS,
        }
    config |= {name: value.replace("{n}", str(number)) for name, value in SETTINGS}
    consumer = Consumer(config)
    eager = PROTOCOL == "classic"

    def numbers(partitions):
        return [at.partition for at in partitions]

    def assigned(_, partitions):
        tell(number, "assigned", p=numbers(partitions))
        consumer.assign(partitions) if eager else consumer.incremental_assign(partitions)

    def gone(event):
        def told(_, partitions):
            tell(number, event, p=numbers(partitions))
            consumer.unassign() if eager else consumer.incremental_unassign(partitions)

        return told

    consumer.subscribe([TOPIC], on_assign=assigned, on_revoke=gone("revoked"), on_lost=gone("lost"))
    while not stop.is_set():
        messages = [message for message in consumer.consume(200, 0.2) if not message.error()]
        if not messages:
            continue
        tell(number, "read", o=[[message.partition(), message.offset()] for message in messages])
        try:
            done = consumer.commit(asynchronous=False)
        except KafkaException:
            # The group is rebalancing, or its coordinator is away: the next commit says it again.
            continue
        tell(number, "committed", o=[[at.partition, at.offset] for at in done if at.error is None and at.offset >= 0])
    consumer.close()
    tell(number, "left")


def kafka_python(number):
    from kafka import ConsumerRebalanceListener, KafkaConsumer
    from kafka.errors import KafkaError

    # The next offsets to read, of partitions that were read since they were assigned.
    positions = {}

    class Listener(ConsumerRebalanceListener):
        def on_partitions_assigned(self, partitions):
            positions.clear()
            tell(number, "assigned", p=[at.partition for at in partitions])

        def on_partitions_revoked(self, partitions):
            tell(number, "revoked", p=[at.partition for at in partitions])

    # poll() of kafka-python 3.0 can fail when it has already taken records, for example because a broker has just left
    # the metadata: its position is then behind records that nobody has seen.
    def go_back():
        for at in consumer.assignment():
            consumer.seek(at, positions[at] if at in positions else consumer.committed(at) or 0)

    consumer = KafkaConsumer(
        bootstrap_servers=BOOTSTRAP.split(","),
        group_id=GROUP,
        client_id=f"member-{number}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        metadata_max_age_ms=METADATA_MS,
        reconnect_backoff_ms=20,
        reconnect_backoff_max_ms=500,
    )
    consumer.subscribe([TOPIC], listener=Listener())
    is_astray = False
    while not stop.is_set():
        try:
            if is_astray:
                go_back()
            is_astray = True
            batches = consumer.poll(200)
            is_astray = False
            if not batches:
                continue
            found = [[at.partition, record.offset] for at, records in batches.items() for record in records]
            tell(number, "read", o=found)
            offsets = {at: records[-1].offset + 1 for at, records in batches.items()}
            positions.update(offsets)
            consumer.commit()
        except (KafkaError, OSError) as error:
            tell(number, "failed", error=repr(error))
            continue
        tell(number, "committed", o=[[at.partition, offset] for at, offset in offsets.items()])
    consumer.close()
    tell(number, "left")


async def aio(number):
    from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
    from aiokafka.errors import KafkaError

    class Listener(ConsumerRebalanceListener):
        async def on_partitions_assigned(self, assigned):
            tell(number, "assigned", p=[at.partition for at in assigned])

        async def on_partitions_revoked(self, revoked):
            tell(number, "revoked", p=[at.partition for at in revoked])

    consumer = AIOKafkaConsumer(
        bootstrap_servers=BOOTSTRAP,
        group_id=GROUP,
        client_id=f"member-{number}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        metadata_max_age_ms=METADATA_MS,
    )
    consumer.subscribe([TOPIC], listener=Listener())
    await consumer.start()
    while not stop.is_set():
        try:
            batches = await consumer.getmany(timeout_ms=200)
            if not batches:
                continue
            positions = [[at.partition, record.offset] for at, records in batches.items() for record in records]
            tell(number, "read", o=positions)
            offsets = {at: records[-1].offset + 1 for at, records in batches.items()}
            await consumer.commit(offsets)
        except KafkaError as error:
            tell(number, "failed", error=repr(error))
            continue
        tell(number, "committed", o=[[at.partition, offset] for at, offset in offsets.items()])
    await consumer.stop()
    tell(number, "left")


async def crew():
    await asyncio.gather(*(aio(number) for number in range(COUNT)))


def guarded(member, number):
    try:
        member(number)
    except BaseException:
        # A member that ends with an error must not look like one that left on request.
        sys.excepthook(*sys.exc_info())
        os._exit(3)


threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
if LIBRARY == "aiokafka":
    asyncio.run(crew())
else:
    member = {"confluent": confluent, "kafka-python": kafka_python}[LIBRARY]
    threads = [threading.Thread(target=guarded, args=(member, number)) for number in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
