# SPDX-License-Identifier: MIT
"""
Keys that decisions about nodes have taken: what is stored of them here is removed, once
for each decision, also if it was made while this server was down.

The registry of nodes numbers those keys. How far a server has come is in its own state
folder, so a key that an operator stores again afterwards stays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nodecomm.identity.accepted import NodeKeys, WithdrawnKey
from nodecomm.identity.files import read_small, replace_file
from nodecomm.identity.store import FileKeyStore

__all__ = ["MARK_NAME", "WithdrawnKeys"]

#: The file in the state folder that says how far this server has come.
MARK_NAME = "withdrawn-keys"

#: Seconds after which it is tried again to remove what could not be removed.
_AGAIN = 30.0

#: Keys after which it is noted how far this server has come; and when nothing is left.
_NOTE_EVERY = 100


class WithdrawnKeys:
    """
    Removes what is stored of keys that were withdrawn.

    Args:
        store: Where keys are stored.
        keys: Told of each key while it leaves: it is refused until it is gone.
        folder: The state folder.
        clock: An IReactorTime.
        run: Calls what waits for the disk; returns a Deferred.

    Raises:
        OSError: How far this server has come cannot be read.
    """

    _log = Logger()

    def __init__(
        self,
        store: FileKeyStore,
        keys: NodeKeys,
        folder: str,
        *,
        clock: Any,
        run: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._store = store
        self._keys = keys
        self._path = os.path.join(folder, MARK_NAME)
        self._clock = clock
        self._run = run
        self._waiting: deque[tuple[WithdrawnKey, float | None]] = deque()
        self._working: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._told = ""
        self._stopped = False
        self._mark = self._taken = self._read()

    def _read(self) -> str:
        try:
            _, data = read_small(self._path)
        except (FileNotFoundError, ValueError):
            return ""
        return data.decode("ascii", "replace").strip()

    def take(self, withdrawn: Sequence[WithdrawnKey], *, whole: bool) -> None:
        """
        Keys that were withdrawn, in order.

        Args:
            withdrawn: The keys.
            whole: Whether these are all that there are. Then those that this server
                knows are left out, and of the others a key that was stored later than
                it was withdrawn stays: somebody wanted it.
        """
        if whole:
            marks = [each.mark for each in withdrawn]
            if self._taken in marks:
                # Else these are those of another database, or an older state of it.
                withdrawn = withdrawn[marks.index(self._taken) + 1 :]
        for each in withdrawn:
            self._keys.leaves(each.key)
            self._waiting.append((each, each.when.timestamp() if whole else None))
            self._taken = each.mark
        self._go_on()

    def stop(self) -> Deferred[None]:
        """
        Begin nothing any more. What was not begun is done after the next start. The
        Deferred fires when nothing is under way.
        """
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._waiting) > (self._working is not None):
            self._waiting.pop()
        if self._working is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._working.addBoth(lambda _: stopped.callback(None))
        return stopped

    def _go_on(self) -> None:
        if self._working is None and self._timer is None and self._waiting:
            self._working = Deferred()
            self._next()

    def _next(self) -> None:
        each, until = self._waiting[0]
        done = maybeDeferred(self._store.forget, each.key, until=until)
        done.addCallbacks(partial(self._removed, each), partial(self._failed, each))

    def _removed(self, each: WithdrawnKey, names: Sequence[str]) -> None:
        self._mark, self._told = each.mark, ""
        self._waiting.popleft()
        self._keys.left(each.key)
        if names:
            self._log.warn(
                "key {key} is not stored any more ({log_names}): node {node}, {what}",
                event="key.removed",
                key=each.key.md5,
                node=each.node_id,
                what=each.what,
                names=list(names),
                log_names=", ".join(names),
            )
        if self._waiting and len(self._waiting) % _NOTE_EVERY:
            self._clock.callLater(0, self._next)
        else:
            self._note()

    def _note(self) -> None:
        """
        Note how far this server has come, and go on.
        """
        work = partial(replace_file, self._path, f"{self._mark}\n".encode("ascii"))

        def failed(failure: Failure) -> None:
            # It is noted with the next key. If none comes before the next start, all
            # since the last note is done again, but for what was stored later.
            self._log.error(
                "{path} cannot be written: {error}",
                event="state.not-written",
                path=self._path,
                error=failure.getErrorMessage(),
            )

        done = self._run(work).addErrback(failed)
        done.addCallback(lambda _: self._next() if self._waiting else self._rest())

    def _rest(self) -> None:
        working, self._working = self._working, None
        if working is not None:
            working.callback(None)

    def _failed(self, each: WithdrawnKey, failure: Failure) -> None:
        text = failure.getErrorMessage()
        if text != self._told:
            self._told = text
            self._log.error(
                "what is stored of key {key} cannot be removed; it is refused until"
                " that is done (node {node}, {what}): {error}",
                event="key.not-removed",
                key=each.key.md5,
                node=each.node_id,
                what=each.what,
                error=text,
            )
        if not self._stopped:
            self._timer = self._clock.callLater(_AGAIN, self._timed)
        self._rest()

    def _timed(self) -> None:
        self._timer = None
        self._go_on()
