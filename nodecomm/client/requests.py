# SPDX-License-Identifier: MIT
"""
What can be asked on a connection.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail

from nodecomm.client import endings
from nodecomm.client.answers import (
    ContentAnswer,
    DigestAnswer,
    ListingAnswer,
    NothingAnswer,
    StatAnswer,
    VersionAnswer,
)
from nodecomm.client.executing import (
    MAX_OUTPUT,
    RUN_SILENCE,
    ExecuteAnswer,
)
from nodecomm.client.stages import ASKING, Stage
from nodecomm.client.timeouts import DIGEST_RATE
from nodecomm.wire.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodecomm.client.address import ServerAddress
    from nodecomm.client.answers import Answer
    from nodecomm.client.errors import ClientError
    from nodecomm.client.executing import ExecuteResult
    from nodecomm.client.pace import Pace
    from nodecomm.client.pipeline import Pipeline
    from nodecomm.client.timeouts import Timeouts
    from nodecomm.wire.replies import StatReply

__all__ = ["MAX_NAMES", "Requests", "Wording"]

#: Names in a listing that are accepted unless the caller says otherwise.
MAX_NAMES = 1_000_000


class Wording:
    """
    How requests are put, as what awaits their answers. These are not encrypted, or
    TLS does it.
    """

    stat: Callable[..., Answer] = StatAnswer
    opendir: Callable[..., Answer] = ListingAnswer
    differs: Callable[..., Answer] = DigestAnswer
    get: Callable[..., Answer] = ContentAnswer


class Requests:
    """
    The asking half of a `Connection`. A base class and not an object of its own:
    whoever asks has one object.

    Attributes:
        server: Who was called.
        stage: Where in its life the connection is.
        bytes_received: Plaintext.
    """

    server: ServerAddress
    stage: Stage
    bytes_received: int
    _transport: Any
    _pipeline: Pipeline
    _pace: Pace
    _now: Callable[[], float]
    _monotonic: Callable[[], float]
    _timeouts: Timeouts
    _reason: Callable[[], ClientError] | None

    def __init__(self) -> None:
        self._wording = Wording()
        self._pauses = 0
        #: Whether answers that have come must be worked off before more is read.
        self._braked = False

    @property
    def is_nodecomm(self) -> bool:
        """
        Whether the server is nodecomm, as far as is known.
        """
        return False

    @property
    def outstanding(self) -> int:
        """
        Requests without a whole answer, those that have not left included.
        """
        return len(self._pipeline)

    @property
    def round_trips(self) -> int:
        """
        The longest chain of messages of which each waited for the one before,
        connecting and TLS included.
        """
        return self._pipeline.round_trips

    @property
    def requests(self) -> int:
        """
        How many requests left.
        """
        return self._pipeline.requests

    @property
    def window(self) -> int:
        """
        How many requests are out at a time; 1 waits for each answer.
        """
        return self._pipeline.window

    @window.setter
    def window(self, size: int) -> None:
        self._pipeline.window = size

    # Requests.

    def stat(self, path: bytes) -> Deferred[StatReply]:
        """
        What is at *path*.

        Errors, here and below: `Refused`; those that end the connection; and
        `LocalProtocolError` for a name that no request can carry.
        """
        return self._ask(self._wording.stat, path, int(self._now()))

    def opendir(
        self, path: bytes, *, max_names: int = MAX_NAMES, alone: bool = False
    ) -> Deferred[list[bytes]]:
        """
        The names in a folder, each checked to be one part of a path, without `.` and
        `..`.

        Args:
            path: Its name.
            max_names: A listing that is longer ends the connection.
            alone: Let nothing leave behind this request before it is answered. Where
                a refusal ends the connection, it may be lost if more was asked.
        """
        return self._ask(self._wording.opendir, path, max_names, alone=alone)

    def differs(
        self, path: bytes, digest: bytes, size: int | None = None
    ) -> Deferred[bool]:
        """
        Whether the server's file has another digest.

        Args:
            path: Its name.
            digest: MD5, 16 bytes.
            size: The file's size in bytes if known: the server reads it all, and is
                given time for that.
        """
        timeouts = self._timeouts
        patience = timeouts.digest
        if size is not None:
            patience = max(timeouts.answer, size / DIGEST_RATE)
        return self._ask(self._wording.differs, path, digest, patience)

    def get(
        self,
        path: bytes,
        size: int,
        sink: Callable[[bytes], None],
        *,
        alone: bool = False,
    ) -> Deferred[None]:
        """
        The content of a file of which a status said that it is an ordinary file of
        *size* bytes.

        Whether those bytes are the file's is not known before its digest has been
        compared: the protocol has no error that would show here.

        Args:
            path: Its name.
            size: Bytes; of 0 nothing is asked.
            sink: Called with pieces that are *size* bytes together, never empty,
                never more. When it raises, the connection is dropped, and this
                request fails with what it raised.
            alone: As for `opendir`.
        """
        if size > 0:
            return self._ask(self._wording.get, path, size, sink, alone=alone)
        return self._ask(NothingAnswer, path)

    def version_text(self) -> Deferred[bytes]:
        """
        The release that the server says it is.
        """
        return self._ask(VersionAnswer)

    def execute(
        self,
        *,
        defined: Sequence[bytes] = (),
        bundles: Sequence[bytes] = (),
        selected: Sequence[bytes] = (),
        on_line: Callable[[bytes], Deferred[None] | None],
        on_announced: Callable[[bytes], None] | None = None,
        silence: float = RUN_SILENCE,
        output_limit: int = MAX_OUTPUT,
    ) -> Deferred[ExecuteResult]:
        """
        Run what the server has as its `cfruncommand`.

        To cancel the Deferred ends nothing on the server; dropping the connection
        (`abort`) does, at a nodecomm server at once.

        Args:
            defined: Classes to define.
            bundles: Bundles to run.
            selected: Classes, or expressions of classes, of which the server must
                have one. For anything but a nodecomm server such a run is the last
                request of a connection.
            on_line: Called with each line of output as it comes, without newline: any
                bytes, to be escaped before a terminal sees them. As long as a
                Deferred that it returns has not fired, nothing is read. When it
                raises or its Deferred fails, the connection is dropped, and this
                request fails with that.
            on_announced: Called with the command as the server tells it, before the
                first line.
            silence: Seconds without any output after which the connection is dropped.
            output_limit: Bytes of output, of which each line counts for 32 at least;
                when more comes the connection is dropped, and the result says so.

        Errors besides those of other requests: `ExecutionDenied`, and
        `LocalProtocolError` for what is no name of a class or a bundle.
        """
        make = partial(
            ExecuteAnswer,
            on_line=on_line,
            on_announced=on_announced,
            silence=silence,
            output_limit=output_limit,
            pause=self.pause,
            resume=self.resume,
            still=lambda: self._still,
            monotonic=self._monotonic,
            reads_all=self.is_nodecomm,
        )
        return self._ask(make, defined, bundles, selected)

    def _ask(
        self, make: Callable[..., Answer], *arguments: Any, alone: bool = False
    ) -> Deferred[Any]:
        if self._reason is not None:
            return fail(self._reason())
        try:
            answer = make(*arguments)
        except LocalProtocolError as error:
            return fail(error)
        answer.alone = alone
        return self._pipeline.ask(answer)

    def abort(self, code: str, text: str) -> None:
        """
        Drop the connection.
        """
        raise NotImplementedError

    def parted(self, code: str, path: bytes, what: str) -> None:
        """
        What has just been answered was the last that this connection could be asked.
        """
        self.abort(code, endings.about(self.server, path, what))

    # Back-pressure.

    def pause(self) -> None:
        """
        Deliver nothing until `resume` has been called as often.
        """
        self._pauses += 1
        if self._pauses == 1:
            self._pipeline.hold()
            self._hush()

    def resume(self) -> None:
        """
        Undo one `pause`.
        """
        if not self._pauses:
            raise RuntimeError("resume without pause")
        self._pauses -= 1
        if self._pauses == 0:
            self._pipeline.release()
            self._hear()

    @property
    def _still(self) -> bool:
        """
        Whether it is our doing that nothing is read.
        """
        return self._pauses > 0 or self._braked

    def _brake(self, on: bool) -> None:
        """
        Stop reading while answers are worked on, or go on; what has come is
        delivered meanwhile.
        """
        self._braked = on
        if on:
            self._hush()
        else:
            self._hear()

    def _hush(self) -> None:
        if self.stage in ASKING:
            self._transport.pauseProducing()

    def _hear(self) -> None:
        if self._still:
            return
        self._pace.restart(self.bytes_received, self._pipeline.answered)
        if self.stage in ASKING:
            self._transport.resumeProducing()
