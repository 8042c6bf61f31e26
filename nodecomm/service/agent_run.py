# SPDX-License-Identifier: MIT
"""
One run of an agent: every copy once, each from the first server that gives it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nodecomm.service.agent_failures import CopyFailure, describe_failure
from nodecomm.service.agent_status import CopyStatus, FailureNote
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.client.address import ServerAddress
    from nodecomm.identity.keys import KeyPair
    from nodecomm.server.pools import Pool
    from nodecomm.service.agent_pending import PendingFile
    from nodecomm.service.agent_prepared import PlannedCopy, PreparedAgent
    from nodecomm.service.agent_schedule import Avoidance
    from nodecomm.sync.model import SyncRequest, SyncResult

__all__ = ["Run", "RunReport", "Source", "Sources"]

#: Kinds of failure after which a server is not asked again in the same run: it said
#: nothing about the copy.
_WHOLE_SERVER = ("unreachable", "untrusted")


class Source(Protocol):
    """
    What brings copies from one server; `nodecomm.sync.syncing.Syncer` is one.
    """

    def run(
        self,
        request: SyncRequest,
        watch: None = None,
        before_commit: Callable[[Any], None] | None = None,
    ) -> Awaitable[SyncResult]:
        """
        Make one copy.
        """
        ...

    def close(self) -> Awaitable[None]:
        """
        End the connection, if there is one.
        """
        ...


class Sources(Protocol):
    """
    Makes what brings copies from servers; `SyncSources` is one.
    """

    def open(
        self, prepared: PreparedAgent, pair: KeyPair, pool: Pool
    ) -> Callable[[ServerAddress], Source]:
        """
        What makes them by this configuration and own key; *pool* runs what blocks.

        Raises:
            StartError: It cannot be made.
        """
        ...

    def server_key(self, server: ServerAddress) -> str:
        """
        The digests of the key that is stored for *server*; "" for none. Blocks.
        """
        ...


@frozen
class RunReport:
    """
    What came out of a run.

    Attributes:
        copies: One for each copy, in their order.
        server: Who gave the last one; None for nobody.
        heals: Whether what failed may be over soon.
    """

    copies: tuple[CopyStatus, ...]
    server: ServerAddress | None
    heals: bool

    @property
    def succeeded(self) -> bool:
        """
        Whether every copy was made.
        """
        return all(copy.outcome != "failed" for copy in self.copies)

    @property
    def changed(self) -> bool:
        """
        Whether any copy changed something.
        """
        return any(copy.outcome == "updated" for copy in self.copies)


@define
class Run:
    """
    One run.

    Args:
        servers: In the order of the configuration.
        connect: Makes what brings copies from one server; connects when asked for one.
        avoidance: Which servers are tried last.
        monotonic: Seconds of a clock that nobody sets.
        pending: Where a change is noted before it is made; None where nothing follows
            an update.
        classic: Whether the classic protocol is spoken.
        log: States what comes of it.
    """

    _servers: Sequence[ServerAddress]
    _connect: Callable[[ServerAddress], Source]
    _avoidance: Avoidance[ServerAddress]
    _monotonic: Callable[[], float]
    _pending: PendingFile | None
    _classic: bool = False
    _log: Logger = field(factory=Logger)
    _sources: dict[ServerAddress, Source] = field(factory=dict, init=False)
    _useless: dict[ServerAddress, CopyFailure] = field(factory=dict, init=False)
    _server: ServerAddress | None = field(default=None, init=False)
    _heals: bool = field(default=False, init=False)

    async def make(
        self, copies: Sequence[PlannedCopy], *, new: bool = False
    ) -> RunReport:
        """
        Make all *copies*; one that fails does not stop the others. Raises nothing but
        what cancels it.

        Args:
            new: Whether no server may tell what it found before this run.
        """
        made: list[CopyStatus] = []
        try:
            for index, copy in enumerate(copies):
                so_far = all(one.outcome != "failed" for one in made)
                completes = so_far and index == len(copies) - 1
                request = attrs.evolve(copy.request, new=new)
                made.append(await self._copy(request, completes, copy.node_id))
        finally:
            for server in list(self._sources):
                await self._close(server)
        return RunReport(tuple(made), self._server, self._heals)

    async def _copy(
        self, request: SyncRequest, completes: bool, node_id: str | None
    ) -> CopyStatus:
        """
        Make one copy from the first server that gives it.
        """
        source, destination = to_text(request.source), to_text(request.destination)
        status = CopyStatus(source, destination, "failed")
        failures: list[FailureNote] = []
        heals = False
        for server in self._avoidance.order(self._servers, self._monotonic()):
            failure = self._useless.get(server)
            if failure is None:
                try:
                    result = await self._ask(server, request, completes)
                except CancelledError:
                    raise
                except Exception as error:
                    failure = describe_failure(
                        error, server, classic=self._classic, node_id=node_id
                    )
                    await self._failed(server, source, failure, error)
                else:
                    self._avoidance.worked(server)
                    self._server = server
                    status = attrs.evolve(status, failures=tuple(failures))
                    status = status.with_result(server, result)
                    self._tell(status, result)
                    return status
            failures.append(FailureNote.of(server, failure))
            heals |= failure.heals
            if not failure.elsewhere:
                break
        self._heals |= heals
        last = failures[-1]
        self._log.error(
            "{source} was not copied to {destination}, which stays as it is:"
            " {text}; what to do: {remedy}",
            event="agent.copy-failed",
            source=source,
            destination=destination,
            server=last.server,
            kind=last.kind,
            code=last.code,
            text=last.text,
            remedy=last.remedy,
            servers=len(failures),
        )
        return attrs.evolve(status, failures=tuple(failures))

    async def _ask(
        self, server: ServerAddress, request: SyncRequest, completes: bool
    ) -> SyncResult:
        source = self._sources.get(server)
        if source is None:
            source = self._sources[server] = self._connect(server)
        pending = self._pending
        if pending is None:
            return await source.run(request)

        def note(commit: Any) -> None:
            pending.note(request.destination, commit.identity, completes=completes)

        return await source.run(request, before_commit=note)

    async def _failed(
        self,
        server: ServerAddress,
        source: str,
        failure: CopyFailure,
        error: Exception,
    ) -> None:
        avoided = None
        if failure.of_server:
            avoided = self._avoidance.failed(server, self._monotonic())
        if failure.kind in _WHOLE_SERVER or failure.code == "not-trusted":
            self._useless[server] = failure
        if failure.kind == "bug":
            self._log.failure(
                "a mistake of this program kept {source} from being copied",
                event="agent.failed",
                source=source,
            )
        elif failure.kind != "local":
            self._log.warn(
                "{server} did not give {source}: {text}",
                event="agent.server-failed",
                server=str(server),
                source=source,
                kind=failure.kind,
                code=failure.code,
                text=failure.text,
                remedy=failure.remedy,
                avoided=avoided,
            )
        # What is left of a connection that failed is nothing to go on with.
        await self._close(server)

    async def _close(self, server: ServerAddress) -> None:
        source = self._sources.pop(server, None)
        if source is None:
            return
        try:
            await source.close()
        except CancelledError:
            raise
        except Exception:
            self._log.failure(
                "a mistake of this program at the end of the connection to {server}",
                event="agent.failed",
                server=str(server),
            )

    def _tell(self, status: CopyStatus, result: SyncResult) -> None:
        facts: dict[str, Any] = {
            "source": status.source,
            "destination": status.destination,
            "server": status.server,
            "files": result.checked,
            "fetched": result.fetched,
            "removed": result.removed,
            "bytes": result.bytes_received,
            "round_trips": result.round_trips,
            "seconds": result.seconds,
        }
        if result.changed:
            self._log.info(
                "{destination} is updated to {source} of {server}: {fetched} of {files}"
                " files fetched, {removed} removed, {bytes} bytes, {round_trips} round"
                " trips, {seconds:.2f} s",
                event="agent.updated",
                # The source itself has no name.
                changes=[f"{what} {name or '.'}" for name, what in status.changes],
                changed_names=status.changed_names,
                **facts,
            )
        else:
            self._log.info(
                "{destination} is {source} of {server}: {files} files, {round_trips}"
                " round trips, {seconds:.2f} s",
                event="agent.unchanged",
                **facts,
            )
        for warning in status.warnings:
            self._log.warn(
                "{source}: {text}",
                event="agent.copy-warning",
                source=status.source,
                server=status.server,
                text=warning,
            )
