# SPDX-License-Identifier: MIT
"""
A small blocking client of the classic protocol, plain and encrypted.

It shares no code with nodecomm, as `benchmarks.client`, whose requests it asks on a
connection of its own kind.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from cryptography.hazmat.decrepit.ciphers.algorithms import Blowfish
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks.client import GET_BLOCK, HEADER_SIZE, Requests, frame
from benchmarks.errors import BenchmarkError

#: Bytes before the challenge in SAUTH, and before the encrypted text of a command.
#: Source: CFEngine 3.21, CF_RSA_PROTO_OFFSET; the second observed.
_CHALLENGE_AT, _SEALED_AT = 24, 16
#: What each encrypted message begins with. Source: CFEngine 3.21.
_VECTOR = bytes(range(1, 9))
#: Bytes of a session key, and of a unit of the cipher.
_KEY_SIZE, _UNIT = 16, 8
#: Bytes of the largest payload, header apart. Source: CFEngine 3.21, CF_BUFSIZE.
_MAX_PAYLOAD = 4088
_TIMEOUT = 60.0


def load_key(identity: Path) -> rsa.RSAPrivateKey:
    """Return the key in what `benchmarks.client.write_identity` wrote."""
    return cast(rsa.RSAPrivateKey, load_pem_private_key(identity.read_bytes(), None))


def _number(value: int) -> bytes:
    """Return *value* as OpenSSL's mpi: a length, and a zero byte before a top bit."""
    size = value.bit_length() // 8 + 1
    return size.to_bytes(4, "big") + value.to_bytes(size, "big")


def _cipher(key: bytes) -> Cipher[modes.CBC]:
    return Cipher(Blowfish(key), modes.CBC(_VECTOR))


def _encrypt(key: bytes, clear: bytes) -> bytes:
    count = _UNIT - len(clear) % _UNIT
    encryptor = _cipher(key).encryptor()
    return encryptor.update(clear + bytes([count]) * count) + encryptor.finalize()


def decrypt(key: bytes, data: bytes) -> bytes:
    """Return the clear text of one message, its padding removed."""
    decryptor = _cipher(key).decryptor()
    clear = decryptor.update(data) + decryptor.finalize()
    return clear[: -clear[-1]]


class ClassicSession(Requests):
    """
    One connection, identified and trusted.

    Args:
        port: Port on 127.0.0.1.
        key: The client's key.
        user: User name to claim.

    Raises:
        BenchmarkError: The server refused or answered something else.
        OSError: No connection.
    """

    def __init__(self, port: int, key: rsa.RSAPrivateKey, user: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = io.BufferedReader(
                socket.SocketIO(self._socket, "r"), 1 << 15
            )
            self.session_key = os.urandom(_KEY_SIZE)
            self._identify(key, user)
        except BaseException:
            self._socket.close()
            raise

    def _identify(self, key: rsa.RSAPrivateKey, user: str) -> None:
        numbers = key.public_key().public_numbers()
        # The challenge in clear asks for the server's key.
        challenge = _number(int.from_bytes(os.urandom(32), "big") | 1 << 255)
        sauth = b"SAUTH n %d %d c" % (len(challenge), len(challenge))
        self._socket.sendall(
            b"".join(
                frame(each)
                for each in (
                    b"CAUTH 127.0.0.1 localhost %s 0" % user.encode(),
                    sauth.ljust(_CHALLENGE_AT, b"\0") + challenge,
                    _number(numbers.n),
                    _number(numbers.e),
                )
            )
        )
        trusted = self._read_frame()
        if not trusted.startswith(b"OK"):
            raise BenchmarkError(f"the server did not accept our key: {trusted!r}")
        if self._read_frame() != hashlib.md5(challenge, usedforsecurity=False).digest():
            raise BenchmarkError("the server answered our challenge wrongly")
        counter = key.decrypt(self._read_frame(), padding.PKCS1v15())
        modulus, exponent = (
            int.from_bytes(self._read_frame()[4:], "big") for _ in range(2)
        )
        server = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        answer = hashlib.md5(counter, usedforsecurity=False).digest()
        sealed = server.encrypt(self.session_key, padding.PKCS1v15())
        self._socket.sendall(frame(answer) + frame(sealed))

    def close(self) -> None:
        """Close, as the real agent does."""
        self._reader.close()
        self._socket.close()

    def get_sealed(self, path: bytes, consume: Callable[[bytes], object]) -> int:
        """
        Fetch the file at *path* with SGET; return its size in bytes.

        Args:
            path: The file; it must not be empty.
            consume: Gets the payload of each frame as it was sent, encrypted.
        """
        size = int(self.stat(path).split()[6])
        clear = b"GET dummykey %s\0" % path
        text = _encrypt(self.session_key, clear)
        head = b"SGET %4d %4d" % (len(text), GET_BLOCK)
        self._socket.sendall(frame(head.ljust(_SEALED_AT, b"\0") + text))
        # All in C but these few lines: the client must not be what is waited for.
        got = 0
        read = self._reader.read
        more = True
        while more:
            header = read(HEADER_SIZE)
            length = int(header[2:].rstrip(b"\0") or b"0")
            if length > _MAX_PAYLOAD or length % _UNIT or not length:
                raise BenchmarkError(f"SGET was answered with a frame {header!r}")
            payload = read(length)
            consume(payload)
            got += length
            more = header[:1] == b"m"
        # Each message is padded by 1 to 8 bytes.
        if not size < got <= size + size // 500 + _UNIT:
            raise BenchmarkError(f"SGET of {size} bytes gave {got} encrypted ones")
        return size

    def fetch_sealed_digest(self, path: bytes) -> bytes:
        """Return the MD5 of the file at *path* as it came with SGET."""
        digest = hashlib.md5(usedforsecurity=False)
        key = self.session_key
        self.get_sealed(path, lambda payload: digest.update(decrypt(key, payload)))
        return digest.digest()
