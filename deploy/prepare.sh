#!/usr/bin/env bash
# prepare.sh toolchain | rocksdb | build | lint | test: installs what a fresh Debian machine with Rust lacks; quick if
# nothing is missing. toolchain: a C compiler, libclang. rocksdb: RocksDB's archive. build: both. lint: rustfmt, clippy.
# test: kcat and a virtual environment with Kafka clients; their paths go to $OTTLA_CACHE/test.env.
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

updated=
install() {
  if ! command -v apt-get >/dev/null; then
    say "apt-get was not found (this is not Debian); please install the equivalents of: $*"
    return 1
  fi
  say "installing $*"
  if [ -z "$updated" ]; then
    as_root apt-get update -qq
    updated=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
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
    if [ -z "$updated" ]; then as_root apt-get update -qq; updated=yes; fi
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
# Streams, if the machine already has Java and Maven.
kafka_jars() {
  local pom=$1 jars="$OTTLA_CACHE/$2"
  if [ ! -f "$jars/ready" ]; then
    command -v java >/dev/null && command -v mvn >/dev/null || return 0
    say "fetching Apache Kafka: $2"
    mvn -q -f "tests/e2e/clients/$pom" dependency:copy-dependencies -DoutputDirectory="$jars" >/dev/null 2>&1 || {
      say "Maven could not fetch the Kafka jars of $pom: their tests are skipped"
      return 0
    }
    touch "$jars/ready"
  fi
  echo "export $3='$jars'"
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
    python_clients | { grep '^export' || true; } > "$OTTLA_CACHE/test.env.new"
    {
      kafka_jars kafka-tools.xml kafka-jars-4.3.0 OTTLA_KAFKA_JARS
      kafka_jars kafka-broker.xml kafka-broker-jars-3.9.2 OTTLA_KAFKA_BROKER_JARS
      kafka_jars kafka-broker-4.xml kafka-broker-jars-4.3.0 OTTLA_KAFKA_BROKER_4_JARS
      kafka_jars kafka-streams.xml kafka-streams-jars-4.3.0 OTTLA_KAFKA_STREAMS_JARS
    } | { grep '^export' || true; } >> "$OTTLA_CACHE/test.env.new"
    mv "$OTTLA_CACHE/test.env.new" "$OTTLA_CACHE/test.env"
    ;;
  *)
    echo "prepare.sh toolchain | rocksdb | build | lint | test" >&2
    exit 2
    ;;
esac
