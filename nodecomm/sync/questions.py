# SPDX-License-Identifier: MIT
"""
Whether the server has what is here: a question about a digest for each file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field

from nodecomm.client.errors import Refused
from nodecomm.sync.errand import Errand

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.sync.asking import Asking
    from nodecomm.sync.clocks import Moment

__all__ = ["Questions"]


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
        asking, state = self._asking, errand.state
        if asking is None:
            return

        def over(differs: bool | None) -> None:
            if self._asking is asking:
                self.open -= 1
                if errand.state is state:
                    answered(errand, differs)

        def failed(failure: Failure) -> None:
            if isinstance(failure.value, Refused):
                over(None)
            else:
                self._failed(failure, asking)

        self.open += 1
        errand.confirmed = self._steady()
        asked = asking.differs(path, errand.md5, errand.entry.size)
        asked.addCallbacks(over, failed)
        asked.addErrback(self._failed, asking)
