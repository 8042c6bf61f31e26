# SPDX-License-Identifier: MIT
"""
What servers said last time, so that the next connection need not wait to hear it
again.

Nothing depends on it: whatever is wrong with the file, connections only take a round
trip longer.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen
from twisted.logger import Logger

from nodecomm.identity.files import ensure_folder, read_small, replace_file
from nodecomm.wire.text import from_text, to_text

if TYPE_CHECKING:
    from nodecomm.identity.keys import PublicKey

__all__ = ["MAX_SERVERS", "MEMORY_NAME", "Recalled", "ServerMemory"]

_log = Logger()

#: The file in the state folder.
MEMORY_NAME = "servers.json"

#: Servers that are remembered; the oldest one goes.
MAX_SERVERS = 256

#: Bytes of a product that are remembered.
_MAX_PRODUCT = 100


@frozen
class Recalled:
    """
    What a server said.

    Attributes:
        newest: The newest protocol version that it speaks.
        product: What it calls itself.
    """

    newest: int
    product: bytes


@frozen
class _Entry:
    newest: int
    product: str
    md5: str
    sha: str


class ServerMemory:
    """
    A small file.

    Args:
        path: Where; its folder is made when there is something to write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._entries: dict[str, _Entry] | None = None

    def recall(self, server: str, key: PublicKey) -> Recalled | None:
        """
        What *server* said when it had this very key.
        """
        entry = self._load().get(server)
        if entry is None or (entry.md5, entry.sha) != (key.md5, key.sha):
            return None
        return Recalled(entry.newest, from_text(entry.product))

    def note(self, server: str, key: PublicKey, newest: int, product: bytes) -> None:
        """
        Remember what *server* said; writes only when it is something else.
        """
        entries = self._load()
        entry = _Entry(newest, to_text(product[:_MAX_PRODUCT]), key.md5, key.sha)
        if entries.get(server) == entry:
            return
        entries.pop(server, None)
        entries[server] = entry
        while len(entries) > MAX_SERVERS:
            del entries[next(iter(entries))]
        self._save(entries)

    def forget(self, server: str) -> None:
        """
        What *server* said counts no more.
        """
        entries = self._load()
        if entries.pop(server, None) is not None:
            self._save(entries)

    def _load(self) -> dict[str, _Entry]:
        if self._entries is None:
            self._entries = _read(self._path)
        return self._entries

    def _save(self, entries: dict[str, _Entry]) -> None:
        tree = {server: asdict(entry) for server, entry in entries.items()}
        try:
            ensure_folder(os.path.dirname(os.path.abspath(self._path)))
            replace_file(self._path, json.dumps(tree, indent=1).encode("ascii"))
        except OSError as error:
            _log.warn(
                "what servers speak cannot be remembered in {path}: {error}",
                path=self._path,
                error=str(error),
            )


def _read(path: str) -> dict[str, _Entry]:
    try:
        _, data = read_small(path, MAX_SERVERS * 1024)
        tree = json.loads(data)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        _log.warn("{path} is damaged and not used", path=path)
        return {}
    found = {}
    for server, value in tree.items():
        entry = _entry(value)
        if entry is not None:
            found[server] = entry
    return found


def _entry(value: Any) -> _Entry | None:
    if not isinstance(value, dict):
        return None
    newest, product = value.get("newest"), value.get("product")
    md5, sha = value.get("md5"), value.get("sha")
    if type(newest) is not int:
        return None
    if not (isinstance(product, str) and isinstance(md5, str) and isinstance(sha, str)):
        return None
    try:
        from_text(product)
    except ValueError:
        return None
    return _Entry(newest, product, md5, sha)
