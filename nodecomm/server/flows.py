# SPDX-License-Identifier: MIT
"""
Answers that are made while they leave: the names in a folder, the content of a file.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.server import posix
from nodecomm.wire.framing import MAX_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nodecomm.interfaces import IHeldObject
    from nodecomm.server.filesystem import HeldFile
    from nodecomm.server.replies import Content, Packets, Reply
    from nodecomm.server.requests import Request

__all__ = ["BROKEN_OFF", "Flow", "NameFlow", "Outlet", "ReadFlow", "SystemFlow"]

#: Why a file's content cannot be given, before the system's words.
_UNREADABLE = "cannot be read: "

#: Why a listing cannot be given, where nothing else can be said.
BROKEN_OFF = "the listing broke off"

#: Bytes that the system is given at a time: as much as leaves in one turn. With a
#: quarter of it, and all of the file read to see that it is there, 300 MB cost half as
#: much CPU again.
_PIECE = 1 << 20

#: What the system says of files that it cannot put into a connection by itself.
_UNFIT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Outlet(Protocol):
    """
    What flows need of the queue that they are in.
    """

    #: Whether the transport has enough for now.
    paused: bool

    @property
    def chunk(self) -> int:
        """Bytes of content that may be held in memory."""
        ...

    @property
    def send_file(self) -> Callable[[int, int, int], int] | None:
        """The transport's `IFileStream.send_file`; None where there is none."""
        ...

    def join(self, flow: Flow, frame: bytes) -> bool:
        """Put a frame behind what is joined so far; whether a record has left."""
        ...

    def send(self, flow: Flow, data: bytes, *, last: bool) -> None:
        """Write *data*; *last* ends the flow."""
        ...

    def count(self, flow: Flow, size: int, *, last: bool) -> None:
        """So many bytes were written past the queue; *last* ends the flow."""
        ...

    def end(self, flow: Flow) -> None:
        """All of it has been joined or sent."""
        ...

    def fail(self, flow: Flow, failure: Failure) -> None:
        """It cannot go on; *failure* is turned into an answer."""
        ...

    def break_off(self, flow: Flow, why: str) -> None:
        """It cannot go on; the connection is closed."""
        ...

    def wait(self) -> None:
        """Nothing can be done before `wake`."""
        ...

    def wake(self) -> None:
        """Something can be done again."""
        ...


class Flow:
    """
    An answer that is made while it leaves.

    Attributes:
        request: What is answered.
        reply: What the command answered with.
    """

    def __init__(self, request: Request, reply: Reply) -> None:
        self.request = request
        self.reply = reply

    def step(self, out: Outlet) -> int:
        """
        Move along: send a part, wait, or end. Returns about how many bytes that were.
        """
        raise NotImplementedError

    def paused(self) -> None:
        """
        The transport has enough for now: no `step` until it takes more.
        """

    def resumed(self) -> None:
        """
        The transport takes more.
        """

    def drop(self) -> None:
        """
        Let go of everything; nothing is sent any more.
        """


class NameFlow(Flow):
    """
    Frames that are joined into records.
    """

    def __init__(self, request: Request, reply: Packets) -> None:
        super().__init__(request, reply)
        self._frames: Iterator[bytes] = iter(reply.frames)

    def step(self, out: Outlet) -> int:
        """
        Join frames until a record has left.
        """
        try:
            for packet in self._frames:
                if out.join(self, packet):
                    return MAX_RECORD
        except Exception:
            # A source may list what has no form on the wire.
            out.fail(self, Failure())  # type: ignore[no-untyped-call]
        else:
            out.end(self)
        return MAX_RECORD


