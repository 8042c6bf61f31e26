# SPDX-License-Identifier: MIT
"""
What the TLS transport costs, apart from everything above it.

An echo server of ours and a plain Twisted TLS server answer the same client in turn,
both pinned to one CPU; printed is the server's CPU time per operation. Run it as
``python -m benchmarks.transport``; with ``--profile FILE`` our server runs under
cProfile.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import protocol
from twisted.internet.interfaces import IHandshakeListener
from zope.interface import implementer

from nodecomm.transport.context import client_context, server_context
from nodecomm.transport.limits import HandshakeGate
from nodecomm.transport.port import SecurePort

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection as Pipe

#: A request of the size of a STAT, and an answer of the size of its two frames.
REQUEST = b"t 64\0\0\0\0" + b"x" * 64
ANSWER = b"t 83\0\0\0\0" + b"y" * 83 + b"t 3\0\0\0\0\0OK:"

#: Asks for so many megabytes.
BULK = b"bulk"
CHUNK = b"z" * (256 * 1024)


class Credentials:
    """
    A key made for this run.
    """

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(65537, 2048)

    def certificate(self) -> x509.Certificate:
        """
        A certificate for the key.
        """
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.private.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self.private, hashes.SHA256())
        )


@implementer(IHandshakeListener)
class Answering(protocol.Protocol):
    """
    Answers each request, and sends megabytes when asked to.
    """

    def connectionMade(self) -> None:
        """
        Have answers leave at once.
        """
        self.left = 0
        transport: Any = self.transport
        transport.setTcpNoDelay(True)

    def handshakeCompleted(self) -> None:
        """
        Nothing: the client begins.
        """

    def dataReceived(self, data: bytes) -> None:
        """
        Answer.
        """
        transport: Any = self.transport
        if data.startswith(BULK):
            self.left = struct.unpack("!I", data[4:8])[0] * 4
            transport.registerProducer(self, False)
        else:
            for _ in range(len(data) // len(REQUEST)):
                transport.write(ANSWER)

    def resumeProducing(self) -> None:
        """
        Send the next part.
        """
        transport: Any = self.transport
        transport.write(CHUNK)
        self.left -= 1
        if not self.left:
            transport.unregisterProducer()

    def stopProducing(self) -> None:
        """
        The peer has gone.
        """


def serve(kind: str, keys: Credentials, pipe: Pipe, profile: str | None) -> None:
    """
    Run a server in this process until *pipe* says so, reporting its CPU time whenever
    asked.
    """
    from twisted.internet import endpoints  # noqa: PLC0415
    from twisted.internet import reactor as _reactor  # noqa: PLC0415

    reactor: Any = _reactor
    context = server_context(keys)
    if kind == "nodecomm":
        port = SecurePort(
            context,
            reactor,
            gate=HandshakeGate(reactor, 32),
            first_byte_timeout=10,
            handshake_timeout=30,
        )

        class Ours(protocol.Factory):
            def buildProtocol(self, addr: Any) -> Any:
                return port.protocol_for(
                    addr, tls=Answering, classic=None, lost=lambda _: None
                )

        factory: Any = Ours()
    else:
        from twisted.internet.interfaces import (  # noqa: PLC0415
            IOpenSSLServerConnectionCreator,
        )
        from twisted.protocols.tls import TLSMemoryBIOFactory  # noqa: PLC0415

        @implementer(IOpenSSLServerConnectionCreator)
        class Creator:
            def serverConnectionForTLS(self, _protocol: Any) -> SSL.Connection:
                return SSL.Connection(context, None)

        factory = TLSMemoryBIOFactory(
            Creator(), False, protocol.Factory.forProtocol(Answering)
        )
    listening: Any = endpoints.TCP4ServerEndpoint(  # type: ignore[no-untyped-call]
        reactor, 0, interface="127.0.0.1"
    )
    listening.listen(factory).addCallback(lambda p: pipe.send(p.getHost().port))

    def report() -> None:
        try:
            while pipe.recv() == "usage":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                with open("/proc/self/statm") as statm:
                    pages = int(statm.read().split()[1])
                pipe.send((usage.ru_utime + usage.ru_stime, pages * 4096))
        except EOFError:
            pass
        reactor.callFromThread(reactor.stop)

    threading.Thread(target=report, daemon=True).start()
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(reactor.run)
        profiler.dump_stats(profile)
    else:
        reactor.run()


class Server:
    """
    A server process and its CPU clock.
    """

    def __init__(self, kind: str, keys: Credentials, profile: str | None) -> None:
        forking = multiprocessing.get_context("fork")
        self._pipe, theirs = forking.Pipe()
        self._process = forking.Process(
            target=serve, args=(kind, keys, theirs, profile)
        )
        self._process.start()
        self.port: int = self._pipe.recv()

    def usage(self) -> tuple[float, int]:
        """
        CPU seconds used so far, bytes of memory now.
        """
        self._pipe.send("usage")
        seconds, memory = self._pipe.recv()
        return seconds, memory

    def stop(self) -> None:
        """
        End the process.
        """
        self._pipe.send("stop")
        self._process.join()


def connect(port: int, context: SSL.Context) -> SSL.Connection:
    """
    A connection with its handshake done.
    """
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = SSL.Connection(context, sock)
    connection.set_connect_state()
    connection.do_handshake()
    return connection


def read(connection: SSL.Connection, size: int) -> None:
    """
    Read exactly *size* bytes.
    """
    while size:
        size -= len(connection.recv(min(size, 65536)))


def fresh(server: Server, context: SSL.Context, count: int) -> None:
    """
    Connect, ask once, close.
    """
    for _ in range(count):
        connection = connect(server.port, context)
        connection.sendall(REQUEST)
        read(connection, len(ANSWER))
        connection.shutdown()
        connection.sock_shutdown(socket.SHUT_RDWR)
        connection.close()


def single(server: Server, context: SSL.Context, count: int) -> None:
    """
    Ask and wait for the answer, on one connection.
    """
    connection = connect(server.port, context)
    for _ in range(count):
        connection.sendall(REQUEST)
        read(connection, len(ANSWER))
    connection.close()


def pipelined(server: Server, context: SSL.Context, count: int) -> None:
    """
    Ask 64 times in records of their own, then read the answers.
    """
    connection = connect(server.port, context)
    for _ in range(count // 64):
        for _ in range(64):
            connection.sendall(REQUEST)
        read(connection, 64 * len(ANSWER))
    connection.close()


def bulk(server: Server, context: SSL.Context, count: int) -> None:
    """
    Receive *count* megabytes.
    """
    connection = connect(server.port, context)
    connection.sendall(BULK + struct.pack("!I", count))
    read(connection, count << 20)
    connection.close()


def held(server: Server, context: SSL.Context, count: int) -> int:
    """
    Hold *count* connections that have each been answered once.

    Returns:
        Bytes of the server's memory for each.
    """
    first = connect(server.port, context)
    before = server.usage()[1]
    connections = []
    for _ in range(count):
        connection = connect(server.port, context)
        connection.sendall(REQUEST)
        read(connection, len(ANSWER))
        connections.append(connection)
    after = server.usage()[1]
    for connection in (first, *connections):
        connection.close()
    return (after - before) // count


#: Name, what to run, how often, the factor and unit to print a single one in.
WORK: list[tuple[str, Callable[[Server, SSL.Context, int], None], int, float, str]] = [
    ("fresh connection, one request", fresh, 300, 1e6, "us"),
    ("request, one at a time", single, 20000, 1e6, "us"),
    ("requests pipelined", pipelined, 20032, 1e6, "us"),
    ("300 MB", bulk, 300, 300.0, "s"),
]


def main() -> None:
    """
    Measure both and print the table.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", help="write a cProfile of our server here")
    parser.add_argument("--only", help="only lines with this word")
    parser.add_argument("--unpinned", action="store_true")
    options = parser.parse_args()
    if not options.unpinned:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    keys = Credentials()
    context = client_context(keys)
    kinds = ["nodecomm"] if options.profile else ["twisted", "nodecomm"]
    servers = {kind: Server(kind, keys, options.profile) for kind in kinds}
    results: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for name, work, count, _, _ in WORK:
            if options.only and options.only not in name:
                continue
            for kind, server in servers.items():
                before = server.usage()[0]
                work(server, context, count)
                time.sleep(0.05)
                used = (server.usage()[0] - before) / count
                results.setdefault((name, kind), []).append(used)
    for name, _, _, factor, unit in WORK:
        figures = []
        for kind in kinds:
            if (name, kind) in results:
                value = statistics.median(results[name, kind]) * factor
                figures.append(value)
                print(f"{name:32} {kind:10} {value:9.3f} {unit}")
        if len(figures) == 2:
            print(f"{'':32} {'ratio':10} {figures[1] / figures[0]:9.2f}")
    if not options.only:
        for kind, server in servers.items():
            size = held(server, context, 400)
            print(f"{'held connection':32} {kind:10} {size / 1024:9.1f} KiB")
    for server in servers.values():
        server.stop()


if __name__ == "__main__":
    main()
