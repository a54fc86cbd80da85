#!/usr/bin/env bash
# install.sh EXTRAS: makes .venv where it is missing and installs jaxsep[EXTRAS] with the exact versions of constraints.txt.
# Does nothing where that is done already. PYTHON names another interpreter than python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extras=$1
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is missing or older than Python 3.11; PYTHON=/path/to/python3.11 bash $0 names another" >&2
    exit 2
fi
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    extras=$extras,cuda12
fi
versions=$(cat "$root/setup.cfg" "$root/launch/constraints.txt" | sha256sum | cut -c1-16)
marks=$root/.venv/.installed
missing=""
for extra in ${extras//,/ }; do
    [ -e "$marks/$extra-$versions" ] || missing=yes
done
if [ -z "$missing" ]; then
    exit 0
fi
if ! [ -x "$root/.venv/bin/python" ] || ! "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "making $root/.venv" >&2
    "$python" -m venv --clear "$root/.venv"
fi
echo "installing jaxsep[$extras] (about a minute)" >&2
"$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/launch/constraints.txt" -e "$root[$extras]"
mkdir -p "$marks"
for extra in ${extras//,/ }; do
    touch "$marks/$extra-$versions"
done
