# SPDX-License-Identifier: MIT
"""
Who may connect, and that every connection is counted off again.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.config.model import LimitSettings
from nodecomm.server.admission import Admission, peer_address
from nodecomm.testing import MemoryServer, key_pair, memory_server
from nodecomm.testing.client import MemoryClient
from nodecomm.testing.server import settings_of, snapshot_of

ANYONE = ["0.0.0.0/0", "::/0"]


def admission(server: dict[str, Any], *counts: int) -> Any:
    """
    Something to call with addresses: the limit that turns each away, or None.
    """
    snapshot = snapshot_of(settings_of({"server": server}))
    made = Admission(*counts)

    def enter(address: str) -> str | None:
        turned = made.enter(address, snapshot)
        return None if turned is None else turned.limit

    enter.counts = made  # type: ignore[attr-defined]
    return enter


class AddressTests(SynchronousTestCase):
    """
    Where a connection comes from.
    """

    def test_forms(self) -> None:
        """IPv4 on a dual-stack socket is IPv4; a local socket is this host."""
        for address, expected in [
            (IPv4Address("TCP", "10.0.0.1", 7), ("10.0.0.1", 7)),
            (IPv6Address("TCP", "::ffff:10.0.0.1", 8), ("10.0.0.1", 8)),
            (IPv6Address("TCP", "2001:db8::1", 9), ("2001:db8::1", 9)),
            (IPv6Address("TCP", "::ffff:abcd", 9), ("::ffff:abcd", 9)),
            (IPv6Address("TCP", "::1", 9), ("::1", 9)),
            (UNIXAddress("/run/x"), ("127.0.0.1", 0)),
            (None, ("127.0.0.1", 0)),
        ]:
            self.assertEqual(expected, peer_address(address))


class LimitTests(SynchronousTestCase):
    """
    Each limit, and which of several is told.
    """

    def test_denyconnects(self) -> None:
        """Comes before everything else."""
        enter = admission({"denyconnects": ["10.0.0.1"], "allowconnects": ANYONE}, 0, 0)

        self.assertEqual("denyconnects", enter("10.0.0.1"))

    def test_allowconnects(self) -> None:
        """Who is not on the list is turned away; who is, counts."""
        enter = admission({"allowconnects": ["10.0.0.1"]}, 5, 5)

        self.assertEqual("allowconnects", enter("10.0.0.2"))
        self.assertEqual(0, enter.counts.total)
        self.assertIsNone(enter("10.0.0.1"))
        self.assertEqual(1, enter.counts.total)

    def test_allowallconnects(self) -> None:
        """One connection for each address, any number for those on the list."""
        enter = admission(
            {"allowconnects": ANYONE, "allowallconnects": ["10.0.0.1"]}, 99, 99
        )

        self.assertEqual([None] * 5, [enter("10.0.0.1") for _ in range(5)])
        self.assertEqual(
            [None, "allowallconnects", "allowallconnects"],
            [enter("10.0.0.2") for _ in range(3)],
        )
        enter.counts.leave("10.0.0.2", trusted=False)
        self.assertIsNone(enter("10.0.0.2"))

    def test_per_address(self) -> None:
        """A number for each address, also for those on the list."""
        enter = admission({"allowallconnects": ANYONE}, 99, 99, 2)

        for address in ("10.0.0.1", "::1"):
            self.assertEqual(
                [None, None, "connections_per_address"],
                [enter(address) for _ in range(3)],
            )

    def test_before_trust(self) -> None:
        """Only so many whose key is not trusted yet; trust makes room."""
        enter = admission({"allowallconnects": ANYONE}, 99, 2)

        self.assertEqual(
            [None, None, "connections_before_trust"],
            [enter("10.0.0.1") for _ in range(3)],
        )
        enter.counts.trusted()
        self.assertIsNone(enter("10.0.0.1"))
        self.assertEqual((3, 2), (enter.counts.total, enter.counts.untrusted))

    def test_order(self) -> None:
        """The reason that concerns the address alone is told before those that
        concern everybody."""
        enter = admission({"allowallconnects": ANYONE}, 1, 1, 1)
        self.assertIsNone(enter("10.0.0.1"))

        self.assertEqual("connections_per_address", enter("10.0.0.1"))
        self.assertEqual("maxconnections", enter("10.0.0.2"))

    def test_both_stacks_count_together(self) -> None:
        """An address is one address, whichever socket it came by."""
        server = memory_server(server={"allowallconnects": []}, trust=True)
        server.connect("127.0.0.1")

        self.assertIsNone(server.dial("::ffff:127.0.0.1"))

    def test_reload(self) -> None:
        """The lists in force count, not those of the start."""
        server = memory_server(server={"allowconnects": ["10.0.0.1"]})
        self.assertIsNone(server.dial("10.0.0.2"))
        server.factory.serving.evaluator.snapshot = snapshot_of(
            settings_of({"server": {"allowconnects": ["10.0.0.2"]}}), 1
        )

        self.assertIsNotNone(server.dial("10.0.0.2"))
        self.assertIsNone(server.dial("10.0.0.1"))


#: Where a connection may stop.
STAGES = ["nothing", "hello", "handshake", "lines", "session", "busy"]

#: How it may end.
ENDS = ["hang up", "garbage", "late", "sweep", "stop"]


class Connections:
    """
    Connections to one server, brought to some stage and ended in some way.
    """

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.clients: list[MemoryClient] = []

    def open(self, stage: str, known: bool) -> None:
        key = key_pair(1) if known else key_pair(2)
        client = self.server.dial("10.0.0.1", key=key)
        if client is None:
            return
        self.clients.append(client)
        if stage == "hello":
            client.step()
        elif stage != "nothing":
            client.pump()
        if stage == "lines" and not client.closed:
            client.send(b"CFE_v3 x\nIDENTITY")
        if stage in ("session", "busy") and not client.closed:
            client.send(b"CFE_v3 x\nIDENTITY USERNAME=root\n")
        if stage == "busy" and not client.closed:
            client.send(b"t 7\0\0\0\0\0VERSIONt 99")

    def notice_aborted(self) -> None:
        for client in self.clients:
            if client.wire.aborted:
                client.pump()

    def end(self, client: MemoryClient, how: str) -> None:
        if how == "hang up":
            client.hang_up()
        elif how == "garbage":
            client.send_raw(b"garbage that is neither TLS nor anything")
            client.hang_up()
        elif how == "sweep":
            limits = self.server.factory.limits
            self.server.sweep(limits.idle_timeout + 15)
            # Others are overdue as well.
            for other in self.clients:
                other.pump()
            client.hang_up()
        else:
            client.step()
            client.hang_up()


class CountTests(SynchronousTestCase):
    """
    The counts return to nothing.
    """

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(STAGES),
                st.booleans(),
                st.sampled_from(ENDS),
                st.booleans(),
            ),
            max_size=12,
        ),
        st.booleans(),
    )
    @example([("nothing", False, "hang up", False)] * 6, True)
    @example([("hello", False, "hang up", False)] * 6, True)
    def test_whatever_way_connections_end(
        self, story: list[tuple[str, bool, str, bool]], makes_room: bool
    ) -> None:
        """At any stage, trusted or not, in any order; also where they make room for
        each other."""
        server = memory_server(
            trust=False,
            limits=LimitSettings(idle_timeout=30, connections_before_trust=4),
        )
        server.factory.makes_room = makes_room
        server.store.add("root", key_pair(1).public)
        connections = Connections(server)
        counts = server.factory.admission
        ends = []
        for stage, known, how, at_once in story:
            before = len(connections.clients)
            connections.open(stage, known)
            if len(connections.clients) > before:
                client = connections.clients[-1]
                if at_once:
                    connections.end(client, how)
                else:
                    ends.append((client, how))
            # Who made room before a word was said is counted no more at once.
            connections.notice_aborted()
            alive = [c for c in connections.clients if not c._lost]
            self.assertEqual(len(alive), counts.total)
            self.assertTrue(0 <= counts.untrusted <= counts.total)
        for client, how in reversed(ends):
            connections.end(client, how)

        self.assertEqual((0, 0), (counts.total, counts.untrusted))
        self.assertEqual({}, dict(counts._addresses))
        self.assertEqual(set(), server.factory.sessions)
        self.assertEqual(
            ({}, set()), (server.factory._newcomers, server.factory._dropped)
        )
        self.assertEqual(0, server.factory.gate.in_progress)

    def test_stopping(self) -> None:
        """Nobody is counted who is turned away because the server stops."""
        server = memory_server()
        server.factory.stop(1)

        self.assertIsNone(server.dial())
        self.assertEqual(0, server.factory.admission.total)


def wire_lost() -> Any:
    """
    The reason that a transport gives at the end.
    """
    return Failure(ConnectionDone())
