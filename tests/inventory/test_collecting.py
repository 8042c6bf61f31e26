# SPDX-License-Identifier: MIT
"""
The collector as a whole: on this machine, on poor ones and on broken ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from unittest.mock import patch

import pytest
from attrs import evolve

from nodecomm.inventory.collecting import collect, describe
from nodecomm.inventory.document import read_document
from nodecomm.inventory.host import Host, Skipped
from nodecomm.inventory.model import Agent, Hardware
from nodecomm.inventory.writing import NodeSection, write_inventory
from tests.inventory.machine import UNAME, machine, no_program

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)

SECTION = NodeSection(
    node_id="e6cc8e97-01de-48bc-8fee-8f28970116d3",
    hostname="web1.example.com",
    owner="root",
    policy_server_id="root",
    agent=Agent("cfengine-community", "1.0", "no certificate"),
)

#: Everything that is read, with what nobody would expect in it.
FILES = (
    "/etc/os-release",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/meminfo",
    "/proc/net/route",
    "/proc/self/mountinfo",
    "/run/systemd/container",
    "/sys/block/sda/device/model",
    "/sys/block/sda/size",
    "/sys/class/dmi/id/product_name",
    "/sys/class/net/eth0/flags",
    "/sys/class/net/eth0/ifindex",
    "/sys/firmware/dmi/entries/17-0/raw",
)

ODD = (
    b"",
    b"\0\0\0",
    b"\xff\xfe broken \x1b[31m",
    b"processor : 0\nID=\nMemTotal: 1 kB\n1\n",
    b"-1\n",
    b"0x\n",
    "٣\n".encode(),
    b"a b c d e f - g h\n" * 3,
    b"eth0\t00000000\tzz\tzz\t0\t0\t0\t00000000\n",
)


def test_this_machine_is_described() -> None:
    """
    What is collected here makes a document that a server reads, and says the same.
    """
    machine = collect(NOW)
    inventory = describe(machine, SECTION)

    assert inventory.os.kernel_version == os.uname().release
    assert inventory.written == NOW.replace(microsecond=0)
    assert "127.0.0.1" in inventory.addresses
    assert [each.mount for each in inventory.filesystems].count("/") == 1
    assert read_document(write_inventory(inventory)) == inventory


def test_a_poor_machine(tmp_path: Path) -> None:
    """
    A machine that tells nothing of itself is described all the same, and each part that
    is missing has its reason.
    """
    found = collect(NOW, machine(tmp_path, {}))

    assert found.os.kernel_version == UNAME[2]
    assert found.hostname == "web1.example.com"
    assert found.hardware.memory is None
    assert (found.interfaces, found.processors, found.software) == ((), (), ())
    assert {each.source for each in found.skipped} == {
        "bios",
        "filesystems",
        "interfaces",
        "memories",
        "packages",
        "processors",
    }
    assert all(each.reason for each in found.skipped)
    assert read_document(write_inventory(describe(found, SECTION)))


@pytest.mark.parametrize("content", ODD)
def test_a_broken_machine(tmp_path: Path, content: bytes) -> None:
    """
    Whatever its files hold, there is an inventory that a server reads.
    """
    found = collect(NOW, machine(tmp_path, dict.fromkeys(FILES, content)))

    read = read_document(write_inventory(describe(found, SECTION)))
    assert read.os.kernel_version == UNAME[2]


def test_what_cannot_be_read_is_noted(tmp_path: Path) -> None:
    """
    A value that is there and cannot be read has its reason; one that is not there, or
    that a device does not have, is nothing special.
    """
    (tmp_path / "folder").mkdir()
    host = Host(root=tmp_path)

    assert host.value("/folder") is None
    assert host.value("/folder/none") is None
    assert host.skipped == [Skipped("/folder", "Is a directory")]


def test_a_fault_in_a_part(tmp_path: Path) -> None:
    """
    One part that fails in a way that nobody foresaw does not hurt the others.
    """
    host = machine(tmp_path, {})

    def fail() -> str:
        raise ZeroDivisionError

    host.full_hostname = fail

    found = collect(NOW, host)

    assert Skipped("operating system", "ZeroDivisionError") in found.skipped
    assert found.os.kernel_version == UNAME[2]
    assert found.hardware.name == "web1"


def test_the_name_of_an_installation_stays(tmp_path: Path) -> None:
    """
    The same node has the same DEVICEID each time; its clone with another name has not.
    """
    found = collect(NOW, machine(tmp_path, {}))
    first = describe(found, SECTION).device_id
    clone = evolve(found, hardware=Hardware(name="web2"))

    assert describe(found, SECTION).device_id == first
    assert describe(clone, SECTION).device_id != first


def test_a_machine_that_says_too_much(tmp_path: Path) -> None:
    """
    A text that is longer than what servers read is cut, and all else is there, of a
    thousand packages too.
    """
    rows = [["ii ", f"p{number}", "1", "", "", "", ""] for number in range(1000)]
    rows[0][4] = "s" * 70_000
    printed = "".join("\x1f".join(row) + "\n" for row in rows).encode()
    files = {"/sys/class/dmi/id/product_name": b"& " * 70_000}

    def run(command: Sequence[str]) -> bytes:
        return printed if command[0] == "dpkg-query" else no_program(command)

    found = collect(NOW, machine(tmp_path, files, run=run))
    read = read_document(write_inventory(describe(found, SECTION)))
    assert [each.name for each in read.software] == [row[1] for row in rows]
    assert read.software[0].comments == "s" * 65_536
    assert read.bios.model is not None
    assert len(read.bios.model) == 65_535


def test_a_folder_that_may_not_be_seen(tmp_path: Path) -> None:
    """
    What is in a folder that may not be entered is not there, for whoever looks.
    """
    host = machine(tmp_path, {})

    def refuse(path: object, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with patch("os.stat", refuse):
        assert not host.has("/proc/vz")
