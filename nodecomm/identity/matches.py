# SPDX-License-Identifier: MIT
"""
What a key store knows about a key, as values.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from nodecomm.identity.keys import PublicKey

__all__ = ["KeyConflict", "KeyMatch", "StoredKey", "UnusableEntry"]


@frozen
class KeyMatch:
    """
    What the store holds for one key.

    Attributes:
        state: `equal`: this whole key is stored (under the user name asked for, if
            one was); `unknown`: it is not; `conflict`: another key stands where this
            one would.
        users: The user names that it is stored under, whoever was asked for.
        names: The entries' names.
        conflict: For `conflict`, what stands in the way, in words.
        replaced: An entry of the user and address asked for that holds another key.
    """

    state: Literal["equal", "unknown", "conflict"]
    users: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    conflict: str | None = None
    replaced: str | None = None


@frozen
class StoredKey:
    """
    A trusted key, under one user name.

    Attributes:
        name: The entry's name; the file's name in a folder of key files.
        user: The user name.
        key: The key.
        digest: Its printed MD5 digest.
        path: Where it is, empty where it is in no file.
    """

    name: str
    user: str
    key: PublicKey
    digest: str
    path: str = ""


@frozen
class UnusableEntry:
    """
    An entry that vouches for nobody, and why.
    """

    name: str
    reason: str


class KeyConflict(Exception):  # noqa: N818
    """
    Another key is stored where this one would be.

    Two usable keys never share a digest by accident. Look at the entry it names: it
    was forged, damaged or misnamed. Remove it with `nodecomm key remove NAME` if the
    key that was refused is the right one.

    Attributes:
        name: The entry that stands in the way.
        reason: What it holds.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name
        self.reason = reason
