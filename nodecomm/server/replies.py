# SPDX-License-Identifier: MIT
"""
What a command answers with. Values: the session turns them into bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from attrs import define

from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import DENIED, REFUSAL

if TYPE_CHECKING:
    from nodecomm.interfaces import IHeldObject

__all__ = [
    "Content",
    "Frames",
    "HangUp",
    "Listing",
    "Live",
    "LiveAnswer",
    "LiveSource",
    "Packets",
    "Reply",
    "denied",
    "frame",
    "refused",
]


class Reply:
    """
    Base of what a command answers with.

    Attributes:
        outcome: A word for the log: `ok`, `refused`, `denied`, `hung-up`.
        close: Whether the connection ends after this reply.
    """

    __slots__ = ()
    outcome = "ok"
    close = False


@define(eq=False)
class Frames(Reply):
    """
    One or more whole transactions.

    Attributes:
        wire: The frames, headers included; not more than 16384 bytes.
        code: For a refusal, a stable word for the log.
        text: For a refusal, the reason.
    """

    wire: bytes
    outcome: str = "ok"
    close: bool = False
    code: str = ""
    text: str = ""


@define(eq=False)
class Packets(Reply):
    """
    Many transactions, made as the peer takes them.

    Attributes:
        frames: Each item is one whole frame.
    """

    frames: Iterator[bytes]


@define(eq=False)
class Listing(Reply):
    """
    The names in a held folder. They are read when it is their turn to leave, so that
    a connection has the names of one folder in memory, however many it asks for. The
    session closes the object.

    Attributes:
        held: The folder.
    """

    held: IHeldObject


@define(eq=False)
class Content(Reply):
    """
    The content of a held object, as raw bytes without any frame. The session
    closes the object.

    Attributes:
        held: What is sent.
        size: Exactly how many bytes the peer expects. If the object cannot give
            that many, the connection is closed, which every peer understands.
    """

    held: IHeldObject
    size: int


class LiveSource(Protocol):
    """
    Where a live answer comes from. Each call may come at any time, also after the end,
    and then does nothing.
    """

    def pause(self) -> None:
        """
        The peer takes no more for now: send nothing, but for what is on its way.
        """
        ...

    def resume(self) -> None:
        """
        The peer takes more.
        """
        ...

    def leave(self) -> None:
        """
        The answer is over: the connection has ended, or all was sent.
        """
        ...


class LiveAnswer(Protocol):
    """
    Where a live answer goes. After the end, calls do nothing.
    """

    def send(self, record: bytes) -> None:
        """
        Send one or more whole frames at once: at most 16384 bytes together, for they
        leave in one TLS record (`nodecomm.wire.framing.join_frames` makes such ones).

        Raises:
            ValueError: They are more.
        """
        ...

    def end(self) -> None:
        """
        That was all.
        """
        ...

    def break_off(self, why: str) -> None:
        """
        It cannot go on: close the connection behind what was sent.

        Args:
            why: For the log.
        """
        ...


@define(eq=False)
class Live(Reply):
    """
    Frames that are made over time, for seconds or hours, and leave as they are made.
    Meanwhile reading goes on, so that the source learns at once when the peer has gone.

    Attributes:
        begin: Called when it is the answer's turn. It may send something already, but
            must not wait.
    """

    begin: Callable[[LiveAnswer], LiveSource]


@define(eq=False)
class HangUp(Reply):
    """
    No answer: the connection is closed after the replies before this one.

    Attributes:
        why: For the log.
    """

    why: str
    outcome: str = "hung-up"
    close: bool = True


def frame(payload: bytes) -> Frames:
    """
    One transaction that carries *payload* (1 to 4088 bytes).
    """
    return Frames(encode_transaction(payload))


_REFUSAL = encode_transaction(REFUSAL)
_DENIED = encode_transaction(DENIED)


def refused(code: str, text: str, *, close: bool = False) -> Frames:
    """
    The vague answer to "may not" and to "is not there" alike.

    Args:
        code: A stable word for the log.
        text: The reason, for the log.
        close: Whether the connection ends, as some refusals on the classic protocol
            make it.
    """
    return Frames(_REFUSAL, "refused", close, code, text)


def denied(code: str, text: str) -> Frames:
    """
    The answer to a request that is unknown, malformed or not served at all; it ends
    the connection.

    Args:
        code: A stable word for the log.
        text: The reason, for the log.
    """
    return Frames(_DENIED, "denied", True, code, text)
