#!/usr/bin/env bash
# Checks the dependencies for known vulnerabilities with cargo-deny, if it is installed. tests/e2e/tests/licences.rs
# checks licences and sources on every machine, without cargo-deny and without a network.
set -euo pipefail
cd "$(dirname "$0")/.."
if cargo deny --version >/dev/null 2>&1; then
  cargo deny --locked check
else
  echo "ottla: cargo-deny is not installed: advisories were not checked (cargo install cargo-deny)"
fi
