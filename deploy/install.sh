#!/bin/sh
# Install the proxy into DIR, an environment of its own: what the locks name without what only builds it, compiled.
#
#   deploy/install.sh /opt/devstral-proxy          PYTHON=python3.13 picks the interpreter
#
# All that is fetched is wheels, and is checked against the locks' hashes before anything of it is installed.
# The same tree, the same path and the same Python give the same bytes.
set -eu

dir=$1
# What an operator may switch on by a setting; the Makefile's EXTRAS are the same.
extras=cli,jwt,otel,valkey
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A wheel is a zip file, and no time in one is before 1980.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-315532800}"
# What pip itself leaves compiled would have times in it.
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

"$python" -m venv "$work/build"
pip() { "$work/build/bin/python" -m pip "$@"; }
from_wheels="--no-index --find-links $work/wheels"

pip download --only-binary :all: --require-hashes --dest "$work/wheels" -r "$root/deploy/requirements.txt"
pip download --no-deps --only-binary :all: --require-hashes --dest "$work/wheels" -r "$root/deploy/requirements-docs.txt"

# shellcheck disable=SC2086  # several arguments
{
    pip install $from_wheels hatchling
    pip wheel --no-deps --no-index --no-build-isolation --wheel-dir "$work/wheels" "$root"
    "$python" -m venv --clear --without-pip "$dir"
    pip --python "$dir/bin/python" install $from_wheels --no-compile "devstral-proxy[$extras]"
    pip --python "$dir/bin/python" install $from_wheels --no-compile --no-deps drf-spectacular-sidecar
}

# Nothing is looked up beside such a file when it is loaded, and no time stands in it.
"$dir/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$dir/lib"
rm -f "$dir"/bin/[Aa]ctivate*
