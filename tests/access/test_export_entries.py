# SPDX-License-Identifier: MIT
"""
Entries of lists in CFEngine's language: they mean the same addresses, names and keys.
What cf-serverd makes of each form is known from the real one (see
tests/interop/test_export.py); here it is `ipaddress` and `re` that read them.
"""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodecomm.access.entries import HostnameList, parse_key
from nodecomm.access.export_entries import (
    MOST_ENTRIES,
    UnsayableError,
    address_entries,
    hostname_entry,
    key_entries,
    quoted,
    whole,
)
from nodecomm.access.networks import parse_entry, read_address
from tests.access.cases import KEY

SHA = next(digest for digest in KEY.digests if digest.startswith("SHA="))

ADDRESSES = [
    ("10.0.0.1", ["10.0.0.1"]),
    ("10.0", ["10.0"]),
    ("10.1.2.3/8", ["10.0.0.0/8"]),
    ("10.1.2.3/32", ["10.1.2.3"]),
    ("0.0.0.0/0", ["0.0.0.0/0"]),
    ("10.0.0.1-9", ["10.0.0.1-9"]),
    ("10.0-5", ["10.0-5.0-255.0-255"]),
    ("10.0-5.1-3", ["10.0-5.1-3.0-255"]),
    ("2001:DB8:0:0::1", ["2001:db8::1"]),
    ("2001:db8::1/128", ["2001:db8::1"]),
    ("2001:db8::/32", ["2001:db8::/32"]),
    ("::/0", ["::/0"]),
    ("fc00::/7", ["fc00::/8", "fd00::/8"]),
    ("::1.2.3.4", ["::1.2.3.4"]),
    ("2001:db8::1-3", ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
    ("2001:db8:1-2", ["2001:db8:1::/48", "2001:db8:2::/48"]),
    ("2001:db8:0-1ff", ["2001:db8::/40", "2001:db8:100::/40"]),
    (r"10\.(0|1)\..*", [r"^(?i:10\.(0|1)\..*)$"]),
    (r"\Q10.0.0.1", [r"^(?i:\Q10.0.0.1\E)$"]),
    # Without a dot it would be read as a range first.
    ("fd00::[1-3]", ["^(?i:fd00::[1-3])$(?!.)"]),
    ("$(connection.ip)", ["$(connection.ip)"]),
]


@pytest.mark.parametrize(("written", "said"), ADDRESSES, ids=[a for a, _ in ADDRESSES])
def test_address(written: str, said: list[str]) -> None:
    """
    Each form becomes one that cf-serverd takes for what it says.
    """
    assert list(address_entries(parse_entry(written, acl=True))) == said


@given(
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
    st.lists(st.integers(0, 2**128 - 1), max_size=3),
)
@example(0, 1, [2**127, 2**127 - 1])
@example(0x20010DB8 << 96, 33, [(0x20010DB8 << 96) + (1 << 95)])
@settings(max_examples=60, deadline=None)
def test_networks_are_divided_exactly(
    number: int, length: int, others: list[int]
) -> None:
    """
    An IPv6 network becomes networks of whole bytes, no two overlap, and together they
    are that one.
    """
    address = ipaddress.IPv6Address(number)
    if address.ipv4_mapped is not None:
        return
    meant = ipaddress.IPv6Network((number, length), strict=False)
    entry = parse_entry(f"{address}/{length}", acl=True)
    made = [ipaddress.IPv6Network(text) for text in address_entries(entry)]
    assert sum(network.num_addresses for network in made) == meant.num_addresses
    assert all(network.subnet_of(meant) for network in made)
    assert len(set(made)) == len(made) <= 128
    assert all(network.prefixlen % 8 == 0 for network in made)
    for other in others:
        asked = ipaddress.IPv6Address(other)
        assert any(asked in network for network in made) is (asked in meant)


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.integers(0, 12)), min_size=1, max_size=3
    ),
    st.integers(0, 2**48 - 1),
)
@settings(max_examples=60, deadline=None)
def test_ranges_become_networks(groups: list[tuple[int, int]], below: int) -> None:
    """
    A range of IPv6 addresses becomes networks that cover what it covers, at its borders
    too.
    """
    ranges = [(low, min(low + more, 0xFFFF)) for low, more in groups]
    text = ":".join(
        f"{low:x}-{high:x}" for low, high in [(0x2001, 0x2001), (0xDB8, 0xDB8), *ranges]
    )
    entry = parse_entry(text, acl=True)
    try:
        made = [ipaddress.IPv6Network(said) for said in address_entries(entry)]
    except UnsayableError:
        sizes = [high - low + 1 for low, high in ranges]
        count = 1
        for size in sizes:
            count *= size
        assert count > MOST_ENTRIES
        return
    assert len(made) <= MOST_ENTRIES
    for index in range(len(ranges)):
        for value in {
            v for low, high in ranges for v in (low - 1, low, high, high + 1)
        }:
            asked_groups = [0x2001, 0xDB8, *(low for low, _ in ranges)]
            asked_groups[2 + index] = value % 0x10000
            number = 0
            for group in asked_groups:
                number = (number << 16) + group
            left = 16 * (8 - len(asked_groups))
            number = (number << left) + (below % (1 << left))
            asked = ipaddress.IPv6Address(number)
            read = read_address(str(asked))
            assert read is not None
            assert any(asked in n for n in made) is entry.matches(read), (text, asked)


