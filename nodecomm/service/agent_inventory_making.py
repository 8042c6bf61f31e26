# SPDX-License-Identifier: MIT
"""
Making inventories away from the reactor, also where a machine hangs.

A look at a machine can hang for ever: a network file system that does not answer, a
disk that is dying. So it is made in a thread of its own, which is left behind then and
keeps neither the agent from its runs nor the process from its end; another one is begun
only when it has come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.inventory.commanding import CommandFailed, DocumentCommand
from nodecomm.inventory.host import Host
from nodecomm.inventory.limits import DocumentRefused
from nodecomm.inventory.making import UploadFiles, files_to_send, make_inventory
from nodecomm.inventory.own import NodeIdError
from nodecomm.inventory.writing import IncompleteDocument
from nodecomm.service.agent_inventory_status import InventoryFailure
from nodecomm.service.own_state import os_error_text

if TYPE_CHECKING:
    from nodecomm.identity.keys import KeyPair
    from nodecomm.service.agent_inventory_prepared import PreparedInventory

__all__ = ["InventoryOrder", "MadeFiles", "Maker", "MakingFailed", "make_files"]

#: Seconds that a program may take to end, beyond its time.
_GRACE = 30.0


class MakingFailed(Exception):  # noqa: N818
    """
    There is no inventory.

    Attributes:
        failure: Why.
    """

    def __init__(
        self, code: str, text: str, remedy: str = "", *, kind: str = "local"
    ) -> None:
        super().__init__(text)
        self.failure = InventoryFailure("", kind, code, text, remedy)


@frozen
class InventoryOrder:
    """
    What an inventory has to say besides what the machine is.

    Attributes:
        state: The state folder.
        pair: The node's key.
        server_id: The id of the policy server.
        server: What this node calls it.
    """

    state: str
    pair: KeyPair
    server_id: str
    server: str


@frozen
class MadeFiles:
    """
    An inventory, ready to be sent.

    Attributes:
        files: It.
        node_id: Whose.
        hostname: What the node is called.
        size: Bytes of the document before it was compressed.
        skipped: What it is without, and why.
    """

    files: UploadFiles
    node_id: str
    hostname: str
    size: int
    skipped: tuple[str, ...]


def make_files(
    order: InventoryOrder,
    now: datetime,
    command: DocumentCommand | None = None,
    host: Host | None = None,
) -> MadeFiles:
    """
    Make and sign an inventory. Blocks.

    Args:
        order: What it has to say.
        now: The present, with a zone.
        command: Prints what the machine is; None: the machine is looked at.
        host: The machine; this one by default.

    Raises:
        MakingFailed: It cannot be made.
    """
    try:
        made = make_inventory(
            order.state,
            order.pair,
            now,
            policy_server_id=order.server_id,
            policy_server=order.server,
            foreign=None if command is None else command.run(),
            host=host,
        )
        inventory = made.inventory
        files = files_to_send(
            order.state, order.pair, now, made.document, inventory.node_id
        )
    except CommandFailed as error:
        remedy = "run it by hand as the agent's user; `command` in [inventory] names it"
        raise MakingFailed("command", str(error), remedy) from error
    except IncompleteDocument as error:
        remedy = "`command` in [inventory] has to print an inventory of the machine"
        raise MakingFailed("no-document", str(error), remedy) from error
    except DocumentRefused as error:
        refusal = error.refusal
        text = f"no server would take it: {refusal.code}: {refusal.text}"
        remedy = ""
        if refusal.element == "RUDDER/HOSTNAME":
            remedy = "give this machine a name of its own (hostnamectl hostname NAME)"
        raise MakingFailed(refusal.code, text, remedy) from error
    except NodeIdError as error:
        raise MakingFailed("node-id", str(error)) from error
    except OSError as error:
        text = os_error_text(error, order.state)
        remedy = "make room, or correct the folder's owner and mode"
        raise MakingFailed("io", text, remedy) from error
    return MadeFiles(
        files,
        inventory.node_id,
        inventory.hostname,
        len(made.document),
        tuple(map(str, made.skipped)),
    )


def begin_thread(work: Callable[[], object]) -> None:
    """
    Run *work* in a thread that does not keep the process from its end.
    """
    threading.Thread(target=work, name="nodecomm-inventory", daemon=True).start()


@define(eq=False)
class Maker:
    """
    Makes inventories, one at a time.

    Args:
        reactor: For timers, and to get back from threads.
        now: Civil time in seconds.
        begin: Runs a function in a thread.
        make: Makes one; as `make_files`.
    """

    _reactor: Any
    _now: Callable[[], float]
    _begin: Callable[[Callable[[], object]], object] = begin_thread
    _make: Callable[..., MadeFiles] = make_files
    _command: DocumentCommand | None = field(default=None, init=False)
    #: Whether a thread has not come back.
    _busy: bool = field(default=False, init=False)
    _waiting: Deferred[MadeFiles] | None = field(default=None, init=False)

    async def make(
        self, order: InventoryOrder, prepared: PreparedInventory
    ) -> MadeFiles:
        """
        Make one.

        Raises:
            MakingFailed: It cannot be made.
        """
        if self._busy:
            text = (
                "this machine does not let itself be looked at: what was begun before"
                " has not come back"
            )
            remedy = (
                "look for a file system that does not answer (df), or a disk; or name"
                " a program in `command` of [inventory]"
            )
            raise MakingFailed("hangs", text, remedy)
        command: DocumentCommand | None = None
        limit = prepared.timeout
        if prepared.command:
            command = DocumentCommand(prepared.command, limit)
            limit += _GRACE
        self._command = command
        self._busy = True
        made: Deferred[MadeFiles] = Deferred()
        self._waiting = made
        now = datetime.fromtimestamp(self._now(), timezone.utc)
        timer = self._reactor.callLater(limit, self._too_late, prepared.timeout)
        self._begin(lambda: self._work(made, order, now, command))
        try:
            return await made
        finally:
            self._waiting = None
            if timer.active():
                timer.cancel()

    def stop(self) -> None:
        """
        End what is under way; whoever waits for it is told.
        """
        if self._command is not None:
            self._command.stop()
        self._fail(MakingFailed("stopped", "the agent stops"))

    def _work(
        self,
        made: Deferred[MadeFiles],
        order: InventoryOrder,
        now: datetime,
        command: DocumentCommand | None,
    ) -> None:
        """
        In a thread.
        """
        try:
            result: MadeFiles | Failure = self._make(order, now, command)
        except BaseException:
            result = Failure()  # type: ignore[no-untyped-call]
        self._reactor.callFromThread(self._over, made, result)

    def _over(self, made: Deferred[MadeFiles], result: MadeFiles | Failure) -> None:
        self._busy = False
        self._command = None
        if made is self._waiting:
            self._waiting = None
            made.callback(result)

    def _too_late(self, seconds: float) -> None:
        if self._command is not None:
            self._command.stop()
        text = f"looking at this machine takes longer than {seconds:g} s"
        remedy = (
            "look for a file system that does not answer (df); `timeout` in [inventory]"
            " says how long it may take"
        )
        self._fail(MakingFailed("hangs", text, remedy))

    def _fail(self, error: MakingFailed) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(Failure(error))  # type: ignore[no-untyped-call]
