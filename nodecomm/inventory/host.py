# SPDX-License-Identifier: MIT
"""
The machine that an inventory is made of, as files and programs show it.

Linux tells of itself in small files below /proc and /sys. Which of them there are
depends on the machine, so what is missing is nothing special; what is there and cannot
be read is noted, with the reason.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import field, frozen, mutable

from nodecomm.inventory.netlink import Assigned, assigned_addresses
from nodecomm.server.execution.classes import full_hostname

__all__ = ["Host", "NoSuchSource", "Skipped", "run_program"]

#: Bytes of a file that are read. The longest of them, /proc/cpuinfo, has 1.5 KiB for
#: each of up to some 1,000 processors.
_LONGEST_FILE = 16 * 1024 * 1024

#: Seconds that a program may take. `rpm -qa` takes up to 20 on a slow disk.
_PROGRAM_SECONDS = 120

#: Where programs are looked for, whatever the caller's PATH is.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What reading an attribute of a device fails with where the device has none:
#: no such file, an interface that is down (speed), a driver that does not know.
_NOTHING_THERE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EINVAL,
        errno.ENODEV,
        errno.ENXIO,
        errno.EOPNOTSUPP,
        errno.EIO,
    }
)


class NoSuchSource(Exception):  # noqa: N818
    """
    A machine without this; the text says without what.
    """


@frozen
class Skipped:
    """
    What is not in the inventory, and why.

    Attributes:
        source: A part of the inventory (`packages`) or a file.
        reason: In words.
    """

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def run_program(command: Sequence[str]) -> bytes:
    """
    What a program prints. Its messages are in English; it gets no input.

    Raises:
        NoSuchSource: There is no such program.
        OSError: It could not be started, it took too long, or it failed; the text
            names it and the first line that it complained with.
    """
    name = command[0]
    path = shutil.which(name, path=_PATH)
    if path is None:
        msg = f"there is no program {name}"
        raise NoSuchSource(msg)
    try:
        done = subprocess.run(  # noqa: S603
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PROGRAM_SECONDS,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{name} was not done after {_PROGRAM_SECONDS} s"
        raise OSError(msg) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        msg = f"{name} ended with status {done.returncode}: {said[:200]}"
        raise OSError(msg)
    return done.stdout


@mutable
class Host:
    """
    The machine. Everything here blocks: use it in a thread.

    Attributes:
        root: The folder that stands for `/`.
        run: Runs a program and gives what it prints, see `run_program`.
        uname: As `os.uname`.
        statvfs: As `os.statvfs`; the path is one of the machine's, not below *root*.
        addresses: The addresses of network interfaces.
        hostname: The short name of the machine.
        full_hostname: Its name with the domain, "" if it has none.
        skipped: What could not be read so far.
    """

    root: Path = Path("/")
    run: Callable[[Sequence[str]], bytes] = run_program
    uname: Callable[[], os.uname_result] = os.uname
    statvfs: Callable[[str], os.statvfs_result] = os.statvfs
    addresses: Callable[[], Sequence[Assigned]] = assigned_addresses
    hostname: Callable[[], str] = socket.gethostname
    full_hostname: Callable[[], str] = full_hostname
    skipped: list[Skipped] = field(factory=list)

    def path(self, name: str) -> Path:
        """
        Where the file that is called *name* on the machine is.
        """
        return self.root / name.lstrip("/")

    def text(self, name: str, limit: int = _LONGEST_FILE) -> str:
        """
        The content of a file, as text: bytes that are not UTF-8 become surrogates.

        Args:
            name: The file.
            limit: Bytes that are read at most; the rest is left out.

        Raises:
            OSError: It cannot be read.
        """
        with self.path(name).open("rb") as file:
            return os.fsdecode(file.read(limit))

    def value(self, name: str) -> str | None:
        """
        The content of a file of one value; None if there is none. A failure that is
        not about that is noted.
        """
        try:
            # Linux ends what firmware gave it with blanks, lines with a newline.
            return self.text(name).strip(" \t\n\0") or None
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                reason = error.strerror or str(error)
                self.skipped.append(Skipped(name, reason))
            return None

    def number(self, name: str) -> int | None:
        """
        As `value`, for a number that is not negative.
        """
        value = self.value(name)
        return int(value) if value is not None and _is_number(value) else None

    def names(self, folder: str) -> list[str]:
        """
        What a folder holds, in order; nothing if there is none.
        """
        try:
            return sorted(os.listdir(self.path(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def has(self, name: str) -> bool:
        """
        Whether there is a file or a folder of this name that may be seen.
        """
        # Of Path, up to Python 3.11, a folder that may not be entered is an error.
        return os.path.exists(self.path(name))

    def link(self, name: str) -> str:
        """
        Where a link leads to, "" if it is none.
        """
        try:
            return os.readlink(self.path(name))
        except OSError:
            return ""


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit()
