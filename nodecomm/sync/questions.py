# SPDX-License-Identifier: MIT
"""
Whether the server has what is here, or came: a question about a digest for each file,
and now and then one about what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field

from nodecomm.client.errors import Refused
from nodecomm.sync.errand import Errand
from nodecomm.sync.walking import remote_entry

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from nodecomm.sync.asking import Asking
    from nodecomm.sync.clocks import Moment
    from nodecomm.sync.model import RemoteEntry

__all__ = ["Questions"]

T = TypeVar("T")


@define(eq=False)
class Questions:
    """
    Questions on one connection after the other.

    Args:
        steady: The clock that nobody sets.
        failed: Told of what ended a connection, and of which.

    Attributes:
        open: How many are without an answer.
    """

    _steady: Callable[[], Moment]
    _failed: Callable[[Failure, Asking], None]
    open: int = field(default=0, init=False)
    _asking: Asking | None = field(default=None, init=False)

    def attach(self, asking: Asking | None) -> None:
        """
        Ask on this connection from now on, or not at all. What was asked on another
        one is of no interest any more.
        """
        self._asking = asking
        self.open = 0

    def compare(
        self,
        errand: Errand,
        path: bytes,
        answered: Callable[[Errand, bool | None], None],
    ) -> None:
        """
        Ask whether the server's file has another digest than that of *errand*.

        Args:
            errand: Which file.
            path: What it is called on the server.
            answered: Told whether it has, None when that was refused, unless the
                file is in another state then.
        """
        asking = self._asking
        if asking is not None:
            errand.confirmed = self._steady()
            asked = asking.differs(path, errand.md5, errand.entry.size)
            self._await(asked, errand, asking, answered)

    def describe(
        self,
        errand: Errand,
        path: bytes,
        answered: Callable[[Errand, RemoteEntry | None], None],
    ) -> None:
        """
        Ask what the server's file is now. The arguments are those of `compare`, but
        for what *answered* is told.
        """
        asking = self._asking
        if asking is not None:
            described: Deferred[RemoteEntry] = asking.stat(path).addCallback(
                remote_entry, followed=not errand.name
            )
            self._await(described, errand, asking, answered)

    def _await(
        self,
        asked: Deferred[T],
        errand: Errand,
        asking: Asking,
        answered: Callable[[Errand, T | None], None],
    ) -> None:
        state = errand.state

        def over(answer: T | None) -> None:
            if self._asking is asking:
                self.open -= 1
                if errand.state is state:
                    answered(errand, answer)

        def failed(failure: Failure) -> None:
            if isinstance(failure.value, Refused):
                over(None)
            else:
                self._failed(failure, asking)

        self.open += 1
        asked.addCallbacks(over, failed).addErrback(self._failed, asking)
