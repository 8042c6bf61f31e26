# SPDX-License-Identifier: MIT
"""
Recorded classic exchanges, opened: what was encrypted is in clear, whoever sent it.

It shares nothing with our own classic code but the reader of transactions, so that
one can be held against the other.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.decrepit.ciphers.algorithms import Blowfish
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from nodecomm.wire.commands import parse_get, parse_stat
from nodecomm.wire.framing import Transaction, TransactionBuffer
from nodecomm.wire.replies import REFUSAL, ListingParser, StatReply, parse_stat_reply
from tests.recorded import Exchange, key_pair, load

#: Source: CFEngine 3.21, the constant first vector of every encrypted message.
_VECTOR = bytes(range(1, 9))

#: Bytes before what SAUTH carries, and before what an encrypted command carries.
_CHALLENGE, _CIPHERTEXT = 24, 16

_REFUSED = (b"t %d" % len(REFUSAL)).ljust(8, b"\0") + REFUSAL


def unsealed(key: bytes, data: bytes) -> bytes:
    """
    One encrypted message in clear.
    """
    opening = Cipher(Blowfish(key), modes.CBC(_VECTOR)).decryptor()
    removing = padding.PKCS7(64).unpadder()
    return removing.update(opening.update(data)) + removing.finalize()


def sealed(key: bytes, clear: bytes) -> bytes:
    """
    One message encrypted.
    """
    adding = padding.PKCS7(64).padder()
    closing = Cipher(Blowfish(key), modes.CBC(_VECTOR)).encryptor()
    return closing.update(adding.update(clear) + adding.finalize())


def number(data: bytes) -> int:
    """
    The number in an mpi.
    """
    (size,) = struct.unpack(">I", data[:4])
    assert len(data) == 4 + size
    return int.from_bytes(data[4:], "big")


@dataclass
class Opened:
    """
    One classic exchange.

    Attributes:
        exchange: As it was recorded.
        dialog: What the client sent before its first request, in payloads.
        requests: What it asked for, in payloads as they were sent.
        answers: What the server said in the dialog, in payloads.
        replies: All that the server said after the dialog.
    """

    exchange: Exchange
    dialog: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    replies: bytes = b""

    @property
    def form(self) -> str:
        """
        "y": the client knew the server's key; "n": it did not.
        """
        return self.dialog[1].split()[1].decode("ascii")

    @property
    def refused(self) -> bool:
        """
        Whether the dialog came to no end.
        """
        return len(self.dialog) < 6

    @property
    def nonce(self) -> bytes:
        """
        The client's challenge; opened with whichever of the keys it is for.
        """
        challenge = self.dialog[1][_CHALLENGE:]
        if self.form == "n":
            return challenge
        for name in ("server", "other"):
            own = self.exchange.keys["server"] if name == "server" else name
            clear = _opened(own, challenge)
            if len(clear) == 37:
                return clear
        raise AssertionError("nobody can open the challenge")

    @property
    def counter(self) -> bytes:
        """
        The server's challenge.
        """
        return _opened(self.exchange.keys["client"], self.answers[2])

    @property
    def session_key(self) -> bytes:
        """
        What the client chose to encrypt with.
        """
        return _opened(self.exchange.keys["server"], self.dialog[5])

    def clear(self, request: bytes) -> bytes:
        """
        A request as it would have been sent without encryption.
        """
        if not request.startswith(b"S") or request.startswith(b"SYNCH"):
            return request
        word, *numbers = request.split(b"\0", 1)[0].split()
        assert len(request) == _CIPHERTEXT + int(numbers[0])
        text = unsealed(self.session_key, request[_CIPHERTEXT:])
        if word == b"SMD5":
            return text
        assert text.endswith(b"\0")
        return text[:-1].replace(b"GET dummykey", b"GET " + numbers[-1], 1)


@cache
def _opened(key: str, data: bytes) -> bytes:
    """
    What RSA PKCS#1 v1.5 encrypted. Of a ciphertext for another key it makes anything.
    """
    private = key_pair(key).private
    if len(data) != private.key_size // 8:
        return b""
    return private.decrypt(data, rsa_padding.PKCS1v15())


@cache
def opened(name: str) -> Opened:
    """
    Read a recorded classic exchange and open it.
    """
    return opened_exchange(load(name))


def opened_exchange(exchange: Exchange) -> Opened:
    """
    Open a classic exchange.
    """
    found = Opened(exchange)
    buffer = TransactionBuffer()
    buffer.feed(exchange.sent_by("client"))
    payloads = []
    while (transaction := buffer.next_transaction()) is not None:
        assert not transaction.more
        payloads.append(transaction.payload)
    assert len(buffer) == 0
    found.dialog, found.requests = payloads[:6], payloads[6:]

    buffer = TransactionBuffer()
    said = exchange.sent_by("server")
    buffer.feed(said)
    expected = 3 if found.form == "y" else 5
    while len(found.answers) < expected:
        transaction = buffer.next_transaction()
        if transaction is None:
            break
        found.answers.append(transaction.payload)
        if transaction.payload.startswith(b"BAD: "):
            break
    found.replies = said[len(said) - len(buffer) :]
    return found


def digest(clear: bytes) -> bytes:
    """
    How a challenge is answered.
    """
    return hashlib.md5(clear, usedforsecurity=False).digest()


@dataclass
class Answers:
    """
    What one server said, read in the light of what it was asked.

    Attributes:
        stats: Status replies, by place.
        listings: Names in order, by place.
        contents: Bytes of files, by place.
        words: All other answers, by place.
        frames: How many frames, and of how many bytes, an encrypted file came in.
    """

    stats: dict[int, StatReply] = field(default_factory=dict)
    listings: dict[int, list[bytes]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    words: dict[int, list[bytes]] = field(default_factory=dict)
    frames: dict[int, list[int]] = field(default_factory=dict)


class _Reader:
    """
    Bytes of a server, from front to back.
    """

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._said) - self._at

    def at(self, text: bytes) -> bool:
        """Whether *text* comes next."""
        return self._said.startswith(text, self._at)

    def take(self, size: int) -> bytes:
        """So many bytes as they are."""
        data = self._said[self._at : self._at + size]
        assert len(data) == size
        self._at += size
        return data

    def frame(self) -> Transaction:
        """The next frame."""
        buffer = TransactionBuffer()
        buffer.feed(self._said[self._at :])
        found = buffer.next_transaction()
        assert found is not None
        self._at = len(self._said) - len(buffer)
        return found


def read(found: Opened, said: bytes) -> Answers:
    """
    *said*, all bytes of a server after the dialog, as answers to the requests of
    *found*; every byte of it.

    Args:
        found: Whose requests these are.
        said: By any server that was asked the same, with the same session key.
    """
    reader = _Reader(said)
    answers = Answers()
    sizes: dict[bytes, int] = {}
    for place, request in enumerate(found.requests):
        clear = found.clear(request)
        word = clear.split()[0]
        if reader.at(_REFUSED):
            answers.words[place] = [reader.frame().payload]
            # Source: CFEngine 3.21 says it twice when the right on the file is
            # missing: in two frames, or in a frame and a block.
            if word == b"GET" and reader.at(_REFUSED):
                answers.words[place].append(reader.frame().payload)
            elif word == b"GET" and reader.at(REFUSAL):
                answers.words[place].append(reader.take(2048))
        elif word == b"SYNCH":
            reply = parse_stat_reply(reader.frame().payload, reader.frame().payload)
            answers.stats[place] = reply
            sizes[parse_stat(clear).path] = reply.size
        elif word == b"OPENDIR":
            listing, names = ListingParser(), []
            while not listing.finished:
                packet = reader.frame()
                payload = packet.payload
                if request.startswith(b"SOPENDIR"):
                    payload = unsealed(found.session_key, payload)
                names += listing.feed(payload, packet.more)
            answers.listings[place] = names
        elif request.startswith(b"SGET"):
            pieces, more = [], True
            answers.frames[place] = []
            while more:
                packet = reader.frame()
                more = packet.more
                answers.frames[place].append(len(packet.payload))
                pieces.append(unsealed(found.session_key, packet.payload))
            answers.contents[place] = b"".join(pieces)
        elif word == b"GET":
            answers.contents[place] = reader.take(sizes[parse_get(clear).path])
        else:
            answers.words[place] = [reader.frame().payload]
    assert reader.left == 0
    return answers
