#!/bin/sh
# SPDX-License-Identifier: MIT
# check_news.sh VENV: the fragments of the change log render, and a branch that
# changes something has added one.
set -eu
towncrier=$1/bin/towncrier

# Shown only when it fails: what the next release would say is no news for a check.
draft=$("$towncrier" build --draft --version next 2>&1) || {
    printf '%s\n' "$draft" >&2
    exit 1
}
for base in "${NODECOMM_BASE:-}" origin/main
do
    [ -n "$base" ] || continue
    if git rev-parse --quiet --verify "$base^{commit}" >/dev/null 2>&1 &&
        ! git diff --quiet "$base...HEAD" -- 2>/dev/null
    then
        exec "$towncrier" check --compare-with "$base"
    fi
done
echo "The fragments render; there is no branch to compare with."
