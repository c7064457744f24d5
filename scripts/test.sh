#!/usr/bin/env bash
# Run the tests: set up what is missing, then `pytest ARGS`. --quick leaves out what is marked slow.
#   scripts/test.sh tests/broker/test_core.py::test_name    one test
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --dev
cd "$root"
args=()
for arg in "$@"; do
  if [[ $arg == --quick ]]; then args+=(-m "not slow"); else args+=("$arg"); fi
done
exec .venv/bin/python -m pytest "${args[@]}"
