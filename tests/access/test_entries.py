# SPDX-License-Identifier: MIT
"""
Host names and keys in lists.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.entries import (
    HostnameList,
    KeyList,
    legacy_hostnames,
    parse_hostname,
    parse_key,
)
from nodecomm.access.patterns import UnsupportedPatternError
from tests.access.cases import KEY, OTHER_KEY

HOSTNAMES = [
    (["node1.example.com"], "node1.example.com", "node1.example.com"),
    (["node1.example.com"], "NODE1.example.com.", "node1.example.com"),
    (["node1.example.com"], "xnode1.example.com", None),
    (["node1.example.com"], "node1xexample.com", None),
    ([".example.com"], "a.example.com", ".example.com"),
    ([".example.com"], "a.b.example.com", ".example.com"),
    ([".example.com"], "example.com", None),
    ([".example.com"], "xexample.com", None),
    ([".example.com"], "a.example.com.evil.org", None),
    ([".com", ".example.com"], "a.example.com", ".example.com"),
    ([".example.com", ".com"], "a.example.org", None),
    (["a.example.com", ".example.com"], "a.example.com", "a.example.com"),
    ([r"node[0-9]+\.example\.com"], "node12.example.com", r"node[0-9]+\.example\.com"),
    ([r"node[0-9]+\.example\.com"], "node12.example.com.org", None),
    ([r"node[0-9]+\.example\.com"], "xnode12.example.com", None),
    ([r".*", ".example.com"], "a.example.com", ".example.com"),
    ([".example.com"], None, None),
    ([".*"], "", None),
    ([], "a", None),
]


@pytest.mark.parametrize(("entries", "hostname", "expected"), HOSTNAMES)
def test_hostname_matches(
    entries: list[str], hostname: str | None, expected: str | None
) -> None:
    """
    A name equals an entry, else lies below the longest domain at a dot, else matches
    an expression as a whole; a name that is no expression is never one.
    """
    assert expected == HostnameList(entries).match(hostname)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("10.0.0.1", "list of addresses"),
        ("2001:db8::/32", "list of addresses"),
        ("10.0.0.0/8", "list of addresses"),
        ("MD5=0", "list of keys"),
        ("example.com.", "write 'example.com'"),
        ("", "empty"),
        ("a b", "no host name"),
        ("@allowed_networks", "no host name"),
    ],
)
def test_hostname_that_matches_nothing(entry: str, says: str) -> None:
    """
    What is no host name is an error that says where it belongs.
    """
    with pytest.raises(ValueError, match=says):
        parse_hostname(entry)


def test_hostname_expression_that_cannot_be_evaluated() -> None:
    """
    The construct that is not supported is named.
    """
    with pytest.raises(UnsupportedPatternError, match="lookbehind"):
        parse_hostname(r".*(?<=x)\.example\.com")


LEGACY = [
    ("node1.example.com", ("node1.example.com",)),
    ("localhost", ("localhost",)),
    (".example.com", (".example.com",)),
    (".*localhost", ("localhost", ".localhost")),
    (".*.example.com", (".example.com",)),
    (r".*\.example\.com", (".example.com",)),
    (r"^.*\.example\.com", (".example.com",)),
    (r"\.example\.com", (".example.com",)),
    (r"node1\.example\.com", ("node1.example.com",)),
    (r"^node1\.example\.com", ("node1.example.com",)),
    (r".*example\.com", ("example.com", ".example.com")),
    ("local.*", None),
    (".*", None),
    ("node[0-9]", None),
    ("(a|b)", None),
    (r"a\d", None),
    ("$(connection.hostname)", None),
    ("..*", None),
]


@pytest.mark.parametrize(("entry", "expected"), LEGACY)
def test_old_expressions_are_converted(
    entry: str, expected: tuple[str, ...] | None
) -> None:
    """
    Old entries become names and domains; what cannot become one is an error.
    """
    if expected is None:
        with pytest.raises(ValueError, match="no counterpart"):
            legacy_hostnames(entry)
    else:
        assert expected == legacy_hostnames(entry)


def test_keys_match_by_either_name() -> None:
    """
    Both names of a key are the key, and no other key has them.
    """
    for entry in KEY.digests:
        keys = KeyList([entry])

        found = keys.find(KEY.digests)

        assert found is not None
        assert found.text == entry
        assert keys.find(OTHER_KEY.digests) is None


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("MD5=" + "A" * 32, "write 'MD5=" + "a" * 32),
        ("MD5=abc", "32 lower-case"),
        ("SHA=" + "0" * 32, "64 lower-case"),
        ("0" * 32, "MD5= and 32"),
        ("10.0.0.1", "MD5= and 32"),
    ],
)
def test_key_that_matches_nothing(entry: str, says: str) -> None:
    """
    What is no digest is an error that says how one is written.
    """
    with pytest.raises(ValueError, match=says):
        parse_key(entry)


@settings(max_examples=100)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_hostname_or_an_error(text: str, hostname: str) -> None:
    """
    Any text is read or refused with ValueError, and any name can be looked up.
    """
    try:
        entries = HostnameList([text])
    except ValueError as error:
        assert str(error)
    else:
        assert entries.match(hostname) in (None, text)
