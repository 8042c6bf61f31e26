# SPDX-License-Identifier: MIT
"""
An agent's inventories: it tells its policy server what this node is, after the first
start, after an upgrade, and daily.

What was made is kept and sent again, with growing pauses, until a server has it or a
newer one takes its place. It goes to the server whose id is in it and to no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred

from nodecomm import __version__
from nodecomm.inventory.own import NodeIdError, kept_node_id
from nodecomm.inventory.pairs import Box
from nodecomm.inventory.upstream_errors import (
    Permanent,
    SendFailed,
    Transient,
)
from nodecomm.service.agent_inventory_making import (
    InventoryOrder,
    MakingFailed,
)
from nodecomm.service.agent_inventory_sources import (
    ACCOUNT_REFUSED,
    NoWay,
    Upstream,
    failure_at,
)
from nodecomm.service.agent_inventory_status import InventoryFailure, InventoryStatus
from nodecomm.service.agent_inventory_when import Daily, Sent, due, next_look
from nodecomm.service.agent_outbox import Kept, Outbox
from nodecomm.service.agent_points import Point
from nodecomm.service.agent_schedule import pause_after
from nodecomm.service.own_state import os_error_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.logger import Logger

    from nodecomm.identity.keys import KeyPair
    from nodecomm.server.pools import Pool
    from nodecomm.service.agent_inventory_prepared import (
        InventoryTarget,
        PreparedInventory,
    )
    from nodecomm.service.agent_inventory_sources import Ways

__all__ = ["InventorySender"]

#: Seconds between two looks at the clock, which somebody may set.
LOOK_EVERY = 600.0

#: Seconds: the middle of the first pause after a failure that may heal by itself, and
#: of one that needs somebody; and where each stops growing.
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 3600.0
FIRST_LONG_PAUSE, LONGEST_LONG_PAUSE = 900.0, 2 * 3600.0

#: Seconds after which an inventory that was kept is made anew rather than sent: it
#: tells of a machine of long ago, and servers do not take old ones.
STALE = 12 * 3600.0

#: Seconds by which the clock may have been set since one was made.
_STEP = 3600.0


class _Failed(Exception):  # noqa: N818
    """
    Something went wrong that has been understood.
    """

    def __init__(self, failure: InventoryFailure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class InventorySender:
    """
    Makes and sends inventories.

    Args:
        state: The state folder.
        pair: The node's key.
        share: The node's share, from 0 up to 1.
        ways: Makes and sends.
        reactor: For timers.
        pool: Runs what blocks.
        point: The present.
        monotonic: Seconds of a clock that nobody sets.
        chance: Random numbers from 0 up to 1.
        changed: Called with the status when it has changed.
        log: States what comes of it.
        version: Of this program.

    Attributes:
        status: How it is doing.
    """

    def __init__(
        self,
        state: str,
        pair: KeyPair,
        share: float,
        ways: Ways,
        *,
        reactor: Any,
        pool: Pool,
        point: Callable[[], Point],
        monotonic: Callable[[], float],
        chance: Callable[[], float],
        changed: Callable[[InventoryStatus], object],
        log: Logger,
        version: str = __version__,
    ) -> None:
        self.status = InventoryStatus()
        self._state = state
        self._pair = pair
        self._key = pair.public.md5
        self._share = share
        self._ways = ways
        self._reactor = reactor
        self._pool = pool
        self._point = point
        self._monotonic = monotonic
        self._chance = chance
        self._changed = changed
        self._log = log
        self._version = version
        self._outbox = Outbox(state)
        self._prepared: PreparedInventory | None = None
        self._sent: Sent | None = None
        self._asked = ""
        self._served = ""
        self._not_before = 0.0
        self._look = True
        self._stopping = False
        self._wake: Deferred[None] | None = None
        self._attempting: Deferred[None] | None = None
        self._living: Deferred[None] | None = None

    # From outside

    def begin(self, prepared: PreparedInventory | None, at: float) -> None:
        """
        Begin.

        Args:
            prepared: What is sent where; None: nothing.
            at: The first moment to do anything, of the clock that nobody sets.
        """
        self._not_before = at
        self._configure(prepared)
        self._changed(self.status)
        self._living = Deferred.fromCoroutine(self._live())
        self._living.addErrback(
            lambda failure: self._log.failure(
                "a mistake of this program ended the sending of inventories",
                failure=failure,
                event="agent.inventory-ended",
            )
        )

    def take(self, prepared: PreparedInventory | None) -> None:
        """
        Go by *prepared* from now on. What failed may go well now.
        """
        self._configure(prepared)
        self.hurry()

    def hurry(self) -> None:
        """
        Look now whether one is due or waits, and send it without any pause.
        """
        self._not_before = min(self._not_before, self._monotonic())
        self._look = True
        self._ring()

    def ask(self) -> bool:
        """
        Ask for one, whenever the last one was; False where none are sent.
        """
        if self._prepared is None:
            return False
        Deferred.fromCoroutine(self._ask())
        return True

    async def _ask(self) -> None:
        try:
            await self._pool.run(self._outbox.ask)
        except OSError as error:
            self._state_trouble(error)
        else:
            self.hurry()

    def run_over(self) -> None:
        """
        A run is over. It may have made known the key of a server that was waited for.
        """
        if any(failure.code == "no-key" for failure in self.status.failures):
            self.hurry()

    async def stop(self) -> None:
        """
        End what is under way. What was made stays, for the next start.
        """
        self._stopping = True
        if self._attempting is not None:
            self._attempting.cancel()
        self._ways.stop()
        self._ring()
        if self._living is not None:
            await self._living

    # Living

    def _configure(self, prepared: PreparedInventory | None) -> None:
        self._prepared = prepared
        if prepared is None:
            self._tell(state="off", servers=(), next=None, failures=())
            return
        state = "waiting" if self.status.state == "off" else self.status.state
        self._tell(state=state, servers=prepared.urls, is_wanted=self._is_wanted)

    @property
    def _is_wanted(self) -> bool:
        prepared = self._prepared
        return prepared is not None and (
            prepared.is_asked_for or self._sent is not None
        )

    async def _live(self) -> None:
        try:
            self._sent = await self._pool.run(self._outbox.sent)
            self._tell(node_id=await self._pool.run(kept_node_id, self._state) or "")
        except NodeIdError:
            # That is told when one is to be sent.
            pass
        except OSError as error:
            self._state_trouble(error)
        while not self._stopping:
            reason = await self._wait()
            if self._stopping or self._prepared is None:
                continue
            self._attempting = Deferred.fromCoroutine(
                self._attempt(self._prepared, reason)
            )
            try:
                await self._attempting
            except CancelledError:
                continue
            finally:
                self._attempting = None

    async def _wait(self) -> str:
        """
        Wait until one is to be sent; returns what it is for.
        """
        while not self._stopping:
            reason = await self._reason()
            now = self._monotonic()
            left = self._not_before - now
            if reason and left <= 0:
                return reason
            self._tell_waiting(reason, left)
            wake: Deferred[None] = Deferred()
            self._wake = wake
            if self._look or self._stopping:
                # Somebody rang while the disk was looked at.
                self._wake = None
                continue
            pause = LOOK_EVERY if left <= 0 else min(left, LOOK_EVERY)
            if not reason and self._prepared is not None and self._sent is not None:
                daily = self._daily(self._prepared)
                pause = min(pause, next_look(self._sent, self._point(), daily))
            # Never in a circle without time.
            timer: IDelayedCall = self._reactor.callLater(max(pause, 0.1), self._ring)
            await wake
            if timer.active():
                timer.cancel()
        return ""

    async def _reason(self) -> str:
        """
        What one is due for now; "" if none is.
        """
        look, self._look = self._look, False
        if look:
            try:
                asked = await self._pool.run(self._outbox.asked)
                # What was served is not served again where it cannot be removed.
                if not asked:
                    self._served = ""
                self._asked = "" if asked == self._served else asked
            except OSError as error:
                self._state_trouble(error)
        prepared = self._prepared
        if prepared is None:
            return ""
        return due(
            self._sent,
            self._point(),
            self._daily(prepared),
            version=self._version,
            key=self._key,
            servers=prepared.urls,
            asked=bool(self._asked),
        )

    def _daily(self, prepared: PreparedInventory) -> Daily:
        return Daily(prepared.begin, prepared.end, self._share)

    def _tell_waiting(self, reason: str, left: float) -> None:
        prepared = self._prepared
        if prepared is None:
            self._tell(state="off", due="", next=None, sent=self._sent)
            return
        now = self._point()
        following: Point | None = None
        if reason:
            following = now.later(max(left, 0.0))
        elif self._sent is not None:
            following = now.later(next_look(self._sent, now, self._daily(prepared)))
        self._tell(
            state="waiting",
            due=reason,
            next=following,
            sent=self._sent,
            is_wanted=self._is_wanted,
        )

    def _ring(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.callback(None)

    # Sending

    async def _attempt(self, prepared: PreparedInventory, reason: str) -> None:
        """
        Try each server until one has taken an inventory.
        """
        self._tell(state="sending", due=reason, next=None, attempted=self._point())
        failures: list[InventoryFailure] = []
        for target in prepared.targets:
            try:
                sent = await self._send(target, prepared, reason)
            except _Failed as error:
                failures.append(error.failure)
                if not error.failure.url:
                    # This machine, and so no other server would do.
                    break
            except CancelledError:
                raise
            except Exception as error:
                self._log.failure(
                    "a mistake of this program: an inventory could not be sent",
                    event="agent.inventory-ended",
                )
                text = f"{type(error).__name__}: a mistake of this program"
                remedy = "see the log, and report it"
                failures.append(
                    InventoryFailure(target.url, "bug", "bug", text, remedy, True)
                )
            else:
                await self._succeeded(sent)
                return
        self._failed(failures)

    async def _send(
        self, target: InventoryTarget, prepared: PreparedInventory, reason: str
    ) -> Sent:
        """
        Send one to a server; returns what is remembered of it.

        Raises:
            _Failed: It did not work.
        """
        try:
            upstream = await self._ways.connect(target, prepared)
        except NoWay as error:
            raise _Failed(error.failure) from error
        try:
            server_id = await upstream.server_id()
            kept = await self._kept(target, prepared, server_id, reason)
            self._tell(state="sending")
            box = await self._put(upstream, prepared, kept)
        except SendFailed as error:
            if isinstance(error, Permanent):
                # It would be refused again; the next one is made anew.
                await self._forget()
            raise _Failed(failure_at(target.url, error)) from error
        except OSError as error:
            raise _Failed(self._local(error)) from error
        finally:
            await upstream.close()
        self._log.info(
            "the inventory of this node ({node}) is with {url}",
            event="agent.inventory-sent",
            url=target.url,
            server_id=server_id,
            node=kept.node_id,
            name=kept.document,
            box=box.value,
            reason=reason,
        )
        return Sent(
            self._point(),
            self._version,
            self._key,
            prepared.urls,
            target.url,
            server_id,
            kept.node_id,
            kept.document,
            reason,
        )

    async def _put(
        self, upstream: Upstream, prepared: PreparedInventory, kept: Kept
    ) -> Box:
        """
        Send both files; returns the box that took them.
        """
        boxes = [Box.FIRST]
        known = self._sent is not None and self._sent.server_id == kept.server_id
        if known and Box.UPDATE in prepared.accounts:
            # A server that has forgotten this node still has the other box.
            boxes.insert(0, Box.UPDATE)
        while True:
            box = boxes.pop(0)
            try:
                for name in kept.names:
                    await upstream.put(box, name, self._outbox.path(name))
            except Transient as error:
                if not boxes or error.status not in ACCOUNT_REFUSED:
                    raise
            else:
                return box

    async def _kept(
        self,
        target: InventoryTarget,
        prepared: PreparedInventory,
        server_id: str,
        reason: str,
    ) -> Kept:
        """
        The inventory to send to the server of this id: the one that waits, if it still
        will do, else a new one.
        """
        kept = await self._pool.run(self._outbox.kept)
        if kept is not None and self._will_do(kept, prepared, server_id, reason):
            return kept
        self._tell(state="making")
        made_at = self._point()
        order = InventoryOrder(self._state, self._pair, server_id, target.name)
        try:
            made = await self._ways.make(order, prepared)
        except MakingFailed as error:
            raise _Failed(error.failure) from error
        self._log.info(
            "an inventory was made: {hostname}, node {node}, {bytes} bytes in"
            " {seconds:.1f} s",
            event="agent.inventory-made",
            node=made.node_id,
            hostname=made.hostname,
            server_id=server_id,
            reason=reason,
            bytes=made.size,
            seconds=made_at.seconds_until(self._point()),
            skipped=list(made.skipped),
        )
        facts = Kept(
            made_at,
            self._version,
            self._key,
            server_id,
            made.node_id,
            made.hostname,
            reason,
            self._asked,
            *("", "", "", ""),
        )
        kept = await self._pool.run(self._outbox.keep, made.files, facts)
        self._tell(waits=kept.document, node_id=kept.node_id, skipped=made.skipped)
        return kept

    def _will_do(
        self, kept: Kept, prepared: PreparedInventory, server_id: str, reason: str
    ) -> bool:
        now = self._point()
        passed = kept.made.seconds_until(now)
        step = abs(now.civil - kept.made.civil - passed)
        if not 0 <= passed < STALE or step > _STEP:
            return False
        if reason == "daily":
            # The one of yesterday is not that of today.
            point = self._daily(prepared).before(now.civil)
            if now.civil - passed < point and kept.reason == "daily":
                return False
        return (
            kept.server_id == server_id
            and (kept.version, kept.key) == (self._version, self._key)
            and kept.asked == self._asked
        )

    async def _forget(self) -> None:
        try:
            await self._pool.run(self._outbox.forget)
        except OSError as error:
            self._state_trouble(error)
        self._tell(waits="")

    # What came of it

    async def _succeeded(self, sent: Sent) -> None:
        # Remembered also where it cannot be written.
        self._sent = sent
        asked, self._asked = self._asked, ""
        self._served = asked
        self._look = True
        self._not_before = 0.0
        try:
            await self._pool.run(self._outbox.acknowledged, sent, asked)
        except OSError as error:
            self._state_trouble(error)
        self._tell(
            state="waiting",
            sent=sent,
            due="",
            waits="",
            failures=(),
            failures_in_a_row=0,
            failing_since=None,
            is_wanted=self._is_wanted,
        )

    def _failed(self, failures: list[InventoryFailure]) -> None:
        status = self.status
        count = status.failures_in_a_row + 1
        first, longest = FIRST_PAUSE, LONGEST_PAUSE
        if all(failure.permanent for failure in failures):
            first, longest = FIRST_LONG_PAUSE, LONGEST_LONG_PAUSE
        pause = pause_after(count, longest, self._chance(), first)
        asked = min((failure.retry_after for failure in failures), default=0.0)
        pause = max(pause, asked * (1 + self._chance() / 10))
        # Whoever hurried meanwhile may have put right what was wrong.
        self._not_before = self._monotonic() + (0.0 if self._look else pause)
        for failure in failures:
            self._say(failure, pause)
        self._tell(
            state="waiting",
            failures=tuple(failures),
            failures_in_a_row=count,
            failing_since=status.failing_since or self._point(),
        )

    def _say(self, failure: InventoryFailure, pause: float) -> None:
        text = "the inventory of this node was not sent{to}: {text}; again in {again} s"
        facts = {
            "to": f" to {failure.url}" if failure.url else "",
            "again": round(pause),
            **attrs.asdict(failure),
        }
        wanted = self._is_wanted or failure.kind not in ("unreachable", "untrusted")
        if wanted and failure.code != "no-key":
            self._log.warn(text, event="agent.inventory-failed", **facts)
        else:
            # Nobody has said that this policy server takes inventories; or there was
            # no run yet, and that it does not work out is told by the runs.
            self._log.info(text, event="agent.inventory-not-taken", **facts)

    def _local(self, error: OSError) -> InventoryFailure:
        text = os_error_text(error, self._state)
        remedy = "make room, or correct the folder's owner and mode"
        return InventoryFailure("", "local", "io", text, remedy)

    def _state_trouble(self, error: OSError) -> None:
        self._log.error(
            "the agent's own state cannot be read or written: {reason}; make room, or"
            " correct the folder's owner and mode",
            event="agent.state-failed",
            reason=os_error_text(error, self._state),
        )

    def _tell(self, **changes: Any) -> None:
        status = attrs.evolve(self.status, **changes)
        if status != self.status:
            self.status = status
            self._changed(status)
