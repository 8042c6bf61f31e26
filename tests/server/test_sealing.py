# SPDX-License-Identifier: MIT
"""
Answers that are encrypted while they leave.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.server.answers import AnswerQueue
from nodecomm.server.pools import InlinePool
from nodecomm.server.replies import Content, HangUp, Listing, Packets
from nodecomm.server.sealing import Sealer
from nodecomm.wire.cipher import BLOCK, SessionCipher
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from nodecomm.wire.replies import ListingParser, encode_listing
from tests.server.pools import HandPool
from tests.server.test_answers import Asked, Held, QueueCase, file, frames

KEY = bytes(range(16))

#: Bytes of a file in memory: parts of two blocks.
CHUNK = 4 * BLOCK
PART = 2 * BLOCK


class CipherPool(HandPool):
    """
    Sees to it that no cipher is used twice at the same time.
    """

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Keep it."""
        (cipher,) = args
        assert isinstance(cipher, SessionCipher)
        assert all(cipher is not other for _, _, (other,) in self.waiting)
        return super().run(work, *args)


@define(eq=False)
class Drip(Held):
    """
    A file that gives less than asked for, now and later.
    """

    step: int = 1000

    def read(self, offset: int, size: int) -> Any:
        return super().read(offset, min(size, self.step))


class SealCase(QueueCase):
    """
    A queue above a transport that only keeps what is written.
    """

    def setUp(self) -> None:
        super().setUp()
        self.seal = SessionCipher(KEY)
        self.again()

    def again(self, pool: Any = None, chunk: int = CHUNK) -> None:
        """Begin anew."""
        self.transport, _ = self.make()
        self.pool = CipherPool() if pool is None else pool
        self.queue = self.transport.queue = AnswerQueue(
            cast(Any, self.transport),
            self.turns.append,
            chunk,
            100,
            self.failed,
            lambda request, reply: self.finished.append((request, reply)),
            self.hung_up.append,
            self.told_ready,
            None if pool is False else self.pool,
        )

    def add(self, reply: Any, queue: AnswerQueue | None = None) -> Asked:
        request = Asked()
        request.seal = self.seal
        (self.queue if queue is None else queue).add(cast(Any, request), reply)
        return request

    def drain(self) -> None:
        """Let everything happen that can."""
        while True:
            if self.turns:
                self.turns.pop(0)()
            elif self.pool and getattr(self.pool, "waiting", ()):
                self.pool.work()
            elif self.queue.paused:
                self.queue.resume()
            else:
                break
        self.queue.flush()

    def frames_written(self) -> list[Any]:
        """The frames that left."""
        buffer = TransactionBuffer()
        buffer.feed(self.written())
        found = []
        while (part := buffer.next_transaction()) is not None:
            found.append(part)
        self.assertEqual(0, len(buffer))
        return found

    def opened(self) -> bytes:
        """What the frames that left hold."""
        cipher = SessionCipher(KEY)
        found = self.frames_written()
        self.assertEqual(
            [True] * (len(found) - 1) + [False], [part.more for part in found]
        )
        return b"".join(cipher.decrypt(part.payload) for part in found)


