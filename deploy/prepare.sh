#!/usr/bin/env bash
# prepare.sh toolchain | rocksdb | build | lint | test: installs what a fresh Debian machine with Rust lacks; quick if
# nothing is missing. toolchain: a C compiler, libclang. rocksdb: RocksDB's archive. build: both. lint: rustfmt, clippy.
# test: kcat and a virtual environment with Kafka clients; their paths go to $OTTLA_CACHE/test.env. With
# OTTLA_CONTAINERS=yes also Debian's container engine (which is started), docker-compose and Prometheus.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OTTLA_CACHE:=$HOME/.cache/ottla}" "${ROCKSDB_LIB_DIR:?run it through make}"
mkdir -p "$OTTLA_CACHE"

say() { printf 'ottla: %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    say "please install as root: ${*: -1}"
    return 1
  fi
}

# A machine that has just started often updates itself: apt then waits for its lock instead of giving up.
apt=(apt-get -o DPkg::Lock::Timeout=300 -qq)

updated=
install() {
  if ! command -v apt-get >/dev/null; then
    say "apt-get was not found (this is not Debian); please install the equivalents of: $*"
    return 1
  fi
  say "installing $*"
  if [ -z "$updated" ]; then
    as_root "${apt[@]}" update
    updated=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# bindgen loads libclang at run time and needs its headers, not the compiler.
have_libclang() {
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null &&
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
}

libclang_packages() {
  local version
  version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -1)
  printf 'libclang1-%s\nlibclang-common-%s-dev\n' "${version:-14}" "${version:-14}"
}

packages_to_build() {
  if ! command -v cc >/dev/null || ! command -v c++ >/dev/null || ! command -v make >/dev/null; then
    install build-essential
  fi
  if ! have_libclang; then
    if [ -z "$updated" ]; then as_root "${apt[@]}" update; updated=yes; fi
    # shellcheck disable=SC2046
    install $(libclang_packages)
  fi
}

# The archive alone. Later builds of every profile link it (docs/adr/0001-one-rocksdb-archive.md).
rocksdb() {
  [ -f "$ROCKSDB_LIB_DIR/librocksdb.a" ] && return
  say "building RocksDB once: about two minutes on two cores; later builds and clones use $ROCKSDB_LIB_DIR"
  mkdir -p "$ROCKSDB_LIB_DIR"
  deploy/rocksdb.sh "$ROCKSDB_LIB_DIR"
}

rust_components() {
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
  say "adding rustfmt and clippy"
  rustup component add rustfmt clippy
}

