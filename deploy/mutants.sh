#!/usr/bin/env bash
# mutants.sh [REGEX]: changes the cores one place at a time and reports the changes that neither the simulation nor the
# unit tests detect (docs/mutants.md). REGEX selects mutants by name, such as replication/src/isr.rs.
# SAMPLE=n runs one mutant in n, the same ones each time. Results: target/mutants/mutants.out.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OTTLA_CACHE:=$HOME/.cache/ottla}"
only=${1:-}
version=27.1.0
tools="$OTTLA_CACHE/cargo-mutants-$version"
if [ ! -x "$tools/bin/cargo-mutants" ]; then
  echo "ottla: building cargo-mutants $version once" >&2
  cargo install --quiet --locked --root "$tools" --version "$version" cargo-mutants
fi

# The mutated code: the synchronous cores of replication and of the quorum.
cores=(partition replica-fetcher broker-session quorum-node replication)
arguments=()
for core in "${cores[@]}"; do
  [ -d "crates/$core" ] || continue
  arguments+=(--file "crates/$core/src/**/*.rs" --test-package "ottla-$core")
done
arguments+=(--file 'crates/metadata/src/election/**/*.rs' --file 'crates/metadata/src/controller/**/*.rs')
# The tests that run for each mutant: those of the crates themselves, and the simulation.
arguments+=(--test-package ottla-metadata --test-package ottla-simulation)
# A mutant's name begins with its file.
[ -z "$only" ] || arguments+=(--re "$only")
[ -z "${SAMPLE:-}" ] || arguments+=(--shard "0/$SAMPLE" --sharding round-robin)

# Fewer seeds than in `make test`: each mutant runs all of them, and a few hundred seeds detect nearly every relevant
# change.
export SEEDS=${SEEDS:-200}
# cargo-mutants makes the last folder of the path alone.
mkdir -p target
# Debug builds are incremental. The time limit ends a mutant with an endless loop.
exec "$tools/bin/cargo-mutants" mutants --jobs 1 --output target/mutants --minimum-test-timeout 300 --no-shuffle \
  --exclude '**/tests/**' --exclude '**/tests.rs' --exclude '**/*_tests.rs' "${arguments[@]}" -- --locked
