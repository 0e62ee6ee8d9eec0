#!/usr/bin/env bash
# images.sh: makes the images ottla/coordinator and ottla/broker from the release binaries and this machine's files,
# without a base image or a registry (docs/adr/0003-images-without-a-registry.md).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${OTTLA_BIN_DIR:?run it through make}
version=${OTTLA_VERSION:-latest}
docker=${DOCKER:-docker}

"$docker" version >/dev/null 2>&1 || {
  echo "ottla: no container engine is running; install docker.io and start dockerd" >&2
  exit 1
}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# Copies a file and the shared libraries that it needs, to the paths where the loader looks for them.
add() {
  local file=$1 to=$2 library
  mkdir -p "$root$(dirname "$to")"
  cp -L "$file" "$root$to"
  # Debug information is most of a binary's size and not needed in an image.
  strip --strip-debug "$root$to" 2>/dev/null || true
  { ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true; } | while read -r library; do
    if [ ! -e "$root$library" ]; then
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    fi
  done
}

# The commands that users need in `docker exec` to diagnose a problem.
commands="bash sh cat cp date df du echo env find grep head hostname id kill ls mkdir mv ps pwd rm sed seq sleep sort"
commands+=" stat tail test touch tr wc"
for command in $commands; do
  path=$(type -P "$command") || continue
  add "$path" "/usr/bin/$command"
done
mkdir -p "$root"/{tmp,etc,proc,sys,dev,root,mnt/shared/config} \
  "$root"/var/lib/{kafka/data,zookeeper/data,zookeeper/log}
chmod 1777 "$root/tmp"
ln -s usr/bin "$root/bin"
[ -e "$root/lib" ] || ln -s usr/lib "$root/lib"
printf 'root:x:0:0:root:/root:/bin/bash\n' > "$root/etc/passwd"
printf 'root:x:0:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
cp LICENSE "$root/LICENSE"

add "$bin/ottla" /usr/bin/ottla
# The links with Kafka's tool names that `make build` made.
for link in "$bin"/kafka-*; do
  [ -L "$link" ] || continue
  tool=${link##*/}
  ln -s ottla "$root/usr/bin/$tool"
  ln -s ottla "$root/usr/bin/$tool.sh"
done

import() { # name binary options…
  local name=$1 binary=$2
  shift 2
  add "$bin/$binary" "/usr/bin/$binary"
  install -m 755 "deploy/entrypoint-$name.sh" "$root/usr/bin/entrypoint"
  tar -C "$root" --owner=0 --group=0 --numeric-owner -c . |
    "$docker" import -c 'ENTRYPOINT ["/usr/bin/entrypoint"]' -c 'ENV PATH=/usr/bin' "$@" - \
      "ottla/$name:$version" >/dev/null
  rm "$root/usr/bin/$binary"
  echo "ottla: made ottla/$name:$version"
}

import coordinator ottla-coordinator \
  -c 'ENV COORDINATOR_HTTP_PORT=9405' -c 'EXPOSE 2181 2888 9405' \
  -c 'VOLUME ["/var/lib/zookeeper/data"]'
import broker ottla-broker \
  -c 'ENV KAFKA_HTTP_PORT=9404 OTTLA_BOOTSTRAP=localhost:9092' -c 'EXPOSE 9092 9404' \
  -c 'VOLUME ["/var/lib/kafka/data"]'
