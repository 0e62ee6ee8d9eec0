#!/bin/bash
# Starts the broker of this container. The environment overrides the mounted properties file, if there is one.
file=/mnt/shared/config/server.properties
export KAFKA_LOG_DIRS="${KAFKA_LOG_DIRS:-/var/lib/kafka/data}"
if [ -f "$file" ]; then exec ottla-broker "$file" "$@"; fi
exec ottla-broker "$@"
