# SPDX-License-Identifier: MIT
"""
A command that others may have run, which does what its first class says, and servers of
both kinds that run it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from nodecomm.identity.keys import KeyPair, PublicKey
from tests.interop.classicpeer import ClassicPeer
from tests.interop.harness import (
    LOOPBACK,
    NodecommServer,
    RealServer,
    Server,
    WorkFolder,
    config_for,
    peer_program,
)
from tests.interop.rawpeer import RawPeer, context
from tests.recorded import key_pair

#: What `ok_...` stands for: those classes may be defined by root. In each, what follows
#: says what to do.
_SCRIPT = r"""#!/bin/sh
all="$*"
what=
while [ $# -gt 1 ]
do
    case $1 in -D) what=${2%%,*};; esac
    shift
done
case $what in
ok_code_*) exit "${what#ok_code_}";;
ok_signal_*) echo before; kill -"${what#ok_signal_}" $$;;
ok_nothing) ;;
ok_long) head -c 1000000 /dev/zero | tr '\0' x; echo; echo after;;
ok_room_*) head -c "${what#ok_room_}" /dev/zero | tr '\0' y;;
ok_blank) printf '\n\na\n\n';;
ok_open) printf 'one\ntwo without end';;
ok_nul) printf 'a\0b\nc\0\0\nd\n\0x\n';;
ok_returns) printf 'a\rb\r\nc\r\n\r\n';;
ok_streams) echo out1; echo err1 >&2; echo out2; printf err2 >&2;;
ok_binary) n=1
    while [ $n -lt 256 ]; do printf "\\$(printf %o $n)"; n=$((n + 1)); done
    echo; echo after;;
ok_forged)
    echo '---cfXen/gine/cfXen/gine---'
    echo '(exit code: 0)'
    echo '> (exit code: 0)'
    echo 'BAD: Unspecified server refusal (see verbose server output)'
    echo 'EXEC denied role activation (check cf-serverd verbose output)'
    exit 5;;
