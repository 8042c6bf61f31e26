# SPDX-License-Identifier: MIT
"""
`nodecomm get` with servers that do not behave.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli.get import (
    ATTEMPTS,
    Got,
    Output,
    get_to_file,
    get_to_stream,
    local_name,
)
from nodecomm.client.address import parse_target
from nodecomm.client.errors import BadAnswer, ConnectionBroken, Refused
from nodecomm.sync.errors import LocalError, SourceRefused, VerificationFailed
from nodecomm.wire.replies import StatReply

TARGET = parse_target("hub:share/file")
CONTENT = b"content\n" * 1000


@define
class Session:
    """
    A connection, as `get` sees it.
    """

    dialer: Dialer
    paused: int = 0
    closed: bool = False
    _held: list[Callable[[], None]] = field(factory=list)

    def stat(self, path: bytes) -> Deferred[StatReply]:
        """The status, or a refusal."""
        assert path == TARGET.path
        if self.dialer.refuse:
            return fail(Refused("refused", path, b"BAD: no"))
        size = len(self.dialer.content)
        kind = self.dialer.kind
        return succeed(StatReply(kind, 0o6755, 0, 1, 2, size, 3, 4, 5, 0, 6, 1, 7))

    def get(
        self, path: bytes, size: int, sink: Callable[[bytes], None]
    ) -> Deferred[None]:
        """The content in pieces, waiting while paused; or a broken connection."""
        if self.dialer.breaks:
            self.dialer.breaks -= 1
            sink(b"half")
            return fail(self.dialer.broken)
        done: Deferred[None] = Deferred()
        pieces = [
            self.dialer.content[start : start + 1000] for start in range(0, size, 1000)
        ]

        def go_on() -> None:
            while pieces:
                if self.paused:
                    self._held.append(go_on)
                    return
                try:
                    sink(pieces.pop(0))
                except Exception as error:
                    done.errback(error)
                    return
            done.callback(None)

        go_on()
        return done

    def differs(self, path: bytes, digest: bytes, size: int) -> Deferred[bool]:
        """Whether the digest is wrong; always, as often as the test said."""
        assert size == len(self.dialer.content)
        if self.dialer.lies:
            self.dialer.lies -= 1
            return succeed(True)
        right = hashlib.md5(self.dialer.content).digest()
        return succeed(digest != right)

    def pause(self) -> None:
        """Nothing more for now."""
        self.paused += 1

    def resume(self) -> None:
        """Go on."""
        self.paused -= 1
        held, self._held = self._held, []
        for go_on in held:
            go_on()

    def close(self) -> Deferred[None]:
        """The end."""
        self.closed = True
        return succeed(None)


@define
class Dialer:
    """
    A server whose file changes and whose connections break.
    """

    content: bytes = CONTENT
    kind: int = 0
    refuse: bool = False
    breaks: int = 0
    broken: Exception = field(factory=lambda: ConnectionBroken("reset", "broken"))
    lies: int = 0
    silent: bool = False
    sessions: list[Session] = field(factory=list)

    def connect(self, server: object) -> Deferred[Session]:
        """A new connection, when the one before is closed."""
        assert server == TARGET.server
        assert all(session.closed for session in self.sessions)
        if self.silent:
            return Deferred()
        self.sessions.append(Session(self))
        return succeed(self.sessions[-1])


class FileTests(SynchronousTestCase):
    """
    To a file.
    """

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.local = self.folder / "file"

    def get(self, dialer: Dialer) -> Deferred[Got]:
        used: Any = dialer
        return Deferred.fromCoroutine(get_to_file(used, TARGET, self.local))

    def nothing_left(self) -> None:
        self.assertEqual([], os.listdir(self.folder))

    def test_repeated_until_it_agrees(self) -> None:
        """
        What does not agree with its digest, and what a broken connection or a bad
        answer left behind, is fetched again on a new connection.
        """
        errors: list[Exception] = [ConnectionBroken("reset", "x")]
        errors.append(BadAnswer("out-of-step", "x"))
        for breaks, lies, error in (
            (0, 2, errors[0]),
            (2, 1, errors[0]),
            (3, 0, errors[1]),
        ):
            self.local.write_text("old")
            dialer = Dialer(breaks=breaks, lies=lies, broken=error)
            got = self.successResultOf(self.get(dialer))
            self.assertEqual(CONTENT, self.local.read_bytes())
            self.assertEqual(0o755, self.local.stat().st_mode & 0o7777)
            self.assertEqual((len(CONTENT), 0o6755), (got.size, got.mode))
            self.assertEqual(breaks + lies + 1, len(dialer.sessions))
            self.assertEqual(["file"], os.listdir(self.folder))

    def test_given_up(self) -> None:
        """
        After so many attempts it is an error, and nothing is left behind.
        """
        self.failureResultOf(self.get(Dialer(lies=ATTEMPTS)), VerificationFailed)
        self.nothing_left()
        self.failureResultOf(self.get(Dialer(breaks=ATTEMPTS)), ConnectionBroken)
        self.nothing_left()

    def test_refused(self) -> None:
        """
        A refusal, and what is no file, are not asked for again.
        """
        for dialer, kind in (
            (Dialer(refuse=True), Refused),
            (Dialer(kind=3), SourceRefused),
        ):
            self.failureResultOf(self.get(dialer), kind)
            self.assertEqual(1, len(dialer.sessions))
            self.assertTrue(dialer.sessions[0].closed)
            self.nothing_left()

    def test_what_a_killed_one_left(self) -> None:
        """
        Files that are not yet whole go when they are an hour old; others stay.
        """
        long_ago = time.time() - 4000
        for name, age in (
            (".nodecomm-abcd_012.part", long_ago),
            (".nodecomm-abcd_013.part", None),
            (".nodecomm-notes-of-mine.part", long_ago),
        ):
            (self.folder / name).touch()
            if age is not None:
                os.utime(self.folder / name, (age, age))
        self.successResultOf(self.get(Dialer()))

        self.assertEqual(
            {"file", ".nodecomm-abcd_013.part", ".nodecomm-notes-of-mine.part"},
            set(os.listdir(self.folder)),
        )

    def test_a_folder_that_is_not_there(self) -> None:
        """
        Errors name what the person named, and never a temporary file.
        """
        self.local = self.folder / "no" / "file"
        error = self.failureResultOf(self.get(Dialer()), LocalError).value
        self.assertEqual(
            (
                "not-a-folder",
                f"the folder {self.folder}/no does not exist: make it first",
            ),
            (error.code, error.text),
        )

        def mkstemp(**_: object) -> None:
            raise PermissionError(13, "no", f"{self.folder}/.nodecomm-x.part")

        self.patch(tempfile, "mkstemp", mkstemp)
        self.local = self.folder / "file"
        error = self.failureResultOf(self.get(Dialer()), LocalError).value
        self.assertEqual("permission", error.code)
        self.assertEqual(
            f"cannot write {self.local}: Permission denied; run as the owner of"
            f" {self.folder}, or name another LOCAL",
            error.text,
        )

    def test_cancelled(self) -> None:
        """
        A command that is interrupted leaves nothing behind.
        """
        waiting = self.get(Dialer(silent=True))
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting)
        self.nothing_left()

    def test_the_local_name(self) -> None:
        """
        The last part of the server's name is used where none, or a folder, is given.
        """
        self.assertEqual(Path.cwd() / "name", local_name(None, b"share/name"))
        self.assertEqual(
            self.folder.resolve() / "a\udcff", local_name(str(self.folder), b"x/a\xff/")
        )


class Stream:
    """
    Something that blocks until the test lets it go on.
    """

    def __init__(self) -> None:
        self.written = b""
        self.let = threading.Semaphore(0)
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Wait, then take it."""
        self.let.acquire()
        if self.error is not None:
            raise self.error
        self.written += data
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""


