# SPDX-License-Identifier: MIT
"""
`twistd nodecomm-server` as a process: start, mistakes, reload, rotation, stop.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from twisted.python import usage

from nodecomm.service.logs import Verbosity
from nodecomm.tap_server import Options
from tests.ports import free_port
from tests.service.node import PATIENCE, Node, Server

Dial = Callable[[int], Node]

RULES = """
[[access]]
path = "{path}"
shortcut = "files"
admit_ips = ["{admit}"]
"""

SERVER = """
[server]
listen = ["tcp:{port}:interface=127.0.0.1"]
allowallconnects = ["127.0.0.1"]
trustkeysfrom = ["127.0.0.1"]
"""


@pytest.fixture
def port() -> int:
    """A free port."""
    return free_port()


@pytest.fixture
def dial() -> Iterator[Callable[[int], Node]]:
    """Connects a node to a port; all are hung up at the end."""
    with ExitStack() as nodes:
        yield lambda port: nodes.enter_context(closing(Node(port)))


def configured(
    folder: Path, port: int, *, admit: str = "127.0.0.1", more: str = ""
) -> Path:
    """
    A configuration file that serves the folder `served`.
    """
    served = folder / "served"
    served.mkdir(exist_ok=True)
    (served / "a.txt").write_text("content")
    path = folder / "server.toml"
    rules = RULES.format(path=served, admit=admit)
    path.write_text(SERVER.format(port=port) + more + rules)
    return path


def test_options() -> None:
    """The options say how much is logged and how."""
    options = Options()
    options.parseOptions(["-v", "--json-log", "-c", "x.toml"])

    assert options.verbosity is Verbosity.VERBOSE
    assert options["log-format"] == "json"
    assert options["config"] == "x.toml"

    options = Options()
    options.parseOptions(["--debug", "--log-format", "text"])
    assert options.verbosity is Verbosity.DEBUG
    assert Options().verbosity is Verbosity.NORMAL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log-format", "xml"], "text or json"),
        (["--json-log", "--log-format", "text"], "disagree"),
        (["server.toml"], "-c FILE"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    """What cannot be meant is a usage error that says what to write."""
    with pytest.raises(usage.UsageError, match=message):
        Options().parseOptions(arguments)


def test_help_teaches() -> None:
    """`--help` shows how to try the server and how to run it."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "nodecomm-server",
            "--help",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )

    assert "twistd -n nodecomm-server --state-dir ./var" in done.stdout
    assert "[[access]]" in done.stdout
    assert "--config=" in done.stdout


@pytest.mark.programs
def test_every_mistake_is_told(tmp_path: Path, port: int) -> None:
    """
    A configuration with mistakes ends the program with a line for each of them, of
    reading, of rules and of plugins, with status 1 and without a traceback.
    """
    config = configured(
        tmp_path,
        port,
        admit="192.168.",
        more='maxconnection = 5\n[plugins]\ncommands = ["nowhere"]\n',
    )
    with Server(tmp_path, "-c", str(config)) as server:
        assert server.wait() == 1
        told = server.err.read_text()

    assert server.out.read_text() == ""
    assert "Traceback" not in told
    *lines, last = told.splitlines()
    assert last == "error: 3 errors in the configuration"
    assert all(line.startswith(f"{config}:") for line in lines)
    for text in ("maxconnection", "nowhere", "192.168."):
        assert any(text in line and ": error: " in line for line in lines)
    assert not (tmp_path / "state").exists()


@pytest.mark.programs
def test_a_missing_file(tmp_path: Path) -> None:
    """A configuration file that is not there is one line."""
    with Server(tmp_path, "-c", "missing.toml") as server:
        assert server.wait() == 1
        told = server.err.read_text()

    assert "missing.toml" in told
    assert "Traceback" not in told


