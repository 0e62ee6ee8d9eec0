#!/bin/bash
# Starts the broker of this container: a mounted properties file, where there is one, below the environment.
file=/mnt/shared/config/server.properties
export KAFKA_LOG_DIRS="${KAFKA_LOG_DIRS:-/var/lib/kafka/data}"
if [ -f "$file" ]; then exec ottla-broker "$file" "$@"; fi
exec ottla-broker "$@"