class ContentTests(SealCase):
    """
    A file.
    """

    def test_sizes(self) -> None:
        """Blocks of 4064 bytes, encrypted alone; the last ends the message, and an
        empty file is a message as well."""
        for size, expected in [
            (0, [8]),
            (1, [8]),
            (8, [16]),
            (BLOCK - 1, [BLOCK]),
            (BLOCK, [BLOCK + 8]),
            (BLOCK + 1, [BLOCK + 8, 8]),
            (2 * BLOCK, [BLOCK + 8] * 2),
            (2 * BLOCK + 1, [BLOCK + 8] * 2 + [8]),
            (4 * BLOCK, [BLOCK + 8] * 4),
            (9 * BLOCK + 5, [BLOCK + 8] * 9 + [8]),
        ]:
            self.again()
            held = file(size)
            request = self.add(Content(held, size))
            self.drain()

            self.assertEqual(
                expected, [len(part.payload) for part in self.frames_written()], size
            )
            self.assertTrue(self.opened() == held.content)
            self.assertEqual(len(self.written()), request.sent)
            self.assertEqual(len(self.written()), self.queue.sent)
            self.assertEqual(1, held.closed)
            self.assertEqual(1, len(self.finished))
            self.assertTrue(self.queue.idle)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_whatever_finishes_first(self, data: st.DataObject) -> None:
        """Parts leave in order, whichever is encrypted first, however reads come, and
        whenever the transport pauses; never are more than two of them about."""
        chunk = data.draw(st.sampled_from([CHUNK, 16_384, 5 * CHUNK]))
        self.again(chunk=chunk)
        size = data.draw(st.integers(0, 12 * BLOCK))
        later = data.draw(st.booleans())
        content = os.urandom(size)
        held = Drip(
            b"/file",
            content,
            later=later,
            step=data.draw(st.sampled_from([chunk, 1000, BLOCK])),
        )
        self.transport.pause_after = sorted(
            data.draw(st.lists(st.integers(1, 9), max_size=3, unique=True))
        )
        self.add(Content(held, size))
        self.add(frames(b"behind"))
        while len(self.finished) < 2:
            self.assertLessEqual(len(self.pool.waiting), 2)
            self.assertLessEqual(len(held.waiting), 1)
            choice = data.draw(st.integers(0, 3))
            if choice == 0 and held.waiting:
                held.give()
            elif choice == 1 and self.pool.waiting:
                self.pool.work()
            elif choice == 2 and len(self.pool.waiting) > 1:
                self.pool.waiting.reverse()
            elif choice == 3:
                self.queue.resume()
                self.run_turns()
        self.queue.flush()

        behind = encode_transaction(b"behind")
        self.assertTrue(self.written().endswith(behind))
        expected = SessionCipher(KEY).encrypt_blocks(content, last=True)
        self.assertTrue(self.written() == expected + behind)
        self.assertEqual(([], 1), (self.hung_up, held.closed))

    def test_the_next_part_is_made_meanwhile(self) -> None:
        """Two parts are encrypted at a time, and no more are read."""
        held = file(10 * PART)
        self.add(Content(held, 10 * PART))
        self.assertEqual((2, []), (len(self.pool.waiting), self.transport.writes))
        self.pool.work()

        self.assertEqual((2, 1), (len(self.pool.waiting), len(self.transport.writes)))
        self.queue.pause()
        self.pool.work(2)
        self.assertEqual((0, 1), (len(self.pool.waiting), len(self.transport.writes)))
        self.assertEqual(3, self.pool.asked)

    def test_little_is_encrypted_at_once(self) -> None:
        """Going to a thread would take longer."""
        for size, asked in [(2 * BLOCK, 0), (2 * BLOCK + 1, 2)]:
            self.again()
            self.add(Content(file(size), size))
            self.drain()

            self.assertEqual(asked, self.pool.asked)

    def test_without_threads(self) -> None:
        """It is all done at once where there is no pool, or one that does it so."""
        for pool in (False, InlinePool()):
            self.again(pool)
            held = file(700_000)
            self.add(Content(held, 700_000))
            self.drain()

            self.assertTrue(self.opened() == held.content)

    def test_two_ciphers_are_enough(self) -> None:
        """A connection makes no more of them, whatever it is asked for."""
        for _ in range(3):
            self.add(Content(file(20 * BLOCK), 20 * BLOCK))
        used: set[int] = set()
        while self.pool.waiting:
            used.update(id(cipher) for _, _, (cipher,) in self.pool.waiting)
            self.pool.work()

        self.assertEqual(2, len(used))
        self.assertNotIn(id(self.seal), used)

    def broken(self, request: Asked, held: Held, why: str) -> None:
        """The connection is closed for *why*, and nothing is kept or sent later."""
        self.assertEqual(1, len(self.hung_up), self.hung_up)
        self.assertIn(why, self.hung_up[0])
        self.assertEqual([request], [one for one, _ in self.finished])
        self.assertIsInstance(self.finished[0][1], HangUp)
        self.assertEqual(1, held.closed)
        before = len(self.transport.writes)
        self.drain()
        self.assertEqual(before, len(self.transport.writes))

    def test_changed(self) -> None:
        """A file that was written to keeps its last part; also where that cannot be
        found out."""
        for size in (0, 5, 2 * PART, 2 * PART + 1):
            for changed, why in [
                (True, "changed while it was being sent"),
                (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
            ]:
                self.again()
                held = file(size, changed=changed)
                request = self.add(Content(held, size))
                while self.pool.waiting:
                    self.pool.work()

                self.broken(request, held, why)
                left = sum(len(part.payload) for part in self.frames_written())
                self.assertEqual(max(0, size - 1) // PART * 2 * (BLOCK + 8), left)

    def test_too_short(self) -> None:
        """Fewer bytes than announced are never made up for."""
        for later in (False, True):
            self.again()
            held = file(PART + 10, later=later)
            request = self.add(Content(held, PART + 12))
            while held.waiting:
                held.give()

            self.broken(request, held, "ends 2 bytes too early")

    def test_a_source_that_gives_too_much(self) -> None:
        """Never more than announced."""
        held = file(10, more=b"more than was asked for")
        self.add(Content(held, 10))

        self.assertTrue(self.opened() == held.content)

    def test_a_read_that_fails(self) -> None:
        """At once or later."""
        for later in (False, True):
            self.again()
            held = file(4 * PART, later=later)
            error = OSError(errno.EIO, "Input/output error")
            if not later:
                held.error = error
            request = self.add(Content(held, 4 * PART))
            if later:
                held.give()
                held.waiting.pop(0)[0].errback(error)

            self.broken(request, held, "Input/output error")

    def test_no_room_in_the_pool(self) -> None:
        """A pool that has too much to do ends the connection."""
        self.again(CipherPool(queue=1))
        held = file(4 * PART)
        request = self.add(Content(held, 4 * PART))

        self.broken(request, held, "no room")

    def test_encrypting_fails(self) -> None:
        """Whatever the reason, nothing of it leaves."""
        held = file(4 * PART)
        request = self.add(Content(held, 4 * PART))
        done, _, _ = self.pool.waiting.pop(0)
        done.errback(MemoryError("out of memory"))

        self.broken(request, held, "cannot be encrypted: out of memory")
        self.assertEqual([], self.transport.writes)

    def test_stopped(self) -> None:
        """When the connection dies, what is being read or encrypted is for nobody,
        failed or not."""
        for failing in (False, True):
            for reading in (False, True):
                self.again()
                held = file(4 * PART, later=reading)
                self.add(Content(held, 4 * PART))
                self.queue.stop()
                self.assertEqual(1, held.closed)
                for done, _, _ in self.pool.waiting + held.waiting:
                    if failing:
                        done.errback(OSError(errno.EIO, "Input/output error"))
                    else:
                        done.callback(b"late")
                self.pool.waiting.clear()
                held.waiting.clear()
                self.drain()

                self.assertEqual([], self.transport.writes)
                self.assertEqual(([], []), (self.finished, self.hung_up))
                self.assertEqual(0, self.pool.asked if reading else 0)

    def test_others_have_their_turn(self) -> None:
        """A peer that takes everything gets a megabyte, then the reactor turns."""
        self.again(False, 262_144)
        held = file(3_000_000)
        self.add(Content(held, 3_000_000))

        self.assertLess(len(self.written()), 1_300_000)
        self.assertEqual(1, len(self.turns))
        self.drain()
        self.assertTrue(self.opened() == held.content)

    def test_ready_while_others_have_their_turn(self) -> None:
        """A part that is ready then waits for the turn, and is not sent twice."""
        self.again(chunk=600 * BLOCK)
        held = file(1000 * BLOCK)
        self.add(Content(held, 1000 * BLOCK))
        self.pool.work()
        before = len(self.transport.writes)
        self.assertEqual((1, 1), (before, len(self.turns)))
        self.pool.work(len(self.pool.waiting))
        self.assertEqual(before, len(self.transport.writes))
        self.drain()

        self.assertTrue(self.opened() == held.content)

    def test_new_key(self) -> None:
        """What is encrypted with another key is not mixed up with the first."""
        self.add(Content(file(10 * BLOCK), 10 * BLOCK))
        self.drain()
        before = len(self.transport.writes)
        self.seal = SessionCipher(bytes(16))
        held = file(10 * BLOCK)
        self.add(Content(held, 10 * BLOCK))
        self.drain()

        assert held.content is not None
        expected = SessionCipher(bytes(16)).encrypt_blocks(held.content, last=True)
        self.assertTrue(b"".join(self.transport.writes[before:]) == expected)


class ListingTests(SealCase):
    """
    The names in a folder.
    """

    def listed(self) -> list[bytes]:
        """The names that left."""
        cipher = SessionCipher(KEY)
        parser = ListingParser()
        names: list[bytes] = []
        for part in self.frames_written():
            names += parser.feed(cipher.decrypt(part.payload), more=part.more)
        return names

    def test_names(self) -> None:
        """Each packet is encrypted by itself; only many of them go to a thread."""
        for count, asked in [(0, 0), (30, 0), (1500, 1), (30_000, 3)]:
            self.again()
            names = [b"name-%05d" % number for number in range(count)]
            request = self.add(Packets(encode_listing(names)))
            self.drain()

            self.assertEqual(names, self.listed())
            self.assertEqual(asked, self.pool.asked)
            self.assertEqual(len(self.written()), request.sent)
            self.assertEqual(1, len(self.finished))

    def test_folder(self) -> None:
        """A folder whose names are read when it is their turn is encrypted, too."""
        names = [b"name-%05d" % number for number in range(2000)]
        held = Held(b"/folder", None, names)
        self.add(Listing(held))
        self.drain()

        self.assertEqual([b".", b"..", *names], self.listed())
        self.assertEqual(1, held.closed)

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(1, 4087), max_size=80),
        st.lists(st.integers(1, 9), max_size=3, unique=True),
        st.booleans(),
    )
    def test_any_packets(
        self, sizes: list[int], pauses: list[int], threads: bool
    ) -> None:
        """Whatever a command lists leaves in order, in writes of whole frames, with
        what follows behind it."""
        self.again(None if threads else False)
        self.transport.pause_after = sorted(pauses)
        clear = [bytes([size % 256]) * size for size in sizes]
        self.add(Packets(encode_transaction(text, more=True) for text in clear))
        self.add(frames(b"behind"))
        self.drain()

        cipher = SessionCipher(KEY)
        *found, behind = self.frames_written()
        self.assertEqual(clear, [cipher.decrypt(part.payload) for part in found])
        self.assertTrue(all(part.more for part in found))
        self.assertEqual((b"behind", False), (behind.payload, behind.more))
        for write in self.transport.writes:
            buffer = TransactionBuffer()
            buffer.feed(write)
            while buffer.next_transaction() is not None:
                pass
            self.assertEqual(0, len(buffer))

    def failing(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield encode_transaction(b"name", more=True)
        raise ValueError("bad name")

    def test_failing(self) -> None:
        """What cannot be listed, or has no room when it is encrypted, or no room in
        the pool, ends the connection."""
        full = encode_transaction(b"x" * 4088, more=True)
        for packets, room, why in [
            (self.failing(0), 9, "bad name"),
            (self.failing(50), 9, "bad name"),
            (iter([full]), 9, "payload length"),
            (iter([full] * 20), 9, "payload length"),
            (iter([encode_transaction(b"x", more=True)] * 20), 0, "no room"),
        ]:
            self.again(CipherPool(queue=room))
            request = self.add(Packets(packets))
            self.drain()

            self.assertEqual(1, len(self.hung_up), why)
            self.assertIn(why, self.hung_up[0])
            self.assertEqual([request], [one for one, _ in self.finished])
            self.assertIsInstance(self.finished[0][1], HangUp)

    def test_failure_that_would_be_an_answer(self) -> None:
        """In the middle of a listing nothing else can be said."""
        self.queue._failed = lambda request, failure: frames(b"refused")
        self.add(Packets(self.failing(50)))
        self.drain()

        self.assertEqual(["the listing broke off"], self.hung_up)
        self.assertNotIn(b"refused", self.written())

    def test_stopped(self) -> None:
        """When the connection dies, what is being encrypted is for nobody."""
        for failing in (False, True):
            self.again()
            self.add(Packets(encode_listing([b"n%05d" % n for n in range(9000)])))
            self.queue.stop()
            done, _, _ = self.pool.waiting.pop()
            if failing:
                done.errback(Failure(MemoryError()))
            else:
                done.callback([b"late"])
            self.drain()

            self.assertEqual([], self.transport.writes)
            self.assertEqual(([], []), (self.finished, self.hung_up))


class SealerTests(SealCase):
    """
    Ciphers for several threads.
    """

    def test_cipher_of_failed_work(self) -> None:
        """A cipher whose work failed in the middle is not used again."""
        pool = CipherPool()
        sealer = Sealer(self.seal, pool)
        used = []

        def fail(cipher: SessionCipher) -> bytes:
            used.append(cipher)
            raise MemoryError

        def encrypt(cipher: SessionCipher) -> bytes:
            used.append(cipher)
            return cipher.encrypt(b"text")

        failed = sealer.run(fail)
        assert isinstance(failed, Deferred)
        pool.work()
        self.failureResultOf(failed, MemoryError)
        for _ in range(2):
            done = sealer.run(encrypt)
            assert isinstance(done, Deferred)
            pool.work()
            expected = SessionCipher(KEY).encrypt(b"text")
            self.assertEqual(expected, self.successResultOf(done))

        self.assertIsNot(used[0], used[1])
        self.assertIs(used[1], used[2])
