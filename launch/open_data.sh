#!/usr/bin/env bash
# Open data instead of licensed corpora, fetched, laid out and packed: bash launch/open_data.sh DIR
# Installs what it needs into .venv first. Stopped at any point, the same command goes on.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -eq 0 ]; then
    echo "error: DIR is missing: bash launch/open_data.sh DIR" >&2
    exit 2
fi
bash "$root/launch/install.sh" report
exec "$root/.venv/bin/python" -m jaxsep.open_data "$@"
