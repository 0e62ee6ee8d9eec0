#!/usr/bin/env python3
"""record.py JARS OUT: starts a Kafka of one process from the jars of its broker and tools (folders, separated by a
colon), runs every command of commands.txt with Kafka's own tools, and writes what they said to OUT, a line of JSON for
each. tests/e2e/tests/goldens.rs compares our tools with it."""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CLASSES = {
    "kafka-client-metrics": "org.apache.kafka.tools.ClientMetricsCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-features": "org.apache.kafka.tools.FeatureCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-groups": "org.apache.kafka.tools.GroupsCommand",
    "kafka-leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
}
# As in the configuration that comes with Kafka's tools.
LOGGING = """log4j.rootLogger=WARN, stderr
log4j.appender.stderr=org.apache.log4j.ConsoleAppender
log4j.appender.stderr.Target=System.err
log4j.appender.stderr.layout=org.apache.log4j.PatternLayout
log4j.appender.stderr.layout.ConversionPattern=[%d] %p %m (%c)%n
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def main():
    jars, out = sys.argv[1:3]
    class_path = ":".join(folder + "/*" for folder in jars.split(":"))
    folder = tempfile.mkdtemp(prefix="goldens-")
    logging = os.path.join(folder, "log4j.properties")
    with open(logging, "w") as file:
        file.write(LOGGING)
    java = ["java", "-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j.configuration=file:{logging}"]
    java += ["-cp", class_path]
    port, controller = free_port(), free_port()
    properties = os.path.join(folder, "server.properties")
    with open(properties, "w") as file:
        file.write(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={folder}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
""")
    form = ["format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", properties]
    subprocess.run(java + ["kafka.tools.StorageTool"] + form, check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(folder, "log"), "w") as log:
        kafka = subprocess.Popen(java + ["kafka.Kafka", properties], stdout=log, stderr=log)
    try:
        while not listens(port):
            if kafka.poll() is not None:
                sys.exit(f"Kafka ended: see {folder}/log")
            time.sleep(0.2)
        record(java, f"127.0.0.1:{port}", folder, out)
    finally:
        kafka.terminate()
        kafka.wait()


def record(java, bootstrap, folder, out):
    unescaped = lambda text: text.replace("\\n", "\n").replace("\\t", "\t")
    stdin = ""
    with open(os.path.join(HERE, "commands.txt")) as commands, open(out, "w") as said:
        for line in commands:
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            if line.startswith("<<"):
                stdin = unescaped(line[2:])
            elif line.startswith("@file "):
                _, name, text = line.split(" ", 2)
                with open(os.path.join(folder, name), "w") as file:
                    file.write(unescaped(text))
            elif line == "@settle":
                time.sleep(3)
            else:
                words = line.replace("{DIR}", folder).split(" ")
                arguments = words[1:] + (["--bootstrap-server", bootstrap] if words[1:] else [])
                command = java + [CLASSES[words[0]]] + arguments
                ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
                # Frames of Java's stack are no words of a tool.
                frame = lambda text: text.startswith(("\tat ", "\t... "))
                lines = lambda text: "".join(part for part in text.splitlines(True) if not frame(part))
                plain = lambda text: lines(text).replace(bootstrap, "HOST").replace(folder, "DIR")
                one = {"line": line, "out": plain(ended.stdout), "err": plain(ended.stderr), "code": ended.returncode}
                said.write(json.dumps(one) + "\n")
                said.flush()
                stdin = ""


main()