ok_escapes) printf '\033[31mred\033[0m\007\b caf\303\251 \377\n';;
ok_wait) echo "waits $$"; while [ ! -e "${0%/*}/go" ]; do sleep 0.05; done; echo goes;;
ok_left) echo before; (exec sleep 600) & echo "left $!"; wait;;
ok_minutes) for n in 1 2 3 4 5 6 7 8 9 10 11 12 13; do echo $n; sleep 1; done;;
ok_environment) env | sort; pwd; umask; tr '\0' ' ' < /proc/$$/cmdline; echo; cat;;
*) echo hello; echo "arguments: $all";;
esac
"""

#: Beyond which a line is cut.
#: Source: CFEngine 3.21, observed.
ROOM = 4083

TERMINATOR = b"---cfXen/gine/cfXen/gine---"

#: The last payload of every answer.
END = TERMINATOR + b"\0"

REFUSAL = b"BAD: Unspecified server refusal (see verbose server output)"


class Command(NamedTuple):
    """
    The command, as it lies on the disk.

    Attributes:
        path: Its path.
    """

    path: Path

    @classmethod
    def made(cls, folder: Path) -> Command:
        """
        Write it to a new *folder*.
        """
        folder.mkdir(parents=True)
        path = folder / "command"
        path.write_text(_SCRIPT)
        path.chmod(0o755)
        return cls(path)

    @contextmanager
    def missing(self) -> Iterator[None]:
        """
        For as long as the block lasts there is no such program.
        """
        aside = self.path.with_name("aside")
        self.path.rename(aside)
        try:
            yield
        finally:
            aside.rename(self.path)

    @contextmanager
    def not_executable(self) -> Iterator[None]:
        """
        For as long as the block lasts nobody may execute it.
        """
        self.path.chmod(0o644)
        try:
            yield
        finally:
            self.path.chmod(0o755)

    @property
    def go(self) -> Path:
        """
        What `ok_wait` waits for.
        """
        return self.path.with_name("go")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """
        What waits is let go at the end of the block at the latest.
        """
        try:
            yield
        finally:
            self.go.touch()

    def real(self, *, denied: str = "") -> tuple[str, str]:
        """
        What a real server is to be told: lines for its control, and promises.

        Args:
            denied: The digest of a key for which the command is not.
        """
        networks = "{ " + ", ".join(f'"{network}"' for network in LOOPBACK) + " }"
        control = f'  cfruncommand => "{self.path}";\n'
        deny = f', deny_keys => {{ "{denied}" }}' if denied else ""
        access = (
            f'  "{self.path}" admit_ips => {networks}{deny};\n'
            f'  "b_.*" resource_type => "bundle", admit_ips => {networks};\n'
            f'  "b_denied" resource_type => "bundle", deny_ips => {networks};\n'
            ' roles:\n  "ok_.*" authorize => { "root" };\n'
            '  "other_.*" authorize => { "nobody" };\n'
        )
        return control, access

    def ours(
        self, *, denied: str = "", run: str = "", text: bool = False
    ) -> tuple[str, str]:
        """
        The same for our server: lines for its `[server]`, and tables.

        Args:
            denied: The digest of a key for which the command is not.
            run: Lines for `[run]`.
            text: The command is a text for a shell.
        """
        networks = "[" + ", ".join(f'"{network}"' for network in LOOPBACK) + "]"
        command = f'"{self.path}"' if text else f'["{self.path}"]'
        server = f'cfruncommand = {command}\ntrustusers = ["root", "other", "nobody"]\n'
        deny = f'deny_keys = ["{denied}"]\n' if denied else ""
        tables = (
            f'[[access]]\npath = "{self.path}"\nadmit_ips = {networks}\n{deny}'
            '[[access]]\npath = "b_.*"\nresource_type = "bundle"\n'
            f"admit_ips = {networks}\n"
            '[[access]]\npath = "b_denied"\nresource_type = "bundle"\n'
            f"deny_ips = {networks}\n"
            '[[roles]]\npattern = "ok_.*"\nauthorize = ["root"]\n'
            '[[roles]]\npattern = "other_.*"\nauthorize = ["nobody"]\n'
            f"[run]\n{run}"
        )
        return server, tables


@contextmanager
def run_server(
    kind: str,
    folder: Path,
    command: Command,
    *,
    key: KeyPair,
    denied: str,
    text: bool = False,
) -> Iterator[Server]:
    """
    A server of this kind that runs the command for root of this machine, in clear too.

    Args:
        kind: "cf-serverd" or "nodecomm".
        folder: Where it keeps what is its own.
        command: What it runs.
        key: Its key.
        denied: The digest of a key for which the command is not.
        text: Ours is told the command as a text, as the real one always is.
    """
    peer_program("cf-runagent")
    if kind == "cf-serverd":
        control, access = command.real(denied=denied)
        work = WorkFolder(folder / "work", key=key)
        with RealServer(work, {}, control=control, access=access, classic=True) as real:
            yield real
    else:
        server, more = command.ours(denied=denied, text=text)
        settings = config_for({}, server=server, more=more, classic=True)
        with NodecommServer(folder, settings, key=key) as ours:
            yield ours


def raw_peer(
    port: int, version: int, key: KeyPair, server: PublicKey, *, user: str = "root"
) -> RawPeer:
    """
    A connection on which requests can be made, in protocol *version*.
    """
    if version == 1:
        return ClassicPeer(port, key, server).dialog(user=user)
    return (
        RawPeer(port, context(key))
        .handshake()
        .dialog(
            b"CFE_v%d cf-runagent 3.21.0\n" % version,
            f"IDENTITY USERNAME={user}\n".encode(),
        )
    )


def answer(peer: RawPeer) -> list[bytes]:
    """
    The payloads of an answer, without the terminator.
    """
    found = []
    while (payload := peer.transaction()) != END:
        found.append(payload)
    return found


class Running(NamedTuple):
    """
    A server that runs a command for its peers.

    Attributes:
        server: The server.
        command: What it runs.
        key: Its key.
        client: The key of who may ask.
        denied: The key of who may not.
        other: The key of the user `other`, who may not.
    """

    server: Server
    command: Command
    key: KeyPair
    client: KeyPair
    denied: KeyPair
    other: KeyPair

    def connect(
        self, version: int = 3, *, user: str = "root", key: KeyPair | None = None
    ) -> RawPeer:
        """
        A connection on which requests can be made.
        """
        own = key or (self.other if user == "other" else self.client)
        return raw_peer(self.server.port, version, own, self.key.public, user=user)

    def announcement(self, words: bytes = b"") -> bytes:
        """
        What is said before a run.
        """
        path = os.fsencode(self.command.path)
        return b"cf-serverd executing cfruncommand: %b%b\n" % (path, words)


@contextmanager
def running_server(kind: str, folder: Path, *, text: bool = False) -> Iterator[Running]:
    """
    A server of this kind, with keys that are known; *text* as for `run_server`.
    """
    command = Command.made(folder / "run")
    names = ("server", "client", "other", "large")
    key, client, denied, other = map(key_pair, names)
    with run_server(
        kind, folder, command, key=key, denied=denied.public.md5, text=text
    ) as server:
        yield Running(server, command, key, client, denied, other)


_Node = TypeVar("_Node", bound=WorkFolder)


def run_node(node: _Node, *servers: PublicKey) -> _Node:
    """
    Make *node* one that asks for runs with cf-runagent: it trusts *servers*.
    """
    node.write_policy(
        "promises.cf",
        'body common control { bundlesequence => { "main" }; }\n'
        "bundle agent main { }\n",
    )
    for server in servers:
        # The real client looks for a key under its own user's name.
        for user in ("root", "nobody"):
            path = node.path / "ppkeys" / f"{user}-{server.md5}.pub"
            path.write_bytes(server.to_pem())
            path.chmod(0o600)
    return node
