#!/bin/bash
# Starts the coordinator of this container: a mounted zoo.cfg, where there is one, below the environment.
file=/mnt/shared/config/zoo.cfg
export COORDINATOR_DATA_DIR="${COORDINATOR_DATA_DIR:-${ZOOKEEPER_DATA_DIR:-/var/lib/zookeeper/data}}"
if [ -f "$file" ]; then exec ottla-coordinator "$file" "$@"; fi
exec ottla-coordinator "$@"
