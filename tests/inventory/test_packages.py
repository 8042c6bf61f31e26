# SPDX-License-Identifier: MIT
"""
Installed packages.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nodecomm.inventory.host import Host, NoSuchSource, Skipped, run_program
from nodecomm.inventory.model import Software
from nodecomm.inventory.packages import software_of
from tests.inventory.machine import machine, no_program

DPKG = (
    ("ii ", "bash", "5.2-1", "Matthias K <m@example.com>", "GNU shell", "bash", "5.2"),
    ("hi ", "held", "1", "M", "", "src", "1"),
    ("rc ", "gone", "1", "M", "removed", "gone", "1"),
    ("ii ", "bash", "5.2-1", "other architecture", "GNU shell", "bash", "5.2"),
    ("ii ", "caf\udce9", "1", "", "", "", ""),
    ("ii ", "too", "short"),
)

RPM = (
    (
        "bash",
        "(none)",
        "5.1.8",
        "6.el9",
        "Rocky",
        "The shell",
        "bash-5.1.8-6.el9.src.rpm",
    ),
    ("bind-utils", "32", "9.16", "1", "Rocky", "Tools", "bind-9.16-1.src.rpm"),
    ("gpg-pubkey", "(none)", "350d275d", "6279464b", "(none)", "key", "(none)"),
    ("own", "0", "1", "", "(none)", "(none)", "(none)"),
)


def printed(rows: Sequence[Sequence[str]]) -> bytes:
    """
    What a program prints of these packages.
    """
    text = "".join("\x1f".join(row) + "\n" for row in rows)
    return text.encode("utf-8", "surrogateescape")


def programs(**answers: bytes | Exception) -> Callable[[Sequence[str]], bytes]:
    """
    A machine with these programs.
    """

    def run(command: Sequence[str]) -> bytes:
        answer = answers.get(command[0].partition("-")[0])
        if answer is None:
            return no_program(command)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return run


def test_dpkg(tmp_path: Path) -> None:
    """
    What is installed counts, not what is only configured; each name and version once.
    """
    host = machine(tmp_path, {}, run=programs(dpkg=printed(DPKG)))

    assert software_of(host) == (
        Software("bash", "5.2-1", "Matthias K", "GNU shell", "bash", "5.2"),
        Software("held", "1", "M", None, "src", "1"),
        Software("caf\udce9", "1"),
    )
    assert host.skipped == []


def test_rpm(tmp_path: Path) -> None:
    """
    A version has its epoch and its release; keys are no packages.
    """
    host = machine(tmp_path, {}, run=programs(rpm=printed(RPM)))

    assert software_of(host) == (
        Software("bash", "5.1.8-6.el9", "Rocky", "The shell", "bash", "5.1.8-6.el9"),
        Software("bind-utils", "32:9.16-1", "Rocky", "Tools", "bind", "9.16-1"),
        Software("own", "1"),
    )


def test_a_program_that_fails(tmp_path: Path) -> None:
    """
    What one program lists is there although another one fails, and its reason is kept.
    """
    host = machine(
        tmp_path,
        {},
        run=programs(dpkg=printed(DPKG[:1]), rpm=OSError("rpm ended with status 1")),
    )

    assert [each.name for each in software_of(host)] == ["bash"]
    assert host.skipped == [Skipped("packages of rpm", "rpm ended with status 1")]


def test_no_packages(tmp_path: Path) -> None:
    """
    A machine that has none of the programs says so.
    """
    with pytest.raises(NoSuchSource, match=r"no program dpkg-query, .* no program rpm"):
        software_of(machine(tmp_path, {}))


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg")
def test_this_machine() -> None:
    """
    The list is the one that dpkg itself gives.
    """
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split(" ") for line in shown.splitlines()]
    expected = {(row[1], row[2]) for row in rows if row[0] == "installed"}

    found = software_of(Host())

    assert {(x.name, x.version) for x in found if x.version} >= expected


def test_programs_are_run() -> None:
    """
    A program's output is had; it gets no input, and its messages are in English.
    """
    assert run_program(["sh", "-c", "cat; echo $LC_ALL"]) == b"C.UTF-8\n"


def test_programs_that_fail() -> None:
    """
    A failure is told with the status and the first line that was complained with.
    """
    command = ["sh", "-c", "echo first >&2; echo second >&2; exit 3"]
    with pytest.raises(OSError, match=r"^sh ended with status 3: first$"):
        run_program(command)


def test_programs_that_are_missing() -> None:
    """
    A program that is not there is told apart from one that fails.
    """
    with pytest.raises(NoSuchSource, match="there is no program no-such-program"):
        run_program(["no-such-program"])


@pytest.mark.parametrize("there", ["/var/lib/rpm/x", "/usr/lib/sysimage/rpm/x"])
def test_a_list_that_nothing_reads(tmp_path: Path, there: str) -> None:
    """
    Packages that are there are missed, also on a machine that has others.
    """
    dpkg = programs(dpkg=printed(DPKG))
    host = machine(tmp_path, {there: b""}, run=dpkg)

    assert len(software_of(host)) == 3
    reason = f"there is no program rpm to read {there[:-2]}"
    assert host.skipped == [Skipped("packages of rpm", reason)]
