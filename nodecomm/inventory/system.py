# SPDX-License-Identifier: MIT
"""
The machine as a whole: its operating system, what it is made of, who made it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import datetime

from nodecomm.inventory.host import Host
from nodecomm.inventory.model import Bios, Hardware, OperatingSystem

__all__ = ["bios_of", "hardware_of", "operating_system_of"]

#: Where distributions say what they are, the administrator's file first.
#: Source: os-release(5).
_RELEASES = ("/etc/os-release", "/usr/lib/os-release")

#: Names of distributions, by their ID in os-release, where the NAME there is another
#: than the one in inventories.
#: Source: documents of nodes of Rudder 6.0 and 8.0.
_NAMES = {"debian": "Debian"}

#: The folder of what the firmware says of the machine.
_DMI = "/sys/class/dmi/id"

#: What is written by makers who write nothing.
_MEANINGLESS = re.compile(
    r"(?i)(to be filled.*|default string|system (serial number|manufacturer|"
    r"product name|version)|not (specified|applicable|available|present)|none|n/a|"
    r"unknown|0+|x+|-+)"
)

#: Words in what the firmware says of a machine that is none, and what it is then.
_GUESTS = (
    ("virtualbox", "VirtualBox"),
    ("vmware", "VMware"),
    ("parallels", "Parallels"),
    ("bhyve", "BHyVe"),
    ("xen", "Xen"),
    ("hvm domu", "Xen"),
    ("qemu", "QEMU"),
    ("kvm", "QEMU"),
    ("bochs", "QEMU"),
    ("openstack", "QEMU"),
    ("rhev", "QEMU"),
    ("ovirt", "QEMU"),
    ("virtual machine", "Hyper-V"),
)

#: Kinds of containers as systemd tells them, and what they are called in inventories.
_CONTAINERS = {
    "docker": "Docker",
    "podman": "Docker",
    "lxc": "lxc",
    "lxc-libvirt": "lxc",
    "openvz": "OpenVZ",
    "systemd-nspawn": "systemd-nspawn",
}

_MEMORY = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


def operating_system_of(host: Host, now: datetime) -> OperatingSystem:
    """
    The operating system; *now* is in the node's zone.
    """
    uname = host.uname()
    release = _release(host)
    name = _NAMES.get(release.get("ID", ""), release.get("NAME"))
    return OperatingSystem(
        kernel_version=uname.release,
        full_name=release.get("PRETTY_NAME") or name,
        kernel_name=uname.sysname.lower(),
        name=name,
        version=release.get("VERSION_ID"),
        architecture=uname.machine,
        fqdn=host.full_hostname() or host.hostname() or None,
        time_zone=now.tzname(),
        offset=now.strftime("%z")[:5] or None,
    )


def hardware_of(host: Host) -> Hardware:
    """
    The machine as a whole.
    """
    uname = host.uname()
    memory, swap = _memory(host)
    return Hardware(
        name=host.hostname().partition(".")[0] or None,
        machine_id=host.value(f"{_DMI}/product_uuid"),
        architecture=uname.machine,
        virtual_system=_virtual_system(host),
        memory=memory,
        swap=swap,
        os_version=uname.release,
        os_comments=uname.version,
    )


def bios_of(host: Host) -> Bios:
    """
    Who made the machine, as the firmware says.

    Raises:
        OSError: The firmware says nothing.
    """
    if not host.has(_DMI):
        raise OSError(f"there is no {_DMI}")
    return Bios(
        maker=_told(host, "sys_vendor"),
        model=_told(host, "product_name"),
        serial=_told(host, "product_serial"),
        board_maker=_told(host, "board_vendor"),
        bios_maker=_told(host, "bios_vendor"),
        bios_version=_told(host, "bios_version"),
        bios_date=_told(host, "bios_date"),
    )


def _told(host: Host, name: str) -> str | None:
    value = host.value(f"{_DMI}/{name}")
    return None if value is None or _MEANINGLESS.fullmatch(value) else value


def _release(host: Host) -> Mapping[str, str]:
    """
    Source: os-release(5): assignments as in a shell, without its expansions.
    """
    for name in _RELEASES:
        if (text := host.value(name)) is not None:
            return dict(filter(None, map(_assignment, text.splitlines())))
    return {}


def _assignment(line: str) -> tuple[str, str] | None:
    name, equals, value = line.strip().partition("=")
    if not equals or name.startswith("#"):
        return None
    try:
        return name, "".join(shlex.split(value))
    except ValueError:
        # A quote that is not closed.
        return name, value.strip("\"'")


def _memory(host: Host) -> tuple[int | None, int | None]:
    """
    MiB of main memory and of swap.
    """
    found = dict(_MEMORY.findall(host.value("/proc/meminfo") or ""))
    memory, swap = found.get("MemTotal"), found.get("SwapTotal")
    return (
        None if memory is None else int(memory) // 1024,
        None if swap is None else int(swap) // 1024,
    )


def _virtual_system(host: Host) -> str | None:
    """
    What the machine is a guest of, `Physical` if of nothing, None if nothing tells.
    """
    container = host.value("/run/systemd/container")
    if container is not None:
        return _CONTAINERS.get(container, container)
    if host.has("/.dockerenv") or host.has("/run/.containerenv"):
        return "Docker"
    if host.has("/proc/vz") and not host.has("/proc/bc"):
        return "OpenVZ"
    names = ("sys_vendor", "product_name", "bios_vendor", "board_vendor")
    told = [host.value(f"{_DMI}/{name}") for name in names]
    text = " ".join(filter(None, told)).lower()
    for word, system in _GUESTS:
        if word in text:
            return system
    if host.value("/sys/hypervisor/type") == "xen":
        return "Xen"
    flags = re.search(r"^flags\s*:(.*)$", host.value("/proc/cpuinfo") or "", re.M)
    if flags is None:
        return "Physical" if text else None
    return "Virtual machine" if "hypervisor" in flags[1].split() else "Physical"
