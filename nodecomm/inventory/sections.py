# SPDX-License-Identifier: MIT
"""
The sections of an inventory that describe the machine. Nothing here refuses a document
but for a text that is too long: what is no number or no address is left out, what has
no name is no part.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from itertools import islice

from attrs import evolve

from nodecomm.inventory.elements import Element
from nodecomm.inventory.model import (
    Address,
    Bios,
    Filesystem,
    Hardware,
    Interface,
    MemorySlot,
    Processor,
    Software,
    SoftwareUpdate,
    Storage,
)

__all__ = [
    "canonical_address",
    "read_bios",
    "read_filesystems",
    "read_hardware",
    "read_interfaces",
    "read_memories",
    "read_processors",
    "read_software",
    "read_storages",
    "read_updates",
    "read_users",
]

#: A number of at most 15 digits, which every database and JSON reader can hold; what
#: follows a point is dropped.
_NUMBER = re.compile(r"([0-9]{1,15})(?:\.[0-9]+)?")


#: Characters of an address. Real ones, with a zone or a prefix, have up to 60.
_ADDRESS_LENGTH = 100

#: Addresses of one element, and of a document, that are read.
_ADDRESSES_OF_ONE = 1000
_ADDRESSES = 10_000


def _number(element: Element, name: str) -> int | None:
    found = _NUMBER.fullmatch(element.text(name) or "")
    return int(found[1]) if found else None


def read_hardware(content: Element) -> Hardware:
    """
    The machine as a whole.
    """
    found = content.child("HARDWARE")
    if found is None:
        return Hardware()
    return Hardware(
        name=found.text("NAME"),
        machine_id=found.text("UUID"),
        architecture=found.text("ARCHNAME"),
        virtual_system=found.text("VMSYSTEM"),
        memory=_number(found, "MEMORY"),
        swap=_number(found, "SWAP"),
        os_version=found.text("OSVERSION"),
        os_comments=found.text("OSCOMMENTS"),
        last_user=found.text("LASTLOGGEDUSER"),
        last_login=found.text("DATELASTLOGGEDUSER"),
    )


def read_bios(content: Element) -> Bios:
    """
    Who made the machine.
    """
    found = content.child("BIOS")
    if found is None:
        return Bios()
    return Bios(
        maker=found.text("SMANUFACTURER"),
        model=found.text("SMODEL"),
        serial=found.text("SSN"),
        board_maker=found.text("MMANUFACTURER"),
        bios_maker=found.text("BMANUFACTURER"),
        bios_version=found.text("BVERSION"),
        bios_date=found.text("BDATE"),
    )


def canonical_address(text: str) -> str | None:
    """
    The shortest form of an IPv4 or IPv6 address, without zone or length of a prefix;
    None for what is none.
    """
    if len(text) > _ADDRESS_LENGTH:
        return None
    try:
        found = ipaddress.ip_address(text.partition("/")[0].partition("%")[0].strip())
    except ValueError:
        return None
    return str(found)


def _addresses(element: Element) -> Iterable[Address]:
    for suffix in ("", "6"):
        # Source: FusionInventory 2.2, several addresses in one element.
        listed = (element.text(f"IPADDRESS{suffix}") or "").split(
            ",", _ADDRESSES_OF_ONE
        )
        # The same for all of them, and looked for once: both may be many.
        mask = element.text(f"IPMASK{suffix}")
        gateway = element.text(f"IPGATEWAY{suffix}")
        subnet = element.text(f"IPSUBNET{suffix}")
        for text in listed[:_ADDRESSES_OF_ONE]:
            address = canonical_address(text)
            if address is not None:
                yield Address(address, mask, gateway, subnet)


def read_interfaces(content: Element) -> tuple[Interface, ...]:
    """
    The network interfaces. What is told of one in several elements is put together,
    and the first that tells something about it counts. More addresses than any machine
    has are left out.
    """
    found: dict[str, Interface] = {}
    left = _ADDRESSES
    addresses: dict[str, dict[str, Address]] = {}
    for element in content.children("NETWORKS"):
        # Source: FusionInventory 2.2, on Android there is only TYPE.
        name = element.text("DESCRIPTION", "TYPE")
        if name is None:
            continue
        own = addresses.setdefault(name, {})
        for address in islice(_addresses(element), left):
            left -= 1
            own.setdefault(address.address, address)
        if name not in found:
            found[name] = Interface(
                name=name,
                mac=element.text("MACADDR"),
                status=element.text("STATUS"),
                kind=element.text("TYPE"),
                speed=element.text("SPEED"),
            )
    return tuple(
        evolve(card, addresses=tuple(addresses[name].values()))
        for name, card in found.items()
    )


def read_processors(content: Element) -> tuple[Processor, ...]:
    """
    The processors, those of one name together: the first one tells the rest.
    """
    found: dict[str, Processor] = {}
    counts: dict[str, int] = {}
    for element in content.children("CPUS"):
        name = element.text("NAME")
        if name is None:
            continue
        counts[name] = counts.get(name, 0) + 1
        if name not in found:
            found[name] = Processor(
                name=name,
                maker=element.text("MANUFACTURER"),
                architecture=element.text("ARCH"),
                speed=_number(element, "SPEED"),
                cores=_number(element, "CORE"),
                threads=_number(element, "THREAD"),
            )
    return tuple(evolve(x, quantity=counts[name]) for name, x in found.items())


def read_filesystems(content: Element) -> tuple[Filesystem, ...]:
    """
    The file systems that have a mount point, a letter or a device.
    """
    found = (
        Filesystem(
            mount=element.text("TYPE"),
            device=element.text("VOLUMN"),
            letter=element.text("LETTER"),
            kind=element.text("FILESYSTEM"),
            total=_number(element, "TOTAL"),
            free=_number(element, "FREE"),
            files=_number(element, "NUMFILES"),
        )
        for element in content.children("DRIVES")
    )
    return tuple(x for x in found if x.mount or x.device or x.letter)


def read_storages(content: Element) -> tuple[Storage, ...]:
    """
    The disks that have a name.
    """
    found = (
        Storage(
            name=element.text("NAME"),
            description=element.text("DESCRIPTION"),
            kind=element.text("TYPE"),
            maker=element.text("MANUFACTURER"),
            model=element.text("MODEL"),
            serial=element.text("SERIALNUMBER", "SERIAL"),
            firmware=element.text("FIRMWARE"),
            size=_number(element, "DISKSIZE"),
        )
        for element in content.children("STORAGES")
    )
    return tuple(x for x in found if x.name)


def read_memories(content: Element) -> tuple[MemorySlot, ...]:
    """
    The places for memory, empty ones too.
    """
    return tuple(
        MemorySlot(
            slot=element.text("NUMSLOTS"),
            capacity=_number(element, "CAPACITY"),
            caption=element.text("CAPTION"),
            description=element.text("DESCRIPTION"),
            kind=element.text("TYPE"),
            speed=element.text("SPEED"),
            serial=element.text("SERIALNUMBER"),
        )
        for element in content.children("MEMORIES")
    )


def read_software(content: Element) -> tuple[Software, ...]:
    """
    The packages, each name and version once: the first one tells the rest.
    """
    found: dict[tuple[str, str | None], Software] = {}
    for element in content.children("SOFTWARES"):
        name, version = element.text("NAME"), element.text("VERSION")
        if name is None or (name, version) in found:
            continue
        found[name, version] = Software(
            name=name,
            version=version,
            publisher=element.text("PUBLISHER"),
            comments=element.text("COMMENTS"),
            source_name=element.text("SOURCE_NAME"),
            source_version=element.text("SOURCE_VERSION"),
        )
    return tuple(found.values())


def read_updates(content: Element) -> tuple[SoftwareUpdate, ...]:
    """
    The packages that could be updated and have a name.
    """
    found = []
    for element in content.children("SOFTWAREUPDATES"):
        name = element.text("NAME")
        if name is not None:
            found.append(
                SoftwareUpdate(
                    name=name,
                    version=element.text("VERSION"),
                    architecture=element.text("ARCH"),
                    origin=element.text("FROM"),
                    kind=element.text("KIND"),
                    source=element.text("SOURCE"),
                    description=element.text("DESCRIPTION"),
                    severity=element.text("SEVERITY"),
                    date=element.text("DATE"),
                    identifier=element.text("ID"),
                )
            )
    return tuple(found)


def read_users(content: Element) -> tuple[str, ...]:
    """
    The names of local users, each once.
    """
    found = (x.text("LOGIN", "NAME") for x in content.children("LOCAL_USERS"))
    return tuple(dict.fromkeys(x for x in found if x))
