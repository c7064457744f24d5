#!/usr/bin/env bash
# Serve from this checkout: set up what is missing, then `tokenyard serve ARGS`. No arguments: the bundled demo model.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
exec "$root/.venv/bin/tokenyard" serve "$@"
