#!/bin/sh
# SPDX-License-Identifier: MIT
# run_server.sh VENV STATE PORT: serve STATE/masterfiles in the foreground on the
# embedded defaults, after saying what a node would type next.
set -eu
venv=$1 state=$2 port=$3
here=$(pwd)
mkdir -p -m 700 "$state"
scripts/sample_policy.sh "$state"
NODECOMM_STATE_DIR=$here/$state
export NODECOMM_STATE_DIR

cat <<TEXT

Policy server of $here
  policy    $state/masterfiles, $state/modules (edit the files; nodes copy them)
  state     $state (keys in $state/ppkeys)
  port      $port, nodes of this machine trusted on first use

In another terminal of this machine, as a node:
  cf-key                                            once, makes the node's key
  cf-agent --bootstrap 127.0.0.2:$port               the node fetches its policy
  cf-net -H 127.0.0.1:$port opendir masterfiles      only look
  cf-net -H 127.0.0.1:$port get masterfiles/promises.cf
and as the operator:
  $venv/bin/nodecomm key list --seen --state-dir $state
  $venv/bin/nodecomm access explain --state-dir $state --ip 127.0.0.1 masterfiles/promises.cf
To try cf-agent without touching this machine's own CFEngine, let it live elsewhere:
  export CFENGINE_TEST_OVERRIDE_WORKDIR=/tmp/node; mkdir -p -m 700 /tmp/node/bin
  for p in cf-agent cf-execd cf-key cf-promises; do ln -s /usr/bin/\$p /tmp/node/bin; done
Ctrl-C stops the server.

TEXT
exec "$venv/bin/twistd" --nodaemon --pidfile= nodecomm-server
