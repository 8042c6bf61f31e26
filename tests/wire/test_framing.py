# SPDX-License-Identifier: MIT
"""
Transactions, from and to bytes.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis.strategies import (
    binary,
    booleans,
    builds,
    integers,
    lists,
    one_of,
    sampled_from,
)
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    MAX_RECORD,
    Transaction,
    TransactionBuffer,
    encode_transaction,
    join_frames,
)

#: Frames as the real programs sent them (CFEngine 3.21).
RECORDED = [
    ("74203700000000005645 5253494f4e", Transaction(b"VERSION", False)),
    ("74203130000000004f4b3a20332e32312e30", Transaction(b"OK: 3.21.0", False)),
    (
        "7420363800000000 4f4b3a203020343230203020302030203620"
        "3137393533313139313620313739353331313931362031373935333131393136"
        "203020323239353631362031203635303234",
        Transaction(
            b"OK: 0 420 0 0 0 6 1795311916 1795311916 1795311916 0 2295616 1 65024",
            False,
        ),
    ),
    ("7420330000000000 4f4b3a", Transaction(b"OK:", False)),
    (
        "7420353900000000 4241443a20556e73706563696669656420736572766572207265667573"
        "616c202873656520766572626f736520736572766572206f757470757429",
        Transaction(
            b"BAD: Unspecified server refusal (see verbose server output)", False
        ),
    ),
    ("7420370000000000 00000003010001", Transaction(b"\0\0\0\x03\x01\0\x01", False)),
    (
        "7420313600000000 7bb1df5efb9c079b2ec3f3d67e53e754",
        Transaction(bytes.fromhex("7bb1df5efb9c079b2ec3f3d67e53e754"), False),
    ),
]

#: Headers that the real reader takes for a length of 7, beside its own form.
TOLERATED = [
    b"t 7     ",
    b"t 7abcde",
    b"t 7\n\n\n\n\n",
    b"t 7\0abcd",
    b"t  7\0\0\0\0",
    b"t\t\n 7\0\0\0",
    b"t +7\0\0\0\0",
    b"t 007\0\0\0",
    b"t 000007",
    b"t7\0\0\0\0\0\0",
    b"t+7\0\0\0\0\0",
    b"t 7.5e10",
]

#: Headers that end the connection.
REFUSED = [
    b"t 0\0\0\0\0\0",
    b"t -7\0\0\0\0",
    b"t 4089\0\0",
    b"t 99999\0",
    b"t1234567",
    b"m 0\0\0\0\0\0",
    b"x 7\0\0\0\0\0",
    b"T 7\0\0\0\0\0",
    b"\0 7\0\0\0\0\0",
    b"  7\0\0\0\0\0",
    b"t\0 7\0\0\0\0",
    b"t \0007\0\0\0\0",
    b"t \0\0\0\0\0\0",
    b"t       ",
    b"t ++7\0\0\0",
    b"t + 7\0\0\0",
    b"t x7\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01",
    b"BAD: Uns",
    b"CFE_v3 c",
]

transactions = builds(
    Transaction,
    one_of(binary(min_size=1, max_size=40), sampled_from([b"a" * 4088, b"b" * 4000])),
    booleans(),
)


def encode(transaction: Transaction) -> bytes:
    return encode_transaction(transaction.payload, more=transaction.more)


def drain(buffer: TransactionBuffer) -> list[Transaction]:
    """
    Take out every transaction that is complete.
    """
    received = []
    while (transaction := buffer.next_transaction()) is not None:
        received.append(transaction)
    return received


class EncodeTests(SynchronousTestCase):
    """
    `encode_transaction`.
    """

    def test_recorded(self) -> None:
        """
        The bytes are those that the real programs send.
        """
        for wire, transaction in RECORDED:
            self.assertEqual(bytes.fromhex(wire), encode(transaction))

    def test_status_and_padding(self) -> None:
        """
        The header is always eight bytes: status, space, length, NULs.
        """
        self.assertEqual(b"m 1\0\0\0\0\0x", encode_transaction(b"x", more=True))
        self.assertEqual(
            b"t 4088\0\0", encode_transaction(b"x" * MAX_PAYLOAD)[:HEADER_SIZE]
        )

    def test_size_limits(self) -> None:
        """
        Nothing is sent that the receiver would drop the connection for.
        """
        for size in (0, MAX_PAYLOAD + 1):
            error = self.assertRaises(
                LocalProtocolError, encode_transaction, b"x" * size
            )
            self.assertEqual(size, error.value)


class TransactionBufferTests(SynchronousTestCase):
    """
    `TransactionBuffer`.
    """

    def test_recorded(self) -> None:
        """
        What the real programs sent is read back.
        """
        for wire, transaction in RECORDED:
            buffer = TransactionBuffer()
            buffer.feed(bytes.fromhex(wire))

            self.assertEqual([transaction], drain(buffer))
            self.assertEqual(0, len(buffer))

    def test_tolerated_headers(self) -> None:
        """
        A length is read as the real reader does, whatever stands around it.
        """
        for header in TOLERATED:
            buffer = TransactionBuffer()
            buffer.feed(header + b"VERSION" + b"t 1\0\0\0\0\0x")

            self.assertEqual(
                [Transaction(b"VERSION", False), Transaction(b"x", False)],
                drain(buffer),
                header,
            )

    def test_refused_headers(self) -> None:
        """
        A header of another form, or with a length out of range, is an error.
        """
        for header in REFUSED:
            buffer = TransactionBuffer()
            buffer.feed(header + b"x" * 9000)

            self.assertRaises(RemoteProtocolError, buffer.next_transaction)

    def test_stays_in_error(self) -> None:
        """
        After an error nothing is read again, and nothing more is kept.
        """
        buffer = TransactionBuffer()
        buffer.feed(b"t 0\0\0\0\0\0")
        first = self.assertRaises(RemoteProtocolError, buffer.next_transaction)
        buffer.feed(encode_transaction(b"VERSION"))

        self.assertEqual(0, len(buffer))
        self.assertIs(
            first, self.assertRaises(RemoteProtocolError, buffer.next_transaction)
        )
        self.assertIs(first, self.assertRaises(RemoteProtocolError, buffer.take, 1))

    def test_transactions_before_an_error(self) -> None:
        """
        What came whole before the error is still given out.
        """
        buffer = TransactionBuffer()
        buffer.feed(encode_transaction(b"VERSION") + b"garbage!")

        self.assertEqual(Transaction(b"VERSION", False), buffer.next_transaction())
        self.assertRaises(RemoteProtocolError, buffer.next_transaction)

    def test_incomplete(self) -> None:
        """
        No prefix of a frame gives a transaction, and `len` counts what waits.
        """
        wire = encode_transaction(b"VERSION")
        for size in range(len(wire)):
            buffer = TransactionBuffer()
            buffer.feed(wire[:size])

            self.assertIsNone(buffer.next_transaction())
            self.assertEqual(size, len(buffer))

    def test_largest_payload(self) -> None:
        """
        4088 bytes are accepted.
        """
        buffer = TransactionBuffer()
        buffer.feed(b"t 4088\0\0" + b"x" * MAX_PAYLOAD)

        self.assertEqual([Transaction(b"x" * MAX_PAYLOAD, False)], drain(buffer))

    def test_take_between_frames(self) -> None:
        """
        Raw bytes are taken from between transactions, as the content of a file is.
        """
        content = bytes(range(256)) * 40
        wire = (
            encode_transaction(b"OK: 3.21.0")
            + content
            + encode_transaction(b"CFD_FALSE")
        )
        for step in (1, 3, 7, 1000, len(wire)):
            buffer = TransactionBuffer()
            first = last = None
            taken = b""
            for start in range(0, len(wire), step):
                buffer.feed(wire[start : start + step])
                if first is None:
                    first = buffer.next_transaction()
                if first is not None and len(taken) < len(content):
                    taken += buffer.take(len(content) - len(taken))
                if len(taken) == len(content):
                    last = last or buffer.next_transaction()

            self.assertEqual(Transaction(b"OK: 3.21.0", False), first)
            self.assertEqual(content, taken)
            self.assertEqual(Transaction(b"CFD_FALSE", False), last)
            self.assertEqual(0, len(buffer))

    def test_take_gives_what_is_there(self) -> None:
        """
        Fewer bytes than asked for are given when fewer are there.
        """
        buffer = TransactionBuffer()
        self.assertEqual(b"", buffer.take(10))
        buffer.feed(b"abc")
        buffer.feed(b"def")

        self.assertEqual(b"", buffer.take(0))
        self.assertEqual(b"ab", buffer.take(2))
        self.assertEqual(4, len(buffer))
        self.assertEqual(b"cdef", buffer.take(10))
        self.assertEqual(b"", buffer.take(10))

    def test_take_after_an_unfinished_frame_was_seen(self) -> None:
        """
        Bytes that looked like the start of a frame can be taken as raw bytes, and the
        next frame is found behind them.
        """
        buffer = TransactionBuffer()
        buffer.feed(b"t 4000\0\0")
        self.assertIsNone(buffer.next_transaction())

        self.assertEqual(b"t 4000\0\0", buffer.take(8))
        buffer.feed(b"t 1\0\0\0\0\0x")
        self.assertEqual([Transaction(b"x", False)], drain(buffer))

    @given(lists(transactions, max_size=6), integers(1, 9000))
    @settings(max_examples=100)
    def test_any_split(self, sent: list[Transaction], step: int) -> None:
        """
        The transactions received do not depend on how the bytes were cut.
        """
        wire = b"".join(map(encode, sent))
        buffer = TransactionBuffer()
        received = []
        for start in range(0, len(wire), step):
            buffer.feed(wire[start : start + step])
            received += drain(buffer)

        self.assertEqual(sent, received)
        self.assertEqual(0, len(buffer))

    @given(lists(transactions, max_size=6), lists(integers(0, 30000)))
    @settings(max_examples=100)
    def test_any_split_read_late(
        self, sent: list[Transaction], cuts: list[int]
    ) -> None:
        """
        Nor do they depend on when they are asked for.
        """
        wire = b"".join(map(encode, sent))
        buffer = TransactionBuffer()
        edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
        for start, end in pairwise(edges):
            buffer.feed(wire[start:end])

        self.assertEqual(len(wire), len(buffer))
        self.assertEqual(sent, drain(buffer))

    @given(
        lists(
            one_of(binary(max_size=30), sampled_from([b"t 3", b"m 1\0\0\0\0\0", b"t"]))
        )
    )
    @settings(max_examples=100)
    def test_garbage(self, pieces: list[bytes]) -> None:
        """
        Any bytes give transactions or `RemoteProtocolError`, the same for any cut.
        """

        def outcome(fed: list[bytes]) -> list[Transaction | str]:
            buffer = TransactionBuffer()
            result: list[Transaction | str] = []
            try:
                for piece in fed:
                    buffer.feed(piece)
                    while (transaction := buffer.next_transaction()) is not None:
                        result.append(transaction)
            except RemoteProtocolError as error:
                result.append(str(error))
            return result

        self.assertEqual(outcome([b"".join(pieces)]), outcome(pieces))

    def test_nothing_in_it(self) -> None:
        """
        Where that may be, a payload of no bytes is one; else an error as ever.
        """
        wire = b"t 0\0\0\0\0\0" + encode_transaction(b"x")
        buffer = TransactionBuffer()
        buffer.takes_empty = True
        buffer.feed(wire[:3])
        self.assertIsNone(buffer.next_payload())
        buffer.feed(wire[3:])
        self.assertEqual([b"", b"x"], [buffer.next_payload(), buffer.next_payload()])
        self.assertEqual(0, len(buffer))
        buffer.takes_empty = False
        buffer.feed(wire)

        with self.assertRaises(RemoteProtocolError):
            buffer.next_payload()


class RecordTests(SynchronousTestCase):
    """
    Frames in records.
    """

    @given(lists(integers(1, MAX_PAYLOAD), max_size=40))
    @settings(max_examples=60)
    def test_records(self, sizes: list[int]) -> None:
        """
        They are whole, none could take the first frame of the next one, and together
        they are what was given.
        """
        frames = [encode_transaction(b"x" * size) for size in sizes]

        found = join_frames(frames)

        self.assertEqual(b"".join(frames), b"".join(found))
        for record in found:
            self.assertLessEqual(len(record), MAX_RECORD)
            buffer = TransactionBuffer()
            buffer.feed(record)
            drain(buffer)
            self.assertEqual(0, len(buffer))
        for one, two in pairwise(found):
            buffer = TransactionBuffer()
            buffer.feed(two)
            first = buffer.next_payload() or b""
            self.assertGreater(len(one) + HEADER_SIZE + len(first), MAX_RECORD)
