#!/usr/bin/env bash
# Make .venv and install Tokenyard into it, once for each state of pyproject.toml. With --dev: the tools of tests, too.
# $PYTHON chooses the interpreter. A CUDA build of torch is downloaded only where there is an NVIDIA GPU.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

torch=2.13.0  # the CPU wheel that the tests run on; pyproject.toml has the range
cpu_index=https://download.pytorch.org/whl/cpu
extra=""
if [[ ${1:-} == --dev ]]; then extra="[dev]"; fi

stamp=.venv/tokenyard.stamp
state="$root $(sha256sum <pyproject.toml)"  # a checkout that was moved is set up again
done_before=$(cat "$stamp" 2>/dev/null || true)
if [[ $done_before == "$state $extra" || $done_before == "$state [dev]" ]]; then exit 0; fi

say() { printf 'setup: %s\n' "$*" >&2; }

fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null && fits "$candidate"; then
      command -v "$candidate"
      return
    fi
    if [[ $candidate == "${PYTHON:-}" ]]; then break; fi
  done
  say "Python 3.11 or newer with venv is needed${PYTHON:+, and PYTHON=$PYTHON is not that}."
  say "On Debian and Ubuntu: apt install python3 python3-venv. Or set PYTHON to an interpreter."
  return 1
}

torch_fits() {  # the range of pyproject.toml
  "$1" -c '
import sys
from importlib.metadata import version
sys.exit(not (2, 11) <= tuple(int(part) for part in version("torch").split(".")[:2]) < (2, 14))' 2>/dev/null
}

install() {
  local quiet=--quiet
  if [[ -t 1 ]]; then quiet=--progress-bar=on; fi
  # setuptools warns at length of packages in a root folder, which is our layout
  PYTHONWARNINGS=ignore .venv/bin/python -m pip install "$quiet" "$@"
}

install_torch() {  # its own needs come with ours, from the usual index
  if torch_fits .venv/bin/python; then
    say "a fitting torch is there already"
  elif nvidia-smi -L >/dev/null 2>&1; then
    say "there is an NVIDIA GPU: torch comes with CUDA (over 2 GB)"
  elif install --no-index --no-deps "torch==$torch" 2>/dev/null; then
    say "took torch $torch from pip's find-links"
  elif say "fetching torch $torch for the CPU from $cpu_index (200 MB)" &&
    install --index-url "$cpu_index" --no-deps --retries 1 --timeout 15 "torch==$torch"; then
    :
  else
    say "that index cannot be reached: PyPI's torch it is, which on Linux x86 brings CUDA along (over 2 GB)"
  fi
}

link_types() {  # mypy's view of the namespace: pyproject.toml, mypy_path
  mkdir -p .typing/tokenyard
  local room
  for room in broker workers http scripts; do ln -sfn "../../$room" ".typing/tokenyard/$room"; done
}

started=$SECONDS
if ! fits .venv/bin/python; then
  python=$(find_python)
  say "making .venv with $("$python" --version) ($python)"
  site=()
  if torch_fits "$python"; then site=(--system-site-packages); fi  # a GPU image's own build saves a long download
  "$python" -m venv --clear "${site[@]}" .venv
fi
install_torch
say "installing tokenyard$extra and what it needs"
install --editable ".$extra"
link_types
printf '%s' "$state $extra" >"$stamp"
say "done in $((SECONDS - started)) s"
