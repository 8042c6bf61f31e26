# SPDX-License-Identifier: MIT
"""
Answers of the classic protocol that are encrypted while they leave.

Encrypting is done in a pool of threads, a part at a time, and the next part of a file
is under way while the one before it leaves. Little is encrypted at once, where going
to a thread would take longer.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.server.flows import ContentFlow, Flow
from nodecomm.wire.cipher import BLOCK
from nodecomm.wire.framing import HEADER_SIZE, MAX_RECORD, encode_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nodecomm.server.flows import Outlet
    from nodecomm.server.pools import Pool
    from nodecomm.server.replies import Content, Packets
    from nodecomm.server.requests import Request
    from nodecomm.wire.cipher import SessionCipher

__all__ = ["SealedContentFlow", "SealedNameFlow", "Sealer"]

T = TypeVar("T")

#: Parts of one file that are encrypted at the same time.
_AT_ONCE = 2

#: Blocks, or packets of a listing, that are encrypted where they are: 31 us each.
_FEW = 2

#: Packets of a listing that are encrypted at a time.
_PACKETS = 32


@define(eq=False)
class Sealer:
    """
    Encrypts for one connection, several things at the same time.

    Args:
        seal: The session's cipher, for what is done at once.
        pool: Where the rest is done; None: it is done at once as well.
    """

    seal: SessionCipher
    _pool: Pool | None
    _idle: list[SessionCipher] = field(factory=list, init=False)

    def run(self, work: Callable[[SessionCipher], T]) -> T | Deferred[T]:
        """
        The result of `work(cipher)`, with a cipher that nobody else uses meanwhile.

        Raises:
            QueueFull: Too much waits already.
        """
        if self._pool is None:
            return work(self.seal)
        cipher = self._idle.pop() if self._idle else self.seal.clone()

        def free(result: T) -> T:
            self._idle.append(cipher)
            return result

        return self._pool.run(work, cipher).addCallback(free)


@define(eq=False)
class _Part:
    """
    A part of a file.
    """

    last: bool
    frames: bytes = b""


class SealedContentFlow(ContentFlow):
    """
    A file's content in encrypted frames.
    """

    def __init__(self, request: Request, reply: Content, sealer: Sealer) -> None:
        super().__init__(request, reply)
        self._sealer = sealer
        #: Read, encrypted or being so, and not sent; in order.
        self._parts: deque[_Part] = deque()
        #: The beginning of the next part.
        self._read: list[bytes] = []
        self._reading = False
        self._why = ""
        self._dropped = False

    def drop(self) -> None:
        """
        Let go of the file; what is being made is for nobody.
        """
        super().drop()
        self._dropped = True
        self._parts.clear()
        self._read.clear()

    def step(self, out: Outlet) -> int:
        """
        Send the next part, if it is ready, and have others made.
        """
        self._prepare(out)
        parts = self._parts
        if self._why:
            out.break_off(self, self._why)
        elif not (parts and parts[0].frames):
            out.wait()
        else:
            part = parts.popleft()
            why = self.changed() if part.last else ""
            if why:
                out.break_off(self, why)
                return 0
            if not part.last:
                # The next is made while this one leaves.
                self._prepare(out)
            out.send(self, part.frames, last=part.last)
            return len(part.frames)
        return 0

    def _prepare(self, out: Outlet) -> None:
        """
        Read as far ahead as may be.
        """
        if not self.size and not self._parts:
            self._encrypt(out, b"")
        part = max(1, out.chunk // (_AT_ONCE * BLOCK)) * BLOCK
        while (
            self.left
            and len(self._parts) < _AT_ONCE
            and not (self._reading or self._why or self._dropped)
        ):
            wanted = min(part - self.offset % part, self.left)
            data = self.read(wanted)
            if isinstance(data, str):
                self._why = data
            elif isinstance(data, Deferred):
                self._reading = True
                data.addCallbacks(
                    self._arrived, self._failed, (wanted, out), {}, (out,)
                )
            else:
                self._take(data, wanted, out)

    def _arrived(self, data: bytes, wanted: int, out: Outlet) -> None:
        self._reading = False
        if not self._dropped:
            self._take(data, wanted, out)
            out.wake()

    def _failed(self, failure: Failure, out: Outlet) -> None:
        self._reading = False
        if not self._dropped:
            self._why = self.unreadable(failure)
            out.wake()

    def _take(self, data: bytes, wanted: int, out: Outlet) -> None:
        """
        Bytes were read; *wanted* are missing in the part that they belong to.
        """
        data = data[:wanted]
        if not data:
            self._why = self.too_short()
            return
        self._read.append(data)
        self.offset += len(data)
        self.left -= len(data)
        if len(data) == wanted:
            whole = b"".join(self._read)
            self._read.clear()
            self._encrypt(out, whole)

    def _encrypt(self, out: Outlet, data: bytes) -> None:
        part = _Part(not self.left)
        self._parts.append(part)

        def encrypt(cipher: SessionCipher) -> bytes:
            return cipher.encrypt_blocks(data, last=part.last)

        if self.size <= _FEW * BLOCK:
            part.frames = encrypt(self._sealer.seal)
            return
        try:
            frames = self._sealer.run(encrypt)
        except Exception as error:
            self._why = str(error)
            return
        if isinstance(frames, Deferred):
            frames.addCallbacks(
                self._encrypted, self._not_encrypted, (part, out), {}, (out,)
            )
        else:
            part.frames = frames

    def _encrypted(self, frames: bytes, part: _Part, out: Outlet) -> None:
        part.frames = frames
        if self._parts and self._parts[0] is part:
            out.wake()

    def _not_encrypted(self, failure: Failure, out: Outlet) -> None:
        if not self._dropped:
            self._why = f"cannot be encrypted: {failure.getErrorMessage()}"
            out.wake()


class SealedNameFlow(Flow):
    """
    Frames, each with its payload encrypted.
    """

    def __init__(self, request: Request, reply: Packets, sealer: Sealer) -> None:
        super().__init__(request, reply)
        self._frames: Iterator[bytes] = iter(reply.frames)
        self._sealer = sealer
        self._ready: deque[bytes] = deque()
        self._dropped = False

    def drop(self) -> None:
        """
        What is being encrypted is for nobody.
        """
        self._dropped = True

    def step(self, out: Outlet) -> int:
        """
        Join what is encrypted until a record has left, or have more encrypted.
        """
        ready = self._ready
        while ready:
            if out.join(self, ready.popleft()):
                return MAX_RECORD
        try:
            frames = list(islice(self._frames, _PACKETS))
            if not frames:
                out.end(self)
                return 0

            def encrypt(cipher: SessionCipher) -> list[bytes]:
                return [_seal_frame(cipher, frame) for frame in frames]

            if len(frames) <= _FEW:
                ready.extend(encrypt(self._sealer.seal))
                return 0
            sealed = self._sealer.run(encrypt)
        except Exception:
            out.fail(self, Failure())  # type: ignore[no-untyped-call]
            return 0
        if isinstance(sealed, Deferred):
            out.wait()
            sealed.addCallbacks(
                self._encrypted, self._not_encrypted, (out,), {}, (out,)
            )
        else:
            ready.extend(sealed)
        return 0

    def _encrypted(self, frames: list[bytes], out: Outlet) -> None:
        if not self._dropped:
            self._ready.extend(frames)
            out.wake()

    def _not_encrypted(self, failure: Failure, out: Outlet) -> None:
        if not self._dropped:
            out.fail(self, failure)


def _seal_frame(cipher: SessionCipher, frame: bytes) -> bytes:
    return encode_transaction(
        cipher.encrypt(frame[HEADER_SIZE:]), more=frame.startswith(b"m")
    )
