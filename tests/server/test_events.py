# SPDX-License-Identifier: MIT
"""
Events: limits once per burst, and the fields that the documentation promises.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.config.model import LimitSettings
from nodecomm.identity.peer import Peer
from nodecomm.interfaces import API, ICommand
from nodecomm.server.events import BurstLog, EventLog, Strangers
from nodecomm.server.names import HostNames
from nodecomm.server.pools import InlinePool
from nodecomm.server.replies import Reply
from nodecomm.server.requests import Request
from nodecomm.testing import MemoryServer, key_pair, memory_server
from nodecomm.wire.commands import encode_get, encode_stat

DOCUMENT = Path(__file__).parents[2] / "docs" / "operating.rst"


class Recorder:
    """
    Keeps what is logged.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.log = Logger("nodecomm.test", observer=self.events.append)  # type: ignore[arg-type]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("event") == name]


class BurstTests(SynchronousTestCase):
    """
    A limit that is reached again and again.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.recorder = Recorder()
        self.bursts = BurstLog(
            self.recorder.log, self.clock.seconds, quiet=10, longest=60
        )

    def reach(self, limit: str = "maxconnections", times: int = 1) -> None:
        for number in range(times):
            self.bursts.reached(
                limit, "{peer} is one too many", peer=f"10.0.0.{number}"
            )

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.bursts.sweep()

    def test_once_per_burst(self) -> None:
        """The first is stated with what it was about, the others are counted."""
        self.reach(times=500)
        self.pass_time(9)

        (event,) = self.recorder.events
        self.assertEqual(
            ("limit.reached", "maxconnections", "10.0.0.0", "10.0.0.0 is one too many"),
            (event["event"], event["limit"], event["peer"], formatEvent(event)),
        )

    def test_the_others_are_counted(self) -> None:
        """When nothing more happened for `quiet` seconds the number is stated."""
        self.reach(times=500)
        self.pass_time(10)

        event = self.recorder.events[-1]
        self.assertEqual(
            ("limit.repeated", "maxconnections", 499, 10),
            (event["event"], event["limit"], event["count"], event["seconds"]),
        )
        self.assertEqual(
            "maxconnections was reached 499 more times in 10 s", formatEvent(event)
        )

    def test_a_single_one_is_not_counted(self) -> None:
        """There is nothing to add to it."""
        self.reach()
        self.pass_time(100)

        self.assertEqual(1, len(self.recorder.events))

    def test_a_new_burst(self) -> None:
        """After the quiet the next one is stated again."""
        self.reach(times=2)
        self.pass_time(20)
        self.reach(times=2)
        self.pass_time(20)

        self.assertEqual(
            ["limit.reached", "limit.repeated"] * 2,
            [event["event"] for event in self.recorder.events],
        )

    def test_a_burst_that_never_pauses(self) -> None:
        """It is summed up every `longest` seconds."""
        for _ in range(180):
            self.reach()
            self.pass_time(1)

        counts = [event["count"] for event in self.recorder.named("limit.repeated")]
        self.assertEqual([59, 59, 59], counts)
        self.assertEqual(3, len(self.recorder.named("limit.reached")))

    def test_limits_are_apart(self) -> None:
        """One limit's burst does not hide another's."""
        self.reach("one", 3)
        self.reach("two", 2)
        self.pass_time(30)

        self.assertEqual(
            [("one", 2), ("two", 1)],
            [(e["limit"], e["count"]) for e in self.recorder.named("limit.repeated")],
        )


def documented() -> dict[str, set[str]]:
    """
    The fields of each event, as the operator's page has them; those in brackets and
    those that are not in code are left out.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index("   * - Event\n") : text.index("A program that embeds")]
    found = {}
    for row in table.split("   * - ")[2:]:
        name, _level, about = (part.strip() for part in row.split("     - ", 2))
        about = re.sub(r"\([^)]*\)", "", about)
        fields = re.split(r"\.\s", about.partition(":")[2])[0]
        words = set(re.findall(r"`([a-z_]+)`", fields))
        found[name.strip("`")] = words
    return found


