# SPDX-License-Identifier: MIT
"""
Starting the server or the agent for good: as a systemd unit where systemd runs, else
in the background with a PID file.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from attrs import frozen

from nodecomm.service.processes import command_line, runs
from nodecomm.service.units import Program, unit_text
from nodecomm.service.written import Standing, WrittenFile

__all__ = [
    "Background",
    "CannotStart",
    "Started",
    "Starter",
    "Systemd",
    "choose_starter",
    "systemd_runs",
    "twistd_command",
]

#: There where systemd is the first process.
#: Source: sd_booted(3).
SYSTEMD_RUNS = Path("/run/systemd/system")

#: Where an administrator's units are, and those of packages, which go unchanged.
UNITS = Path("/etc/systemd/system")
PACKAGED_UNITS = (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))

#: Seconds that a command may take which starts a program.
COMMAND_TIMEOUT = 90.0

#: Runs a command: its status and what it said.
Run = Callable[[Sequence[str]], tuple[int, str]]


class CannotStart(Exception):  # noqa: N818
    """
    The program does not run. The text says why and what to do.
    """


@frozen
class Started:
    """
    What was done.

    Attributes:
        how: `started`; `reloaded`: it ran already and was told to read its
            configuration again; `running`: it ran already.
        text: The same for people, with how to stop it.
        pid: Its process number; None where systemd has not said.
        log: How to see its log.
    """

    how: Literal["started", "reloaded", "running"]
    text: str
    pid: int | None
    log: str


class Starter(Protocol):
    """
    A way to start a program.
    """

    def check(self) -> None:
        """
        Find what is in the way, before anything is done.

        Raises:
            CannotStart: It cannot be started so.
        """

    def pid(self) -> int | None:
        """
        The number of the process that was started so, if it runs.
        """

    def start(self, *, reload: bool) -> Started:
        """
        Have the program run, now and (with systemd) after a boot. Blocks.

        Args:
            reload: If it runs already, tell it to read its configuration again.

        Raises:
            CannotStart: It does not run.
        """


def systemd_runs(mark: Path = SYSTEMD_RUNS) -> bool:
    """
    Whether systemd is this system's first process.
    """
    return mark.is_dir()


def twistd_command() -> list[str]:
    """
    How the twistd of this very installation is called.

    Raises:
        CannotStart: There is none.
    """
    places = [Path(sys.executable).parent, Path(sys.argv[0]).absolute().parent]
    for place in places:
        if os.access(place / "twistd", os.X_OK):
            return [str(place / "twistd")]
    found = shutil.which("twistd")
    if found is None:
        raise CannotStart(
            f"there is no twistd beside {sys.executable}, which runs nodecomm's "
            "services; install Twisted with its programs"
        )
    return [found]


def choose_starter(
    program: Program,
    config: Path,
    state_dir: Path,
    *,
    system: bool,
    systemd: bool | None = None,
) -> Starter:
    """
    The way to start *program* here.

    Args:
        program: Which.
        config: Its configuration file.
        state_dir: For the PID file and the log of a background process.
        system: Whether this is the machine's own service: root's, with the
            configuration in its usual place. Units are for that alone.
        systemd: Whether systemd runs; None: looked for.
    """
    runs_here = systemd_runs() if systemd is None else systemd
    twistd = twistd_command()
    if system and runs_here:
        return Systemd(program, config, twistd)
    return Background(program, config, twistd, state_dir)


class Systemd:
    """
    Starts a program as a systemd unit.

    Args:
        program: Which.
        config: Its configuration file.
        twistd: How twistd is called.
        folder: Where units are written.
        packaged: Where packages have theirs; one there is used as it is.
        run: Runs systemctl.
    """

    def __init__(
        self,
        program: Program,
        config: Path,
        twistd: Sequence[str],
        *,
        folder: Path = UNITS,
        packaged: Sequence[Path] = PACKAGED_UNITS,
        run: Run | None = None,
    ) -> None:
        self._program = program
        self._file = WrittenFile(folder / program.unit, "nodecomm bootstrap")
        self._text = unit_text(program, twistd, config)
        self._packaged = tuple(packaged)
        self._run = run_command if run is None else run

    def check(self) -> None:
        """
        Nothing can be seen beforehand.
        """

    def start(self, *, reload: bool) -> Started:
        """
        Write the unit unless there is one, enable and start it.
        """
        unit = self._program.unit
        about = self._place_unit()
        self._systemctl("daemon-reload")
        before = self.pid()
        self._systemctl("enable", unit)
        how: Literal["started", "reloaded", "running"] = "started"
        if before is None:
            self._systemctl("start", unit)
        elif reload:
            self._systemctl("reload", unit)
            how = "reloaded"
        else:
            how = "running"
        pid = self.pid()
        words = {
            "started": f"{unit} is enabled and started",
            "reloaded": f"{unit} ran already: it is enabled and reads its"
            " configuration again",
            "running": f"{unit} is enabled and ran already",
        }
        text = f"{words[how]}{about}; stop it with `systemctl disable --now {unit}`"
        return Started(how, text, pid, f"journalctl -u {unit}")

    def _place_unit(self) -> str:
        """
        Have a unit file; returns what to tell about it.
        """
        if not os.path.lexists(self._file.path):
            for folder in self._packaged:
                if (folder / self._program.unit).exists():
                    return f" ({folder / self._program.unit})"
        try:
            if self._file.read()[0] in (Standing.CHANGED, Standing.FOREIGN):
                return f" ({self._file.path}, which is not bootstrap's and left as is)"
            written = self._file.write(self._text)
        except OSError as error:
            reason = error.strerror or error
            raise CannotStart(
                f"{self._file.path} cannot be written: {reason}"
            ) from error
        return f" ({self._file.path}, {'written' if written else 'as before'})"

    def pid(self) -> int | None:
        """
        The main process of the unit, if it runs.
        """
        # MainPID is 0 where there is none.
        _, said = self._run(
            ["systemctl", "show", "-p", "MainPID", "--value", self._program.unit]
        )
        return int(said) if said.strip().isdigit() and int(said) else None

    def _systemctl(self, *words: str) -> None:
        status, said = self._run(["systemctl", *words])
        if status != 0:
            unit = self._program.unit
            raise CannotStart(
                f"`systemctl {shlex.join(words)}` failed ({said.strip() or status}); "
                f"`systemctl status {unit}` and `journalctl -u {unit}` say more"
            )


class Background:
    """
    Starts a program as a daemon of its own.

    Args:
        program: Which.
        config: Its configuration file.
        twistd: How twistd is called.
        state_dir: For its PID file and its log.
        run: Runs the command.
    """

    def __init__(
        self,
        program: Program,
        config: Path,
        twistd: Sequence[str],
        state_dir: Path,
        *,
        run: Run | None = None,
    ) -> None:
        self._program = program
        self._config = config
        self._twistd = list(twistd)
        self._run = run_command if run is None else run
        self.pid_file = state_dir / f"{program.name}.pid"
        self.log_file = state_dir / f"{program.name}.log"

    def check(self) -> None:
        """
        Whether the PID file can be read.
        """
        self.pid()

    def start(self, *, reload: bool) -> Started:
        """
        Start the daemon, unless the one of the PID file is it.
        """
        pid = self.pid()
        if pid is not None:
            return self._running(pid, reload=reload)
        # A number that another program has by now would keep twistd from starting.
        self.pid_file.unlink(missing_ok=True)
        name = self._program.name
        command = [*self._twistd, f"--pidfile={self.pid_file}", "--rundir=/"]
        command += [f"--logfile={self.log_file}", name, "-c", str(self._config)]
        status, said = self._run(command)
        if status != 0:
            # One that somebody else began to start a moment ago was quicker.
            pid = self.pid()
            if pid is not None:
                return self._running(pid, reload=reload)
            reason = said.strip().rpartition("\n")[2].removeprefix("error: ")
            raise CannotStart(
                f"{name} does not start: {reason or f'status {status}'}; "
                f"{self.log_file} may say more, and so does `{shlex.join(command)}` "
                "with -n after twistd"
            )
        pid = self.pid()
        number = "" if pid is None else f" (process {pid})"
        text = (
            f"{name} is started in the background{number}, but not again after a "
            f"boot; {self._stop}"
        )
        return Started("started", text, pid, str(self.log_file))

    @property
    def _stop(self) -> str:
        return f"stop it with `kill $(cat {shlex.quote(str(self.pid_file))})`"

    def _running(self, pid: int, *, reload: bool) -> Started:
        """
        For one that runs already.
        """
        ran = f"{self._program.name} ran already (process {pid})"
        log = str(self.log_file)
        if not reload:
            return Started("running", f"{ran}; {self._stop}", pid, log)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)
        text = f"{ran} and reads its configuration again; {self._stop}"
        return Started("reloaded", text, pid, log)

    def pid(self) -> int | None:
        """
        The process of the PID file, if it is alive and this program.
        """
        try:
            text = self.pid_file.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotStart(
                f"{self.pid_file} cannot be read: {error.strerror}"
            ) from error
        pid = int(text) if text.isdigit() and len(text) < 10 else 0
        if not pid or not runs(pid):
            return None
        words = command_line(pid)
        # Where the system does not tell, the file is believed.
        if words is not None and self._program.name not in words:
            return None
        return pid


def run_command(
    command: Sequence[str], environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """
    Run a command to its end: its status and what it said. What it leaves running in
    the background is not waited for.
    """
    environment = dict(os.environ if environ is None else environ)
    # It would go before the configuration that was just written.
    environment.pop("NODECOMM_STATE_DIR", None)
    # A file, not a pipe: a daemon may hold on to what it was started with.
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(  # noqa: S603
                list(command),
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
            status = done.returncode
        except OSError as error:
            return 127, f"{command[0]}: {error.strerror or error}"
        except subprocess.TimeoutExpired:
            return 124, f"not done within {COMMAND_TIMEOUT:g} s"
        said.seek(0)
        return status, said.read().decode("utf-8", "backslashreplace")
