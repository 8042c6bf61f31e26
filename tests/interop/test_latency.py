# SPDX-License-Identifier: MIT
"""
The delaying relay changes nothing but the time, unless it is told to.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.interop.latency import DelayedRelay
from tests.interop.machine import wait_until
from tests.interop.trees import content
from tests.ports import free_port

_SILENCE = 30.0


class _Listener:
    """
    A server that runs a function for each connection.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(accepted,), daemon=True).start()

    def _one(self, accepted: socket.socket) -> None:
        with accepted:
            accepted.settimeout(_SILENCE)
            # A connection that is cut breaks here too.
            with contextlib.suppress(OSError):
                self._serve(accepted)

    def stop(self) -> None:
        """
        Take no more.
        """
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_SILENCE)
        self._socket.close()


def _echo(accepted: socket.socket) -> None:
    """
    Say what is said, until the end.
    """
    while data := accepted.recv(1 << 16):
        accepted.sendall(data)


def _connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), _SILENCE)
    made.settimeout(_SILENCE)
    return made


def _all(source: socket.socket) -> bytes:
    """
    Everything until the end, or until it is reset.
    """
    data = b""
    try:
        while piece := source.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.fixture
def echo() -> Iterator[int]:
    """
    The port of a server that says what is said to it.
    """
    listener = _Listener(_echo)
    yield listener.port
    listener.stop()


@pytest.mark.parametrize("round_trip", [0.0, 0.02])
def test_bytes_keep_their_order(echo: int, round_trip: float) -> None:
    """
    Megabytes come through both ways unchanged on several connections at once, and the
    end of what is said is passed on while the answer still comes.
    """
    sent = [content(3_000_000, seed) for seed in range(3)]
    with DelayedRelay(echo, round_trip) as relay:
        peers = [_connect(relay.port) for _ in sent]

        def say(peer: socket.socket, data: bytes) -> None:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)

        sayers = [
            threading.Thread(target=say, args=pair)
            for pair in zip(peers, sent, strict=True)
        ]
        for sayer in sayers:
            sayer.start()
        got = [_all(peer) for peer in peers]
        for sayer, peer in zip(sayers, peers, strict=True):
            sayer.join()
            peer.close()

    assert got == sent
    assert relay.accepted == 3
    assert relay.most_at_once == 3
    assert relay.received == sum(map(len, sent))


def test_what_waits_for_an_answer_takes_a_round_trip(echo: int) -> None:
    """
    Connecting and each question that waits for the answer before take at least a
    round trip; questions that do not wait arrive together.
    """
    with DelayedRelay(echo, 0.05) as relay:
        begun = time.monotonic()
        with _connect(relay.port) as peer:
            for _ in range(3):
                peer.sendall(b"?")
                assert peer.recv(1) == b"?"
        one_by_one = time.monotonic() - begun
        with _connect(relay.port) as peer:
            for _ in range(100):
                peer.sendall(b"?")
            got = b""
            while len(got) < 100:
                got += peer.recv(100)

    assert one_by_one >= 4 * 0.05
    assert got == b"?" * 100


def test_a_cut_lets_so_many_bytes_pass(echo: int) -> None:
    """
    A connection that is cut gives at most so many bytes of the answer, the first
    ones; the connection after the last cut is whole.
    """
    data = content(200_000)
    got = []
    with DelayedRelay(echo, cuts=[0, 1, 70_000]) as relay:
        for _ in range(4):
            with _connect(relay.port) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                got.append(_all(peer))

    assert [len(piece) for piece in got] == [0, 1, 70_000, 200_000]
    assert all(data.startswith(piece) for piece in got)


def test_silence_closes_nothing(echo: int) -> None:
    """
    After a silence begins nothing comes any more, and no end either.
    """
    with DelayedRelay(echo, silences=[3]) as relay, _connect(relay.port) as peer:
        peer.sendall(b"12345")
        got = b""
        while len(got) < 3:
            got += peer.recv(10)
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(10)

    assert got == b"123"


def test_nobody_listens() -> None:
    """
    A server that is not there is a connection that ends without a byte.
    """
    with DelayedRelay(free_port(), 0.01) as relay, _connect(relay.port) as peer:
        assert _all(peer) == b""


def test_connections_that_overlap_are_counted(echo: int) -> None:
    """
    One connection after the end of another is one at a time.
    """
    with DelayedRelay(echo, 0.01) as relay:
        for _ in range(3):
            with _connect(relay.port) as peer:
                peer.shutdown(socket.SHUT_WR)
                assert _all(peer) == b""
        wait_until(lambda: relay.accepted == 3, "three connections")

    assert relay.most_at_once == 1
