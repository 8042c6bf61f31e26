# SPDX-License-Identifier: MIT
"""
Runs CFEngine's own programs, and nodecomm's server, each in a work folder of its own.

Nothing of the machine's own CFEngine is read or written: the environment variable
CFENGINE_TEST_OVERRIDE_WORKDIR moves all that a program knows to the work folder.
Every process that is started here is ended by its number.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, NoReturn, Protocol

import pytest

#: Where programs are that an ordinary user's path leaves out.
_SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/var/cfengine/bin"

#: Seconds that a server may take to listen, and that any one program may run.
START_TIMEOUT = 60.0
RUN_TIMEOUT = 300.0

#: Where free ports are looked for: below the range that systems give to clients.
_PORTS = range(21000, 31000)

#: What a program of the harness may use of the environment.
_KEPT = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME")

#: Arguments: cf-agent and the server. It stands in a file and not on a command line,
#: because the agent takes any process with cf-execd in its arguments for cf-execd.
_BOOTSTRAP = """\
"$1" --bootstrap "$2" -v
status=$?
if pid=$(cat cf-execd.pid) && kill -0 "$pid"
then
    echo "cf-execd runs"
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null && [ -e cf-execd.pid ]; do sleep 0.1; done
fi
exit $status
"""

LOOPBACK = ("127.0.0.0/8", "::1")


def peer_program(name: str) -> str:
    """
    The path of one of CFEngine's programs. Where it is not installed, the test is
    skipped, or fails when NODECOMM_REQUIRE_PEERS=1.
    """
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        missing(f"{name} is not installed (Debian: apt-get install cfengine3)")
    return found


def missing(reason: str) -> NoReturn:
    """
    Skip the test, or fail it where nothing may be missing.
    """
    if os.environ.get("NODECOMM_REQUIRE_PEERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """
    A TCP port that nobody listens on, in either address family.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        try:
            with socket.socket() as four:
                four.bind(("", port))
            if socket.has_ipv6:
                with socket.socket(socket.AF_INET6) as six:
                    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    six.bind(("::", port))
        except OSError:
            continue
        return port
    raise AssertionError(f"no free port in {_PORTS}")


