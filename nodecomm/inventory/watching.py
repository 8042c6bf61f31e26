# SPDX-License-Identifier: MIT
"""
The accepted nodes as this process knows them, while any process may change them.

The database is asked for its generation, one small number, again and again; the nodes
are read when it has grown. So a notice cannot be missed, and what an operator decides
is known everywhere within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.interfaces import INodeRegistry
from nodecomm.inventory.nodes import NodesAt, Status

__all__ = ["LOOK_EVERY", "MAX_STALE", "NodeWatch"]

#: Seconds between two questions. Each costs a tenth of a millisecond.
LOOK_EVERY = 0.5

#: Seconds that nodes are believed while the database does not answer.
MAX_STALE = 15 * 60.0


class NodeWatch:
    """
    A copy of the accepted nodes that follows the registry.

    Args:
        registry: An `INodeRegistry`, started and stopped by whoever has made it.
        clock: An IReactorTime.
        changed: Called with the nodes whenever others may have more or less than
            before, and once at the beginning; the last ones, for a start.
        every: Seconds between two questions.
        max_stale: Seconds that the copy is believed without an answer.

    Attributes:
        nodes: The copy; None before the first answer.
    """

    _log = Logger()

    def __init__(
        self,
        registry: INodeRegistry,
        clock: Any,
        changed: Callable[[NodesAt], object],
        *,
        every: float = LOOK_EVERY,
        max_stale: float = MAX_STALE,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._changed = changed
        self._every = every
        self._max_stale = max_stale
        self._timer: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._again = False
        self._running = False
        self._answered: float | None = None
        self._away: float | None = None
        self.nodes: NodesAt | None = None

    @property
    def is_fresh(self) -> bool:
        """
        Whether the copy may be believed. If not, nothing can be said about any node:
        requests are not refused then, their connections are closed.
        """
        if self._answered is None:
            return False
        return bool(self._clock.seconds() - self._answered <= self._max_stale)

    def start(self) -> Deferred[None]:
        """
        Begin to look. The Deferred fires after the first answer, or failure, of which
        `is_fresh` tells.
        """
        if self._running:
            raise RuntimeError("the nodes are watched already")
        self._running = True
        return self.look()

    def stop(self) -> Deferred[None]:
        """
        Look no more. The Deferred fires when nothing is under way.
        """
        self._running = False
        self._cancel()
        if self._looking is None:
            return succeed(None)
        return self._wait(self._looking)

    def look(self) -> Deferred[None]:
        """
        Look now: somebody knows that something has changed. What is read when the
        Deferred fires is not older than this call.
        """
        if self._looking is not None:
            # What is under way may have been asked too early.
            self._again = True
            return self._wait(self._looking)
        self._cancel()
        looking: Deferred[None] = Deferred()
        self._looking = looking
        self._ask()
        return self._wait(looking) if self._looking else succeed(None)

    def _wait(self, looking: Deferred[None]) -> Deferred[None]:
        """
        One more who waits: fires when *looking* does.
        """
        mine: Deferred[None] = Deferred()

        def arrived(result: Any) -> Any:
            mine.callback(None)
            return result

        looking.addBoth(arrived)
        return mine

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _ask(self) -> None:
        asked = self._clock.seconds()
        done: Deferred[Any] = maybeDeferred(self._registry.generation)
        done.addCallback(self._compare)
        done.addCallbacks(lambda _: self._heard(asked), self._failed)
        # `changed` is somebody else's; a mistake of his ends no watch.
        done.addErrback(lambda failure: self._log.failure("nodes", failure=failure))
        done.addCallback(lambda _: self._finished())

    def _compare(self, generation: int) -> Deferred[Any] | None:
        if self.nodes is not None and self.nodes.generation == generation:
            return None
        found: Deferred[Any] = maybeDeferred(self._registry.nodes, Status.ACCEPTED)
        return found.addCallback(self._take)

    def _take(self, found: NodesAt) -> None:
        self.nodes = found
        try:
            self._changed(found)
        except Exception:
            self._log.failure("the accepted nodes could not be put in force")

    def _heard(self, asked: float) -> None:
        self._answered = asked
        away, self._away = self._away, None
        if away is not None:
            seconds = self._clock.seconds() - away
            self._log.info(
                "the database of nodes answers again, after {seconds:.0f} s",
                event="nodes.back",
                seconds=seconds,
            )

    def _failed(self, failure: Failure) -> None:
        if self._away is not None:
            return
        self._away = self._clock.seconds()
        self._log.warn(
            "the database of nodes does not answer: {error}; what is known of nodes is "
            "used for {seconds:.0f} s more",
            event="nodes.away",
            error=failure.getErrorMessage(),
            seconds=self._left(),
        )

    def _left(self) -> float:
        if self._answered is None:
            return 0.0
        gone = self._clock.seconds() - self._answered
        return max(0.0, float(self._max_stale - gone))

    def _finished(self) -> None:
        if self._again and self._running:
            self._again = False
            self._ask()
            return
        self._again = False
        looking, self._looking = self._looking, None
        if self._running:
            self._timer = self._clock.callLater(self._every, self._timed)
        if looking is not None:
            looking.callback(None)

    def _timed(self) -> None:
        self._timer = None
        self.look()
