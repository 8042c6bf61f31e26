# SPDX-License-Identifier: MIT
"""
Files that the system puts into the connection.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any, cast
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from nodecomm.server import answers, flows, posix
from nodecomm.server.answers import AnswerQueue
from nodecomm.server.filesystem import FileSystemSource, HeldFile
from nodecomm.server.replies import Content, HangUp
from tests.server.pools import HandPool
from tests.server.test_answers import (
    CHUNK,
    QueueCase,
    Transport,
    file,
    frames,
)
from tests.transport.links import Session
from tests.transport.plain_links import DescriptorLink

#: What the queue gives to the system: from here on.
LARGE = answers._BY_SYSTEM


class FileTransport(Transport):
    """
    Takes files, too: each time as much as the next of `rooms` says; when there are no
    more of them, all.
    """

    def __init__(self, queue: AnswerQueue | None = None) -> None:
        super().__init__()
        self.queue = queue
        self.rooms: list[int] = []
        self.by_system: list[int] = []
        self.error: Exception | None = None
        self.ended = False

    def send_file(self, descriptor: int, offset: int, size: int) -> int:
        """From the queue."""
        assert size > 0
        if self.error is not None:
            raise self.error
        if self.ended:
            return 0
        room = self.rooms.pop(0) if self.rooms else size
        if not room:
            assert self.queue is not None
            self.queue.pause()
            return 0
        data = os.pread(descriptor, min(room, size), offset)
        if not data:
            raise EOFError("the file ends")
        self.writes.append(data)
        self.by_system.append(len(data))
        return len(data)


class FileCase(QueueCase):
    """
    A queue above a transport that takes files.
    """

    transport: FileTransport

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        # Where tests run, not every file system can tell, and pages may be taken.
        self.patch(posix, "in_memory", lambda descriptor, offset, size: size)
        self.patch(flows, "_PIECE", CHUNK)
        self.again()

    def again(self) -> None:
        """Begin anew."""
        _, self.queue = self.make()
        self.transport = FileTransport(self.queue)
        self.queue._transport = cast(Any, self.transport)
        self.queue.send_file = self.transport.send_file
        self.pool = HandPool()
        self.source = FileSystemSource(cast(Any, None), self.pool)

    def held(self, size: int) -> HeldFile:
        """A file of the file system, whose every byte tells where it is."""
        content = file(size).content
        assert content is not None
        self.path = Path(self.folder, "file")
        # A new file each time: the source remembers names.
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(content)
        self.content = content
        return self.source.resolve(None, os.fsencode(self.path))

    def closed(self, held: HeldFile) -> bool:
        """Whether the queue has let go of *held*."""
        return held._descriptor < 0

    def drain(self) -> None:
        """Let everything happen that can."""
        while True:
            if self.turns:
                self.turns.pop(0)()
            elif self.pool.waiting:
                self.pool.work()
            elif self.queue.paused:
                self.queue.resume()
            else:
                return


class SystemTests(FileCase):
    """
    A large file.
    """

    def test_all_of_it_by_the_system(self) -> None:
        """What is in memory never passes this program, and is counted all the same."""
        held = self.held(LARGE + 7)
        request = self.add(frames(b"before"))
        request = self.add(Content(held, LARGE + 7))
        self.add(frames(b"after"))
        self.queue.flush()

        self.assertTrue(self.written().count(self.content) == 1)
        self.assertEqual(LARGE + 7, sum(self.transport.by_system))
        self.assertEqual(LARGE + 7, request.sent)
        self.assertEqual(len(self.written()), self.queue.sent)
        self.assertEqual(3, len(self.finished))
        self.assertTrue(self.closed(held))
        self.assertTrue(self.queue.idle)

    def test_what_is_read_instead(self) -> None:
        """Small files, other sources' objects, and transports that take no files."""
        for size, memory, able in [
            (LARGE - 1, False, True),
            (LARGE, True, True),
            (LARGE, False, False),
        ]:
            self.again()
            if not able:
                self.queue.send_file = None
            held: Any = file(size) if memory else self.held(size)
            self.add(Content(held, size))
            self.drain()

            self.assertEqual([], self.transport.by_system)
            self.assertTrue(self.written() == file(size).content)

    @settings(max_examples=60, deadline=None)
    @given(
        size=st.integers(LARGE, LARGE * 3),
        rooms=st.lists(st.integers(0, 2 * CHUNK), max_size=30),
        found=st.lists(st.integers(0, CHUNK), max_size=40),
    )
    def test_whatever_is_in_memory(
        self, size: int, rooms: list[int], found: list[int]
    ) -> None:
        """However much of it is in memory, and however much the peer takes at a time,
        what leaves is the file."""
        self.again()
        held = self.held(size)
        self.transport.rooms = list(rooms)
        known = list(found)

        def in_memory(descriptor: int, offset: int, size: int) -> int:
            return min(known.pop(0), size) if known else size

        with mock.patch.object(posix, "in_memory", in_memory):
            request = self.add(Content(held, size))
            self.drain()

        self.assertTrue(self.written() == self.content)
        self.assertEqual((size, size), (request.sent, self.queue.sent))
        self.assertEqual([], self.hung_up)
        self.assertTrue(self.closed(held))

    def test_not_in_memory(self) -> None:
        """What the system would have to wait for is read in the pool for the disk."""
        held = self.held(LARGE)
        with (
            mock.patch.object(posix, "in_memory", lambda *_: 0),
            mock.patch.object(posix, "read_cached", lambda *_: None),
        ):
            self.add(Content(held, LARGE))
            self.assertEqual([], self.transport.writes)
            self.drain()

        self.assertEqual([], self.transport.by_system)
        self.assertEqual(-(-LARGE // CHUNK), self.pool.asked)
        self.assertTrue(self.written() == self.content)

    def test_what_was_found_is_not_asked_for_again(self) -> None:
        """A peer that takes little at a time costs no more looking."""
        held = self.held(LARGE)
        self.transport.rooms = [10, 0] * 20
        asked = []

        def in_memory(descriptor: int, offset: int, size: int) -> int:
            asked.append(offset)
            return size

        with mock.patch.object(posix, "in_memory", in_memory):
            self.add(Content(held, LARGE))
            self.drain()

        self.assertEqual(list(range(0, LARGE, CHUNK)), asked)
        self.assertTrue(self.written() == self.content)

    def test_others_have_their_turn(self) -> None:
        """A peer that takes everything gets a megabyte, then the reactor turns."""
        held = self.held(3_000_000)
        self.add(Content(held, 3_000_000))

        self.assertLess(len(self.written()), 1_100_000)
        self.assertEqual(1, len(self.turns))
        self.drain()
        self.assertTrue(self.written() == self.content)

    def broken(self, held: HeldFile, why: str) -> None:
        """The connection is closed for *why*, and nothing is kept."""
        self.drain()
        self.assertEqual(1, len(self.hung_up), self.hung_up)
        self.assertIn(why, self.hung_up[0])
        self.assertEqual(1, len(self.finished))
        self.assertIsInstance(self.finished[0][1], HangUp)
        self.assertTrue(self.closed(held))

    def test_changed(self) -> None:
        """A file that is written to keeps its last bytes, wherever it had been."""
        held = self.held(LARGE)
        self.transport.rooms = [10, 0]
        self.add(Content(held, LARGE))
        with self.path.open("r+b") as file:
            file.write(b"x")
        os.utime(self.path, (1, 1))

        self.broken(held, "changed while it was being sent")
        self.assertLess(len(self.written()), LARGE)

    def test_too_short(self) -> None:
        """Fewer bytes than announced are never made up for, found out before or by
        the system."""
        # Behind the end there is nothing in memory, but it may have been there.
        for found in (0, 5):
            self.again()
            held = self.held(LARGE)
            self.transport.rooms = [CHUNK, 0]
            self.add(Content(held, LARGE))
            os.truncate(self.path, CHUNK)
            with mock.patch.object(posix, "in_memory", return_value=found):
                self.broken(held, f"ends {LARGE - CHUNK} bytes too early")
            self.assertEqual(CHUNK, len(self.written()))

    def test_not_fit(self) -> None:
        """What the system cannot send by itself is read."""
        for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            self.again()
            held = self.held(LARGE)
            self.transport.error = OSError(number, os.strerror(number))
            self.add(Content(held, LARGE))
            self.drain()

            self.assertTrue(self.written() == self.content)
            self.assertEqual([], self.hung_up)

    def test_not_readable(self) -> None:
        """A failing disk ends the connection, whoever met with it."""
        error = OSError(errno.EIO, os.strerror(errno.EIO))
        for where in ("sending", "looking"):
            self.again()
            held = self.held(LARGE)
            if where == "sending":
                self.transport.error = error
                self.add(Content(held, LARGE))
            else:
                with mock.patch.object(posix, "in_memory", side_effect=error):
                    self.add(Content(held, LARGE))

            self.broken(held, "Input/output error")

    def test_a_connection_that_is_ending(self) -> None:
        """The queue waits to be told, and then lets go."""
        held = self.held(LARGE)
        self.transport.ended = True
        self.add(Content(held, LARGE))
        self.assertFalse(self.queue.idle)
        self.queue.stop()
        self.drain()

        self.assertTrue(self.closed(held))
        self.assertEqual(([], []), (self.finished, self.hung_up))

    def test_stopped_while_the_disk_is_read(self) -> None:
        """What comes from the disk later is for nobody."""
        held = self.held(LARGE)
        with (
            mock.patch.object(posix, "in_memory", lambda *_: 0),
            mock.patch.object(posix, "read_cached", lambda *_: None),
        ):
            self.add(Content(held, LARGE))
            self.queue.stop()
            done, _, _ = self.pool.waiting.pop()
            done.callback(b"late")

        self.assertEqual([], self.transport.writes)
        self.assertEqual(([], []), (self.finished, self.hung_up))


@implementer(IPushProducer)
class Serving(Session):
    """
    A session that sends files.
    """

    queue: AnswerQueue

    def pauseProducing(self) -> None:
        self.queue.pause()

    def resumeProducing(self) -> None:
        self.queue.resume()

    def stopProducing(self) -> None:
        pass


class SocketTests(FileCase):
    """
    On a real socket.
    """

    def test_on_a_socket(self) -> None:
        """A file of megabytes between frames arrives as it is, without passing this
        program."""
        session = Serving()
        link: Any = DescriptorLink(session)
        self.addCleanup(link.close)
        link.start()
        link.transport.registerProducer(session, True)
        self.queue = session.queue = AnswerQueue(
            link.transport,
            lambda call: link.reactor.callLater(0, call),
            262_144,
            10,
            self.failed,
            lambda request, reply: self.finished.append((request, reply)),
            self.hung_up.append,
            self.told_ready,
        )
        size = 5_000_000
        held = self.held(size)
        with mock.patch.object(posix, "read_cached") as read:
            self.add(frames(b"before"))
            self.add(Content(held, size))
            self.add(frames(b"after"))
            self.queue.flush()
            link.pump(turns=3000)

        self.assertEqual(3, len(self.finished))
        self.assertTrue(self.content in bytes(link.taken))
        self.assertTrue(link.taken.startswith(b"t 6\0"))
        self.assertTrue(link.taken.endswith(b"after"))
        self.assertEqual(len(link.taken), self.queue.sent)
        self.assertEqual([], read.mock_calls)


class InMemoryTests(SynchronousTestCase):
    """
    Finding out what is in memory.
    """

    def open(self, size: int) -> int:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        self.addCleanup(file.close)
        file.write(b"x" * size)
        file.flush()
        return file.fileno()

    def test_what_was_just_written(self) -> None:
        """It is there, as far as there is a file."""
        descriptor = self.open(200_000)
        if posix.read_cached(descriptor, 0, 200_000) is None:
            raise SkipTest("this file system cannot tell")
        for offset, size, expected in [
            (0, 1, 1),
            (0, 200_000, 200_000),
            (199_999, 5, 1),
            (200_000, 5, 0),
            (0, 900_000, 200_000),
            (70_000, 100_000, 100_000),
        ]:
            self.assertEqual(
                expected, posix.in_memory(descriptor, offset, size), (offset, size)
            )

    def test_read_in_pieces(self) -> None:
        """What is in memory is read without waiting, 64 KiB at the most at a time."""
        descriptor = self.open(200_000)
        if posix.read_cached(descriptor, 0, 200_000) is None:
            raise SkipTest("this file system cannot tell")
        for offset, size, expected in [
            (0, 65_536, 65_536),
            (0, 65_537, 65_536),
            (150_000, 200_000, 50_000),
            (200_000, 1, 0),
        ]:
            found = posix.read_cached(descriptor, offset, size)

            self.assertEqual(b"x" * expected, found)

    def test_what_is_not(self) -> None:
        """It ends where the system would wait, or where it cannot tell."""
        descriptor = self.open(200_000)
        for number in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            error = OSError(number, os.strerror(number))
            for found, expected in [([], 0), ([65_536], 65_536), ([5], 5)]:
                with (
                    mock.patch.object(posix, "_NOWAIT", 8),
                    mock.patch.object(posix, "_is_in_memory", return_value=False),
                    mock.patch.object(os, "preadv", side_effect=[*found, error]),
                ):
                    ready = posix.in_memory(descriptor, 0, 100_000)
                self.assertEqual(expected, ready)
        with mock.patch.object(posix, "_NOWAIT", None):
            self.assertEqual(0, posix.in_memory(descriptor, 0, 100_000))

    def test_what_the_system_has_counted(self) -> None:
        """A byte here and there is read of what is said to be in memory, and all of
        it when one of them is not, when too little is, and when nothing is said."""
        size = 300_000
        descriptor = self.open(size)
        page = os.sysconf("SC_PAGE_SIZE")
        pages = -(-size // page)
        late = BlockingIOError(errno.EAGAIN, "not yet")
        whole = [65_536] * 4 + [size - 4 * 65_536]
        few = [131_071, 262_143, size - 1]
        every = list(range(0, size, 65_536))
        for told, read, expected in [
            (pages, [1, 1, 1], few),
            (pages, [1, late, *whole], [*few[:2], *every]),
            (pages, [1, 0, *whole], [*few[:2], *every]),
            (pages - 1, whole, every),
            (None, whole, every),
        ]:
            counted = None if told is None else mock.Mock(return_value=told)
            with (
                mock.patch.object(posix, "_NOWAIT", 8),
                mock.patch.object(posix, "_pages_in_memory", return_value=counted),
                mock.patch.object(os, "preadv", side_effect=read) as preadv,
            ):
                self.assertEqual(size, posix.in_memory(descriptor, 0, size))
            asked = [call.args[2] for call in preadv.mock_calls]

            self.assertEqual(expected, asked)

    def test_what_the_system_counts(self) -> None:
        """Pages from the first to the last byte, or it says nothing."""
        size = 300_000
        descriptor = self.open(size)
        counted = posix._pages_in_memory()
        if counted is None or not counted(descriptor, 0, size):
            raise SkipTest("this system cannot tell")
        page = os.sysconf("SC_PAGE_SIZE")
        for offset, length in [(0, size), (1, page), (page, page), (5, 200_000)]:
            expected = (offset + length - 1) // page - offset // page + 1
            self.assertEqual(expected, counted(descriptor, offset, length))
        self.assertEqual(0, counted(-1, 0, size))

    def test_what_fails(self) -> None:
        """A failing disk is told of."""
        descriptor = self.open(10)
        error = OSError(errno.EIO, os.strerror(errno.EIO))
        with (
            mock.patch.object(os, "preadv", side_effect=error),
            mock.patch.object(posix, "_NOWAIT", 8),
            self.assertRaises(OSError),
        ):
            posix.in_memory(descriptor, 0, 10)
