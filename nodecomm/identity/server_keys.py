# SPDX-License-Identifier: MIT
"""
The keys of servers, on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from urllib.parse import quote, unquote_to_bytes

from attrs import frozen

from nodecomm.identity.files import (
    ensure_folder,
    read_small,
    replace_file,
    sync_folder,
)
from nodecomm.identity.keys import (
    PublicKey,
    UnusableKey,
    check_sane,
    parse_digest,
)
from nodecomm.identity.matches import UnusableEntry
from nodecomm.wire.text import from_text, safe, to_text

__all__ = [
    "SERVER_KEYS_FOLDER",
    "ServerKeyStore",
    "ServerKeysUnreadable",
    "StoredServer",
]

#: The folder in the state folder.
SERVER_KEYS_FOLDER = "server-keys"

_SUFFIX = ".pem"

#: Bytes of the longest file name made of a server's name; a longer one is hashed.
#: The equals sign never stands in a quoted name.
_LONGEST_NAME = 200
_LONG = "long="

_NAME_LINE = "# server: "

_PEM = re.compile(
    rb"-----BEGIN ((?:RSA )?PUBLIC KEY)-----[^-]*-----END \1-----[ \t\r]*(?:\n|\Z)"
)


class ServerKeysUnreadable(Exception):  # noqa: N818
    """
    A file of a server's keys holds something else. Nobody is trusted by it, and no
    first use either, until it is put right or removed.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@frozen
class StoredServer:
    """
    The keys of one server.

    Attributes:
        server: Its name and port, as configured.
        keys: Its keys, the oldest first; several during a change of key.
        path: The file.
    """

    server: str
    keys: tuple[PublicKey, ...]
    path: str


@frozen
class _Block:
    """
    A key in a file, with the remarks that stand before it.
    """

    key: PublicKey
    data: bytes


