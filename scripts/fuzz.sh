#!/usr/bin/env bash
# Throw what no peer and no client says at the doors of a pool: exit status 1 at a find. docs/reliability.md has the last run.
#   scripts/fuzz.sh [codec|sockets|jobs|http] [--minutes 10]    without a word: one after the other, each about as long
# codec: bytes at the decoder, led by coverage (atheris); a frame that breaks it is kept. sockets: at all sockets of real
# processes, on ipc and on tcp, and in their broker's name to them, whose answers must stay right. jobs: at an engine,
# whatever the wire can ask of it. http: bodies at every route.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --dev
cd "$root"
python=.venv/bin/python

what=(codec sockets jobs http)
minutes=10
while (($#)); do
  case $1 in
    codec | sockets | jobs | http) what=("$1") ;;
    --minutes) minutes=${2:?fuzz: --minutes N} && shift ;;
    *) printf 'fuzz: no such thing: %s\n' "$1" >&2 && exit 2 ;;
  esac
  shift
done

status=0
for one in "${what[@]}"; do
  case $one in
    codec)
      if ! "$python" -c 'import atheris' 2>/dev/null; then
        echo "fuzz: installing atheris" >&2
        "$python" -m pip install --quiet --editable '.[fuzz]'
      fi
      "$python" tests/support/fuzz_codec.py --minutes "$minutes" || status=1
      ;;
    sockets)
      TOKENYARD_FUZZ_S=$((20 * minutes)) "$python" -m pytest tests/links/test_intruder.py tests/links/test_meddler.py \
        -m faults -s --timeout $((20 * minutes + 300)) || status=1
      ;;
    jobs)
      TOKENYARD_EXAMPLES=$((200 * minutes)) "$python" -m pytest tests/workers/test_wild_jobs.py \
        --timeout $((60 * minutes + 300)) || status=1
      ;;
    http)
      TOKENYARD_EXAMPLES=$((18 * minutes)) "$python" -m pytest tests/http/openapi/test_schemathesis.py \
        --timeout $((60 * minutes + 300)) || status=1
      ;;
  esac
done
exit "$status"
