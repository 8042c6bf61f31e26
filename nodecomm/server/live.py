# SPDX-License-Identifier: MIT
"""
Answers that are made over time, as long as that takes: each part leaves at once.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from nodecomm.server.flows import Flow
from nodecomm.wire.framing import MAX_RECORD

if TYPE_CHECKING:
    from nodecomm.server.flows import Outlet
    from nodecomm.server.replies import Live, LiveSource
    from nodecomm.server.requests import Request

__all__ = ["LiveFlow"]


class LiveFlow(Flow):
    """
    Frames of a source that has them when it has them (`replies.LiveAnswer`).

    What the peer does not take waits here, and the source is asked to pause; so there
    is no more of it than a source gives between that and its pause.
    """

    def __init__(self, request: Request, reply: Live, out: Outlet) -> None:
        super().__init__(request, reply)
        self._begin = reply.begin
        self._out: Outlet | None = out
        self._source: LiveSource | None = None
        self._begun = False
        self._held = False
        #: Whether the source is called to send, so that what it sends leaves next.
        self._asking = False
        self._records: deque[bytes] = deque()
        #: Why the connection is closed behind what waits; empty: it goes on.
        self._broken = ""
        self._ended = False
        self._dropped = False

    # For the queue.

    def step(self, out: Outlet) -> int:
        """
        Send what is there, a record at a time; then wait for more, or end.
        """
        if not self._begun:
            self._begun = self._asking = True
            try:
                self._source = self._begin(self)
            except Exception:
                out.fail(self, Failure())  # type: ignore[no-untyped-call]
                return 0
            self._asking = False
            if self._dropped:
                self._source.leave()
                return 0
        if self._records:
            record = self._records.popleft()
            out.send(self, record, last=False)
            return len(record)
        if self._ended:
            if self._broken:
                out.break_off(self, self._broken)
            else:
                out.end(self)
            return 0
        self._asking = True
        self.resumed()
        self._asking = False
        if not (self._records or self._ended):
            out.wait()
        return 0

    def paused(self) -> None:
        """
        The transport has enough for now.
        """
        if not self._held:
            self._held = True
            if self._source is not None:
                self._source.pause()

    def resumed(self) -> None:
        """
        The transport takes more.
        """
        paused = self._out is None or self._out.paused
        if self._held and not (self._records or paused):
            self._held = False
            if self._source is not None:
                self._source.resume()

    def drop(self) -> None:
        """
        Nothing is sent any more: the source may go home.
        """
        if self._dropped:
            return
        self._dropped = self._ended = True
        # A source may know of us for some time yet; what we knew of, it need not keep.
        self._out = None
        self._records.clear()
        if self._source is not None:
            self._source.leave()

    # For the source.

    def send(self, record: bytes) -> None:
        """
        Send one or more whole frames, which are not divided.

        Raises:
            ValueError: They are more than `MAX_RECORD` bytes together.
        """
        if len(record) > MAX_RECORD:
            raise ValueError(f"{len(record)} bytes of frames at once")
        if self._ended or self._out is None or not record:
            return
        self._records.append(record)
        self._out.wake()
        if self._records and not self._asking:
            self.paused()

    def end(self) -> None:
        """
        That was all.
        """
        if not self._ended and self._out is not None:
            self._ended = True
            self._out.wake()

    def break_off(self, why: str) -> None:
        """
        It cannot go on: close the connection behind what was sent.

        Args:
            why: For the log.
        """
        if not self._ended:
            self._broken = why
            self.end()
