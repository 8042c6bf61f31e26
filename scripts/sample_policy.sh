#!/bin/sh
# SPDX-License-Identifier: MIT
# sample_policy.sh STATE: a small policy in STATE/masterfiles and STATE/modules for a
# node to copy. Files that exist stay as they are.
set -eu
state=$1
umask 022
mkdir -p "$state/masterfiles/services" "$state/modules"

# put FILE: standard input becomes FILE unless there is one.
put() {
    if [ -e "$1" ]; then cat >/dev/null; else cat >"$1"; fi
}

put "$state/masterfiles/promises.cf" <<'POLICY'
# The first file that a node runs.
body common control
{
  bundlesequence => { "main" };
  inputs         => { "services/hello.cf" };
  version        => "nodecomm sample policy 1";
}

bundle agent main
{
  methods:
      "hello" usebundle => hello;
}
POLICY

put "$state/masterfiles/services/hello.cf" <<'POLICY'
bundle agent hello
{
  reports:
      "This node has its policy from $(sys.policy_hub).";
}
POLICY

put "$state/masterfiles/update.cf" <<'POLICY'
# Run before promises.cf: brings the node's copy up to date.
body common control
{
  bundlesequence => { "update" };
  version        => "nodecomm sample update 1";
}

bundle agent update
{
  files:
      "$(sys.inputdir)"
        copy_from    => from_hub("masterfiles"),
        depth_search => whole_tree;
      "$(sys.workdir)/modules"
        copy_from    => from_hub("modules"),
        depth_search => whole_tree;
}

body copy_from from_hub(name)
{
  source     => "$(name)";
  servers    => { "$(sys.policy_hub)" };
  portnumber => "$(sys.policy_hub_port)";
  compare    => "digest";
}

body depth_search whole_tree
{
  depth => "inf";
}
POLICY

put "$state/masterfiles/cf_promises_validated" <<'POLICY'
{ "timestamp": 1 }
POLICY

put "$state/modules/example" <<'POLICY'
#!/bin/sh
# A module of the sample policy: one class, one variable.
echo "+nodecomm_sample"
echo "=greeting=hello"
POLICY
