#!/usr/bin/env bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'END'
Trains a network, evaluates it and prints a table of its results.

    bash launch/run.sh --config configs/class_bias.py[:SCALE] [--workdir DIR]
                       [--config.FIELD=VALUE ...]

Makes .venv where it is missing and installs what is needed. The arguments are those of
python -m jaxsep.main; `.venv/bin/python -m jaxsep.main --help` lists them. At the default scale,
demo, it takes about 2 minutes on 2 CPU cores.
END
}

case ${1:-} in -h | --help) usage && exit ;; esac
bash "$root/launch/install.sh" report
exec "$root/.venv/bin/python" -m jaxsep.main "$@"
