# SPDX-License-Identifier: MIT
"""
What is known about a copy since earlier runs, so that the next one need not ask about
every file.

A record may be believed about a file if both ends are as they were: the server's four
values and the local file's five. As the server's times are whole seconds, a file can
change twice in one of them and show the same values. So a record is settled only when
the server confirmed the digest at least two seconds after these values were first
seen: whatever changed the file since shows.

All of this is a cache. One that is lost, damaged or older than what it is about costs
questions, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from attrs import define, field

from nodecomm.identity.files import ensure_folder, replace_file
from nodecomm.sync.clocks import Moment
from nodecomm.sync.model import Kind, LocalEntry, RemoteEntry
from nodecomm.wire.text import from_text, to_text

__all__ = ["SETTLED", "FileRecord", "LocalState", "Record", "ServerState"]

#: Seconds for which a file's values must have been the same. Whole seconds of the
#: server, and one for the moment between its look at the clock and at the file.
SETTLED = 2.0

#: Of the file's content; another version is another cache.
_VERSION = 1

#: Bytes of the largest record or manifest that is read back: two million files.
_MAX_BYTES = 1 << 29

_KINDS = {Kind.FOLDER: "d", Kind.LINK: "l", Kind.FILE: "f", Kind.OTHER: "o"}
_LETTERS = {letter: kind for kind, letter in _KINDS.items()}

#: The columns of numbers, in the order of `FileRecord`: the server's values, two
#: numbers of moments, the local values.
_NUMBERS = (
    *("size", "mtime", "ctime", "ino", "seen", "confirmed"),
    *("local_size", "local_mtime_ns", "local_ctime_ns", "local_ino", "local_dev"),
)

#: Bytes of a digest.
_MD5 = 16


class ServerState(NamedTuple):
    """
    What tells one content of a file on the server from the next, times in seconds.
    """

    size: int
    mtime: int
    ctime: int
    ino: int

    @classmethod
    def of(cls, entry: RemoteEntry) -> ServerState:
        """The state that the server described."""
        return cls(entry.size, entry.mtime, entry.ctime, entry.ino)


class LocalState(NamedTuple):
    """
    What tells one content of a local file from the next, times in nanoseconds.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    dev: int

    @classmethod
    def of(cls, entry: LocalEntry) -> LocalState:
        """The state that was found."""
        return cls(entry.size, entry.mtime_ns, entry.ctime_ns, entry.ino, entry.dev)


class FileRecord(NamedTuple):
    """
    One file, of which both ends had the same content.

    Attributes:
        server: The server's values.
        first_seen: When these were seen for the first time.
        md5: The digest of the content.
        confirmed: When the server was last asked about the digest and agreed: the
            moment at which the question left, as the answer may be older than it
            looks.
        local: The file here.
    """

    server: ServerState
    first_seen: Moment
    md5: bytes
    confirmed: Moment
    local: LocalState

    @property
    def settled(self) -> bool:
        """Whether the file need not be asked about while both ends stay the same."""
        passed = self.confirmed.since(self.first_seen)
        return passed is not None and passed >= SETTLED


