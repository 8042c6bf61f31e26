# SPDX-License-Identifier: MIT
"""
What a server answers to an EXEC, as a client reads it.
"""

from __future__ import annotations

import re

from attrs import define, frozen

from nodecomm.wire.errors import RemoteProtocolError
from nodecomm.wire.execute import (
    BUNDLE_DENIED,
    CLASS_DENIED,
    DENIAL,
    EXECUTING,
    INVALID_ARGUMENTS,
    ROLE_DENIED,
    is_terminator,
)
from nodecomm.wire.replies import ERROR_PREFIX, REFUSAL

__all__ = [
    "Announced",
    "Denied",
    "Ended",
    "Event",
    "ExitCode",
    "Line",
    "Remark",
    "RunReader",
]

#: Before a line of output.
_OUTPUT = b"> "

_EXIT_CODE = re.compile(rb"\(exit code: ([0-9]{1,10})\)\n?").fullmatch


@frozen
class Announced:
    """
    The command begins.
    """

    command: bytes


# Not frozen: making a frozen one takes twice as long, and there are many.
@define
class Line:
    """
    A line of its output.

    Attributes:
        data: Without newline. Whatever the command wrote, but for NULs: escape it
            before a terminal sees it.
    """

    data: bytes


@frozen
class Remark:
    """
    Something that the server says, and not the command.

    Attributes:
        text: Without white space at its end. Escape it before a terminal sees it.
    """

    text: bytes


@frozen
class Denied:
    """
    There is no run.

    Attributes:
        code: `refused` (the server then closes), `class-match`, `role`, `bundle`,
            `arguments`, or `error` for other words.
        text: The server's words.
    """

    code: str
    text: bytes


@frozen
class ExitCode:
    """
    With which status the command has ended; comes right before `Ended`.
    """

    number: int


@frozen
class Ended:
    """
    The answer is complete.
    """


Event = Announced | Line | Remark | Denied | ExitCode | Ended

_CODES = {
    REFUSAL: "refused",
    CLASS_DENIED: "class-match",
    ROLE_DENIED: "role",
    BUNDLE_DENIED: "bundle",
}


class RunReader:
    """
    The answer to an EXEC, payload by payload.

    What a server says by itself has no prefix; a line of output that looks like it is
    a line. The exit code is believed when a run was announced; of several the last
    one counts, as with cf-runagent.

    Attributes:
        announced: A run was announced.
        ended: The answer is complete.
    """

    __slots__ = ("_code", "announced", "denied", "ended")

    def __init__(self) -> None:
        self.announced = False
        self.ended = False
        self.denied = False
        self._code: int | None = None

    def feed(self, payload: bytes) -> list[Event]:
        """
        Read the payload of one frame, and return what it says.

        Raises:
            RemoteProtocolError: The answer was complete already.
        """
        if self.ended:
            raise RemoteProtocolError("answer to EXEC", payload, "was complete already")
        if payload.startswith(_OUTPUT):
            return [Line(payload[2:].removesuffix(b"\n"))]
        if is_terminator(payload):
            self.ended = True
            if self._code is None:
                return [Ended()]
            return [ExitCode(self._code), Ended()]
        return self._said(payload)

    def _said(self, payload: bytes) -> list[Event]:
        if self.announced:
            found = _EXIT_CODE(payload)
            if found is None:
                return [Remark(payload.rstrip())]
            self._code = int(found[1])
            return []
        if self.denied:
            return [Remark(payload.rstrip())]
        if payload.startswith(EXECUTING):
            self.announced = True
            command = payload[len(EXECUTING) :]
            return [Announced(command.removesuffix(b"\n"))]
        if payload.startswith((DENIAL, ERROR_PREFIX)):
            self.denied = True
            text = payload.rstrip()
            code = _CODES.get(text, "error")
            if text.startswith(INVALID_ARGUMENTS.rstrip()):
                code = "arguments"
            return [Denied(code, text)]
        return [Remark(payload.rstrip())]
