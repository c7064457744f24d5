#!/usr/bin/env bash
# What must be clean besides the tests: lint, format, types, shell.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --dev
cd "$root"
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python -m mypy .typing/tokenyard benchmarks  # the rooms under their names in the namespace
if command -v shellcheck >/dev/null; then
  shellcheck scripts/*.sh .ci/run
else
  echo "check: shellcheck is not there; the shell scripts were not checked"
fi
