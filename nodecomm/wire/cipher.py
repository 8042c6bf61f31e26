# SPDX-License-Identifier: MIT
"""
The cipher of the classic protocol's encrypted commands: Blowfish in CBC mode.

Every message is encrypted afresh, with the same key and the same first vector, and
padded to whole blocks of 8 bytes. Nothing protects it against being changed.

Setting up a Blowfish context costs more than encrypting a kilobyte, so a
`SessionCipher` has one for each direction and takes the state that a message left
behind out of the next one again. Per message of 4064 bytes that is 34 us of CPU to
encrypt and 32 us to decrypt, where contexts of their own cost 65 us (cryptography 50
with OpenSSL 4.0 on a virtual machine). Two threads with a cipher each are 1.9 times as
fast as one, because cryptography 50 lets other threads run meanwhile; older releases
do not.

Blowfish is in OpenSSL's legacy provider, which may be absent: see `missing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from nodecomm.wire.classic import KEY_SIZE
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import encode_transaction

#: Bytes of a file in one message. Source: CFEngine 3.21, CF_BUFSIZE less four times
#: CF_INBAND_OFFSET.
BLOCK = 4064

#: Bytes of a block of the cipher.
UNIT = 8

#: The vector that every message begins with. Source: CFEngine 3.21.
_VECTOR = bytes(range(1, 9))
_VECTOR_NUMBER = int.from_bytes(_VECTOR, "big")

#: What pads a message to whole units, by the number of bytes that it needs.
_PADDING = tuple(bytes([count]) * count for count in range(UNIT + 1))

#: The header of a block of a file that others follow: BLOCK is whole units.
_FULL = encode_transaction(bytes(BLOCK + UNIT), more=True)[:UNIT]


class CipherMissing(Exception):  # noqa: N818
    """
    The OpenSSL at hand has no Blowfish. The text says what to do.
    """


class CipherError(RemoteProtocolError):
    """
    This was not encrypted with the session key, or was damaged.
    """


@cache
def missing() -> str | None:
    """
    Why encrypted commands cannot be had here, and what to do; None when they can.

    It is tried once in a process, because a provider is loaded once.
    """
    try:
        context = _cipher(bytes(KEY_SIZE)).encryptor()
        context.update(_VECTOR)
    except (UnsupportedAlgorithm, ImportError) as error:
        return (
            f"Blowfish cannot be used ({str(error).strip()}): "
            "give OpenSSL its legacy provider (unset "
            "CRYPTOGRAPHY_OPENSSL_NO_LEGACY; install the package that holds "
            "legacy.so; FIPS mode forbids it), or use TLS"
        )
    return None


def _cipher(key: bytes) -> Cipher[modes.CBC]:
    # Imported here, because releases to come may have it no more.
    from cryptography.hazmat.decrepit.ciphers.algorithms import (  # noqa: PLC0415
        Blowfish,
    )

    return Cipher(Blowfish(key), modes.CBC(_VECTOR))


class SessionCipher:
    """
    Encrypts and decrypts the messages of one session.

    One thread at a time may use it; give each further thread a `clone`.

    Args:
        key: The session key, 16 bytes.

    Raises:
        CipherMissing: There is no Blowfish, see `missing`.
    """

    __slots__ = ("_decryptor", "_encryptor", "_key", "_left")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise LocalProtocolError(
                "size of the session key", len(key), f"{KEY_SIZE} bytes"
            )
        reason = missing()
        if reason is not None:
            raise CipherMissing(reason)
        cipher = _cipher(key)
        self._key = key
        self._encryptor = cipher.encryptor()
        self._decryptor = cipher.decryptor()
        # What the encryptor adds to the next unit, and must not: the vector less what
        # its last message left.
        self._left = 0

    def clone(self) -> SessionCipher:
        """
        Another one with the same key.
        """
        return SessionCipher(self._key)

    def encrypt(self, clear: bytes) -> bytes:
        """
        Encrypt a message: 1 to 8 bytes longer than *clear*.
        """
        padded = clear + _PADDING[UNIT - len(clear) % UNIT]
        return self._encrypt(padded[:UNIT], padded[UNIT:], b"")

    def encrypt_blocks(self, data: bytes | memoryview, *, last: bool) -> bytes:
        """
        A part of a file as whole frames, ready to be written.

        Args:
            data: The next bytes of the file: whole blocks of `BLOCK` bytes unless
                they are its last. An empty file is one message of 8 bytes.
            last: Whether they are the last of the file.

        Raises:
            LocalProtocolError: The file goes on, but *data* ends inside a block.
        """
        view = memoryview(data)
        size = len(view)
        if not last and size % BLOCK:
            raise LocalProtocolError("part of a file", size, f"blocks of {BLOCK} bytes")
        # The last block goes its own way: it may be short, and ends the message.
        whole = size if not last else max(size - 1, 0) // BLOCK * BLOCK
        full, padding, encrypt = _FULL, _PADDING[UNIT], self._encrypt
        frames: list[bytes] = []
        for start in range(0, whole, BLOCK):
            middle = start + UNIT
            rest = view[middle : start + BLOCK]
            frames += full, encrypt(view[start:middle], rest, padding)
        if last:
            frames.append(encode_transaction(self.encrypt(bytes(view[whole:]))))
        return b"".join(frames)

    def decrypt(self, data: bytes) -> bytes:
        """
        Decrypt a message.

        Raises:
            CipherError: It is not whole units of 8 bytes, or its padding is wrong.
        """
        return self.decrypt_joined([data])[0]

    def decrypt_joined(self, payloads: Sequence[bytes]) -> list[bytes]:
        """
        Decrypt several messages with one call into the library.

        Raises:
            CipherError: One of them is not whole units of 8 bytes, or its padding is
                wrong.
        """
        for payload in payloads:
            if not payload or len(payload) % UNIT:
                raise CipherError(
                    "size of an encrypted message", len(payload), "a multiple of 8"
                )
        # With the vector put before it, each message begins with what it began with
        # when it was encrypted; the unit that the vector decrypts to is passed over.
        joined = self._decryptor.update(
            b"".join([part for payload in payloads for part in (_VECTOR, payload)])
        )
        ends = accumulate(len(payload) + UNIT for payload in payloads)
        clear = []
        for payload, end in zip(payloads, ends, strict=True):
            count = joined[end - 1]
            if not 0 < count <= UNIT or joined[end - count : end] != _PADDING[count]:
                raise CipherError("padding of an encrypted message", None, "wrong")
            clear.append(joined[end - len(payload) : end - count])
        return clear

    def _encrypt(
        self, first: bytes | memoryview, rest: bytes | memoryview, padding: bytes
    ) -> bytes:
        """
        Encrypt a message of whole units, its first unit given by itself.
        """
        # CBC adds the last unit of the message before; it is added here once more,
        # which takes it away, and the vector takes its place.
        number = int.from_bytes(first, "big") ^ self._left
        encrypted = self._encryptor.update(
            b"".join((number.to_bytes(UNIT, "big"), rest, padding))
        )
        self._left = int.from_bytes(encrypted[-UNIT:], "big") ^ _VECTOR_NUMBER
        return encrypted
