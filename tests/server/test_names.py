# SPDX-License-Identifier: MIT
"""
Host names: believed when they lead back, looked up once, never waited for by others.
"""

from __future__ import annotations

import pwd
import socket
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.server.names import HostName, HostNames, look_up, user_id
from nodecomm.server.pools import InlinePool, Workers
from nodecomm.testing import MemoryServer, key_pair, memory_server
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.commands import encode_stat
from nodecomm.wire.replies import REFUSAL
from tests.server.pools import HandPool

UNKNOWN = HostName(None, False)
NAMELESS = HostName(None, True)


class LookUpTests(SynchronousTestCase):
    """
    One look-up, with the system's answers given by the test.
    """

    def answer(self, name: Any, addresses: Any) -> None:
        def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
            self.assertEqual(socket.NI_NAMEREQD, flags)
            if isinstance(name, Exception):
                raise name
            return name, "0"

        def getaddrinfo(*args: Any, **more: Any) -> list[Any]:
            if isinstance(addresses, Exception):
                raise addresses
            return [
                (socket.AF_INET6 if ":" in a else socket.AF_INET, 1, 6, "", (a, 0))
                for a in addresses
            ]

        self.patch(socket, "getnameinfo", getnameinfo)
        self.patch(socket, "getaddrinfo", getaddrinfo)

    def test_forward_confirmation(self) -> None:
        """A name counts when one of its addresses is the peer's."""
        for address, name, addresses, expected in [
            ("10.0.0.1", "node.example", ["10.0.0.1"], "node.example"),
            ("10.0.0.1", "node.example", ["10.0.0.2", "10.0.0.1"], "node.example"),
            ("10.0.0.1", "Node.EXAMPLE.", ["10.0.0.1"], "node.example"),
            ("10.0.0.1", "node.example", ["::ffff:10.0.0.1"], "node.example"),
            ("2001:db8::1", "six.example", ["2001:DB8:0::1"], "six.example"),
            ("fe80::1", "link.example", ["fe80::1%eth0"], "link.example"),
            # Whoever owns an address may give it any name.
            ("10.0.0.1", "victim.example", ["10.9.9.9"], None),
            ("10.0.0.1", "victim.example", [], None),
        ]:
            self.answer(name, addresses)
            self.assertEqual(HostName(expected, True), look_up(address), name)

    def test_no_name_and_failure(self) -> None:
        """That there is none is known; that nobody answers is not."""
        for number, expected in [
            (socket.EAI_NONAME, NAMELESS),
            (socket.EAI_NODATA, NAMELESS),
            (socket.EAI_AGAIN, UNKNOWN),
            (socket.EAI_FAIL, UNKNOWN),
            (socket.EAI_MEMORY, UNKNOWN),
            (socket.EAI_SYSTEM, UNKNOWN),
        ]:
            error = socket.gaierror(number, "told so")
            self.answer(error, [])
            self.assertEqual(expected, look_up("10.0.0.1"), number)
            self.answer("node.example", error)
            self.assertEqual(expected, look_up("10.0.0.1"), number)
        self.answer(OSError(24, "too many open files"), [])
        self.assertEqual(UNKNOWN, look_up("10.0.0.1"))
        # A label of 64 bytes, or none.
        self.answer("node.example", UnicodeError("label too long"))
        self.assertFalse(look_up("10.0.0.1").known)

    def test_this_machine(self) -> None:
        """127.0.0.1 is localhost."""
        self.assertEqual(HostName("localhost", True), look_up("127.0.0.1"))

    def test_users(self) -> None:
        """root is 0 without a look; a name that nobody here has is nobody."""
        self.assertEqual(0, user_id("root"))
        for nobody in ("no such user here", "a\0b", "\udcff", ""):
            self.assertIsNone(user_id(nobody))
        self.patch(pwd, "getpwnam", lambda name: 1 / 0)
        self.assertEqual(0, user_id("root"))


