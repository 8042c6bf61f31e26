# SPDX-License-Identifier: MIT
"""The two servers under measurement, each in a folder of its own."""

from __future__ import annotations

import getpass
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.classic_client import ClassicSession, load_key
from benchmarks.client import Session, client_context
from benchmarks.errors import BenchmarkError
from benchmarks.site import (
    Site,
    cfengine_environment,
    cfengine_folder,
    find_program,
    write_policy,
)

#: Both servers take this many connections; the memory row holds 1,000.
MAX_CONNECTIONS = 2000
#: Seconds until a server that was started must answer; and end when told to.
_START_PATIENCE = 60.0
_STOP_PATIENCE = 20.0

_CF_POLICY = """\
body common control {{ bundlesequence => {{ "main" }}; }}
body server control {{
  port => "{port}";
  bindtointerface => "127.0.0.1";
  allowconnects => {{ "127.0.0.0/8" }};
  allowallconnects => {{ "127.0.0.0/8" }};
  trustkeysfrom => {{ "127.0.0.0/8" }};
  allowlegacyconnects => {{ "127.0.0.0/8" }};
  maxconnections => "{connections}";
}}
bundle agent main {{ }}
bundle server access {{
 access:
  "{served}" admit_ips => {{ "127.0.0.0/8" }};
}}
"""

_OUR_CONFIGURATION = """\
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
state_dir = "{state}"
allowconnects = ["127.0.0.0/8"]
allowallconnects = ["127.0.0.0/8"]
trustkeysfrom = ["127.0.0.0/8"]
allowlegacyconnects = ["127.0.0.0/8"]
trustusers = ["{user}"]
maxconnections = {connections}

[[access]]
path = "{served}"
admit_ips = ["127.0.0.0/8"]
"""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def raise_descriptor_limit() -> None:
    """Let this process, and the servers it starts, hold the connections needed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server:
    """
    A server that was started for the benchmark.

    Attributes:
        name: `theirs` or `ours`.
        pid: Its process.
        port: Where it listens on 127.0.0.1.
        log: Its output.
    """

    name = ""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.port = free_port()
        self.log = folder / "output.log"
        self.pid = 0
        self.user = getpass.getuser()
        self.context: ssl.SSLContext = client_context(site.identity)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Write the configuration and return the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the server's environment."""
        return dict(os.environ)

    def session(self) -> Session:
        """Return a new connection to the server."""
        return Session(self.port, self.context, self.user)

    def classic_session(self) -> ClassicSession:
        """Return a new connection of the classic protocol."""
        return ClassicSession(self.port, load_key(self.site.identity), self.user)

    def start(self) -> None:
        """
        Start the server and wait until it welcomes a client.

        Raises:
            BenchmarkError: It ended or did not answer in time; its last words are in
                the text.
        """
        self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        command = self.command()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid
        end = time.monotonic() + _START_PATIENCE
        reason: Exception | None = None
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.session().close()
                return
            except (OSError, BenchmarkError) as error:
                reason = error
            time.sleep(0.1)
        self.stop()
        raise BenchmarkError(
            f"{' '.join(command)}: does not serve ({reason}). Its last words:\n"
            + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        )

    def stop(self) -> None:
        """End the server, gently first."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class CfServerd(Server):
    """Debian's cf-serverd, in the foreground, without -v."""

    name = "theirs"

    def command(self) -> list[str]:
        """Write a policy and return cf-serverd's command line."""
        cfengine_folder(self.folder)
        self.site.copy_keys(self.folder)
        policy = self.folder / "inputs" / "promises.cf"
        write_policy(
            policy,
            _CF_POLICY.format(
                port=self.port, connections=MAX_CONNECTIONS, served=self.site.served
            ),
        )
        return [str(find_program("cf-serverd")), "-F", "-K", "-f", str(policy)]

    def environment(self) -> dict[str, str]:
        """Return an environment that moves CFEngine's work folder."""
        return cfengine_environment(self.folder)


class Nodecomm(Server):
    """
    Our server under `twistd -n`.

    Args:
        site: What to serve.
        folder: State folder.
        twistd: The twistd to run; by default that of this Python's environment.
        twistd_options: Further options of twistd itself, such as its profiler's.
    """

    name = "ours"

    def __init__(
        self,
        site: Site,
        folder: Path,
        twistd: str | None = None,
        twistd_options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(site, folder)
        self._twistd = twistd or find_twistd()
        self._twistd_options = twistd_options

    def command(self) -> list[str]:
        """Write server.toml and return twistd's command line."""
        state = self.folder / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        self.site.copy_keys(state)
        configuration = self.folder / "server.toml"
        configuration.write_text(
            _OUR_CONFIGURATION.format(
                port=self.port,
                state=state,
                user=self.user,
                connections=MAX_CONNECTIONS,
                served=self.site.served,
            )
        )
        pid_file = self.folder / "twistd.pid"
        return [
            self._twistd,
            "-n",
            f"--pidfile={pid_file}",
            *self._twistd_options,
            "nodecomm-server",
            "-c",
            str(configuration),
        ]


def find_twistd() -> str:
    """
    Return the twistd that belongs to the running Python.

    Raises:
        BenchmarkError: There is none.
    """
    beside = Path(sys.executable).with_name("twistd")
    found = str(beside) if beside.exists() else shutil.which("twistd")
    if found is None:
        raise BenchmarkError("twistd not found: pip install -e . in this environment")
    return found
