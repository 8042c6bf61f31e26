# SPDX-License-Identifier: MIT
"""
Addresses, and the ways a rule may write them.
"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.networks import AddressList, parse_entry, read_address
from nodecomm.access.patterns import UnsupportedPatternError

MATCHES = [
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "127.0.0.11", False),
    ("::1", "0:0:0:0:0:0:0:1", True),
    ("2001:DB8::1", "2001:db8::1", True),
    ("::ffff:10.0.0.1", "10.0.0.1", True),
    ("10.0.0.1", "::ffff:10.0.0.1", True),
    # The beginning of an address, at a dot.
    ("127.4", "127.4.0.1", True),
    ("127.4", "127.4.0.12", True),
    ("127.4", "127.40.0.1", False),
    ("127", "127.40.0.1", True),
    ("127.4.0", "127.4.0.255", True),
    ("127.4.0", "127.4.1.1", False),
    # Networks, of any length.
    ("127.3.0.0/16", "127.3.255.255", True),
    ("127.3.0.0/16", "127.4.0.0", False),
    ("127.3.9.9/16", "127.3.1.1", True),
    ("10.0.0.0/9", "10.127.0.1", True),
    ("10.0.0.0/9", "10.128.0.1", False),
    ("10.0.0.1/32", "10.0.0.1", True),
    ("10.0.0.1/32", "10.0.0.0", False),
    ("0.0.0.0/0", "8.8.8.8", True),
    ("0.0.0.0/0", "::1", False),
    ("2001:db8::/32", "2001:db8:ffff::1", True),
    ("2001:db8::/33", "2001:db8:7fff::1", True),
    ("2001:db8::/33", "2001:db8:8000::1", False),
    ("fe80::/10", "febf::1", True),
    ("fe80::/10", "fec0::1", False),
    ("::/0", "2001:db8::1", True),
    ("::/0", "127.0.0.1", False),
    # Ranges; both bounds belong to them, and what is not written is any.
    ("127.4.0.1-9", "127.4.0.1", True),
    ("127.4.0.1-9", "127.4.0.9", True),
    ("127.4.0.1-9", "127.4.0.10", False),
    ("127.4-6.0.1", "127.5.0.1", True),
    ("127.4-6", "127.5.9.9", True),
    ("127.4-6", "127.7.9.9", False),
    ("2001:db8::1-ff", "2001:db8::1", True),
    ("2001:db8::1-ff", "2001:db8::ff", True),
    ("2001:db8::1-ff", "2001:db8::100", False),
    ("2001:db8::1-ff", "2001:db8::", False),
    ("2001:db8-dba", "2001:db9:1::1", True),
    ("2001:db8-dba", "2001:dbb:1::1", False),
    ("2001:db8::1-ff", "1.2.3.4", False),
    # Regular expressions, on the whole address.
    (r"192\.168\..*", "192.168.4.4", True),
    (r"192\.168\..*", "1.192.168.4", False),
    (r"10\.0\.0\.(1|2)", "10.0.0.2", True),
    (r"10\.0\.0\.(1|2)", "10.0.0.22", False),
    (r"2001:DB8:.*", "2001:db8::1", True),
    # What is no address matches nothing, and raises nothing.
    ("0.0.0.0/0", "", False),
    ("0.0.0.0/0", "localhost", False),
    ("fe80::/10", "fe80::1%eth0", True),
]


@pytest.mark.parametrize(("entry", "address", "expected"), MATCHES)
def test_entry_matches(entry: str, address: str, expected: bool) -> None:
    """
    An entry covers exactly the addresses that it says, in both kinds of list.
    """
    wanted = entry if expected else None

    assert wanted == AddressList([entry], acl=True).match(address)
    assert wanted == AddressList([entry], acl=False).match(address)


REFUSED = [
    ("192.168.", "write '192.168' or '192.168.0.0/16'"),
    ("10.", "write '10' or '10.0.0.0/8'"),
    ("10.0/16", "write '10.0.0.0/16'"),
    ("10.0.0.0/33", "0 to 32"),
    ("2001:db8::/129", "0 to 128"),
    ("10.0.0.0/", "number of bits"),
    ("10.0.0.0/255.0.0.0", "number of bits"),
    ("10.0.0.256", "no address"),
    ("10.0.0.1-256", "above 255"),
    ("10.0.0.9-1", "write '1-9'"),
    ("10.0.0.1-9/8", "cannot be combined"),
    ("10.0.0.0.1-9", "four numbers"),
    ("2001:db8", "write '2001:db8::/32'"),
    ("2001:db8:", "write '2001:db8::/32'"),
    ("1::2::3-4", "only once"),
    ("1:2:3:4:5:6:7:8:9-a", "eight groups"),
    ("2001:db8::10000-20000", "no part of an IPv6 address"),
    ("300", "above 255"),
    ("01.2", "no part of an IPv4 address"),
    ("cafe", "no address"),
    ("", "empty"),
    (" 10.0.0.1", "white space"),
    ("node1.example.com", "write 'node1.example.com' in admit_hostnames"),
    (r".*\.example\.com", "write '.example.com' in admit_hostnames"),
    ("localhost", "host name"),
    ("MD5=00000000000000000000000000000000", "digest of a key"),
    ("@other", "no address"),
]


@pytest.mark.parametrize(("entry", "says"), REFUSED)
def test_entry_that_matches_nothing(entry: str, says: str) -> None:
    """
    An entry that can match no address is an error that says what to write.
    """
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        parse_entry(entry, acl=True)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (r"10\.(?=1).*", "lookahead"),
        (r"(10)\.\1\..*", "backreference"),
        ("(?>1)0.*", "atomic"),
        (r"1++0\..*", "possessive"),
        ("10[", "missing"),
    ],
)
def test_expression_that_cannot_be_evaluated(entry: str, says: str) -> None:
    """
    An expression beyond linear-time matching is told apart from other mistakes, and
    the construct is named.
    """
    with pytest.raises(UnsupportedPatternError, match=says):
        parse_entry(entry, acl=True)


def test_connection_word_is_for_rules_only() -> None:
    """
    `$(connection.ip)` may stand in a rule, where it matches no address itself, and
    not among those who may connect.
    """
    in_rule = AddressList(["$(connection.ip)"], acl=True)

    assert in_rule.match("127.0.0.1") is None
    assert len(in_rule.words) == 1
    with pytest.raises(ValueError, match="only in access rules"):
        parse_entry("$(connection.ip)", acl=False)


def test_nearest_entry_is_named() -> None:
    """
    Of several entries that match the narrowest network is the one that is told.
    """
    entries = AddressList(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16"])

    assert entries.match("10.1.1.1") == "10.1.0.0/16"
    assert entries.match("10.2.1.1") == "10.0.0.0/8"
    assert entries.match("11.2.1.1") == "0.0.0.0/0"


addresses = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))


@settings(max_examples=100)
@given(addresses, addresses, st.integers(0, 128))
def test_networks_agree_with_ipaddress(base: str, address: str, length: int) -> None:
    """
    A network of any length has the members that the standard library says.
    """
    read, other = read_address(base), read_address(address)
    assert read is not None
    assert other is not None
    length = min(length, 32 if read.version == 4 else 128)
    network = ipaddress.ip_network(f"{read.text}/{length}", strict=False)
    expected = ipaddress.ip_address(other.text) in network

    found = AddressList([f"{read.text}/{length}"]).match(address)

    assert expected is (found is not None)
    assert AddressList([f"{read.text}/{length}"]).match(base) is not None


@settings(max_examples=100)
@given(st.text(max_size=30), addresses)
def test_any_text_is_an_entry_or_an_error(text: str, address: str) -> None:
    """
    Any text is read or refused with ValueError, and looking up never raises.
    """
    try:
        entries = AddressList([text], acl=True)
    except ValueError as error:
        assert str(error)
    else:
        assert entries.match(address) in (None, text)
        assert entries.match(text) in (None, text)
