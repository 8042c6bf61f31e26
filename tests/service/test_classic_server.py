# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-server` and nodes of the classic protocol: who is let in, what is said
about it, and what happens without the cipher.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.service.classic_node import ClassicNode
from tests.service.node import PATIENCE, Node, Server

pytestmark = pytest.mark.programs

Dial = Callable[..., Any]

CONFIGURATION = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowallconnects = ["127.0.0.1"]
trustkeysfrom = ["127.0.0.1"]
allowlegacyconnects = {allowed}

[log]
format = "json"

[[access]]
path = "{served}"
shortcut = "files"
admit_ips = ["127.0.0.1"]

[[access]]
path = "{served}/sealed"
ifencrypted = true
admit_ips = ["127.0.0.1"]
"""


class Configured:
    """
    A server's folder: its configuration, what it serves, and what it has said.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.served = folder / "served"
        (self.served / "sealed").mkdir(parents=True)
        (self.served / "a").write_text("content")
        (self.served / "sealed" / "s").write_text("secret")
        self.config = folder / "server.toml"
        self.allow("127.0.0.1")

    def allow(self, *addresses: str) -> None:
        """Let these addresses speak the classic protocol."""
        text = CONFIGURATION.format(
            port=self.port, served=self.served, allowed=json.dumps(addresses)
        )
        self.config.write_text(text)

    def start(self, *options: str) -> Server:
        """The server, not yet listening."""
        return Server(self.folder, *options, "-c", str(self.config))

    def events(self, server: Server, name: str) -> list[dict[str, Any]]:
        """The events of this name that were told so far."""
        records = map(json.loads, server.out.read_text().splitlines())
        return [record for record in records if record["event"] == name]


