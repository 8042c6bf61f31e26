# SPDX-License-Identifier: MIT
"""
A node that blocks, for tests that run the server as a process of its own; and that
process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from OpenSSL import SSL

from nodecomm.identity.keys import KeyPair
from nodecomm.testing import key_pair
from nodecomm.transport.context import client_context
from nodecomm.wire.commands import encode_get, encode_stat
from nodecomm.wire.dialog import ClientDialog
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from tests.forking import Forked

#: Seconds after which a test that waits for something has failed.
PATIENCE = 60


class Node:
    """
    A connection to a server.
    """

    def __init__(self, port: int, key: KeyPair | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        # A blocking socket with a timeout is one that OpenSSL must not see.
        self.socket.setblocking(True)
        self._tls = SSL.Connection(client_context(key or key_pair(1)), self.socket)
        self._tls.set_connect_state()
        self._buffer = TransactionBuffer()
        try:
            self._introduce()
        except BaseException:
            self.close()
            raise

    def _introduce(self) -> None:
        self._tls.do_handshake()
        dialog = ClientDialog(b"root", b"nodecomm-test", 3)
        while not dialog.receive_data(self._tls.recv(16384)):
            pass
        for line in dialog.lines():
            self._tls.send(line)
        while not dialog.receive_data(self._tls.recv(16384)):
            pass

    def request(self, payload: bytes, frames: int = 1) -> list[bytes]:
        """Send a transaction and wait for the answer's."""
        self._tls.send(encode_transaction(payload))
        return [self._receive() for _ in range(frames)]

    def _receive(self) -> bytes:
        while True:
            transaction = self._buffer.next_transaction()
            if transaction is not None:
                return transaction.payload
            self._buffer.feed(self._tls.recv(16384))

    def stat(self, path: bytes) -> bytes:
        """The first transaction of the answer to STAT."""
        first = self.request(encode_stat(int(time.time()), path))[0]
        if first.startswith(b"OK:"):
            # Where a link leads to is a transaction of its own.
            self._receive()
        return first

    def begin_get(self, path: bytes) -> bytes:
        """Ask for a file and read only its first bytes: the server is answering."""
        self._tls.send(encode_transaction(encode_get(path)))
        return self._tls.recv(100)

    def read(self) -> bytes:
        """All until the server closes."""
        data = bytearray()
        while True:
            try:
                data += self._tls.recv(65536)
            except (SSL.ZeroReturnError, SSL.SysCallError):
                return bytes(data)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Server:
    """
    `twistd -n nodecomm-server` as a process, ended at the end of the block.

    Args:
        folder: Where it runs; its state is `state` in it.
        options: Those of the plugin.
        twistd: Those of twistd.
        descriptors: How many it may have open.
        plugin: Another plugin's name.
        prelude: Python that runs before anything of twistd is imported.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        twistd: tuple[str, ...] = (),
        descriptors: int | None = None,
        plugin: str = "nodecomm-server",
        prelude: str = "",
    ) -> None:
        self.folder = folder
        self.out = folder / "stdout"
        self.err = folder / "stderr"
        self.pid_file = folder / "pid"
        environ = {**os.environ, "NODECOMM_STATE_DIR": str(folder / "state")}
        program = [str(Path(sys.executable).with_name("twistd"))]
        if prelude:
            code = f"{prelude}\nfrom twisted.scripts.twistd import run; run()"
            program = [sys.executable, "-c", code]
        if descriptors is not None:
            limit = f'ulimit -n {descriptors}; exec "$@"'
            program = ["sh", "-c", limit, "sh", *program]
        words = ["-n", f"--pidfile={self.pid_file}", *twistd, plugin, *options]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            # What is about modules of others has to come before ours are imported.
            begin = (
                subprocess.Popen if prelude and "nodecomm" not in prelude else Forked
            )
            self.process: subprocess.Popen[bytes] = begin(
                [*program, *words],
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    def wait_for(self, text: str, path: Path | None = None, times: int = 1) -> str:
        """Wait until a file (standard output) holds *text*, and return it all."""
        path = path or self.out
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = path.read_text() if path.exists() else ""
            if found.count(text) >= times:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        found = path.read_text() if path.exists() else "(no such file)"
        raise AssertionError(
            f"{text!r} is not in {path}:\n{found}\nstderr:\n{self.err.read_text()}"
        )

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(PATIENCE)
