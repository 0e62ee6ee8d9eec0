#!/usr/bin/env python3
"""zookeeper_client.py HOSTS: a ZooKeeper client (kazoo). Prints one JSON object a line: what it read at first, the
server that it is connected to, the topics each time that they change, and configurations. Reads commands: `delete
TOPIC`, `elect TOPIC PARTITION`, `reassign TOPIC PARTITION REPLICA…` and `configure KIND NAME KEY=VALUE…` as Kafka's old
tools do it, `write` (a node that nobody may write), `sync`, `end`."""
import json
import signal
import sys
import threading

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException, NoNodeError

# A test waits for lines: it fails when this process ends.
signal.alarm(180)
lock = threading.Lock()


def tell(**what):
    with lock:
        print(json.dumps(what), flush=True)


# A session that outlives an election of coordinators on a busy machine: a test wants to see it move.
client = KazooClient(hosts=sys.argv[1], timeout=30, randomize_hosts=False)


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


def configure(kind, name, *entries):
    """As AdminZkClient: data first, the node if there is none, then the notification. Tells of each change of the
    configuration that follows."""
    path, data = f"/config/{kind}/{name}", {"version": 1, "config": dict(entry.split("=", 1) for entry in entries)}
    data = json.dumps(data).encode()
    try:
        client.set(path, data)
    except NoNodeError:
        client.ensure_path(f"/config/{kind}")
        client.create(path, data)
    notice = {"version": 2, "entity_path": f"{kind}/{name}"}
    notified = client.create("/config/changes/config_change_", json.dumps(notice).encode(), sequence=True)
    data, stat = client.get(path)
    tell(configured=name, config=json.loads(data)["config"], version=stat.version, notified=notified)

    @client.DataWatch(path)
    def changed(data, stat, event):
        if event is not None:
            tell(changed=name, config=data and json.loads(data)["config"], event=event.type)


def reassign(topic, partition, replicas):
    """As ReassignPartitionsCommand. Tells when the node of the reassignments is there, and when it is gone."""

    @client.DataWatch("/admin/reassign_partitions")
    def changed(data, stat, event):
        if event is not None:
            tell(reassignments=data and json.loads(data)["partitions"], event=event.type)

    partitions = [{"topic": topic, "partition": partition, "replicas": replicas}]
    client.create("/admin/reassign_partitions", json.dumps({"version": 1, "partitions": partitions}).encode())


for line in sys.stdin:
    command = line.split()
    try:
        if command[0] == "delete":
            client.create(f"/admin/delete_topics/{command[1]}", b"")
        elif command[0] == "elect":
            partitions = [{"topic": command[1], "partition": int(command[2])}]
            election = json.dumps({"version": 1, "partitions": partitions}).encode()
            client.create("/admin/preferred_replica_election", election)
        elif command[0] == "reassign":
            reassign(command[1], int(command[2]), [int(replica) for replica in command[3:]])
        elif command[0] == "configure":
            configure(*command[1:])
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
