#!/bin/sh
# SPDX-License-Identifier: MIT
# check_python.sh VERSION oldest|newest [PYTEST-ARGUMENT...]: the tests that need
# neither time nor programs, on one end of what setup.cfg claims. $LOCK is put before an
# installation, so that only one goes on at a time.
set -eu
version=$1 end=$2
shift 2

found=
for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python \
    "${PYENV_ROOT:-/nonexistent}"/versions/"$version".*/bin/python \
    /usr/local/bin/"python$version" /opt/python/"$version"*/bin/python
do
    # A pyenv shim is on the path also when its version is not active; ask it.
    if "$candidate" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1
    then
        found=$candidate
        break
    fi
done
if [ -z "$found" ]
then
    echo "Python $version ($end) is not installed here: not checked."
    exit 0
fi

venv=.venv-$end
stamp=$venv/.installed
constraints=
if [ "$end" = oldest ]; then constraints="--constraint tests/constraints/oldest.txt"; fi
if [ ! -e "$stamp" ] || [ setup.cfg -nt "$stamp" ] ||
    [ tests/constraints/oldest.txt -nt "$stamp" ]
then
    rm -rf "$venv"
    # shellcheck disable=SC2086
    BORROW_PIP=1 ${LOCK:-} scripts/make_venv.sh "$found" "$venv" ".[test]" $constraints
    touch "$stamp"
fi
echo "Unit tests on $("$venv/bin/python" --version), $end dependencies"
# What a version breaks a few examples of a property show; `make test` has them all.
export NODECOMM_EXAMPLES="${NODECOMM_EXAMPLES:-4}"
# One process: these tests hardly wait, and .ci/run has both ends go on at once.
# tests/interop is all for the real programs and is not even imported; two files look at
# what is written in the source and nothing else. An assertion says
# here only where it failed: to compile all of them so that they say more takes as long
# as a tenth of the tests. ARGS="--assert=rewrite -k NAME" shows the rest.
exec "$venv/bin/python" -m pytest -q \
    -m "not slow and not interop and not programs and not postgresql" \
    --ignore tests/interop --ignore tests/test_layers.py \
    --ignore tests/service/test_operating.py --assert=plain -p no:cacheprovider "$@"
