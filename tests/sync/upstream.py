# SPDX-License-Identifier: MIT
"""
A server with upstream's manners: content as it is when it is asked for, whatever was
announced, and error texts in its place.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from nodecomm.server.pools import InlinePool
from nodecomm.sync.clocks import Moment
from nodecomm.sync.model import SyncRequest, SyncResult
from nodecomm.sync.syncing import Syncer
from nodecomm.wire.commands import DIGEST_GAP
from nodecomm.wire.framing import MAX_RECORD, encode_transaction
from nodecomm.wire.replies import (
    DIGEST_DIFFERS,
    DIGEST_EQUAL,
    DIRECTORY,
    REFUSAL,
    REGULAR,
    StatReply,
    encode_listing,
)
from tests.client.scripted import HUB, Gone, Peer, Place

SOURCE = b"/src"

#: What a GET sends instead of the content, raw; None closes the connection.
Content = Callable[[bytes, bytes], "bytes | None"]


@define(eq=False)
class Upstream:
    """
    The script of each connection.

    Attributes:
        files: Relative name to content; None for a folder.
        content: What a GET sends, given the name and the true content.
        asked: All requests: command and relative name.
        refused: Commands and names that are refused.
        inos: The number of each object.
    """

    files: dict[bytes, bytes | None]
    content: Content = lambda name, true: true
    asked: list[tuple[str, bytes]] = field(factory=list)
    refused: set[tuple[str, bytes]] = field(factory=set)
    limit: int | None = None

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        await peer.greet()
        served = 0
        while True:
            payload = await peer.request()
            served += 1
            if self.limit is not None and served > self.limit:
                peer.abort()
                raise Gone
            self._serve(peer, payload)

    def _serve(self, peer: Peer, payload: bytes) -> None:
        command, _, rest = payload.partition(b" ")
        if command == b"SYNCH":
            path = rest.split(b" ", 2)[2]
        elif command == b"GET":
            path = rest.split(b" ", 1)[1]
        else:
            path = rest.partition(b"\0")[0]
        name = b"" if path == SOURCE else path[len(SOURCE) + 1 :]
        word = {b"SYNCH": "STAT"}.get(command, command.decode())
        self.asked.append((word, name))
        if name not in self.files or (word, name) in self.refused:
            peer.answer(REFUSAL)
            return
        true = self.files[name]
        if word == "STAT":
            peer.send(self._status(name, true).encode())
        elif word == "OPENDIR":
            if true is not None:
                peer.answer(b"BAD: cfengine, couldn't open dir %b/" % path)
                return
            for frame in encode_listing([b".", b"..", *self._below(name)]):
                peer.send(frame)
        elif word == "MD5":
            digest = rest[len(path) + DIGEST_GAP :]
            right = hashlib.md5(true or b"").digest()
            peer.answer(DIGEST_EQUAL if digest == right else DIGEST_DIFFERS)
        elif word == "GET" and true is not None:
            data = self.content(name, true)
            if data is None:
                peer.abort()
                raise Gone
            for begin in range(0, len(data), MAX_RECORD):
                peer.send(data[begin : begin + MAX_RECORD])

    def _below(self, name: bytes) -> list[bytes]:
        prefix = name + b"/" if name else b""
        found = [each[len(prefix) :] for each in self.files if each.startswith(prefix)]
        return [each for each in found if each and b"/" not in each]

    def _status(self, name: bytes, true: bytes | None) -> StatReply:
        kind = DIRECTORY if true is None else REGULAR
        mode = 0o755 if true is None else 0o644
        ino = 100 + list(self.files).index(name)
        size = 4096 if true is None else len(true)
        return StatReply(kind, mode, 0, 0, 0, size, 5, 1000, 1000, 0, ino, 1, 7)


@define(eq=False)
class Node:
    """
    A node that copies from an `Upstream`.
    """

    upstream: Upstream
    root: Path
    latency: float = 0.0
    place: Place = field(init=False)
    syncer: Syncer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.place = place = Place(self.upstream, latency=self.latency)
        clock = place.clock
        self.syncer = Syncer(
            place.dialer,
            HUB,
            state_dir=self.root / "state",
            pool=InlinePool(),
            clock=clock,
            now=lambda: 0.0,
            monotonic=clock.seconds,
            steady=lambda: Moment("boot", int(clock.seconds() * 1e9)),
        )

    @property
    def dest(self) -> Path:
        """The copy."""
        return self.root / "dest"

    def start(self, **more: Any) -> Any:
        """Begin a run."""
        destination = bytes(self.dest)
        return self.syncer.run(SyncRequest(SOURCE, destination, **more))

    def run(self, **more: Any) -> SyncResult:
        """A run that succeeds."""
        result: SyncResult = self.place.result(self.start(**more))
        self.place.result(self.syncer.close())
        return result

    def fail(self, **more: Any) -> Any:
        """A run that fails."""
        error = self.place.failure(self.start(**more))
        self.place.result(self.syncer.close())
        return error

    def copied(self) -> dict[bytes, bytes | None]:
        """What the copy consists of, as `Upstream.files`."""
        found: dict[bytes, bytes | None] = {b"": None}
        for path in self.dest.rglob("*"):
            name = bytes(path.relative_to(self.dest))
            found[name] = None if path.is_dir() else path.read_bytes()
        return found


def make_node(
    add_cleanup: Callable[..., object], upstream: Upstream, latency: float = 0.0
) -> Node:
    """
    A node whose files are gone after the test.
    """
    root = Path(tempfile.mkdtemp())
    add_cleanup(shutil.rmtree, root)
    return Node(upstream, root, latency)


def refusal_block(size: int = 2048) -> bytes:
    """
    What upstream sends for a file that may not be read after all: a framed refusal
    and a raw block.
    """
    return encode_transaction(REFUSAL) + REFUSAL.ljust(size, b"\0")
