#!/usr/bin/env bash
# Measure Tokenyard beside `transformers serve`: set up what is missing, then `benchmarks/serve_bench.py ARGS`.
#   scripts/bench.sh --quick --servers ours    a minute's look;    scripts/bench.sh --help    all options
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
cd "$root"
if ! .venv/bin/python -c 'import accelerate, httpx, openai' 2>/dev/null; then
  echo "bench: installing what transformers serve needs" >&2
  .venv/bin/python -m pip install --quiet --editable '.[bench]'
fi
exec .venv/bin/python benchmarks/serve_bench.py "$@"
