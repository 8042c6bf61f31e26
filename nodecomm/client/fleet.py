# SPDX-License-Identifier: MIT
"""
A run on many nodes at once.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.client.errors import CodedError
from nodecomm.client.executing import MAX_OUTPUT, RUN_SILENCE, ExecutionDenied
from nodecomm.wire.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IReactorTime

    from nodecomm.client.acquaintance import ICalling
    from nodecomm.client.address import ServerAddress
    from nodecomm.client.connection import Connection

__all__ = ["Fleet", "FleetSink", "NodeResult", "Wanted"]

#: What may go wrong with one node and concerns no other: the node, the way to it, the
#: file with its key.
_OF_A_NODE = (CodedError, LocalProtocolError, OSError)


@frozen
class Wanted:
    """
    What the nodes are asked to run. Names are bytes, as on the wire.

    Attributes:
        defined: Classes to define for the run.
        bundles: Bundles to run, instead of all.
        selected: Only nodes are meant that one of these classes fits; all when empty.
    """

    defined: tuple[bytes, ...] = ()
    bundles: tuple[bytes, ...] = ()
    selected: tuple[bytes, ...] = ()


@frozen
class NodeResult:
    """
    What became of one node.

    Attributes:
        server: Which.
        exit_code: Of its run; None where there was none, or it is not known.
        seconds: Since the connection was there; since the node was called if it never
            was.
        lines: Lines of output.
        size: Bytes of output, newlines included.
        announced: The command that ran, as the node tells it; None: none began.
        remarks: What else the node said about the run.
        cut: Whether the output was longer than is accepted; the run is not known to
            have ended then.
        error: Why there is no exit code; None: there is one, or the node told none,
            or the output was cut.
        stopped: Whether the work ended here before the run did there.
    """

    server: ServerAddress
    exit_code: int | None = None
    seconds: float = 0.0
    lines: int = 0
    size: int = 0
    announced: bytes | None = None
    remarks: tuple[str, ...] = ()
    cut: bool = False
    error: Exception | None = field(default=None, eq=False)
    stopped: bool = False

    @property
    def done(self) -> bool:
        """
        Whether it ran and ended as it should.
        """
        return self.exit_code == 0


class FleetSink(Protocol):
    """
    Who is told what happens, node by node. Nothing is told of a node before it is
    called and after it has ended.
    """

    def calling(self, server: ServerAddress) -> None:
        """It is being connected to."""

    def running(self, server: ServerAddress, command: bytes) -> None:
        """It says that it begins to run this."""

    def line(self, server: ServerAddress, data: bytes) -> Deferred[None] | None:
        """
        A line of its output, without its end. As a Deferred: no more of this node
        until that fires.
        """

    def ended(self, result: NodeResult) -> None:
        """That is all."""


class Fleet:
    """
    Runs something on many nodes at once. What one of them does, or fails to do, is
    of no consequence for another, but that at most *parallel* are worked on at a time.

    Args:
        dialer: Connects to them; it decides how long connecting may take.
        clock: For timers.
        monotonic: Seconds of a clock that nobody sets.
        parallel: Nodes at a time.
        silence: Seconds without a word from a node that runs.
        max_duration: Seconds for one node, from the moment when it is connected to.
        output_limit: Bytes of output that are accepted of one node.
    """

    def __init__(
        self,
        dialer: ICalling,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        parallel: int = 300,
        silence: float = RUN_SILENCE,
        max_duration: float = 3600.0,
        output_limit: int = MAX_OUTPUT,
    ) -> None:
        self.dialer = dialer
        self.clock: Any = clock
        self.monotonic = monotonic
        self.parallel = parallel
        self.silence = silence
        self.max_duration = max_duration
        self.output_limit = output_limit

    def run(
        self, servers: Iterable[ServerAddress], wanted: Wanted, sink: FleetSink
    ) -> Deferred[list[NodeResult]]:
        """
        Run it on all of *servers*, each of which is there once.

        The Deferred fires with the results, in the order of *servers*, when all
        connections have ended. To cancel it ends all runs at once: each node that is
        not done has a result that says so, the sink is told of those that were called,
        and the Deferred fires.
        """
        return _Round(self, list(servers), wanted, sink).done


class _Round:
    """
    One call of `Fleet.run`.
    """

    def __init__(
        self,
        fleet: Fleet,
        servers: list[ServerAddress],
        wanted: Wanted,
        sink: FleetSink,
    ) -> None:
        self.fleet = fleet
        self.wanted = wanted
        self.sink = sink
        self.done: Deferred[list[NodeResult]] = Deferred(self._stop)
        self._servers = servers
        self._waiting = deque(servers)
        self._calls: dict[ServerAddress, _Call] = {}
        self._results: dict[ServerAddress, NodeResult] = {}
        self._filling = False
        # Whoever asked has the Deferred before anybody is called.
        self._begin = fleet.clock.callLater(0, self._fill)

    def _fill(self) -> None:
        # A call that ends at once must not call this deeper and deeper.
        if self._filling:
            return
        self._filling = True
        try:
            while self._waiting and len(self._calls) < self.fleet.parallel:
                call = _Call(self, self._waiting.popleft())
                self._calls[call.server] = call
                call.begin()
        finally:
            self._filling = False
        if not self._calls and not self.done.called:
            self.done.callback([self._results[server] for server in self._servers])

    def ended(self, result: NodeResult) -> None:
        """
        A node has ended; its connection may be there for a moment yet.
        """
        self._results[result.server] = result
        self.sink.ended(result)

    def left(self, call: _Call, why: Failure | None) -> None:
        """
        The connection to a node has ended as well.

        Args:
            why: What is no failure of that node, but a mistake of this program.
        """
        self._calls.pop(call.server, None)
        if self.done.called:
            return
        if why is not None:
            self._abandon()
            self.done.errback(why)
        else:
            self._fill()

    def _stop(self, _deferred: object) -> None:
        if self._begin.active():
            self._begin.cancel()
        for server in self._waiting:
            self._results[server] = NodeResult(server, stopped=True)
        self._abandon()
        self.done.callback([self._results[server] for server in self._servers])

    def _abandon(self) -> None:
        self._waiting.clear()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.stop()


class _Call:
    """
    One node.
    """

    def __init__(self, round_: _Round, server: ServerAddress) -> None:
        self.server = server
        self._round = round_
        self._fleet = round_.fleet
        self._began = self._fleet.monotonic()
        self._connection: Connection | None = None
        self._working: Deferred[None] | None = None
        self._over = False
        self._stopped = False
        self._announced: bytes | None = None
        self._lines = 0
        self._size = 0

    def begin(self) -> None:
        """
        Call the node.
        """
        self._round.sink.calling(self.server)
        self._working = Deferred.fromCoroutine(self._work())
        self._working.addCallbacks(
            lambda _: self._round.left(self, None), self._went_wrong
        )

    def stop(self) -> None:
        """
        End it now; what its connection does afterwards is of no interest.
        """
        self._stopped = True
        if not self._over:
            self._end(NodeResult(self.server, stopped=True))
        if self._connection is not None:
            self._connection.abort("stopped", f"{self.server}: stopped from this side")
        if self._working is not None:
            self._working.cancel()

    def _went_wrong(self, failure: Failure) -> None:
        if not self._stopped:
            self._round.left(self, failure)

    async def _work(self) -> None:
        try:
            connection = await self._fleet.dialer.connect(self.server)
        except _OF_A_NODE as error:
            self._failed(error)
            return
        self._connection = connection
        if self._stopped:
            connection.abort("stopped", f"{self.server}: stopped from this side")
            return
        self._began = self._fleet.monotonic()
        limit = self._fleet.max_duration
        deadline = self._fleet.clock.callLater(
            limit,
            connection.abort,
            "duration",
            f"{self.server}: the run took longer than {limit:g} s",
        )
        wanted = self._round.wanted
        try:
            found = await connection.execute(
                defined=wanted.defined,
                bundles=wanted.bundles,
                selected=wanted.selected,
                on_line=self._line,
                on_announced=self._running,
                silence=self._fleet.silence,
                output_limit=self._fleet.output_limit,
            )
        except _OF_A_NODE as error:
            self._failed(error)
        else:
            self._end(
                NodeResult(
                    self.server,
                    exit_code=found.exit_code,
                    announced=found.announced,
                    remarks=tuple(found.remarks),
                    cut=found.cut,
                )
            )
        finally:
            if deadline.active():
                deadline.cancel()
        # The node may allow one connection at a time.
        await connection.close()

    def _running(self, command: bytes) -> None:
        if not self._over:
            self._announced = command
            self._round.sink.running(self.server, command)

    def _line(self, data: bytes) -> Deferred[None] | None:
        if self._over:
            return None
        self._lines += 1
        self._size += len(data) + 1
        return self._round.sink.line(self.server, data)

    def _failed(self, error: Exception) -> None:
        remarks = error.remarks if isinstance(error, ExecutionDenied) else ()
        _lighten(error)
        self._end(NodeResult(self.server, remarks=remarks, error=error))

    def _end(self, result: NodeResult) -> None:
        if self._over:
            return
        self._over = True
        self._round.ended(
            evolve(
                result,
                seconds=self._fleet.monotonic() - self._began,
                lines=self._lines,
                size=self._size,
                announced=result.announced or self._announced,
            )
        )


def _lighten(error: BaseException) -> None:
    """
    Have an error hold its words alone. Tracebacks hold all that was there when it
    happened, the connection among them, and a fleet may have many errors.
    """
    seen = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += each.__cause__, each.__context__
