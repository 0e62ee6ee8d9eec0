#!/usr/bin/env bash
# run.sh DATA: what `make run` shows once the binaries are there.
set -euo pipefail
data=$1
bin=${OTTLA_BIN_DIR:?run it through make}
ottla=$bin/ottla
brokers=127.0.0.1:29092,127.0.0.1:39092,127.0.0.1:49092
step() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }

step "Three coordinators and three brokers"
"$ottla" local start --dir "$data" | tee "$data.start"
ready=$(tail -1 "$data.start")
rm -f "$data.start"

step "A topic with two partitions, each on three brokers"
"$ottla" topic create my-topic --partitions 2 --replication-factor 3 --if-not-exists --bootstrap-server "$brokers"

step "Two records in"
printf 'hello\nthis is producer\n' | tee /dev/stderr | "$ottla" produce my-topic --bootstrap-server "$brokers"

step "Everything out"
"$ottla" consume my-topic --from-beginning --exit-at-end --bootstrap-server "$brokers"

step "Who has it"
"$ottla" topic describe my-topic --bootstrap-server "$brokers"

step "What they cost while nothing happens"
"$ottla" local status --dir "$data" --measure 5
echo "$ready"

step "Try next"
cat <<X
  kcat -b 127.0.0.1:29092 -L                              any Kafka client works: brokers are on 29092, 39092, 49092
  $bin/kafka-topics --bootstrap-server 127.0.0.1:29092 --list
  kill -9 \$(cat $data/broker-2/pid); $ottla topic describe my-topic
  $ottla local start broker-2 --dir $data; $ottla local status --dir $data
  $ottla tree ls / --coordinators 127.0.0.1:22181         the cluster's state, as ZooKeeper would show it
  make stop                                               ends it; the data stays in $data/
X
