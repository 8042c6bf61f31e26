#!/bin/sh
# SPDX-License-Identifier: MIT
# make_venv.sh PYTHON VENV WHAT [PIP-OPTION...]: an environment with nodecomm in it,
# editable. Says what is missing instead of half making one. With BORROW_PIP the
# environment has no pip of its own where the interpreter has one that can do without.
set -eu
python=$1 venv=$2 what=$3
shift 3

pip() { "$venv/bin/python" -m pip "$@"; }
without=
if [ -n "${BORROW_PIP:-}" ] &&
    "$python" -m pip install --help 2>/dev/null | grep -q -e '--python '
then
    # To put a pip into each environment takes as long as half of the rest.
    without=--without-pip
    pip() { "$python" -m pip --python "$venv/bin/python" "$@"; }
fi

if [ ! -x "$venv/bin/python" ] || ! pip --version >/dev/null 2>&1
then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
    then
        echo "error: nodecomm needs Python 3.10 or newer; '$python' is not that." >&2
        echo "Name another one: make PYTHON=/path/to/python3 ..." >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null
    then
        echo "error: $python cannot make virtual environments. On Debian, Ubuntu:" >&2
        echo "    apt-get install python3-venv" >&2
        echo "On other systems install the venv module of your Python." >&2
        exit 1
    fi
    echo "Making $venv with $("$python" --version)"
    rm -rf "$venv"
    # shellcheck disable=SC2086
    "$python" -m venv $without "$venv"
fi
echo "Installing $what into $venv"
# Python compiles what is imported, which is the smaller part of it.
pip install --quiet --disable-pip-version-check \
    --no-compile "$@" --editable "$what"
