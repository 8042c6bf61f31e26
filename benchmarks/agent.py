# SPDX-License-Identifier: MIT
"""The real cf-agent, copying a tree from either server."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import BenchmarkError
from benchmarks.site import (
    Site,
    cfengine_environment,
    cfengine_folder,
    find_program,
    write_policy,
)

#: Seconds one run may take: two round trips of 200 ms a file are minutes.
_PATIENCE = 900.0

_POLICY = """\
body common control {{ bundlesequence => {{ "main" }}; }}
body agent control {{ default_timeout => "20"; }}
bundle agent main {{
{promises}
}}
body depth_search all {{ depth => "inf"; }}
body copy_from from_server {{
  source => "{source}";
  servers => {{ "127.0.0.1" }};
  portnumber => "{port}";
  compare => "digest";
  trustkey => "true";
  preserve => "true";
  verify => "{verify}";
  protocol_version => "{way.protocol}";
  encrypt => "{encrypt}";
}}
"""

_COPY = """\
 files:
  "{copy}/." create => "true";
  "{copy}" copy_from => from_server, depth_search => all;"""


class Way(NamedTuple):
    """
    How an agent talks to a server.

    Attributes:
        protocol: As `protocol_version` of the real agent.
        encrypt: As `encrypt` of the real agent, for which TLS does not look.
        options: What asks our own agent for the same.
    """

    protocol: str
    encrypt: bool
    options: tuple[str, ...]


TLS = Way("latest", False, ())
CLASSIC = Way("1", False, ("--protocol", "classic"))
SEALED = Way("1", True, ("--protocol", "classic", "--encrypt"))


class Copied(NamedTuple):
    """
    What is copied.

    Attributes:
        source: The folder on the server.
        files: How many files are in it.
    """

    source: Path
    files: int


class Agent:
    """
    A cf-agent with a work folder and a copy of its own.

    Args:
        folder: Its work folder.
        port: Where it finds the server, on 127.0.0.1.
        copied: What it copies; None: nothing, it starts and ends.
        verify: Whether it has each copied file's digest compared once more.
        way: How it talks to the server.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        copied: Copied | None,
        *,
        verify: bool = False,
        way: Way = TLS,
    ) -> None:
        self._program = find_program("cf-agent")
        self._folder = folder
        self.copy = folder / "copy"
        self._copied = copied
        self._policy = folder / "inputs" / "bench.cf"
        cfengine_folder(folder)
        if not (folder / "ppkeys" / "localhost.priv").exists():
            subprocess.run(
                [find_program("cf-key")],
                env=cfengine_environment(folder),
                check=True,
                stdout=subprocess.DEVNULL,
            )
        write_policy(
            self._policy,
            _POLICY.format(
                promises="" if copied is None else _COPY.format(copy=self.copy),
                source="/" if copied is None else copied.source,
                port=port,
                verify="true" if verify else "false",
                way=way,
                encrypt="true" if way.encrypt else "false",
            ),
        )

    def forget(self) -> None:
        """Remove the copy, so that the next run is the first."""
        shutil.rmtree(self.copy, ignore_errors=True)

    def run(self) -> float:
        """
        Let it run once; return the seconds from its start to its end.

        Raises:
            BenchmarkError: It did not end, or the copy is not whole. (Its exit status
                is 0 also when it could not copy.)
        """
        begun = time.monotonic()
        done = subprocess.run(
            [self._program, "-K", "-f", self._policy],
            env=cfengine_environment(self._folder),
            check=False,
            capture_output=True,
            timeout=_PATIENCE,
        )
        seconds = time.monotonic() - begun
        files = sum(path.is_file() for path in self.copy.rglob("*"))
        wanted = 0 if self._copied is None else self._copied.files
        errors = b"error:" in done.stdout + done.stderr
        if done.returncode or errors or files != wanted:
            raise BenchmarkError(
                f"cf-agent copied {files} of {wanted} files and said:\n"
                + (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            )
        return seconds


def agent_of_tree(site: Site, folder: Path, port: int, way: Way = TLS) -> Agent:
    """Return an agent that copies the small tree."""
    return Agent(folder, port, Copied(site.tree, len(site.paths)), way=way)
