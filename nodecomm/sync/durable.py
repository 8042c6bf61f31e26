# SPDX-License-Identifier: MIT
"""
Getting a tree to disk before anybody relies on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from nodecomm.sync.folders import Folders
from nodecomm.sync.posix import sync_file_system

__all__ = ["make_durable"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

#: Objects up to which each is synchronised by itself.
SYNC_EACH = 64


def make_durable(root: int, files: Sequence[bytes], folders: Sequence[bytes]) -> None:
    """
    Put files and folders below the open folder, and the folder itself, on disk.

    Raises:
        OSError: Something could not be written.
    """
    if len(files) + len(folders) > SYNC_EACH and sync_file_system(root):
        return
    with Folders(root) as tree:
        for name in files:
            folder, last = tree.parent(name)
            descriptor = os.open(last, _READ, dir_fd=folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for name in reversed(folders):
            os.fsync(tree.at(name))
    os.fsync(root)
