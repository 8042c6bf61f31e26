#!/bin/sh
# SPDX-License-Identifier: MIT
# CFEngine's own programs, for the tests against the real peer. They are installed
# only when CI or NODECOMM_INSTALL_PEERS=1 says so; otherwise this only tells how.
set -eu

missing=
for program in cf-agent cf-serverd cf-key cf-net cf-execd cf-promises
do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null 2>&1 ||
        missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if [ "${CI:-}" = "" ] && [ "${NODECOMM_INSTALL_PEERS:-}" != 1 ]
then
    echo "Not here:$missing. The tests against the real programs will be skipped."
    echo "To have them: apt-get install cfengine3 (or NODECOMM_INSTALL_PEERS=1 make test)"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1
then
    echo "Not here:$missing, and no apt-get to install cfengine3 with." >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi

# Debian's package starts its services when installed. policy-rc.d is Debian's own
# way of saying no; a machine that already has one keeps it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]
then
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
failed=
$as_root apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends cfengine3 || failed=yes
if [ -z "$failed" ] && [ -d /run/systemd/system ]
then
    # Only what this script has just installed is kept from starting at boot.
    $as_root systemctl disable cfengine3.service >/dev/null 2>&1 || true
fi
if [ -n "$failed" ]
then
    echo "cfengine3 could not be installed; the tests that need it will say so." >&2
fi