class RememberingTests(SynchronousTestCase):
    """
    The resolver of a server.
    """

    def setUp(self) -> None:
        self.pool = HandPool()
        self.clock = Clock()
        self.result: HostName | Exception = HostName("node.example", True)
        self.looked: list[str] = []
        self.names = self.make_names()

    def make_names(self, **more: Any) -> HostNames:
        return HostNames(
            self.pool,
            self.clock,
            self.clock.seconds,
            look_up=self.look_up,
            **{"keep": 300, "timeout": 10, **more},
        )

    def look_up(self, address: str) -> HostName:
        self.looked.append(address)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def found(self, address: str = "10.0.0.1") -> HostName:
        """The answer, worked on if need be."""
        answer = self.names.name_of(address)
        while self.pool.waiting:
            self.pool.work()
        return self.successResultOf(answer)

    def test_one_look_up_for_many(self) -> None:
        """Whoever asks for the same address meanwhile shares the answer."""
        answers = [self.names.name_of("10.0.0.1") for _ in range(20)]
        other = self.names.name_of("10.0.0.2")
        self.assertEqual(2, len(self.pool.waiting))

        self.pool.work()

        self.assertEqual(
            [HostName("node.example", True)] * 20,
            [self.successResultOf(answer) for answer in answers],
        )
        self.assertNoResult(other)
        self.pool.work()
        self.successResultOf(other)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.looked)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_remembered(self) -> None:
        """For `keep` seconds; that there is no name, too."""
        for self.result in (HostName("node.example", True), NAMELESS):
            self.names = self.make_names()
            self.looked.clear()
            self.assertEqual(self.result, self.found())
            self.clock.advance(299)
            self.assertEqual((self.result, 1), (self.found(), len(self.looked)))
            self.clock.advance(1)
            self.assertEqual((self.result, 2), (self.found(), len(self.looked)))

    def test_failures_are_remembered_for_less(self) -> None:
        """A tenth of the time, so that a name service is not asked all the time."""
        for self.result in (UNKNOWN, RuntimeError("broken")):
            self.names = self.make_names()
            self.looked.clear()
            self.assertEqual(UNKNOWN, self.found())
            self.clock.advance(29)
            self.assertEqual((UNKNOWN, 1), (self.found(), len(self.looked)))
            self.clock.advance(1)
            self.assertEqual((UNKNOWN, 2), (self.found(), len(self.looked)))

    def test_time_out(self) -> None:
        """After `timeout` seconds it counts as failed; the late answer is for the
        next who asks."""
        answers = [self.names.name_of("10.0.0.1") for _ in range(2)]
        self.clock.advance(9)
        self.assertNoResult(answers[0])

        self.clock.advance(1)

        self.assertEqual(
            [UNKNOWN, UNKNOWN], [self.successResultOf(answer) for answer in answers]
        )
        self.assertEqual(UNKNOWN, self.found_without_work())
        self.pool.work()
        self.assertEqual(HostName("node.example", True), self.found_without_work())

    def found_without_work(self) -> HostName:
        return self.successResultOf(self.names.name_of("10.0.0.1"))

    def test_a_late_failure(self) -> None:
        """Disturbs nobody."""
        answer = self.names.name_of("10.0.0.1")
        self.clock.advance(10)
        self.result = RuntimeError("broken")

        self.pool.work()

        self.assertEqual(UNKNOWN, self.successResultOf(answer))

    def test_only_so_many_at_once(self) -> None:
        """More are not known, at once, and not remembered as such."""
        self.names = self.make_names(at_once=2)
        for number in (1, 2):
            self.names.name_of(f"10.0.0.{number}")
        self.assertEqual(UNKNOWN, self.successResultOf(self.names.name_of("10.0.0.3")))
        self.pool.work(2)

        self.assertEqual(HostName("node.example", True), self.found("10.0.0.3"))

    def test_a_full_pool(self) -> None:
        """Is a failed look-up, and the next one works again."""
        self.pool.queue = 0
        self.assertEqual(UNKNOWN, self.successResultOf(self.names.name_of("10.0.0.1")))
        self.pool.queue = 10
        self.clock.advance(30)

        self.assertEqual(HostName("node.example", True), self.found())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_bounded(self) -> None:
        """The address looked up longest ago is forgotten first."""
        self.names = self.make_names(entries=3)
        for number in range(5):
            self.found(f"10.0.0.{number}")
        self.looked.clear()

        for number in (4, 3, 2, 1):
            self.found(f"10.0.0.{number}")

        self.assertEqual(["10.0.0.1"], self.looked)
        self.assertEqual(3, len(self.names._known))