def has_ipv6_loopback() -> bool:
    """
    Whether ::1 can be used on this machine.
    """
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = START_TIMEOUT
) -> None:
    """
    Look at *condition* until it is true.

    Raises:
        AssertionError: It did not become true in *seconds*; the text is *what*.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


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


def isolation() -> list[str]:
    """
    What to put before a command so that it sees no process but its own.

    A bootstrap looks through all processes of the machine: where another cf-execd
    runs it starts none, and where systemd runs it has systemd restart the machine's
    own CFEngine. Where the system cannot give it a process table of its own it may
    run only if neither is there.
    """
    table = ["--pid", "--fork", "--mount-proc", "--kill-child"]
    for words in (["unshare", *table], ["unshare", "--map-root-user", *table]):
        try:
            tried = subprocess.run([*words, "true"], capture_output=True, check=False)
        except FileNotFoundError:
            break
        if tried.returncode == 0:
            return words
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if name == "cf-execd" or (name == "systemd" and entry.name == "1"):
                missing(f"{name} runs here and unshare(1) cannot hide it")
    return []


class Run(NamedTuple):
    """
    How a program ended and what it said, both streams together.
    """

    status: int
    output: str

    @property
    def tls_version(self) -> str | None:
        """
        What was negotiated, such as "TLSv1.3". Only verbose runs say it.
        """
        found = re.search(r"TLS version negotiated:\s*(\S+);", self.output)
        return found[1] if found else None


class WorkFolder:
    """
    A work directory of the CFEngine programs with everything that they insist on.

    Args:
        path: The folder to make.
        key: Make a key pair too.
    """

    def __init__(self, path: Path, *, key: bool = True) -> None:
        self.path = path
        for name in ("inputs", "ppkeys", "state", "modules", "outputs", "bin"):
            (path / name).mkdir(parents=True, mode=0o700)
        path.chmod(0o700)
        # Without cf-promises here the programs put the given policy aside and run
        # their built-in one; the rest is for a bootstrap, which would also start a
        # cf-serverd on the usual port.
        for name in ("cf-agent", "cf-execd", "cf-key", "cf-promises"):
            (path / "bin" / name).symlink_to(peer_program(name))
        (path / "bin" / "cf-serverd").symlink_to(peer_program("true"))
        if key:
            self.cf_key()

    @property
    def environment(self) -> dict[str, str]:
        """
        The environment for a program that lives in this folder.
        """
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        kept["CFENGINE_TEST_OVERRIDE_WORKDIR"] = str(self.path)
        kept["LC_ALL"] = "C"
        return kept

    def write_policy(self, name: str, text: str) -> Path:
        """
        Put a policy file into `inputs`, with the mode that the programs insist on.
        """
        path = self.path / "inputs" / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, program: str, *arguments: str, timeout: float = RUN_TIMEOUT) -> Run:
        """
        Run one of CFEngine's programs to its end.
        """
        done = subprocess.run(
            [peer_program(program), *arguments],
            env=self.environment,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, os.fsdecode(done.stdout))

    def cf_key(self, *arguments: str) -> Run:
        """
        Run cf-key; without arguments it makes the key pair.
        """
        done = self.run("cf-key", *arguments)
        assert done.status == 0, done.output
        return done

    def cf_net(
        self, host: str, port: int, *words: str, options: tuple[str, ...] = ()
    ) -> Run:
        """
        Run cf-net against *host*, which may be an IPv6 address. Its exit status says
        little; look at the output.
        """
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self.run("cf-net", "-H", where, *words)

    def bootstrap(self, host: str, port: int) -> Run:
        """
        Run `cf-agent --bootstrap`, see whether the cf-execd that it started runs, say
        so in the output, and end cf-execd by its pid file.
        """
        script = self.path / "bootstrap.sh"
        script.write_text(_BOOTSTRAP)
        agent = peer_program("cf-agent")
        return self.run_isolated("/bin/sh", str(script), agent, f"{host}:{port}")

    def run_isolated(self, *command: str) -> Run:
        """
        Run a command where it sees no process but its own; see `isolation`.
        """
        done = subprocess.run(
            [*isolation(), *command],
            env=self.environment,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_TIMEOUT,
            check=False,
        )
        return Run(done.returncode, os.fsdecode(done.stdout))

    def end_daemons(self) -> None:
        """
        End every process that lives in this folder.
        """
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                _end(int(entry.name), self)


def _end(pid: int, work: WorkFolder) -> None:
    """
    End a process if it lives in *work*, and wait until it has.
    """

    def lives_here() -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        mark = f"CFENGINE_TEST_OVERRIDE_WORKDIR={work.path}".encode()
        return mark in environment.split(b"\0")

    for number in (signal.SIGTERM, signal.SIGKILL):
        if not lives_here():
            return
        try:
            os.kill(pid, number)
            wait_until(lambda: not lives_here(), f"the end of process {pid}", 10)
        except ProcessLookupError:
            return
        except AssertionError:
            continue


class RealAgent:
    """
    cf-agent with a policy that copies.
    """

    def __init__(self, work: WorkFolder) -> None:
        self.work = work

    def copy(
        self,
        host: str,
        port: int,
        source: str,
        destination: Path,
        *,
        recursive: bool = True,
        tls_ciphers: str | None = None,
        tls_min_version: str | None = None,
        verbose: bool = False,
        timeout: int = 10,
        **copy_from: str,
    ) -> Run:
        """
        Copy *source* of the server to *destination* in one agent run.

        Args:
            host: The server's address.
            port: The server's port.
            source: What is asked for: a path on the server, or a shortcut.
            destination: The local folder, or the file if not *recursive*.
            recursive: Copy a whole tree.
            tls_ciphers: As in `body common control`. A list without a `TLS_` suite
                turns TLS 1.3 off.
            tls_min_version: As in `body common control`.
            verbose: Run with -v: the output says what was negotiated.
            timeout: Seconds until the agent gives up a connection attempt.
            copy_from: Attributes of `body copy_from`, over the defaults here.
        """
        wanted = {
            "compare": "digest",
            "trustkey": "true",
            "preserve": "true",
            "purge": "false",
            "verify": "false",
            "copy_backup": "false",
            "protocol_version": "latest",
            **copy_from,
        }
        control = ""
        if tls_ciphers is not None:
            control += f'  tls_ciphers => "{tls_ciphers}";\n'
        if tls_min_version is not None:
            control += f'  tls_min_version => "{tls_min_version}";\n'
        create = f'  "{destination}/." create => "true";\n' if recursive else ""
        depth = ", depth_search => d" if recursive else ""
        body = "".join(f'  {name} => "{value}";\n' for name, value in wanted.items())
        policy = self.work.write_policy(
            "copy.cf",
            "body common control {\n"
            '  bundlesequence => { "main" };\n'
            f"{control}}}\n"
            f'body agent control {{ default_timeout => "{timeout}"; }}\n'
            "bundle agent main {\n files:\n"
            f"{create}"
            f'  "{destination}" copy_from => c{depth};\n'
            "}\n"
            'body depth_search d { depth => "inf"; }\n'
            "body copy_from c {\n"
            f'  source => "{source}";\n'
            f'  servers => {{ "{host}" }};\n'
            f'  portnumber => "{port}";\n'
            f"{body}}}\n",
        )
        return self.work.run(
            "cf-agent", "-K", "-v" if verbose else "-I", "-f", str(policy)
        )


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
        self._process = subprocess.Popen(
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
    ) -> None:
        self.work = work
        self.port = free_port()
        self.ppkeys = work.path / "ppkeys"
        networks = "{ " + ", ".join(f'"{network}"' for network in LOOPBACK) + " }"
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
            f"  trustkeysfrom => {networks};\n"
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
    """

    kind = "nodecomm"

    def __init__(
        self, folder: Path, settings: str, *, arguments: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.state = folder / "state"
        self.ppkeys = self.state / "ppkeys"
        self.config = folder / "server.toml"
        self._arguments = arguments
        folder.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.write_settings(settings)

    def write_settings(self, settings: str) -> None:
        """
        Replace the configuration file; `reload` makes the server read it.
        """
        text = settings.replace("{port}", str(self.port))
        self.config.write_text(text.replace("{state}", str(self.state)))

    def __enter__(self) -> NodecommServer:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
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


def config_for(shares: Mapping[str, Path], *, server: str = "", more: str = "") -> str:
    """
    A configuration with which nodecomm does what `RealServer` does.

    Args:
        shares: Shortcut to folder.
        server: More lines for the `[server]` table.
        more: More tables.
    """
    networks = "[" + ", ".join(f'"{network}"' for network in LOOPBACK) + "]"
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
        f"trustkeysfrom = {networks}\n"
        'allowusers = ["root"]\n'
        "maxconnections = 200\n"
        f"{server}\n{rules}{more}"
    )
