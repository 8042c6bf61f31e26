# SPDX-License-Identifier: MIT
"""
Commands whose source fails: only absence is refused, all else hangs up.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.identity.peer import Peer
from nodecomm.interfaces import API, IFileSource, IHeldObject
from nodecomm.server import posix
from nodecomm.server.filesystem import FileSystemSource
from nodecomm.server.held import FileStatus
from nodecomm.server.pools import QueueFull
from nodecomm.testing import MemoryServer, MemorySource, memory_server
from nodecomm.testing.client import MemoryClient
from nodecomm.testing.sources import MemoryObject
from nodecomm.wire.commands import (
    encode_digest,
    encode_get,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL
from tests.server.descriptors import no_descriptor_lost

#: What is our own fault, never the peer's and never absence.
FAULTS: list[Exception] = [
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.ESTALE, "Stale file handle"),
    QueueFull("disk: 10 of 10 in use"),
    MemoryError(),
]

ABSENT = FileNotFoundError(errno.ENOENT, "No such file or directory")

CONTENT = b"content"


def _give(value: Any, *, later: bool) -> Any:
    """*value*, or a Deferred of it."""
    return succeed(value) if later else value


@implementer(IHeldObject)
@define(eq=False)
class FaultyObject:
    """
    An object one of whose methods fails.
    """

    inner: MemoryObject
    step: str
    error: Exception | None
    later: bool

    @property
    def path(self) -> bytes:
        return self.inner.path

    @path.setter
    def path(self, value: bytes) -> None:
        self.inner.path = value

    def _do(self, step: str, call: Callable[[], Any]) -> Any:
        if step != self.step or self.error is None:
            return _give(call(), later=self.later)
        if self.later:
            return fail(self.error)
        raise self.error

    def stat(self) -> FileStatus:
        if self.step == "stat" and self.error is not None:
            raise self.error
        return self.inner.stat()

    def entries(self) -> Any:
        return self._do("entries", self.inner.entries)

    def read(self, offset: int, size: int) -> Any:
        return self._do("read", lambda: self.inner.read(offset, size))

    def digest(self, algorithm: str) -> Any:
        return self._do("digest", lambda: self.inner.digest(algorithm))

    def unchanged(self, size: int) -> bool:
        if self.step == "unchanged" and self.error is not None:
            raise self.error
        return True

    def close(self) -> None:
        self.inner.close()


@implementer(IFileSource)
@define(eq=False)
class FaultySource:
    """
    A source that fails at one step, at once or later.
    """

    step: str
    error: Exception | None
    later: bool
    api: int = API
    name: str = "faulty"
    held: list[MemoryObject] = field(factory=list, init=False)
    files: MemorySource = field(
        factory=lambda: MemorySource({b"file": CONTENT}), init=False
    )

    def resolve(self, peer: Peer, name: bytes) -> Any:
        if self.step == "resolve" and self.error is not None:
            if self.later:
                return fail(self.error)
            raise self.error
        found = self.files.resolve(peer, name)
        self.held.append(found)
        held = FaultyObject(found, self.step, self.error, self.later)
        return _give(held, later=self.later)


#: What is asked, and at which step of it the source fails.
STEPS = [
    ("STAT", "resolve"),
    ("STAT", "stat"),
    ("OPENDIR", "resolve"),
    ("OPENDIR", "stat"),
    ("OPENDIR", "entries"),
    ("MD5", "resolve"),
    ("MD5", "stat"),
    ("MD5", "digest"),
    ("GET", "resolve"),
    ("GET", "stat"),
    ("GET", "read"),
    ("GET", "unchanged"),
]


class FaultTests(SynchronousTestCase):
    """
    STAT, OPENDIR, MD5 and GET against sources that fail.
    """

    def serve(
        self, step: str, error: Exception | None, *, later: bool
    ) -> tuple[MemoryServer, MemoryClient, FaultySource]:
        source = FaultySource(step, error, later)
        rule = {
            "path": "/virtual",
            "shortcut": "v",
            "source": "faulty",
            "admit_ips": ["127.0.0.1"],
        }
        server = memory_server(rule, sources={"faulty": source})
        return server, server.connect(), source

    def payload(self, server: MemoryServer, word: str) -> bytes:
        return {
            "STAT": encode_stat(int(server.now), b"v/file"),
            "OPENDIR": encode_opendir(b"v"),
            "MD5": encode_digest(b"v/file", hashlib.md5(CONTENT).digest()),
            "GET": encode_get(b"v/file"),
        }[word]

    def test_our_own_faults_hang_up(self) -> None:
        """The connection is closed without a byte, at once and later alike; what
        was held is let go of once, other connections go on, and it is no bug."""
        for word, step in STEPS:
            for error in FAULTS:
                # Later, whatever it is comes as a failure like any other.
                for later in (False, True) if error is FAULTS[0] else (False,):
                    case = (word, step, repr(error), later)
                    server, node, source = self.serve(step, error, later=later)
                    other = server.connect() if later else None

                    node.received()
                    node.send(encode_transaction(self.payload(server, word)))

                    self.assertEqual((b"", True), (node.received(), node.closed), case)
                    self.assertEqual(
                        [1] * len(source.held), [h.closed for h in source.held], case
                    )
                    if other is not None:
                        answer = other.request(b"VERSION")
                        self.assertEqual([b"OK: 3.21.0"], answer, case)
                    self.assertEqual([], self.flushLoggedErrors(), case)

    def test_absence_is_refused(self) -> None:
        """A name that the source does not know, and the connection stays."""
        for word in ("STAT", "OPENDIR", "MD5", "GET"):
            for later in (False, True):
                server, node, _ = self.serve("resolve", ABSENT, later=later)
                self.assertEqual(
                    [REFUSAL], node.request(self.payload(server, word)), word
                )
                self.assertEqual([b"OK: 3.21.0"], node.request(b"VERSION"))

    def test_absence_after_it_was_held(self) -> None:
        """An object that was there and cannot be read is no absent one."""
        for word, step in STEPS:
            if step == "resolve":
                continue
            for later in (False, True):
                server, node, _ = self.serve(step, ABSENT, later=later)
                node.request(self.payload(server, word))
                self.assertTrue(node.closed, (word, step, later))

    def test_a_bug_in_a_source(self) -> None:
        """Hangs up too, and shows its traceback."""
        for word, step in STEPS:
            if step in ("read", "unchanged"):
                continue
            for later in (False, True):
                case = (word, step, later)
                server, node, source = self.serve(step, KeyError("bug"), later=later)
                node.received()
                node.send(encode_transaction(self.payload(server, word)))
                self.assertEqual((b"", True), (node.received(), node.closed), case)
                self.assertEqual(1, len(self.flushLoggedErrors(KeyError)), case)
                self.assertEqual(
                    [1] * len(source.held), [h.closed for h in source.held], case
                )

    def test_without_a_fault(self) -> None:
        """The same sources answer when nothing fails, so the tests above mean it."""
        for later in (False, True):
            server, node, source = self.serve("", None, later=later)
            found = node.stat(b"v/file")
            assert found is not None
            self.assertEqual(len(CONTENT), found.size)
            self.assertEqual([b".", b"..", b"file"], node.opendir(b"v"))
            self.assertEqual([b"CFD_FALSE"], node.request(self.payload(server, "MD5")))
            self.assertEqual(CONTENT, node.get(b"v/file", 100))
            self.assertEqual([1] * 4, [held.closed for held in source.held])

    def test_a_name_without_form_on_the_wire(self) -> None:
        """A source that lists one breaks off its own connection only."""
        server, node, source = self.serve("", None, later=False)
        source.files.files = {b"n" * 300: b""}
        other = server.connect()

        self.assertIsNone(node.opendir(b"v"))

        self.assertTrue(node.closed)
        self.assertEqual([b"OK: 3.21.0"], other.request(b"VERSION"))
        self.assertEqual(1, len(self.flushLoggedErrors()))


class FileFaultTests(SynchronousTestCase):
    """
    The same for the host's own files.
    """

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)
        (self.root / "file").write_bytes(CONTENT)
        (self.root / "denied").mkdir()
        (self.root / "denied" / "file").write_bytes(CONTENT)
        rules = [
            {"path": str(self.root), "shortcut": "v", "admit_ips": ["127.0.0.1"]},
            {"path": str(self.root / "denied"), "deny_ips": ["0.0.0.0/0"]},
        ]
        self.server = memory_server(*rules)

    def payloads(self) -> dict[str, bytes]:
        return {
            "STAT": encode_stat(int(self.server.now), b"v/file"),
            "OPENDIR": encode_opendir(b"v"),
            "MD5": encode_digest(b"v/file", hashlib.md5(CONTENT).digest()),
            "GET": encode_get(b"v/file"),
        }

    def test_system_calls_that_fail(self) -> None:
        """Whichever it is: no answer, the connection ends, no descriptor is lost."""
        calls = [
            (posix, "hold", ("STAT", "OPENDIR", "MD5", "GET")),
            (posix, "real_name", ("STAT", "OPENDIR", "MD5", "GET")),
            (posix, "names_in", ("OPENDIR",)),
            (posix, "open_held", ("MD5", "GET")),
            (posix, "read_cached", ("GET",)),
            (os, "pread", ("MD5",)),
        ]
        with no_descriptor_lost():
            self.assert_hang_up(calls)

    def assert_hang_up(self, calls: list[tuple[Any, str, tuple[str, ...]]]) -> None:
        """Each of *calls* fails in turn, and no answer is given."""
        for module, call, words in calls:
            for word in words:
                for error in FAULTS[:3]:
                    case = (call, word, repr(error))
                    source = self.server.factory.serving.files
                    assert isinstance(source, FileSystemSource)
                    source._known.clear()
                    node = self.server.connect()
                    node.received()
                    with mock.patch.object(module, call, side_effect=error):
                        node.send(encode_transaction(self.payloads()[word]))
                    self.assertEqual((b"", True), (node.received(), node.closed), case)

    def test_no_descriptor_is_lost(self) -> None:
        """Answered, refused, absent, malformed, hung up, or left by the peer."""
        with no_descriptor_lost():
            for path in (b"v/file", b"v/none", b"v", b"v/denied/file", b"/", b"zz"):
                for payload in (
                    encode_stat(int(self.server.now), path),
                    encode_opendir(path),
                    encode_digest(path, b"0" * 16),
                    encode_get(path),
                ):
                    node = self.server.connect()
                    node.send(encode_transaction(payload) * 2)
                    node.hang_up()

    def test_no_descriptor_is_lost_in_mid_answer(self) -> None:
        """A peer that goes while files and listings are under way or in line."""
        with (self.root / "huge").open("wb") as file:
            file.truncate(10_000_000)
        for number in range(2000):
            (self.root / f"{number:05}-{'n' * 60}").touch()
        with no_descriptor_lost():
            node = self.server.connect()
            node._tls.send(
                b"".join(
                    map(
                        encode_transaction,
                        [
                            encode_opendir(b"v"),
                            encode_get(b"v/huge"),
                            encode_get(b"v/huge"),
                            encode_opendir(b"v"),
                            encode_get(b"v/file"),
                        ],
                    )
                )
            )
            for _ in range(10):
                node.step(receive=False)
            self.assertFalse(node.closed)
            node.hang_up()

    def test_denied_and_absent_look_alike(self) -> None:
        """Also below a folder that is denied, whether the name exists or not."""
        node = self.server.connect()
        for name in (b"v/denied/file", b"v/denied/none", b"v/none"):
            for payload in (
                encode_stat(int(self.server.now), name),
                encode_opendir(name),
                encode_digest(name, b"0" * 16),
                encode_get(name),
            ):
                self.assertEqual([REFUSAL], node.request(payload), name)


class LaterTests(SynchronousTestCase):
    """
    A source that takes its time.
    """

    def test_the_peer_leaves_first(self) -> None:
        """What is held in the end is let go of."""
        held = MemoryObject(b"file", CONTENT)
        waiting: Deferred[Any] = Deferred()
        source = mock.Mock(spec=["resolve"], **{"resolve.return_value": waiting})
        server = memory_server(
            {"path": "/v", "shortcut": "v", "source": "s", "admit_ips": ["127.0.0.1"]},
            sources={"s": source},
        )
        for payload in (
            encode_stat(int(server.now), b"v/file"),
            encode_opendir(b"v/file"),
            encode_digest(b"v/file", b"0" * 16),
            encode_get(b"v/file"),
        ):
            waiting = source.resolve.return_value = Deferred()
            held = MemoryObject(b"file", CONTENT)
            node = server.connect()
            node.request(payload)
            node.hang_up()
            waiting.callback(held)
            self.assertEqual(1, held.closed, payload)
        self.assertEqual(0, server.factory.admission.total)
