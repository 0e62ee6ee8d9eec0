#!/usr/bin/env bash
# images.sh: makes ottla/coordinator and ottla/broker from the release binary and this machine's files, without a base
# image or a registry (docs/adr/0003-images-without-a-registry.md). Both have the same one layer; only what they start
# differs.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${OTTLA_BIN_DIR:?run it through make}
version=${OTTLA_VERSION:-latest}
docker=${DOCKER:-docker}

"$docker" version >/dev/null 2>&1 || {
  echo "ottla: no container engine answers; install docker.io and start dockerd" >&2
  exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# A file with the shared libraries that it needs, at the paths where the loader looks for them.
add() {
  local file=$1 to=$2 library
  mkdir -p "$root$(dirname "$to")"
  cp -L "$file" "$root$to"
  # Line tables and symbols are for those who build; they are most of a binary's size.
  strip "$root$to" 2>/dev/null || true
  { ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true; } | while read -r library; do
    if [ ! -e "$root$library" ]; then
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    fi
  done
}

# A directory that every user may write to; new volumes inherit the mode.
open_directory() {
  mkdir -p "$root$1"
  chmod 777 "$root$1"
}

# What people type in `docker exec` and write into commands and health checks.
commands="awk base64 basename bash cat chmod chown cp cut date df dirname du echo env expr false find grep
  head hostname id kill ln ls mkdir mktemp mv nproc printenv printf ps pwd readlink rm sed seq sh
  sleep sort stat tail tee test timeout touch tr true uname uniq wc which whoami xargs yes"
for command in $commands; do
  path=$(type -P "$command") || continue
  add "$path" "/usr/bin/$command"
done
mkdir -p "$root"/{etc/kafka/secrets,etc/zookeeper/secrets,proc,sys,dev,root,mnt/shared/config} \
  "$root"/{home/appuser,usr/local/bin}
ln -s usr/bin "$root/bin"
[ -e "$root/lib" ] || ln -s usr/lib "$root/lib"
printf '%s\n' root:x:0:0:root:/root:/bin/bash appuser:x:1000:1000::/home/appuser:/bin/bash \
  kafka:x:1001:1001::/:/bin/bash > "$root/etc/passwd"
printf 'root:x:0:\nappuser:x:1000:\nkafka:x:1001:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
cp LICENSE "$root/LICENSE"
open_directory /tmp
chmod 1777 "$root/tmp"
for directory in /var/lib/kafka/data /var/lib/kafka/log /var/lib/zookeeper/data /var/lib/zookeeper/log \
  /bitnami/kafka /bitnami/zookeeper /kafka /kafka/data /zookeeper/data /data /opt/kafka/logs; do
  open_directory "$directory"
done

# Programs under the names, and at the places, that the images have which these replace.
add "$bin/ottla" /usr/bin/ottla
tools="$(cd "$bin" && for link in kafka-*; do [ -L "$link" ] && echo "$link"; done)"
# The last one only says what to use instead.
tools="$tools kafka-server-start zookeeper-server-start kafka-storage zookeeper-shell kafka-run-class"
mkdir -p "$root/opt/kafka/bin" "$root/kafka/bin" "$root/opt/bitnami" "$root/opt/zookeeper/bin"
for tool in $tools; do
  ln -sf ottla "$root/usr/bin/$tool"
  ln -sf ottla "$root/usr/bin/$tool.sh"
  for place in opt/kafka kafka; do ln -sf /usr/bin/ottla "$root/$place/bin/$tool.sh"; done
done
for program in cub ub dub nc start-kafka.sh zkCli.sh zkServer.sh; do ln -sf ottla "$root/usr/bin/$program"; done
ln -s /opt/kafka "$root/opt/bitnami/kafka"
ln -s /opt/zookeeper "$root/opt/bitnami/zookeeper"
for script in zkCli.sh zkServer.sh; do ln -s /usr/bin/ottla "$root/opt/zookeeper/bin/$script"; done
# The directories of the official ZooKeeper image, whose name is its version: commands and checks name them.
for release in 3.5.{5..10} 3.6.{0..4} 3.7.{0..2} 3.8.{0..5} 3.9.{0..4}; do
  ln -s opt/zookeeper "$root/apache-zookeeper-$release-bin"
done
for release in 3.4.{9..14}; do ln -s opt/zookeeper "$root/zookeeper-$release"; done
cp -r deploy/image/. "$root/"
# Start scripts are changed in place by some deployments, by whichever user.
chmod -R a+rwX "$root"/etc/confluent "$root"/etc/kafka "$root"/opt/kafka/config
find "$root"/etc/confluent "$root"/etc/kafka/docker "$root"/opt/bitnami/scripts "$root"/usr/bin/entrypoint \
  -type f -exec chmod a+rx {} +

tar -C "$root" --owner=0 --group=0 --numeric-owner --sort=name -c . > "$work/layer.tar"

import() { # name options…
  local name=$1
  shift
  "$docker" import -c 'ENTRYPOINT ["/usr/bin/entrypoint"]' -c 'WORKDIR /opt/kafka' \
    -c 'ENV PATH=/usr/local/bin:/usr/bin:/opt/kafka/bin' -c 'ENV LANG=C.UTF-8' -c 'ENV OTTLA_USER=1000' \
    -c "ENV OTTLA_SERVICE=$name" \
    -c 'HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["ottla","ready"]' \
    "$@" "$work/layer.tar" "ottla/$name:$version" >/dev/null
  echo "ottla: made ottla/$name:$version"
}

import coordinator -c 'EXPOSE 2181 2888 9405' -c 'VOLUME ["/var/lib/zookeeper/data"]'
import broker -c 'ENV OTTLA_BOOTSTRAP=localhost:9092' -c 'EXPOSE 9092 2181 9404' -c 'VOLUME ["/var/lib/kafka/data"]'
