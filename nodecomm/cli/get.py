# SPDX-License-Identifier: MIT
"""
`nodecomm get`: one file of a server, verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import re
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python import usage

from nodecomm.cli.connecting import (
    run_command,
)
from nodecomm.cli.dialing import make_asking_dialer
from nodecomm.cli.options import file_to_write, write_json
from nodecomm.cli.printer import Unbuffered
from nodecomm.cli.remote import TargetOptions, ask, leads_to
from nodecomm.cli.statuses import Status
from nodecomm.client.errors import BadAnswer, ConnectionBroken
from nodecomm.identity.files import remove_leftovers, sync_folder
from nodecomm.sync.disk_errors import local_error
from nodecomm.sync.errors import LocalError, SourceRefused, VerificationFailed
from nodecomm.wire.replies import REGULAR
from nodecomm.wire.text import safe, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodecomm.client.address import Target
    from nodecomm.client.connection import Connection
    from nodecomm.sync.syncing import Dialing

__all__ = [
    "Got",
    "Options",
    "Output",
    "get_to_file",
    "get_to_stream",
    "local_name",
    "run",
]

#: How often a file is fetched that never agrees with its own digest, or whose
#: connection breaks.
ATTEMPTS = 4

#: How files are called that are not yet whole, as mkstemp makes the names.
_PARTS = re.compile(r"\.nodecomm-[a-z0-9_]{8}\.part")

#: Bytes that wait for whoever reads standard output before the server is made to
#: wait.
_AHEAD = 1 << 20


class Options(TargetOptions):
    """
    The command line of `nodecomm get`.
    """

    takes = "[options] HOST[:PORT]:PATH [LOCAL|-]"
    longdesc = (
        "Fetch one file. It is written to LOCAL, to the folder LOCAL, or to the file's "
        "own name here, in one step and only when its size and its digest are right, "
        "with the permissions that it has on the server; for `-` to standard output, "
        "and the exit status tells in the end whether what was written is right."
    )
    subjects: Sequence[tuple[str, str]] = (
        ("target", "HOST[:PORT]:PATH"),
        ("local", "LOCAL"),
    )
    optional = 1


@frozen
class Got:
    """
    A file that was fetched and verified.

    Attributes:
        size: Bytes.
        digest: MD5.
        mode: Its permission bits on the server.
        mtime: Its time on the server, seconds since the epoch.
    """

    size: int
    digest: bytes
    mode: int
    mtime: int


def run(options: Options, stdout: TextIO, stderr: TextIO) -> int:
    """
    `nodecomm get`.
    """
    target: Target = options["target"]
    as_json = options.as_json
    named = options.named_state_dir
    server = target.server
    if options["local"] == "-":
        if as_json:
            msg = "--json goes to standard output too: name a file"
            raise usage.UsageError(msg)

        async def to_stream(reactor: Any) -> int:
            dialer = make_asking_dialer(reactor, options, options.state_dir)
            output = Output(Unbuffered(stdout), reactor.callFromThread)
            await get_to_stream(dialer, target, output)
            return Status.DONE

        options.warn(server, stderr)
        return run_command(to_stream, stdout, stderr, state_dir=named)
    local = local_name(options["local"], target.path)

    async def to_file(reactor: Any) -> int:
        dialer = make_asking_dialer(reactor, options, options.state_dir)
        got = await get_to_file(dialer, target, local)
        if as_json:
            facts = {
                "path": to_text(target.path),
                "local": to_text(os.fsencode(local)),
                "size": got.size,
                "md5": got.digest.hex(),
                "mode": f"{got.mode:04o}",
                "mtime": got.mtime,
            }
            write_json(facts, stdout)
        else:
            shown = safe(to_text(os.fsencode(local)))
            stdout.write(f"{shown}: {got.size} bytes, verified\n")
        return Status.DONE

    options.warn(server, stderr)
    return run_command(to_file, stdout, stderr, as_json=as_json, state_dir=named)


def local_name(given: str | None, path: bytes) -> Path:
    """
    The file that shall hold what *path* is on the server.

    Raises:
        usage.UsageError: There is no saying which, or it can be no file.
    """
    last = os.fsdecode(path.rstrip(b"/").rpartition(b"/")[2])
    if given is None or os.path.isdir(given):
        if last in ("", ".", "..") or "\0" in last:
            msg = "which LOCAL? The name on the server is none for a file"
            raise usage.UsageError(msg)
        given = os.path.join(given or "", last)
    return file_to_write(given)


async def get_to_file(dialer: Dialing, target: Target, local: Path) -> Got:
    """
    Fetch a file, verified, in one step. What does not agree, and what a broken
    connection left behind, is fetched again.

    Raises:
        VerificationFailed: It never agreed with its digest.
        SourceRefused: It is no ordinary file.
        ClientError: As `Dialer.connect` and the requests.
        LocalError: It could not be written.
    """
    try:
        return await _get_to_file(dialer, target, local)
    except OSError as error:
        raise _cannot_write(local, error) from error


def _cannot_write(local: Path, error: OSError) -> LocalError:
    """
    What a person has to know: his own names, not those of temporary files.
    """
    folder = to_text(os.fsencode(local.parent))
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        msg = f"the folder {folder} does not exist: make it first"
        return LocalError("not-a-folder", msg)
    nameless = OSError(error.errno, error.strerror) if error.errno else error
    told = local_error(nameless, f"write {to_text(os.fsencode(local))}")
    if told.code == "permission":
        msg = f"{told.text}; run as the owner of {folder}, or name another LOCAL"
        return LocalError(told.code, msg)
    return told


async def _get_to_file(dialer: Dialing, target: Target, local: Path) -> Got:
    with contextlib.suppress(OSError):
        # Of one that was killed.
        remove_leftovers(os.fspath(local.parent), time.time(), _PARTS)
    for attempt in range(1, ATTEMPTS + 1):
        descriptor, temporary = tempfile.mkstemp(
            prefix=".nodecomm-", suffix=".part", dir=local.parent
        )
        try:
            with open(descriptor, "wb") as file:
                got = await _fetch(dialer, target, file)
                if got is not None:
                    # Set-user-ID is for whoever owns a file, and that is somebody else
                    # now.
                    os.fchmod(file.fileno(), got.mode & 0o777)
                    file.flush()
                    os.fsync(file.fileno())
            if got is not None:
                os.rename(temporary, local)
                temporary = ""
                sync_folder(os.fspath(local.parent))
                return got
        except (ConnectionBroken, BadAnswer):
            if attempt == ATTEMPTS:
                raise
        finally:
            if temporary:
                os.unlink(temporary)
    raise _never_agreed(target, ATTEMPTS)


async def get_to_stream(dialer: Dialing, target: Target, output: Output) -> Got:
    """
    Fetch a file to a stream, once: what has been written cannot be taken back.

    Raises:
        As `get_to_file`.
    """
    try:
        got = await _fetch(dialer, target, output)
        await output.drained()
    finally:
        output.end()
    if got is None:
        raise _never_agreed(target, 1)
    return got


async def _fetch(dialer: Dialing, target: Target, sink: Any) -> Got | None:
    """
    Fetch a file; None if its content is not what its digest says.
    """

    async def fetch(session: Connection) -> Got | None:
        status = await session.stat(target.path)
        if status.kind != REGULAR:
            what = leads_to(status)[0]
            text = (
                f"{to_text(target.path)} is no ordinary file on the server but a {what}"
            )
            if what == "folder":
                text += "; `nodecomm sync` fetches folders"
            raise SourceRefused("not-copyable", text)
        digest = hashlib.md5(usedforsecurity=False)
        bind: Callable[[Connection], None] | None = getattr(sink, "bind", None)
        if bind is not None:
            bind(session)

        def write(data: bytes) -> None:
            digest.update(data)
            sink.write(data)

        await session.get(target.path, status.size, write)
        value = digest.digest()
        if await session.differs(target.path, value, status.size):
            return None
        return Got(status.size, value, status.mode, status.mtime)

    return await ask(dialer, target.server, fetch)


def _never_agreed(target: Target, attempts: int) -> VerificationFailed:
    times = "once" if attempts == 1 else f"{attempts} times"
    return VerificationFailed(
        "digest",
        f"{to_text(target.path)} was fetched {times} and never had the digest that the "
        "server says: it is being changed, or damaged on its way",
    )


class Output:
    """
    Standard output, written by a thread, so that a reader who takes his time stops
    the server and not this program.

    Args:
        stream: Where to write.
        call: Calls a function in the reactor's thread.
        ahead: Bytes that may wait before the server is made to wait.
    """

    def __init__(
        self,
        stream: BinaryIO | Unbuffered,
        call: Callable[[Callable[[], None]], None],
        ahead: int = _AHEAD,
    ) -> None:
        self._stream = stream
        self._call = call
        self._ahead = ahead
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting = 0
        self._paused = False
        self._session: Connection | None = None
        self._error: OSError | None = None
        self._drained: list[Deferred[None]] = []
        # Nobody waits for it when the program is interrupted: the reader may never
        # read on.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def bind(self, session: Connection) -> None:
        """
        Whom to pause.
        """
        self._session = session

    def write(self, data: bytes) -> None:
        """
        Take bytes.

        Raises:
            OSError: Those before could not be written.
        """
        if self._error is not None:
            raise self._error
        self._waiting += len(data)
        self._queue.put(data)
        if (
            self._waiting > self._ahead
            and not self._paused
            and self._session is not None
        ):
            self._paused = True
            self._session.pause()

    async def drained(self) -> None:
        """
        Wait until all has been written.

        Raises:
            OSError: It could not be.
        """
        if self._waiting and self._error is None:
            waiter: Deferred[None] = Deferred()
            self._drained.append(waiter)
            await waiter
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """
        Nothing more comes.
        """
        self._queue.put(None)

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            error = None
            try:
                self._stream.write(data)
                self._stream.flush()
            except OSError as caught:
                error = caught
            self._call(partial(self._written, len(data), error))
            if error is not None:
                return

    def _written(self, size: int, error: OSError | None) -> None:
        self._waiting -= size
        if error is not None and self._error is None:
            self._error = error
        if self._paused and (
            self._waiting <= self._ahead // 2 or self._error is not None
        ):
            self._paused = False
            if self._session is not None:
                self._session.resume()
        if not self._waiting or self._error is not None:
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                waiter.callback(None)
