# SPDX-License-Identifier: MIT
"""
Files that a program writes where a person writes too: each carries a mark, and one
that was changed by hand is never written over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from enum import Enum
from pathlib import Path

from nodecomm.identity.files import remove_leftovers, replace_file, sync_folder

__all__ = ["Standing", "WrittenFile", "make_folders"]

#: The first line. The digest is of all that follows, so that any change shows.
_MARK = re.compile(r"# Written by `([^`\n]*)`, sha256 ([0-9a-f]{64})\.\n")

_EXPLAINED = (
    "# A further run may write it again; changed by hand in any way, it is left as"
    " it is.\n"
)


class Standing(Enum):
    """
    Whose a file is.
    """

    MISSING = "missing"
    OURS = "as it was written"
    CHANGED = "changed by hand"
    FOREIGN = "not written by nodecomm"


class WrittenFile:
    """
    One file that is written by a program.

    Args:
        path: Where.
        by: The command that writes it, as people type it.
    """

    def __init__(self, path: Path, by: str) -> None:
        self.path = path
        self.by = by

    def read(self) -> tuple[Standing, str]:
        """
        Whose the file is, and its text without mark; the whole text unless it is
        ours.

        Raises:
            OSError: It cannot be read.
        """
        try:
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            # A dangling link is somebody's.
            if os.path.lexists(self.path):
                return Standing.FOREIGN, ""
            return Standing.MISSING, ""
        found = _MARK.match(text)
        if found is None:
            return Standing.FOREIGN, text
        rest = text[found.end() :]
        if _digest(rest) != found[2]:
            return Standing.CHANGED, text
        return Standing.OURS, rest.removeprefix(_EXPLAINED)

    @property
    def may_write(self) -> bool:
        """
        Whether nothing of a person would be lost.
        """
        return self.read()[0] in (Standing.MISSING, Standing.OURS)

    def write(self, text: str) -> bool:
        """
        Make the file say *text*, durably and at once; folders are made. The caller
        has seen that it `may_write`.

        Returns:
            Whether it was written; False: it said so already.
        """
        if self.read() == (Standing.OURS, text):
            return False
        rest = _EXPLAINED + text
        whole = f"# Written by `{self.by}`, sha256 {_digest(rest)}.\n{rest}"
        make_folders(self.path.parent)
        # What a killed run left.
        remove_leftovers(str(self.path.parent), time.time())
        replace_file(str(self.path), whole.encode("utf-8", "surrogateescape"))
        # No secret is in it, and `nodecomm config show` is for everybody.
        self.path.chmod(0o644)
        return True

    def restore(self, before: tuple[Standing, str]) -> None:
        """
        Undo a `write`: *before* is what `read` said until then.
        """
        standing, text = before
        if standing is Standing.OURS:
            self.write(text)
        elif standing is Standing.MISSING:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
                sync_folder(str(self.path.parent))


def make_folders(path: Path) -> None:
    """
    Make a folder, and those above it, readable by everybody. Those that exist are
    left as they are.
    """
    missing = [path, *path.parents]
    for folder in reversed([folder for folder in missing if not folder.is_dir()]):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o755)
            # Whatever the umask takes away.
            folder.chmod(0o755)
            sync_folder(str(folder.parent))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
