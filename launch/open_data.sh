#!/usr/bin/env bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'END'
Fetches open data to train on without licensed corpora (LibriSpeech and ESC-50, 7.8 GB), lays it out
and packs it.

    bash launch/open_data.sh DIR

Makes .venv where it is missing and installs what is needed. Stopped at any point, the same command
goes on with the archive that it was at. It ends with the command that trains on the data.
END
}

case ${1:-} in -h | --help) usage && exit ;; esac
if [ -z "${1:-}" ]; then
    echo "error: DIR is missing: bash launch/open_data.sh DIR" >&2
    exit 2
fi
bash "$root/launch/install.sh" report
exec "$root/.venv/bin/python" -m jaxsep.open_data "$@"
