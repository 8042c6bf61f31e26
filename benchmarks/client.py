# SPDX-License-Identifier: MIT
"""
A small blocking client of the TLS protocol, versions 2 and 3.

It shares no code with nodecomm, so that a mistake in nodecomm cannot hide in both
ends of a measurement, and does as little as possible beside the exchange itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from benchmarks.errors import BenchmarkError

#: Bytes in a transaction header, NUL padding included.
#: Source: CFEngine 3.21, CF_INBAND_OFFSET.
HEADER_SIZE = 8
#: What the client asks for as the length of GET's blocks, as the real agent does.
GET_BLOCK = 2048
#: Answer to MD5 when both digests agree. Source: CFEngine 3.21, CFD_FALSE.
DIGEST_EQUAL = b"CFD_FALSE"
_RECEIVE_SIZE = 1 << 18
#: Seconds to wait for any single read or write.
_TIMEOUT = 60.0

_R = TypeVar("_R", bound="Requests")


def frame(payload: bytes) -> bytes:
    """Return *payload* as one transaction, the last of its message."""
    return (b"t %d" % len(payload)).ljust(HEADER_SIZE, b"\0") + payload


def stat_request(path: bytes) -> bytes:
    """Return a STAT of *path*, framed."""
    return frame(b"SYNCH %d STAT %s" % (time.time(), path))


def write_identity(path: Path) -> None:
    """Write a new RSA key and a certificate of its own to *path*, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def client_context(identity: Path) -> ssl.SSLContext:
    """Return a context of TLS 1.3 that presents *identity* and takes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(identity)
    return context


class Requests:
    """
    A connection on which requests may be asked, whatever came before them.
    """

    _socket: socket.socket
    _reader: io.BufferedReader

    def __enter__(self: _R) -> _R:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        raise NotImplementedError

    def _read_frame(self) -> bytes:
        header = self._reader.read(HEADER_SIZE)
        if len(header) < HEADER_SIZE:
            raise BenchmarkError("the server closed the connection")
        size = int(header[2:].rstrip(b"\0"))
        payload = self._reader.read(size)
        if len(payload) < size:
            raise BenchmarkError("the server closed the connection within a frame")
        return payload

    def _read_stat(self) -> bytes:
        first = self._read_frame()
        if not first.startswith(b"OK:"):
            raise BenchmarkError(f"STAT was answered {first!r}")
        self._read_frame()
        return first

    def stat(self, path: bytes) -> bytes:
        """Return the first frame of the answer to a STAT of *path*."""
        self._socket.sendall(stat_request(path))
        return self._read_stat()

    def stats(self, paths: Sequence[bytes], window: int) -> None:
        """Ask for a STAT of each path, at most *window* unanswered at a time."""
        batch = max(1, window // 2)
        batches = [paths[at : at + batch] for at in range(0, len(paths), batch)]
        unanswered: list[int] = []
        for each in batches:
            self._send_frames([stat_request(path) for path in each])
            unanswered.append(len(each))
            if len(unanswered) == 2:
                for _ in range(unanswered.pop(0)):
                    self._read_stat()
        for _ in range(sum(unanswered)):
            self._read_stat()

    def _send_frames(self, frames: Sequence[bytes]) -> None:
        # One write is one TLS record; the real server reads no frame that lies in
        # two, so the sum of a batch must stay below a record's 16384 bytes.
        data = b"".join(frames)
        if len(data) > 16384:
            raise BenchmarkError("a batch of requests does not fit in one record")
        self._socket.sendall(data)

    def digest_equal(self, path: bytes, digest: bytes) -> bool:
        """Return what the server says of *digest*, its MD5 of *path*."""
        self._socket.sendall(frame(b"MD5 %s\0\0%s" % (path, digest)))
        answer = self._read_frame()
        if answer not in {DIGEST_EQUAL, b"CFD_TRUE"}:
            raise BenchmarkError(f"MD5 was answered {answer!r}")
        return answer == DIGEST_EQUAL

    def get(self, path: bytes, consume: Callable[[memoryview], object]) -> int:
        """Fetch the file at *path*; return its size in bytes."""
        size = left = int(self.stat(path).split()[6])
        self._socket.sendall(frame(b"GET %d %s" % (GET_BLOCK, path)))
        buffer = memoryview(bytearray(_RECEIVE_SIZE))
        while left:
            count = self._reader.readinto1(buffer[: min(left, _RECEIVE_SIZE)])
            if not count:
                raise BenchmarkError(f"GET ended {left} bytes early")
            consume(buffer[:count])
            left -= count
        return size

    def fetch_digest(self, path: bytes) -> bytes:
        """Return the MD5 of the file at *path* as this client received it."""
        digest = hashlib.md5(usedforsecurity=False)
        self.get(path, digest.update)
        return digest.digest()


class Session(Requests):
    """
    One connection, identified and welcome.

    Args:
        port: Port on 127.0.0.1.
        context: What `client_context` returned.
        user: User name to claim.

    Raises:
        BenchmarkError: The server closed or answered something else.
        OSError: No connection.
    """

    _socket: ssl.SSLSocket

    def __init__(self, port: int, context: ssl.SSLContext, user: str) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = context.wrap_socket(plain)
            raw = socket.SocketIO(self._socket, "r")
            self._reader = io.BufferedReader(raw, 1 << 15)
            self._identify(user)
        except BaseException:
            plain.close()
            raise

    def _identify(self, user: str) -> None:
        hello = self._reader.readline(1024)
        if not hello.startswith(b"CFE_v"):
            raise BenchmarkError(f"the server's first line was {hello!r}")
        self._socket.sendall(b"CFE_v3 cf-agent 3.21.0\n")
        self._socket.sendall(b"IDENTITY USERNAME=%s\n" % user.encode())
        welcome = self._reader.readline(1024)
        if not welcome.startswith(b"OK WELCOME"):
            raise BenchmarkError(f"the server did not welcome us: {welcome!r}")

    def close(self) -> None:
        """Say goodbye as the real agent does (close_notify) and close."""
        self._socket.settimeout(0)
        with contextlib.suppress(OSError, ValueError):
            self._socket.unwrap()
        self._reader.close()
        self._socket.close()
