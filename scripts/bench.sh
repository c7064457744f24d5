#!/usr/bin/env bash
# Measure Tokenyard beside `transformers serve`: set up what is missing, then `benchmarks/serve_bench.py ARGS`. With `engine`
# or `plots` as the first word: `benchmarks/engine_bench.py`, without HTTP, or `benchmarks/plots.py`.
#   scripts/bench.sh --quick --servers ours    a minute's look;    scripts/bench.sh [engine|plots] --help    all options
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
cd "$root"
if ! .venv/bin/python -c 'import accelerate, httpx, matplotlib, openai' 2>/dev/null; then
  echo "bench: installing what transformers serve and the plots need" >&2
  .venv/bin/python -m pip install --quiet --editable '.[bench]'
fi
program=serve_bench
case ${1:-} in
  serve | engine) program=$1_bench && shift ;;
  plots) program=plots && shift ;;
esac
exec .venv/bin/python "benchmarks/$program.py" "$@"
