# SPDX-License-Identifier: MIT
"""
What the machine has: programs, ports, address families, a process table.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

#: Where programs are that an ordinary user's path leaves out.
_SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/var/cfengine/bin"

#: Seconds that a server may take to listen, and that any one program may run.
START_TIMEOUT = 60.0
RUN_TIMEOUT = 300.0

#: What a program of the harness may use of the environment.
KEPT = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME")


def peer_program(name: str) -> str:
    """
    The path of one of CFEngine's programs. Where it is not installed, the test is
    skipped, or fails when NODECOMM_REQUIRE_PEERS=1.
    """
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        missing(f"{name} is not installed (Debian: apt-get install cfengine3)")
    return found


def missing(reason: str) -> NoReturn:
    """
    Skip the test, or fail it where nothing may be missing.
    """
    if os.environ.get("NODECOMM_REQUIRE_PEERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def has_ipv6_loopback() -> bool:
    """
    Whether ::1 can be used on this machine.
    """
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = START_TIMEOUT
) -> None:
    """
    Look at *condition* until it is true.

    Raises:
        AssertionError: It did not become true in *seconds*; the text is *what*.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def isolation() -> list[str]:
    """
    What to put before a command so that it sees no process but its own.

    A bootstrap looks through all processes of the machine: where another cf-execd
    runs it starts none, and where systemd runs it has systemd restart the machine's
    own CFEngine. Where the system cannot give it a process table of its own it may
    run only if neither is there.
    """
    table = ["--pid", "--fork", "--mount-proc", "--kill-child"]
    for words in (["unshare", *table], ["unshare", "--map-root-user", *table]):
        try:
            tried = subprocess.run([*words, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            break
        if tried.returncode == 0:
            return words
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if name == "cf-execd" or (name == "systemd" and entry.name == "1"):
                missing(f"{name} runs here and unshare(1) cannot hide it")
    return []
