# SPDX-License-Identifier: MIT
"""
What a machine is as a whole.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodecomm.inventory.model import Bios, Hardware
from nodecomm.inventory.system import bios_of, hardware_of, operating_system_of
from tests.inventory.machine import UNAME, machine

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=-3.5), "NST"))

DMI = "/sys/class/dmi/id"


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (
            'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
            'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            ("Debian", "Debian GNU/Linux 12 (bookworm)", "12"),
        ),
        (
            "# a comment\n\nID=rocky\nNAME='Rocky Linux'\nVERSION_ID=9.3\n",
            ("Rocky Linux", "Rocky Linux", "9.3"),
        ),
        (
            'ID=odd\nNAME="An \\"odd\\" one"\nPRETTY_NAME="not closed\n',
            ('An "odd" one', "not closed", None),
        ),
        ("no assignment at all", (None, None, None)),
    ],
)
def test_distributions(
    tmp_path: Path, release: str, expected: tuple[str | None, ...]
) -> None:
    """
    Name, full name and version are those that the distribution gives itself.
    """
    host = machine(tmp_path, {"/etc/os-release": release})

    found = operating_system_of(host, NOW)

    assert (found.name, found.full_name, found.version) == expected


def test_the_system(tmp_path: Path) -> None:
    """
    Kernel, architecture, name and zone of the machine.
    """
    found = operating_system_of(machine(tmp_path, {}), NOW)

    assert (found.kernel_name, found.kernel_version) == ("linux", UNAME[2])
    assert (found.architecture, found.fqdn) == ("x86_64", "web1.example.com")
    assert (found.time_zone, found.offset) == ("NST", "-0330")


def test_the_other_place_of_the_release(tmp_path: Path) -> None:
    """
    A system that has nothing in /etc says it in /usr/lib.
    """
    host = machine(tmp_path, {"/usr/lib/os-release": "NAME=Ubuntu\n"})

    assert operating_system_of(host, NOW).name == "Ubuntu"


def test_a_machine_without_domain(tmp_path: Path) -> None:
    """
    Where there is no name with a domain, the short one stands.
    """
    host = machine(tmp_path, {}, full_hostname="")

    assert operating_system_of(host, NOW).fqdn == "web1"


def test_hardware(tmp_path: Path) -> None:
    """
    Memory is in MiB; the rest as the kernel and the firmware say it.
    """
    files = {
        "/proc/meminfo": "MemTotal:  2048000 kB\nSwapTotal:   1024 kB\nHuge: 3\n",
        f"{DMI}/product_uuid": "3D92C483-4407-4D8A-A84E-5283EA93FD4E\n",
    }

    found = hardware_of(machine(tmp_path, files))

    assert found == Hardware(
        name="web1",
        machine_id="3D92C483-4407-4D8A-A84E-5283EA93FD4E",
        architecture="x86_64",
        memory=2000,
        swap=1,
        os_version=UNAME[2],
        os_comments=UNAME[3],
    )


@pytest.mark.parametrize(
    ("files", "system"),
    [
        ({f"{DMI}/product_name": "VirtualBox"}, "VirtualBox"),
        ({f"{DMI}/sys_vendor": "VMware, Inc."}, "VMware"),
        ({f"{DMI}/sys_vendor": "QEMU"}, "QEMU"),
        ({f"{DMI}/product_name": "KVM"}, "QEMU"),
        (
            {
                f"{DMI}/sys_vendor": "Microsoft Corporation",
                f"{DMI}/product_name": "Virtual Machine",
            },
            "Hyper-V",
        ),
        ({f"{DMI}/product_name": "HVM domU"}, "Xen"),
        ({"/sys/hypervisor/type": "xen\n"}, "Xen"),
        ({"/run/systemd/container": "lxc\n"}, "lxc"),
        ({"/run/systemd/container": "podman"}, "Docker"),
        ({"/run/systemd/container": "another"}, "another"),
        ({"/.dockerenv": ""}, "Docker"),
        ({"/proc/vz/version": ""}, "OpenVZ"),
        ({"/proc/cpuinfo": "flags\t\t: fpu hypervisor\n"}, "Virtual machine"),
        ({"/proc/cpuinfo": "flags\t\t: fpu vme\n"}, "Physical"),
        ({f"{DMI}/sys_vendor": "Dell Inc."}, "Physical"),
        ({}, None),
    ],
)
def test_guests(tmp_path: Path, files: dict[str, str], system: str | None) -> None:
    """
    What a machine is a guest of is seen by its firmware, its processors or what a
    container has.
    """
    assert hardware_of(machine(tmp_path, files)).virtual_system == system


def test_makers(tmp_path: Path) -> None:
    """
    What makers left as it was says nothing.
    """
    files = {
        f"{DMI}/sys_vendor": "Dell Inc.\n",
        f"{DMI}/product_name": "PowerEdge R640  \n",
        f"{DMI}/product_serial": "To be filled by O.E.M.\n",
        f"{DMI}/board_vendor": "Default string\n",
        f"{DMI}/bios_vendor": "Dell Inc.\n",
        f"{DMI}/bios_version": "2.10.0\n",
        f"{DMI}/bios_date": "11/12/2020\n",
    }

    assert bios_of(machine(tmp_path, files)) == Bios(
        maker="Dell Inc.",
        model="PowerEdge R640",
        bios_maker="Dell Inc.",
        bios_version="2.10.0",
        bios_date="11/12/2020",
    )


def test_no_firmware(tmp_path: Path) -> None:
    """
    A machine whose firmware says nothing is told apart from one with an empty BIOS.
    """
    with pytest.raises(OSError, match="there is no /sys/class/dmi/id"):
        bios_of(machine(tmp_path, {}))
