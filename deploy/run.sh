#!/usr/bin/env bash
# run.sh DATA: the demonstration of `make run`, after the build.
set -euo pipefail
data=$1
bin=${OTTLA_BIN_DIR:?run it through make}
ottla=$bin/ottla
brokers=127.0.0.1:29092,127.0.0.1:39092,127.0.0.1:49092
step() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }

case $bin in
  "$PWD"/*) shown=${bin#"$PWD"/} ;;
  *) shown=$bin ;;
esac

step "Three coordinators and three brokers"
started=$("$ottla" local start --dir "$data")
echo "$started"

step "A topic with two partitions, each on three brokers"
"$ottla" topic create my-topic --partitions 2 --replication-factor 3 --if-not-exists --bootstrap-server "$brokers"

step "Writing two records"
records=$'hello\nthis is producer'
echo "$records"
"$ottla" produce my-topic --bootstrap-server "$brokers" <<< "$records"

step "Reading all records"
"$ottla" consume my-topic --from-beginning --exit-at-end --bootstrap-server "$brokers"

step "Where the records are"
"$ottla" topic describe my-topic --bootstrap-server "$brokers"

step "Try next"
stop="make stop"
[ "$data" = data ] || stop+=" DATA=$data"
cat <<X
  kcat -b 127.0.0.1:29092 -L                 any Kafka client works; brokers are on 29092, 39092 and 49092
  kill -9 \$(cat $data/broker-2/pid)           kills a broker; then run $shown/ottla topic describe my-topic
  $shown/ottla local start broker-2 --dir $data
  $shown/ottla local status --dir $data
  $shown/ottla tree ls /                     the cluster's state, as ZooKeeper would show it
  $shown/kafka-topics --list --bootstrap-server 127.0.0.1:29092
  $stop                                  stops all processes; the data stays in $data/
X

step "CPU and memory while idle"
"$ottla" local status --dir "$data" --measure 5
grep ' ready in ' <<< "$started" || true
