# SPDX-License-Identifier: MIT
"""
The built-in collector: what a Linux machine is, for its inventory.

It reads what the kernel shows below /proc and /sys and asks dpkg and rpm for packages.
Processes, their environments and local users are left out on purpose: an environment
often holds passwords, and an inventory is kept by every server on its way.

Everything here blocks, for as long as a name server or a disk takes: call it in a
thread. Nothing here raises for what a machine is like; what could not be read is in
`Machine.skipped`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from attrs import frozen

from nodecomm import __version__
from nodecomm.inventory.chips import memories_of, processors_of
from nodecomm.inventory.disks import filesystems_of, storages_of
from nodecomm.inventory.host import Host, Skipped
from nodecomm.inventory.model import (
    Bios,
    Filesystem,
    Hardware,
    Interface,
    Inventory,
    MemorySlot,
    OperatingSystem,
    Processor,
    Software,
    Storage,
)
from nodecomm.inventory.network import interfaces_of
from nodecomm.inventory.packages import software_of
from nodecomm.inventory.system import bios_of, hardware_of, operating_system_of
from nodecomm.inventory.writing import NodeSection

__all__ = ["Machine", "collect", "describe"]

T = TypeVar("T")


@frozen(kw_only=True)
class Machine:
    """
    What a machine is. The attributes are those of `Inventory`, and:

    Attributes:
        hostname: The name that a node on this machine has: the one with a domain where
            there is one.
        collected: When; in the node's zone.
        skipped: What is missing, and why.
    """

    hostname: str
    collected: datetime
    os: OperatingSystem
    hardware: Hardware
    bios: Bios
    interfaces: tuple[Interface, ...]
    processors: tuple[Processor, ...]
    filesystems: tuple[Filesystem, ...]
    storages: tuple[Storage, ...]
    memories: tuple[MemorySlot, ...]
    software: tuple[Software, ...]
    skipped: tuple[Skipped, ...]


def collect(now: datetime, host: Host | None = None) -> Machine:
    """
    Look at this machine.

    Args:
        now: The present, with a zone; taken to the node's zone.
        host: The machine; this one by default.
    """
    host = Host() if host is None else host
    now = now.astimezone()

    def take(source: str, read: Callable[[], T], nothing: T) -> T:
        try:
            return read()
        except Exception as error:
            # Files of a kernel or a program that nobody has seen here before: the
            # inventory goes without them, and says why.
            reason = str(error) or type(error).__name__
            host.skipped.append(Skipped(source, reason))
            return nothing

    kernel = OperatingSystem(kernel_version=host.uname().release, kernel_name="linux")
    system = take("operating system", lambda: operating_system_of(host, now), kernel)
    return Machine(
        hostname=system.fqdn or "",
        collected=now,
        os=system,
        hardware=take("hardware", lambda: hardware_of(host), Hardware()),
        bios=take("bios", lambda: bios_of(host), Bios()),
        interfaces=take("interfaces", lambda: interfaces_of(host), ()),
        processors=take("processors", lambda: processors_of(host), ()),
        filesystems=take("filesystems", lambda: filesystems_of(host), ()),
        storages=take("storages", lambda: storages_of(host), ()),
        memories=take("memories", lambda: memories_of(host), ()),
        software=take("packages", lambda: software_of(host), ()),
        # Read after the others: they add to it.
        skipped=tuple(host.skipped),
    )


def describe(machine: Machine, section: NodeSection) -> Inventory:
    """
    The inventory of a node on a machine.
    """
    return Inventory(
        node_id=section.node_id,
        device_id=device_id(machine, section),
        hostname=section.hostname,
        owner=section.owner,
        policy_server_id=section.policy_server_id,
        policy_server_hostname=section.policy_server_hostname,
        agent=section.agent,
        capabilities=section.capabilities,
        roles=section.roles,
        properties=section.properties,
        os=machine.os,
        written=machine.collected.replace(microsecond=0),
        hardware=machine.hardware,
        bios=machine.bios,
        interfaces=machine.interfaces,
        processors=machine.processors,
        filesystems=machine.filesystems,
        storages=machine.storages,
        memories=machine.memories,
        software=machine.software,
        client=f"nodecomm_v{__version__}",
    )


def device_id(machine: Machine, section: NodeSection) -> str:
    """
    A name of this installation on this machine, the same each time: by two of them
    that take turns a server sees that a node has been cloned.
    """
    return f"{machine.hardware.name or section.hostname}-{section.node_id}"
