#!/usr/bin/env bash
# Trains and evaluates: bash launch/run.sh --config configs/class_bias.py [--workdir DIR] [--config.field=value ...]
# Installs what it needs into .venv first. The arguments are those of python -m jaxsep.main.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/launch/install.sh" report
# Large pages for large arrays, so that a step on a CPU spends less time on page faults (glibc from 2.35 on; ignored elsewhere).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec "$root/.venv/bin/python" -m jaxsep.main "$@"
