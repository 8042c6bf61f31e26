# SPDX-License-Identifier: MIT
"""
The cipher of the classic protocol's encrypted commands: Blowfish in CBC mode.

Every message is encrypted afresh, with the same key and the same first vector, and
padded to whole blocks of 8 bytes. Nothing protects it against being changed.

Setting up a Blowfish context costs more than encrypting a kilobyte, so a
`SessionCipher` has one for each direction and takes the state that a message left
behind out of the next one again. Per message of 4064 bytes that is 31 us of CPU to
encrypt, of which 28 are Blowfish, and 32 us to decrypt, where contexts of their own
cost 65 us (cryptography 50 with OpenSSL 4.0 on a virtual machine). Two threads with a
cipher each are 1.9 times as fast as one, because cryptography 50 lets other threads
run meanwhile; older releases do not.

Blowfish is in OpenSSL's legacy provider, which may be absent: see `missing`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from nodecomm.wire.classic import KEY_SIZE
from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.framing import encode_transaction

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

#: Bytes of a file in one message. Source: CFEngine 3.21, CF_BUFSIZE less four times
#: CF_INBAND_OFFSET.
BLOCK = 4064

#: Bytes of a block of the cipher.
UNIT = 8

#: The vector that every message begins with. Source: CFEngine 3.21.
_VECTOR = bytes(range(1, 9))
_VECTOR_NUMBER = int.from_bytes(_VECTOR, sys.byteorder)

#: What pads a message to whole units, by the number of bytes that it needs.
_PADDING = tuple(bytes([count]) * count for count in range(UNIT + 1))

#: Bytes of the message that a whole block becomes: BLOCK is whole units.
_MESSAGE = BLOCK + UNIT

#: The header of a block of a file that others follow.
_FULL = encode_transaction(bytes(_MESSAGE), more=True)[:UNIT]

#: Bytes of such a frame.
_FRAME = UNIT + _MESSAGE

#: Blocks that are encrypted on one `_Sheet`.
_BLOCKS = 32


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


class _Sheet:
    """
    Room for `_BLOCKS` whole blocks of a file, their padding already in its place, and
    for the frames that they become, their headers already in theirs. Making and
    joining these for each block took 9 us beside Blowfish, and takes 3 us so.

    Attributes:
        places: Where the blocks go.
        frames: The frames.
    """

    __slots__ = ("_frame_units", "_steps", "_units", "frames", "places")

    def __init__(self) -> None:
        clear = memoryview(bytearray((bytes(BLOCK) + _PADDING[UNIT]) * _BLOCKS))
        # The library wants to be given room for a unit more than it fills.
        room = memoryview(bytearray((_FULL + bytes(_MESSAGE)) * _BLOCKS + bytes(UNIT)))
        self.frames = room[: _FRAME * _BLOCKS]
        self._units = clear.cast("Q")
        self._frame_units = self.frames.cast("Q")
        self.places: list[memoryview] = []
        self._steps: list[tuple[int, memoryview, memoryview, int]] = []
        for number in range(_BLOCKS):
            start, end = number * _MESSAGE, (number + 1) * _FRAME
            self.places.append(clear[start : start + BLOCK])
            step = (
                start // UNIT,
                clear[start : start + _MESSAGE],
                room[end - _MESSAGE : end + UNIT],
                end // UNIT - 1,
            )
            self._steps.append(step)

    def encrypt(self, encryptor: CipherContext, left: int, count: int) -> int:
        """
        Make the first *count* blocks, which are spoilt by it, the first frames.

        Args:
            left: What the encryptor adds to the next unit, and must not.

        Returns:
            The same for the message that comes next.
        """
        units, frames, update = self._units, self._frame_units, encryptor.update_into
        for first, message, place, last in self._steps[:count]:
            units[first] ^= left
            update(message, place)
            left = frames[last] ^ _VECTOR_NUMBER
        return left


#: Sheets that nobody uses just now: no more than there were ever threads that encrypt.
_sheets: list[_Sheet] = []


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
        frames: list[bytes | memoryview] = []
        for start in range(0, whole, BLOCK * _BLOCKS):
            blocks = view[start : min(start + BLOCK * _BLOCKS, whole)]
            frames.append(self._encrypt_whole(blocks))
        if last:
            frames.append(encode_transaction(self.encrypt(bytes(view[whole:]))))
        return b"".join(frames)

    def decrypt(self, data: bytes) -> bytes:
        """
        Decrypt a message.

        Raises:
            CipherError: It is not whole units of 8 bytes, or its padding is wrong.
        """
        # As `decrypt_joined`, which takes twice as long for one: each request of a
        # peer that encrypts comes by here.
        if not data or len(data) % UNIT:
            raise _wrong_size(data)
        clear = self._decryptor.update(_VECTOR + data)
        count = clear[-1]
        if not 0 < count <= UNIT or not clear.endswith(_PADDING[count]):
            raise _wrong_padding()
        return clear[UNIT:-count]

    def decrypt_joined(self, payloads: Sequence[bytes]) -> list[bytes]:
        """
        Decrypt several messages with one call into the library.

        Raises:
            CipherError: One of them is not whole units of 8 bytes, or its padding is
                wrong.
        """
        for payload in payloads:
            if not payload or len(payload) % UNIT:
                raise _wrong_size(payload)
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
                raise _wrong_padding()
            clear.append(joined[end - len(payload) : end - count])
        return clear

    def _encrypt_whole(self, blocks: memoryview) -> bytes:
        """
        The frames of at most `_BLOCKS` whole blocks.
        """
        try:
            sheet = _sheets.pop()
        except IndexError:
            sheet = _Sheet()
        count = len(blocks) // BLOCK
        for number, place in enumerate(sheet.places[:count]):
            place[:] = blocks[number * BLOCK : (number + 1) * BLOCK]
        self._left = sheet.encrypt(self._encryptor, self._left, count)
        frames = bytes(sheet.frames[: count * _FRAME])
        _sheets.append(sheet)
        return frames

    def _encrypt(
        self, first: bytes | memoryview, rest: bytes | memoryview, padding: bytes
    ) -> bytes:
        """
        Encrypt a message of whole units, its first unit given by itself.
        """
        # CBC adds the last unit of the message before; it is added here once more,
        # which takes it away, and the vector takes its place.
        number = int.from_bytes(first, sys.byteorder) ^ self._left
        encrypted = self._encryptor.update(
            b"".join((number.to_bytes(UNIT, sys.byteorder), rest, padding))
        )
        self._left = int.from_bytes(encrypted[-UNIT:], sys.byteorder) ^ _VECTOR_NUMBER
        return encrypted


def _wrong_size(data: bytes) -> CipherError:
    return CipherError("size of an encrypted message", len(data), "a multiple of 8")


def _wrong_padding() -> CipherError:
    return CipherError("padding of an encrypted message", None, "wrong")
