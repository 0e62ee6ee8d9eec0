#!/usr/bin/env python3
"""validate_kubernetes.py FILE…: checks manifests against Kubernetes' own schemas, which know every field, and that the
names in them agree. Prints the number of objects."""
import sys

import kubernetes_validate
import yaml

VERSION = "1.31"
objects = []
for path in sys.argv[1:]:
    with open(path) as file:
        for found in yaml.safe_load_all(file):
            kubernetes_validate.validate(found, VERSION, strict=True)
            objects.append(found)

services = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "Service"}
for stateful in (o for o in objects if o["kind"] == "StatefulSet"):
    spec = stateful["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert services[spec["serviceName"]]["selector"] == labels == spec["selector"]["matchLabels"], spec["serviceName"]
    names = {f"{stateful['metadata']['name']}-{spec['ordinals']['start'] + n}" for n in range(spec["replicas"])}
    (container,) = spec["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} <= ports
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]
    }
    if stateful["metadata"]["name"] == "coordinator":
        for other in objects:
            text = yaml.safe_dump(other)
            if other["kind"] == "StatefulSet":
                assert all(f"{name}.{spec['serviceName']}:2181" in text for name in names), other["metadata"]["name"]
budgets = [o["spec"]["selector"]["matchLabels"] for o in objects if o["kind"] == "PodDisruptionBudget"]
assert all(o["spec"]["selector"]["matchLabels"] in budgets for o in objects if o["kind"] == "StatefulSet")
print(len(objects))
