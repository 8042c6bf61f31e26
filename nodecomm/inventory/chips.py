# SPDX-License-Identifier: MIT
"""
What a machine is made of: processors and places for memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve

from nodecomm.inventory.host import Host
from nodecomm.inventory.model import MemorySlot, Processor

__all__ = ["memories_of", "parse_memory_slot", "processors_of"]

#: Makers, as processors of the x86 family name themselves.
_MAKERS = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "HygonGenuine": "Hygon",
    "CentaurHauls": "VIA",
    "  Shanghai  ": "Zhaoxin",
}

#: Makers of ARM processors, by their number.
#: Source: Arm, MIDR_EL1.Implementer.
_IMPLEMENTERS = {
    "0x41": "ARM",
    "0x42": "Broadcom",
    "0x43": "Cavium",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x53": "Samsung",
    "0x61": "Apple",
    "0xc0": "Ampere",
}

#: Where /proc/cpuinfo has a processor's name: x86, MIPS, POWER, RISC-V, old ARM.
_NAME_LABELS = ("model name", "cpu model", "cpu", "uarch", "Processor")

#: What firmware tells of places for memory: structures of type 17.
_ENTRIES = "/sys/firmware/dmi/entries"
_MEMORY_DEVICE = 17

#: Source: DMTF DSP0134 (SMBIOS 3.6), 7.18: form factors and types, those that memory
#: in places of its own has.
_FORMS = {5: "Chip", 9: "DIMM", 11: "Row of chips", 13: "SODIMM", 15: "FB-DIMM"}
_KINDS = {
    0x0F: "SDRAM",
    0x12: "DDR",
    0x13: "DDR2",
    0x14: "DDR2 FB-DIMM",
    0x18: "DDR3",
    0x1A: "DDR4",
    0x1B: "LPDDR",
    0x1C: "LPDDR2",
    0x1D: "LPDDR3",
    0x1E: "LPDDR4",
    0x20: "HBM",
    0x21: "HBM2",
    0x22: "DDR5",
    0x23: "LPDDR5",
}


def processors_of(host: Host) -> tuple[Processor, ...]:
    """
    The kinds of processors (what sits in one socket), with how many there are of each.

    Raises:
        OSError: /proc/cpuinfo cannot be read.
    """
    machine = host.uname().machine
    sockets: dict[str, list[dict[str, str]]] = {}
    shared: dict[str, str] = {}
    for block in _blocks(host.text("/proc/cpuinfo")):
        if block.get("processor", "").isdigit():
            sockets.setdefault(_socket(host, block), []).append(block)
        else:
            # Facts of all: the last lines on ARM and POWER, the first on s390.
            shared.update(block)
    kinds: dict[Processor, int] = {}
    for socket, blocks in sockets.items():
        kind = _processor(host, machine, socket, [shared | b for b in blocks])
        kinds[kind] = kinds.get(kind, 0) + 1
    return tuple(evolve(kind, quantity=count) for kind, count in kinds.items())


def memories_of(host: Host) -> tuple[MemorySlot, ...]:
    """
    The places for memory, empty ones too.

    Raises:
        OSError: The firmware tells of none, or the user may not read it.
    """
    names = [
        name
        for name in host.names(_ENTRIES)
        if name.startswith(f"{_MEMORY_DEVICE}-") and name[3:].isdigit()
    ]
    if not names:
        raise OSError(f"there is no entry {_MEMORY_DEVICE} in {_ENTRIES}")
    names.sort(key=lambda name: int(name[3:]))
    return tuple(
        parse_memory_slot(host.path(f"{_ENTRIES}/{name}/raw").read_bytes(), number)
        for number, name in enumerate(names, 1)
    )


def parse_memory_slot(data: bytes, number: int) -> MemorySlot:
    """
    A place for memory, as firmware describes it.

    Args:
        data: A structure of type 17, its strings included.
        number: The number of the place.

    Raises:
        ValueError: It is no such structure.
    """
    # Source: DMTF DSP0134 (SMBIOS 3.6), 7.18, with the offsets of its table.
    size = data[1] if len(data) > 1 else 0
    if size < 0x15 or len(data) < size or data[0] != _MEMORY_DEVICE:
        raise ValueError("no description of a place for memory")
    strings = data[size:].split(b"\0")

    def word(at: int) -> int:
        return struct.unpack_from("<H", data, at)[0] if at + 2 <= size else 0

    def string(at: int) -> str | None:
        index = data[at] if at < size else 0
        found = strings[index - 1] if 1 <= index <= len(strings) else b""
        return found.decode("latin-1").strip() or None

    return MemorySlot(
        slot=str(number),
        capacity=_capacity(word(0x0C), data[0x1C : min(size, 0x20)]),
        caption=string(0x10),
        description=_FORMS.get(data[0x0E]),
        kind=_KINDS.get(data[0x12]),
        speed=str(word(0x15)) if word(0x15) not in (0, 0xFFFF) else None,
        serial=string(0x18),
    )


def _capacity(size: int, extended: bytes) -> int | None:
    """
    MiB; None for an empty place, or when nobody knows.
    """
    if size in (0, 0xFFFF):
        return None
    if size == 0x7FFF and len(extended) == 4:
        return int.from_bytes(extended, "little") & 0x7FFFFFFF
    # The highest bit says that it is in KiB.
    return (size & 0x7FFF) // 1024 if size & 0x8000 else size


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """
    What /proc/cpuinfo has between empty lines.
    """
    for block in text.split("\n\n"):
        found = {}
        for line in block.splitlines():
            label, colon, value = line.partition(":")
            if colon:
                # Blanks are part of a maker's name.
                found[label.strip()] = value.removeprefix(" ")
        if found:
            yield found


def _socket(host: Host, block: Mapping[str, str]) -> str:
    topology = f"/sys/devices/system/cpu/cpu{block['processor'].strip()}/topology"
    told = block.get("physical id") or host.value(f"{topology}/physical_package_id")
    # A machine that says -1 has one socket or does not know.
    return (told or "0").strip()


def _processor(
    host: Host, machine: str, socket: str, blocks: Sequence[Mapping[str, str]]
) -> Processor:
    first = blocks[0]
    number = first["processor"].strip()
    cores = {
        host.value(f"/sys/devices/system/cpu/cpu{n}/topology/core_id") or n
        for n in (block["processor"].strip() for block in blocks)
    }
    told = first.get("cpu cores", "").strip()
    implementer = first.get("CPU implementer", "").strip()
    maker = first.get("vendor_id")
    return Processor(
        name=_name(first, machine),
        maker=_IMPLEMENTERS.get(implementer)
        if maker is None
        else _MAKERS.get(maker, maker),
        architecture=machine,
        speed=_speed(host, number, first),
        cores=int(told) if told.isdigit() else len(cores),
        threads=len(blocks),
    )


def _name(block: Mapping[str, str], machine: str) -> str:
    for label in _NAME_LABELS:
        if name := block.get(label, "").strip():
            return name
    part = block.get("CPU part", "").strip()
    return f"{machine} part {part}" if part else machine


def _speed(host: Host, number: str, block: Mapping[str, str]) -> int | None:
    """
    MHz: the highest one if the system knows it, else the present one.
    """
    highest = host.number(
        f"/sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq"
    )
    if highest is not None:
        return highest // 1000
    present = block.get("cpu MHz", block.get("clock", "")).strip().removesuffix("MHz")
    try:
        return round(float(present))
    except (ValueError, OverflowError):
        return None
