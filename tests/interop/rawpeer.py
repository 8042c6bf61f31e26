# SPDX-License-Identifier: MIT
"""
A peer that does what no real program does: it can stop, lie or flood at every stage.

It has nothing in common with the server but OpenSSL. Run as a program it holds
connections or makes first ones, in a process of its own.
"""

from __future__ import annotations

import contextlib
import datetime
import resource
import select
import socket
import sys
import time
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from nodecomm.identity.keys import KeyPair

#: Seconds after which something that was waited for will not come.
PATIENCE = 60.0

#: Bits of quickly made keys; the least that the server takes.
QUICK = 1024


def frame(payload: bytes, status: bytes = b"t") -> bytes:
    """
    One transaction.
    """
    return (status + b" %d" % len(payload)).ljust(8, b"\0") + payload


def stat_request(path: bytes) -> bytes:
    """
    A whole STAT transaction.
    """
    return frame(b"SYNCH %d STAT %s" % (time.time(), path))


def context(
    key: KeyPair | None, *, version: int | None = None, ciphers: bytes | None = None
) -> SSL.Context:
    """
    A client's context with a certificate for *key*, or with none.

    Args:
        version: The one version of TLS to speak.
        ciphers: In OpenSSL's words, for TLS 1.2.
    """
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    made.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    made.set_cipher_list(ciphers or b"DEFAULT:@SECLEVEL=0")
    if version is not None:
        made.set_min_proto_version(version)
        made.set_max_proto_version(version)
    if key is not None:
        made.use_certificate(key.certificate())
        made.use_privatekey(key.private)
    return made


def context_for(certificate: bytes, key: bytes) -> SSL.Context:
    """
    A client's context for a certificate and a key in DER, however odd they are.
    """
    made = context(None)
    with warnings.catch_warnings():
        # What is not deprecated refuses such keys.
        warnings.simplefilter("ignore", DeprecationWarning)
        made.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, certificate))
        made.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_ASN1, key))
    return made


