#!/bin/sh
# SPDX-License-Identifier: MIT
# CFEngine's own programs and PostgreSQL, for the tests against the real ones. They are
# installed only when CI or NODECOMM_INSTALL_PEERS=1 says so; otherwise this only tells
# how.
set -eu

missing= packages=
for program in cf-agent cf-serverd cf-key cf-net cf-execd cf-promises
do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null 2>&1 || {
        missing="$missing $program"
        packages=cfengine3
    }
done
# Debian puts the server's programs on no path. The tests start one of their own.
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' ':') \
    command -v initdb >/dev/null 2>&1 || {
    missing="$missing initdb"
    packages="$packages postgresql"
}
[ -n "$missing" ] || exit 0

if [ "${CI:-}" = "" ] && [ "${NODECOMM_INSTALL_PEERS:-}" != 1 ]
then
    echo "Not here:$missing. The tests against the real programs will be skipped."
    echo "To have them: apt-get install $packages"
    echo "(or NODECOMM_INSTALL_PEERS=1 make test)"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1
then
    echo "Not here:$missing, and no apt-get to install $packages with." >&2
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
# A cluster that the package would make is of no use here.
made=/etc/postgresql-common/createcluster.d/nodecomm.conf
case " $packages " in
*" postgresql "*)
    $as_root mkdir -p "${made%/*}"
    echo "create_main_cluster = false" | $as_root tee "$made" >/dev/null
    ;;
esac
# shellcheck disable=SC2086
$as_root apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $packages || failed=yes
$as_root rm -f "$made"
if [ -z "$failed" ] && [ -d /run/systemd/system ]
then
    # Only what this script has just installed is kept from starting at boot.
    for package in $packages
    do
        $as_root systemctl disable "$package.service" >/dev/null 2>&1 || true
    done
fi
if [ -n "$failed" ]
then
    echo "$packages could not be installed; the tests that need it will say so." >&2
fi
