"""A client of the admin API, generated from proto/ as users generate one: admin_api.py COORDINATOR PROTO_FOLDER

Each step prints a line; a step that fails ends the script.
"""
import pathlib
import sys
import tempfile
import time

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from grpc_tools import protoc

TIMEOUT_S = 60


def generated(proto):
    folder = tempfile.mkdtemp()
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    code = protoc.main([
        "protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}",
        "ottla/admin/v1/admin.proto",
    ])
    assert code == 0, f"protoc ended with {code}"
    sys.path.insert(0, folder)
    from ottla.admin.v1 import admin_pb2, admin_pb2_grpc
    return admin_pb2, admin_pb2_grpc


def refused(call, *arguments):
    try:
        call(*arguments, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        for detail in rpc_status.from_call(error).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return f"{error.code().name} {info.domain}/{info.reason}"
        return error.code().name
    raise AssertionError("it was not refused")


def main():
    address, proto = sys.argv[1:]
    pb, stubs = generated(proto)
    channel = grpc.insecure_channel(address)
    admin = stubs.AdminStub(channel)

    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    print("reflection", *sorted(name for name in services if name.startswith(("ottla", "grpc.health"))))
    request = health_pb2.HealthCheckRequest(service="ottla.admin.v1.Admin")
    health = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
    print("health", health_pb2.HealthCheckResponse.ServingStatus.Name(health.status))

    create = pb.CreateTopicRequest(name="python", partitions=3, request_id="one", configs={"retention.ms": "60000"})
    for _ in range(2):
        topic = admin.CreateTopic(create, timeout=TIMEOUT_S).topic
    print("created", topic.name, len(topic.partitions), dict(topic.configs))
    create.request_id = "two"
    print("again", refused(admin.CreateTopic, create))

    names, token = [], ""
    while True:
        request = pb.ListPartitionsRequest(topic="python", page_size=2, page_token=token)
        request.read_mask.paths.append("partition")
        page = admin.ListPartitions(request, timeout=TIMEOUT_S)
        names.append([partition.partition for partition in page.partitions])
        token = page.next_page_token
        if not token:
            break
    print("pages", names)

    resource = pb.ConfigResource(kind="topics", name="python")
    change = pb.ConfigChange(name="cleanup.policy", append="compact")
    altered = admin.AlterConfig(pb.AlterConfigRequest(resource=resource, changes=[change]), timeout=TIMEOUT_S)
    # Another coordinator than the leader may still be behind.
    while True:
        described = admin.DescribeConfig(pb.DescribeConfigRequest(resource=resource), timeout=TIMEOUT_S)
        if described.revision >= altered.revision:
            break
    print("config", *(f"{entry.name}={entry.value}" for entry in described.entries))

    broker = admin.ListBrokers(pb.ListBrokersRequest(), timeout=TIMEOUT_S).brokers[0]
    directories = admin.DescribeLogDirs(pb.DescribeLogDirsRequest(broker=broker.id), timeout=TIMEOUT_S).directories
    print("directories", len(directories), all(directory.total_bytes > 0 for directory in directories))

    groups = admin.ListGroups(pb.ListGroupsRequest(), timeout=TIMEOUT_S).groups
    print("groups", [(group.group, group.state) for group in groups])
    group = admin.DescribeGroup(pb.DescribeGroupRequest(group="readers"), timeout=TIMEOUT_S)
    print("lag", [(lag.topic, lag.partition, lag.committed_offset, lag.end_offset, lag.lag) for lag in group.lags])
    print("unknown", refused(admin.DescribeGroup, pb.DescribeGroupRequest(group="nobody")))

    # The leader counts only members and brokers that it has heard since its election.
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        cluster = admin.ClusterHealth(pb.ClusterHealthRequest(), timeout=TIMEOUT_S)
        if cluster.health == pb.HEALTH_OK or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    print("cluster", pb.Health.Name(cluster.health), cluster.live_brokers, len(cluster.quorum))
    node = admin.GetNode(pb.GetNodeRequest(path="/brokers/topics/python", linearizable=True), timeout=TIMEOUT_S).node
    print("node", node.path, node.children)
    deleted = admin.DeleteTopic(pb.DeleteTopicRequest(name="python"), timeout=TIMEOUT_S)
    print("deleted", deleted.revision > 0)


main()
