#!/usr/bin/env bash
# run-secure.sh DATA: the demonstration of `make run-secure`, after the build. Three coordinators and three brokers show
# each other certificates; clients log in by SCRAM over TLS, and may do what rules allow them.
set -euo pipefail
data=$1
bin=${OTTLA_BIN_DIR:?run it through make}
ottla=$bin/ottla
brokers=127.0.0.1:29092,127.0.0.1:39092,127.0.0.1:49092
certificates=$data/certificates
admin=$data/admin.properties
case $bin in
  "$PWD"/*) shown=${bin#"$PWD"/} ;;
  *) shown=$bin ;;
esac
step() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }

step "An authority, and a certificate for each process and for the administrator"
"$(dirname "$0")"/certs.sh "$certificates" coordinator-{1,2,3} broker-{1,2,3} admin | grep -v properties

ca=$(cd "$certificates" && pwd)/ca.pem

step "Three coordinators and three brokers"
"$ottla" local start --dir "$data" --certificates "$certificates"

step "A topic, two users, and a rule: alice may write and read it"
"$ottla" topic create my-topic --partitions 2 --replication-factor 3 --if-not-exists \
  --bootstrap-server "$brokers" --command-config "$admin"
for user in alice bob; do
  password=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
  "$bin"/kafka-configs --bootstrap-server "$brokers" --command-config "$admin" --alter --entity-type users \
    --entity-name "$user" --add-config "SCRAM-SHA-512=[password=$password]"
  module=org.apache.kafka.common.security.scram.ScramLoginModule
  # For Kafka's tools and clients of Java, and for those of librdkafka.
  (umask 077; printf '%s\n' "security.protocol=SASL_SSL" "sasl.mechanism=SCRAM-SHA-512" \
    "sasl.jaas.config=$module required username=\"$user\" password=\"$password\";" \
    "ssl.truststore.type=PEM" "ssl.truststore.location=$ca" > "$data/$user.properties"
    printf '%s\n' "bootstrap.servers=$brokers" "security.protocol=SASL_SSL" "sasl.mechanism=SCRAM-SHA-512" \
    "sasl.username=$user" "sasl.password=$password" "ssl.ca.location=$ca" > "$data/$user.kcat")
done
"$bin"/kafka-acls --bootstrap-server "$brokers" --command-config "$admin" --add --allow-principal User:alice \
  --producer --consumer --topic my-topic --group '*'

step "alice writes two records, and reads them"
printf '%s\n' hello "this is alice" |
  "$ottla" produce my-topic --bootstrap-server "$brokers" --command-config "$data/alice.properties"
"$ottla" consume my-topic --from-beginning --exit-at-end --bootstrap-server "$brokers" \
  --command-config "$data/alice.properties"

step "bob may not"
if "$ottla" consume my-topic --from-beginning --exit-at-end --bootstrap-server "$brokers" \
  --command-config "$data/bob.properties"; then
  echo "bob has read what he may not" >&2
  exit 1
fi

step "The coordinators, as the administrator sees them"
"$ottla" quorum members --coordinators 127.0.0.1:22181,127.0.0.1:32181,127.0.0.1:42181 --command-config "$admin"

step "Try next"
stop="make stop"
[ "$data" = data ] || stop+=" DATA=$data"
cat <<X
  $shown/kafka-topics --list --bootstrap-server 127.0.0.1:29092 --command-config $data/alice.properties
  kcat -F $data/alice.kcat -L                any client of librdkafka; those of Java take $data/alice.properties
  $shown/kafka-acls --list --bootstrap-server 127.0.0.1:29092 --command-config $admin
  $shown/ottla tree ls / --coordinators 127.0.0.1:22181 --command-config $admin
  $stop                                  stops all processes; the data stays in $data/
X
