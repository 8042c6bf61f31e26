# SPDX-License-Identifier: MIT
"""
Replies, from and to bytes.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import evolve, fields
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
from nodecomm.wire.framing import Transaction, TransactionBuffer, encode_transaction
from nodecomm.wire.replies import (
    CHANGED_PREFIX,
    DENIED,
    DIGEST_DIFFERS,
    DIGEST_EQUAL,
    REFUSAL,
    TERMINATOR,
    ListingParser,
    StatReply,
    cannot_open_directory,
    clock_error,
    encode_listing,
    encode_stat,
    is_error,
    parse_stat_reply,
    version_reply,
)

#: A regular file, a link to a file (as the classic protocol shows it) and a link
#: that leads nowhere, as the real server (CFEngine 3.21) reports them.
REGULAR = StatReply(
    0, 420, 0, 0, 0, 6, 1795311916, 1795311916, 1795311916, 0, 2295616, 1, 65024
)
LINK = evolve(REGULAR, link_mode=511, holes=1, target=b"a.txt")
DANGLING = evolve(LINK, kind=1, mode=511, target=b"f")

STATS = [
    (
        REGULAR,
        "7420363800000000 4f4b3a203020343230203020302030203620"
        "3137393533313139313620313739353331313931362031373935333131393136"
        "203020323239353631362031203635303234"
        "7420330000000000 4f4b3a",
    ),
    (
        LINK,
        "7420373000000000 4f4b3a20302034323020353131203020302036203137393533313139"
        "3136203137393533313139313620313739353331313931362031203232393536313620"
        "31203635303234 7420380000000000 4f4b3a612e747874",
    ),
    (
        DANGLING,
        "7420373000000000 4f4b3a20312035313120353131203020302036203137393533313139"
        "3136203137393533313139313620313739353331313931362031203232393536313620"
        "31203635303234 7420340000000000 4f4b3a66",
    ),
]

#: How many characters the real client reads for each number at most, the minus
#: sign included. Source: CFEngine 3.21, the scan format of its stat reply.
WIDTHS = (1, 5, 14, 14, 14, 18, 14, 14, 14, 1, 14, 14, 18)

#: Numbers that do not fit, one at a time, and the numbers that are sent.
OUT_OF_WIDTH = [
    ({"mode": 0o100644}, {"mode": 0o644}),
    ({"mode": -1}, {"mode": 0o7777}),
    ({"link_mode": 0o120777}, {"link_mode": 0o777}),
    ({"uid": 10**14}, {"uid": 10**14 - 1}),
    ({"uid": -1}, {"uid": 0}),
    ({"gid": 10**20}, {"gid": 10**14 - 1}),
    ({"size": 2**63 - 1}, {"size": 10**18 - 1}),
    ({"size": -1}, {"size": 0}),
    ({"atime": 10**14}, {"atime": 10**14 - 1}),
    ({"mtime": -(10**13)}, {"mtime": 1 - 10**13}),
    ({"ctime": -(10**30)}, {"ctime": 1 - 10**13}),
    ({"holes": 2}, {"holes": 1}),
    ({"ino": 10**14, "nlink": 3}, {"ino": 0, "nlink": 1}),
    ({"ino": 123456789012345, "nlink": 3}, {"ino": 789012345, "nlink": 1}),
    ({"ino": -(10**13), "nlink": 2}, {"ino": 0, "nlink": 1}),
    ({"nlink": 10**14}, {"nlink": 10**14 - 1}),
    ({"dev": 2**64 - 1}, {"dev": (2**64 - 1) % 10**18}),
]

FIRST = b"OK: 0 420 0 0 0 6 1795311916 1795311916 1795311916 0 2295616 1 65024"

#: Pairs of payloads that are no status.
NOT_STATS = [
    (b"", b"OK:"),
    (REFUSAL, b"OK:"),
    (b"OK:", b"OK:"),
    (FIRST[:-6], b"OK:"),
    (FIRST + b" 1", b"OK:"),
    (FIRST[3:], b"OK:"),
    (FIRST.replace(b"OK:", b"KO:"), b"OK:"),
    (FIRST.replace(b"420", b"+420"), b"OK:"),
    (FIRST.replace(b"420", b"4_0"), b"OK:"),
    (FIRST.replace(b"420", b"4-0"), b"OK:"),
    (FIRST.replace(b"420", b"-"), b"OK:"),
    (FIRST.replace(b"420", b"0x1a"), b"OK:"),
    (FIRST.replace(b"420", b"4.0"), b"OK:"),
    (FIRST.replace(b"420", b"4096"), b"OK:"),
    (FIRST.replace(b"420", b"-1"), b"OK:"),
    (FIRST.replace(b"420", b"9" * 4050), b"OK:"),
    (FIRST + b"\0", b"OK:"),
    (FIRST.replace(b" 0 420", b" 7 420"), b"OK:"),
    (FIRST.replace(b" 0 420", b" -1 420"), b"OK:"),
    (FIRST.replace(b" 6 ", b" -6 "), b"OK:"),
    (FIRST.replace(b" 6 ", b" 9223372036854775808 "), b"OK:"),
    (FIRST.replace(b" 0 2295616", b" 2 2295616"), b"OK:"),
    (FIRST.replace(b"2295616", b"18446744073709551616"), b"OK:"),
    (FIRST.replace(b" 1 65024", b" -1 65024"), b"OK:"),
    (FIRST, b""),
    (FIRST, b"OK"),
    (FIRST, REFUSAL),
    # A target, but the first part says that this is no link.
    (FIRST, b"OK:a.txt"),
    (FIRST.replace(b" 0 420 0 ", b" 0 420 511 "), b"OK:a\0b"),
]

#: The fields of a status after the kind and before the target.
NUMBERS = [field.name for field in fields(StatReply)][1:-1]

numbers = integers(-(2**70), 2**70)
names = (
    binary(min_size=1, max_size=255)
    .map(lambda raw: raw.translate(None, b"/\0"))
    .filter(lambda raw: raw and raw != TERMINATOR)
)


def unframe(wire: bytes) -> list[Transaction]:
    """
    All transactions in *wire*, which must hold whole ones.
    """
    buffer = TransactionBuffer()
    buffer.feed(wire)
    transactions = []
    while (transaction := buffer.next_transaction()) is not None:
        transactions.append(transaction)
    if len(buffer):
        raise AssertionError("a part of a frame is left over")
    return transactions


def scan(first: bytes) -> tuple[int, ...]:
    """
    Read a status as the real client does: each number within its width, and what is
    too long for one is taken for the next.
    """
    fields = rb"\s*".join(b"(-?[0-9]{1,%d}|-)" % width for width in WIDTHS)
    match = re.match(rb"OK: " + fields, first)
    if match is None:
        raise AssertionError(first)
    return tuple(int(group) for group in match.groups())


def listing(wire_names: list[bytes]) -> list[Transaction]:
    return unframe(b"".join(encode_listing(wire_names)))


def parse_listing(packets: list[Transaction]) -> list[bytes]:
    parser = ListingParser()
    found = []
    for packet in packets:
        found += parser.feed(packet.payload, packet.more)
    if not parser.finished:
        raise AssertionError("the listing is not finished")
    return found


class FixedTextTests(SynchronousTestCase):
    """
    Texts that the real programs compare.
    """

    def test_texts(self) -> None:
        """
        The texts are those of the real programs, to the byte.
        """
        self.assertEqual(
            "42 41 44 3a 20 55 6e 73 70 65 63 69 66 69 65 64 20 73 65 72 76 65 72 20"
            " 72 65 66 75 73 61 6c 20 28 73 65 65 20 76 65 72 62 6f 73 65 20 73 65 72"
            " 76 65 72 20 6f 75 74 70 75 74 29",
            REFUSAL.hex(" "),
        )
        self.assertEqual(b"BAD: Request denied", DENIED)
        self.assertEqual(b"CFD_TRUE", DIGEST_DIFFERS)
        self.assertEqual(b"CFD_FALSE", DIGEST_EQUAL)
        self.assertEqual(b"---cfXen/gine/cfXen/gine---", TERMINATOR)
        self.assertEqual(b"BAD: File changed while copying", CHANGED_PREFIX)
        self.assertEqual((59, 19, 27), (len(REFUSAL), len(DENIED), len(TERMINATOR)))

    def test_filled_in(self) -> None:
        """
        The texts with a value in them.
        """
        self.assertEqual(b"OK: 3.21.0", version_reply(b"3.21.0"))
        self.assertEqual(
            b"BAD: Clocks are too far unsynchronized 1795311916/5",
            clock_error(1795311916, 5),
        )
        self.assertEqual(
            b"BAD: cfengine, couldn't open dir /var/x/",
            cannot_open_directory(b"/var/x/"),
        )

    def test_long_path_fits_in_a_frame(self) -> None:
        """
        The longest path of the system does not break the reply.
        """
        encode_transaction(cannot_open_directory(b"/" + b"x" * 4095))

    def test_is_error(self) -> None:
        """
        An error begins with `BAD: `; a listing with such a name is none.
        """
        for payload in (REFUSAL, DENIED, b"BAD: Not found", b"BAD: "):
            self.assertTrue(is_error(payload))
        for payload in (b"BAD:", b"OK: 0", DIGEST_DIFFERS, b"", b"BAD: x\0\0"):
            self.assertFalse(is_error(payload))


class EncodeStatTests(SynchronousTestCase):
    """
    `encode_stat` and `StatReply.encode`.
    """

    def test_recorded(self) -> None:
        """
        The bytes are those that the real server sends.
        """
        for reply, wire in STATS:
            self.assertEqual(bytes.fromhex(wire), reply.encode())

    def test_out_of_width(self) -> None:
        """
        A number that does not fit is sent as one that does, the others unchanged.
        """
        for changes, sent in OUT_OF_WIDTH:
            changed: Any = changes
            expected: Any = sent
            self.assertEqual(
                evolve(REGULAR, **expected).encode(),
                evolve(REGULAR, **changed).encode(),
            )

    def test_widest(self) -> None:
        """
        The largest and smallest numbers that fit are sent as they are.
        """
        widest = StatReply(
            6,
            0o7777,
            0o7777,
            10**14 - 1,
            10**14 - 1,
            10**18 - 1,
            10**14 - 1,
            1 - 10**13,
            10**14 - 1,
            1,
            10**14 - 1,
            10**14 - 1,
            10**18 - 1,
        )

        (first, _) = unframe(widest.encode())

        self.assertEqual(
            b"OK: 6 4095 4095 99999999999999 99999999999999 999999999999999999"
            b" 99999999999999 -9999999999999 99999999999999 1 99999999999999"
            b" 99999999999999 999999999999999999",
            first.payload,
        )

    def test_unknown_kind(self) -> None:
        """
        A kind of object that the protocol has no number for is refused.
        """
        for kind in (-1, 7, 10):
            self.assertRaises(LocalProtocolError, evolve(REGULAR, kind=kind).encode)

    def test_target_too_long(self) -> None:
        """
        A link's text is sent whole or not at all.
        """
        fits = evolve(LINK, target=b"x" * 4085)

        self.assertEqual(b"OK:" + b"x" * 4085, unframe(fits.encode())[1].payload)
        self.assertRaises(LocalProtocolError, evolve(LINK, target=b"x" * 4086).encode)

    @given(integers(0, 6), builds(dict, **dict.fromkeys(NUMBERS, numbers)))
    @settings(max_examples=100)
    def test_never_spills(self, kind: int, rest: dict[str, int]) -> None:
        """
        Whatever the numbers, a reader with the real client's widths gets the 13
        numbers that were sent, and what fits arrives unchanged.
        """
        sent: Any = rest
        first, second = unframe(encode_stat(kind, **sent))
        words = first.payload.split(b" ")

        self.assertEqual(b"OK:", second.payload)
        self.assertEqual(14, len(words))
        for word, width in zip(words[1:], WIDTHS, strict=True):
            self.assertTrue(0 < len(word) <= width, word)
        self.assertEqual(tuple(map(int, words[1:])), scan(first.payload))

    @given(
        builds(
            StatReply,
            integers(0, 6),
            integers(0, 0o7777),
            integers(1, 0o7777),
            *[integers(0, 2**32 - 1)] * 2,
            integers(0, 10**18 - 1),
            *[integers(1 - 10**13, 10**14 - 1)] * 3,
            integers(0, 1),
            integers(-(2**31), 2**31 - 1),
            integers(0, 2**32 - 1),
            integers(0, 10**18 - 1),
            binary().map(lambda raw: raw.replace(b"\0", b"")),
        )
    )
    @settings(max_examples=100)
    def test_returns(self, reply: StatReply) -> None:
        """
        A status arrives as it was sent.
        """
        first, second = unframe(reply.encode())

        self.assertEqual(reply, parse_stat_reply(first.payload, second.payload))


class ParseStatReplyTests(SynchronousTestCase):
    """
    `parse_stat_reply`.
    """

    def test_recorded(self) -> None:
        """
        What the real server sends is read.
        """
        for reply, wire in STATS:
            first, second = unframe(bytes.fromhex(wire))

            self.assertEqual(reply, parse_stat_reply(first.payload, second.payload))

    def test_negative_numbers(self) -> None:
        """
        Times before the epoch, and inode numbers of more than 31 bits, which the real
        server prints as negative ones, are read.
        """
        reply = evolve(REGULAR, mtime=-1, ino=-(2**31))
        first = FIRST.replace(b"6 1795311916 1795311916", b"6 1795311916 -1").replace(
            b"2295616", b"-2147483648"
        )

        self.assertEqual(reply, parse_stat_reply(first, b"OK:"))

    @given(
        lists(
            one_of(integers(0, 9999), integers(0, 9999), integers(0, 2**65)),
            min_size=13,
            max_size=13,
        )
    )
    @settings(max_examples=100)
    def test_usual_ones_are_read_as_any_other(self, values: list[int]) -> None:
        """
        The quick way for the usual status and the thorough one, which takes any white
        space, come to the same.
        """
        for place, below in ((0, 8), (1, 0o10002), (2, 0o10002), (9, 3)):
            values[place] %= below
        words = [b"%d" % value for value in values]
        found: list[StatReply | str] = []
        for space in (b" ", b"  "):
            try:
                found.append(parse_stat_reply(space.join([b"OK:", *words]), b"OK:"))
            except RemoteProtocolError as error:
                found.append(error.field)

        self.assertEqual(*found)

    def test_malformed(self) -> None:
        """
        Anything but 13 numbers in range, and a link's text for a link, is refused.
        """
        parse_stat_reply(FIRST, b"OK:")
        for first, second in NOT_STATS:
            self.assertRaises(RemoteProtocolError, parse_stat_reply, first, second)

    @given(
        one_of(
            binary(),
            lists(one_of(numbers, binary(max_size=3))).map(repr).map(str.encode),
        ),
        binary(),
    )
    @settings(max_examples=100)
    def test_garbage(self, first: bytes, second: bytes) -> None:
        """
        No bytes give anything but a status or `RemoteProtocolError`.
        """
        for pair in ((first, second), (b"OK: " + first, b"OK:" + second)):
            try:
                reply = parse_stat_reply(*pair)
            except RemoteProtocolError as error:
                self.assertTrue(str(error).isprintable())
            else:
                self.assertIn(reply.kind, range(7))


class EncodeListingTests(SynchronousTestCase):
    """
    `encode_listing`.
    """

    def test_small_folder(self) -> None:
        """
        An empty folder still has `.`, `..` and the terminator, in one frame.
        """
        self.assertEqual(
            [b"t 34\0\0\0\0.\0..\0---cfXen/gine/cfXen/gine---\0\0"],
            list(encode_listing([b".", b".."])),
        )

    def test_no_names(self) -> None:
        """
        The only packet does not begin with a NUL, which real clients take for an error.
        """
        self.assertEqual([Transaction(TERMINATOR + b"\0\0", False)], listing([]))

    def test_full_packet(self) -> None:
        """
        A name is put in while the packet stays below 3840 bytes; the extra NUL is not
        counted.
        """
        # 3839 bytes with their NULs: 14 names of 255 bytes and one of 254.
        full = [b"%03d" % number + b"x" * 252 for number in range(14)] + [b"y" * 254]

        self.assertEqual(
            [Transaction(b"\0".join(full) + b"\0" + TERMINATOR + b"\0\0", False)],
            listing(full),
        )
        self.assertEqual(
            [
                Transaction(b"\0".join(full) + b"\0\0", True),
                Transaction(b"z\0" + TERMINATOR + b"\0\0", False),
            ],
            listing([*full, b"z"]),
        )

    def test_packet_of_exactly_the_limit(self) -> None:
        """
        A name that would make 3840 bytes goes into the next packet.
        """
        fifteen = [b"%03d" % number + b"x" * 252 for number in range(15)]

        self.assertEqual(
            [
                Transaction(b"\0".join(fifteen[:14]) + b"\0\0", True),
                Transaction(fifteen[14] + b"\0" + TERMINATOR + b"\0\0", False),
            ],
            listing(fifteen),
        )

    def test_terminator_as_a_name(self) -> None:
        """
        A file called like the terminator is left out and does not end the listing.
        """
        self.assertEqual(
            [b".", b"..", b"z"],
            parse_listing(listing([b".", b"..", TERMINATOR, b"z"])),
        )

    def test_names_without_a_form(self) -> None:
        """
        A name that would arrive as another is not sent.
        """
        for name in (b"", b"a/b", b"/", b"a\0b", b"x" * 256):
            self.assertRaises(LocalProtocolError, list, encode_listing([name]))

    @given(lists(names, max_size=60))
    @settings(max_examples=60)
    def test_any_names(self, sent: list[bytes]) -> None:
        """
        The names arrive in order; no packet passes the size of the real server's;
        only the last one has status `t`.
        """
        packets = listing(sent)

        self.assertEqual(sent, parse_listing(packets))
        self.assertEqual(
            [True] * (len(packets) - 1) + [False], [packet.more for packet in packets]
        )
        for packet in packets:
            self.assertTrue(packet.payload.endswith(b"\0\0"))
            self.assertLessEqual(len(packet.payload), 3840 if packet.more else 3868)


class ListingParserTests(SynchronousTestCase):
    """
    `ListingParser`.
    """

    def test_names_as_they_come(self) -> None:
        """
        Names of any bytes are given out, a newline and `..` among them.
        """
        parser = ListingParser()

        self.assertEqual(
            [b".", b"..", b"new\nline", b"\xff"],
            parser.feed(b".\0..\0new\nline\0\xff\0\0", True),
        )
        self.assertFalse(parser.finished)
        self.assertEqual([b"z"], parser.feed(b"z\0" + TERMINATOR + b"\0\0", False))
        self.assertTrue(parser.finished)

    def test_malformed(self) -> None:
        """
        A packet that is cut, holds what is no name, or contradicts its status is
        reported, not read in part.
        """
        end = TERMINATOR + b"\0\0"
        for payload, more in [
            (b"", True),
            (b"a", True),
            (b"a\0", True),
            (b"\0", True),
            (b"\0\0", True),
            (b"\0\0\0", True),
            (b"a\0\0b\0\0", True),
            (b"a\0\0\0", True),
            (b"a/b\0\0", True),
            (b"../../etc/passwd\0\0", True),
            (b"x" * 256 + b"\0\0", True),
            (b"a\0\0", False),
            (b"a\0" + end, True),
            (b"a\0" + TERMINATOR, False),
            (b"a\0" + TERMINATOR + b"\0", False),
            (b"a\0" + end + b"b\0\0", False),
            (b"a\0" + TERMINATOR + b"\0" + end, False),
            (REFUSAL, False),
        ]:
            self.assertRaises(RemoteProtocolError, ListingParser().feed, payload, more)

    def test_nothing_after_the_end(self) -> None:
        """
        A packet after the last one is an error.
        """
        parser = ListingParser()
        parser.feed(TERMINATOR + b"\0\0", False)

        self.assertRaises(RemoteProtocolError, parser.feed, b"a\0\0", True)

    @given(
        lists(
            one_of(
                binary(max_size=9),
                sampled_from([b"\0", b"\0\0", b"a", b"/", TERMINATOR]),
            )
        ),
        booleans(),
    )
    @settings(max_examples=100)
    def test_garbage(self, pieces: list[bytes], more: bool) -> None:
        """
        Any packet gives names that are safe to join to a folder's, or an error.
        """
        try:
            found = ListingParser().feed(b"".join(pieces), more)
        except RemoteProtocolError as error:
            self.assertTrue(str(error).isprintable())
        else:
            for name in found:
                self.assertTrue(0 < len(name) <= 255)
                self.assertNotIn(b"/", name)
                self.assertNotIn(b"\0", name)
