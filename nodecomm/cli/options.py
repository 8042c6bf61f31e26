# SPDX-License-Identifier: MIT
"""
What every `nodecomm` command takes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO, cast

from twisted.python import usage

from nodecomm import __version__

__all__ = ["StateOptions", "default_state_dir", "fail"]


def default_state_dir() -> Path:
    """
    Where keys and databases are when nobody says otherwise: /var/lib/nodecomm for
    root, else the XDG state folder of the user.
    """
    named = os.environ.get("NODECOMM_STATE_DIR")
    if named:
        return Path(named)
    # Not at the top: the reader of configurations is large, and --help needs none.
    from nodecomm.service.loading import standard_state_dir  # noqa: PLC0415

    return standard_state_dir(os.environ, os.geteuid())


class StateOptions(usage.Options):
    """
    `--state-dir` and `--json`.
    """

    optParameters = [
        ["state-dir", None, None, "folder with ppkeys/ and the database"],
    ]
    optFlags = [["json", None, "print facts as JSON"]]

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        print(f"nodecomm {__version__}")
        raise SystemExit(0)

    #: What follows the command's name in the first line of its help.
    takes = "[options]"

    def getSynopsis(self) -> str:
        """
        The whole command line, from `nodecomm` on.
        """
        words = [self.takes]
        options: usage.Options = self
        while getattr(options, "parent", None) is not None:
            options = cast(usage.Options, options.parent)
            words.insert(0, str(options.subCommand))
        return " ".join(["Usage: nodecomm", *words])

    @property
    def state_dir(self) -> Path:
        """
        The folder asked for, else `NODECOMM_STATE_DIR`, else the default.
        """
        given = self["state-dir"]
        return Path(given) if given else default_state_dir()


def fail(stderr: TextIO, message: str) -> int:
    """
    Tell a person what went wrong and return the exit status for it.
    """
    stderr.write(f"error: {message}\n")
    return 1
