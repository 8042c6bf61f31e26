# SPDX-License-Identifier: MIT
"""
Lines about trust windows: an open one trusts strangers, so somebody should know.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from nodecomm.identity.decisions import WindowState
    from nodecomm.identity.trust import TrustPolicy

__all__ = ["EVERY", "WindowTeller"]

#: Seconds between two lines about a window that is open.
EVERY = 3600


class WindowTeller:
    """
    States which windows are open, at once and every hour, and at once which are not.
    """

    _log = Logger()

    def __init__(self, trust: TrustPolicy, clock: Any) -> None:
        """
        Args:
            trust: Has the windows.
            clock: Times the lines, an IReactorTime.
        """
        self._trust = trust
        self._looping = LoopingCall(self._tell, self._open)
        self._looping.clock = clock

    def start(self) -> None:
        """
        State the windows now, and begin to remind of the open ones.
        """
        self._tell(self._closed)
        self._looping.start(EVERY)

    def changed(self) -> None:
        """
        The windows are others now: state them.
        """
        self._tell(self._closed)
        self._looping.reset()
        self._tell(self._open)

    def stop(self) -> None:
        """
        Say no more.
        """
        if self._looping.running:
            self._looping.stop()

    def _tell(self, tell: Callable[[WindowState], None]) -> Deferred[None]:
        async def told() -> None:
            states = self._trust.window_states()
            for state in await states if isinstance(states, Deferred) else states:
                tell(state)

        return Deferred.fromCoroutine(told()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._log.error(
            "the trust windows cannot be counted: {reason}",
            event="trust.window-failed",
            reason=failure.getErrorMessage(),
        )

    def _open(self, state: WindowState) -> None:
        if state.state != "open":
            return
        facts = _facts(state)
        self._log.warn(
            "unknown keys from {network} are trusted on first use until "
            + (facts["until"] or "trustkeysfrom is changed")
            + ("" if facts["left"] is None else ", {left} more of them"),
            event="trust.window-open",
            **facts,
        )

    def _closed(self, state: WindowState) -> None:
        if state.state == "open":
            return
        self._log.warn(
            "the window for {network} in trustkeysfrom trusts nobody: it is {state}",
            event="trust.window-closed",
            state=state.state,
            **_facts(state),
        )


def _facts(state: WindowState) -> dict[str, Any]:
    window = state.window
    until = None
    if window.until is not None:
        until = datetime.fromtimestamp(window.until, timezone.utc).isoformat()
    left = None
    if window.count is not None:
        left = max(window.count - (state.used or 0), 0)
    return {
        "network": window.text,
        "until": until,
        "count": window.count,
        "used": state.used,
        "left": left,
    }
