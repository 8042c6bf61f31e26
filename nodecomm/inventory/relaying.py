# SPDX-License-Identifier: MIT
"""
What a relay does with the inventories that were stored: each file is sent to the server
above as it is, and forgotten when that has it.

Nothing is looked at and nothing decided, but who may put something here. A file ends in
exactly one of three ways: the server above has acknowledged it, it is in `failed/` with
a reason, or it waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from nodecomm.config.durations import duration_text
from nodecomm.inventory.model import Refusal
from nodecomm.inventory.names import UploadName
from nodecomm.inventory.outbox import Outbox, Outgoing
from nodecomm.inventory.pairs import Box, Part, Sender
from nodecomm.inventory.relay_turns import LONGEST_PAUSE, Lane, Turn
from nodecomm.inventory.spool import Placed
from nodecomm.inventory.spool_work import SpoolWork
from nodecomm.inventory.upstream_errors import (
    Permanent,
    SendFailed,
    Transient,
    UntrustedServer,
)
from nodecomm.inventory.via import mark_of, server_of
from nodecomm.server.pools import Pool, QueueFull

__all__ = ["KEEP", "Relaying", "Upstream"]

#: Seconds that a file waits for the server above, at the most.
KEEP = 7 * 86400.0

#: Seconds between two looks at the folder.
LOOK_EVERY = 30.0

#: Seconds until another look, at the least.
_SOON = 0.01

#: Seconds for which a relay that ends waits for what it has begun to send.
GRACE = 5.0

#: Answers that may well be about the file: another one may fare better. After all other
#: failures (no connection, a password, too much to do) it would not.
_ABOUT_FILE = frozenset({408, 425, 500, 501, 505, 506, 510})

#: The answer of a relay that has passed a file on before.
_LOOP = 508


class Upstream(Protocol):
    """
    The server above.
    """

    def server_id(self) -> Deferred[str]:
        """
        Its id.

        Returns:
            Fails with a `SendFailed`.
        """
        ...

    def close(self) -> Deferred[None]:
        """
        Close the connections that are kept for the next file.
        """
        ...

    def put(
        self, box: Box, name: str, content: str, *, via: Sequence[str]
    ) -> Deferred[Any]:
        """
        Put the file at the path *content* into a box, under a name, and tell the marks
        of the relays that it has come by (`nodecomm.inventory.via`).

        Returns:
            Fires when the server has it; fails with `Transient` or `Permanent`, or with
            OSError if the file cannot be read.
        """
        ...


class Relaying(SpoolWork[Outbox]):
    """
    Passes on what is stored, and keeps the folder in order.

    Args:
        outbox: The folder. It is opened and closed here.
        upstream: The server above.
        reactor: For pauses.
        pool: Where what blocks is done.
        server_id: The id of this server. It sends nothing to itself, and takes nothing
            that it has sent.
        address: What the server above is called in logs and reasons.
        keep: Seconds that a file waits at the most.
        at_once: Files that are sent into one box at a time.
    """

    def __init__(
        self,
        outbox: Outbox,
        upstream: Upstream,
        *,
        reactor: IReactorTime,
        pool: Pool,
        server_id: str,
        address: str = "the server above",
        keep: float = KEEP,
        at_once: int = 4,
    ) -> None:
        super().__init__(outbox, pool)
        self.mark = mark_of(server_id)
        self.keep = keep
        self.address = address
        self._upstream = upstream
        self._reactor = reactor
        # Not the reactor's, which is the civil clock in most programs.
        self._seconds = outbox.seconds
        self._server_id = server_id
        #: Whether the server above is another one than this; and who waits to know.
        self._is_other = False
        self._asking: list[Deferred[SendFailed | None]] | None = None
        self._lanes = {box: Lane(at_once) for box in Box}
        self._turns: dict[str, Turn] = {}
        self._running: set[Deferred[None]] = set()
        self._timers: dict[Box, IDelayedCall] = {}
        self._look = LoopingCall(self._look_again)
        self._look.clock = reactor

    def _opened(self, items: list[Outgoing]) -> None:
        self._started = True
        for item in items:
            self._add(item)
        self._look.start(LOOK_EVERY, now=False)
        self._log.info(
            "passing inventories on to {upstream}; {waiting} waiting",
            event="upstream.started",
            upstream=self.address,
            waiting=len(items),
        )
        # What is there may have waited for too long already.
        self._look_again()
        self._send_all()

    def stop(self) -> Deferred[None]:
        """
        Begin nothing more, wait a little for what is under way, and close the folder.
        What was not acknowledged waits there for the next start.
        """
        self._started = False
        if self._look.running:
            self._look.stop()
        for call in self._timers.values():
            call.cancel()
        self._timers.clear()
        running = list(self._running)
        ended: Deferred[Any] = DeferredList(running)

        def give_up() -> None:
            for each in running:
                each.cancel()

        late = self._reactor.callLater(GRACE, give_up)

        def close(_: object) -> Deferred[None]:
            if late.active():
                late.cancel()
            self.spool.close()
            self._turns.clear()
            self._lanes = {box: Lane(lane.at_once) for box, lane in self._lanes.items()}
            return self._upstream.close()

        return ended.addCallback(close)

    def send_to(self, upstream: Upstream, address: str) -> None:
        """
        Send to another server from now on, or to the same in another way: everything
        that waits is tried at once.

        Args:
            upstream: The server above.
            address: What it is called.
        """
        before, self._upstream = self._upstream, upstream
        before.close()
        self.address = address
        self._is_other = False
        for lane in self._lanes.values():
            lane.reopen()
        self._send_all()

    def store(
        self, part: Part, name: UploadName, sender: Sender, *, only_new: bool
    ) -> Deferred[Placed]:
        """
        Store an upload that is whole, and send it.

        Returns:
            Fires when it is on disk; fails as `Outbox.place` does, or with `QueueFull`.
        """

        def work() -> tuple[Placed, Outgoing | None]:
            return self.spool.place(part, name, sender, only_new=only_new)

        return self._away(work).addCallback(self._stored)

    def _stored(self, placed: tuple[Placed, Outgoing | None]) -> Placed:
        how, item = placed
        if item is not None and self._started:
            self._add(item)
            self._send(item.sender.box)
        return how

    # Turns

    def _add(self, item: Outgoing) -> None:
        if item.serial not in self._turns:
            turn = self._turns[item.serial] = Turn(item)
            self._lanes[item.sender.box].add(turn)

    def _forget(self, turn: Turn) -> None:
        self._turns.pop(turn.item.serial, None)
        self._lanes[turn.item.sender.box].leave(turn)

    def _send_all(self) -> None:
        for box in Box:
            self._send(box)

    def _send(self, box: Box) -> None:
        """
        Begin what may be begun now, and come again when more may be.
        """
        lane = self._lanes[box]
        while self._started:
            turn = lane.take(self._seconds())
            if turn is None:
                break
            done = Deferred.fromCoroutine(self._go(box, turn))
            if not done.called:
                self._running.add(done)
                done.addBoth(self._ended, done, box)
        timer = self._timers.pop(box, None)
        if timer is not None:
            timer.cancel()
        at = lane.next_at()
        if self._started and at is not None and at > self._seconds():
            # Clocks differ by a little; whoever comes too early comes again.
            pause = max(at - self._seconds(), _SOON)
            self._timers[box] = self._reactor.callLater(pause, self._due, box)

    def _due(self, box: Box) -> None:
        del self._timers[box]
        self._send(box)

    def _ended(self, _: object, done: Deferred[None], box: Box) -> None:
        self._running.discard(done)
        self._send(box)

    async def _go(self, box: Box, turn: Turn) -> None:
        """
        One try. Whatever goes wrong, it is told, and the others go on.
        """
        about_file = False
        try:
            if not turn.is_above and turn.refusal is None:
                await self._check_other()
                about_file = True
                await self._go_up(box, turn)
            await self._come_down(box, turn)
        except Transient as error:
            if self._started:
                self._not_sent(box, turn, error, about_file=about_file)
                await self._note_turn(box, turn)
        except Exception:
            if self._started:
                self._not_done(box, turn, Failure())  # type: ignore[no-untyped-call]
                await self._note_turn(box, turn)

    async def _note_turn(self, box: Box, turn: Turn) -> None:
        again = max(turn.not_before, self._lanes[box].closed_until)
        await self._note(turn.item, turn.tries, again - self._seconds(), turn.said)

    async def _go_up(self, box: Box, turn: Turn) -> None:
        """
        Send a file.

        Raises:
            Transient: It may go well another time.
        """
        item = turn.item
        via = (*item.sender.via, self.mark)
        began = self._seconds()
        try:
            await maybeDeferred(
                self._upstream.put, box, item.name.text, item.path, via=via
            )
        except Permanent as error:
            if error.status == _LOOP:
                turn.refusal = self._goes_round(error.reason, via)
            else:
                turn.refusal = Refusal("upstream-refused", error.reason)
        except FileNotFoundError:
            self._tell_gone(item.name.text, item.sender)
            turn.is_above = True
            return
        else:
            turn.is_above = True
            self._log.info(
                "{name} from {peer} is passed on to {upstream}",
                event="inventory.forwarded",
                name=item.name.text,
                box=box.value,
                peer=item.sender.address,
                upstream=self.address,
                waited=round(began - item.arrived, 3),
                seconds=self._seconds() - began,
            )
        lane = self._lanes[box]
        if lane.is_closed:
            self._log.info(
                "{upstream} takes inventories again; {waiting} waiting",
                event="upstream.back",
                upstream=self.address,
                box=box.value,
                waiting=len(self._turns) - 1,
            )
        lane.answered()

    def _goes_round(self, reason: str, via: Sequence[str]) -> Refusal:
        way = " -> ".join([*map(server_of, via), self.address])
        return Refusal(
            "loop",
            f"relays pass it round, {way}: {reason}; write the server that decides, or "
            "a relay nearer to it, into inventory.upstream of one of them, and have it "
            "sent again by `nodecomm inventory retry`",
        )

    async def _check_other(self) -> None:
        """
        Make sure that what is above is not this server itself.

        Raises:
            Transient: It is, or nobody knows yet.
        """
        if self._is_other:
            return
        if self._asking is not None:
            told: Deferred[SendFailed | None] = Deferred()
            self._asking.append(told)
            failed = await told
            if failed is not None:
                raise failed
            return
        self._asking = []
        failed = Transient("it was given up")
        try:
            await self._ask_other()
        except SendFailed as error:
            failed = error
            raise
        else:
            self._is_other, failed = True, None
        finally:
            waiting, self._asking = self._asking, None
            for each in waiting:
                each.callback(failed)

    async def _ask_other(self) -> None:
        try:
            told = await maybeDeferred(self._upstream.server_id)
        except SendFailed as error:
            if error.status is None:
                raise
            # It is there, and does not say what its id is: that is its own affair.
            return
        if told == self._server_id:
            msg = (
                f"{self.address} has the id of this server, {told}: a relay that sends "
                "to itself; write the address of the server above into "
                "inventory.upstream, or give this one a server_id of its own"
            )
            raise Transient(msg)

    async def _come_down(self, box: Box, turn: Turn) -> None:
        """
        Do here what follows from the answer.

        Raises:
            OSError: It could not be done.
        """
        if turn.refusal is not None:
            failed = await self._away(self.spool.fail, turn.item, turn.refusal)
            self._tell_failed(turn, failed.refusal)
            self._forget(turn)
            return
        replaced = self._lanes[box].passed_by(turn)
        await self._away(self.spool.done, turn.item)
        self._forget(turn)
        for each in replaced:
            why = f"{self.address} has a later file of this name"
            if each.said:
                why += f"; it has not taken this one: {each.said}"
            await self._set_aside(each, Refusal("replaced", why))

    async def _set_aside(self, turn: Turn, refusal: Refusal) -> None:
        """
        Put aside what is not being sent. What cannot be moved is tried at its turn.
        """
        lane = self._lanes[turn.item.sender.box]
        if turn.is_gone or lane.is_sending(turn):
            return
        # From now on nobody sends it.
        lane.leave(turn)
        try:
            await self._away(self.spool.fail, turn.item, refusal)
        except FileNotFoundError:
            # Somebody has removed it.
            pass
        except (OSError, QueueFull):
            self._log.failure(
                "{name} cannot be put aside; it is tried again",
                event="inventory.delayed",
                name=turn.item.name.text,
                peer=turn.item.sender.address,
                pause=LOOK_EVERY,
            )
            if self._started:
                again = Turn(turn.item, said=turn.said, refusal=refusal, tries=1)
                again.not_before = self._seconds() + LOOK_EVERY
                self._turns[turn.item.serial] = again
                lane.add(again)
            return
        else:
            self._tell_failed(turn, refusal)
        self._turns.pop(turn.item.serial, None)

    def _not_sent(
        self, box: Box, turn: Turn, error: Transient, *, about_file: bool
    ) -> None:
        turn.said = error.reason
        if isinstance(error, UntrustedServer) or error.retry_after is not None:
            about_file = False
        lane, now = self._lanes[box], self._seconds()
        closed = lane.failed(
            turn,
            now,
            at_once=not about_file,
            fresh_may=error.status in _ABOUT_FILE,
            at_least=min(error.retry_after or 0.0, LONGEST_PAUSE),
        )
        if closed:
            oldest = min(each.item.arrived for each in self._turns.values())
            self._log.warn(
                "{upstream} takes no inventories: {reason}; {waiting} waiting, and"
                " the next is tried in {pause} s",
                event="upstream.away",
                upstream=self.address,
                box=box.value,
                reason=error.reason,
                status=error.status,
                name=turn.item.name.text,
                waiting=len(self._turns),
                oldest=round(now - oldest),
                pause=round(lane.closed_until - now),
            )
        elif not lane.is_closed:
            self._tell_delayed(turn, error.reason, error.status)

    def _not_done(self, box: Box, turn: Turn, failure: Failure) -> None:
        """
        Something here was in the way: the disk, or a mistake in this program.
        """
        error = failure.value
        if not isinstance(error, (OSError, QueueFull)):
            self._log.failure(
                "a mistake in this program: {name} waits",
                failure,
                event="inventory.delayed",
                name=turn.item.name.text,
                peer=turn.item.sender.address,
                pause=0,
            )
        turn.said = failure.getErrorMessage()
        self._lanes[box].wait(turn, self._seconds())
        self._tell_delayed(turn, turn.said, None)

    def _tell_delayed(self, turn: Turn, reason: str, status: int | None) -> None:
        self._log.warn(
            "{name} from {peer} waits {pause} s: {reason}",
            event="upstream.delayed",
            name=turn.item.name.text,
            box=turn.item.sender.box.value,
            peer=turn.item.sender.address,
            reason=reason,
            status=status,
            pause=round(turn.not_before - self._seconds()),
        )

    def _tell_failed(self, turn: Turn, refusal: Refusal) -> None:
        self._log.warn(
            "{name} from {peer} is put aside: {text}",
            event="inventory.failed",
            name=turn.item.name.text,
            node="",
            reason=refusal.code,
            text=refusal.text,
            element=refusal.element,
            box=turn.item.sender.box.value,
            peer=turn.item.sender.address,
            serial=turn.item.serial,
        )

    # What has waited too long, and what others have put here or removed

    def _look_again(self) -> Deferred[None]:
        looking = Deferred.fromCoroutine(self._look_once())
        looking.addErrback(self._failed_looking)
        if not looking.called:
            self._running.add(looking)
            looking.addBoth(self._looked, looking)
        return looking

    def _looked(self, _: object, looking: Deferred[None]) -> None:
        self._running.discard(looking)

    async def _look_once(self) -> None:
        items = await self._away(self.spool.rescan)
        there = {item.serial for item in items}
        for turn in list(self._turns.values()):
            lane = self._lanes[turn.item.sender.box]
            if turn.item.serial not in there and not lane.is_sending(turn):
                self._forget(turn)
        for item in items:
            if self._started:
                self._add(item)
        before = self._seconds() - self.keep
        for turn in list(self._turns.values()):
            if not self._started or turn.item.arrived >= before or turn.is_above:
                continue
            # What was off meanwhile, or began with a clock that is ahead, tries first.
            was_tried = turn.said or self._lanes[turn.item.sender.box].is_closed
            if turn.refusal or was_tried:
                await self._set_aside(turn, turn.refusal or self._expired(turn))
        gone = await self._away(self.spool.trim_failed)
        self._tell_forgotten(gone)
        self._send_all()

    def _expired(self, turn: Turn) -> Refusal:
        said = turn.said or "it was never tried"
        kept = duration_text(self.keep)
        why = f"{self.address} has not taken it within {kept}: {said}"
        return Refusal("expired", why)
