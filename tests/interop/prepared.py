# SPDX-License-Identifier: MIT
"""
Our server's process under conditions of its own: another user, another environment,
fewer descriptors, or file systems that only it sees.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodecomm.identity.keys import KeyPair
from tests.interop.harness import (
    RUN_TIMEOUT,
    NodecommServer,
    Run,
    WorkFolder,
    peer_program,
)

#: The user that has no rights, and the command that makes root that user.
NOBODY = 65534
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}"),
    *("--clear-groups", "--"),
)

#: For CFEngine's programs: that user may still find programs and libraries where
#: the system's folders are closed to all but root.
_NODE_AS_NOBODY = (
    *AS_NOBODY[:-1],
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
)

ROOT = Path(__file__).parents[2]


class PreparedServer(NodecommServer):
    """
    As `NodecommServer`.

    Args:
        folder: Where its configuration and state are put.
        settings: The configuration in TOML.
        prefix: A command that runs the server in its own place (`exec`).
        environment: More variables.
        arguments: More options of the plugin.
        key: Its key pair; None: it makes one.
    """

    def __init__(
        self,
        folder: Path,
        settings: str,
        *,
        prefix: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        key: KeyPair | None = None,
    ) -> None:
        super().__init__(folder, settings, arguments=arguments, key=key)
        self._prefix = prefix
        self._more = dict(environment or {})

    def _start(
        self, command: list[str], environment: dict[str, str], cwd: Path, log: Path
    ) -> None:
        super()._start(
            [*self._prefix, *command], {**environment, **self._more}, cwd, log
        )

    def __enter__(self) -> PreparedServer:
        super().__enter__()
        return self

    def check(self) -> None:
        """
        It runs, and nothing that it has said tells of a mistake of its own.
        """
        assert self.alive
        said = self.logs()
        assert "Traceback" not in said, said[-5000:]
        assert "critical" not in said

    @property
    def descriptors(self) -> set[int]:
        """
        The numbers of the descriptors that it has open.
        """
        return {int(entry.name) for entry in Path(f"/proc/{self.pid}/fd").iterdir()}

    @property
    def resident(self) -> int:
        """
        Bytes of memory that it has in use.
        """
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the server has ended")

    @contextmanager
    def free_descriptors(self, count: int) -> Iterator[None]:
        """
        Leave the process room for *count* more descriptors, for as long as the
        block lasts.
        """
        soft, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        used = self.descriptors
        limit = 0
        free = -1
        while free < count:
            free += limit not in used
            limit += 1
        # What has the number `limit - 1` would be one too many.
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (limit - 1, hard))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, hard))


class NobodyFolder(WorkFolder):
    """
    The work folder of a node whose programs run as a user without rights.
    """

    def run(self, program: str, *arguments: str, timeout: float = RUN_TIMEOUT) -> Run:
        """
        Run one of CFEngine's programs as that user.
        """
        for place in (self.path, *self.path.rglob("*")):
            os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
        done = subprocess.run(
            [*_NODE_AS_NOBODY, peer_program(program), *arguments],
            env={**self.environment, "USER": "nobody", "LOGNAME": "nobody"},
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, os.fsdecode(done.stdout))


def need_nobody() -> None:
    """
    Skip the test unless this is root, who can become another user, and that user
    can run our server.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can run programs as another user")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    tried = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", "import nodecomm"],
        cwd="/",
        capture_output=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"nobody cannot run {sys.executable}: {tried.stderr[-200:]!r}")


@contextmanager
def public_folder() -> Iterator[Path]:
    """
    A folder that every user can enter, unlike pytest's; gone afterwards.
    """
    path = Path(tempfile.mkdtemp(prefix="nodecomm-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


#: A file system in memory, where there is one, and the free bytes that make it of use.
_MEMORY = Path("/dev/shm")
_ENOUGH = 4_000_000_000


@contextmanager
def roomy_folder() -> Iterator[Path]:
    """
    A folder for many or large files, in memory where there is enough of it; gone
    afterwards.
    """
    parent = None
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        found = os.statvfs(_MEMORY)
        if found.f_bavail * found.f_frsize > _ENOUGH and _available() > _ENOUGH:
            parent = _MEMORY
    path = Path(tempfile.mkdtemp(prefix="nodecomm-test-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _available() -> int:
    """
    Bytes of memory that this machine can spare.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
