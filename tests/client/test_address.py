# SPDX-License-Identifier: MIT
"""
How servers, and things on them, are named.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.client.address import (
    DEFAULT_PORT,
    ServerAddress,
    Target,
    parse_server,
    parse_target,
)

SERVERS = [
    ("hub.example.com", "hub.example.com", 5308),
    ("Hub.Example.COM:15308", "hub.example.com", 15308),
    ("10.1.2.3", "10.1.2.3", 5308),
    ("10.1.2.3:1", "10.1.2.3", 1),
    ("[2001:DB8::1]", "2001:db8::1", 5308),
    ("[2001:db8::1]:65535", "2001:db8::1", 65535),
    ("2001:db8::1", "2001:db8::1", 5308),
    ("[FE80::1%Eth0]:5309", "fe80::1%Eth0", 5309),
]

#: Target, host, port, path.
TARGETS = [
    ("hub:masterfiles", "hub", 5308, b"masterfiles"),
    ("hub:/srv/policy", "hub", 5308, b"/srv/policy"),
    ("hub:15308:masterfiles", "hub", 15308, b"masterfiles"),
    ("hub:15308:/a:b:c", "hub", 15308, b"/a:b:c"),
    ("hub:a:b", "hub", 5308, b"a:b"),
    ("hub:8080", "hub", 5308, b"8080"),
    ("[::1]:masterfiles", "::1", 5308, b"masterfiles"),
    ("[::1]:15308:x", "::1", 15308, b"x"),
    ("hub:caf\u00e9", "hub", 5308, "caf\u00e9".encode()),
    ("hub:\\xff", "hub", 5308, b"\xff"),
]

WRONG_SERVERS = [
    "",
    ":5308",
    "hub:",
    "hub:0",
    "hub:65536",
    "hub:99999999999",
    "hub:port",
    "[::1]5308",
    "[::1]:",
    "[]",
    "a b",
    "a/b",
    "a\x1b[31m",
]

WRONG_TARGETS = [
    "",
    "hub",
    "hub:",
    ":masterfiles",
    "hub:5308:",
    "hub:0:x",
    "hub:65536:x",
    "[::1]",
    "[::1]:",
    "[::1",
    "::1:masterfiles",
    "[::1]x:y",
    "hub:\\x",
]


class AddressTests(SynchronousTestCase):
    """
    Names of servers, and of things on them.
    """

    def test_servers(self) -> None:
        """
        A name or an address, with or without a port; case is none but a zone's.
        """
        for text, host, port in SERVERS:
            self.assertEqual(parse_server(text), ServerAddress(host, port), text)

    def test_targets(self) -> None:
        """
        Digits between two colons are the port; an IPv6 address stands in brackets.
        """
        for text, host, port, path in TARGETS:
            wanted = Target(ServerAddress(host, port), path)
            self.assertEqual(parse_target(text), wanted, text)

    def test_wrong_ones(self) -> None:
        """
        What is neither is an error that shows it.
        """
        for text in WRONG_SERVERS:
            with self.assertRaises(ValueError, msg=text):
                parse_server(text)
        for text in WRONG_TARGETS:
            with self.assertRaises(ValueError, msg=text):
                parse_target(text)

    def test_a_server_is_read_as_it_is_shown(self) -> None:
        """
        What is printed for a server can be typed for it.
        """
        for text, _, _ in SERVERS:
            server = parse_server(text)

            self.assertEqual(parse_server(str(server)), server)
            self.assertEqual(parse_target(f"{server}:x").server, server)
        self.assertEqual(DEFAULT_PORT, 5308)

    @given(st.text(st.sampled_from("ab.:[]%0159/\\x -\u00e9\x00\n"), max_size=20))
    @example("[%]")
    @settings(max_examples=100)
    def test_garbage(self, text: str) -> None:
        """
        Any text is a name or a ValueError.
        """
        for parse in (parse_server, parse_target):
            try:
                parse(text)
            except ValueError as error:
                self.assertTrue(str(error))

    def test_what_was_meant(self) -> None:
        """
        An IPv6 address without brackets and a URL are told as what they are.
        """
        for text, said in (
            ("::1:masterfiles", "write [::1]:masterfiles"),
            ("2001:db8::1:/srv", "write [2001:db8::1]:/srv"),
            ("::1", "write [::1]:PATH"),
            ("http://hub:80/x", "is a URL: write hub or hub:PORT"),
            ("https://", "is a URL: write HOST or HOST:PORT"),
        ):
            with self.assertRaises(ValueError) as caught:
                parse_target(text)
            self.assertIn(said, str(caught.exception))
        with self.assertRaisesRegex(ValueError, "is a URL: write hub or"):
            parse_server("cf://hub")
        self.assertEqual(b":x", parse_target("abc::x").path)
