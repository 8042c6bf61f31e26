# SPDX-License-Identifier: MIT
"""
What follows an update: `after_update`, once for each change, also when the agent was
killed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nodecomm.server.execution.programs import Ended, Program, exit_text
from nodecomm.server.execution.told_lines import Lines
from nodecomm.service.agent_pending import MOST_ATTEMPTS, Pending, PendingFile
from nodecomm.service.agent_status import AfterUpdate, Point
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.server.pools import Pool

__all__ = ["Follower", "outcome_text"]


def outcome_text(ended: Ended) -> str:
    """
    How `after_update` ended, in words.
    """
    if ended.status is None:
        return f"not started: {ended.reason}"
    said = exit_text(ended.status)
    if ended.reason == "timeout":
        return f"it took longer than after_update_timeout and was ended ({said})"
    if ended.reason == "stopped":
        return f"it was ended because the agent stops ({said})"
    return said


class Follower:
    """
    Runs `after_update` when it is due.
    """

    def __init__(
        self,
        pending: PendingFile,
        *,
        pool: Pool,
        reactor: Any,
        point: Callable[[], Point],
        log: Logger,
    ) -> None:
        """
        Args:
            pending: What is due.
            pool: Runs what blocks; one thread of it is busy as long as the program.
            reactor: Takes what the program says.
            point: The present.
            log: States what comes of it.
        """
        self.pending = pending
        self._pool = pool
        self._reactor = reactor
        self._point = point
        self._log = log
        self._program: Program | None = None
        self._stopping = False

    def stop(self) -> None:
        """
        End the program if it runs, and begin none.
        """
        self._stopping = True
        if self._program is not None:
            self._program.stop()

    def run(
        self, command: tuple[str, ...] | str, timeout: float, pending: Pending
    ) -> Deferred[AfterUpdate | None]:
        """
        Run `after_update` for *pending*, if that is due; None if it was not run.

        Args:
            command: The program and its arguments; empty for nothing.
            timeout: Seconds that it may take.
            pending: Of a run that was complete.
        """
        return Deferred.fromCoroutine(self._run(command, timeout, pending))

    async def _run(
        self, command: tuple[str, ...] | str, timeout: float, pending: Pending
    ) -> AfterUpdate | None:
        if not pending.is_due or self._stopping:
            return None
        if not command:
            await self._pool.run(self.pending.clear)
            return None
        if pending.attempts >= MOST_ATTEMPTS:
            self._log.error(
                "after_update was begun {attempts} times for one change and never"
                " ended before the agent did; it is not begun again. If it restarts"
                " the agent, it must do so when it has ended itself",
                event="agent.after-update-given-up",
                attempts=pending.attempts,
            )
            await self._pool.run(self.pending.clear)
            return None
        attempt = await self._pool.run(self.pending.begin)
        shown = command if isinstance(command, str) else list(command)
        self._log.info(
            "after_update begins: {command}"
            + ("" if attempt == 1 else " (once more: the agent ended before it did)"),
            event="agent.after-update-started",
            command=shown,
            attempt=attempt,
        )
        began = self._point()
        lines = Lines(self._tell)
        self._program = Program(command, timeout=timeout, tell=lines.add)
        if self._stopping:
            self._program.stop()
        try:
            ended = await self._pool.run(self._program.run)
        finally:
            self._program = None
        lines.finish()
        return await self._ended(began, ended, lines)

    async def _ended(self, began: Point, ended: Ended, lines: Lines) -> AfterUpdate:
        said = outcome_text(ended)
        if lines.dropped:
            self._log.warn(
                "after_update said {dropped} more lines, which are not shown",
                event="agent.output-dropped",
                dropped=lines.dropped,
            )
        say = self._log.info if ended.succeeded else self._log.error
        say(
            "after_update ended after {seconds:.1f} s: {outcome}",
            event="agent.after-update-ended",
            status=ended.status,
            reason=ended.reason,
            seconds=ended.seconds,
            outcome=said,
        )
        if ended.reason != "stopped":
            await self._pool.run(self.pending.clear)
        return AfterUpdate(began, ended.seconds, ended.status, said, ended.succeeded)

    def _tell(self, line: bytes) -> None:
        self._reactor.callFromThread(self._say, to_text(line))

    def _say(self, line: str) -> None:
        self._log.info("{line}", event="agent.output", line=line)