def test_ranges_of_too_many() -> None:
    """
    A range that would be thousands of entries is not said, and costs no time.
    """
    for text in ("2001:db8:0-ffff::1", "0-ffff:0-ffff:0-ffff:0-ffff::1"):
        with pytest.raises(UnsayableError, match="more than 1024"):
            list(address_entries(parse_entry(text, acl=True)))


@pytest.mark.parametrize(
    ("pattern", "subject"), [("10|100", "100"), ("a|ab", "ab"), ("(?:x)", "x")]
)
def test_whole_expressions(pattern: str, subject: str) -> None:
    """
    The first match that is found must be the whole text.
    """
    found = re.search(whole(pattern), subject)
    assert found is not None
    assert found.span() == (0, len(subject))


NAMES = [
    (
        "host.example.com",
        ["host.example.com", "HOST.example.COM"],
        ["hostxexample.com"],
    ),
    (
        ".example.com",
        ["a.example.com", "a.b.Example.com"],
        ["example.com", ".example.com"],
    ),
    (".example.com", [], ["xexample.com", "a.example.com.org"]),
    ("a|ab", ["a", "AB"], ["abc", "xa"]),
]


@pytest.mark.parametrize(("written", "match", "others"), NAMES)
def test_host_names(written: str, match: list[str], others: list[str]) -> None:
    """
    A name or domain means itself, whatever its case; dots are dots.
    """
    entries = HostnameList([written])
    said = hostname_entry(entries.entries[0])
    for name in (*match, *others):
        found = re.search(said.replace("^(?i)", "(?i)^"), name)
        whole_name = found is not None and found.span() == (0, len(name))
        assert whole_name is (name in match), name
        # A look-up gives no name that begins with a dot.
        assert name.startswith(".") or (entries.find(name) is not None) is whole_name


def test_host_name_of_the_peer() -> None:
    """
    The word for the peer's own name stays.
    """
    entry = HostnameList(["$(connection.hostname)"]).entries[0]
    assert hostname_entry(entry) == "$(connection.hostname)"


def test_keys() -> None:
    """
    A digest that the community edition does not know stands beside the one it does;
    where that is not known, nothing is said.
    """

    def known(digest: str) -> str | None:
        return KEY.md5 if digest in KEY.digests else None

    assert key_entries(parse_key(KEY.md5), known) == (KEY.md5,)
    assert key_entries(parse_key(SHA), known) == (KEY.md5, SHA)
    assert key_entries(parse_key("$(connection.key)"), known) == ("$(connection.key)",)
    with pytest.raises(UnsayableError, match="nodecomm key trust"):
        key_entries(parse_key("SHA=" + "0" * 64), known)


QUOTED = [
    (b"/srv/files/", b'"/srv/files/"'),
    (b'a"b', b'"a\\"b"'),
    (b"a\\", b'"a\\\\"'),
    (b'\\"', b'"\\\\\\""'),
    (b"$(x)${y}", b'"$(const.dollar)(x)$(const.dollar){y}"'),
    (b"$x $", b'"$x $"'),
    (b"^a$", b'"^a$"'),
    (b"\xff'`", b'"\xff\'`"'),
    (b"$(connection.key)", b'"$(const.dollar)(connection.key)"'),
]


@pytest.mark.parametrize(("raw", "text"), QUOTED, ids=[str(raw) for raw, _ in QUOTED])
def test_strings(raw: bytes, text: bytes) -> None:
    """
    What the language takes for something else has an escape.
    """
    assert quoted(raw) == text


@given(
    st.lists(
        st.sampled_from(
            [b"$", b"(", b"{", b")", b"$(connection.key)", b"$(x)", b"\\", b'"', b"/a"]
        ),
        max_size=8,
    )
)
@settings(max_examples=100, deadline=None)
def test_strings_with_variables(parts: list[bytes]) -> None:
    """
    Only the variables about the peer are variables, and the rest reads back as it was.
    """
    raw = b"".join(parts)
    text = quoted(raw, words=True)
    assert text[:1] == text[-1:] == b'"'
    read = re.sub(rb'\\([\\"])', rb"\1", text[1:-1])
    assert b'"' not in re.sub(rb"\\.", b"", text[1:-1])
    variables = re.findall(rb"\$\([a-z.]*\)|\$[({].?", read)
    assert set(variables) <= {b"$(connection.key)", b"$(const.dollar)"}
    assert read.replace(b"$(const.dollar)", b"$") == raw