class SessionTests(SynchronousTestCase):
    """
    Rules that name hosts.
    """

    def setUp(self) -> None:
        root = Path(self.mktemp()).absolute()
        root.mkdir(parents=True)
        (root / "file").write_bytes(b"x")
        self.rule: dict[str, Any] = {"path": str(root), "shortcut": "files"}
        self.pool = HandPool()

    def make_server(self, **lists: list[str]) -> MemoryServer:
        inline = InlinePool()
        return memory_server(
            {**self.rule, **lists}, workers=Workers(inline, inline, self.pool, inline)
        )

    def answer(self, result: HostName) -> None:
        """Give the result of the look-up that waits."""
        self.pool.waiting.pop(0)[0].callback(result)

    def test_requests_wait_for_the_name(self) -> None:
        """Nothing is decided before it is known; then all go on, in order. Other
        nodes do not notice."""
        server = self.make_server(
            admit_hostnames=["node.example"], admit_ips=["10.0.0.2"]
        )
        now = int(server.now)
        node = server.connect("10.0.0.1")
        other = server.connect("10.0.0.2")
        # It is looked up as soon as there is a session.
        self.assertEqual(2, len(self.pool.waiting))

        self.assertEqual([], node.request(encode_stat(now, b"files/file"), b"VERSION"))
        node.send(b"t 7\0\0\0\0\0VER")
        self.assertEqual([], other.request(b"VERSION"))
        self.pool.waiting.reverse()
        self.answer(NAMELESS)
        other.pump()
        self.assertEqual([b"OK: 3.21.0"], other.transactions())
        self.assertEqual(2, len(other.request(encode_stat(now, b"files/file"))))

        self.answer(HostName("node.example", True))
        node.pump()
        node.send(b"SION")

        found = node.transactions()
        self.assertEqual(4, len(found))
        self.assertTrue(found[0].startswith(b"OK: "))
        self.assertEqual([b"OK: 3.21.0"] * 2, found[2:])
        # One name for the whole connection.
        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))
        self.assertEqual([], self.pool.waiting)

    def test_without_such_rules_nothing_is_looked_up(self) -> None:
        """Names cost nothing where they are not needed."""
        server = self.make_server(admit_ips=["10.0.0.1"])
        node = server.connect("10.0.0.1")

        self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))
        self.assertEqual(0, self.pool.asked)

    def test_another_name_is_refused(self) -> None:
        """A known other name, and certainly no name, are decisions."""
        for result in (HostName("other.example", True), NAMELESS):
            server = self.make_server(admit_hostnames=["node.example"])
            node = server.connect("10.0.0.1")
            node.request(encode_stat(int(server.now), b"files/file"))
            self.answer(result)
            node.pump()
            self.assertEqual([REFUSAL], node.transactions())
            self.assertFalse(node.closed)

    def test_a_failed_look_up_is_no_refusal(self) -> None:
        """Neither where a name would admit nor where one would deny: the connection
        is closed, and what does not need the name is answered before."""
        for lists in (
            {"admit_hostnames": ["node.example"]},
            {"admit_ips": ["10.0.0.1"], "deny_hostnames": ["bad.example"]},
        ):
            server = self.make_server(**lists)
            node = server.connect("10.0.0.1")
            node.request(b"VERSION", encode_stat(int(server.now), b"files/file"))
            self.answer(UNKNOWN)
            node.pump()
            self.assertEqual([b"OK: 3.21.0"], node.transactions())
            self.assertTrue(node.closed)

    def test_what_is_decided_without_the_name(self) -> None:
        """An address that is admitted, or denied, needs no name."""
        server = self.make_server(
            admit_ips=["10.0.0.1", "10.0.0.2"],
            admit_hostnames=["node.example"],
            deny_ips=["10.0.0.2"],
        )
        for address, answers in [("10.0.0.1", 2), ("10.0.0.2", 1)]:
            node = server.connect(address)
            node.request(encode_stat(int(server.now), b"files/file"))
            self.answer(UNKNOWN)
            node.pump()
            self.assertEqual(answers, len(node.transactions()))
            self.assertFalse(node.closed)

    def test_a_name_that_never_comes(self) -> None:
        """The look-up's own time-out ends the wait; the request is not refused."""
        server = self.make_server(admit_hostnames=["node.example"])
        node = server.connect("10.0.0.1")
        node.request(encode_stat(int(server.now), b"files/file"))
        server.sweep(server.factory.limits.name_timeout + 1)
        node.pump()

        self.assertEqual((True, []), (node.closed, node.transactions()))

    def reload(self, server: MemoryServer, **lists: list[str]) -> None:
        """Put other rules in force."""
        rule = {**self.rule, **lists}
        server.factory.serving.evaluator.snapshot = snapshot_of(
            settings_of({"access": [rule]}), 1
        )

    def test_rules_that_begin_to_need_names(self) -> None:
        """After a reload, a session that has no name yet gets one; however long it
        was idle, it has the whole time for it."""
        for idle in (0, 60):
            server = self.make_server(admit_ips=["10.0.0.1"])
            node = server.connect("10.0.0.1")
            stat = encode_stat(int(server.now), b"files/file")
            self.assertEqual(2, len(node.request(stat)))
            self.reload(server, admit_hostnames=["node.example"])
            server.sweep(idle)

            self.assertEqual([], node.request(stat))
            server.sweep(3)
            node.pump()
            self.assertFalse(node.closed)
            self.answer(HostName("node.example", True))
            node.pump()

            self.assertEqual(2, len(node.transactions()))

    def test_a_peer_that_leaves_while_its_name_is_looked_up(self) -> None:
        """The answer finds nobody and harms nobody."""
        server = self.make_server(admit_hostnames=["node.example"])
        node = server.connect("10.0.0.1")
        node.request(encode_stat(int(server.now), b"files/file"))
        node.hang_up()

        self.answer(HostName("node.example", True))

        self.assertEqual(0, server.factory.admission.total)

    def test_mapped_addresses(self) -> None:
        """An IPv4 peer on a dual-stack socket is looked up as what it is."""
        server = self.make_server(admit_hostnames=["localhost"])
        node = server.connect("::ffff:127.0.0.1")
        node.request(encode_stat(int(server.now), b"files/file"))
        self.pool.work()
        node.pump()

        self.assertEqual(2, len(node.transactions()))
        self.assertEqual(
            {"localhost"}, {s.peer.hostname for s in server.factory.sessions}
        )

    def test_users_other_than_root(self) -> None:
        """Requests wait for the user's number, too; it is looked up aside."""
        server = self.make_server(admit_ips=["10.0.0.1"])
        server.store.add("alice", key_pair(1).public)
        node = server.connect("10.0.0.1", user=b"alice")
        self.assertEqual([], node.request(b"VERSION"))

        self.pool.work()
        node.pump()

        self.assertEqual([b"OK: 3.21.0"], node.transactions())
        self.assertEqual({None}, {s.peer.uid for s in server.factory.sessions})