def elliptic_context() -> SSL.Context:
    """
    A client's context with a key that is not RSA.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
    made = context(None)
    made.use_certificate(certificate)
    made.use_privatekey(private)
    return made


class Closed(Exception):
    """
    The server has ended the connection.
    """


class RawPeer:
    """
    A connection, at the stage that the test has brought it to.

    Args:
        port: The server's port.
        using: The context; None: only TCP.
        source: The local address to come from.
        receive_buffer: Bytes that the kernel may keep unread.
    """

    def __init__(
        self,
        port: int,
        using: SSL.Context | None = None,
        *,
        source: str = "127.0.0.1",
        receive_buffer: int = 0,
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        # Two small writes one after the other must not wait for each other.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind((source, 0))
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.tls: SSL.Connection | None = None
        if using is not None:
            self.socket.setblocking(True)
            self.tls = SSL.Connection(using, self.socket)
            self.tls.set_connect_state()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def handshake(self) -> RawPeer:
        """
        Do the TLS handshake.

        Raises:
            Closed: The server did not want to.
        """
        assert self.tls is not None
        try:
            self.tls.do_handshake()
        except SSL.Error as error:
            raise Closed(repr(error)) from error
        return self

    def dialog(
        self,
        first: bytes = b"CFE_v3 cf-agent 3.21.0\n",
        second: bytes = b"IDENTITY USERNAME=root\n",
    ) -> RawPeer:
        """
        Say who we are, and be welcomed.

        Raises:
            Closed: The server closed instead.
        """
        hello = self.line()
        assert hello.startswith(b"CFE_v"), hello
        self.send(first)
        self.send(second)
        welcome = self.line()
        assert welcome.startswith(b"OK WELCOME"), welcome
        return self

    def send(self, data: bytes) -> None:
        """
        Send *data*; where there is TLS, as one record.

        Raises:
            Closed: The server has closed.
        """
        try:
            if self.tls is None:
                self.socket.sendall(data)
            else:
                self.tls.sendall(data)
        except (OSError, SSL.Error) as error:
            raise Closed(repr(error)) from error

    def receive(self, size: int = 65536) -> bytes:
        """
        Some bytes.

        Raises:
            Closed: There will be none.
        """
        try:
            if self.tls is None:
                data = self.socket.recv(size)
            else:
                if not self.tls.pending():
                    assert self._readable(PATIENCE), "the server says nothing"
                data = self.tls.recv(size)
        except (OSError, SSL.Error) as error:
            raise Closed(repr(error)) from error
        if not data:
            raise Closed("end of file")
        return data

    def line(self) -> bytes:
        """
        One line of the dialog.
        """
        data = b""
        while not data.endswith(b"\n"):
            data += self.receive(1024)
        return data

    def transaction(self) -> bytes:
        """
        The payload of the next transaction.
        """
        head = self.exactly(8)
        return self.exactly(int(head[1:].split(b"\0")[0]))

    def exactly(self, size: int) -> bytes:
        """
        So many bytes.
        """
        data = b""
        while len(data) < size:
            data += self.receive(size - len(data))
        return data

    def stat(self, path: bytes) -> bytes:
        """
        The first transaction of the answer to a STAT.
        """
        self.send(stat_request(path))
        first = self.transaction()
        if first.startswith(b"OK:"):
            self.transaction()
        return first

    def rest(self) -> bytes:
        """
        All that the server says until it closes.
        """
        data = b""
        try:
            while True:
                data += self.receive()
        except Closed:
            return data

    @property
    def closed(self) -> bool:
        """
        Whether the server has closed, or sent something, by now.
        """
        return self._readable(0)

    def _readable(self, seconds: float) -> bool:
        # Not select(): it knows no descriptor above 1023.
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def hold(port: int, count: int, key: KeyPair) -> None:
    """
    Hold *count* welcomed connections from many addresses; say "held N", then, at a
    line of input, how many of them still answer.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    using = context(key)
    peers = []
    for number in range(count):
        source = f"127.0.{1 + number // 200}.{1 + number % 200}"
        peers.append(RawPeer(port, using, source=source).handshake().dialog())
    print("held", len(peers), flush=True)
    sys.stdin.readline()
    print(sum(peer.stat(b"tree").startswith(b"OK:") for peer in peers), flush=True)


def burst(port: int, count: int, key: KeyPair) -> None:
    """
    Begin *count* handshakes at once, say "begun", and finish each.
    """
    using = context(key)
    peers = [RawPeer(port, using) for _ in range(count)]
    for peer in peers:
        assert peer.tls is not None
        peer.socket.setblocking(False)
        with contextlib.suppress(SSL.WantReadError):
            peer.tls.do_handshake()
        peer.socket.setblocking(True)
    print("begun", flush=True)
    for peer in peers:
        peer.handshake()
    print("done", len(peers), flush=True)


def first_connections(port: int, folder: Path) -> None:
    """
    Connect once with each key in *folder*, all at once; say each key's digest and
    what the server said.
    """
    keys = [KeyPair.load(file.read_bytes()) for file in sorted(folder.iterdir())]
    print("ready", flush=True)
    sys.stdin.readline()
    peers = [RawPeer(port, context(key)) for key in keys]
    for peer in peers:
        peer.handshake()
    for peer in peers:
        peer.line()
        peer.send(b"CFE_v3 cf-agent 3.21.0\n")
        peer.send(b"IDENTITY USERNAME=root\n")
    for key, peer in zip(keys, peers, strict=True):
        try:
            answer = peer.line().decode().strip()
        except Closed:
            answer = "closed"
        print(key.public.md5, answer, flush=True)


def main(words: list[str]) -> None:
    """
    Do what the command line says.
    """
    what, port, *more = words
    if what == "first":
        first_connections(int(port), Path(more[0]))
        return
    key = KeyPair.load(Path(more[1]).read_bytes())
    (hold if what == "hold" else burst)(int(port), int(more[0]), key)


if __name__ == "__main__":
    main(sys.argv[1:])
