# SPDX-License-Identifier: MIT
"""
A session against a server that does what a script says.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionBroken,
    Refused,
    Rejected,
)
from nodecomm.client.session import ClientSession
from nodecomm.client.stages import Stage
from nodecomm.client.timeouts import Timeouts
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.framing import MAX_RECORD, encode_transaction
from nodecomm.wire.replies import REFUSAL, TERMINATOR, StatReply, encode_listing
from tests.client.scripted import HELLO, NOW, WELCOME, Peer, Place

STATUS = StatReply(0, 0o644, 0, 0, 0, 5, 1, 2, 3, 0, 7, 1, 9)
GOOD = STATUS.encode()


async def welcoming(peer: Peer) -> None:
    """
    A server that answers every STAT and then lists nothing more.
    """
    await peer.greet()
    while True:
        await peer.request()
        peer.send(GOOD)


def answering(*records: bytes, requests: int = 1) -> Any:
    """
    A server that waits for so many requests and then sends these records.
    """

    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(requests):
            await peer.request()
        peer.send(*records)
        await peer.more()

    return script


def _note(_result: object, order: list[int], number: int) -> None:
    order.append(number)


class DialogTests(SynchronousTestCase):
    """
    What happens before the first answer.
    """

    def test_a_session_says_what_it_is(self) -> None:
        """
        Key, version, product and address are those of the server that was called.
        """
        place = Place(welcoming)
        session = place.connect()
        place.result(session.when_welcomed())

        self.assertIs(session.stage, Stage.OPEN)
        self.assertEqual(session.version, 3)
        self.assertEqual(session.product, b"cf-serverd 3.21.0")
        self.assertFalse(session.is_nodecomm)
        self.assertEqual(place.trust.asked, [("hub:5308", session.server_key)])
        self.assertEqual(str(session.server), "hub:5308")
        self.assertIn("welcomed", repr(session))

    def test_lines_and_requests_have_records_of_their_own(self) -> None:
        """
        Nothing stands behind a line of the dialog in its record: real servers read
        until the last byte is a newline.
        """
        place = Place(welcoming)
        session = place.connect()
        place.result(session.stat(b"/a"))

        (peer,) = place.server.peers
        version, identity, request = peer.records
        self.assertTrue(version.startswith(b"CFE_v3 nodecomm-agent "))
        self.assertTrue(version.endswith(b"\n"))
        self.assertEqual(identity, b"IDENTITY USERNAME=root\n")
        self.assertEqual(request, encode_transaction(b"SYNCH %d STAT /a" % NOW))

    def test_requests_do_not_wait_for_the_welcome(self) -> None:
        """
        The requests stand right behind our lines; a round trip is saved.
        """
        seen: list[bytes] = []

        async def script(peer: Peer) -> None:
            peer.send(HELLO)
            await peer.line()
            await peer.line()
            seen.append(await peer.request())
            peer.send(WELCOME + GOOD)
            await peer.more()

        place = Place(script)
        session = place.connect()

        self.assertEqual(place.result(session.stat(b"/a")), STATUS)
        self.assertEqual(len(seen), 1)

    def test_an_older_server_is_asked_in_its_version(self) -> None:
        """
        Never more is asked for than the server announced.
        """

        async def script(peer: Peer) -> None:
            peer.send(b"CFE_v2\n")
            await peer.more()

        place = Place(script)
        session = place.connect()
        place.network.pump()

        self.assertEqual(session.version, 2)
        self.assertTrue(place.server.peers[0].records[0].startswith(b"CFE_v2 "))

    def test_dialogs_that_fail(self) -> None:
        """
        What a server says in the place of its lines ends the connection, with a word
        for what went wrong.
        """
        cases: list[tuple[list[bytes], str]] = [
            ([b"CFE_v1 old\n"], "dialog-failed"),
            ([b"SSH-2.0-OpenSSH\n"], "dialog-failed"),
            ([b"x" * 2000], "dialog-failed"),
            ([HELLO + b"more\n"], "dialog-failed"),
            ([], "not-trusted"),
        ]
        for records, code in cases:

            async def script(peer: Peer, records: list[bytes] = records) -> None:
                peer.send(*records)
                peer.close()

            place = Place(script)
            error = place.refused()

            self.assertIsInstance(error, Rejected, records)
            assert isinstance(error, Rejected)
            self.assertEqual(error.code, code, records)
            self.assertIn("hub:5308", str(error))
            self.assertTrue(place.network.connections[-1].over)

    def test_a_server_that_hangs_up_behind_our_lines(self) -> None:
        """
        It does not trust us: the error names our key and our user, and every request
        gets an error of its own.
        """
        for how in (Peer.close, Peer.abort):

            async def script(peer: Peer, how: Any = how) -> None:
                peer.send(HELLO)
                await peer.line()
                await peer.line()
                how(peer)

            place = Place(script)
            session = place.connect()
            failures = [place.failure(session.stat(b"/a")) for _ in range(3)]
            welcome = place.failure(session.when_welcomed())

            for failure in (*failures, welcome):
                self.assertIsInstance(failure, Rejected)
                self.assertEqual(failure.code, "not-trusted")
                self.assertIn(place.dialer.own_digest, str(failure))
                self.assertIn("root", str(failure))
            self.assertEqual(len({id(failure) for failure in failures}), 3)

    def test_no_welcome(self) -> None:
        """
        A line that is no welcome ends the connection.
        """

        async def script(peer: Peer) -> None:
            peer.send(HELLO)
            await peer.line()
            await peer.line()
            peer.send(b"BAD: go away\n")
            await peer.more()

        place = Place(script)
        session = place.connect()
        waiting = session.when_welcomed()
        failure = place.failure(session.stat(b"/a"))

        self.assertEqual((type(failure), failure.code), (Rejected, "dialog-failed"))
        self.assertEqual(place.failure(waiting).code, "dialog-failed")

    def test_a_silent_server(self) -> None:
        """
        A server that says no line is given up after the dialog's time, not later,
        even when single bytes come.
        """

        async def silent(peer: Peer) -> None:
            await peer.more()

        async def dripping(peer: Peer) -> None:
            while True:
                peer.send(b"C")
                await peer.sleep(5)

        for script in (silent, dripping):
            place = Place(script, timeouts=Timeouts(dialog=20))
            error: Any = place.refused()

            self.assertEqual((type(error), error.code), (Rejected, "dialog-timeout"))
            self.assertLessEqual(place.clock.seconds(), 22)
            self.assertTrue(place.network.connections[-1].over)


class AnswerTests(SynchronousTestCase):
    """
    What answers become.
    """

    def test_every_request(self) -> None:
        """
        Each request has its answer, in order, however they are mixed.
        """
        frames = [
            GOOD,
            b"".join(encode_listing([b".", b"..", b"b", b"a", b"b"])),
            encode_transaction(b"CFD_TRUE"),
            encode_transaction(b"CFD_FALSE"),
            b"hello",
            encode_transaction(b"OK: 3.21.0"),
            encode_transaction(REFUSAL),
        ]
        place = Place(answering(*frames, requests=7))
        session = place.connect()
        pieces: list[bytes] = []
        asked: list[Deferred[Any]] = [
            session.stat(b"/a"),
            session.opendir(b"/"),
            session.differs(b"/a", b"d" * 16),
            session.differs(b"/a", b"d" * 16, 1 << 40),
            session.get(b"/a", 5, pieces.append),
            session.get(b"/empty", 0, pieces.append),
            session.version_text(),
        ]
        refusal = session.stat(b"/none")

        self.assertEqual(
            [place.result(one) for one in asked],
            [STATUS, [b"b", b"a"], True, False, None, None, b"3.21.0"],
        )
        self.assertEqual(b"".join(pieces), b"hello")
        error = place.failure(refusal)
        self.assertEqual((type(error), error.code), (Refused, "refused"))
        self.assertEqual(error.path, b"/none")
        self.assertEqual(session.requests, 7)
        self.assertEqual(session.outstanding, 0)
        self.assertFalse(session.closed)

    def test_refusals(self) -> None:
        """
        A refused request fails alone, with a word for the kind of refusal.
        """
        cases = [
            (REFUSAL, "refused"),
            (b"BAD: Clocks are too far unsynchronized 5/9", "clock"),
            (b"BAD: cfengine, couldn't open dir /x/", "error"),
            (b"BAD: Request denied", "error"),
        ]
        for reply, code in cases:
            place = Place(answering(*[encode_transaction(reply)] * 4, GOOD, requests=5))
            session = place.connect()
            asked: list[Deferred[Any]] = [
                session.stat(b"/x\xff"),
                session.opendir(b"/x\xff"),
                session.differs(b"/x\xff", b"d" * 16),
                session.version_text(),
            ]
            after = session.stat(b"/a")

            for one in asked:
                error = place.failure(one)
                self.assertEqual((type(error), error.code), (Refused, code))
                self.assertEqual(error.reply, reply)
                if one is not asked[-1]:
                    self.assertTrue(str(error).startswith(r"/x\xff: the server says"))
            self.assertEqual(place.result(after), STATUS)

    def test_a_long_refusal(self) -> None:
        """
        The words of a server are cut for people, who may be shown thousands of them
        otherwise; programs have all.
        """
        for size, cut in ((295, False), (296, True), (4000, True)):
            reply = b"BAD: " + b"z" * size
            place = Place(answering(encode_transaction(reply), requests=1))
            error = place.failure(place.connect().stat(b"/x"))
            self.assertEqual(error.reply, reply)
            self.assertLess(len(str(error)), 340)
            self.assertEqual(str(error).endswith("zzz..."), cut)

    def test_names_that_no_request_can_carry(self) -> None:
        """
        They fail at once, without harm to the connection.
        """
        place = Place(welcoming)
        session = place.connect()
        asked: list[Deferred[Any]] = [
            session.stat(b"/a\nb"),
            session.opendir(b""),
            session.get(b"/\0", 5, lambda data: None),
            session.get(b"/\0", 0, lambda data: None),
            session.differs(b"/" + b"x" * 5000, b"d" * 16),
            session.differs(b"/", b"short"),
        ]
        for one in asked:
            self.failureResultOf(one, LocalProtocolError)
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_what_is_no_answer(self) -> None:
        """
        Whatever is not what was asked for ends the connection: the request and those
        behind it fail, nothing more is believed.
        """
        status = b"OK: 0 420 0 0 0 5 1 2 3 0 7 1 9"
        nothing = lambda data: None  # noqa: E731

        def stat(session: ClientSession) -> Deferred[Any]:
            return session.stat(b"/a")

        def opendir(session: ClientSession) -> Deferred[Any]:
            return session.opendir(b"/a", max_names=3)

        def differs(session: ClientSession) -> Deferred[Any]:
            return session.differs(b"/a", b"d" * 16)

        def version(session: ClientSession) -> Deferred[Any]:
            return session.version_text()

        frame = encode_transaction
        end = TERMINATOR + b"\0\0"
        cases: list[tuple[Any, bytes, str]] = [
            (stat, b"x" * 8, "out-of-step"),
            (stat, b"t 0".ljust(8, b"\0"), "out-of-step"),
            (stat, b"t 4089".ljust(8, b"\0"), "out-of-step"),
            (stat, frame(b"CFD_TRUE"), "bad-status"),
            (stat, frame(b"OK: 1 2 3") + frame(b"OK:"), "bad-status"),
            (stat, frame(b"OK: 7" + status[5:]) + frame(b"OK:"), "bad-status"),
            (stat, frame(status) + frame(b"no"), "bad-status"),
            (stat, frame(status, more=True) + frame(b"OK:"), "bad-status"),
            (stat, frame(status) + frame(b"OK:", more=True), "bad-status"),
            (stat, frame(status) + frame(b"OK:target"), "bad-status"),
            (stat, frame(b"BAD: \0"), "bad-status"),
            (opendir, frame(b"a/b\0" + end), "bad-listing"),
            (opendir, frame(b"\0" + end), "bad-listing"),
            (opendir, frame(b"x" * 256 + b"\0" + end), "bad-listing"),
            (opendir, frame(b"a\0" + end, more=True), "bad-listing"),
            (opendir, frame(b"a\0\0"), "bad-listing"),
            (opendir, frame(b"BAD: x", more=True), "bad-listing"),
            (opendir, frame(b"a\0a\0a\0b\0b\0b\0\0", more=True), "too-large"),
            (differs, frame(b"CFD_TRUEX"), "bad-reply"),
            (differs, frame(b"CFD_FALSE", more=True), "bad-reply"),
            (version, frame(b"3.21"), "bad-reply"),
            (version, frame(b"OK: 3.21", more=True), "bad-reply"),
        ]
        for ask, sent, code in cases:
            place = Place(answering(sent, requests=2))
            session = place.connect()
            one, other = ask(session), session.get(b"/b", 9, nothing)
            error = place.failure(one)

            self.assertEqual((type(error), error.code), (BadAnswer, code), sent)
            self.assertIs(type(place.failure(other)), BadAnswer)
            self.assertTrue(session.closed)
            self.assertTrue(place.network.connections[0].over)

    def test_bytes_that_nobody_asked_for(self) -> None:
        """
        Bytes behind the last answer, or before any request, end the connection.
        """

        async def pushy(peer: Peer) -> None:
            await peer.greet()
            peer.send(GOOD)
            await peer.more()

        place = Place(pushy)
        session = place.connect()
        place.network.pump()

        self.assertTrue(session.closed)
        error = self.failureResultOf(session.stat(b"/a"), BadAnswer).value
        assert isinstance(error, BadAnswer)
        self.assertEqual(error.code, "out-of-step")

        place = Place(answering(GOOD + b"t"))
        session = place.connect()
        self.assertEqual(place.result(session.stat(b"/a")), STATUS)
        self.assertTrue(session.closed)

    def test_content_that_is_longer_than_announced(self) -> None:
        """
        The sink never gets more than was asked for; what follows is no answer.
        """
        place = Place(answering(b"hello, world"))
        session = place.connect()
        pieces: list[bytes] = []
        place.result(session.get(b"/a", 5, pieces.append))

        self.assertEqual(pieces, [b"hello"])
        self.assertTrue(session.closed)

    def test_a_sink_that_fails(self) -> None:
        """
        Its request fails with the sink's own error, the connection is dropped.
        """

        def full(data: bytes) -> None:
            raise OSError(28, "no space")

        for records in ([b"hello"], [b"he", b"llo"]):
            place = Place(answering(*records, requests=2))
            session = place.connect()
            one, other = session.get(b"/a", 5, full), session.stat(b"/b")

            self.assertIsInstance(place.failure(one), OSError)
            error = place.failure(other)
            self.assertEqual((type(error), error.code), (ConnectionBroken, "aborted"))

    def test_a_sink_that_ends_the_session(self) -> None:
        """
        Aborting inside a sink is allowed; nothing is delivered afterwards.
        """
        for records in ([b"hello"], [b"he", b"llo"]):
            place = Place(answering(*records))
            session = place.connect()
            pieces: list[bytes] = []

            def sink(
                data: bytes,
                pieces: list[bytes] = pieces,
                session: ClientSession = session,
            ) -> None:
                pieces.append(data)
                session.abort("enough", "enough")

            error = place.failure(session.get(b"/a", 5, sink))

            self.assertEqual((type(error), error.code), (ConnectionBroken, "enough"))
            self.assertEqual(len(pieces), 1)


class PipelineTests(SynchronousTestCase):
    """
    How requests leave.
    """

    def test_one_turn_one_record(self) -> None:
        """
        What is asked in one turn leaves in one record; records have at most 16384
        bytes and never cut a frame.
        """
        place = Place(welcoming)
        session = place.connect()
        session.window = 1000
        path = b"/" + b"x" * 99
        asked = [session.stat(path) for _ in range(300)]
        for one in asked:
            place.result(one)

        frame = encode_transaction(b"SYNCH %d STAT %b" % (NOW, path))
        records = place.server.peers[0].records[2:]
        self.assertEqual(b"".join(records), frame * 300)
        self.assertEqual({len(record) % len(frame) for record in records}, {0})
        full = MAX_RECORD // len(frame)
        self.assertEqual(len(records), -(-300 // full))

    def test_the_window(self) -> None:
        """
        No more requests are out than the window allows; 1 waits for each answer.
        """
        out: list[int] = []

        async def counting(peer: Peer) -> None:
            await peer.greet()
            while True:
                await peer.request()
                await peer.sleep(1)
                peer.answer(b"OK: 1")
                out.append(session.requests)

        for window in (1, 2, 7):
            out.clear()
            place = Place(counting)
            session = place.connect()
            session.window = window
            asked = [session.version_text() for _ in range(10)]
            for one in asked:
                place.result(one)

            for answered, sent in enumerate(out):
                self.assertLessEqual(sent - answered, window)
            self.assertEqual(out[0], window)
        with self.assertRaises(ValueError):
            session.window = 0

    def test_many_empty_files(self) -> None:
        """
        Files without content cost no request, and thousands of them no stack.
        """
        place = Place(welcoming)
        session = place.connect()
        order: list[int] = []
        first = session.stat(b"/a")
        first.addCallback(lambda _: order.append(-1))
        asked = [session.get(b"/e", 0, self.fail) for _ in range(5000)]
        for number, one in enumerate(asked):
            one.addCallback(_note, order, number)
        place.network.pump()

        self.assertEqual(order, list(range(-1, 5000)))
        self.assertEqual(session.requests, 1)

    def test_cancelled_requests(self) -> None:
        """
        A cancelled request fails at once; its answer is passed over and the others
        come as if nothing had happened. One that has not left never leaves.
        """
        place = Place(answering(GOOD, b"hello", GOOD, requests=3))
        session = place.connect()
        one = session.stat(b"/a")
        two = session.get(b"/b", 5, self.fail)
        three = session.stat(b"/c")
        place.network.clock.advance(0)
        four = session.stat(b"/d")
        for cancelled in (one, two, four):
            cancelled.cancel()
            self.failureResultOf(cancelled, CancelledError)

        self.assertEqual(place.result(three), STATUS)
        self.assertEqual(session.requests, 3)
        self.assertFalse(session.closed)

    def test_asking_from_an_answer(self) -> None:
        """
        What is asked while answers are delivered leaves at once.
        """
        place = Place(welcoming)
        session = place.connect()

        async def three() -> int:
            for _ in range(3):
                await session.stat(b"/a")
            return session.requests

        self.assertEqual(place.result(Deferred.fromCoroutine(three())), 3)

    def test_back_pressure(self) -> None:
        """
        A paused session delivers nothing and does not read; the server's writer
        stops. It goes on where it stopped, and pausing may be nested.
        """
        size = 4_000_000

        class Source:
            """A producer, as servers have."""

            def __init__(self, peer: Peer) -> None:
                self.peer = peer
                self.left = size

            def resumeProducing(self) -> None:
                """One more piece."""
                piece = b"x" * min(16384, self.left)
                self.left -= len(piece)
                self.peer.send(piece)
                if not self.left:
                    transport: Any = self.peer.transport
                    transport.unregisterProducer()

            def stopProducing(self) -> None:
                """Over."""

        async def script(peer: Peer) -> None:
            await peer.greet()
            await peer.request()
            transport: Any = peer.transport
            transport.registerProducer(Source(peer), False)
            await peer.more()

        place = Place(script)
        session = place.connect()
        got = 0

        def sink(data: bytes) -> None:
            nonlocal got
            got += len(data)
            if got == len(data):
                session.pause()
                session.pause()

        done = session.get(b"/a", size, sink)
        place.network.advance(600)
        held = got
        self.assertLess(held, 100_000)
        self.assertLess(place.network.connections[0].server.sent, 300_000)
        session.resume()
        place.network.advance(600)
        self.assertEqual(got, held)
        session.resume()
        place.result(done)
        self.assertEqual(got, size)
        with self.assertRaises(RuntimeError):
            session.resume()

    def test_paused_in_the_middle_of_what_has_come(self) -> None:
        """
        Answers that came together are held back from the pause on.
        """
        place = Place(answering(GOOD * 3, requests=3))
        session = place.connect()
        asked = [session.stat(b"/a") for _ in range(3)]
        asked[0].addCallback(lambda _: session.pause())
        place.network.advance(100)
        self.assertTrue(asked[0].called)
        self.assertNoResult(asked[1])
        session.resume()
        self.assertNoResult(asked[1])
        self.assertEqual(place.result(asked[2]), STATUS)

    def test_round_trips(self) -> None:
        """
        The count is what a clock on a slow line shows: requests that wait for
        answers take round trips, requests that do not take none.
        """
        place = Place(welcoming, latency=1.0)
        session = place.connect()
        asked = [session.stat(b"/a") for _ in range(50)]
        for one in asked:
            place.result(one)
        # TCP, TLS 1.3, the server's line, and the answers with the welcome.
        self.assertEqual(session.round_trips, 4)
        self.assertAlmostEqual(place.clock.seconds(), 4.0)
        place.result(session.stat(b"/a"))
        self.assertEqual(session.round_trips, 5)
        self.assertAlmostEqual(place.clock.seconds(), 5.0)

    def test_counted_bytes(self) -> None:
        """
        The bytes counted are the plaintext both ways.
        """
        place = Place(welcoming)
        session = place.connect()
        place.result(session.stat(b"/a"))

        sent = b"".join(place.server.peers[0].records)
        self.assertEqual(session.bytes_sent, len(sent))
        self.assertEqual(session.bytes_received, len(HELLO + WELCOME + GOOD))


class EndTests(SynchronousTestCase):
    """
    How connections end.
    """

    def test_closing(self) -> None:
        """
        An idle session says good-bye, and its close is over when the server's end
        was seen; a second close waits as well.
        """
        place = Place(welcoming, latency=1.0)
        session = place.connect()
        place.result(session.stat(b"/a"))
        before = place.clock.seconds()
        first, second = session.close(), session.close()
        self.assertTrue(session.closed)
        place.result(first)
        place.result(second)

        self.assertAlmostEqual(place.clock.seconds() - before, 1.0)
        self.assertTrue(place.server.peers[0].ended)
        self.assertIs(session.stage, Stage.ENDED)
        place.result(session.close())
        error = self.failureResultOf(session.stat(b"/a"), ConnectionBroken).value
        assert isinstance(error, ClientError)
        self.assertEqual(error.code, "closed")

    def test_closing_on_a_server_that_stays(self) -> None:
        """
        A server that does not end the connection is left after a grace.
        """
        place = Place(welcoming, timeouts=Timeouts(goodbye=2))
        session = place.connect()
        place.result(session.stat(b"/a"))
        server = place.network.connections[0].server
        server.reading = False
        before = place.clock.seconds()
        closing = session.close()
        place.result(closing)

        self.assertAlmostEqual(place.clock.seconds() - before, 2.0)

    def test_closing_with_requests_out(self) -> None:
        """
        They fail, and the connection is dropped.
        """
        place = Place(answering(requests=2))
        session = place.connect()
        place.result(session.when_welcomed())
        asked = session.stat(b"/a")
        closing = session.close()
        self.failureResultOf(asked, ConnectionBroken)
        place.result(closing)
        self.assertTrue(place.network.connections[0].over)

    def test_broken_connections(self) -> None:
        """
        However the server ends the connection, each request without an answer fails
        with an error of its own, and so does every later one.
        """
        for how, code in ((Peer.close, "closed"), (Peer.abort, "reset")):

            async def script(peer: Peer, how: Any = how) -> None:
                await peer.greet()
                await peer.request()
                peer.send(GOOD)
                await peer.sleep(1)
                how(peer)

            place = Place(script)
            session = place.connect()
            session.window = 2
            asked = [session.stat(b"/a") for _ in range(5)]
            self.assertEqual(place.result(asked[0]), STATUS)
            errors = [place.failure(one) for one in asked[1:]]
            errors.append(place.failure(session.opendir(b"/")))

            for error in errors:
                self.assertEqual((type(error), error.code), (ConnectionBroken, code))
            self.assertEqual(len({id(error) for error in errors}), 5)
            place.result(session.close())

    def test_silence(self) -> None:
        """
        A server that owes an answer and is silent is left after the answer's time;
        an idle one is not.
        """
        place = Place(answering(GOOD, requests=1), timeouts=Timeouts(answer=30))
        session = place.connect()
        place.result(session.stat(b"/a"))
        place.network.advance(1000)
        self.assertFalse(session.closed)
        before = place.clock.seconds()
        error = place.failure(session.stat(b"/b"))

        self.assertEqual((type(error), error.code), (ConnectionBroken, "timeout"))
        self.assertIn("/b", str(error))
        self.assertLess(abs(place.clock.seconds() - before - 30), 2)

    def test_silence_before_a_digest(self) -> None:
        """
        The server has to read the file: the larger it is, the longer it may take.
        """
        for size, seconds in ((None, 600), (1000, 30), (1 << 30, 256)):
            place = Place(answering())
            session = place.connect()
            place.result(session.when_welcomed())
            before = place.clock.seconds()
            error = place.failure(session.differs(b"/b", b"d" * 16, size))

            self.assertEqual(error.code, "timeout")
            self.assertLess(abs(place.clock.seconds() - before - seconds), 2)

    def test_a_step_of_the_civil_clock(self) -> None:
        """
        Silence is measured by a clock that nobody sets.
        """
        monotonic = [0.0]
        place = Place(answering())
        place.dialer.monotonic = lambda: monotonic[0]
        session = place.connect()
        place.result(session.when_welcomed())
        asked = session.stat(b"/a")
        place.network.advance(86_400)
        self.assertFalse(session.closed)
        monotonic[0] = 31.0
        self.assertEqual(place.failure(asked).code, "timeout")

    def test_a_slow_drip(self) -> None:
        """
        A server that sends a byte now and then is left as too slow, whatever was
        asked.
        """

        async def dripping(peer: Peer) -> None:
            await peer.greet()
            await peer.request()
            while True:
                peer.send(b"\0")
                await peer.sleep(10)

        place = Place(dripping, timeouts=Timeouts(answer=30, slow=60))
        session = place.connect()
        error = place.failure(session.get(b"/a", 1 << 30, lambda data: None))

        self.assertEqual((type(error), error.code), (ConnectionBroken, "too-slow"))
        self.assertLess(place.clock.seconds(), 65)

    def test_a_slow_line_is_not_too_slow(self) -> None:
        """
        Small answers over a long way are few bytes, and a content at a modest rate
        takes long; neither is given up.
        """

        async def modest(peer: Peer) -> None:
            await peer.greet()
            await peer.request()
            for _ in range(300):
                peer.send(b"x" * 1100)
                await peer.sleep(1)
            while True:
                await peer.request()
                await peer.sleep(3)
                peer.send(GOOD)

        place = Place(modest)
        session = place.connect()
        place.result(session.get(b"/a", 300 * 1100, lambda data: None))
        session.window = 1
        for _ in range(50):
            self.assertEqual(place.result(session.stat(b"/a")), STATUS)

    def test_an_endless_listing(self) -> None:
        """
        A listing without an end is left when it has more names than are wanted.
        """

        async def endless(peer: Peer) -> None:
            await peer.greet()
            await peer.request()
            part = encode_transaction(b"a\0" * 1000 + b"\0", more=True)
            while True:
                peer.send(part)
                await peer.sleep(0.01)

        place = Place(endless)
        session = place.connect()
        error = place.failure(session.opendir(b"/", max_names=50_000))

        self.assertEqual((type(error), error.code), (BadAnswer, "too-large"))
        self.assertLess(session.bytes_received, 200_000)

    def test_no_timers_are_left(self) -> None:
        """
        A session that has ended has nothing left to do.
        """
        place = Place(welcoming)
        session = place.connect()
        place.result(session.stat(b"/a"))
        place.result(session.close())
        place.network.pump()

        self.assertEqual(place.clock.getDelayedCalls(), [])
