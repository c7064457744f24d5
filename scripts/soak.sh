#!/usr/bin/env bash
# Mixed traffic against a pool for some minutes, and whether the memory of each process stays flat: exit status 1 if not.
# docs/reliability.md has the last run.
#   scripts/soak.sh --minutes 30
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --dev
cd "$root"
exec .venv/bin/python benchmarks/soak.py "$@"
