# SPDX-License-Identifier: MIT
"""
A file source for nodecomm servers: a folder whose files are made for each node.

In the server's configuration:

    [[access]]
    path = "/node-facts"
    shortcut = "facts"
    source = "node-facts"
    admit_ips = ["10.0.0.0/8"]

A node then copies `facts/identity.json`, and every node gets its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from zlib import crc32

from twisted.plugin import IPlugin
from zope.interface import implementer

from nodecomm.identity.peer import Peer
from nodecomm.interfaces import IFileSource, IHeldObject
from nodecomm.server.held import FileStatus, Kind

#: When the content was last changed, in nanoseconds: when this program began.
_BEGAN = time.time_ns()


@implementer(IHeldObject)
class MadeObject:
    """
    A file or the folder. It is made once, when it is held: what was checked and
    announced to the node is what is sent.
    """

    def __init__(
        self, path: bytes, content: bytes | None, names: tuple[bytes, ...] = ()
    ) -> None:
        """
        Args:
            path: Its name below the rule's path.
            content: Its bytes; None: it is a folder.
            names: What is in the folder.
        """
        self.path = path
        self._content = content
        self._names = names

    def stat(self) -> FileStatus:
        """What a node is told of it. Readable by all, or only root could have it."""
        folder = self._content is None
        return FileStatus(
            kind=Kind.DIRECTORY if folder else Kind.REGULAR,
            mode=0o755 if folder else 0o644,
            uid=0,
            gid=0,
            size=0 if self._content is None else len(self._content),
            atime_ns=_BEGAN,
            mtime_ns=_BEGAN,
            ctime_ns=_BEGAN,
            blocks=None,
            # Nodes take two names with one number for one file.
            ino=1 + crc32(self.path),
            nlink=2 if folder else 1,
            dev=0,
        )

    def entries(self) -> list[bytes]:
        """
        The names in the folder.

        Raises:
            NotADirectoryError: It is a file.
        """
        if self._content is not None:
            raise NotADirectoryError(self.path)
        return [b".", b"..", *self._names]

    def read(self, offset: int, size: int) -> bytes:
        """A part of the content."""
        return (self._content or b"")[offset : offset + size]

    def digest(self, algorithm: str) -> bytes:
        """The digest of the content, `md5` or `sha256`."""
        return hashlib.new(
            algorithm, self._content or b"", usedforsecurity=False
        ).digest()

    def unchanged(self, size: int) -> bool:
        """It never changes while it is held."""
        return True

    def close(self) -> None:
        """There is nothing to let go of."""


@implementer(IPlugin, IFileSource)
class NodeFactsSource:
    """
    `identity.json`: who the server takes the node for.
    """

    api = 1
    name = "node-facts"

    def resolve(self, peer: Peer, name: bytes) -> MadeObject:
        """
        Hold what is called *name*; the empty name is the folder itself.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if name == b"":
            return MadeObject(name, None, (b"identity.json",))
        if name == b"identity.json":
            facts = {"user": peer.user, "key": peer.digest, "address": peer.address}
            text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
            return MadeObject(name, text.encode("ascii"))
        raise FileNotFoundError(name)


# What Twisted looks for: an object of the module that provides the interfaces.
node_facts = NodeFactsSource()
