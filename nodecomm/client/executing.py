# SPDX-License-Identifier: MIT
"""
A remote run as its asker sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.internet.defer import Deferred

from nodecomm.client.answers import (
    PENDING,
    Answer,
    SinkFailed,
    Unacceptable,
    refused,
)
from nodecomm.client.errors import MAX_WORDS, Refused
from nodecomm.wire.execute import (
    encode_execute,
)
from nodecomm.wire.run_reader import (
    Announced,
    Denied,
    Ended,
    ExitCode,
    Line,
    Remark,
    RunReader,
)
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from nodecomm.wire.framing import TransactionBuffer

__all__ = [
    "MAX_OUTPUT",
    "RUN_SILENCE",
    "ExecuteAnswer",
    "ExecuteResult",
    "ExecutionDenied",
]

#: Bytes of output that are taken unless the caller says otherwise.
MAX_OUTPUT = 10 << 20

#: Seconds of silence after which a run counts as lost unless the caller says
#: otherwise. cf-runagent waits 185 s.
RUN_SILENCE = 300.0

#: What a line or anything else that is said counts for against the limit of output, at
#: least: an empty one costs as much to take as any.
_LEAST = 32

#: Remarks that are kept of one run.
_MAX_REMARKS = 20

#: What stands for the path in errors.
_NAME = b"EXEC"


#: Source: CFEngine 3.21 reads no further than the first class that it has, and takes
#: the rest for commands when the run is over.
_OUT_OF_STEP = (
    "closed",
    "a run that asked for classes is the last thing that can be asked of this server on"
    " a connection: what it has not read of them it takes for commands",
)
_FLOODED = ("aborted", "there is more output than is wanted")


class ExecutionDenied(Refused):
    """
    The server runs nothing, and says why in one of its few texts: the node has none of
    the asked for classes (`class-match`), no role lets us define a class (`role`), a
    bundle is not admitted (`bundle`), or it does not know an option (`arguments`).
    Without such a text it is a plain `Refused`: there is no command, it is not admitted
    for us, or our user name is not in `allowusers`.

    Attributes:
        remarks: What the server said before.
    """

    def __init__(self, code: str, reply: bytes, remarks: tuple[str, ...]) -> None:
        super().__init__(code, _NAME, reply)
        self.remarks = remarks


@frozen
class ExecuteResult:
    """
    What a run came to.

    Attributes:
        exit_code: Of the command; None when the server did not tell one: a signal
            ended the command, it could not be begun, or the output was cut.
        announced: The command, as the server tells it; None when it told none.
        remarks: What the server said besides, the first 20; without controls, see
            `nodecomm.wire.text`.
        lines: How many lines of output came.
        bytes: Of output, newlines included.
        seconds: From the request to the end.
        cut: Whether more output came than was wanted. The connection was dropped
            then, which ends the command at a nodecomm server, and at `cf-serverd`
            when it writes the next time.
    """

    exit_code: int | None
    announced: bytes | None
    remarks: tuple[str, ...]
    lines: int
    bytes: int
    seconds: float
    cut: bool


class ExecuteAnswer(Answer):
    """
    Awaits what a command writes, line by line, and how it ended.

    Args:
        defined: Classes to define.
        bundles: Bundles to run.
        selected: Classes of which the node must have one.
        on_line: Takes each line, without newline. As long as a Deferred that it
            returned has not fired, nothing is read.
        on_announced: Takes the command, before the first line.
        silence: Seconds without anything, after which the connection is dropped.
        output_limit: Bytes of output that are taken; each line counts for 32 at least.
        pause: Called when a line is not taken yet.
        resume: Called when it is.
        still: Whether nothing must be delivered now.
        monotonic: Seconds of a clock that nobody sets.
        reads_all: Whether the server reads the classes that come behind one that it
            has.
    """

    __slots__ = (
        "_announced",
        "_coded",
        "_counted",
        "_denied",
        "_error",
        "_limit",
        "_lines",
        "_monotonic",
        "_on_announced",
        "_on_line",
        "_pause",
        "_paused",
        "_reader",
        "_remarks",
        "_resume",
        "_since",
        "_size",
        "_still",
        "_usable",
        "_waiting",
    )

    def __init__(
        self,
        defined: Sequence[bytes],
        bundles: Sequence[bytes],
        selected: Sequence[bytes],
        *,
        on_line: Callable[[bytes], Deferred[None] | None],
        on_announced: Callable[[bytes], None] | None,
        silence: float,
        output_limit: int,
        pause: Callable[[], None],
        resume: Callable[[], None],
        still: Callable[[], bool],
        monotonic: Callable[[], float],
        reads_all: bool,
    ) -> None:
        super().__init__(_NAME, encode_execute(defined, bundles, selected), silence)
        self._on_line = on_line
        self._on_announced = on_announced
        self._limit = output_limit
        self._pause = pause
        self._resume = resume
        self._still = still
        self._monotonic = monotonic
        self._since = monotonic()
        self._usable = reads_all or not selected
        self._reader = RunReader()
        self._announced: bytes | None = None
        self._denied: Denied | None = None
        self._remarks: list[str] = []
        self._lines = 0
        self._size = 0
        #: What counts against the limit.
        self._counted = 0
        self._coded = False
        #: Whether a line is not taken yet, and whether that has been told.
        self._waiting = False
        self._paused = False
        #: Why a line was not taken.
        self._error: Exception | None = None

    def take(self, buffer: TransactionBuffer) -> Any:
        """As `Answer.take`."""
        while not self._still():
            if self._error is not None:
                raise SinkFailed(self._error) from self._error
            payload = buffer.next_payload()
            if payload is None:
                break
            if buffer.more:
                raise Unacceptable("bad-reply", "a line that says more follows")
            result = self._read(payload)
            if result is not PENDING:
                return result
        return PENDING

    def unanswered(self, error: Exception) -> Exception:
        """
        A server that refuses may close before it has said all.
        """
        return error if self._denied is None else self._denial(self._denied)

    def _read(self, payload: bytes) -> Any:
        """
        Work off one frame; returns what `take` does.
        """
        number: int | None = None
        events = self._reader.feed(payload)
        if not events:
            # An exit code, of which the last counts; one is no output, many are.
            if self._coded and self._is_too_much(len(payload)):
                return self._cut()
            self._coded = True
        for event in events:
            if isinstance(event, Line):
                size = len(event.data) + 1
                if self._is_too_much(size):
                    return self._cut()
                self._size += size
                self._lines += 1
                self._pass_on(event.data)
            elif isinstance(event, Remark):
                if self._is_too_much(len(payload)):
                    return self._cut()
                self._remember(event.text)
            elif isinstance(event, Announced):
                self._announced = event.command
                if self._on_announced is not None and not self.deferred.called:
                    self._call(self._on_announced, event.command)
            elif isinstance(event, Denied):
                self._denied = event
            elif isinstance(event, ExitCode):
                number = event.number
            elif isinstance(event, Ended):
                return self._end(number)
        return PENDING

    def _is_too_much(self, size: int) -> bool:
        self._counted += max(size, _LEAST)
        return self._counted > self._limit

    def _end(self, number: int | None) -> ExecuteResult | Refused:
        denied = self._denied
        # Without a class that it has, a server has read them all.
        if not self._usable and (denied is None or denied.code != "class-match"):
            self.parting = _OUT_OF_STEP
        return self._result(number) if denied is None else self._denial(denied)

    def _cut(self) -> ExecuteResult:
        self.parting = _FLOODED
        return self._result(None, cut=True)

    def _result(self, number: int | None, *, cut: bool = False) -> ExecuteResult:
        return ExecuteResult(
            number,
            self._announced,
            tuple(self._remarks),
            self._lines,
            self._size,
            self._monotonic() - self._since,
            cut,
        )

    def _denial(self, denied: Denied) -> Refused:
        if denied.code in ("refused", "error"):
            return refused(self.path, denied.text)
        return ExecutionDenied(denied.code, denied.text, tuple(self._remarks))

    def _remember(self, text: bytes) -> None:
        if text and len(self._remarks) < _MAX_REMARKS:
            more = "..." if len(text) > MAX_WORDS else ""
            self._remarks.append(to_text(text[:MAX_WORDS]) + more)

    # Whoever takes the lines.

    def _pass_on(self, line: bytes) -> None:
        if self.deferred.called:
            return
        taken = self._call(self._on_line, line)
        if isinstance(taken, Deferred):
            self._waiting = True
            taken.addCallbacks(self._taken, self._not_taken)
            if self._waiting:
                self._paused = True
                self._pause()

    def _call(self, take: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            return take(data)
        except Exception as error:
            raise SinkFailed(error) from error

    def _taken(self, _result: object) -> None:
        self._waiting = False
        if self._paused:
            self._paused = False
            self._resume()

    def _not_taken(self, failure: Failure) -> Failure | None:
        error = failure.value
        if self.deferred.called or not isinstance(error, Exception):
            # The run is over for whoever waits, so nobody is told any more.
            self._taken(None)
            return failure
        self._error = error
        self._taken(None)
        return None