class ServerKeyStore:
    """
    The keys of servers: a folder with one file for each, `HOST%3APORT.pem`, that holds
    whole keys in PEM form. It may be edited by hand; every change is seen at once.

    Its methods block for as long as a local file system needs for a small file; those
    that write wait for the disk, and for others who write. Any thread may call them.

    Args:
        directory: The folder. It may be missing; the first key added makes it.
        now: Civil time, in seconds since 1970, for the remark when a key was stored.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = os.fspath(directory)
        self._now = now

    def __repr__(self) -> str:
        return f"<ServerKeyStore {self.directory}>"

    def path(self, server: str) -> str:
        """
        The file of one server, whether it exists or not.
        """
        return os.path.join(self.directory, _file_name(server))

    def keys(self, server: str) -> tuple[PublicKey, ...]:
        """
        The keys of one server, the oldest first.

        Args:
            server: Name and port, as `str(ServerAddress)` writes them.

        Raises:
            ServerKeysUnreadable: The file holds something else.
            OSError: It cannot be read.
        """
        return tuple(block.key for block in self._blocks(server))

    def add(self, server: str, key: PublicKey, *, replace: bool = False) -> bool:
        """
        Store a key for a server, beside those that it has or in their place. False
        if that changes nothing.

        Raises:
            InsaneKey: It may not be stored.
            ServerKeysUnreadable: The file holds something else; *replace* is the way
                out.
            OSError: It could not be written.
        """
        check_sane(key)
        with self._locked():
            blocks: list[_Block] = []
            if not replace:
                blocks = self._blocks(server)
                if any(block.key == key for block in blocks):
                    return False
            elif self._holds_only(server, key):
                return False
            self._write(server, [*blocks, self._block(key)])
        return True

    def add_first(self, server: str, key: PublicKey) -> tuple[PublicKey, ...]:
        """
        Store a key for a server that has none. Of several that do so at once, one
        wins.

        Returns:
            The keys of the server now: this one alone, or those that were there.

        Raises:
            InsaneKey: It may not be stored.
            ServerKeysUnreadable: The file holds something else.
            OSError: It could not be written.
        """
        check_sane(key)
        with self._locked():
            known = self.keys(server)
            if not known:
                self._write(server, [self._block(key)])
                known = (key,)
        return known

    def keep_only(
        self, server: str, key: PublicKey, good: Callable[[PublicKey], bool]
    ) -> None:
        """
        Store a key for a server, and forget those of its keys that are not good.

        Raises:
            As `add`.
        """
        check_sane(key)
        with self._locked():
            kept = [b for b in self._blocks(server) if b.key != key and good(b.key)]
            self._write(server, [*kept, self._block(key)])

    def forget(self, server: str, digest: str | None = None) -> tuple[PublicKey, ...]:
        """
        Forget the keys of a server, or the one with this digest.

        Returns:
            The keys that were forgotten. Empty if there was none, or if the whole
            file was removed and held nothing readable.

        Raises:
            ValueError: *digest* is none.
            ServerKeysUnreadable: One key shall go, and the file holds something else.
            OSError: It could not be written.
        """
        wanted = None if digest is None else parse_digest(digest)
        if not os.path.lexists(self.path(server)):
            return ()
        with self._locked():
            try:
                blocks = self._blocks(server)
            except (ServerKeysUnreadable, OSError):
                if wanted is not None:
                    raise
                blocks = []
            kept = [b for b in blocks if wanted and not b.key.matches(wanted)]
            if kept and len(kept) == len(blocks):
                return ()
            if kept:
                self._write(server, kept)
            else:
                os.unlink(self.path(server))
                sync_folder(self.directory)
        return tuple(block.key for block in blocks if block not in kept)

    def entries(self) -> Sequence[StoredServer]:
        """
        The servers with their keys, in name order; files that cannot be used are
        left out.
        """
        return self._look()[0]

    def unusable(self) -> Sequence[UnusableEntry]:
        """
        The files that hold no keys of a server, and why, in name order.
        """
        return self._look()[1]

    def others(self, key: PublicKey, server: str = "") -> tuple[str, ...]:
        """
        Which servers, *server* left out, are known by this key.
        """
        name = _normal(server)
        return tuple(
            entry.server
            for entry in self.entries()
            if key in entry.keys and entry.server != name
        )

    def _look(self) -> tuple[list[StoredServer], list[UnusableEntry]]:
        good: list[StoredServer] = []
        bad: list[UnusableEntry] = []
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            names = []
        for name in names:
            if name.startswith(".") or not name.endswith(_SUFFIX):
                continue
            path = os.path.join(self.directory, name)
            try:
                data = _read(path)
                server = _server_name(name, data)
                keys = tuple(block.key for block in _parse(path, data))
            except FileNotFoundError:
                continue
            except ServerKeysUnreadable as error:
                bad.append(UnusableEntry(name, error.reason))
            except ValueError:
                reason = "is not named as the file of any server would be"
                bad.append(UnusableEntry(name, reason))
            except OSError as error:
                bad.append(UnusableEntry(name, f"cannot be read: {error.strerror}"))
            else:
                good.append(StoredServer(server, keys, path))
        return sorted(good, key=lambda entry: entry.server), bad

    def _blocks(self, server: str) -> list[_Block]:
        path = self.path(server)
        try:
            return _parse(path, _read(path))
        except FileNotFoundError:
            return []

    def _holds_only(self, server: str, key: PublicKey) -> bool:
        try:
            return self.keys(server) == (key,)
        except ServerKeysUnreadable:
            return False

    def _block(self, key: PublicKey) -> _Block:
        moment = datetime.fromtimestamp(int(self._now()), timezone.utc)
        stored = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        head = f"# {key.md5}, stored {stored}\n"
        return _Block(key, head.encode() + key.to_pem())

    def _write(self, server: str, blocks: Sequence[_Block]) -> None:
        # The name stands once, before the first key; what is kept may bring it along.
        name = f"{_NAME_LINE}{safe(to_text(_encoded(server)))}\n".encode()
        rest = b"".join(_without_name(block.data) for block in blocks)
        replace_file(self.path(server), name + rest)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """
        One writer at a time, on a file of its own because the others are replaced.
        """
        ensure_folder(self.directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(os.path.join(self.directory, ".lock"), flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _normal(server: str) -> str:
    return server.lower()


def _encoded(server: str) -> bytes:
    return _normal(server).encode("utf-8", "surrogatepass")


def _file_name(server: str) -> str:
    """
    The name of a server's file: no two servers share one, and none leads elsewhere.
    """
    quoted = quote(_encoded(server), safe="")
    if quoted.startswith("."):
        # Files that begin with a dot are others'.
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) > _LONGEST_NAME:
        quoted = _LONG + hashlib.sha256(_encoded(server)).hexdigest()
    return quoted + _SUFFIX


def _server_name(file: str, data: bytes) -> str:
    """
    The server that a file is about.

    Raises:
        ValueError: It is not named as the file of any server.
    """
    if file.startswith(_LONG):
        line = data.partition(b"\n")[0].decode("utf-8", "replace")
        raw = from_text(line.removeprefix(_NAME_LINE))
    else:
        raw = unquote_to_bytes(file.removesuffix(_SUFFIX))
    server = raw.decode("utf-8", "surrogatepass")
    if _file_name(server) != file:
        msg = "no server has this name"
        raise ValueError(msg)
    return server


def _read(path: str) -> bytes:
    try:
        return read_small(path)[1]
    except ValueError as error:
        raise ServerKeysUnreadable(path, str(error)) from error


def _parse(path: str, data: bytes) -> list[_Block]:
    """
    The keys in a file; between them stand only remarks.

    Raises:
        ServerKeysUnreadable: It holds anything else, or none at all.
    """
    blocks: list[_Block] = []
    start = 0
    for found in _PEM.finditer(data):
        head = data[start : found.start()]
        _check_remarks(path, head)
        try:
            key = PublicKey.from_pem(found.group())
            check_sane(key)
        except UnusableKey as error:
            raise ServerKeysUnreadable(path, f"holds no usable key: {error}") from error
        if all(block.key != key for block in blocks):
            whole = data[start : found.end()]
            blocks.append(
                _Block(key, whole if whole.endswith(b"\n") else whole + b"\n")
            )
        start = found.end()
    _check_remarks(path, data[start:])
    if not blocks:
        raise ServerKeysUnreadable(path, "holds no key")
    return blocks


def _check_remarks(path: str, text: bytes) -> None:
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith(b"#"):
            shown = safe(to_text(line[:60]))
            raise ServerKeysUnreadable(path, f"has a line that is no key: {shown}")


def _without_name(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    mark = _NAME_LINE.encode()
    return b"".join(line for line in lines if not line.startswith(mark))
