#!/usr/bin/env bash
# Runs every test of the workspace, in two halves side by side: end-to-end tests mostly wait for their processes, and
# tests of the cores mostly calculate. A pattern and its negation choose the halves by the names of the test targets, so
# that a new one belongs to one of them; both take about the same time. `local` and `containers` want the same ports and
# are in one half. No binary has tests of its own (tests/e2e/tests/layers.rs checks that). The second half is printed
# when it has ended.
set -uo pipefail
cd "$(dirname "$0")/.."
# Always the whole workspace: for one package cargo would choose other features of its dependencies, and compile dozens
# of them again.
test=(cargo test --workspace --locked --no-fail-fast)

"${test[@]}" --no-run || exit

printed=$(mktemp)
trap 'rm -f "$printed"' EXIT
trap 'trap - TERM; kill 0' INT TERM
"${test[@]}" --test '[g-km-z]*' >"$printed" 2>&1 &
second=$!
result=0
"${test[@]}" --lib --test '[!g-km-z]*' || result=$?
"${test[@]}" --doc || result=$?
wait "$second" || result=$?
cat "$printed"
# The tests with random input once more, for some seconds each.
FUZZ_SECS=20 "${test[@]}" --test admin_requests --test batches --test members --test requests || result=$?
exit "$result"
