# SPDX-License-Identifier: MIT
"""
Encrypted requests without TLS.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from nodecomm.client.classic import ClassicSession
from nodecomm.client.errors import BadAnswer, ConnectionBroken, Refused
from nodecomm.client.sealed_answers import CHUNK, HIGH_WATER, SMALL, THREADS
from nodecomm.client.timeouts import Timeouts
from nodecomm.wire.cipher import BLOCK
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL, encode_listing
from tests.client.classic_scripted import (
    LINK,
    ClassicPeer,
    ClassicPlace,
    HeldPool,
    SessionCase,
)
from tests.client.scripted import HUB, NOW
from tests.client.test_session import GOOD, STATUS

CHANGED = b"BAD: File changed while copying: /x"


def sealed(peer: ClassicPeer, *payloads: bytes, more: bool = False) -> bytes:
    """
    Encrypted frames, the last of them the last unless there are *more*.
    """
    last = len(payloads) - 1
    return b"".join(
        encode_transaction(peer.cipher.encrypt(payload), more=more or at < last)
        for at, payload in enumerate(payloads)
    )


def spoiled(frames: bytes) -> bytes:
    """
    The frames of a file with the end of every whole block changed, each in another
    way: what a single one of them says may look right by chance.
    """
    stream = bytearray(frames)
    for number, at in enumerate(range(BLOCK + 8, len(stream), BLOCK + 16)):
        stream[at] ^= 1 + number
    return bytes(stream)


class SealedTests(SessionCase):
    """
    Encrypted requests.
    """

    def session(self, script: Any, **more: Any) -> tuple[ClassicPlace, ClassicSession]:
        """
        Connect.
        """
        return super().session(script, encrypt=True, **more)

    def fetched(
        self, size: int, *, bytes_sent: Any, **more: Any
    ) -> tuple[ClassicPlace, ClassicSession, Any, list[bytes]]:
        """
        Ask for a file of *size* bytes for which the server sends these bytes.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.send(bytes_sent(peer))
            await peer.request()
            peer.send(GOOD)

        place, session = self.session(script, **more)
        pieces: list[bytes] = []
        return place, session, session.get(b"/f", size, pieces.append), pieces

    def test_requests(self) -> None:
        """
        Each request is in an envelope; names and contents come encrypted, all else
        in clear.
        """
        asked = []

        async def script(peer: ClassicPeer) -> None:
            asked.append(await peer.unsealed())
            peer.answer(*LINK)
            asked.append(await peer.unsealed())
            (listing,) = encode_listing([b"b", b"a"])
            peer.seal(listing[8:])
            asked.append(await peer.unsealed())
            peer.answer(b"CFD_FALSE")
            asked.append(await peer.unsealed())
            peer.seal(b"con", b"tent")
            asked.append(await peer.request())
            peer.answer(b"OK: 3.21.0")

        place, session = self.session(script)
        pieces: list[bytes] = []
        status = session.stat(b"/l")
        names = session.opendir(b"/d")
        differs = session.differs(b"/a-file", b"d" * 16)
        content = session.get(b"/a-file", 7, pieces.append)
        version = session.version_text()

        self.assertEqual(place.result(status).target, b"a.txt")
        self.assertEqual(place.result(names), [b"b", b"a"])
        self.assertFalse(place.result(differs))
        place.result(content)
        self.assertEqual(b"".join(pieces), b"content")
        self.assertEqual(place.result(version), b"3.21.0")
        self.assertEqual(
            asked,
            [
                b"SYNCH %d STAT /l" % NOW,
                b"OPENDIR /d",
                b"MD5 /a-file\0\0" + b"d" * 16,
                b"GET 2048 /a-file",
                b"VERSION",
            ],
        )
        self.assertTrue(session.encrypted)
        self.assertFalse(session.protected)
        self.assertNotIn(b"/a-file", b"".join(place.peer.records))

    def test_names_that_have_no_room(self) -> None:
        """
        A name that no envelope can carry is refused here, and the connection goes on.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.send(GOOD)

        place, session = self.session(script)
        for path in (b"/" + b"x" * 4080, b"/a\nb", b""):
            for deferred in (
                session.stat(path),
                session.opendir(path),
                session.differs(path, b"d" * 16),
                session.get(path, 5, lambda data: None),
            ):
                self.failureResultOf(deferred, LocalProtocolError)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_large_folders(self) -> None:
        """
        A listing of many messages gives every name once.
        """
        names = [b"file%d" % number for number in range(3000)]

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            payloads = [frame[8:] for frame in encode_listing(names)]
            self.assertGreater(len(payloads), 5)
            peer.seal(*payloads)

        place, session = self.session(script)
        self.assertEqual(place.result(session.opendir(b"/d")), names)

    def test_a_name_like_an_error(self) -> None:
        """
        A folder that begins with a file called like an error text is a folder.
        """
        names = [b"BAD: no error", b"a"]

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            (listing,) = encode_listing(names)
            peer.seal(listing[8:])

        place, session = self.session(script)
        self.assertEqual(place.result(session.opendir(b"/d")), names)

    def test_folders_that_are_none(self) -> None:
        """
        The refusal of a folder comes in clear and is the last; that it is none comes
        encrypted, with a NUL, and the connection goes on.
        """
        text = b"BAD: cfengine, couldn't open dir /f"

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.seal(text + b"\0")
            await peer.request()
            peer.answer(REFUSAL)
            await peer.more()

        place, session = self.session(script)
        error = place.failure(session.opendir(b"/f"))
        self.assertEqual((error.code, error.reply), ("error", text))
        names, behind = session.opendir(b"/d"), session.stat(b"/a")
        self.assertEqual(place.failure(names).code, "refused")
        self.assertEqual(place.failure(behind).code, "closed")

    def test_sizes(self) -> None:
        """
        Contents of every size that is special arrive whole, however large the
        messages are, and the next answer behind them.
        """
        sizes = [1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1]
        for blocks in (SMALL, SMALL + 1, CHUNK, CHUNK + SMALL, 3 * CHUNK):
            sizes += [blocks * BLOCK - 1, blocks * BLOCK, blocks * BLOCK + 1]
        for size in sizes:
            data = os.urandom(size)

            def sent(peer: ClassicPeer, data: bytes = data) -> bytes:
                return peer.cipher.encrypt_blocks(data, last=True)

            place, session, got, pieces = self.fetched(size, bytes_sent=sent)
            behind = session.stat(b"/a")
            place.result(got)
            self.assertEqual(b"".join(pieces), data)
            self.assertEqual(place.result(behind), STATUS)
            self.assertNotIn(b"", pieces)

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(1, 4087), max_size=40),
        st.integers(0, 4087),
        st.lists(st.integers(1, 9000), max_size=20),
        st.lists(st.integers(0, 5), max_size=40),
        st.booleans(),
    )
    def test_any_split(
        self,
        blocks: list[int],
        last: int,
        cuts: list[int],
        turns: list[int],
        paused: bool,
    ) -> None:
        """
        It does not matter how large the messages are, how the bytes are cut, and in
        which order the threads are done.
        """
        blocks = [*blocks * 4, last]
        data = os.urandom(sum(blocks))
        pool = HeldPool()

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            at, payloads = 0, []
            for size in blocks:
                payloads.append(data[at : at + size])
                at += size
            stream = sealed(peer, *payloads)
            for cut in cuts:
                peer.send(stream[:cut])
                stream = stream[cut:]
                await peer.sleep(0.001)
            peer.send(stream)
            await peer.request()
            peer.send(GOOD)

        async def greeting(peer: ClassicPeer) -> None:
            await peer.greet()
            await script(peer)

        place = ClassicPlace(greeting, encrypt=True, pool=pool)
        connecting = place.dialer.connect(HUB)
        place.network.pump()
        pool.finish()
        session = place.result(connecting)
        pieces: list[bytes] = []
        # What is empty is not asked for; here it is, by the other half.
        got = session.get(b"/f", len(data) or 1, pieces.append)
        behind = session.stat(b"/a")
        if paused:
            session.pause()
        for turn in [*turns, *[0] * len(blocks)]:
            place.network.advance(0.01)
            if pool.held:
                pool.finish(turn % len(pool.held))
        place.network.advance(1)
        if paused:
            self.assertEqual(pieces, [])
            session.resume()
            while not got.called:
                place.network.advance(0.01)
                while pool.held:
                    pool.finish()
        if not data:
            for asked in (got, behind):
                self.assertEqual(place.failure(asked).code, "changed")
            return
        place.result(got)
        self.assertEqual(b"".join(pieces), data)
        self.assertEqual(place.result(behind), STATUS)

    def test_back_pressure(self) -> None:
        """
        When decrypting does not keep up, nothing more is read, with at most as many
        threads busy as one connection may have; that is no silence of the server.
        """
        data = bytes(BLOCK * CHUNK * 20)
        pool = HeldPool()

        async def script(peer: ClassicPeer) -> None:
            await peer.greet()
            await peer.request()
            stream = peer.cipher.encrypt_blocks(data, last=True)
            for at in range(0, len(stream), 50_000):
                peer.send(stream[at : at + 50_000])

        place = ClassicPlace(
            script, encrypt=True, pool=pool, timeouts=Timeouts(answer=5, slow=5)
        )
        connecting = place.dialer.connect(HUB)
        place.network.pump()
        pool.finish()
        session = place.result(connecting)
        got = 0

        def sink(piece: bytes) -> None:
            nonlocal got
            got += len(piece)

        fetching = session.get(b"/f", len(data), sink)
        place.network.advance(60)
        self.assertEqual(len(pool.held), THREADS)
        self.assertLess(session.bytes_received, HIGH_WATER + 500_000)
        before = session.bytes_received
        # The second is done before the first: nothing can be passed on.
        pool.finish(1)
        place.network.advance(60)
        self.assertEqual((got, session.bytes_received), (0, before))
        while pool.held:
            pool.finish()
            place.network.pump()
            self.assertLess(session.bytes_received - got, HIGH_WATER + 500_000)
        place.result(fetching)
        self.assertEqual(got, len(data))

    def test_pausing_under_back_pressure(self) -> None:
        """
        A pause and too much to decrypt are told apart: reading goes on when neither
        is there any more.
        """
        data = bytes(BLOCK * CHUNK * 12)
        pool = HeldPool()

        async def script(peer: ClassicPeer) -> None:
            await peer.greet()
            await peer.request()
            peer.send(peer.cipher.encrypt_blocks(data, last=True))

        place = ClassicPlace(script, encrypt=True, pool=pool)
        connecting = place.dialer.connect(HUB)
        place.network.pump()
        pool.finish()
        session = place.result(connecting)
        pieces: list[bytes] = []
        fetching = session.get(b"/f", len(data), pieces.append)
        place.network.pump()
        session.pause()
        for _ in range(50):
            while pool.held:
                pool.finish()
            place.network.pump()
        self.assertEqual(pieces, [])
        session.resume()
        for _ in range(50):
            place.network.pump()
            while pool.held:
                pool.finish()
        place.result(fetching)
        self.assertEqual(b"".join(pieces), data)

    def test_an_empty_file(self) -> None:
        """
        Of an empty file nothing is asked: the real server would answer with whatever
        was in its memory.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            peer.send(GOOD)

        place, session = self.session(script)
        got = session.get(b"/f", 0, lambda data: None)
        place.result(got)
        self.assertEqual(session.requests, 0)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_a_refused_file(self) -> None:
        """
        The refusal of a content is the last word of the connection, also when it is
        said twice.
        """
        refusal = encode_transaction(REFUSAL)
        for times in (1, 2):
            place, session, got, pieces = self.fetched(
                10, bytes_sent=lambda peer, times=times: refusal * times
            )
            behind = session.stat(b"/a")
            error = place.failure(got)
            self.assertEqual((type(error), error.code), (Refused, "refused"))
            error = place.failure(behind)
            self.assertEqual((type(error), error.code), (ConnectionBroken, "closed"))
            self.assertEqual(pieces, [])

    def test_a_broken_transfer(self) -> None:
        """
        A file that changed, is shorter or longer than it was said to be, or cannot
        be decrypted, is none; nothing that follows is believed.
        """
        even = CHANGED + b"x" * (8 - len(CHANGED) % 8)
        size = 20_000
        data = os.urandom(size)
        clear = encode_transaction

        def first(peer: ClassicPeer) -> bytes:
            return sealed(peer, data[:900], more=True)

        def damaged(peer: ClassicPeer) -> bytes:
            return spoiled(peer.cipher.encrypt_blocks(data, last=True))

        def random(peer: ClassicPeer) -> bytes:
            return b"".join(
                clear(bytes([number]) * 16, more=number < 4) for number in range(5)
            )

        cases: list[tuple[Any, str]] = [
            (lambda peer: clear(CHANGED), "changed"),
            (lambda peer: clear(even), "changed"),
            (
                lambda peer: first(peer) + clear(CHANGED),
                "changed",
            ),
            (lambda peer: first(peer) + clear(even), "changed"),
            (
                lambda peer: first(peer) + clear(REFUSAL),
                "changed",
            ),
            (lambda peer: clear(REFUSAL, more=True), "changed"),
            (lambda peer: sealed(peer, data[:4000]), "changed"),
            (lambda peer: sealed(peer, b""), "changed"),
            (
                lambda peer: peer.cipher.encrypt_blocks(data + b"x", last=True),
                "out-of-step",
            ),
            (
                lambda peer: peer.cipher.encrypt_blocks(data * 50, last=True),
                "out-of-step",
            ),
            (lambda peer: clear(b"7 bytes"), "out-of-step"),
            (random, "out-of-step"),
            (damaged, "out-of-step"),
        ]
        for sent, code in cases:
            place, session, got, pieces = self.fetched(size, bytes_sent=sent)
            behind = session.stat(b"/a")
            for error in (place.failure(got), place.failure(behind)):
                self.assertIsInstance(error, BadAnswer)
                self.assertEqual(error.code, code)
                self.assertIn("/f", str(error))
            self.assertLessEqual(sum(map(len, pieces)), size)
            self.assertTrue(session.closed)

    def test_damage_in_a_large_file(self) -> None:
        """
        What a thread cannot decrypt ends the connection, too.
        """
        data = bytes(BLOCK * CHUNK * 2)

        def damaged(peer: ClassicPeer) -> bytes:
            return spoiled(peer.cipher.encrypt_blocks(data, last=True))

        place, _, got, pieces = self.fetched(len(data), bytes_sent=damaged)
        error = place.failure(got)
        self.assertEqual((type(error), error.code), (BadAnswer, "out-of-step"))
        self.assertEqual(pieces, [])

    def test_messages_that_say_nothing(self) -> None:
        """
        A message without content, behind which more is said to follow, ends the
        connection: of those a server could send any number, and no limit of time
        would see it, as it is not silent.
        """

        def endless(peer: ClassicPeer) -> bytes:
            return sealed(peer, *[b""] * 1000, more=True)

        def among_content(peer: ClassicPeer) -> bytes:
            return sealed(peer, b"x" * 100, b"", more=True) + sealed(
                peer, *[b"x"] * (CHUNK - 2), more=True
            )

        def at_the_end_of_a_chunk(peer: ClassicPeer) -> bytes:
            return sealed(peer, *[b"x"] * (CHUNK - 1), b"", more=True)

        def in_a_short_file(peer: ClassicPeer) -> bytes:
            return sealed(peer, b"", b"x" * 2500, b"x" * 2500)

        for sent in (endless, among_content, at_the_end_of_a_chunk, in_a_short_file):
            place, session, got, pieces = self.fetched(5000, bytes_sent=sent)
            error = place.failure(got)
            self.assertEqual((type(error), error.code), (BadAnswer, "out-of-step"))
            self.assertIn(
                "encrypted message without content: must be the last", str(error)
            )
            self.assertTrue(session.closed)
            self.assertEqual(pieces, [])

    def test_a_thread_that_fails(self) -> None:
        """
        A mistake in a thread ends the connection, and whoever waited gets it.
        """
        data = bytes(BLOCK * CHUNK)

        class Failing(HeldPool):
            """Takes the dialog's work, and no other."""

            used = False

            def run(self, work: Any, *args: Any) -> Deferred[Any]:
                """Once."""
                if self.used:
                    raise ZeroDivisionError("bug")
                self.used = True
                done = super().run(work, *args)
                self.finish()
                return done

        place, session, got, _ = self.fetched(
            len(data),
            bytes_sent=lambda peer: peer.cipher.encrypt_blocks(data, last=True),
            pool=Failing(),
        )
        behind = session.stat(b"/a")
        self.assertIsInstance(place.failure(got), ZeroDivisionError)
        self.assertEqual(place.failure(behind).code, "aborted")

    def test_a_sink_that_fails(self) -> None:
        """
        When the content cannot be put anywhere the connection is dropped.
        """

        def full(data: bytes) -> None:
            raise OSError(28, "No space left on device")

        for size in (100, BLOCK * CHUNK):

            async def script(peer: ClassicPeer, size: int = size) -> None:
                await peer.request()
                peer.send(peer.cipher.encrypt_blocks(bytes(size), last=True))

            place, session = self.session(script)
            got, behind = session.get(b"/f", size, full), session.stat(b"/a")
            self.assertIsInstance(place.failure(got), OSError)
            self.assertEqual(place.failure(behind).code, "aborted")

    def test_a_request_that_is_cancelled(self) -> None:
        """
        A content that nobody wants any more is read and passed over.
        """
        data = os.urandom(5000)
        place, session, got, pieces = self.fetched(
            len(data),
            bytes_sent=lambda peer: peer.cipher.encrypt_blocks(data, last=True),
        )
        behind = session.stat(b"/a")
        place.clock.advance(0)
        got.addErrback(lambda failure: None)
        got.cancel()
        self.assertEqual(place.result(behind), STATUS)
        self.assertEqual(pieces, [])

    def test_lost_while_decrypting(self) -> None:
        """
        What threads finish after the end is of no use to anybody.
        """
        data = bytes(BLOCK * CHUNK * 8)
        pool = HeldPool()

        async def script(peer: ClassicPeer) -> None:
            await peer.greet()
            await peer.request()
            peer.send(peer.cipher.encrypt_blocks(data, last=True))

        place = ClassicPlace(script, encrypt=True, pool=pool)
        connecting = place.dialer.connect(HUB)
        place.network.pump()
        pool.finish()
        session = place.result(connecting)
        pieces: list[bytes] = []
        fetching = session.get(b"/f", len(data), pieces.append)
        place.network.pump()
        place.network.connections[-1].cut()
        self.assertEqual(place.failure(fetching).code, "reset")
        while pool.held:
            pool.finish()
        place.network.advance(10)
        self.assertEqual(pieces, [])

    @settings(max_examples=50, deadline=None)
    @given(st.binary(max_size=300), st.integers(0, 3))
    def test_any_garbage(self, garbage: bytes, kind: int) -> None:
        """
        Whatever comes is an answer or ends the connection.
        """

        async def script(peer: ClassicPeer) -> None:
            await peer.request()
            data = garbage or b"x"
            peer.send(
                [
                    data,
                    encode_transaction(data),
                    sealed(peer, data),
                    encode_transaction(data, more=True),
                ][kind]
            )
            peer.close()

        async def greeting(peer: ClassicPeer) -> None:
            await peer.greet()
            await script(peer)

        for ask in (
            lambda session: session.get(b"/f", 50, lambda data: None),
            lambda session: session.opendir(b"/d"),
            lambda session: session.stat(b"/a"),
        ):
            place = ClassicPlace(greeting, encrypt=True)
            asked = ask(place.connect())
            try:
                place.result(asked)
            except (BadAnswer, Refused, ConnectionBroken):
                continue