python_clients() {
  local venv="$OTTLA_CACHE/venv" stamp
  stamp=$(sha256sum tests/e2e/clients/requirements.txt | cut -c1-16)
  if [ ! -f "$venv/ready-$stamp" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || install python3 python3-venv
    say "making the virtual environment of the Kafka clients"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/e2e/clients/requirements.txt
    touch "$venv/ready-$stamp"
  fi
  echo "export OTTLA_PYTHON='$venv/bin/python'"
}

# kafka_jars POM FOLDER VARIABLE: fetches Kafka's own tools and Java producer, its broker and DumpLogSegments, or
# Streams or Testcontainers, if the machine already has Java and Maven.
kafka_jars() {
  local pom=$1 jars="$OTTLA_CACHE/$2"
  if [ ! -f "$jars/ready" ]; then
    command -v java >/dev/null && command -v mvn >/dev/null || return 0
    say "fetching $2"
    mvn -q -f "tests/e2e/clients/$pom" dependency:copy-dependencies -DoutputDirectory="$jars" >/dev/null 2>&1 || {
      say "Maven could not fetch the jars of $pom: their tests are skipped"
      return 0
    }
    touch "$jars/ready"
  fi
  echo "export $3='$jars'"
}

# go_program NAME VARIABLE: builds tests/e2e/clients/NAME, if the machine already has Go: about a minute on two cores,
# once.
go_program() {
  local folder=tests/e2e/clients/$1 program
  command -v go >/dev/null || return 0
  program="$OTTLA_CACHE/$1-$(cat "$folder"/go.sum "$folder"/*.go | sha256sum | cut -c1-16)"
  if [ ! -x "$program" ]; then
    say "building $1"
    timeout 600 go build -C "$folder" -o "$program" . >/dev/null 2>&1 || {
      say "Go could not build $folder: its tests are skipped"
      return 0
    }
  fi
  echo "export $2='$program'"
}

# kafkajs, if the machine already has Node: it depends on nothing.
kafkajs() {
  local folder="$OTTLA_CACHE/kafkajs-2.2.4"
  command -v node >/dev/null && command -v npm >/dev/null || return 0
  if [ ! -f "$folder/node_modules/kafkajs/package.json" ]; then
    say "fetching kafkajs"
    mkdir -p "$folder"
    timeout 300 npm install --silent --ignore-scripts --prefix "$folder" kafkajs@2.2.4 >/dev/null 2>&1 || {
      say "npm could not fetch kafkajs: its test is skipped"
      return 0
    }
  fi
  echo "export OTTLA_KAFKAJS='$folder/node_modules'"
}

# grpcurl, if the machine already has Go: a minute on two cores, once.
grpcurl() {
  local program="$OTTLA_CACHE/grpcurl-1.9.3"
  command -v go >/dev/null || return 0
  if [ ! -x "$program/grpcurl" ]; then
    say "building grpcurl"
    GOBIN="$program" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 >/dev/null 2>&1 || {
      say "Go could not build grpcurl: its test is skipped"
      return 0
    }
  fi
  echo "export OTTLA_GRPCURL='$program/grpcurl'"
}

# An engine and a service of its own are more than a test may put on a machine unasked.
containers() {
  if docker version >/dev/null 2>&1 && command -v docker-compose >/dev/null && command -v prometheus >/dev/null; then
    return
  fi
  if [ "${OTTLA_CONTAINERS:-}" != yes ]; then
    say "tests in containers and with Prometheus need a running engine, docker-compose and Prometheus:" \
      "OTTLA_CONTAINERS=yes installs and starts Debian's"
    return
  fi
  command -v dockerd >/dev/null || install docker.io || return 0
  command -v docker-compose >/dev/null || install docker-compose || true
  command -v prometheus >/dev/null || install prometheus || true
  docker version >/dev/null 2>&1 || start_engine
}

start_engine() {
  say "starting dockerd; its log is $OTTLA_CACHE/dockerd.log"
  # Nothing of this run may wait for it.
  as_root setsid nohup dockerd --data-root "$OTTLA_CACHE/docker" </dev/null >"$OTTLA_CACHE/dockerd.log" 2>&1 &
  for _ in $(seq 60); do
    docker version >/dev/null 2>&1 && return
    sleep 0.5
  done
  say "dockerd does not answer: tests in containers are skipped"
}

case "${1:-}" in
  toolchain)
    packages_to_build
    ;;
  rocksdb)
    rocksdb
    ;;
  build)
    packages_to_build
    rocksdb
    ;;
  lint)
    rust_components
    ;;
  test)
    command -v kcat >/dev/null || install kcat
    command -v faketime >/dev/null || install faketime || true
    containers
    python_clients | { grep '^export' || true; } > "$OTTLA_CACHE/test.env.new"
    {
      kafka_jars kafka-tools.xml kafka-jars-4.3.0 OTTLA_KAFKA_JARS
      kafka_jars kafka-broker.xml kafka-broker-jars-3.9.2 OTTLA_KAFKA_BROKER_JARS
      kafka_jars kafka-broker-4.xml kafka-broker-jars-4.3.0 OTTLA_KAFKA_BROKER_4_JARS
      kafka_jars kafka-streams.xml kafka-streams-jars-4.3.0 OTTLA_KAFKA_STREAMS_JARS
      kafka_jars testcontainers.xml testcontainers-jars-1.21.3 OTTLA_TESTCONTAINERS_JARS
      go_program testcontainers-go OTTLA_TESTCONTAINERS_GO
      go_program login-cases-go OTTLA_LOGIN_CASES_GO
      kafkajs
      grpcurl
    } | { grep '^export' || true; } >> "$OTTLA_CACHE/test.env.new"
    mv "$OTTLA_CACHE/test.env.new" "$OTTLA_CACHE/test.env"
    ;;
  *)
    echo "prepare.sh toolchain | rocksdb | build | lint | test" >&2
    exit 2
    ;;
esac
