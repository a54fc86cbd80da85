#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
Lint, types, tests and doctests, on the CPU.

    bash launch/test.sh                       all of them: about 6 minutes on 2 cores
    bash launch/test.sh quick                 objective, models, config: a minute and a half
    bash launch/test.sh -m slow               only the slow tests, some of which take many minutes
    bash launch/test.sh tests/models -k norm  any arguments of pytest

Makes .venv where it is missing and installs what is needed. Test files run two at a time; with -n 0
they run one by one. tests/README.md says how the tests are arranged.
END
}

case ${1:-} in
    -h | --help) usage && exit ;;
    quick)
        shift
        set -- {tests,jaxsep}/{objective,models,config} "$@"
        ;;
esac
bash launch/install.sh report,test
export JAX_PLATFORMS=cpu
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
