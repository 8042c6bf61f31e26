# SPDX-License-Identifier: MIT
"""
Machines made of a few files, for what reads those of a real one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nodecomm.inventory.host import Host, NoSuchSource
from nodecomm.inventory.netlink import Assigned

#: What `os.uname` says there.
UNAME = ("Linux", "web1", "6.1.0-13-amd64", "#1 SMP Debian 6.1.55-1", "x86_64")


def no_program(command: Sequence[str]) -> bytes:
    """
    A machine without programs.
    """
    msg = f"there is no program {command[0]}"
    raise NoSuchSource(msg)


def plenty(path: str) -> os.statvfs_result:
    """
    Every file system has 1,000 MiB, 250 of them free for all.
    """
    return os.statvfs_result((4096, 4096, 256_000, 80_000, 64_000, 0, 0, 0, 0, 255))


def machine(
    root: Path,
    files: Mapping[str, str | bytes],
    *,
    links: Mapping[str, str] | None = None,
    run: Callable[[Sequence[str]], bytes] = no_program,
    addresses: Sequence[Assigned] = (),
    uname: Sequence[str] = UNAME,
    full_hostname: str = "web1.example.com",
) -> Host:
    """
    A machine that has these files and links.
    """
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, target in (links or {}).items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / target).mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return Host(
        root=root,
        run=run,
        uname=lambda: os.uname_result(uname),
        statvfs=plenty,
        addresses=lambda: addresses,
        hostname=lambda: uname[1],
        full_hostname=lambda: full_hostname,
    )
