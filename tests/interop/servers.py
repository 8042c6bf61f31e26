# SPDX-License-Identifier: MIT
"""
The real server and ours, as processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from nodecomm.identity.keys import KeyPair
from tests.forking import Forked
from tests.interop.machine import KEPT, peer_program, wait_until
from tests.interop.nodes import WorkFolder, put_key
from tests.ports import free_port

#: Who is served and trusted.
LOOPBACK = ("127.0.0.0/8", "::1")


def _listens(port: int) -> bool:
    """
    Whether something listens on *port*, without connecting to it.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            # 0A is TCP_LISTEN.
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


class Server(Protocol):
    """
    A running server, whichever it is.
    """

    #: "cf-serverd" or "nodecomm".
    kind: str
    port: int
    #: The folder with localhost.pub and the keys of the nodes.
    ppkeys: Path

    def logs(self) -> str:
        """
        What it has said so far.
        """

    def stop(self) -> None:
        """
        End it and wait until it has ended.
        """


class _Process:
    """
    A server's process: started, waited for, and ended by its number.
    """

    port: int

    def _start(
        self, command: list[str], environment: dict[str, str], cwd: Path, log: Path
    ) -> None:
        self._log = log
        self._sink: IO[bytes] = log.open("ab")
        self._process = Forked(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._sink,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(self._is_up, f"{command[0]} listening on port {self.port}")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.logs()[-4000:]}") from None

    def _is_up(self) -> bool:
        status = self._process.poll()
        if status is not None:
            raise AssertionError(f"the server ended with status {status}")
        return _listens(self.port)

    @property
    def pid(self) -> int:
        """
        The process number.
        """
        return self._process.pid

    @property
    def alive(self) -> bool:
        """
        Whether the process still runs.
        """
        return self._process.poll() is None

    def logs(self) -> str:
        """
        What the server has said so far.
        """
        return self._log.read_text("utf-8", "backslashreplace")

    def stop(self) -> None:
        """
        Ask the server to end, and end it if it does not within 20 s.
        """
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._sink.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class RealServer(_Process):
    """
    cf-serverd on a free port.

    Args:
        work: Its work folder, with a key.
        shares: Shortcut to folder; each may be read by every local address.
        control: More lines for `body server control`.
        access: More promises for the access bundle.
        common: More lines for `body common control`.
        classic: Speak the classic protocol too, with every local address.
        trusting: Trust the keys of all local addresses on first use.
    """

    kind = "cf-serverd"

    def __init__(
        self,
        work: WorkFolder,
        shares: Mapping[str, Path],
        *,
        control: str = "",
        access: str = "",
        common: str = "",
        classic: bool = False,
        trusting: bool = True,
    ) -> None:
        self.work = work
        self.port = free_port()
        self.ppkeys = work.path / "ppkeys"
        networks = "{ " + ", ".join(f'"{network}"' for network in LOOPBACK) + " }"
        if trusting:
            control += f"  trustkeysfrom => {networks};\n"
        if classic:
            control += f"  allowlegacyconnects => {networks};\n"
        promises = "".join(
            f'  "{path}/" shortcut => "{name}", admit_ips => {networks};\n'
            for name, path in shares.items()
        )
        self._policy = work.write_policy(
            "promises.cf",
            f'body common control {{ bundlesequence => {{ "main" }};\n{common} }}\n'
            "body server control {\n"
            f'  port => "{self.port}";\n'
            f"  allowconnects => {networks};\n"
            f"  allowallconnects => {networks};\n"
            '  allowusers => { "root" };\n'
            '  maxconnections => "200";\n'
            f"{control}}}\n"
            "bundle agent main { }\n"
            f"bundle server access {{\n access:\n{promises}{access}}}\n",
        )

    def __enter__(self) -> RealServer:
        self._start(
            [peer_program("cf-serverd"), "-F", "-K", "-v", "-f", str(self._policy)],
            self.work.environment,
            self.work.path,
            self.work.path / "outputs" / "serverd.log",
        )
        return self


class NodecommServer(_Process):
    """
    `twistd -n nodecomm-server` on a free port.

    Args:
        folder: Where its configuration and state are put.
        settings: The configuration in TOML; `{port}` and `{state}` in it are replaced.
            `config_for` makes one.
        arguments: More options of the plugin.
        key: Its key pair; None: it makes one.
    """

    kind = "nodecomm"

    def __init__(
        self,
        folder: Path,
        settings: str,
        *,
        arguments: tuple[str, ...] = (),
        key: KeyPair | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.state = folder / "state"
        self.ppkeys = self.state / "ppkeys"
        self.config = folder / "server.toml"
        self._arguments = arguments
        folder.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(mode=0o700, exist_ok=True)
        if key is not None:
            put_key(self.ppkeys, key)
        self.write_settings(settings)

    def write_settings(self, settings: str) -> None:
        """
        Replace the configuration file; `reload` makes the server read it.
        """
        text = settings.replace("{port}", str(self.port))
        self.config.write_text(text.replace("{state}", str(self.state)))

    def __enter__(self) -> NodecommServer:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        self._start(
            [
                str(Path(sys.executable).with_name("twistd")),
                "--nodaemon",
                "--pidfile=",
                "nodecomm-server",
                "-c",
                str(self.config),
                *self._arguments,
            ],
            {**kept, "PYTHONWARNINGS": "default"},
            self.folder,
            self.folder / "server.log",
        )
        return self

    def reload(self) -> None:
        """
        Make the server read its configuration again.
        """
        os.kill(self.pid, signal.SIGHUP)


def config_for(
    shares: Mapping[str, Path],
    *,
    server: str = "",
    more: str = "",
    classic: bool = False,
    trusting: bool = True,
) -> str:
    """
    A configuration with which nodecomm does what `RealServer` does.

    Args:
        shares: Shortcut to folder.
        server: More lines for the `[server]` table.
        more: More tables.
        classic: Speak the classic protocol too, with every local address.
        trusting: Trust the keys of all local addresses on first use.
    """
    networks = "[" + ", ".join(f'"{network}"' for network in LOOPBACK) + "]"
    if trusting:
        server = f"trustkeysfrom = {networks}\n{server}"
    if classic:
        server += f"allowlegacyconnects = {networks}\n"
    rules = "".join(
        f'[[access]]\npath = "{path}/"\nshortcut = "{name}"\nadmit_ips = {networks}\n'
        for name, path in shares.items()
    )
    return (
        "[server]\n"
        'listen = ["tcp6:{port}"]\n'
        'state_dir = "{state}"\n'
        f"allowconnects = {networks}\n"
        f"allowallconnects = {networks}\n"
        'allowusers = ["root"]\n'
        "maxconnections = 200\n"
        f"{server}\n{rules}{more}"
    )
