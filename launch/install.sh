#!/usr/bin/env bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    cat <<'END'
Makes .venv where it is missing and installs jaxsep with the versions of launch/constraints.txt.

    bash launch/install.sh EXTRAS         EXTRAS: report, test, or both with a comma

Does nothing where that is done already. Adds the extra cuda12 where an NVIDIA driver answers.
PYTHON=/path/to/python3 names another interpreter than python3; it must be Python 3.11 or newer.
The other scripts call this one themselves.
END
}

case ${1:-} in -h | --help) usage && exit ;; esac
if [ $# -ne 1 ]; then
    echo "error: EXTRAS is missing: bash launch/install.sh report" >&2
    exit 2
fi
extras=$1
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is missing or older than Python 3.11;" \
        "PYTHON=/path/to/python3.11 bash $0 names another" >&2
    exit 2
fi
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    extras=$extras,cuda12
fi

# One mark in .venv for each extra that was installed with these versions.
versions=$(cat "$root/setup.cfg" "$root/launch/constraints.txt" | sha256sum | cut -c1-16)
marks=$root/.venv/.installed
missing=""
for extra in ${extras//,/ }; do
    [ -e "$marks/$extra-$versions" ] || missing=yes
done
if [ -z "$missing" ]; then
    exit 0
fi
venv_python=$root/.venv/bin/python
if ! [ -x "$venv_python" ] || ! "$venv_python" -m pip --version >/dev/null 2>&1; then
    echo "making $root/.venv" >&2
    "$python" -m venv --clear "$root/.venv"
fi
echo "installing jaxsep[$extras] (about a minute)" >&2
"$venv_python" -m pip install --quiet --disable-pip-version-check \
    -c "$root/launch/constraints.txt" -e "$root[$extras]"
mkdir -p "$marks"
for extra in ${extras//,/ }; do
    touch "$marks/$extra-$versions"
done