class ContentFlow(Flow):
    """
    A file's content, however it leaves.

    Attributes:
        held: The file.
        left: Bytes that are still to be made.
        offset: Where the next of them are.
    """

    def __init__(self, request: Request, reply: Content) -> None:
        super().__init__(request, reply)
        self.size = reply.size
        self.held: IHeldObject = reply.held
        self.left = reply.size
        self.offset = 0

    def drop(self) -> None:
        """
        Let go of the file.
        """
        self.held.close()

    def read(self, size: int) -> bytes | Deferred[bytes] | str:
        """
        At most *size* bytes from where we are; text: why they cannot be had.
        """
        try:
            return self.held.read(self.offset, size)
        except Exception as error:
            return f"{_UNREADABLE}{error}"

    def unreadable(self, failure: Failure) -> str:
        """
        Why bytes that were waited for cannot be had.
        """
        return f"{_UNREADABLE}{failure.getErrorMessage()}"

    def changed(self) -> str:
        """
        Why the last bytes may not leave; empty when they may. The peer has not got
        them then, so it keeps the copy it has.
        """
        try:
            if self.held.unchanged(self.size):
                return ""
        except Exception as error:
            return f"{_UNREADABLE}{error}"
        return "changed while it was being sent"

    def too_short(self) -> str:
        """
        Why it ends here.
        """
        return f"ends {self.left} bytes too early"


class ReadFlow(ContentFlow):
    """
    A file's content, read and written.
    """

    def step(self, out: Outlet) -> int:
        """
        Read the next bytes, and write them when they are there.
        """
        data = self.read(min(out.chunk, self.left))
        if isinstance(data, str):
            out.break_off(self, data)
        elif isinstance(data, Deferred):
            out.wait()
            data.addCallbacks(self._arrived, self._failed, (out,), {}, (out,))
        else:
            self._write(out, data)
            return len(data)
        return 0

    def drop(self) -> None:
        """
        Let go of the file; what is still being read is for nobody.
        """
        super().drop()
        self.left = 0

    def _arrived(self, data: bytes, out: Outlet) -> None:
        if self.left:
            self._write(out, data)
            out.wake()

    def _failed(self, failure: Failure, out: Outlet) -> None:
        if self.left:
            out.break_off(self, self.unreadable(failure))

    def _write(self, out: Outlet, data: bytes) -> None:
        data = data[: self.left]
        size = len(data)
        last = size == self.left
        why = self.changed() if last else ""
        if not data:
            why = self.too_short()
        if why:
            out.break_off(self, why)
            return
        self.offset += size
        self.left -= size
        out.send(self, data, last=last)


class SystemFlow(ReadFlow):
    """
    A file's content, put into the connection by the system.

    Only what is in memory leaves that way, because the system would wait for the disk
    with all connections behind it. The rest is read, in the pool for the disk, and
    written.

    What the system has not transmitted yet is the file itself, not a copy of it. Who
    writes into the file after our last look at it, and before the peer has got the
    end, changes what the peer gets. Files that are replaced, as they should be, keep
    what they were.
    """

    def __init__(self, request: Request, reply: Content, held: HeldFile) -> None:
        super().__init__(request, reply)
        self._file = held
        self._fit = True
        #: Up to where the file was found in memory. It is not asked again for what
        #: the peer did not take at once: what was there a moment ago mostly still is.
        self._known = 0

    def step(self, out: Outlet) -> int:
        """
        Have the system send the next bytes that are in memory, or read some.
        """
        send_file = out.send_file
        if send_file is None or not self._fit:
            return super().step(out)
        try:
            descriptor = self._file.open()
            if self._known <= self.offset:
                size = min(_PIECE, self.left)
                found = posix.in_memory(descriptor, self.offset, size)
                self._known = self.offset + found
        except Exception as error:
            out.break_off(self, f"{_UNREADABLE}{error}")
            return 0
        ready = self._known - self.offset
        if not ready:
            return super().step(out)
        why = self.changed() if ready == self.left else ""
        if why:
            out.break_off(self, why)
            return 0
        return self._send(out, send_file, descriptor, ready)

    def _send(
        self,
        out: Outlet,
        send_file: Callable[[int, int, int], int],
        descriptor: int,
        ready: int,
    ) -> int:
        try:
            sent = send_file(descriptor, self.offset, ready)
        except EOFError:
            out.break_off(self, self.too_short())
            return 0
        except OSError as error:
            if error.errno in _UNFIT:
                self._fit = False
            else:
                out.break_off(self, f"{_UNREADABLE}{error}")
            return 0
        if sent:
            self.offset += sent
            self.left -= sent
            out.count(self, sent, last=not self.left)
        elif not out.paused:
            # The connection is ending, and will tell.
            out.wait()
        return sent
