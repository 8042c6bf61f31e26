# SPDX-License-Identifier: MIT
"""
The cipher of the encrypted commands.
"""

from __future__ import annotations

import os
import subprocess
import sys

from cryptography.hazmat.decrepit.ciphers.algorithms import Blowfish
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from hypothesis import given, settings
from hypothesis.strategies import binary, booleans, integers, lists, tuples
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.wire import cipher as module
from nodecomm.wire.cipher import (
    BLOCK,
    UNIT,
    CipherError,
    CipherMissing,
    SessionCipher,
    missing,
)
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import TransactionBuffer

KEY = bytes(range(16))

#: Clear texts and what the command `openssl enc -bf-cbc` makes of them.
VECTORS = [
    (b"", "e2f4a029b5ccdcfe"),
    (b"GET dummykey /var/x\0", "261c4191b8a7bcd276ca3d8d17d7870cf2d887a90f153e28"),
]

#: Sizes about the edges of units and blocks.
SIZES = [0, 1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5]

#: Says whether Blowfish can be had, what becomes of a cipher without it, and whether
#: the modules around it still import.
WITHOUT_BLOWFISH = """
from nodecomm.wire import cipher, sealed
print(cipher.missing())
try:
    cipher.SessionCipher(bytes(16))
except cipher.CipherMissing as error:
    print("refused:", error)
"""


def fresh(clear: bytes, key: bytes = KEY) -> bytes:
    """
    What a context of its own makes of *clear*, which is what the real programs do.
    """
    count = UNIT - len(clear) % UNIT
    encryptor = Cipher(Blowfish(key), modes.CBC(bytes(range(1, 9)))).encryptor()
    return encryptor.update(clear + bytes([count]) * count) + encryptor.finalize()


def content(size: int) -> bytes:
    """
    A text that repeats at no unit.
    """
    return bytes(number * number % 251 for number in range(size))


def payloads(frames: bytes) -> list[tuple[bytes, bool]]:
    """
    The payloads of *frames*, and whether each says that more follow.
    """
    buffer = TransactionBuffer()
    buffer.feed(frames)
    found = []
    while (transaction := buffer.next_transaction()) is not None:
        found.append((transaction.payload, transaction.more))
    assert not len(buffer)
    return found


