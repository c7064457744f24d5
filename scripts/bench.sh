#!/usr/bin/env bash
# Measure Tokenyard beside `transformers serve`: set up what is missing, then `benchmarks/serve_bench.py ARGS`. The first word
# may name another program: `engine` is `benchmarks/engine_bench.py`, without HTTP; `start` is `benchmarks/start_bench.py`;
# `api` is `benchmarks/api_bench.py`, the API layer alone; `relay` is `benchmarks/relay_bench.py`, 1,000 streams through a
# front from workers without a model; `curve` is `benchmarks/curve_bench.py`, encryption between machines; `plots` is
# `benchmarks/plots.py`; `cpu DIR` makes all tables and plots of docs/performance.md for a CPU: some 15 minutes on two quiet
# cores.
#   scripts/bench.sh --quick --servers ours    a minute's look;    scripts/bench.sh [engine|start|api|relay|curve|plots] --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
cd "$root"
python=.venv/bin/python
if ! "$python" -c 'import accelerate, httpx, matplotlib, openai' 2>/dev/null; then
  echo "bench: installing what transformers serve and the plots need" >&2
  "$python" -m pip install --quiet --editable '.[bench]'
fi
case ${1:-} in
  engine | start | api | relay | curve) exec "$python" "benchmarks/$1_bench.py" "${@:2}" ;;
  plots) shift && exec "$python" benchmarks/plots.py "$@" ;;
  cpu) shift ;;
  *) [[ ${1:-} == serve ]] && shift
    exec "$python" benchmarks/serve_bench.py "$@" ;;
esac

# cpu DIR [ARGS of both programs, such as --dtype bfloat16]
out=${1:?bench: cpu DIR: say where tables and figures go} && shift
mkdir -p "$out"
"$python" benchmarks/serve_bench.py --model qwen3-60m --rounds 2 --out "$out/cpu-serve.json" "$@" | tee "$out/cpu-serve.md"
"$python" benchmarks/engine_bench.py --model qwen3-60m --rounds 2 --requests 0 --out "$out/cpu-engine.json" "$@" | tee "$out/cpu-engine.md"
"$python" benchmarks/start_bench.py | tee "$out/cpu-start.md"
for figures in "$out"/cpu-{serve,engine}.json; do
  "$python" benchmarks/plots.py "$figures" docs/plots
done