@pytest.mark.programs
def test_an_address_in_use(tmp_path: Path) -> None:
    """An address that is taken is one line with the address and the errno."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = configured(tmp_path, port)
        with Server(tmp_path, "-c", str(config)) as server:
            assert server.wait() == 1
            told = server.err.read_text()

    assert told.startswith(
        f"error: cannot listen on tcp:{port}:interface=127.0.0.1:"
        " Address already in use (EADDRINUSE); "
    )
    assert f'listen = ["tcp:{port % 65535 + 1}:interface=127.0.0.1"]' in told
    assert told.count("\n") == 1
    assert not server.pid_file.exists()


def test_a_daemon_that_cannot_start(tmp_path: Path) -> None:
    """Whoever starts a daemon is told why it did not start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = configured(tmp_path, taken.getsockname()[1])
        done = subprocess.run(
            [
                *(sys.executable, "-c"),
                "from twisted.scripts.twistd import run; run()",
                f"--pidfile={tmp_path / 'pid'}",
                f"--logfile={tmp_path / 'log'}",
                *("nodecomm-server", "-c", str(config)),
                *("--state-dir", str(tmp_path / "state")),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
    assert "EADDRINUSE" in (tmp_path / "log").read_text()
    # Whoever started it is told first; then the daemon removes its PID file.
    ends = time.monotonic() + PATIENCE
    while (tmp_path / "pid").exists() and time.monotonic() < ends:
        time.sleep(0.01)
    assert not (tmp_path / "pid").exists()


@pytest.mark.programs
def test_a_broken_key(tmp_path: Path, port: int) -> None:
    """An own key that cannot be used is one line that says what to do."""
    keys = tmp_path / "state" / "ppkeys"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "localhost.priv").write_text("no key")
    with Server(tmp_path, "-c", str(configured(tmp_path, port))) as server:
        assert server.wait() == 1
        told = server.err.read_text()

    assert told.count("\n") == 1
    assert "localhost.priv: not a private key" in told


@pytest.mark.programs
def test_a_broken_database(tmp_path: Path, port: int) -> None:
    """A file that is no database is one line."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "nodecomm.sqlite").write_bytes(b"garbage" * 1000)
    with Server(tmp_path, "-c", str(configured(tmp_path, port))) as server:
        assert server.wait() == 1
        told = server.err.read_text()

    assert told.count("\n") == 1
    assert "nodecomm.sqlite: file is not a database" in told


def test_serving_and_stopping(tmp_path: Path, port: int, dial: Dial) -> None:
    """
    The server makes state folder and key, serves, logs a line for session and
    refusal, audits each request, and ends cleanly on SIGTERM.
    """
    audit = tmp_path / "audit.log"
    config = configured(tmp_path, port, more=f'[log]\naudit = "{audit}"\n')
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        node = dial(port)
        assert node.stat(b"files/a.txt").startswith(b"OK:")
        assert node.stat(b"/etc/passwd").startswith(b"BAD:")
        node.close()
        server.wait_for("session.closed")
        server.signal(signal.SIGTERM)
        # twistd ends itself by the same signal once everything is closed.
        assert server.wait() == -signal.SIGTERM
        out = server.out.read_text()

    state = tmp_path / "state"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "ppkeys" / "localhost.priv").exists()
    assert not server.pid_file.exists()
    names = [line.split()[2].rstrip(":") for line in out.splitlines()]
    for name in ("key.generated", "trust.window-open", "trust.accepted"):
        assert names.count(name) == 1
    for name in ("request.refused", "session.closed", "server.stopped"):
        assert names.count(name) == 1
    assert "request" not in names
    assert "session.opened" not in names
    assert "Traceback" not in out
    assert server.err.read_text() == ""

    records = [json.loads(line) for line in audit.read_text().splitlines()]
    (served,) = [
        record
        for record in records
        if record["event"] == "request" and record["outcome"] == "ok"
    ]
    assert served["user"] == "root"
    assert served["name"] == "files/a.txt"
    assert served["origin"].startswith(str(config))
    assert served["bytes"] > 0
    assert served["seconds"] >= 0
    assert records[-1]["event"] == "session.closed"
    assert audit.stat().st_mode & 0o137 == 0


@pytest.mark.programs
def test_few_descriptors(tmp_path: Path, port: int, dial: Dial) -> None:
    """Where descriptors are few `maxconnections` is lowered, told once, and served."""
    config = configured(tmp_path, port, more="maxconnections = 1000\n")
    with Server(tmp_path, "-c", str(config), descriptors=600) as server:
        out = server.wait_for("server.started")
        assert out.count("limit.lowered") == 1
        assert "maxconnections is 344 instead of 1000" in out
        assert dial(port).stat(b"files/a.txt").startswith(b"OK:")


def test_reload(tmp_path: Path, port: int, dial: Dial) -> None:
    """
    On SIGHUP a good file is in force for open connections too; a bad one changes
    nothing and is told with its mistakes.
    """
    config = configured(tmp_path, port)
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        node = dial(port)
        assert node.stat(b"files/a.txt").startswith(b"OK:")
        node.close()

        configured(tmp_path, port, more="unknown = 1\n")
        server.signal(signal.SIGHUP)
        out = server.wait_for("config.rejected")
        assert f"{config}:6:1: error: " in out
        node = dial(port)
        assert node.stat(b"files/a.txt").startswith(b"OK:")

        configured(tmp_path, port, admit="10.0.0.1")
        server.signal(signal.SIGHUP)
        server.wait_for("config.loaded")
        assert node.stat(b"files/a.txt").startswith(b"BAD:")

        second = free_port()
        configured(tmp_path, second, more='allowciphers = "AES256-GCM-SHA384"\n')
        server.signal(signal.SIGHUP)
        out = server.wait_for("config.loaded", times=2)
        assert "config.needs-restart" in server.wait_for("server.allowciphers")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        moved = dial(second)
        assert moved.stat(b"files/a.txt").startswith(b"OK:")
        # The connection from before is still served.
        assert node.stat(b"files/a.txt").startswith(b"OK:")


@pytest.mark.programs
def test_a_folder_that_went_away(tmp_path: Path, port: int, dial: Dial) -> None:
    """
    A reload while a rule's folder is missing keeps the rules of before: otherwise
    everything below it would be refused, and purged by the nodes.
    """
    config = configured(tmp_path, port)
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        (tmp_path / "served").rename(tmp_path / "moved")
        server.signal(signal.SIGHUP)
        out = server.wait_for("config.rejected")
        assert "this folder was here before and is not here now" in out
        (tmp_path / "moved").rename(tmp_path / "served")
        node = dial(port)
        assert node.stat(b"files/a.txt").startswith(b"OK:")


@pytest.mark.programs
def test_an_address_that_cannot_be_had_on_reload(
    tmp_path: Path, port: int, dial: Dial
) -> None:
    """When a new address is taken the server stays where it is and says so."""
    config = configured(tmp_path, port)
    with Server(tmp_path, "-c", str(config)) as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server.wait_for("server.started")
        configured(tmp_path, taken.getsockname()[1], admit="10.0.0.1")
        server.signal(signal.SIGHUP)
        out = server.wait_for("config.needs-restart")
        assert "EADDRINUSE" in out
        told = [line for line in out.splitlines() if "config.needs-restart" in line]
        assert "server.listen" in told[-1]
        node = dial(port)
        assert node.stat(b"files/a.txt").startswith(b"BAD:")


def test_log_files_are_reopened(tmp_path: Path, port: int, dial: Dial) -> None:
    """On SIGHUP log and audit log go to new files of their old names."""
    log, audit = tmp_path / "server.log", tmp_path / "audit.log"
    more = f'[log]\nfile = "{log}"\naudit = "{audit}"\nformat = "json"\n'
    config = configured(tmp_path, port, more=more)
    with Server(tmp_path, "-v", "-c", str(config)) as server:
        server.wait_for("server.started", log)
        for path in (log, audit):
            path.rename(path.with_suffix(".1"))
        server.signal(signal.SIGHUP)
        server.wait_for("config.loaded", log)
        node = dial(port)
        node.stat(b"files/a.txt")
        node.close()
        server.wait_for("session.closed", log)
        server.signal(signal.SIGTERM)
        server.wait()

    old = [json.loads(line) for line in log.with_suffix(".1").read_text().splitlines()]
    new = [json.loads(line) for line in log.read_text().splitlines()]
    assert "server.started" in [record["event"] for record in old]
    assert "server.started" not in [record["event"] for record in new]
    assert "request" in [record["event"] for record in new]
    audited = [json.loads(line) for line in audit.read_text().splitlines()]
    assert "session.opened" in [record["event"] for record in audited]


@pytest.mark.programs
def test_a_log_folder_that_went_away(tmp_path: Path, port: int) -> None:
    """A log that cannot be opened again costs neither the reload nor the old file."""
    folder = tmp_path / "logs"
    folder.mkdir()
    more = f'[log]\nfile = "{folder}/log"\naudit = "{folder}/audit"\n'
    config = configured(tmp_path, port, more=more)
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started", folder / "log")
        moved = folder.rename(tmp_path / "moved")
        server.signal(signal.SIGHUP)
        out = server.wait_for("config.loaded", moved / "log")
        assert "log.failed" in out
        server.wait_for("audit.failed", moved / "log")
        folder.mkdir()
        server.signal(signal.SIGHUP)
        server.wait_for("audit.recovered", folder / "log")


@pytest.mark.programs
def test_an_answer_under_way_ends(tmp_path: Path, port: int, dial: Dial) -> None:
    """SIGTERM waits for an answer that is being read, and for nothing else."""
    config = configured(tmp_path, port)
    size = 30_000_000
    with (tmp_path / "served" / "big").open("wb") as big:
        big.truncate(size)
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        idle, node = dial(port), dial(port)
        first = node.begin_get(b"files/big")
        server.signal(signal.SIGTERM)
        server.wait_for("server.stopping")
        assert idle.read() == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        # `timeout` sends it twice; someone at a terminal is impatient.
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(node.read()))
        reader.start()
        reader.join(PATIENCE)
        assert server.wait() == -signal.SIGTERM
        out = server.out.read_text()

    assert len(first) + len(received[0]) == size
    assert "Traceback" not in out
    for names_of_twisted in ("ReactorNotRunning", "log_legacy", "Factory"):
        assert names_of_twisted not in out


@pytest.mark.programs
def test_stop_grace_is_an_end(tmp_path: Path, port: int, dial: Dial) -> None:
    """A peer that does not read its answer does not keep the server from stopping."""
    config = configured(tmp_path, port, more="[limits]\nstop_grace = 0.2\n")
    with (tmp_path / "served" / "big").open("wb") as big:
        big.truncate(300_000_000)
    with Server(tmp_path, "-c", str(config)) as server:
        server.wait_for("server.started")
        node = dial(port)
        node.begin_get(b"files/big")
        server.signal(signal.SIGTERM)
        server.wait()

        assert "server.stopped" in server.out.read_text()


@pytest.mark.programs
def test_embedded_defaults(tmp_path: Path, port: int) -> None:
    """
    Without a file the server makes a sample policy and says what to type next. The
    port of the defaults may be taken on this machine; that is not its matter here.
    """
    if os.path.exists("/etc/nodecomm/server.toml"):
        pytest.skip("this machine has a configuration of its own")
    with Server(tmp_path, "--state-dir", "var") as server:
        try:
            out = server.wait_for("cf-agent --bootstrap 127.0.0.2")
        except AssertionError:
            assert "EADDRINUSE" in server.err.read_text()
        else:
            assert "embedded defaults" in out
            assert "key list --state-dir var" in out
            # Nobody is served unprotected unless somebody says so.
            assert "classic" not in out

    assert (tmp_path / "var" / "masterfiles" / "promises.cf").exists()