class MessageTests(SynchronousTestCase):
    """
    Single messages.
    """

    def test_vectors(self) -> None:
        """
        The ciphertext is what another program makes with the same key, vector and
        padding, whatever came before.
        """
        cipher = SessionCipher(KEY)
        for clear, text in VECTORS * 2:
            self.assertEqual(bytes.fromhex(text), cipher.encrypt(clear))
            self.assertEqual(clear, cipher.decrypt(bytes.fromhex(text)))

    def test_sizes(self) -> None:
        """
        One to eight bytes are added, and taken away again.
        """
        cipher = SessionCipher(KEY)
        for size in SIZES:
            clear = content(size)
            encrypted = cipher.encrypt(clear)

            self.assertEqual((size // UNIT + 1) * UNIT, len(encrypted))
            self.assertEqual(fresh(clear), encrypted)
            self.assertEqual(clear, cipher.decrypt(encrypted))

    @given(lists(tuples(booleans(), binary(max_size=40)), max_size=12))
    @settings(max_examples=100)
    def test_any_order(self, messages: list[tuple[bool, bytes]]) -> None:
        """
        A message does not depend on those before it, in either direction.
        """
        cipher = SessionCipher(KEY)
        for out, clear in messages:
            if out:
                self.assertEqual(fresh(clear), cipher.encrypt(clear))
            else:
                self.assertEqual(clear, cipher.decrypt(fresh(clear)))

    @given(lists(binary(max_size=40), max_size=12))
    @settings(max_examples=100)
    def test_joined(self, messages: list[bytes]) -> None:
        """
        Messages decrypted together are those that were encrypted one by one.
        """
        cipher = SessionCipher(KEY)
        encrypted = [fresh(clear) for clear in messages]

        self.assertEqual(messages, cipher.decrypt_joined(encrypted))
        self.assertEqual(messages, cipher.decrypt_joined(encrypted))

    def test_wrong_sizes(self) -> None:
        """
        What is not whole units fails before anything is decrypted, also among others.
        """
        cipher = SessionCipher(KEY)
        for size in (0, 1, 7, 9, 4071):
            self.assertRaises(CipherError, cipher.decrypt, bytes(size))
            self.assertRaises(
                CipherError,
                cipher.decrypt_joined,
                [fresh(b"a"), bytes(size), fresh(b"b")],
            )
        self.assertEqual([b"a"], cipher.decrypt_joined([fresh(b"a")]))

    def test_wrong_padding(self) -> None:
        """
        Padding that is none fails; the next message is read.
        """
        cipher = SessionCipher(KEY)
        for ending in (b"\0", b"\x09", b"\xff", b"\x01\x02", b"\x03\x02\x03"):
            clear = b"x" * (16 - len(ending)) + ending
            # The unit of padding is cut off, so the clear text's own end is read.
            broken = fresh(clear)[:-UNIT]

            error = self.assertRaises(CipherError, cipher.decrypt, broken)
            self.assertIsInstance(error, RemoteProtocolError)
            self.assertEqual(b"next", cipher.decrypt(fresh(b"next")))

    def test_whole_unit_of_padding(self) -> None:
        """
        A message may be nothing but padding.
        """
        self.assertEqual(b"", SessionCipher(KEY).decrypt(fresh(b"")))

    @given(binary(max_size=64))
    @settings(max_examples=100)
    def test_garbage(self, data: bytes) -> None:
        """
        Any bytes give a text that was encrypted to them, or an error.
        """
        cipher = SessionCipher(KEY)
        try:
            clear = cipher.decrypt(data)
        except CipherError:
            return
        self.assertEqual(data, fresh(clear))

    def test_another_key(self) -> None:
        """
        The key counts.
        """
        other = SessionCipher(bytes(16))

        self.assertNotEqual(fresh(b"a" * 16), other.encrypt(b"a" * 16))
        self.assertEqual(fresh(b"a" * 16, bytes(16)), other.encrypt(b"a" * 16))

    def test_clone(self) -> None:
        """
        A clone has the key and nothing else in common.
        """
        cipher = SessionCipher(KEY)
        cipher.encrypt(b"before")
        clone = cipher.clone()
        for text in (b"one", b"two"):
            self.assertEqual(fresh(text), clone.encrypt(text))
            self.assertEqual(fresh(text), cipher.encrypt(text))

    def test_wrong_key_sizes(self) -> None:
        """
        Other keys than the real ones are refused.
        """
        for size in (0, 15, 17, 32):
            self.assertRaises(LocalProtocolError, SessionCipher, bytes(size))


class FileTests(SynchronousTestCase):
    """
    Files in frames.
    """

    def test_whole_files(self) -> None:
        """
        A file is cut into blocks, each encrypted by itself; the last one says so.
        """
        cipher = SessionCipher(KEY)
        for size in SIZES:
            data = content(size)
            blocks = [data[at : at + BLOCK] for at in range(0, size, BLOCK)] or [b""]
            expected = [(fresh(block), True) for block in blocks]
            expected[-1] = (expected[-1][0], False)
            for given_data in (data, memoryview(data)):
                self.assertEqual(
                    expected, payloads(cipher.encrypt_blocks(given_data, last=True))
                )

    def test_known_frames(self) -> None:
        """
        The sizes of the frames are those of the real server.
        """
        cipher = SessionCipher(KEY)
        for size, expected in (
            (5000, [(4072, True), (944, False)]),
            (2048, [(2056, False)]),
            (6, [(8, False)]),
            (0, [(8, False)]),
        ):
            frames = cipher.encrypt_blocks(content(size), last=True)

            self.assertEqual(
                expected, [(len(payload), more) for payload, more in payloads(frames)]
            )

    @given(integers(0, 5 * BLOCK), lists(integers(0, 5), max_size=5))
    @settings(max_examples=50, deadline=None)
    def test_any_parts(self, size: int, cuts: list[int]) -> None:
        """
        The frames do not depend on how many blocks are encrypted at a time.
        """
        data = content(size)
        whole = SessionCipher(KEY).encrypt_blocks(data, last=True)
        cipher = SessionCipher(KEY)
        frames = b""
        at = 0
        for cut in sorted(cuts):
            # The last byte stays for the last part.
            end = min(cut * BLOCK, max(size - 1, 0) // BLOCK * BLOCK)
            frames += cipher.encrypt_blocks(data[at:end], last=False)
            at = max(at, end)
        frames += cipher.encrypt_blocks(data[at:], last=True)

        self.assertEqual(whole, frames)

    def test_unfinished_block(self) -> None:
        """
        A file that goes on must not be cut inside a block.
        """
        cipher = SessionCipher(KEY)
        for size in (1, BLOCK - 1, BLOCK + 1):
            self.assertRaises(
                LocalProtocolError, cipher.encrypt_blocks, content(size), last=False
            )
        self.assertEqual(b"", cipher.encrypt_blocks(b"", last=False))

    def test_back_again(self) -> None:
        """
        What is encrypted in frames is decrypted together.
        """
        data = content(3 * BLOCK + 17)
        frames = SessionCipher(KEY).encrypt_blocks(data, last=True)

        clear = SessionCipher(KEY).decrypt_joined([p for p, _ in payloads(frames)])
        self.assertEqual([BLOCK, BLOCK, BLOCK, 17], list(map(len, clear)))
        self.assertEqual(data, b"".join(clear))


class MissingTests(SynchronousTestCase):
    """
    An OpenSSL without Blowfish.
    """

    def test_here(self) -> None:
        """
        The tests of this module have it.
        """
        self.assertIsNone(missing())

    def test_refused(self) -> None:
        """
        Where it is missing the reason is told, and no cipher is made; the probe is
        done once.
        """
        calls = []

        def no_cipher(key: bytes) -> None:
            calls.append(key)
            raise ImportError("no Blowfish in this release")

        missing.cache_clear()
        self.addCleanup(missing.cache_clear)
        self.patch(module, "_cipher", no_cipher)

        reason = missing()
        assert reason is not None
        self.assertIn("no Blowfish in this release", reason)
        error = self.assertRaises(CipherMissing, SessionCipher, KEY)
        self.assertEqual(reason, str(error))
        self.assertEqual(1, len(calls))

    def test_without_the_legacy_provider(self) -> None:
        """
        A process whose OpenSSL does not load the legacy provider imports everything
        and says in one line what to do.
        """
        environment = os.environ | {"CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"}
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_BLOWFISH],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        reason, refused, *others = done.stdout.splitlines()

        self.assertEqual("", done.stderr)
        self.assertEqual([], others)
        self.assertEqual(f"refused: {reason}", refused)
        for part in ("Blowfish", "CRYPTOGRAPHY_OPENSSL_NO_LEGACY", "TLS"):
            self.assertIn(part, reason)
