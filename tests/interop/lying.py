# SPDX-License-Identifier: MIT
"""
A server that lies: it serves a tree that need not exist, and its answers can be false.

It shares no code with the client but OpenSSL and the making of a key.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import TracebackType
from typing import NamedTuple

from OpenSSL import SSL

from nodecomm.identity.keys import KeyPair
from nodecomm.transport.context import server_context

REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"
TERMINATOR = b"---cfXen/gine/cfXen/gine---"
EQUAL, DIFFERENT = b"CFD_FALSE", b"CFD_TRUE"

#: Kinds of objects, as the first number of a status.
FILE, LINK, FOLDER, FIFO, BLOCK, CHARACTER, SOCKET = range(7)

#: Seconds after which a silent client is left alone.
_PATIENCE = 60.0

#: Most bytes in one TLS record.
_RECORD = 16384


def frame(payload: bytes, *, more: bool = False) -> bytes:
    """
    One transaction.
    """
    letter = b"m" if more else b"t"
    return (letter + b" %d" % len(payload)).ljust(8, b"\0") + payload


class Thing(NamedTuple):
    """
    What the server says that a name is.

    Attributes:
        kind: As in a status.
        content: Of a file.
        names: Of a folder.
        mode: Permission bits.
        size: What is announced; None: the truth.
        ino: Its number; None: one of its own.
        target: The text of a link.
    """

    kind: int = FILE
    content: bytes = b""
    names: tuple[bytes, ...] = ()
    mode: int = 0o644
    size: int | None = None
    ino: int | None = None
    target: bytes = b""


def folder(*names: bytes, ino: int | None = None) -> Thing:
    """
    A folder with these names.
    """
    return Thing(FOLDER, names=names, mode=0o755, ino=ino)


def status(thing: Thing, ino: int) -> bytes:
    """
    The answer to a STAT.
    """
    size = len(thing.content) if thing.size is None else thing.size
    link_mode = 0o777 if thing.target else 0
    first = b"OK: %d %d %d 0 0 %d 1600000000 1600000000 1600000000 0 %d 1 5" % (
        thing.kind,
        thing.mode,
        link_mode,
        size,
        ino if thing.ino is None else thing.ino,
    )
    return frame(first) + frame(b"OK:" + thing.target)


def listing(names: Iterable[bytes]) -> bytes:
    """
    The answer to an OPENDIR, in one frame.
    """
    return frame(b"".join(name + b"\0" for name in (*names, TERMINATOR)) + b"\0")


#: Replaces the answer to a request: it gets the word and the path, and returns the
#: bytes to send (or several of them, one after the other), or None for the usual
#: answer.
Lie = Callable[[bytes, bytes], "bytes | Iterator[bytes] | None"]


def no_lie(word: bytes, path: bytes) -> None:
    """
    The usual answers.
    """


@cache
def _key() -> KeyPair:
    return KeyPair.generate()


class LyingServer:
    """
    Listens on a port of 127.0.0.1 and trusts every client.

    Args:
        things: Name to what it is; `b"top"` is the source that tests ask for.
        lie: What is answered otherwise.
        hello: The first line.
        welcome: The second line.

    Attributes:
        port: Where it listens.
        requests: What was asked, word and path.
    """

    def __init__(
        self,
        things: Mapping[bytes, Thing],
        lie: Lie = no_lie,
        *,
        hello: bytes = b"CFE_v3 cf-serverd 3.21.0\n",
        welcome: bytes = b"OK WELCOME USERNAME=root\n",
    ) -> None:
        self.things = dict(things)
        self.lie = lie
        self.hello = hello
        self.welcome = welcome
        self.requests: list[tuple[bytes, bytes]] = []
        self._numbers: dict[bytes, int] = {}
        self._context = server_context(_key())
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._socket.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> LyingServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_PATIENCE)
        self._socket.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        self._open.add(accepted)
        tls = SSL.Connection(self._context, accepted)
        tls.set_accept_state()
        try:
            tls.do_handshake()
            self._talk(tls)
        # Clients leave as they like, in the middle of an answer too.
        except (OSError, SSL.Error):
            pass
        finally:
            self._open.discard(accepted)
            accepted.close()

    def _talk(self, tls: SSL.Connection) -> None:
        tls.sendall(self.hello)
        pending = b""
        while pending.count(b"\n") < 2:
            pending += tls.recv(_RECORD)
        _, _, pending = pending.split(b"\n", 2)
        tls.sendall(self.welcome)
        while True:
            while len(pending) < 8:
                pending += tls.recv(_RECORD)
            size = int(pending[1:8].split(b"\0")[0])
            while len(pending) < 8 + size:
                pending += tls.recv(_RECORD)
            request, pending = pending[8 : 8 + size], pending[8 + size :]
            answer = self._answer(request)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                for start in range(0, len(piece), _RECORD):
                    tls.sendall(piece[start : start + _RECORD])

    def _answer(self, request: bytes) -> bytes | Iterator[bytes]:
        word, _, rest = request.partition(b" ")
        digest = b""
        if word == b"SYNCH":
            _, word, path = rest.split(b" ", 2)
        elif word == b"GET":
            _, _, path = rest.partition(b" ")
        elif word == b"MD5":
            path, _, digest = rest.partition(b"\0")
            digest = digest[1:]
        else:
            path = rest
        self.requests.append((word, path))
        other = self.lie(word, path)
        if other is not None:
            return other
        thing = self.things.get(path)
        if thing is None:
            return frame(REFUSAL)
        if word == b"STAT":
            number = self._numbers.setdefault(path, len(self._numbers) + 100)
            return status(thing, number)
        if word == b"OPENDIR":
            return listing((b".", b"..", *thing.names))
        if word == b"MD5":
            true = hashlib.md5(thing.content).digest()
            return frame(EQUAL if digest == true else DIFFERENT)
        assert word == b"GET", request
        return thing.content
