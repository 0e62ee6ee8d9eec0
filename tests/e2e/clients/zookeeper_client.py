#!/usr/bin/env python3
"""zookeeper_client.py HOSTS: a ZooKeeper client (kazoo). Prints one JSON object a line: what it read at first, the
server that it is connected to, the topics each time that they change. Reads commands: `delete TOPIC` as Kafka's old
tools do it, `write` (a node that nobody may write), `sync`, `end`."""
import json
import signal
import sys
import threading

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException

# A test waits for lines: it fails when this process ends.
signal.alarm(180)
lock = threading.Lock()


def tell(**what):
    with lock:
        print(json.dumps(what), flush=True)


client = KazooClient(hosts=sys.argv[1], timeout=10, randomize_hosts=False)


@client.add_listener
def state(new):
    tell(state=str(new))
    if new == KazooState.CONNECTED:
        client.handler.spawn(lambda: tell(port=client._connection._socket.getpeername()[1]))


client.start(timeout=30)
session = client.client_id[0]
tell(
    children={path: client.get_children(path) for path in ["/", "/brokers", "/brokers/ids", "/config"]},
    broker=json.loads(client.get("/brokers/ids/1")[0]),
    controller=json.loads(client.get("/controller")[0]),
    ephemeral=client.exists("/controller").ephemeralOwner != 0,
    missing=client.exists("/no/such/node") is None,
)


@client.ChildrenWatch("/brokers/topics")
def topics(names):
    tell(topics=sorted(name for name in names if not name.startswith("__")))


for line in sys.stdin:
    command = line.split()
    try:
        if command[0] == "delete":
            client.create(f"/admin/delete_topics/{command[1]}", b"")
        elif command[0] == "write":
            client.create("/somewhere", b"data")
        elif command[0] == "sync":
            client.sync("/")
        else:
            break
        tell(done=command[0])
    except KazooException as error:
        tell(failed=command[0], error=type(error).__name__)
tell(same_session=client.client_id[0] == session)
client.stop()
