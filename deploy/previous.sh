#!/usr/bin/env bash
# previous.sh: builds the previous release, whose commit deploy/previous-release names, once, and prints the folder of
# its binaries. It is built as it was then, by its own Makefile, from its own files.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OTTLA_CACHE:=$HOME/.cache/ottla}"
commit=$(cat deploy/previous-release)
out="$OTTLA_CACHE/previous-release/$commit"

say() { printf 'ottla: %s\n' "$*" >&2; }

if [ ! -f "$out/ready" ]; then
  if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    say "this clone lacks commit $commit, the previous release: git fetch --unshallow, or git fetch origin $commit"
    exit 1
  fi
  say "building the previous release, $commit, once: as long as a first build of this one"
  rm -rf "$out"
  mkdir -p "$out/source"
  # An archive, not a worktree: nothing of it is left in the clone's .git.
  git archive "$commit" | tar -x -C "$out/source"
  # Its own target directory: binaries of both releases have the same names.
  env -u MAKEFLAGS -u MAKELEVEL CARGO_TARGET_DIR="$out/target" make -C "$out/source" build >&2
  mv "$out"/target/release/{ottla,ottla-broker,ottla-coordinator} "$out/"
  rm -rf "$out/target" "$out/source"
  touch "$out/ready"
fi
echo "$out"
