# SPDX-License-Identifier: MIT
"""
Entries of lists in CFEngine's policy language: what `cf-serverd` takes for the same
addresses, host names and keys, written so that it matches neither more nor less.

Source: CFEngine 3.21, observed with rules of each form and peers from addresses on both
sides of each border.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from itertools import islice

from nodecomm.access.entries import (
    CONNECTION_HOSTNAME,
    CONNECTION_IP,
    CONNECTION_KEY,
    Entry,
    HostnameEntry,
)
from nodecomm.access.networks import AddressPattern

__all__ = [
    "MOST_ENTRIES",
    "Md5Of",
    "UnsayableError",
    "address_entries",
    "hostname_entry",
    "key_entries",
    "quoted",
    "whole",
]

#: Entries that one of ours may become.
MOST_ENTRIES = 1024

#: The MD5 digest of a key of which a digest is known, or None.
Md5Of = Callable[[str], str | None]

#: Each group of an IPv6 address: 16 bits.
_GROUP = 0xFFFF

#: What stays a variable where a path is written.
_WORDS = re.compile(
    b"("
    + b"|".join(
        re.escape(word.encode())
        for word in (CONNECTION_IP, CONNECTION_HOSTNAME, CONNECTION_KEY)
    )
    + b")"
)

#: A dollar that would be taken for the beginning of a variable.
_DOLLAR = re.compile(rb"\$(?=[({$])")

#: A variable whose value is a dollar.
_LITERAL_DOLLAR = b"$(const.dollar)"

Ranges = tuple[tuple[int, int], ...]


class UnsayableError(ValueError):
    """
    The language has no words for it. The message says why.
    """


def quoted(raw: bytes, *, words: bool = False) -> bytes:
    """
    A string of the language whose value is *raw*.

    Args:
        raw: Any bytes but NUL.
        words: Whether `$(connection.*)` in it are the variables of that name.
    """
    if not words:
        return b'"' + _escaped(raw) + b'"'
    parts = _WORDS.split(raw)
    for index in range(0, len(parts), 2):
        text = _escaped(parts[index])
        if index + 1 < len(parts) and text.endswith(b"$"):
            text = text[:-1] + _LITERAL_DOLLAR
        parts[index] = text
    return b'"' + b"".join(parts) + b'"'


def _escaped(raw: bytes) -> bytes:
    raw = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return _DOLLAR.sub(_LITERAL_DOLLAR, raw)


def whole(pattern: str, *, fold: bool = False) -> str:
    """
    An expression for the whole of a text. Unlike here, there the first match that is
    found must happen to be the whole text: without anchors `10|100` is not `100`.
    """
    # An open \Q would take what follows.
    end = "\\E" if "\\Q" in pattern else ""
    return f"^(?{'i' if fold else ''}:{pattern}{end})$"


def address_entries(entry: AddressPattern) -> Iterator[str]:
    """
    What `admit_ips` and the like need for the same addresses.

    Raises:
        UnsayableError: There is no such list of sensible length.
    """
    if entry.form == "word":
        yield CONNECTION_IP
    elif entry.form == "regex":
        text = whole(entry.text, fold=True)
        # Before it is tried as an expression it is read as a network or a range, with
        # odd results, unless it has both a dot and a colon.
        yield text if "." in text else f"{text}(?!.)"
    elif entry.form == "prefix":
        yield entry.text
    elif entry.form == "range":
        yield from _range_entries(entry)
    elif entry.form in ("address", "network"):
        yield from _network_entries(entry.version, entry.network, entry.length)


def _network_entries(version: int, network: int, length: int) -> Iterator[str]:
    if version == 4:
        text = socket.inet_ntop(
            socket.AF_INET, (network << (32 - length)).to_bytes(4, "big")
        )
        yield text if length == 32 else f"{text}/{length}"
        return
    # IPv6 networks of other lengths than whole bytes match nothing there.
    more = -length % 8
    shift = 128 - length - more
    for part in range(1 << more):
        number = ((network << more) + part) << shift
        text = socket.inet_ntop(socket.AF_INET6, number.to_bytes(16, "big"))
        yield text if length + more == 128 else f"{text}/{length + more}"


def _range_entries(entry: AddressPattern) -> Iterator[str]:
    if entry.version == 4:
        # With less than four numbers the outcome depends on the entries beside it.
        ranges = (entry.ranges + ((0, 255),) * 3)[:4]
        yield ".".join(
            str(low) if low == high else f"{low}-{high}" for low, high in ranges
        )
        return
    # A range of IPv6 addresses matches others than it says there: the first group that
    # is below its end decides.
    ranges = entry.ranges
    while ranges and ranges[-1] == (0, _GROUP):
        ranges = ranges[:-1]
    made = list(islice(_blocks(ranges), MOST_ENTRIES + 1))
    if len(made) > MOST_ENTRIES:
        raise UnsayableError(
            f"cf-serverd does not take ranges of IPv6 addresses for what they say, and "
            f"this one is more than {MOST_ENTRIES} networks"
        )
    for network, length in made:
        yield from _network_entries(6, network, length)


def _blocks(
    ranges: Ranges, network: int = 0, length: int = 0
) -> Iterator[tuple[int, int]]:
    """
    The networks, each of a whole number of bytes, that *ranges* consist of; they may
    be very many.
    """
    if not ranges:
        yield network, length
        return
    (low, high), *rest = ranges
    if rest:
        for value in range(low, high + 1):
            yield from _blocks(tuple(rest), (network << 16) + value, length + 16)
        return
    for value, bits in _last_group(low, high):
        yield (network << bits) + value, length + bits


def _last_group(low: int, high: int) -> Iterator[tuple[int, int]]:
    """
    The values of 8 or 16 bits that *low* to *high* consist of, with how many bits.
    """
    value = low
    while value <= high:
        if value % 256 == 0 and value + 255 <= high:
            yield value // 256, 8
            value += 256
        else:
            yield value, 16
            value += 1


def hostname_entry(entry: HostnameEntry) -> str:
    """
    What `admit_hostnames` and the like need for the same names. Always an expression:
    the dots of a plain name stand for any character there, and case counts.
    """
    if entry.pattern is not None:
        return whole(entry.pattern.text, fold=True)
    if entry.text == CONNECTION_HOSTNAME:
        return CONNECTION_HOSTNAME
    name = entry.name.replace(".", "\\.")
    return f"^(?i){'.+' if entry.name.startswith('.') else ''}{name}$"


def key_entries(entry: Entry, md5_of: Md5Of) -> tuple[str, ...]:
    """
    What `admit_keys` and the like need for the same key. The community edition knows
    keys by their MD5 digests only.

    Raises:
        UnsayableError: That digest is not known.
    """
    if not entry.text.startswith("SHA="):
        return (entry.text,)
    md5 = md5_of(entry.text)
    if md5 is None:
        raise UnsayableError(
            "cf-serverd's community edition knows keys by their MD5 digests, and that "
            "of this key is not known here: store the key (`nodecomm key trust`), or "
            "write MD5=... in the rule"
        )
    return (md5, entry.text)
