# SPDX-License-Identifier: MIT
"""
Keeping the status of an agent: what the service knows goes here, and from here into
the file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import attrs
from twisted.internet.defer import Deferred

from nodecomm.service.agent_status import (
    AgentStatus,
    Attempt,
    CopyStatus,
    Point,
    StatusUnreadable,
    read_status,
    write_status,
)

if TYPE_CHECKING:
    from nodecomm.server.pools import Pool
    from nodecomm.service.agent_prepared import PreparedAgent
    from nodecomm.service.agent_run import RunReport

__all__ = ["StatusKeeper"]


class StatusKeeper:
    """
    The status of one agent.

    Attributes:
        status: As of now.
    """

    def __init__(
        self,
        folder: str,
        *,
        pool: Pool,
        point: Callable[[], Point],
        trouble: Callable[[OSError], object],
    ) -> None:
        """
        Begin with what the last process left, for what is still true of it.

        Args:
            folder: The state folder.
            pool: Runs what waits for the disk.
            point: The present.
            trouble: Called in a thread of *pool* when the file cannot be written, once
                until it can.

        Raises:
            OSError: The file cannot be read.
        """
        self._folder = folder
        self._pool = pool
        self._point = point
        self._trouble = trouble
        self._failing = False
        self._lock = threading.Lock()
        try:
            before = read_status(folder)
        except StatusUnreadable:
            before = None
        self.status = before or AgentStatus(0, point(), "", "", (), 0.0)

    def change(self, **changes: Any) -> None:
        """
        Take over some attributes.
        """
        self.status = attrs.evolve(self.status, **changes)

    def tell(self, **changes: Any) -> Deferred[None]:
        """
        Take over some attributes, and write the file. Never fails.
        """
        self.change(**changes)
        return self._pool.run(self._write)

    def begin(self, own_key: str) -> None:
        """
        A process begins.
        """
        self.change(
            pid=os.getpid(),
            started=self._point(),
            own_key=own_key,
            state="waiting",
            next_run=None,
            listening=(),
            inventory=None,
        )

    def configured(self, prepared: PreparedAgent) -> None:
        """
        A configuration is in force; copies that it does not have are forgotten.
        """
        wanted = {
            (copy.settings.source, copy.settings.destination)
            for copy in prepared.copies
        }
        self.change(
            configuration=prepared.loaded.description,
            servers=tuple(map(str, prepared.servers)),
            interval=prepared.interval,
            regular=bool(prepared.copies),
            protocol=prepared.protocol,
            copies=tuple(
                copy
                for copy in self.status.copies
                if (copy.source, copy.destination) in wanted
            ),
        )

    def ended(self, report: RunReport, attempt: Attempt) -> None:
        """
        A run has ended by itself.
        """
        now = self._point()
        known = {(one.source, one.destination): one for one in self.status.copies}

        def dated(copy: CopyStatus) -> CopyStatus:
            old = known.get((copy.source, copy.destination))
            success = old.last_success if old is not None else None
            change = old.last_change if old is not None else None
            if copy.outcome != "failed":
                success = now
            if copy.outcome == "updated":
                change = now
            return attrs.evolve(copy, last_success=success, last_change=change)

        self.change(copies=tuple(map(dated, report.copies)), last_attempt=attempt)
        if report.changed:
            self.change(last_change=now)
        if report.succeeded:
            self.change(last_success=now, failures_in_a_row=0)
        else:
            self.change(failures_in_a_row=self.status.failures_in_a_row + 1)

    def attempt(
        self,
        began: Point,
        reason: str,
        outcome: Literal["succeeded", "failed", "stopped"],
    ) -> Attempt:
        """
        What there is to say of a run that ends now.
        """
        return Attempt(began, began.seconds_until(self._point()), reason, outcome)

    def _write(self) -> None:
        """
        Write what is true by now. Blocks; of several at a time the last one wins,
        whichever thread begins first.
        """
        with self._lock:
            try:
                write_status(self._folder, self.status)
                self._failing = False
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    self._trouble(error)