class StrangersTests(SynchronousTestCase):
    """
    Lines about connections that nobody was trusted on.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.recorder = Recorder()
        self.strangers = Strangers(
            self.recorder.log, self.clock.seconds, lines=3, period=60
        )

    def stated(self, address: str, times: int) -> int:
        return sum(self.strangers.worth_stating(address) for _ in range(times))

    def test_bounded_for_each_address(self) -> None:
        """Nobody's lines are left out because of somebody else's."""
        self.assertEqual(3, self.stated("10.0.0.1", 500))
        self.assertEqual(2, self.stated("10.0.0.2", 2))
        self.assertEqual(0, self.stated("10.0.0.1", 1))

    def test_networks_of_64_bits_are_one(self) -> None:
        """Whoever has one address of such a network has them all."""
        several = [f"2001:db8:0:7::{number:x}" for number in range(1, 6)]
        self.assertEqual(
            [1, 1, 1, 0, 0], [self.stated(address, 1) for address in several]
        )
        self.assertEqual(3, self.stated("2001:db8:0:8::1", 5))
        self.assertEqual(3, self.stated("fe80::1%eth0", 5))

    def test_the_others_are_counted(self) -> None:
        """When the period is over, for those who had more; then all begins anew, and
        nothing is kept of anybody."""
        self.stated("10.0.0.1", 500)
        self.stated("2001:db8::1", 4)
        self.stated("10.0.0.2", 3)
        self.clock.advance(59)
        self.strangers.sweep()
        self.assertEqual([], self.recorder.events)
        self.clock.advance(1)
        self.strangers.sweep()

        self.assertEqual(
            [
                "497 more connections from 10.0.0.1 ended in 60 s before their peer"
                " was trusted",
                "1 more connections from 2001:db8::/64 ended in 60 s before their peer"
                " was trusted",
            ],
            [formatEvent(event) for event in self.recorder.events],
        )
        self.assertEqual(497, self.recorder.named("strangers.more")[0]["count"])
        self.assertEqual({}, self.strangers._visits)
        self.assertEqual(3, self.stated("10.0.0.1", 5))

    def test_all_kinds_of_ends(self) -> None:
        """Before the first byte, in the dialog, and refused: of them all together no
        more is said than of one."""
        recorder = Recorder()
        server = memory_server(
            trust=False,
            server={"allowlegacyconnects": ["10.0.0.1"]},
            events=EventLog(log=recorder.log),
        )
        server.factory.strangers.lines = 4
        for _ in range(3):
            for data in (b"", b"t", b"t 3\0\0\0\0\0abc"):
                node = server.dial_classic("10.0.0.1")
                assert node is not None
                node.send(data)
                node.hang_up()
        self.assertEqual(4, len(recorder.events))
        server.sweep(61)

        [event] = recorder.named("strangers.more")
        self.assertEqual(("10.0.0.1", 5), (event["peer"], event["count"]))


@implementer(ICommand)
class FaultyCommand:
    """
    Has a mistake.
    """

    api = API
    name = "faulty"
    words = (b"FAULTY",)
    versions = frozenset({2, 3})

    def answer(self, request: Request) -> Reply | Deferred[Reply]:
        """Fail."""
        raise ZeroDivisionError


#: Common to all events of a peer that is known by its key.
WHO = {"peer", "key", "user"}


class FieldTests(SynchronousTestCase):
    """
    Every event that a session states has the fields of the operator's page.
    """

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.root)
        (self.root / "file").write_bytes(b"content")
        self.recorder = Recorder()
        self.events = EventLog(verbose=True, dialogue=True, log=self.recorder.log)
        self.server = self.make_server()

    def make_server(self, **more: Any) -> MemoryServer:
        rule = {
            "path": str(self.root),
            "shortcut": "files",
            "admit_ips": ["127.0.0.1"],
        }
        return memory_server(rule, events=self.events, **more)

    def one(self, name: str) -> dict[str, Any]:
        """The only event called *name*; it can be told in words."""
        (event,) = self.recorder.named(name)
        self.assertNotIn("Unable to format", formatEvent(event))
        self.assertNotIn("MESSAGE LOST", formatEvent(event))
        return event

    def assert_fields(self, event: dict[str, Any], *more: str) -> None:
        """It has what the page says, and *more*."""
        expected = documented()[event["event"]] | set(more)
        self.assertEqual(set(), expected - set(event), event)

    def test_the_page_is_read(self) -> None:
        """The table is found; fields in brackets are no fields."""
        found = documented()

        self.assertEqual(
            {"seconds", "requests", "bytes_in", "bytes_out", "reason"},
            found["session.closed"],
        )
        self.assertEqual({"port", "direction", "size", "text"}, found["dialogue"])

    def test_a_session(self) -> None:
        """Its beginning, its requests and its end."""
        node = self.server.connect("127.0.0.1")
        node.get(b"files/file", 7)
        node.hang_up()

        self.assert_fields(self.one("trust.accepted"), *WHO, "port")
        self.assert_fields(self.one("session.opened"), *WHO, "port")
        request = self.one("request")
        self.assert_fields(request, *WHO)
        self.assertEqual(
            ("GET", "files/file", "ok", 7, str(self.root)),
            tuple(request[key] for key in ("word", "name", "outcome", "bytes", "rule")),
        )
        closed = self.one("session.closed")
        self.assert_fields(closed, *WHO, "port")
        self.assertEqual((1, 7), (closed["requests"], closed["bytes_out"]))
        self.assertIn(" s, 1 request, 7 bytes: ", formatEvent(closed))
        self.assertRegex(
            formatEvent(request),
            r"\AGET files/file by root from 127\.0\.0\.1 "
            rf"\({key_pair(1).public.md5}\): ok, 7 bytes; admitted by .*{self.root}",
        )
        for event in self.recorder.named("dialogue"):
            self.assert_fields(event, "peer", "port")
            self.assertIn(f"127.0.0.1 port {event['port']} ", formatEvent(event))
        self.assertEqual(
            documented().keys() & {e["event"] for e in self.recorder.events},
            {e["event"] for e in self.recorder.events},
        )

    def test_refusals(self) -> None:
        """The peer is told the same each time; the log tells what and why."""
        now = int(self.server.now)
        node = self.server.connect()
        for payload, reason in [
            (encode_stat(now, b"/etc/hostname"), "no_rule"),
            (encode_stat(now, b"files/none"), "absent"),
            (encode_stat(now, b"unknown"), "no_shortcut"),
            (b"SYNCH x STAT files", "malformed"),
            (b"NONSENSE files", "unknown_command"),
            (b"NONSENSE", "unknown_command"),
        ]:
            self.recorder.events.clear()
            if node.closed:
                node = self.server.connect()
            node.request(payload)
            event = self.one("request.refused")
            self.assert_fields(event, *WHO, "port")
            self.assertEqual(reason, event["reason"])
            self.assertTrue(event["text"])
            self.assertEqual("root", event["user"])
            self.assertNotIn("  ", formatEvent(event))
            self.assertEqual(key_pair(1).public.md5, event["key"])

    def test_refusals_name_the_host(self) -> None:
        """A refusal names the looked-up host name, where there is one."""
        peer = Peer("10.1.2.3", 40_000, hostname="node.example.com")
        nothing: Any = None
        request = Request(b"SYNCH 1 STAT /x", peer, nothing, nothing, nothing, 0.0)
        for name, said in (
            ("node.example.com", "from 10.1.2.3 node.example.com ("),
            (None, "from 10.1.2.3 ("),
        ):
            peer.hostname = name
            self.recorder.events.clear()
            self.events.refused(request, "no_rule", "no rule covers /x")
            self.assertIn(said, formatEvent(self.one("request.refused")))

    def test_failures(self) -> None:
        """What closes a connection names the request that did."""
        server = self.make_server(commands=[FaultyCommand()])
        os.mkfifo(self.root / "fifo")
        server.connect().request(encode_get(b"files/fifo"))
        event = self.one("request.hung-up")
        self.assert_fields(event, *WHO)
        self.assertEqual(
            "closed the connection at GET files/fifo to root from 127.0.0.1"
            f" ({key_pair(1).public.md5}): no plain file",
            formatEvent(event),
        )
        self.recorder.events.clear()

        server.connect().request(b"FAULTY x")

        failed = self.one("request.failed")
        self.assert_fields(failed, "peer")
        self.assertIsInstance(failed["log_failure"].value, ZeroDivisionError)
        self.assert_fields(self.one("request.hung-up"), *WHO)

    def test_distrust(self) -> None:
        """Which key, which name, and the code of the decision."""
        self.make_server(trust=False).dial().pump()  # type: ignore[union-attr]
        event = self.one("trust.refused")
        self.assert_fields(event, *WHO, "port")
        self.assertEqual(key_pair(1).public.md5, event["key"])
        self.assertEqual([], self.recorder.named("connection.lost"))
        self.recorder.events.clear()
        client = self.server.dial()
        assert client is not None
        client.pump()
        client.send(b"nonsense\n")
        event = self.one("trust.refused")
        self.assertEqual("bad_dialog", event["code"])
        self.assertIn("not trusted: - from 127.0.0.1 (MD5=", formatEvent(event))
        self.assertEqual("", event["user"])

    def test_connections_that_come_to_nothing(self) -> None:
        """However far they came, the end has its reason and its stage."""

        def nothing() -> None:
            client = self.server.dial()
            assert client is not None
            client.hang_up()

        def no_tls() -> None:
            client = self.server.dial()
            assert client is not None
            client.send_raw(b"GET / HTTP/1.0\r\n\r\n")

        def in_the_handshake() -> None:
            client = self.server.dial()
            assert client is not None
            client.step()
            client.hang_up()

        def in_the_dialog() -> None:
            client = self.server.dial()
            assert client is not None
            client.pump()
            client.hang_up()

        cases: list[tuple[Callable[[], None], str]] = [
            (nothing, "ended before TLS: closed by the peer"),
            (no_tls, "ended before TLS: it did not begin as TLS does"),
            (in_the_handshake, "ended in the TLS handshake: "),
            (in_the_dialog, "ended in the identification: closed by the peer"),
        ]
        for case, said in cases:
            self.recorder.events.clear()
            case()
            event = self.one("connection.lost")
            self.assert_fields(event, "peer", "port")
            self.assertTrue(event["reason"], case)
            self.assertIn(said, formatEvent(event))
            self.assertNotIn("handshake: handshake", formatEvent(event))

    def test_limits(self) -> None:
        """Which limit, and who was over it."""
        server = self.make_server(max_connections=1)
        server.connect()
        for _ in range(3):
            self.assertIsNone(server.dial())
        self.assert_fields(self.one("limit.reached"), "peer")

        server.sweep(11)

        event = self.one("limit.repeated")
        self.assert_fields(event)
        self.assertEqual(("maxconnections", 2), (event["limit"], event["count"]))

    def test_strangers_that_are_counted(self) -> None:
        """Where from, how many, in what time."""
        server = self.make_server(trust=False)
        server.factory.strangers.lines = 0
        server.dial().pump()  # type: ignore[union-attr]
        server.sweep(61)

        self.assertEqual([], self.recorder.named("trust.refused"))
        self.assert_fields(self.one("strangers.more"))

    def test_names(self) -> None:
        """Look-ups that fail, and those that are not even begun."""
        names = HostNames(
            InlinePool(),
            Clock(),
            lambda: 0.0,
            at_once=0,
            look_up=lambda address: 1 / 0,  # type: ignore[arg-type, return-value]
        )
        names._log = self.recorder.log
        self.successResultOf(names.name_of("10.0.0.1"))
        self.assert_fields(self.one("names.busy"))
        names.at_once = 1
        self.successResultOf(names.name_of("10.0.0.1"))
        self.assert_fields(self.one("names.failed"))

    def test_time_limits(self) -> None:
        """A connection that is overdue: the limit's name and the peer."""
        server = self.make_server(limits=LimitSettings(idle_timeout=30))
        server.connect()
        server.sweep(33)

        event = self.one("limit.reached")
        self.assert_fields(event, "peer")
        self.assertEqual("idle_timeout", event["limit"])
