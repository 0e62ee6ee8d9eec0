#!/usr/bin/env bash
# compose.sh up | down: starts or stops the cluster of compose/docker-compose.yml.
set -euo pipefail
cd "$(dirname "$0")/../compose"
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  echo "ottla: neither 'docker compose' nor docker-compose is installed" >&2
  exit 1
fi
compose+=(-p ottla)
# The secret of the cluster: from the variable, else from the file that the first start makes.
if [ -z "${OTTLA_CLUSTER_SECRET:-}" ]; then
  [ -s .secret ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > .secret)
  OTTLA_CLUSTER_SECRET=$(cat .secret)
fi
export OTTLA_CLUSTER_SECRET
case "${1:-}" in
  up)
    "${compose[@]}" up -d
    # The tool waits for the cluster, so it can run right after the start.
    "${compose[@]}" exec -T kafka-1 kafka-topics --bootstrap-server kafka-1:9092 --create --if-not-exists \
      --topic my-topic --partitions 2 --replication-factor 3
    "${compose[@]}" exec -T kafka-1 kafka-topics --bootstrap-server kafka-1:9092 --describe --topic my-topic
    echo "brokers: localhost:29092, localhost:39092, localhost:49092; 'make down' stops them and keeps their volumes"
    ;;
  down) "${compose[@]}" down ;;
  *)
    echo "compose.sh up | down" >&2
    exit 2
    ;;
esac
