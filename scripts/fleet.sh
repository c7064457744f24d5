#!/usr/bin/env bash
# A pool as separate processes, each with its own log and pid file in the run directory:
#   scripts/fleet.sh up FLEET.toml | status | down
# The run directory is $TOKENYARD_RUN_DIR, else one per user under /tmp.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run_dir=${TOKENYARD_RUN_DIR:-/tmp/tokenyard-fleet-$UID}
tokenyard=$root/.venv/bin/tokenyard
grace_s=35  # for running streams: the processes' own drain time of 30 s and a little

usage() {
  sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

alive() {  # PID_FILE: whether its process lives and is ours, for pids are used again
  grep -qsaF "$run_dir" "/proc/$(<"$1")/cmdline"
}

up() {
  local file=$1 plan name arguments
  "$root/scripts/setup.sh"
  (umask 077 && mkdir -p "$run_dir")
  plan=$("$tokenyard" fleet-plan "$file" "$run_dir")
  while IFS=$'\t' read -r name arguments; do
    if [[ -f $run_dir/$name.pid ]] && alive "$run_dir/$name.pid"; then
      echo "fleet: $name is up already"
      continue
    fi
    eval "setsid nohup \"\$tokenyard\" $arguments </dev/null >>\"\$run_dir/\$name.log\" 2>&1 &"  # quoted by fleet-plan
    echo "$!" >"$run_dir/$name.pid"
    echo "fleet: started $name (pid $!, log $run_dir/$name.log)"
  done <<<"$plan"
}

status() {
  local file
  for file in "$run_dir"/*.pid; do
    [[ -f $file ]] || continue
    printf '%-10s pid %-8s %s\n' "$(basename "$file" .pid)" "$(<"$file")" "$(alive "$file" && echo up || echo down)"
  done
  "$tokenyard" status --run-dir "$run_dir"
}

end() {  # PID_FILE...: SIGTERM to all at once, SIGKILL to what is left after the grace
  local file deadline=$((SECONDS + grace_s))
  for file in "$@"; do if alive "$file"; then kill "$(<"$file")"; fi; done
  for file in "$@"; do
    while alive "$file" && ((SECONDS < deadline)); do sleep 0.1; done
    if alive "$file"; then kill -9 "$(<"$file")"; fi
    rm -f "$file"
    echo "fleet: ended $(basename "$file" .pid)"
  done
}

down() {  # who gives work to others goes first
  local role
  for role in front agent broker; do
    local files=("$run_dir/$role"*.pid)
    if [[ -f ${files[0]} ]]; then end "${files[@]}"; fi
  done
}

case ${1:-} in
  up) [[ $# == 2 ]] || usage; up "$2" ;;
  status) status ;;
  down) down ;;
  *) usage ;;
esac
