# SPDX-License-Identifier: MIT
"""
The tutorial about nodes runs as it is written, and prints what stands there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from attrs import define, field, frozen

from nodecomm.service.sample import write_sample
from tests.forking import Forked
from tests.interop.machine import missing, wait_until
from tests.ports import free_port
from tests.service.node import PATIENCE, Server

PAGE = Path(__file__).parents[2] / "docs" / "tutorial-nodes.rst"

NODECOMM = ".venv/bin/nodecomm "
SERVER = "make run CONFIG=var/server.toml"
RELAY = ".venv/bin/twistd -n --pidfile= nodecomm-server -c /tmp/relay/server.toml"

#: What is another each time.
VARYING = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "(id)"),
    (r"\bMD5=[0-9a-f]{32}\b", "MD5=(digest)"),
    (r"\bSHA=[0-9a-f]{64}\b", "SHA=(digest)"),
    (r"\bsha256//[A-Za-z0-9+/]{43}=", "sha256//(digest)"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\+00:00| UTC)", "(time)"),
    (r"(?m)^\d{20}\b", "(number)"),
    (r"\bprocess \d+", "process (number)"),
    (r"\bafter [\d.]+ s\b", "after (seconds) s"),
    (r"  by (?!inventory)\S+  ", "  by (somebody)  "),
)


@frozen
class Step:
    """
    Something that a reader types.

    Attributes:
        command: It, with its further lines.
        printed: What stands below it.
    """

    command: str
    printed: str

    @property
    def succeeds(self) -> bool:
        """Whether it is to go well, by what it prints."""
        return not self.printed.startswith(("error:", "denied"))

    def describes(self, output: str) -> bool:
        """Whether that is what stands on the page."""
        lines = []
        for line in plain(self.printed).splitlines():
            left_out = re.escape(line).replace(re.escape("..."), ".*") + "\n"
            lines.append("(.*\n)*" if line == "..." else left_out)
        return re.fullmatch("".join(lines), plain(output)) is not None


def plain(text: str) -> str:
    """Without what is another each time."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text


def steps() -> Iterator[Step]:
    """All that a reader of the page types, in order."""
    text = PAGE.read_text()
    for block in re.findall(r"code-block:: console\n\n((?:   .*\n)+)", text):
        lines = re.sub("(?m)^   ", "", block)
        for one in re.split(r"(?m)^\$ ", lines)[1:]:
            command, *more = one.splitlines()
            while more and re.match(">( |$)", more[0]):
                command += "\n" + more.pop(0)[2:]
            yield Step(command, "".join(f"{line}\n" for line in more))


@define
class Reader:
    """
    Whoever types all of that, in another folder and with other ports.

    Attributes:
        folder: That of the clone.
        meant: What is written on the page, and what it is here.
        variables: Those of his shell.
        name: What this machine is called.
    """

    folder: Path
    meant: dict[str, str]
    variables: dict[str, str] = field(factory=dict)
    name: str = ""

    def type(self, step: Step) -> tuple[bool, list[str]]:
        """
        Do it. Returns whether it went well, and what it printed: the two streams, in
        either order.
        """
        command = step.command
        for written, meant in self.meant.items():
            command = re.sub(written, meant, command)
        if found := re.fullmatch(r"([A-Z]+)=\$\(cat (\S+)\)", command):
            self.variables[found[1]] = Path(found[2]).read_text().strip()
            return True, [""]
        target = ""
        if command.startswith(NODECOMM):
            command = string.Template(command).safe_substitute(self.variables)
            command = re.sub(
                r"\$\(cat (\S+)\)", lambda it: Path(it[1]).read_text().strip(), command
            )
            program = str(Path(sys.executable).with_name("nodecomm"))
            command, _, target = command.partition(" > ")
            words = [program, *command.removeprefix(NODECOMM).split()]
            begin: type[subprocess.Popen[bytes]] = Forked
        else:
            words = ["sh", "-c", command]
            begin = subprocess.Popen
        process = begin(
            words,
            cwd=self.folder,
            env={**os.environ, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        printed, complaints = process.communicate(timeout=PATIENCE)
        if target:
            (self.folder / target).write_bytes(printed)
            printed = b""
        out, err = self.seen(printed), self.seen(complaints)
        return process.returncode == 0, [out + err, err + out]

    def seen(self, printed: bytes) -> str:
        """What it would be on the page."""
        # Who asks while the agent looks for work of its own is told to wait.
        text = printed.decode().replace("a run is under way\n", "")
        for written in ("web1", "web2", "db1", "relay"):
            text = text.replace(str(self.folder.parent / written), f"/tmp/{written}")
        text = text.replace(str(self.folder), "/home/you/nodecomm")
        text = text.replace(f":{self.meant['5308']}", ":5308")
        if not self.name and (row := re.match(r"\S+  pending  (\S+)", text)):
            self.name = row[1]
        if self.name:
            text = re.sub(rf"\b{re.escape(self.name)}\b", "web1.example.com", text)
        return text


def test_the_tutorial_about_nodes(tmp_path: Path) -> None:
    """
    Typed as they stand, with other folders and ports, the commands do and print what
    the page says: a machine becomes a node, is accepted, has its files and loses them;
    others send by curl and through a relay. Nothing in the logs is of no use.
    """
    if shutil.which("curl") is None:
        missing("curl")
    clone = tmp_path / "clone"
    state = clone / "var"
    state.mkdir(parents=True, mode=0o700)
    write_sample(state, time.time())
    serving, site, relaying, relayed = (str(free_port()) for _ in range(4))
    reader = Reader(
        clone,
        {
            r'listen = \["tcp6:(?=8443|9443)': 'min_free = 0\nlisten = ["tcp6:',
            r"127\.0\.0\.2(?!:8443)": f"127.0.0.2:{serving}",
            "5308": serving,
            "8443": site,
            "5309": relaying,
            "9443": relayed,
            r"/tmp/(?=web|db|relay)": f"{tmp_path}/",
        },
        {"PWD": str(clone)},
    )
    done = []
    with ExitStack() as stack:
        pid_file = tmp_path / "web1" / "nodecomm-agent.pid"
        stack.callback(end_agent, pid_file)
        for step in steps():
            done.append(step.command)
            if step.command == SERVER:
                config = state / "server.toml"
                text = config.read_text()
                config.write_text(text.replace("tcp6:5308", f"tcp6:{serving}"))
                words = ("--state-dir", str(state), "-c", str(config))
                server = stack.enter_context(Server(clone, *words))
                server.wait_for("server.started")
            elif step.command == RELAY:
                relay = tmp_path / "relay"
                words = ("--state-dir", str(relay), "-c", str(relay / "server.toml"))
                started = stack.enter_context(Server(relay, *words))
                started.wait_for("server.started")
            elif step.command == "sleep 1":
                continue
            else:
                # What comes after a second may come earlier, or later.
                waits = done[-2:-1] == ["sleep 1"]
                end = time.monotonic() + (PATIENCE if waits else 0)
                while True:
                    well, either = reader.type(step)
                    if well == step.succeeds and any(map(step.describes, either)):
                        break
                    assert time.monotonic() < end, (step.command, either[0])
            if step.command.startswith("kill "):
                wait_until(lambda: not pid_file.exists(), "the end of the agent")
                log = (tmp_path / "web1" / "nodecomm-agent.log").read_text()
                for each in (log, server.out.read_text(), started.out.read_text()):
                    assert "factory" not in each
    assert {SERVER, RELAY} < set(done)
    assert not (tmp_path / "web1").exists()


def end_agent(pid_file: Path) -> None:
    """Whatever went wrong: the agent goes."""
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
