#!/usr/bin/env bash
# Known vulnerabilities, by cargo-deny or cargo-audit where one of them is installed. Licences and sources are checked by
# tests/e2e/tests/licences.rs everywhere, without them and without a network.
set -euo pipefail
cd "$(dirname "$0")/.."
if cargo deny --version >/dev/null 2>&1; then
  cargo deny --locked check
else
  echo "ottla: cargo-deny is not installed: advisories were not checked (cargo install cargo-deny)"
fi
