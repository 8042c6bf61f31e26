# SPDX-License-Identifier: MIT
"""The real cf-agent, copying the small tree from either server."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.servers import Server
from benchmarks.site import (
    TREE_FILES,
    Site,
    cfengine_environment,
    cfengine_folder,
    find_program,
    write_policy,
)

#: Seconds one run may take.
_PATIENCE = 120.0

_POLICY = """\
body common control {{ bundlesequence => {{ "main" }}; }}
body agent control {{ default_timeout => "20"; }}
bundle agent main {{
 files:
  "{copy}/." create => "true";
  "{copy}" copy_from => from_server, depth_search => all;
}}
body depth_search all {{ depth => "inf"; }}
body copy_from from_server {{
  source => "{tree}";
  servers => {{ "127.0.0.1" }};
  portnumber => "{port}";
  compare => "digest";
  trustkey => "true";
  preserve => "true";
}}
"""


class Agent:
    """
    A cf-agent with a work folder and a copy of its own.

    Args:
        site: What is copied.
        folder: Its work folder.
        server: The server that it copies from.
    """

    def __init__(self, site: Site, folder: Path, server: Server) -> None:
        self._program = find_program("cf-agent")
        self._folder = folder
        self._copy = folder / "copy"
        self._policy = folder / "inputs" / "bench.cf"
        cfengine_folder(folder)
        subprocess.run(
            [find_program("cf-key")],
            env=cfengine_environment(folder),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        write_policy(
            self._policy,
            _POLICY.format(copy=self._copy, tree=site.tree, port=server.port),
        )

    def run(self) -> None:
        """
        Let it run once.

        Raises:
            BenchmarkError: It did not end, or the copy is not whole. (Its exit status
                is 0 also when it could not copy.)
        """
        done = subprocess.run(
            [self._program, "-K", "-f", self._policy],
            env=cfengine_environment(self._folder),
            check=False,
            capture_output=True,
            timeout=_PATIENCE,
        )
        files = sum(path.is_file() for path in self._copy.rglob("*"))
        errors = b"error:" in done.stdout + done.stderr
        if done.returncode or errors or files != TREE_FILES:
            raise BenchmarkError(
                f"cf-agent copied {files} of {TREE_FILES} files and said:\n"
                + (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            )
