#!/usr/bin/env bash
# Lint, types, tests and doctests, on the CPU: bash launch/test.sh [pytest arguments]
# Installs what it needs into .venv first. Test files run two at a time; -n 0 runs them one by one. -m slow: the long ones alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/install.sh report,test
export JAX_PLATFORMS=cpu
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
