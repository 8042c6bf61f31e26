# SPDX-License-Identifier: MIT
"""
One file that the network is needed for, and what can go wrong with it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from attrs import define, field

from nodecomm.client.errors import BadAnswer
from nodecomm.sync.model import RemoteEntry
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.sync.clocks import Moment

__all__ = [
    "ConnectionWrong",
    "Errand",
    "FreshConnectionNeeded",
    "ManifestContradicted",
    "Sink",
    "State",
    "algorithms_for",
    "is_refusal",
    "why_never_right",
]


class Sink(Protocol):
    """
    What is used of a `nodecomm.sync.staging.FileSink`. Its methods may wait.
    """

    def write(self, data: bytes) -> None:
        """Add to the file."""
        ...

    def close(self) -> None:
        """That was all."""
        ...

    def digest(self, algorithm: str) -> bytes:
        """A digest of what was written."""
        ...


class State(Enum):
    """
    What is to be done about a file.

    Attributes:
        is_open: Whether something is to be done still.
    """

    ASK = "ask whether it differs from what is here"
    GET = "fetch it"
    COMING = "being received"
    VERIFY = "ask whether what was received is right"
    SAME = "what is here is right"
    FETCHED = "received and right"
    LEFT = "the server does not tell any more"
    WOULD = "it would be fetched, were this no dry run"

    is_open: bool

    def __init__(self, words: str) -> None:
        # Looked at several times for each file, so no property.
        self.is_open = self.name in ("ASK", "GET", "COMING", "VERIFY")


class FreshConnectionNeeded(Exception):  # noqa: N818
    """
    What is asked next can only be believed on a connection without content.
    """


@define(eq=False)
class Errand:
    """
    One file.

    Attributes:
        name: Relative.
        entry: What the server said it is, the last time.
        state: What is to be done.
        md5: Of what is here or was received.
        sha256: Of what was received.
        level: How much care it needs; it grows with each trouble near it.
        tries: How often its content did not come, or not right.
        group: The stream's group that its content came in.
        carried: Whether the content came over an earlier connection.
        seen: When the server described it.
        confirmed: When the question left that confirmed its digest.
    """

    name: bytes
    entry: RemoteEntry
    state: State
    md5: bytes = b""
    sha256: bytes = b""
    level: int = 0
    tries: int = 0
    blamed: int = 0
    group: int = 0
    carried: bool = False
    seen: Moment | None = None
    confirmed: Moment | None = None
    head: bytes = b""
    received: int = 0
    pending: int = 0
    complete: bool = False
    attempt: int = 0
    stored: bool = False
    verified: bool = False
    pieces: list[bytes] = field(factory=list)
    sink: Sink | None = None

    def begin(self, group: int) -> None:
        """
        Its content is asked for, in this group of the stream.
        """
        self.received = self.pending = 0
        self.head = b""
        self.pieces = []
        self.sink = None
        self.carried = self.complete = self.stored = self.verified = False
        self.attempt += 1
        self.group = group

    def take_pieces(self) -> list[bytes]:
        """
        What has come and was not taken yet.
        """
        pieces, self.pieces, self.pending = self.pieces, [], 0
        return pieces


def why_never_right(errand: Errand, path: bytes, error: Exception | None) -> str:
    """
    What to tell people about a file whose content never was right.
    """
    what = (
        f"{to_text(path)}: {errand.tries} times what came was not what the server has"
    )
    if is_refusal(errand.head):
        return (
            f"{what}, but begins with a refusal: the server describes the file and"
            " does not give its content, as it does when its owner or mode do not"
            " let this host read it; give that right there, or exclude the file"
        )
    return (
        f"{what}{f' ({error})' if error else ''}; it may change all the time: try"
        " again later, or exclude it"
    )


def is_refusal(head: bytes) -> bool:
    """
    Whether content begins as what upstream sends instead of it.
    """
    return head.startswith((encode_transaction(REFUSAL), REFUSAL))


def algorithms_for(entry: RemoteEntry) -> tuple[str, ...]:
    """
    The digests that are needed of a file's content.
    """
    return ("md5",) if entry.sha256 is None else ("md5", "sha256")


class ConnectionWrong(BadAnswer):
    """
    The answers are right, and do not fit what came before (`digest`, `changed`).
    """


class ManifestContradicted(Exception):  # noqa: N818
    """
    A file is not what the manifest says.

    Attributes:
        name: Which.
    """

    def __init__(self, name: bytes, text: str) -> None:
        super().__init__(text)
        self.name = name
