# SPDX-License-Identifier: MIT
"""
The audit log: which facts it keeps, and that neither rotation nor a full disk loses
what can be kept.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nodecomm.service.audit import GATHER, RETRY, AuditLog, is_audited


class Threads:
    """
    Runs work when told to, as a busy thread would.
    """

    def __init__(self) -> None:
        self.inline = True
        self.work: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def run(self, work: Callable[[], Any]) -> Deferred[Any]:
        """Take work."""
        if self.inline:
            return execute(work)
        done: Deferred[Any] = Deferred()
        self.work.append((work, done))
        return done

    def step(self) -> None:
        """Do the first piece of work."""
        work, done = self.work.pop(0)
        done.callback(work())


class AuditTests(SynchronousTestCase):
    """
    `AuditLog`.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "audit.log"
        self.clock = Clock()
        self.threads = Threads()
        self.posted: list[Callable[[], object]] = []
        self.told: list[LogEvent] = []

        @implementer(ILogObserver)
        class Watch:
            def __call__(_, event: LogEvent) -> None:
                if str(event.get("event", "")).startswith("audit."):
                    self.told.append(event)

        watch = Watch()
        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)

    def opened(self, limit: int = 100_000) -> AuditLog:
        """A started audit log."""
        audit = AuditLog(
            self.path,
            reactor=self.clock,
            run_in_thread=self.threads.run,
            from_thread=self.posted.append,
            limit=limit,
        )
        audit.start()
        self.log = Logger("test", observer=audit)
        return audit

    def names(self, path: Path | None = None) -> list[str]:
        """The `name` fields in the file."""
        text = (path or self.path).read_text()
        return [json.loads(line)["name"] for line in text.splitlines()]

    def emit(self, *names: str) -> None:
        """State a request for each name."""
        for name in names:
            self.log.debug("", event="request", name=name)

    def test_what_is_audited(self) -> None:
        """Requests, runs, sessions and trust are audited, and nothing else is."""
        audited = ["request", "request.refused", "session.closed", "trust.accepted"]
        audited += ["run.started", "run.joined", "run.refused", "run.ended"]
        others = ["limit.reached", "requests", "dialogue", "audit.failed", "run", None]

        self.assertEqual(
            [name for name in [*audited, *others] if is_audited({"event": name})],
            audited,
        )
        self.assertFalse(is_audited({}))

    def test_records(self) -> None:
        """A record holds the time, the event and its fields, and little else."""
        audit = self.opened()
        self.log.info(
            "{peer} was refused",
            event="request.refused",
            peer="10.0.0.1",
            name=b"/etc/\xff\n",
            bytes=0,
        )
        self.clock.advance(GATHER)
        self.successResultOf(audit.stop())

        (record,) = map(json.loads, self.path.read_text().splitlines())
        self.assertEqual(set(record) - {"time"}, {"event", "peer", "name", "bytes"})
        self.assertEqual(record["name"], "/etc/\\xff\\x0a")
        self.assertEqual(self.path.stat().st_mode & 0o137, 0)

    def test_records_are_gathered(self) -> None:
        """Records are written together after a moment, not one by one."""
        self.opened()
        self.threads.inline = False
        self.emit("1", "2")
        self.assertEqual(self.threads.work, [])
        self.clock.advance(GATHER)
        self.emit("3")
        self.threads.step()
        self.assertEqual(self.names(), ["1", "2"])
        self.clock.advance(GATHER)
        self.threads.step()
        self.assertEqual(self.names(), ["1", "2", "3"])

    def test_reopening(self) -> None:
        """What came before a rotation is in the old file, the rest in the new one."""
        audit = self.opened()
        self.emit("1")
        old = self.folder / "audit.log.1"
        self.path.rename(old)
        audit.reopen()
        self.emit("2")
        self.clock.advance(GATHER)

        self.assertEqual(self.names(old), ["1"])
        self.assertEqual(self.names(), ["2"])

    def test_reopening_during_a_write(self) -> None:
        """A rotation while a thread writes is done when the thread is free."""
        audit = self.opened()
        self.threads.inline = False
        self.emit("1")
        self.clock.advance(GATHER)
        old = self.folder / "audit.log.1"
        self.path.rename(old)
        audit.reopen()
        self.threads.step()
        self.clock.advance(GATHER)
        self.threads.step()
        self.emit("2")
        self.clock.advance(GATHER)
        self.threads.step()

        self.assertEqual(self.names(old), ["1"])
        self.assertEqual(self.names(), ["2"])

    def test_full_disk(self) -> None:
        """
        While the disk is full records wait within the limit, the rest are counted;
        the trouble is told once, and its end with the count.
        """
        if not os.path.exists("/dev/full"):
            self.skipTest("there is no /dev/full")
        self.path.symlink_to("/dev/full")
        audit = self.opened(limit=300)
        for number in range(10):
            self.emit(str(number))
            self.clock.advance(RETRY)
        self.path.unlink()
        audit.reopen()
        self.clock.advance(RETRY)
        self.clock.advance(RETRY)
        self.emit("last")
        self.clock.advance(GATHER)

        kept = self.names()
        self.assertEqual(kept[-1], "last")
        self.assertEqual(kept[:-1], [str(n) for n in range(len(kept) - 1)])
        self.assertEqual(
            [event["event"] for event in self.told],
            ["audit.failed", "audit.recovered"],
        )
        self.assertEqual(self.told[1]["lost"], 10 - (len(kept) - 1))
        self.assertGreater(self.told[1]["lost"], 0)

    def test_half_a_line(self) -> None:
        """A line that the file took half of goes on where it stopped."""
        audit = self.opened()
        real = audit._file.write

        def half(data: bytes) -> tuple[int, OSError | None]:
            real(data[: len(data) - 10])
            return len(data) - 10, OSError(28, "No space left on device")

        audit._file.write = half  # type: ignore[method-assign]
        self.emit("1", "2")
        self.clock.advance(GATHER)
        audit._file.write = real  # type: ignore[method-assign]
        self.emit("3")
        self.clock.advance(RETRY)

        self.assertEqual(self.names(), ["1", "2", "3"])

    def test_stop_writes_what_waits(self) -> None:
        """Stopping writes what waits, also while a thread is writing."""
        audit = self.opened()
        self.threads.inline = False
        self.emit("1")
        self.clock.advance(GATHER)
        self.emit("2")
        stopped = audit.stop()
        self.assertNoResult(stopped)
        self.threads.step()

        self.successResultOf(stopped)
        self.assertEqual(self.names(), ["1", "2"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_threads(self) -> None:
        """An event of another thread is taken over by the reactor's thread."""
        audit = self.opened()
        thread = threading.Thread(target=self.emit, args=("1",))
        thread.start()
        thread.join()
        (post,) = self.posted
        post()
        self.successResultOf(audit.stop())

        self.assertEqual(self.names(), ["1"])

    def test_a_folder_that_is_missing(self) -> None:
        """Opening says what is wrong instead of waiting for the first record."""
        self.path = self.folder / "missing" / "audit.log"

        self.assertRaises(FileNotFoundError, self.opened)
