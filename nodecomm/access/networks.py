# SPDX-License-Identifier: MIT
"""
Addresses, and the ways a rule may write them.

The forms are CFEngine's: one address, the beginning of an IPv4 address (`192.168`), a
network (`10.0.0.0/8`, `2001:db8::/33`), ranges (`10.0.0.1-9`, `2001:db8::1-ff`), and a
regular expression on the whole address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

from attrs import field, frozen

from nodecomm.access.entries import CONNECTION_IP, Entry
from nodecomm.access.patterns import Pattern, has_regex

__all__ = ["Address", "AddressList", "AddressPattern", "parse_entry", "read_address"]

Form = Literal["address", "prefix", "network", "range", "regex", "word", "nothing"]

_BITS: Final = {4: 32, 6: 128}
_PLAIN = re.compile(r"[0-9A-Fa-f.:/\-]+\Z")
_PREFIX = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z")


class Address(NamedTuple):
    """
    A peer's address, read once: the text (IPv4 in IPv6 shown as IPv4), 4 or 6, and
    its number.
    """

    text: str
    version: int
    number: int


# The same few lists are asked about the same address several times per connection.
@lru_cache(maxsize=4096)
def read_address(text: str) -> Address | None:
    """
    The address that *text* is, or None. A zone (`%eth0`) is not part of it.
    """
    text = text.strip().partition("%")[0]
    try:
        if ":" not in text:
            return Address(text, 4, int(IPv4Address(text)))
        six = IPv6Address(text)
    except (AddressValueError, ValueError):
        return None
    if six.ipv4_mapped is not None:
        return Address(str(six.ipv4_mapped), 4, int(six.ipv4_mapped))
    return Address(str(six), 6, int(six))


@frozen
class AddressPattern(Entry):
    """
    One entry of a list of addresses.

    Attributes:
        form: How it is written; `word` is `$(connection.ip)` and `nothing` an entry
            that matches nobody (`ineffective` says why).
    """

    form: Form = "nothing"
    version: int = field(default=0, repr=False)
    network: int = field(default=0, repr=False)
    length: int = field(default=0, repr=False)
    ranges: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    pattern: Pattern | None = field(default=None, repr=False, eq=False)

    def first(self) -> Address | None:
        """
        The first address that the entry covers; None where its form does not tell it.
        """
        if self.form not in ("address", "prefix", "network"):
            return None
        number = self.network << (_BITS[self.version] - self.length)
        known = IPv4Address(number) if self.version == 4 else IPv6Address(number)
        return Address(str(known), self.version, number)

    def matches(self, address: Address) -> bool:
        """
        Whether the entry covers *address*.
        """
        if self.pattern is not None:
            return self.pattern.matches(address.text.encode("ascii", "replace"))
        if self.version != address.version:
            return False
        if self.form == "range":
            width = 8 if self.version == 4 else 16
            shift = _BITS[self.version]
            mask = (1 << width) - 1
            for low, high in self.ranges:
                shift -= width
                if not low <= (address.number >> shift) & mask <= high:
                    return False
            return True
        shift = _BITS[self.version] - self.length
        return address.number >> shift == self.network


def _network(
    text: str, form: Form, version: int, number: int, length: int
) -> AddressPattern:
    return AddressPattern(
        text=text,
        form=form,
        version=version,
        network=number >> (_BITS[version] - length),
        length=length,
    )


def _octet(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdigit() or str(int(text)) != text:
        raise ValueError(
            f"'{text}' is no part of an IPv4 address; write a number from 0 to 255 "
            "without leading zeros"
        )
    if int(text) > 255:
        raise ValueError(f"{text} is above 255, so '{whole}' can match no address")
    return int(text)


def _group(text: str) -> int:
    if not re.fullmatch(r"[0-9A-Fa-f]{1,4}", text):
        raise ValueError(
            f"'{text}' is no part of an IPv6 address; write one to four hexadecimal "
            "digits"
        )
    return int(text, 16)


def _parse_network(text: str) -> AddressPattern:
    base, _, length_text = text.partition("/")
    address = read_address(base)
    if address is None:
        if _PREFIX.match(base.rstrip(".")):
            whole = ".".join([*base.rstrip(".").split("."), "0", "0", "0"][:4])
            raise ValueError(
                f"a network needs all four numbers; write '{whole}/{length_text}'"
            )
        raise ValueError(f"'{base}' is no address")
    if ":" in base and address.version == 4:
        raise ValueError(f"write the IPv4 network itself, '{address.text}/...'")
    bits = _BITS[address.version]
    if (
        not length_text.isascii()
        or not length_text.isdigit()
        or int(length_text) > bits
    ):
        raise ValueError(
            f"after the slash stands the number of bits, 0 to {bits}, "
            f"not '{length_text}'"
        )
    return _network(text, "network", address.version, address.number, int(length_text))


def _bounds(part: str, version: int, whole: str) -> tuple[int, int]:
    low_text, dash, high_text = part.partition("-")
    read = (lambda text: _octet(text, whole)) if version == 4 else _group
    low = read(low_text)
    high = read(high_text) if dash else low
    if low > high:
        raise ValueError(f"the range '{part}' is empty; write '{high_text}-{low_text}'")
    return low, high


def _parse_range(text: str) -> AddressPattern:
    if "/" in text:
        raise ValueError("a range and a network cannot be combined")
    version = 6 if ":" in text else 4
    if version == 4:
        parts = text.split(".")
        if len(parts) > 4:
            raise ValueError("an IPv4 address has four numbers")
    else:
        parts = _expand_groups(text)
    return AddressPattern(
        text=text,
        form="range",
        version=version,
        ranges=tuple(_bounds(part, version, text) for part in parts),
    )


def _expand_groups(text: str) -> list[str]:
    """
    The groups of an IPv6 range, `::` written out.
    """
    head, double, tail = text.partition("::")
    if "::" in tail:
        raise ValueError("'::' can stand only once in an address")
    first = head.split(":") if head else []
    last = tail.split(":") if tail else []
    if double:
        missing = 8 - len(first) - len(last)
        if missing < 1:
            raise ValueError("an IPv6 address has eight groups")
        return [*first, *["0"] * missing, *last]
    if len(first) > 8:
        raise ValueError("an IPv6 address has eight groups")
    return first


def _parse_plain(text: str) -> AddressPattern:
    if text.endswith(".") and _PREFIX.match(text[:-1]):
        octets = text[:-1].split(".")
        whole = ".".join([*octets, *["0"] * (4 - len(octets))])
        raise ValueError(
            "an entry that ends with a dot matches no address; write "
            f"'{text[:-1]}' or '{whole}/{8 * len(octets)}'"
        )
    if "-" in text:
        return _parse_range(text)
    if "/" in text:
        return _parse_network(text)
    address = read_address(text)
    if address is not None:
        return _network(
            text, "address", address.version, address.number, _BITS[address.version]
        )
    if _PREFIX.match(text):
        numbers = [_octet(part, text) for part in text.split(".")]
        number = int.from_bytes(bytes(numbers).ljust(4, b"\0"), "big")
        return _network(text, "prefix", 4, number, 8 * len(numbers))
    if re.fullmatch(r"[0-9A-Fa-f]+(:[0-9A-Fa-f]+)+:*", text):
        groups = text.rstrip(":").split(":")
        raise ValueError(
            "the beginning of an IPv6 address matches no address; write "
            f"'{':'.join(groups)}::/{16 * len(groups)}'"
        )
    raise ValueError(
        "this is no address, network or range, so it matches nobody; if it is a host "
        "name, write it in a list of host names"
    )


def _looks_like_name(text: str) -> str:
    """
    The host name (or domain) that *text* seems to mean, or "".
    """
    name = text.lstrip("^").rstrip("$")
    if name.startswith(".*"):
        name = name[2:]
    name = name.replace("\\.", ".")
    if re.fullmatch(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", name) and re.search(
        r"[G-Zg-z_]", name
    ):
        return name
    return ""


def parse_entry(text: str, *, acl: bool) -> AddressPattern:
    """
    Read one entry of a list of addresses.

    Args:
        text: The entry as written.
        acl: Whether the list is one of an access rule, where `$(connection.ip)` may
            stand too; otherwise one of `[server]`.

    Raises:
        UnsupportedPatternError: It is a regular expression that cannot be evaluated
            exactly.
        ValueError: It can match nothing. The message says what to write instead.
    """
    if not text or text != text.strip():
        raise ValueError("an empty entry or one with white space matches nobody")
    if text == CONNECTION_IP:
        if acl:
            return AddressPattern(text=text, form="word")
        raise ValueError(f"{CONNECTION_IP} has a meaning only in access rules")
    if text.startswith(("MD5=", "SHA=")):
        raise ValueError("this is the digest of a key; write it in a list of keys")
    if _PLAIN.match(text) and not _looks_like_name(text):
        return _parse_plain(text)
    name = _looks_like_name(text)
    if name:
        where = "admit_hostnames or deny_hostnames" if acl else "a list of host names"
        only = "" if acl else "; connections are judged by address only"
        raise ValueError(
            f"this is a host name, which no address equals; write '{name}' in "
            f"{where}{only}"
        )
    if not has_regex(text):
        raise ValueError(
            "this is no address, network or range, so it matches nobody; write one, "
            "such as 10.1.2.3, 10.0.0.0/8 or 10.0.1-5.0-99"
        )
    return AddressPattern(text=text, form="regex", pattern=Pattern(text, fold=True))


class AddressList:
    """
    A list of addresses; an address is looked up in it, not tried on each entry.

    Args:
        entries: Texts, or entries already read.
        acl: As in `parse_entry`.
    """

    __slots__ = ("_networks", "_others", "entries", "words")

    def __init__(
        self, entries: Iterable[str | AddressPattern] = (), *, acl: bool = False
    ) -> None:
        self.entries: tuple[AddressPattern, ...] = tuple(
            parse_entry(entry, acl=acl) if isinstance(entry, str) else entry
            for entry in entries
        )
        #: The entries that are words for the peer's own values.
        self.words = tuple(e for e in self.entries if e.form == "word")
        networks: dict[tuple[int, int], dict[int, AddressPattern]] = {}
        others: list[AddressPattern] = []
        for entry in self.entries:
            if entry.form in ("address", "prefix", "network"):
                key = (entry.version, _BITS[entry.version] - entry.length)
                networks.setdefault(key, {}).setdefault(entry.network, entry)
            elif entry.form in ("range", "regex"):
                others.append(entry)
        # The longest network first, so that the entry named is the nearest one.
        self._networks = tuple(
            (version, shift, networks[version, shift])
            for version, shift in sorted(networks, key=lambda key: key[1])
        )
        self._others = tuple(others)

    def find(self, address: str | Address) -> AddressPattern | None:
        """
        The entry that covers *address*, or None.
        """
        read = read_address(address) if isinstance(address, str) else address
        if read is None:
            return None
        for version, shift, table in self._networks:
            if version == read.version:
                found = table.get(read.number >> shift)
                if found is not None:
                    return found
        for entry in self._others:
            if entry.matches(read):
                return entry
        return None

    def match(self, address: str) -> str | None:
        """
        The text of the entry that covers *address*, or None.
        """
        found = self.find(address)
        return found.text if found is not None else None

    def __iter__(self) -> Iterator[AddressPattern]:
        return iter(self.entries)

    def __len__(self) -> int:
        """
        How many entries were written, those that match nobody included: such a list
        is not an empty one.
        """
        return len(self.entries)

    def __repr__(self) -> str:
        return f"AddressList({[entry.text for entry in self.entries]!r})"
