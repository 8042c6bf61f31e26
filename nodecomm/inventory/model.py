# SPDX-License-Identifier: MIT
"""
What an inventory says, as values, whoever wrote it and whoever reads it.

Only what a server makes use of is here; a document holds more. Text is as the
document has it, trimmed, with runs of blanks as one; what is empty there is None here,
or absent from a tuple. Sizes are in MiB where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import evolve, field, frozen

__all__ = [
    "AGENT_COMMUNITY",
    "AGENT_WINDOWS",
    "Address",
    "Agent",
    "Bios",
    "Filesystem",
    "Hardware",
    "Interface",
    "Inventory",
    "MemorySlot",
    "OperatingSystem",
    "Processor",
    "Refusal",
    "Software",
    "SoftwareUpdate",
    "Storage",
]

#: What `Agent.name` is. A document may spell them in other cases, and the first one
#: as `community`.
#: Source: Rudder 8.2, agent types.
AGENT_COMMUNITY = "cfengine-community"
AGENT_WINDOWS = "dsc"


@frozen
class Refusal:
    """
    Why something is not accepted.

    Attributes:
        code: A stable word, for programs and counters.
        text: The same for people, with names and numbers. It may hold text of whoever
            sent what is refused: make it safe before it reaches a terminal.
        element: The element or the line that it is about, as a path from the root
            (`RUDDER/AGENT/OWNER`); empty when it is about the whole.
    """

    code: str
    text: str
    element: str = ""

    def __str__(self) -> str:
        return self.text


@frozen
class Agent:
    """
    The agent of a node, and the key that it is known by.

    Attributes:
        name: `AGENT_COMMUNITY` or `AGENT_WINDOWS`.
        version: Its release.
        certificate: `AGENT_CERT`: a certificate in PEM form, as text.
        key: `CFENGINE_KEY`: a public key in PEM form, as text. A document has this,
            the certificate, or both; where there is a certificate, that counts.
    """

    name: str
    version: str
    certificate: str | None = None
    key: str | None = None


@frozen
class OperatingSystem:
    """
    What runs on the machine. One of the three names is there.

    Attributes:
        full_name: `Debian GNU/Linux 12 (bookworm)`.
        kernel_name: `linux`, `MSWin32`.
        name: `Debian`.
        kernel_version: As `uname -r` prints it.
        architecture: `x86_64`.
        fqdn: The full name of the machine, as the operating system has it.
        time_zone: Its name, `Europe/Paris`.
        offset: Of civil time from UTC, as `+0100`.
    """

    kernel_version: str
    full_name: str | None = None
    kernel_name: str | None = None
    name: str | None = None
    version: str | None = None
    service_pack: str | None = None
    architecture: str | None = None
    fqdn: str | None = None
    time_zone: str | None = None
    offset: str | None = None


@frozen
class Hardware:
    """
    The machine as a whole.

    Attributes:
        name: The short host name.
        machine_id: A UUID that the firmware or the hypervisor gives.
        architecture: As the compiler calls it, `x86_64-linux-gnu-thread-multi`.
        virtual_system: `Physical`, or what it is a guest of (`VirtualBox`, `Xen`).
        memory: MiB of main memory.
        swap: MiB.
        os_version: The kernel's release once more; on AIX the only place of it.
        os_comments: What `uname -v` prints.
        last_user: Who logged in last.
        last_login: When, in whatever form.
    """

    name: str | None = None
    machine_id: str | None = None
    architecture: str | None = None
    virtual_system: str | None = None
    memory: int | None = None
    swap: int | None = None
    os_version: str | None = None
    os_comments: str | None = None
    last_user: str | None = None
    last_login: str | None = None


@frozen
class Bios:
    """
    Who made the machine, and which one it is.

    Attributes:
        maker: Of the machine (`SMANUFACTURER`).
        model: `SMODEL`.
        serial: `SSN`.
        board_maker: Of the main board (`MMANUFACTURER`).
        bios_maker: Of the firmware (`BMANUFACTURER`).
        bios_version: `BVERSION`.
        bios_date: `BDATE`, `MM/dd/yyyy`.
    """

    maker: str | None = None
    model: str | None = None
    serial: str | None = None
    board_maker: str | None = None
    bios_maker: str | None = None
    bios_version: str | None = None
    bios_date: str | None = None


@frozen
class Address:
    """
    One address of an interface.

    Attributes:
        address: IPv4 or IPv6, in its shortest form, without a zone.
        mask: `255.255.255.0`, `ffff:ffff:ffff:ffff::`.
        gateway: The router.
        subnet: The network's first address.
    """

    address: str
    mask: str | None = None
    gateway: str | None = None
    subnet: str | None = None


@frozen
class Interface:
    """
    A network interface. No two of a document have the same name.

    Attributes:
        name: `eth0`; the element is called DESCRIPTION.
        addresses: In the document's order, each once.
        mac: The hardware address.
        status: `Up` or `Down`.
        kind: `ethernet`, `loopback`, ...
        speed: Mbit/s, as text.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    mac: str | None = None
    status: str | None = None
    kind: str | None = None
    speed: str | None = None


@frozen
class Processor:
    """
    A kind of processor.

    Attributes:
        name: `Intel(R) Xeon(R) CPU E5-2630 v4 @ 2.20GHz`.
        maker: MANUFACTURER.
        architecture: ARCH.
        speed: MHz.
        cores: Of one processor (CORE).
        threads: Of one processor (THREAD).
        quantity: How many like this there are; in the document each is an element.
    """

    name: str
    maker: str | None = None
    architecture: str | None = None
    speed: int | None = None
    cores: int | None = None
    threads: int | None = None
    quantity: int = 1