class Raw:
    """
    A connection without a dialog.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def say(self, data: bytes) -> None:
        """Send this, and wait until the server has closed."""
        try:
            self.socket.sendall(data)
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """A server's folder; classic nodes of this machine are allowed."""
    return Configured(tmp_path)


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connects a node of either kind; all are hung up at the end."""
    with ExitStack() as nodes:
        yield lambda kind, port: nodes.enter_context(closing(kind(port)))


def test_both_protocols_on_one_port(configured: Configured, dial: Dial) -> None:
    """
    Nodes of both kinds are served on one port with the same keys and rules. At start
    it is told who may be without protection, and then who is.
    """
    with configured.start() as server:
        server.wait_for("server.started")
        server.wait_for("classic.allowed")
        newer = dial(Node, configured.port)
        assert newer.stat(b"files/a").startswith(b"OK:")
        node = dial(ClassicNode, configured.port)
        assert node.stat(b"files/a").startswith(b"OK:")
        assert node.get(b"files/a", 7) == b"content"
        assert node.stat(b"files/a", sealed=True).startswith(b"OK:")
        assert node.sealed_get(b"files/a") == b"content"
        assert node.sealed_get(b"files/sealed/s") == b"secret"
        assert node.stat(b"/etc/passwd").startswith(b"BAD:")
        # Still served beside it.
        assert newer.stat(b"files/a").startswith(b"OK:")
        node.close()
        server.wait_for("session.closed")
        server.signal(signal.SIGTERM)
        assert server.wait() == -signal.SIGTERM

        (allowed,) = configured.events(server, "classic.allowed")
        assert allowed["networks"] == "127.0.0.1"
        (opened,) = configured.events(server, "session.unprotected")
        assert (opened["peer"], opened["user"]) == ("127.0.0.1", "root")
        assert opened["key"].startswith("MD5=")
        assert configured.events(server, "classic.cipher-missing") == []
        problems = configured.events(server, "config.problem")
        assert ["does not protect" in each["problem"] for each in problems] == [True]
        assert "Traceback" not in server.out.read_text()
        assert server.err.read_text() == ""
    keys = configured.folder / "state" / "ppkeys"
    # Both came with the same key, and it was stored once.
    assert len(list(keys.glob("root-MD5=*.pub"))) == 1


def test_only_encrypted_requests(configured: Configured, dial: Dial) -> None:
    """
    A rule with ifencrypted shows a file in the clear and does not give it; where its
    size was told, the connection ends, so that no node takes a refusal for content.
    """
    with configured.start() as server:
        server.wait_for("server.started")
        node = dial(ClassicNode, configured.port)
        assert node.request(b"GET 2048 files/sealed/s").startswith(b"BAD:")
        assert node.stat(b"files/sealed/s").startswith(b"OK:")
        with pytest.raises(ConnectionError):
            node.request(b"GET 2048 files/sealed/s")
        # The server waits for the other end's good-bye.
        node.close()
        server.wait_for("session.closed")
        (refused,) = configured.events(server, "request.refused")
        assert refused["reason"] == "not_encrypted"
        assert refused["name"] == "files/sealed/s"
        (closed,) = configured.events(server, "request.hung-up")
        assert "a refusal would be taken for the content: rule" in closed["text"]
        assert 'encrypt => "true"' in closed["text"]


def test_reload(configured: Configured, dial: Dial) -> None:
    """
    Whom the list names is looked at for each connection, so a reload lets classic
    nodes in and keeps them out; those with TLS notice nothing.
    """
    configured.allow()
    with configured.start() as server:
        server.wait_for("server.started")
        newer = dial(Node, configured.port)
        with pytest.raises(ConnectionError):
            dial(ClassicNode, configured.port)
        out = server.wait_for("allowlegacyconnects")
        assert "classic.allowed" not in out

        configured.allow("127.0.0.0/8")
        server.signal(signal.SIGHUP)
        server.wait_for("classic.allowed")
        node = dial(ClassicNode, configured.port)
        assert node.stat(b"files/a").startswith(b"OK:")

        configured.allow()
        server.signal(signal.SIGHUP)
        server.wait_for("config.loaded", times=2)
        with pytest.raises(ConnectionError):
            dial(ClassicNode, configured.port)
        # A session of before goes on.
        assert node.stat(b"files/a").startswith(b"OK:")
        assert newer.stat(b"files/a").startswith(b"OK:")
        assert len(configured.events(server, "classic.allowed")) == 1


def test_without_the_cipher(
    configured: Configured, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where OpenSSL has no Blowfish it is told once at start, with what to do; TLS and
    requests in the clear are served, and each encrypted one is refused, with a line
    of its own.
    """
    monkeypatch.setenv("CRYPTOGRAPHY_OPENSSL_NO_LEGACY", "1")
    with configured.start() as server:
        server.wait_for("server.started")
        server.wait_for("classic.cipher-missing")
        assert dial(Node, configured.port).stat(b"files/a").startswith(b"OK:")
        node = dial(ClassicNode, configured.port)
        assert node.stat(b"files/a").startswith(b"OK:")
        assert node.get(b"files/a", 7) == b"content"
        before = server.out.read_text().count("\n")
        assert node.stat(b"files/a", sealed=True).startswith(b"BAD:")
        assert node.sealed_get(b"files/a").startswith(b"BAD:")
        assert node.is_closed()
        # The server waits for the other end's good-bye.
        node.close()
        server.wait_for("session.closed")

        (told,) = configured.events(server, "classic.cipher-missing")
        assert "CRYPTOGRAPHY_OPENSSL_NO_LEGACY" in told["reason"]
        after = server.out.read_text().splitlines()[before:]
        lacking = [line for line in after if "Blowfish" in line]
        assert len(lacking) == 2, after


def test_garbage_on_the_port(configured: Configured, dial: Dial) -> None:
    """
    Bytes of neither protocol, and classic ones that make no sense, end their own
    connection without a traceback.
    """
    with configured.start() as server:
        server.wait_for("server.started")
        for data in (b"GET / HTTP/1.0\r\n\r\n", b"t 4\0\0\0\0\0junk", b"m" * 5000):
            dial(Raw, configured.port).say(data)
        assert dial(ClassicNode, configured.port).stat(b"files/a").startswith(b"OK:")
        assert "Traceback" not in server.out.read_text()
