#!/usr/bin/env bash
# certs.sh FOLDER [NAME…]: an authority and a certificate for each name (broker and client, if none is given), as PEM
# files for ssl.keystore.type=PEM. What is there already stays. A certificate is good for this machine's names and for
# NAME as a host name; SAN adds others, for example SAN=DNS:kafka-1.example.org,IP:10.0.0.1.
set -euo pipefail
folder=${1:?certs.sh FOLDER [NAME…]}
shift
[ $# -gt 0 ] || set -- broker client
days=${DAYS:-365}
command -v openssl > /dev/null || { echo "certs.sh needs openssl" >&2; exit 1; }
umask 077
mkdir -p "$folder"
cd "$folder"

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2> /dev/null; }

if [ ! -f ca.pem ]; then
  new_key ca.key
  openssl req -x509 -new -key ca.key -out ca.pem -days "$days" -subj "/CN=Ottla authority"
fi
# The name of a process is its id where `ssl.member.id` is set: a host that has such a name shares it with nobody.
host=$(uname -n)
case $host in coordinator-* | broker-*) host= ;; esac
for name; do
  [ ! -f "$name.pem" ] || continue
  new_key "$name.key"
  openssl req -new -key "$name.key" -out "$name.csr" -subj "/CN=$name"
  names=DNS:$name,DNS:localhost${host:+,DNS:$host},IP:127.0.0.1${SAN:+,$SAN}
  openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days "$days" -out "$name.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names") 2> /dev/null
  cat "$name.key" "$name.crt" > "$name.pem"
  rm "$name.csr"
  printf '%s\n' "security.protocol=SSL" "ssl.keystore.type=PEM" "ssl.keystore.location=$PWD/$name.pem" \
    "ssl.truststore.type=PEM" "ssl.truststore.location=$PWD/ca.pem" > "$name.properties"
done
ls -1 "$PWD"/*.pem "$PWD"/*.properties