@define(eq=False)
class Record:
    """
    What is known about one copy: a server's source and a local destination.

    Attributes:
        files: By name.
        kinds: What the server had, by name, folders before what is in them.
        warning: Why what was on disk is not used; empty: it is, or there was none.
    """

    path: Path
    files: dict[bytes, FileRecord] = field(factory=dict)
    kinds: dict[bytes, Kind] = field(factory=dict)
    warning: str = ""
    _manifest_md5: bytes | None = None
    _manifest: bytes | None = field(default=None, init=False)

    @classmethod
    def load(
        cls,
        state_dir: str | os.PathLike[str],
        server: str,
        source: bytes,
        destination: bytes,
    ) -> Record:
        """
        The record of the last run; an empty one if there is none, or a damaged one.

        Args:
            server: As configured, name and port.
        """
        key = b"\0".join((server.encode(), source, destination))
        name = hashlib.sha256(key).hexdigest() + ".json"
        record = cls(Path(state_dir, "sync", name))
        try:
            data = _read(record.path)
        except FileNotFoundError:
            return record
        except OSError as error:
            record.warning = f"{record.path} cannot be read: {error.strerror}"
            return record
        try:
            record._fill(json.loads(data))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            record = cls(record.path)
            record.warning = f"{record.path} is damaged: all files are asked about"
        return record

    def _fill(self, stored: dict[str, Any]) -> None:
        # By columns, each gone through by one call: what is done for each file in
        # Python shows with twenty thousand of them.
        if stored["version"] != _VERSION:
            raise ValueError(stored["version"])
        manifest = stored["manifest"]
        files = stored["files"]
        names = list(map(_name, files["names"]))
        numbers = [files[key] for key in _NUMBERS]
        for column in (*numbers, *stored["moments"][1:]):
            if not set(map(type, column)) <= {int}:
                raise ValueError(column)
        boots = list(map(str, stored["moments"][0]))
        moments = list(
            map(
                partial(tuple.__new__, Moment),
                zip(
                    map(boots.__getitem__, stored["moments"][1]),
                    stored["moments"][2],
                    strict=True,
                ),
            )
        )
        for places in (files["seen"], files["confirmed"], stored["moments"][1]):
            if min(places, default=0) < 0:
                raise ValueError(places)
        digests = bytes.fromhex(files["md5"])
        count = len(names)
        if {*map(len, numbers)} != {count} or len(digests) != count * _MD5:
            raise ValueError(count)
        size, mtime, ctime, ino, seen, confirmed, *local = numbers
        # `tuple.__new__`, as the classes' own constructors take three times as long.
        rows = zip(
            map(
                partial(tuple.__new__, ServerState),
                zip(size, mtime, ctime, ino, strict=True),
            ),
            map(moments.__getitem__, seen),
            (digests[at : at + _MD5] for at in range(0, len(digests), _MD5)),
            map(moments.__getitem__, confirmed),
            map(partial(tuple.__new__, LocalState), zip(*local, strict=True)),
            strict=True,
        )
        made = map(partial(tuple.__new__, FileRecord), rows)
        self.files = dict(zip(names, made, strict=True))
        self.kinds = {_name(text): _LETTERS[letter] for text, letter in stored["kinds"]}
        self._manifest_md5 = None if manifest is None else bytes.fromhex(manifest)

    def save(self) -> None:
        """
        Put it on disk, whole.

        Raises:
            OSError: The disk does not take it.
        """
        moments: dict[Moment, int] = {}
        boots: dict[str, int] = {}
        rows = [
            (
                *known.server,
                moments.setdefault(known.first_seen, len(moments)),
                moments.setdefault(known.confirmed, len(moments)),
                *known.local,
            )
            for known in self.files.values()
        ]
        columns = zip(*rows, strict=True) if rows else [()] * len(_NUMBERS)
        files: dict[str, Any] = dict(zip(_NUMBERS, columns, strict=True))
        files["names"] = list(map(to_text, self.files))
        files["md5"] = b"".join(known.md5 for known in self.files.values()).hex()
        starts = [boots.setdefault(moment.boot, len(boots)) for moment in moments]
        manifest = self._manifest_md5
        stored = {
            "version": _VERSION,
            "manifest": None if manifest is None else manifest.hex(),
            "kinds": [
                (to_text(name), _KINDS[kind]) for name, kind in self.kinds.items()
            ],
            "moments": (list(boots), starts, [moment.ns for moment in moments]),
            "files": files,
        }
        ensure_folder(str(self.path.parent))
        if self._manifest is not None:
            # First: a record that names a manifest which is not there costs a
            # question only, as its digest is checked.
            replace_file(str(self._manifest_path), self._manifest)
            self._manifest = None
        data = json.dumps(stored, separators=(",", ":"))
        replace_file(str(self.path), data.encode())

    def note(
        self,
        name: bytes,
        server: ServerState,
        local: LocalState,
        md5: bytes,
        *,
        seen: Moment,
        confirmed: Moment,
    ) -> FileRecord:
        """
        Remember that both ends have the same content.

        Args:
            server: What the server said before the digest was asked about.
            local: The local file, when the digest was made or since, its content
                known to be the same.
            md5: The digest.
            seen: When *server* was received in this run. It counts as first seen
                then, unless the same values were before, since the same start of
                this machine.
            confirmed: When the question about the digest left.
        """
        known = self.files.get(name)
        if (
            known is not None
            and known.server == server
            and known.first_seen.boot == seen.boot
            and known.first_seen.ns <= seen.ns
        ):
            seen = known.first_seen
        made = self.files[name] = FileRecord(server, seen, md5, confirmed, local)
        return made

    def unchanged(
        self, name: bytes, server: ServerState, local: LocalState
    ) -> FileRecord | None:
        """
        The record of a file if nothing has changed at either end, and it is settled:
        then it need not be asked about.
        """
        known = self.files.get(name)
        if (
            known is None
            or known.server != server
            or known.local != local
            or not known.settled
        ):
            return None
        return known

    def known_digest(self, name: bytes, local: LocalState) -> bytes | None:
        """
        The MD5 of a local file that is as it was.
        """
        known = self.files.get(name)
        return known.md5 if known is not None and known.local == local else None

    def hints(self) -> Mapping[bytes, Kind]:
        """
        What the server had when this was saved, folders before what is in them.
        """
        return self.kinds

    def keep_only(self, names: Iterator[bytes] | set[bytes]) -> None:
        """
        Forget all other files.
        """
        kept = set(names)
        self.files = {name: v for name, v in self.files.items() if name in kept}

    @property
    def _manifest_path(self) -> Path:
        return self.path.with_suffix(".manifest")

    @property
    def manifest_md5(self) -> bytes | None:
        """The digest of the manifest that is held; None: there is none."""
        return self._manifest_md5

    def manifest(self) -> bytes | None:
        """
        The manifest that is held; None when there is none, or it is damaged.
        """
        if self._manifest is not None or self._manifest_md5 is None:
            return self._manifest
        try:
            data = _read(self._manifest_path)
        except OSError:
            return None
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        return data if digest == self._manifest_md5 else None

    def hold_manifest(self, data: bytes | None) -> None:
        """
        Hold another manifest, or none; `save` puts it on disk.
        """
        self._manifest = data
        self._manifest_md5 = (
            None if data is None else hashlib.md5(data, usedforsecurity=False).digest()
        )


def _name(text: str) -> bytes:
    return from_text(text) if "\\" in text else text.encode()


def _read(path: Path) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags), "rb") as file:
        # Before reading: to read at most so many takes the memory for so many.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            return b""
        return file.read()
