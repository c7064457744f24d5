#!/usr/bin/env bash
# Put a pool through the whole fault suite and print what was lost, repeated and wrong: some 12 minutes on two cores.
# docs/reliability.md holds the last run.
#   scripts/faults.sh -k storm    one fault;    scripts/faults.sh --quick    what the test suite runs, a minute or two
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --dev
cd "$root"
selection=""
args=()
for arg in "$@"; do
  if [[ $arg == --quick ]]; then selection="not faults"; else args+=("$arg"); fi
done
exec .venv/bin/python -m pytest tests/faults -m "$selection" --timeout 600 "${args[@]}"
