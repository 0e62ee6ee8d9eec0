#!/bin/bash
# Starts the coordinator of this container. The environment overrides the mounted zoo.cfg, if there is one.
file=/mnt/shared/config/zoo.cfg
export COORDINATOR_DATA_DIR="${COORDINATOR_DATA_DIR:-${ZOOKEEPER_DATA_DIR:-/var/lib/zookeeper/data}}"
if [ -f "$file" ]; then exec ottla-coordinator "$file" "$@"; fi
exec ottla-coordinator "$@"