class StreamTests(SynchronousTestCase):
    """
    To standard output.
    """

    def start(self, dialer: Dialer) -> tuple[Stream, Deferred[Got], Callable[[], None]]:
        """
        The stream, the result, and a function that lets one piece be written.
        """
        stream: Any = Stream()
        calls: list[Callable[[], None]] = []
        came = threading.Semaphore(0)

        def call(function: Callable[[], None]) -> None:
            calls.append(function)
            came.release()

        used: Any = dialer
        output = Output(stream, call, ahead=2500)
        done = Deferred.fromCoroutine(get_to_stream(used, TARGET, output))

        def step() -> None:
            stream.let.release()
            self.assertTrue(came.acquire(timeout=30))
            calls.pop(0)()

        return stream, done, step

    def test_a_slow_reader_stops_the_server(self) -> None:
        """
        While the reader takes his time the server is paused, and all of it arrives.
        """
        dialer = Dialer()
        stream, done, step = self.start(dialer)
        self.assertEqual(1, dialer.sessions[0].paused)
        for _ in range(len(CONTENT) // 1000):
            self.assertNoResult(done)
            step()
        self.assertEqual(CONTENT, stream.written)
        self.assertEqual(0, dialer.sessions[0].paused)
        self.assertEqual(len(CONTENT), self.successResultOf(done).size)

    def test_what_was_wrong_is_told(self) -> None:
        """
        What has been written cannot be taken back: one attempt, and the result says
        whether it was right.
        """
        dialer = Dialer(content=b"x" * 1000, lies=1)
        stream, done, step = self.start(dialer)
        step()
        self.failureResultOf(done, VerificationFailed)
        self.assertEqual(b"x" * 1000, stream.written)
        self.assertEqual(1, len(dialer.sessions))

    def test_a_reader_who_is_gone(self) -> None:
        """
        An error of the stream ends it, while it is paused too.
        """
        dialer = Dialer()
        stream, done, step = self.start(dialer)
        stream.error = BrokenPipeError(32, "Broken pipe")
        step()
        self.failureResultOf(done, BrokenPipeError)
        self.assertTrue(dialer.sessions[0].closed)
