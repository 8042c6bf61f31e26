# SPDX-License-Identifier: MIT
"""
Processors and places for memory.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.inventory.chips import memories_of, parse_memory_slot, processors_of
from nodecomm.inventory.model import MemorySlot, Processor
from tests.inventory.machine import UNAME, machine

X86 = """\
processor	: {number}
vendor_id	: GenuineIntel
cpu family	: 6
model name	: Intel(R) Xeon(R) CPU E5-2630 v4 @ 2.20GHz
cpu MHz		: 1199.61
physical id	: {socket}
siblings	: 4
core id		: 0
cpu cores	: 2
flags		: fpu vme

"""

ARM = """\
processor	: 0
BogoMIPS	: 108.00
CPU implementer	: 0x41
CPU part	: 0xd08

processor	: 1
BogoMIPS	: 108.00
CPU implementer	: 0x41
CPU part	: 0xd08

Hardware	: BCM2835
Model		: Raspberry Pi 4 Model B Rev 1.2
"""

POWER = """\
processor	: 0
cpu		: POWER9, altivec supported
clock		: 2300.000000MHz

processor	: 1
cpu		: POWER9, altivec supported
clock		: 2300.000000MHz

timebase	: 512000000
platform	: pSeries
"""

S390 = """\
vendor_id       : IBM/S390
# processors    : 1

processor 0: version = 00,  identification = 2733E8,  machine = 2964
"""

TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology"

XEON = Processor(
    "Intel(R) Xeon(R) CPU E5-2630 v4 @ 2.20GHz",
    maker="Intel",
    architecture="x86_64",
    speed=1200,
    cores=2,
    threads=4,
)


def test_sockets_of_a_kind(tmp_path: Path) -> None:
    """
    Two sockets with the same in them are one kind, twice.
    """
    blocks = [X86.format(number=n, socket=n // 4) for n in range(8)]
    host = machine(tmp_path, {"/proc/cpuinfo": "".join(blocks)})

    assert processors_of(host) == (evolve(XEON, quantity=2),)


def test_the_highest_speed_counts(tmp_path: Path) -> None:
    """
    The speed is the one that the processor can have where the system knows it.
    """
    highest = "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    files = {
        "/proc/cpuinfo": "".join(X86.format(number=n, socket=0) for n in range(4)),
        highest: "3100000\n",
    }

    assert processors_of(machine(tmp_path, files)) == (evolve(XEON, speed=3100),)


def test_arm(tmp_path: Path) -> None:
    """
    Where processors have no names, their makers and parts have numbers.
    """
    files = {"/proc/cpuinfo": ARM}
    for number in range(2):
        files[TOPOLOGY.format(number) + "/core_id"] = f"{number}\n"
        files[TOPOLOGY.format(number) + "/physical_package_id"] = "0\n"
    host = machine(tmp_path, files, uname=(*UNAME[:4], "aarch64"))

    assert processors_of(host) == (
        Processor(
            "aarch64 part 0xd08",
            maker="ARM",
            architecture="aarch64",
            cores=2,
            threads=2,
        ),
    )


def test_power(tmp_path: Path) -> None:
    """
    A name of another label, and a speed with its unit.
    """
    host = machine(tmp_path, {"/proc/cpuinfo": POWER}, uname=(*UNAME[:4], "ppc64le"))

    assert processors_of(host) == (
        Processor(
            "POWER9, altivec supported",
            architecture="ppc64le",
            speed=2300,
            cores=2,
            threads=2,
        ),
    )


@pytest.mark.parametrize("text", ["", "\n\n\n", "nothing known", S390])
def test_other_forms(tmp_path: Path, text: str) -> None:
    """
    A list of another form has no processors that could be told.
    """
    assert processors_of(machine(tmp_path, {"/proc/cpuinfo": text})) == ()


def slot(
    size: int,
    *,
    extended: int = 0,
    speed: int = 2400,
    strings: bytes = b"DIMM_A1\0BANK 0\0ABC123\0\0",
) -> bytes:
    """
    A structure of type 17, as version 2.8 of SMBIOS has it.
    """
    body = struct.pack(
        "<BBHHHHHHBBBBBHHBBBBBIHHHH",
        *(17, 40, 0x1100, 0x1000, 0xFFFE, 64, 64, size, 9, 0, 1, 2, 0x1A),
        *(0x80, speed, 0, 3, 0, 0, 0, extended, speed, 1200, 1200, 1200),
    )
    assert len(body) == 40
    return body + strings


def test_memory(tmp_path: Path) -> None:
    """
    Places are in the order of their numbers, empty ones among them.
    """
    entries = "/sys/firmware/dmi/entries"
    files = {
        f"{entries}/17-10/raw": slot(0, speed=0, strings=b"\0\0"),
        f"{entries}/17-2/raw": slot(8192),
        f"{entries}/16-0/raw": b"\x10",
    }

    first, second = memories_of(machine(tmp_path, files))

    assert first == MemorySlot(
        slot="1",
        capacity=8192,
        caption="DIMM_A1",
        description="DIMM",
        kind="DDR4",
        speed="2400",
        serial="ABC123",
    )
    assert (second.slot, second.capacity, second.speed) == ("2", None, None)
    assert (second.caption, second.serial) == (None, None)


@pytest.mark.parametrize(
    ("size", "extended", "mebibytes"),
    [
        (8192, 0, 8192),
        (0x8000 | 2048, 0, 2),
        (0x7FFF, 65536, 65536),
        (0xFFFF, 0, None),
        (0, 0, None),
    ],
)
def test_capacities(size: int, extended: int, mebibytes: int | None) -> None:
    """
    A capacity is in MiB, in KiB, in a field of its own, or unknown.
    """
    assert parse_memory_slot(slot(size, extended=extended), 1).capacity == mebibytes


def test_no_memory_told(tmp_path: Path) -> None:
    """
    A machine whose firmware tells of no memory is told apart from one without any.
    """
    with pytest.raises(OSError, match="there is no entry 17"):
        memories_of(machine(tmp_path, {}))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=50).map(lambda b: b"\x11\x15" + b))
def test_any_firmware(data: bytes) -> None:
    """
    Whatever firmware says is a place for memory or a ValueError.
    """
    try:
        found = parse_memory_slot(data, 3)
    except ValueError:
        return
    assert found.slot == "3"
