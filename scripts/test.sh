#!/usr/bin/env bash
# Run the tests: set up what is missing, then `pytest ARGS`. --quick leaves out what is marked slow.
#   scripts/test.sh tests/broker/test_core.py::test_name    one test
#   scripts/test.sh --mcp 2 [ARGS]    with that major version of the MCP SDK; without ARGS, all tests of MCP
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --dev
cd "$root"

with_mcp() {  # before .venv's own, since huggingface_hub[mcp] holds that one to 1.x; fetched once
  local major=$1 site=.venv/mcp$1
  if [[ ! -d $site ]]; then
    printf 'test: fetching mcp %s.x into %s\n' "$major" "$site" >&2
    rm -rf "$site.part"
    .venv/bin/python -m pip install --quiet --target "$site.part" "mcp>=$major,<$((major + 1))" || return
    mv "$site.part" "$site"
  fi
  export PYTHONPATH=$root/$site${PYTHONPATH:+:$PYTHONPATH}
}

args=()
default=()
while (($#)); do
  case $1 in
    --quick) args+=(-m "not slow") ;;
    --mcp)
      with_mcp "$2" || exit 75 # EX_TEMPFAIL: it could not be had
      default=(tests/http/mcp)
      shift
      ;;
    *) args+=("$1") ;;
  esac
  shift
done
if [[ " ${args[*]}" == *" tests"* ]]; then default=(); fi
exec .venv/bin/python -m pytest "${default[@]}" "${args[@]}"
