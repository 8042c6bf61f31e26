# SPDX-License-Identifier: MIT
"""
The embedded defaults: a configuration for trying the server on one machine, and a
small policy that a real agent can bootstrap from.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nodecomm.identity.users import UntrustedUser, own_user, valid_user

__all__ = ["default_tree", "next_steps", "nodecomm_command", "write_sample"]

#: The addresses that the embedded defaults serve and trust: this machine alone.
LOOPBACK = ("127.0.0.0/8", "::1")

_PROMISES = """\
# The policy that nodes run. Change it here; nodes fetch it.

body common control
{
      bundlesequence => { "main" };
      version        => "nodecomm sample 1";
}

bundle agent main
{
  reports:
      "This policy came from a nodecomm server, host: $(sys.policy_hub).";
}
"""

# Whoever bootstraps a second time must get the new policy: the agent runs
# update.cf before promises.cf, with the same connection settings as its failsafe.
_UPDATE = """\
# Fetches the policy; nodes run this before promises.cf.

body common control
{
      bundlesequence => { "update" };
      version        => "nodecomm sample update 1";
}

bundle agent update
{
  files:
    !am_policy_hub::
      "$(sys.inputdir)"
        comment      => "The policy of this node is that of its server",
        handle       => "sample_update_inputs",
        copy_from    => from_server("masterfiles"),
        depth_search => everything,
        classes      => if_failed("update_failed");

      "$(sys.workdir)/modules"
        comment      => "Modules that the policy runs",
        handle       => "sample_update_modules",
        copy_from    => from_server("modules"),
        depth_search => everything;

  reports:
    update_failed::
      "The policy could not be brought up to date.";
}

body copy_from from_server(path)
{
      source      => "$(path)";
      servers     => { "$(sys.policy_hub)" };
      portnumber  => "$(sys.policy_hub_port)";
      compare     => "digest";
      verify      => "true";
      trustkey    => "false";
      copy_backup => "false";
}

body depth_search everything
{
      depth => "inf";
}

body classes if_failed(class)
{
      repair_failed  => { "$(class)" };
      repair_denied  => { "$(class)" };
      repair_timeout => { "$(class)" };
}
"""

_README = """\
Modules that the policy runs are kept here; nodes fetch this folder too.
"""


def default_tree(state_dir: Path) -> dict[str, Any]:
    """
    The configuration used when there is no file, as it would be read from one.

    Args:
        state_dir: Where keys, the database and the sample policy are, written as in
            a configuration file.
    """
    state = str(state_dir.absolute())
    return {
        "server": {
            "state_dir": state,
            "allowed_networks": list(LOOPBACK),
            "allowconnects": ["@allowed_networks"],
            "allowallconnects": ["@allowed_networks"],
            "trustkeysfrom": list(LOOPBACK),
            "trustusers": _users(),
        },
        "access": [
            {
                # The final slash: a rule about the folder, even before it exists.
                "path": f"{state}/{name}/",
                "shortcut": name,
                "admit_ips": ["@allowed_networks"],
            }
            for name in ("masterfiles", "modules")
        ],
    }


def _users() -> list[str]:
    """
    Under which names a node of this machine comes for the first time: as root, or run
    by whoever tries the server.
    """
    users = ["root"]
    with suppress(UntrustedUser):
        users.append(valid_user(own_user()))
    return sorted(set(users))


def write_sample(state_dir: Path, now: float) -> list[Path]:
    """
    Write the sample policy below *state_dir*, unless there is a policy already.

    Nothing that exists is changed. Files are readable by all, as policy is.

    Args:
        state_dir: An existing folder.
        now: Civil time in seconds, for `cf_promises_validated`.

    Returns:
        The files that were made.

    Raises:
        OSError: The folder cannot be written.
    """
    masterfiles = state_dir / "masterfiles"
    modules = state_dir / "modules"
    if masterfiles.exists():
        return []
    validated = json.dumps({"timestamp": int(now)}) + "\n"
    made = []
    for path, text in (
        (modules / "README", _README),
        (masterfiles / "update.cf", _UPDATE),
        (masterfiles / "promises.cf", _PROMISES),
        # Last: nodes take a change of this file for the sign to fetch the others.
        (masterfiles / "cf_promises_validated", validated),
    ):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        made.append(path)
    return made


def next_steps(state_dir: Path, port: int, command: str | None = None) -> str:
    """
    What a person can type now, with a node on this machine.

    Args:
        state_dir: The server's state folder.
        port: Where it listens.
        command: How `nodecomm` is called here; None: looked for.
    """
    state = str(state_dir)
    at = "" if port == 5308 else f":{port}"
    command = nodecomm_command() if command is None else command
    return f"""\
The server runs. Try it from this machine:

  cf-key
      make a key for this machine's CFEngine, once; the programs below need it
  cf-net -H 127.0.0.1:{port} stat masterfiles
      what the server says of the policy folder (a real CFEngine program)
  cf-net -H 127.0.0.1:{port} get masterfiles/promises.cf -o promises.cf
      fetch one file
  cf-agent --bootstrap 127.0.0.2{at}
      make this machine a node: 127.0.0.2, since an agent that is told 127.0.0.1
      takes itself for the server; it needs root and changes /var/lib/cfengine3.
      The agent also starts cf-serverd, whose message that the port is already in use
      can be ignored
  {command} key show --state-dir {state}
      the server's own key, to compare with what a new node shows
  {command} bootstrap 127.0.0.2{at} --role node --state-dir /tmp/node
      make a node without CFEngine, in /tmp/node; it asks about that key
  {command} key list --state-dir {state}
      whose keys the server trusts now

The policy is in {state}/masterfiles; change it and run cf-agent again.
"""


def nodecomm_command(
    path: str | None = None, places: Sequence[str] | None = None
) -> str:
    """
    How `nodecomm` is called here: by its name where that leads to it, else by its
    path beside the program that runs now.

    Args:
        path: Where programs are looked for; None: `PATH`.
        places: The programs that it may stand beside; None: this one and its
            interpreter.
    """
    name = "nodecomm"
    if shutil.which(name, path=path) is not None:
        return name
    for place in (sys.argv[0], sys.executable) if places is None else places:
        beside = os.path.join(os.path.dirname(os.path.abspath(place)), name)
        if place and os.access(beside, os.X_OK):
            return shlex.quote(min(beside, os.path.relpath(beside), key=len))
    return name
