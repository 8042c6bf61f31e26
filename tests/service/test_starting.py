# SPDX-License-Identifier: MIT
"""
Starting programs for good.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nodecomm.service.processes import Listener, command_line, find_listener, runs
from nodecomm.service.starting import (
    Background,
    CannotStart,
    Systemd,
    choose_starter,
    run_command,
    systemd_runs,
)
from nodecomm.service.units import AGENT, SERVER, unit_text
from tests.service.node import PATIENCE

TWISTD = ["/opt/bin/twistd"]
CONFIG = Path("/etc/nodecomm/agent.toml")


class Systemctl:
    """
    A systemd with one unit.
    """

    def __init__(self, *, fails: str = "") -> None:
        self.main_pid = 0
        self.fails = fails
        self.calls: list[str] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        assert command[0] == "systemctl"
        words = list(command[1:])
        if words[0] == "show":
            return 0, f"{self.main_pid}\n"
        self.calls.append(" ".join(words))
        if words[0] == self.fails:
            return 1, "Job failed.\n"
        if words[0] == "start":
            self.main_pid = 4711
        return 0, ""


class TestSystemd:
    """
    Units.
    """

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "system"
        folder.mkdir()
        return folder

    def starter(self, folder: Path, systemctl: Systemctl) -> Systemd:
        packaged = folder.parent / "packaged"
        return Systemd(
            AGENT, CONFIG, TWISTD, folder=folder, packaged=[packaged], run=systemctl
        )

    def test_first_start(self, folder: Path) -> None:
        """
        The unit is written, enabled for the next boot, and started; what is told says
        how to stop it and where its log is.
        """
        systemctl = Systemctl()
        started = self.starter(folder, systemctl).start(reload=True)

        unit = folder / "nodecomm-agent.service"
        assert unit.read_text().endswith(unit_text(AGENT, TWISTD, CONFIG))
        assert systemctl.calls == [
            "daemon-reload",
            "enable nodecomm-agent.service",
            "start nodecomm-agent.service",
        ]
        assert (started.how, started.pid) == ("started", 4711)
        assert "systemctl disable --now nodecomm-agent.service" in started.text
        assert started.log == "journalctl -u nodecomm-agent.service"

    @pytest.mark.parametrize(
        ("reload", "how", "last"),
        [(True, "reloaded", "reload"), (False, "running", "enable")],
    )
    def test_one_that_runs(
        self, folder: Path, reload: bool, how: str, last: str
    ) -> None:
        """
        A unit that runs is not started again, and reads its configuration again when
        asked to.
        """
        systemctl = Systemctl()
        systemctl.main_pid = 12
        started = self.starter(folder, systemctl).start(reload=reload)

        assert (started.how, started.pid) == (how, 12)
        assert systemctl.calls[-1] == f"{last} nodecomm-agent.service"

    def test_a_unit_of_the_administrator(self, folder: Path) -> None:
        """
        A unit that bootstrap has not written, or that was changed since, is used as it
        is.
        """
        unit = folder / "nodecomm-agent.service"
        unit.write_text("[Service]\nExecStart=/bin/mine\n")
        started = self.starter(folder, Systemctl()).start(reload=True)

        assert unit.read_text() == "[Service]\nExecStart=/bin/mine\n"
        assert "left as is" in started.text

    def test_a_unit_of_a_package(self, folder: Path) -> None:
        """
        Where a package brings a unit no other one is written.
        """
        packaged = folder.parent / "packaged"
        packaged.mkdir()
        (packaged / "nodecomm-agent.service").write_text("[Service]\n")
        started = self.starter(folder, Systemctl()).start(reload=True)

        assert not list(folder.iterdir())
        assert str(packaged) in started.text

    @pytest.mark.parametrize("word", ["daemon-reload", "enable", "start"])
    def test_systemctl_fails(self, folder: Path, word: str) -> None:
        """
        What systemctl says is told, and where more is to be found.
        """
        with pytest.raises(CannotStart, match=r"Job failed\..*journalctl -u") as caught:
            self.starter(folder, Systemctl(fails=word)).start(reload=True)

        assert f"systemctl {word}" in str(caught.value)

    def test_no_right_to_write(self, tmp_path: Path) -> None:
        """
        A folder of units that cannot be written is told, with its path.
        """
        blocked = tmp_path / "file"
        blocked.write_text("")

        with pytest.raises(CannotStart, match="file/nodecomm-agent"):
            self.starter(blocked, Systemctl()).start(reload=True)


#: Stands for twistd: writes the PID file that it is told, and becomes a daemon whose
#: command line has the program's name.
FAKE_TWISTD = """\
import os, signal, sys, time
# Whoever runs the tests may ignore it (nohup), and that is inherited.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
options = dict(w.split("=", 1) for w in sys.argv[1:] if w.startswith("--"))
if os.environ.get("FAIL"):
    sys.stderr.write("several\\nerror: no such luck\\n")
    sys.exit(1)
if os.environ.get("NODECOMM_STATE_DIR"):
    sys.exit("NODECOMM_STATE_DIR came through")
if os.fork():
    sys.exit(0)
with open(options["--pidfile"], "w") as file:
    file.write(str(os.getpid()))
