# SPDX-License-Identifier: MIT
"""
A relay of TCP connections that makes a machine look far away, or lets it vanish.

It passes bytes on as they are, in order, each half a round trip late, with as much
bandwidth as this machine has: neither slow start nor loss are imitated. A connection
costs its round trip too, as a real one does: what the client says first is held
back until a handshake of TCP over the same distance would have been over.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any

#: Bytes read at once, and how many such pieces may be under way in one direction.
_PIECE = 1 << 18
_PIECES = 1024

#: Seconds to wait for the thread, at the start and at the end.
_PATIENCE = 30.0

#: A linger time of zero: closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


class DelayedRelay:
    """
    Listens on a port of 127.0.0.1 and passes each connection on to another one.

    Args:
        target: The server's port, on 127.0.0.1.
        round_trip: Seconds that a question and its answer spend on the way.
        cuts: For each connection from now on, in order, the bytes from the server
            after which it is reset on both sides; None, and after the last: never.
        silences: The same, but nothing passes any more and nothing is closed, as when
            the power fails.
        holds: The same, but no more is read from the server until `release`: it has
            sent no more than what systems hold for a connection.

    Attributes:
        port: Where to connect.
        cuts: What is left of it; may be replaced.
        silences: The same.
        accepted: Connections so far.
        most_at_once: The most that were open towards the server at one time.
        received: Bytes that came from the server, TLS and all.
        held: Set when a connection is held.
    """

    def __init__(
        self,
        target: int,
        round_trip: float = 0.0,
        *,
        cuts: Iterable[int | None] = (),
        silences: Iterable[int | None] = (),
        holds: Iterable[int | None] = (),
    ) -> None:
        self._target = target
        self.round_trip = round_trip
        self.cuts = iter(cuts)
        self.silences = iter(silences)
        self._holds = iter(holds)
        self.held = threading.Event()
        self._released = asyncio.Event()
        self.accepted = 0
        self.most_at_once = 0
        self.received = 0
        self._open = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> DelayedRelay:
        self._thread.start()
        assert self._started.wait(_PATIENCE), "the relay does not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE)

    def release(self) -> None:
        """
        Let all that is held go on, and hold nothing any more.
        """
        self._loop.call_soon_threadsafe(self._released.set)

    async def _hold(self) -> None:
        self.held.set()
        await self._released.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(begin, sock=self._socket, limit=_PIECE)
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports that were aborted close in the loop's next turn.
        await asyncio.sleep(0)

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        begun = self._loop.time()
        self.accepted += 1
        cut, silence = next(self.cuts, None), next(self.silences, None)
        hold = next(self._holds, None)
        half = self.round_trip / 2
        sides = [writer]
        try:
            await asyncio.sleep(half)
            far_reader, far = await asyncio.open_connection(
                "127.0.0.1", self._target, limit=_PIECE
            )
            sides.append(far)
            for side in sides:
                # asyncio does it only for sockets that say which protocol they have.
                # Without it the second of two small writes waits for the peer's
                # delayed acknowledgement, which is no part of any distance.
                end: socket.socket = side.get_extra_info("socket")
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            up = _Way(reader, far, half, begun + self.round_trip)
            down = _Way(far_reader, writer, half, begun, cut=cut, silence=silence)
            if hold is not None:
                down.stop = (hold, self._hold)
            try:
                await _together(up.run(), down.run())
            finally:
                self._open -= 1
                self.received += down.received
        except OSError:
            # The other side gets to know it as late as anything else.
            await asyncio.sleep(half)
            for side in sides:
                _reset(side)
        finally:
            for side in sides:
                side.close()


class _Way:
    """
    One direction of a connection.

    Args:
        reader: Where the bytes come from.
        writer: Where they go.
        delay: Seconds that they take.
        earliest: When the sender can have begun to send.
        cut: Bytes after which the connection is reset.
        silence: Bytes after which nothing happens any more.

    Attributes:
        received: Bytes so far.
        stop: Bytes after which it is waited for something before more is read.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        delay: float,
        earliest: float,
        *,
        cut: int | None = None,
        silence: int | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._delay = delay
        self._earliest = earliest
        self._cut = cut
        self._silence = silence
        self.received = 0
        self.stop: tuple[int, Callable[[], Awaitable[None]]] | None = None
        # When it is due, and what: no bytes are the end, None a connection that broke.
        self._under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(
            _PIECES
        )

    async def run(self) -> None:
        """
        Pass on what comes until its end.

        Raises:
            OSError: The connection broke, or was to be cut.
        """
        await _together(self._take(), self._give())

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        data: bytes | None = b"-"
        taken = 0
        while data:
            if self.stop is not None and taken >= self.stop[0]:
                await self.stop[1]()
            try:
                data = await self._reader.read(_PIECE)
            except OSError:
                data = None
            taken += len(data or b"")
            sent = max(loop.time(), self._earliest)
            await self._under_way.put((sent + self._delay, data))

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self._under_way.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if data is None:
                raise ConnectionResetError("broken on the other side")
            if not data:
                self._writer.write_eof()
                return
            for limit, what in ((self._cut, _break), (self._silence, _forever)):
                if limit is not None and self.received + len(data) >= limit:
                    self._writer.write(data[: limit - self.received])
                    self.received = limit
                    await what()
            self._writer.write(data)
            self.received += len(data)
            await self._writer.drain()


async def _break() -> None:
    raise ConnectionResetError("cut")


async def _forever() -> None:
    await asyncio.Event().wait()


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """
    Wait until all *works* are done; when one fails, end the others.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """
    Close without a farewell.
    """
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None and end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
