# SPDX-License-Identifier: MIT
"""
The messages of the classic dialog.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis.strategies import binary, builds, integers, one_of, sampled_from
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire.classic import (
    CLEAR,
    ENCRYPTED,
    HEAD,
    MAX_CHALLENGE,
    MAX_NUMBER_BITS,
    NONCE_SIZE,
    Challenge,
    Claim,
    encode_cauth,
    encode_mpi,
    encode_sauth,
    parse_cauth,
    parse_mpi,
    parse_sauth,
)
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError

NONCE = bytes.fromhex("0000002100") + b"\xce" * 32

#: Numbers and what OpenSSL writes for them.
NUMBERS = [
    (1, "00000001 01"),
    (3, "00000001 03"),
    (0x7F, "00000001 7f"),
    (0x80, "00000002 0080"),
    (65537, "00000003 010001"),
    (0xFFFFFFFF, "00000005 00ffffffff"),
    ((1 << 255) | 5, "00000021 00" + "80" + "00" * 30 + "05"),
    ((1 << MAX_NUMBER_BITS) - 1, "00000401 00" + "ff" * 1024),
]

#: What is no positive number of at most 8192 bits.
NO_NUMBERS = [
    "",
    "00",
    "000000",
    "00000000",
    "00000001",
    "00000001 00",
    "00000004 00000000",
    "00000001 80",
    "00000002 ffff",
    "00000001 0101",
    "00000002 01",
    "01000000 01",
    "ffffffff 01",
    "00000402 01" + "00" * 1025,
    "00000401 01" + "00" * 1024,
]

CLAIMS = [
    (b"CAUTH 127.0.0.1 localhost root 0", (b"127.0.0.1", b"localhost", b"root")),
    (b"CAUTH ::1 a.example.org \xff 0", (b"::1", b"a.example.org", b"\xff")),
    (b"CAUTH  1.2.3.4  .*  ../x  17", (b"1.2.3.4", b".*", b"../x")),
    (b"CAUTH 1.2.3.4 h root", (b"1.2.3.4", b"h", b"root")),
    (b"CAUTH 1.2.3.4 h root 0 more", (b"1.2.3.4", b"h", b"root")),
    (b"CAUTH 1.2.3.4 h root x\0\0garbage", (b"1.2.3.4", b"h", b"root")),
    (
        b"CAUTH %b %b %b 0" % (b"a" * 255, b"b" * 255, b"c" * 255),
        (b"a" * 255, b"b" * 255, b"c" * 255),
    ),
]

NO_CLAIMS = [
    b"",
    b"\0",
    b"CAUTH",
    b"CAUTH ",
    b"CAUTH a b",
    b"CAUTH a b\0 c 0",
    b"CAUTHX a b c 0",
    b"CAUTH\ta b c 0",
    b" CAUTH a b c 0",
    b"cauth a b c 0",
    b"SAUTH a b c 0",
    b"CAUTH %b b c 0" % (b"a" * 256),
    b"CAUTH a %b c 0" % (b"b" * 256),
    b"CAUTH a b %b 0" % (b"c" * 256),
]

CHALLENGES = [
    (b"SAUTH n 37 37 c", NONCE, Challenge(CLEAR, NONCE, 37)),
    (b"SAUTH y 256 37 c", b"x" * 256, Challenge(ENCRYPTED, b"x" * 256, 37)),
    (b"SAUTH y 512 37 N", b"x" * 512, Challenge(ENCRYPTED, b"x" * 512, 37, b"N")),
    (b"SAUTH n 1 1 c", b"\0", Challenge(CLEAR, b"\0", 1)),
    (b"SAUTH n 512 512 c", b"a" * 512, Challenge(CLEAR, b"a" * 512, 512)),
    # The edition may be missing.
    (b"SAUTH n 2 2", b"ab", Challenge(CLEAR, b"ab", 2)),
    (b"SAUTH  n  02 2  c", b"ab", Challenge(CLEAR, b"ab", 2)),
    # What stands between the NUL and the challenge has no meaning.
    (b"SAUTH n 2 2 c\0junkjunk", b"ab", Challenge(CLEAR, b"ab", 2)),
    (b"SAUTH y 1 37 ABCDEFGHIJ", b"a", Challenge(ENCRYPTED, b"a", 37, b"ABCDEFGHIJ")),
]

NO_CHALLENGES = [
    (b"SAUTH n 0 0 c", b""),
    (b"SAUTH n 37 37 c", b""),
    (b"SAUTH n 37 37 c", NONCE[:-1]),
    (b"SAUTH n 37 37 c", NONCE + b"x"),
    (b"SAUTH n 513 513 c", b"a" * 513),
    (b"SAUTH n 37 36 c", NONCE),
    (b"SAUTH n 37 0 c", NONCE),
    # A server that tells the digest of these could be asked about a session key.
    (b"SAUTH y 256 16 c", b"x" * 256),
    (b"SAUTH y 256 36 c", b"x" * 256),
    (b"SAUTH y 256 38 c", b"x" * 256),
    (b"SAUTH y 256 0 c", b"x" * 256),
    (b"SAUTH y 256 512 c", b"x" * 256),
    (b"SAUTH y 513 37 c", b"x" * 513),
    (b"SAUTH y 0 37 c", b""),
    (b"SAUTH x 37 37 c", NONCE),
    (b"SAUTH Y 37 37 c", NONCE),
    (b"SAUTH yy 37 37 c", NONCE),
    (b"SAUTH n -37 37 c", NONCE),
    (b"SAUTH n 37 +37 c", NONCE),
    (b"SAUTH n 3_7 37 c", NONCE),
    (b"SAUTH n 37", NONCE),
    (b"SAUTH n 37 37 c d", NONCE),
    (b"SAUTHn 37 37 c", NONCE),
    (b"SAUTH", NONCE),
    (b"CAUTH n 37 37 c", NONCE),
    # The NUL must stand before the challenge.
    (b"SAUTH n 37 37 abcdefghijk", NONCE),
    (b"SAUTH n 37 37 cccccccccc", NONCE),
]


class NumberTests(SynchronousTestCase):
    """
    Numbers in the form of OpenSSL.
    """

    def test_numbers(self) -> None:
        """
        A number has its length before it, and a zero byte when its top bit is set.
        """
        for number, text in NUMBERS:
            data = bytes.fromhex(text)

            self.assertEqual(data, encode_mpi(number))
            self.assertEqual(number, parse_mpi(data, "modulus"))

    def test_zeros_before_a_number(self) -> None:
        """
        More zero bytes than needed are read, as OpenSSL reads them.
        """
        self.assertEqual(3, parse_mpi(bytes.fromhex("00000004 00000003"), "exponent"))
        largest = (1 << MAX_NUMBER_BITS) - 1
        wide = (1030).to_bytes(4, "big") + largest.to_bytes(1030, "big")
        self.assertEqual(largest, parse_mpi(wide, "modulus"))

    def test_no_numbers(self) -> None:
        """
        Zero, negative and endless numbers, and any other length, are refused with the
        name of what it should have been.
        """
        for text in NO_NUMBERS:
            error = self.assertRaises(
                RemoteProtocolError, parse_mpi, bytes.fromhex(text), "modulus"
            )
            self.assertIn("modulus", str(error))

    def test_unsendable_numbers(self) -> None:
        """
        What would be refused is not sent.
        """
        for number in (0, -1, 1 << MAX_NUMBER_BITS):
            self.assertRaises(LocalProtocolError, encode_mpi, number)

    @given(integers(1, (1 << MAX_NUMBER_BITS) - 1))
    @settings(max_examples=50)
    def test_round_trip(self, number: int) -> None:
        """
        Every number comes back.
        """
        self.assertEqual(number, parse_mpi(encode_mpi(number), "modulus"))

    @given(binary(max_size=12))
    @settings(max_examples=100)
    def test_garbage(self, data: bytes) -> None:
        """
        Any bytes are a number or an error.
        """
        try:
            number = parse_mpi(data, "modulus")
        except RemoteProtocolError:
            return
        self.assertEqual(number, int.from_bytes(data[4:], "big"))
        self.assertGreater(number, 0)


class ClaimTests(SynchronousTestCase):
    """
    `CAUTH`.
    """

    def test_claims(self) -> None:
        """
        Three words, and what the real server passes over; what they say is for others
        to judge.
        """
        for payload, words in CLAIMS:
            self.assertEqual(Claim(*words), parse_cauth(payload))

    def test_no_claims(self) -> None:
        """
        Another word, fewer than three arguments, and words of over 255 bytes fail.
        """
        for payload in NO_CLAIMS:
            self.assertRaises(RemoteProtocolError, parse_cauth, payload)

    def test_real_claim(self) -> None:
        """
        The claim of a real client is written as it writes it.
        """
        payload, words = CLAIMS[0]

        self.assertEqual(payload, encode_cauth(Claim(*words)))

    def test_unsendable_claims(self) -> None:
        """
        A claim that would arrive as another one is not sent.
        """
        for word in (b"", b"a b", b" a", b"a\n", b"a\0b", b"a" * 256):
            for words in ((word, b"h", b"u"), (b"a", word, b"u"), (b"a", b"h", word)):
                self.assertRaises(LocalProtocolError, encode_cauth, Claim(*words))

    @given(builds(Claim, *[binary(max_size=20)] * 3))
    @settings(max_examples=100)
    def test_round_trip(self, claim: Claim) -> None:
        """
        A claim that can be sent is received.
        """
        try:
            payload = encode_cauth(claim)
        except LocalProtocolError:
            return
        self.assertEqual(claim, parse_cauth(payload))


class ChallengeTests(SynchronousTestCase):
    """
    `SAUTH`.
    """

    def test_challenges(self) -> None:
        """
        The challenge follows its text at a fixed place.
        """
        for text, data, challenge in CHALLENGES:
            payload = text.ljust(HEAD, b"\0") + data

            self.assertEqual(challenge, parse_sauth(payload), text)

    def test_no_challenges(self) -> None:
        """
        A size that is not that of the data or not allowed for the form, another form,
        and other words fail.
        """
        for text, data in NO_CHALLENGES:
            payload = text.ljust(HEAD, b"\0") + data

            self.assertRaises(RemoteProtocolError, parse_sauth, payload)

    def test_short_messages(self) -> None:
        """
        A message that ends in its text fails.
        """
        payload = b"SAUTH n 1 1 c".ljust(HEAD, b"\0") + b"x"
        parse_sauth(payload)
        for size in range(len(payload)):
            self.assertRaises(RemoteProtocolError, parse_sauth, payload[:size])

    def test_real_challenges(self) -> None:
        """
        Both forms are written as a real client writes them.
        """
        for text, data, challenge in CHALLENGES[:2]:
            payload = text.ljust(HEAD, b"\0") + data

            self.assertEqual(payload, encode_sauth(challenge))
        self.assertEqual(NONCE_SIZE, len(NONCE))

    def test_unsendable_challenges(self) -> None:
        """
        What would be refused is not sent.
        """
        for challenge in (
            Challenge(b"x", NONCE, 37),
            Challenge(CLEAR, b"", 0),
            Challenge(CLEAR, NONCE, 36),
            Challenge(ENCRYPTED, b"x" * 128, 16),
            Challenge(ENCRYPTED, b"x" * (MAX_CHALLENGE + 1), 37),
            Challenge(CLEAR, NONCE, 37, b""),
            Challenge(CLEAR, NONCE, 37, b"a b"),
            Challenge(CLEAR, NONCE, 37, b"a\0"),
            Challenge(CLEAR, NONCE, 37, b"abcdefghij"),
        ):
            self.assertRaises(LocalProtocolError, encode_sauth, challenge)

    @given(
        one_of(
            binary(max_size=60),
            builds(
                lambda form, size, clear, rest: (
                    (b"SAUTH %b %d %d c" % (form, size, clear)).ljust(HEAD, b"\0")
                    + rest
                ),
                sampled_from([b"y", b"n"]),
                integers(0, 40),
                sampled_from([0, 16, 37]),
                binary(max_size=40),
            ),
        )
    )
    @settings(max_examples=100)
    def test_garbage(self, payload: bytes) -> None:
        """
        Any bytes are a challenge that can be written again, or an error.
        """
        try:
            challenge = parse_sauth(payload)
        except RemoteProtocolError:
            return
        self.assertEqual(challenge, parse_sauth(encode_sauth(challenge)))
        if challenge.form == ENCRYPTED:
            self.assertEqual(NONCE_SIZE, challenge.clear_size)
