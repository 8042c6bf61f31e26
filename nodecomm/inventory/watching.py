# SPDX-License-Identifier: MIT
"""
What happens to nodes, for a process that follows it while any process may decide.

The database is asked for its generation, one small number, again and again; what has
changed since is read when it has grown. So a notice cannot be missed, and what an
operator decides is known everywhere within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.interfaces import INodeRegistry
from nodecomm.inventory.nodes import NodeNews

__all__ = ["LOOK_EVERY", "MAX_STALE", "NodeWatch"]

#: Seconds between two questions. Each costs a tenth of a millisecond.
LOOK_EVERY = 0.5

#: Seconds between two words about a database that is away, for different reasons.
TELL_EVERY = 60.0

#: Seconds that what is known is believed while the database does not answer.
MAX_STALE = 15 * 60.0


class NodeWatch:
    """
    Follows a registry of nodes.

    Args:
        registry: An `INodeRegistry`, started and stopped by whoever has made it.
        clock: An IReactorTime.
        changed: Called with what has changed since the last call, or all there is,
            and once at the beginning. It may return a Deferred: nothing is asked before
            that has fired.
        believed: Called with whether what is known may be believed, when that changes.
        every: Seconds between two questions.
        max_stale: Seconds that it is believed without an answer.
        seconds: A clock that nobody sets; that of *clock* unless it is given.

    Attributes:
        generation: That of what is known; negative before the first answer.
    """

    _log = Logger()

    def __init__(
        self,
        registry: INodeRegistry,
        clock: Any,
        changed: Callable[[NodeNews], object],
        believed: Callable[[bool], object] = lambda fresh: None,
        *,
        every: float = LOOK_EVERY,
        max_stale: float = MAX_STALE,
        seconds: Callable[[], float] | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._changed = changed
        self._believed = believed
        self._every = every
        self._max_stale = max_stale
        self._seconds: Callable[[], float] = seconds or clock.seconds
        self._timer: IDelayedCall | None = None
        self._aging: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._again = False
        self._running = False
        self._answered: float | None = None
        self._away: float | None = None
        self._reason = self._reason_told = ""
        self._told_at = 0.0
        self._told = False
        self._broken = False
        self._number = 0
        self.generation = -1

    @property
    def is_fresh(self) -> bool:
        """
        Whether what is known may be believed. If not, nothing can be said about any
        node: requests are not refused then, their connections are closed.
        """
        if self._answered is None:
            return False
        return self._seconds() - self._answered <= self._max_stale

    @property
    def max_stale(self) -> float:
        """
        Seconds that what is known is believed without an answer.
        """
        return self._max_stale

    @max_stale.setter
    def max_stale(self, seconds: float) -> None:
        self._max_stale = seconds
        if self._running:
            self._tell()

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
        aging, self._aging = self._aging, None
        if aging is not None:
            aging.cancel()
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
        asked = self._seconds()
        done: Deferred[Any] = maybeDeferred(self._registry.generation)
        done.addCallback(self._compare)
        done.addCallbacks(lambda _: self._heard(asked), self._failed)
        # What is called is somebody else's; a mistake of his ends no watch.
        done.addErrback(lambda failure: self._log.failure("nodes", failure=failure))
        done.addCallback(lambda _: self._finished())

    def _compare(self, generation: int) -> Deferred[Any] | None:
        if self.generation == generation:
            return None
        found: Deferred[Any] = maybeDeferred(
            self._registry.news, self.generation, self._number
        )
        return found.addCallback(self._take)

    def _take(self, found: NodeNews) -> Deferred[None]:
        done = maybeDeferred(self._changed, found)

        def taken(_: object) -> None:
            self.generation, self._number = found.generation, found.number
            self._broken = False

        def failed(failure: Failure) -> None:
            # What was not done is to be done again, with all there is.
            self.generation = -1
            if not self._broken:
                self._broken = True
                self._log.failure(
                    "what was decided about nodes could not be put in force",
                    failure=failure,
                )

        return done.addCallbacks(taken, failed)

    def _heard(self, asked: float) -> None:
        if self.generation < 0:
            return
        self._answered = asked
        away, self._away = self._away, None
        self._tell()
        if away is not None:
            seconds = self._seconds() - away
            self._log.info(
                "the database of nodes answers again, after {seconds:.0f} s",
                event="nodes.back",
                seconds=seconds,
            )

    def _failed(self, failure: Failure) -> None:
        now, self._reason = self._seconds(), failure.getErrorMessage()
        if self._away is None:
            self._away = now
        elif self._reason == self._reason_told or now - self._told_at < TELL_EVERY:
            return
        self._reason_told, self._told_at = self._reason, now
        self._log.warn(
            "the database of nodes does not answer: {error}; what is known of nodes is "
            "used for {seconds:.0f} s more",
            event="nodes.away",
            error=self._reason,
            seconds=self._left(),
        )

    def _tell(self) -> None:
        """
        Tell whether what is known may be believed, if that is news, and look again
        when it may not be any more.
        """
        aging, self._aging = self._aging, None
        if aging is not None and aging.active():
            aging.cancel()
        fresh = self.is_fresh
        if fresh and self._running:
            self._aging = self._clock.callLater(self._left() + 0.001, self._tell)
        if fresh is self._told:
            return
        self._told = fresh
        if not fresh:
            # Nodes that were removed long ago may be gone by then: all is read anew.
            self.generation = -1
            self._log.error(
                "the database of nodes has not answered for {seconds:.0f} s ({error}):"
                " nodes are not trusted by it any more, and connections of whoever"
                " might be one are closed until it answers",
                event="nodes.stale",
                error=self._reason if self._away is not None else "no answer at all",
                seconds=self._max_stale,
            )
        self._believed(fresh)

    def _left(self) -> float:
        if self._answered is None:
            return 0.0
        gone = self._seconds() - self._answered
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
