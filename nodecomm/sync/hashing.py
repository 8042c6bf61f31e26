# SPDX-License-Identifier: MIT
"""
Digests of local files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen

from nodecomm.sync.folders import READ, Folders, entry_from
from nodecomm.sync.model import Kind, LocalEntry

__all__ = ["Hashed", "hash_files", "new_hashes"]

_CHUNK = 1 << 18


@frozen
class Hashed:
    """
    A file and the digests of its content.

    Attributes:
        entry: The file as it was, before and after reading.
        digests: By name of the algorithm: `md5`, `sha256`.
    """

    entry: LocalEntry
    digests: dict[str, bytes]


def new_hashes(algorithms: Sequence[str]) -> dict[str, Any]:
    """
    A hash object for each name.
    """
    # MD5 is what the protocol compares with; nothing is kept safe by it.
    return {
        name: hashlib.new(name, usedforsecurity=name != "md5") for name in algorithms
    }


def hash_files(
    root: int, names: Iterable[bytes], algorithms: Sequence[str]
) -> dict[bytes, Hashed]:
    """
    The digests of files below the open folder. What is missing, no plain file, not
    readable, or was changed while it was read, is left out.
    """
    found = {}
    with Folders(root) as folders:
        # Sorted, so that each folder is opened once.
        for name in sorted(names):
            try:
                folder, last = folders.parent(name)
                hashed = hash_file(folder, last, algorithms)
            except OSError:
                continue
            if hashed is not None:
                found[name] = hashed
    return found


def hash_file(folder: int, name: bytes, algorithms: Sequence[str]) -> Hashed | None:
    """
    The digests of one file in the open folder; None when it is no plain file, or was
    changed while it was read.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(name, READ, dir_fd=folder)
    try:
        before = entry_from(os.fstat(descriptor))
        if before.kind is not Kind.FILE:
            return None
        hashes = new_hashes(algorithms)
        while piece := os.read(descriptor, _CHUNK):
            for each in hashes.values():
                each.update(piece)
        after = entry_from(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    if before != after:
        return None
    return Hashed(after, {key: each.digest() for key, each in hashes.items()})