@frozen
class Filesystem:
    """
    A mounted file system (`DRIVES`).

    Attributes:
        mount: The mount point, or on Windows the kind of drive; the element is TYPE.
        device: `/dev/sda1`, or a label (VOLUMN, spelled so).
        letter: Of a drive on Windows.
        kind: `ext4`; the element is called FILESYSTEM.
        total: MiB.
        free: MiB.
        files: NUMFILES.
    """

    mount: str | None = None
    device: str | None = None
    letter: str | None = None
    kind: str | None = None
    total: int | None = None
    free: int | None = None
    files: int | None = None


@frozen
class Storage:
    """
    A disk or another device that holds data (`STORAGES`).

    Attributes:
        name: `sda`.
        description: How it is connected.
        kind: `disk`; the element is called TYPE.
        maker: MANUFACTURER.
        model: MODEL.
        serial: The element is SERIALNUMBER, or SERIAL.
        firmware: FIRMWARE.
        size: MB (the millions of bytes that makers count in), DISKSIZE.
    """

    name: str | None = None
    description: str | None = None
    kind: str | None = None
    maker: str | None = None
    model: str | None = None
    serial: str | None = None
    firmware: str | None = None
    size: int | None = None


@frozen
class MemorySlot:
    """
    A place for memory (`MEMORIES`).

    Attributes:
        slot: Its number, NUMSLOTS, as text.
        capacity: MiB; None for an empty one.
        caption: `DIMM_A1`.
        description: `DIMM`.
        kind: `DDR4`; the element is called TYPE.
        speed: MHz or MT/s, as text.
        serial: SERIALNUMBER.
    """

    slot: str | None = None
    capacity: int | None = None
    caption: str | None = None
    description: str | None = None
    kind: str | None = None
    speed: str | None = None
    serial: str | None = None


@frozen
class Software:
    """
    An installed package. No two of a document have the same name and version.

    Attributes:
        name: NAME.
        version: VERSION.
        publisher: PUBLISHER.
        comments: What it is.
        source_name: The package that it was built from.
        source_version: Its version.
    """

    name: str
    version: str | None = None
    publisher: str | None = None
    comments: str | None = None
    source_name: str | None = None
    source_version: str | None = None


@frozen
class SoftwareUpdate:
    """
    A package that could be updated (`SOFTWAREUPDATES`).

    Attributes:
        name: NAME.
        version: The one that is offered.
        architecture: ARCH.
        origin: What found it (FROM), `yum`.
        kind: `security`, `defect`, `enhancement`, ...
        source: The repository.
        description: DESCRIPTION.
        severity: SEVERITY.
        date: As the document has it.
        identifier: ID, of an advisory.
    """

    name: str
    version: str | None = None
    architecture: str | None = None
    origin: str | None = None
    kind: str | None = None
    source: str | None = None
    description: str | None = None
    severity: str | None = None
    date: str | None = None
    identifier: str | None = None


@frozen(kw_only=True)
class Inventory:
    """
    What a node tells about itself.

    Attributes:
        node_id: Who it says it is; case is kept, and makes no other node.
        device_id: DEVICEID, changes with the installation of whatever collects.
        hostname: What the node is called.
        original_hostname: What it was called before the property
            `rudder_override_hostname` replaced that; None where nothing did.
        owner: The user whom the agent runs as.
        policy_server_id: The id of the server that it belongs to.
        policy_server_hostname: What the node calls that server, perhaps with a port.
        agent: The first usable agent.
        os: The operating system.
        written: When the document was made, by the node's clock; None if it says
            nothing that can be read. The zone is the document's, else UTC.
        capabilities: What the agent can do, lower case, in order.
        roles: Of a server that consists of several.
        properties: What hooks on the node have added: an object each, of JSON.
        hardware: The machine as a whole.
        bios: Who made it.
        interfaces: Network interfaces, in the document's order.
        processors: Kinds of processors.
        filesystems: Mounted file systems.
        storages: Disks.
        memories: Places for memory.
        software: Installed packages.
        updates: Packages that could be updated.
        users: Local user names.
        client: What collected it, `FusionInventory-Agent_v2.6`.
    """

    node_id: str
    device_id: str
    hostname: str
    owner: str
    policy_server_id: str
    agent: Agent
    os: OperatingSystem
    written: datetime | None = None
    original_hostname: str | None = None
    policy_server_hostname: str | None = None
    capabilities: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    properties: tuple[Mapping[str, Any], ...] = ()
    hardware: Hardware = field(factory=Hardware)
    bios: Bios = field(factory=Bios)
    interfaces: tuple[Interface, ...] = ()
    processors: tuple[Processor, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    storages: tuple[Storage, ...] = ()
    memories: tuple[MemorySlot, ...] = ()
    software: tuple[Software, ...] = ()
    updates: tuple[SoftwareUpdate, ...] = ()
    users: tuple[str, ...] = ()
    client: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """
        Every address of every interface, each once.
        """
        found = (x.address for card in self.interfaces for x in card.addresses)
        return tuple(dict.fromkeys(found))

    def without_details(self) -> Inventory:
        """
        The same without the long lists (software, updates, users): what a registry of
        many nodes can hold in memory.
        """
        return evolve(self, software=(), updates=(), users=())
