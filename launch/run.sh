#!/usr/bin/env bash
# Trains and evaluates: bash launch/run.sh --config configs/class_bias.py [--workdir DIR] [--config.field=value ...]
# Installs what it needs into .venv first. The arguments are those of python -m jaxsep.main.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/launch/install.sh" report
exec "$root/.venv/bin/python" -m jaxsep.main "$@"
