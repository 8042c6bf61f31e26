# SPDX-License-Identifier: MIT
"""
Encrypted requests of the classic protocol, and what is awaited for them.

Only listings and the content of files come encrypted. What a server refuses comes in
clear, in the place of what was asked for, and is told from it by its length: what is
encrypted has whole units of 8 bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import maybeDeferred

from nodecomm.client.answers import (
    PENDING,
    Answer,
    DigestAnswer,
    ListingAnswer,
    SinkFailed,
    StatAnswer,
    Unacceptable,
    refused,
)
from nodecomm.client.requests import Wording
from nodecomm.wire.cipher import UNIT
from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL, is_error
from nodecomm.wire.sealed import seal_digest, seal_get, seal_opendir, seal_stat

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.server.pools import Pool
    from nodecomm.wire.cipher import SessionCipher
    from nodecomm.wire.framing import TransactionBuffer

__all__ = ["SealedContentAnswer", "SealedWording", "Unsealing"]

#: Messages that are decrypted together in a thread: 260 kB of a file, 2 ms. Handing
#: them over and back costs some 0.1 ms.
CHUNK = 64

#: Up to so many messages at the end of a file are decrypted at once, not in a thread.
SMALL = 8

#: Bytes that may wait to be decrypted before nothing more is read.
HIGH_WATER = 1 << 20

#: Threads of one connection.
THREADS = 2

#: How the text begins that takes the place of the rest of a file.
#: Source: CFEngine 3.21, observed.
_CHANGED = b"BAD: File changed while copying"


def _is_clear_error(payload: bytes) -> bool:
    """
    Whether this is an error text in clear, and nothing encrypted.
    """
    return len(payload) % UNIT != 0 and is_error(payload)


class _Chunk:
    """
    Messages that are decrypted together.

    Attributes:
        size: Their bytes.
        last: Whether the last of them ends the answer.
        clear: What they say, once that is known.
        error: Why that will never be known.
    """

    __slots__ = ("clear", "error", "last", "payloads", "size")

    def __init__(self, payloads: list[bytes], size: int, *, last: bool) -> None:
        self.payloads = payloads
        self.size = size
        self.last = last
        self.clear: bytes | None = None
        self.error: Exception | None = None


class Unsealing:
    """
    Decrypts what one connection brings, away from the reactor where it is much.

    Args:
        cipher: The session's; it is used in the reactor's thread only.
        pool: Where large pieces are decrypted.
        wake: Called when a piece is ready.
        brake: Called with True when so much waits that nothing more should be read,
            and with False when more may come.
    """

    def __init__(
        self,
        cipher: SessionCipher,
        pool: Pool,
        wake: Callable[[], None],
        brake: Callable[[bool], None],
    ) -> None:
        self.cipher = cipher
        self._pool = pool
        self._wake = wake
        self._brake = brake
        self._spare: list[SessionCipher] | None = None
        self._queue: deque[_Chunk] = deque()
        self._waiting = 0
        self._braked = False

    def now(self, payloads: list[bytes]) -> bytes:
        """
        What these few messages say, of which the last ends the answer.

        Raises:
            RemoteProtocolError: They were not encrypted with this key, or one that is
                not the last says nothing.
        """
        return _decrypt(self.cipher, payloads, last=True)

    def later(self, payloads: list[bytes], *, last: bool) -> _Chunk:
        """
        The same for many, some time later; *last* says whether one of them ends the
        answer.
        """
        chunk = _Chunk(payloads, sum(map(len, payloads)), last=last)
        self._waiting += chunk.size
        self._queue.append(chunk)
        self._start()
        if self._waiting > HIGH_WATER and not self._braked:
            self._braked = True
            self._brake(True)
        return chunk

    def taken(self, chunk: _Chunk) -> None:
        """
        What *chunk* says has been passed on.
        """
        self._waiting -= chunk.size
        if self._braked and self._waiting <= HIGH_WATER // 2:
            self._braked = False
            self._brake(False)

    def _start(self) -> None:
        if self._spare is None:
            self._spare = [self.cipher.clone() for _ in range(THREADS)]
        while self._queue and self._spare:
            chunk, cipher = self._queue.popleft(), self._spare.pop()
            work = partial(_decrypt, last=chunk.last)
            maybeDeferred(self._pool.run, work, cipher, chunk.payloads).addCallbacks(
                self._decrypted,
                self._failed,
                callbackArgs=(chunk, cipher),
                errbackArgs=(chunk, cipher),
            )

    def _decrypted(self, clear: bytes, chunk: _Chunk, cipher: SessionCipher) -> None:
        chunk.clear = clear
        self._over(chunk, cipher)

    def _failed(self, failure: Failure, chunk: _Chunk, cipher: SessionCipher) -> None:
        failure.trap(Exception)  # type: ignore[no-untyped-call]
        error: Any = failure.value
        chunk.error = error
        self._over(chunk, cipher)

    def _over(self, chunk: _Chunk, cipher: SessionCipher) -> None:
        chunk.payloads = []
        if self._spare is not None:
            self._spare.append(cipher)
        self._start()
        self._wake()


def _decrypt(cipher: SessionCipher, payloads: list[bytes], *, last: bool) -> bytes:
    pieces = cipher.decrypt_joined(payloads)
    # Of messages that say nothing there could be any number, and they would be no
    # silence either: the answer would never end.
    if b"" in (pieces[:-1] if last else pieces):
        what = "must be the last"
        raise RemoteProtocolError("encrypted message without content", limit=what)
    return b"".join(pieces)


class SealedListingAnswer(ListingAnswer):
    """
    Awaits the names in a folder, in encrypted messages.
    """

    __slots__ = ("_unsealing",)

    def __init__(self, path: bytes, max_names: int, unsealing: Unsealing) -> None:
        super().__init__(
            path, max_names, partial(seal_opendir, cipher=unsealing.cipher)
        )
        self._unsealing = unsealing

    def _clear(self, payload: bytes) -> bytes:
        if _is_clear_error(payload):
            return payload
        clear = self._unsealing.now([payload])
        # Source: CFEngine 3.21: the error text that is encrypted has a NUL at its end.
        # A listing that begins with such a name has more of them.
        text = clear[:-1]
        return text if is_error(text) and clear.endswith(b"\0") else clear


class SealedContentAnswer(Answer):
    """
    Awaits the content of a file in encrypted messages, as many bytes as its status
    said.

    Unlike plain content these messages end by themselves, so that what was refused
    or has changed is known.
    """

    __slots__ = ("_chunks", "_complete", "_left", "_payloads", "_sink", "_unsealing")

    def __init__(
        self,
        path: bytes,
        size: int,
        sink: Callable[[bytes], None],
        unsealing: Unsealing,
    ) -> None:
        super().__init__(path, encode_transaction(seal_get(path, unsealing.cipher)))
        self._sink = sink
        self._unsealing = unsealing
        self._left = size
        #: Messages that nobody decrypts yet, and those that are being decrypted.
        self._payloads: list[bytes] | None = None
        self._chunks: deque[_Chunk] = deque()
        self._complete = False

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        while not self._complete:
            payload = buffer.next_payload()
            if payload is None:
                break
            first = self._payloads is None
            if _is_clear_error(payload) or payload.startswith(_CHANGED):
                if first and not buffer.more and not payload.startswith(_CHANGED):
                    return refused(self.path, payload)
                raise Unacceptable("changed", _words(payload))
            self._add(payload, buffer.more)
        return self._pass_on()

    def _add(self, payload: bytes, more: bool) -> None:
        payloads = self._payloads
        if payloads is None:
            payloads = []
        payloads.append(payload)
        self._payloads = payloads
        self._complete = not more
        if len(payloads) == CHUNK or (
            not more and (len(payloads) > SMALL or self._chunks)
        ):
            self._chunks.append(self._unsealing.later(payloads, last=not more))
            self._payloads = []

    def _pass_on(self) -> Any:
        """
        Give what is clear to the sink, in order.
        """
        chunks = self._chunks
        while chunks:
            chunk = chunks[0]
            if isinstance(chunk.error, RemoteProtocolError):
                raise chunk.error
            if chunk.error is not None:
                raise SinkFailed(chunk.error) from chunk.error
            if chunk.clear is None:
                return PENDING
            chunks.popleft()
            self._unsealing.taken(chunk)
            self._pour(chunk.clear)
        if not self._complete:
            return PENDING
        if self._payloads:
            self._pour(self._unsealing.now(self._payloads))
        if self._left:
            text = f"a file that ended {self._left} bytes early"
            raise Unacceptable("changed", text)
        return None

    def _pour(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            text = f"{-self._left} bytes beyond the end of the file"
            raise Unacceptable("out-of-step", text)
        if data and not self.deferred.called:
            try:
                self._sink(data)
            except Exception as error:
                raise SinkFailed(error) from error


def _words(payload: bytes) -> str:
    if payload == REFUSAL:
        return "a refusal in the middle of the file"
    return "the file was changed while it was read"


class SealedWording(Wording):
    """
    How requests are put when they are encrypted, each in an envelope of its own.
    """

    def __init__(self, unsealing: Unsealing) -> None:
        cipher = unsealing.cipher
        self.stat = partial(StatAnswer, encode=partial(seal_stat, cipher=cipher))
        self.opendir = partial(SealedListingAnswer, unsealing=unsealing)
        self.differs = partial(DigestAnswer, encode=partial(seal_digest, cipher=cipher))
        self.get = partial(SealedContentAnswer, unsealing=unsealing)
