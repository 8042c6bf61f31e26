# SPDX-License-Identifier: MIT
"""
A connection whose answers come when the test says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from nodecomm.client.errors import ClientError, ConnectionBroken, Refused
from nodecomm.wire.replies import DIRECTORY, LINK, REFUSAL, REGULAR, StatReply

#: What is at a name: content, names of a folder (None), or a whole reply.
Tree = dict[bytes, "bytes | StatReply | None"]

SOURCE = b"/src"


def reply(
    kind: int = REGULAR,
    size: int = 0,
    ino: int = 1,
    *,
    target: bytes = b"",
    mode: int = 0o644,
    mtime: int = 1000,
    dev: int = 7,
) -> StatReply:
    """A status."""
    link_mode = 0o777 if kind == LINK else 0
    return StatReply(
        kind, mode, link_mode, 0, 0, size, 5, mtime, mtime, 0, ino, 1, dev, target
    )


@define(eq=False)
class _Question:
    """
    What was asked.

    Attributes:
        done: Who waits for the answer.
        give: Makes it.
        alone: Nothing is sent behind it.
        ends: Whether it is refused, and the connection ends with that.
    """

    done: Deferred[Any]
    give: Callable[[], Any]
    alone: bool
    ends: Callable[[], bool]


@define(eq=False)
class FakeSession:
    """
    A server's tree behind a connection of which the test moves the answers.

    Attributes:
        tree: Relative name to content, to None for a folder, or to its status. The
            source is `b""`.
        refused: Names whose STAT, OPENDIR, MD5 or GET is refused, with the command.
        extra: Names that a listing has besides.
        asked: All requests, in order.
        trips: Times that answers were moved.
        version: Of the protocol. With 1, a refused OPENDIR ends the connection.
        encrypted: Whether a refused GET does, too.
        lost: When a refusal ends the connection while more has been asked, it is lost,
            and so many answers before it; None: it arrives.
    """

    tree: Tree
    refused: set[tuple[str, bytes]] = field(factory=set)
    extra: dict[bytes, list[bytes]] = field(factory=dict)
    asked: list[tuple[str, bytes]] = field(factory=list)
    trips: int = 0
    version: int = 3
    round_trips: int = 0
    bytes_received: int = 0
    encrypted: bool = False
    lost: int | None = None
    window: int = 256
    closed: bool = False
    aborted: tuple[str, str] | None = None
    waiting: list[_Question] = field(factory=list)
    _later: list[_Question] = field(factory=list)

    def _ask(
        self,
        command: str,
        path: bytes,
        answer: Callable[[bytes], Any],
        alone: bool = False,
    ) -> Any:
        self.asked.append((command, path))
        done: Deferred[Any] = Deferred()
        name = b"" if path == SOURCE else path[len(SOURCE) + 1 :]

        def is_refused() -> bool:
            return (command, name) in self.refused or name not in self.tree

        def give() -> Any:
            return Refused("refused", path, REFUSAL) if is_refused() else answer(name)

        def ends() -> bool:
            if self.version != 1 or command not in ("OPENDIR", "GET"):
                return False
            if command == "GET":
                return self.encrypted and is_refused()
            return isinstance(give(), Refused)

        if self.closed:
            done.errback(ConnectionBroken("closed", "closed"))
        else:
            self._later.append(_Question(done, give, alone, ends))
            self._send()
        return done

    def _send(self) -> None:
        """As many as may be out."""
        while self._later and len(self.waiting) < self.window:
            if self.waiting and self.waiting[-1].alone:
                break
            self.waiting.append(self._later.pop(0))

    def stat(self, path: bytes) -> Deferred[StatReply]:
        """STAT."""

        def answer(name: bytes) -> StatReply:
            what = self.tree[name]
            if isinstance(what, StatReply):
                return what
            ino = list(self.tree).index(name) + 10
            if what is None:
                return reply(DIRECTORY, 4096, ino, mode=0o755)
            return reply(REGULAR, len(what), ino)

        return self._ask("STAT", path, answer)  # type: ignore[no-any-return]

    def opendir(
        self, path: bytes, *, max_names: int = 1_000_000, alone: bool = False
    ) -> Deferred[list[bytes]]:
        """OPENDIR."""

        def answer(name: bytes) -> Any:
            what = self.tree[name]
            if not (what is None or getattr(what, "kind", 0) == DIRECTORY):
                return Refused("error", path, b"BAD: cfengine, couldn't open dir")
            prefix = name + b"/" if name else b""
            below = [
                each[len(prefix) :]
                for each in self.tree
                if each and each.startswith(prefix)
            ]
            return [each for each in below if b"/" not in each] + self.extra.get(
                name, []
            )

        return self._ask("OPENDIR", path, answer, alone)  # type: ignore[no-any-return]

    def differs(
        self, path: bytes, digest: bytes, size: int | None = None
    ) -> Deferred[bool]:
        """MD5."""

        def answer(name: bytes) -> bool:
            what = self.tree[name]
            assert isinstance(what, bytes)
            return hashlib.md5(what, usedforsecurity=False).digest() != digest

        return self._ask("MD5", path, answer)  # type: ignore[no-any-return]

    def get(
        self,
        path: bytes,
        size: int,
        sink: Callable[[bytes], None],
        *,
        alone: bool = False,
    ) -> Deferred[None]:
        """GET."""

        def answer(name: bytes) -> None:
            what = self.tree[name]
            assert isinstance(what, bytes)
            for begin in range(0, size, 16384):
                sink(what[begin : min(size, begin + 16384)])

        return self._ask("GET", path, answer, alone)  # type: ignore[no-any-return]

    def pause(self) -> None:
        """Nothing comes before the test says so."""

    def resume(self) -> None:
        """Nor after."""

    def close(self) -> Deferred[None]:
        """End politely."""
        self.fail()
        return succeed(None)

    def abort(self, code: str, text: str) -> None:
        """End."""
        self.aborted = code, text
        self.fail(ConnectionBroken(code, text))

    def fail(self, error: ClientError | None = None) -> None:
        """Let everything outstanding fail."""
        self.closed = True
        waiting = [*self.waiting, *self._later]
        self.waiting, self._later = [], []
        for question in waiting:
            if isinstance(error, ClientError):
                question.done.errback(type(error)(error.code, error.text))
            else:
                question.done.errback(ConnectionBroken("closed", "closed"))

    def answer(self) -> bool:
        """
        Answer what has been asked up to now: one round trip.
        """
        if not self.waiting:
            return False
        self.trips += 1
        for left in range(len(self.waiting), 0, -1):
            if not self.waiting:
                break
            if self._is_lost(left):
                self.fail()
                break
            question = self.waiting.pop(0)
            result = question.give()
            self._send()
            if isinstance(result, Exception):
                ends = question.ends()
                question.done.errback(result)
                if ends:
                    self.fail()
            else:
                question.done.callback(result)
        return True

    def _is_lost(self, left: int) -> bool:
        """
        Whether the next answer is not sent any more when the server closes; it reads
        one question after the other, *left* of them in this round trip.
        """
        if self.lost is None:
            return False
        near = self.waiting[: min(self.lost + 1, left)]
        return any(
            question.ends() for question in near if question is not self.waiting[-1]
        )

    def answer_all(self) -> int:
        """
        Answer until nothing more is asked; how many round trips it took.
        """
        before = self.trips
        while self.answer():
            pass
        return self.trips - before