open(options["--logfile"], "w").close()
time.sleep(600)
"""


class TestBackground:
    """
    Daemons with a PID file.
    """

    @pytest.fixture
    def starter(self, tmp_path: Path) -> Iterator[Background]:
        script = tmp_path / "twistd.py"
        script.write_text(FAKE_TWISTD)
        starter = Background(
            AGENT, CONFIG, [sys.executable, str(script)], tmp_path, run=run_until_up
        )
        yield starter
        pid = starter.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def test_first_start(
        self, starter: Background, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        The daemon runs, under the number in its PID file; a second start finds it. A
        variable that would lead it to another state folder does not reach it.
        """
        monkeypatch.setenv("NODECOMM_STATE_DIR", "/elsewhere")
        first = starter.start(reload=False)
        second = starter.start(reload=False)

        assert (first.how, second.how) == ("started", "running")
        assert first.pid == second.pid
        assert first.pid is not None
        assert AGENT.name in (command_line(first.pid) or ())
        assert f"kill $(cat {starter.pid_file})" in first.text
        assert first.log == str(starter.log_file)

    def test_one_that_runs_is_told(self, starter: Background) -> None:
        """
        One that runs gets a SIGHUP.
        """
        pid = starter.start(reload=False).pid
        started = starter.start(reload=True)

        assert started.how == "reloaded"
        assert started.pid == pid
        # It is no twistd and dies of it.
        assert pid is not None
        wait_for_the_end_of(pid)

    @pytest.mark.parametrize("content", ["", "x", "999999999", "own", "-1", "1" * 30])
    def test_a_pid_file_that_is_left(self, starter: Background, content: str) -> None:
        """
        A PID file of a process that is gone, or that is another program's by now, is
        in nobody's way.
        """
        number = str(os.getpid()) if content == "own" else content
        starter.pid_file.write_text(number)

        assert starter.pid() is None
        assert starter.start(reload=True).how == "started"

    def test_it_does_not_start(
        self, starter: Background, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What the program says last is told, and how to see more.
        """
        monkeypatch.setenv("FAIL", "1")

        with pytest.raises(CannotStart, match="does not start: no such luck; "):
            starter.start(reload=True)

    def test_another_start_was_quicker(self, tmp_path: Path) -> None:
        """
        Where a daemon comes up between the look and the start, that one is used.
        """

        def run(command: Sequence[str]) -> tuple[int, str]:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", "input()", AGENT.name],
                    stdin=subprocess.PIPE,
                )
            )
            # It is another program only a moment after it was started.
            told = Path(f"/proc/{processes[0].pid}/cmdline")
            while AGENT.name.encode() not in told.read_bytes():
                pass
            starter.pid_file.write_text(str(processes[0].pid))
            return 1, "Another twistd server is running\n"

        processes: list[subprocess.Popen[bytes]] = []
        starter = Background(AGENT, CONFIG, TWISTD, tmp_path, run=run)
        try:
            started = starter.start(reload=False)
        finally:
            for process in processes:
                process.communicate(b"\n")

        assert (started.how, started.pid) == ("running", processes[0].pid)

    def test_no_such_program(self, tmp_path: Path) -> None:
        """
        A twistd that cannot be run is told.
        """
        starter = Background(AGENT, CONFIG, [str(tmp_path / "none")], tmp_path)

        with pytest.raises(CannotStart, match="none: No such file"):
            starter.start(reload=True)


def run_until_up(command: Sequence[str]) -> tuple[int, str]:
    """
    As twistd, which returns when the daemon is up.
    """
    status, said = run_command(command)
    pid_file = Path(command[2].partition("=")[2])
    end = time.monotonic() + PATIENCE
    while status == 0 and not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return status, said


def wait_for_the_end_of(pid: int) -> None:
    """
    Wait until a process is gone, or only its entry is left.
    """
    end = time.monotonic() + PATIENCE
    while command_line(pid) not in (None, ("",)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_which_way(tmp_path: Path) -> None:
    """
    Units are for the machine's own service where systemd runs; everything else is
    started in the background.
    """

    def chosen(*, system: bool, systemd: bool) -> type:
        starter = choose_starter(
            SERVER, CONFIG, tmp_path, system=system, systemd=systemd
        )
        return type(starter)

    assert chosen(system=True, systemd=True) is Systemd
    assert chosen(system=True, systemd=False) is Background
    assert chosen(system=False, systemd=True) is Background
    assert systemd_runs(tmp_path)
    assert not systemd_runs(tmp_path / "none")


def test_who_has_a_port() -> None:
    """
    A port that is listened on is known with the process that does; one that is not
    listened on is nobody's.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert find_listener(port) is None
        listening.listen()
        found = find_listener(port)

    assert found is not None
    assert found.pid == os.getpid()
    assert found.words == command_line(os.getpid())
    assert str(os.getpid()) in str(found)
    assert str(Listener()) == "another process"


def test_runs() -> None:
    """
    A process that has ended and was waited for does not run.
    """
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()

    assert runs(os.getpid())
    assert not runs(process.pid)


def test_a_command_that_leaves_something_running() -> None:
    """
    A command is over when it ends, whatever it has left in the background with its
    output.
    """
    status, said = run_command(["sh", "-c", "echo hello; sleep 60 & echo $!"])

    hello, pid = said.split()
    os.kill(int(pid), signal.SIGKILL)
    assert (status, hello) == (0, "hello")
