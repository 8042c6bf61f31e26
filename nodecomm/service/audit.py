# SPDX-License-Identifier: MIT
"""
The audit log: who asked for what, the decision, how many bytes, how long.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nodecomm.service.logfile import LogFile
from nodecomm.service.logs import fields, utc
from nodecomm.service.own_state import StartError, os_error_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from nodecomm.server.pools import Pool

__all__ = ["MAX_BUFFERED", "AuditLog", "is_audited", "open_audit"]

#: Bytes of records that wait for a disk that takes none. At some 300 bytes a record
#: this is about 14,000 requests; later ones are dropped and counted.
MAX_BUFFERED = 4 * 1024 * 1024

#: Seconds a record waits for others to be written with it.
GATHER = 0.2

#: Seconds between attempts while the file cannot be written.
RETRY = 5.0

_PREFIXES = ("request.", "run.", "session.", "trust.")


def is_audited(event: LogEvent) -> bool:
    """
    Whether the event is one for the audit log: requests, runs, sessions, trust.
    """
    name = event.get("event")
    return isinstance(name, str) and (name == "request" or name.startswith(_PREFIXES))


class _Outcome(NamedTuple):
    """
    What a write came to.
    """

    #: Whole lines the file took.
    lines: int
    #: Bytes of the next line it took.
    done: int
    reopened: bool
    trouble: OSError | None


@implementer(ILogObserver)
class AuditLog:
    """
    Audited events as JSON lines in a file of their own, mode 0640.

    Records are gathered for a moment and written by a thread, so a slow disk holds
    up nobody. While the file cannot be written, records wait up to `MAX_BUFFERED`
    bytes; those that do not fit are counted. One `audit.failed` event begins such a
    burst, and one `audit.recovered` with the count ends it.
    """

    _log = Logger()

    def __init__(
        self,
        path: Path,
        *,
        reactor: IReactorTime,
        run_in_thread: Callable[[Callable[[], _Outcome]], Deferred[_Outcome]],
        from_thread: Callable[[Callable[[], object]], object],
        limit: int = MAX_BUFFERED,
    ) -> None:
        """
        Args:
            path: The file.
            reactor: For the moment of gathering.
            run_in_thread: Runs a function where blocking is allowed.
            from_thread: Has a function called soon by the reactor's thread; called
                for events that other threads emit.
            limit: Bytes that may wait.
        """
        self._file = LogFile(path)
        self._reactor = reactor
        self._run_in_thread = run_in_thread
        self._from_thread = from_thread
        self._limit = limit
        self._owner = threading.get_ident()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        # Bytes of the first waiting line that the file has already.
        self._done = 0
        self._reopen = False
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._failing = False
        self._stopped = False
        #: Records dropped since the file was last writable.
        self.lost = 0

    @property
    def path(self) -> Path:
        """
        The file.
        """
        return self._file.path

    def start(self) -> None:
        """
        Open the file. The thread that calls this is the reactor's.

        Raises:
            OSError: It cannot be opened.
        """
        self._owner = threading.get_ident()
        self._file.open()

    def __call__(self, event: LogEvent) -> None:
        if not is_audited(event):
            return
        record = {
            "time": utc(event.get("log_time")),
            "event": event["event"],
            **fields(event),
        }
        line = json.dumps(record).encode("ascii") + b"\n"
        if threading.get_ident() == self._owner:
            self._add(line)
        else:
            self._from_thread(lambda: self._add(line))

    def reopen(self) -> None:
        """
        Write what waits, then open the file by name again. What goes wrong is told
        by an `audit.failed` event.
        """
        self._reopen = True
        self._flush()

    def stop(self) -> Deferred[None]:
        """
        Write what waits and close the file; what cannot be written now is lost.
        """
        self._stopped = True
        if self._writing is not None:
            finished: Deferred[None] = Deferred()
            self._writing.chainDeferred(finished)
            finished.addCallback(lambda _: self._finish())
            return finished
        self._finish()
        return succeed(None)

    def _add(self, line: bytes) -> None:
        if self._size + len(line) > self._limit:
            self.lost += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._timer is None and self._writing is None and not self._stopped:
            self._timer = self._reactor.callLater(GATHER, self._flush)

    def _flush(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._writing is not None or self._stopped:
            return
        self._writing = Deferred()
        lines, done, reopen = list(self._waiting), self._done, self._reopen
        self._run_in_thread(lambda: self._write(lines, done, reopen)).addBoth(
            self._written
        )

    def _write(self, lines: list[bytes], done: int, reopen: bool) -> _Outcome:
        """
        Write *lines* without the first *done* bytes; runs in a thread.
        """
        written, trouble = self._file.write(b"".join(lines)[done:])
        done += written
        whole = 0
        while whole < len(lines) and done >= len(lines[whole]):
            done -= len(lines[whole])
            whole += 1
        if reopen:
            try:
                self._file.reopen()
            except OSError as error:
                trouble = trouble or error
            else:
                # Half a line stays in the old file; the new one gets all of it.
                return _Outcome(whole, 0, True, trouble)
        return _Outcome(whole, done, False, trouble)

    def _written(self, result: _Outcome | Failure) -> None:
        writing, self._writing = self._writing, None
        trouble: OSError | None
        if isinstance(result, Failure):
            self._log.failure("the audit log failed", failure=result)
            trouble = OSError(str(result.value))
        else:
            trouble = result.trouble
            self._done = result.done
            for _ in range(result.lines):
                self._size -= len(self._waiting.popleft())
            if result.reopened:
                self._reopen = False
        if trouble is not None and not self._failing:
            self._failing = True
            self._log.error(
                "cannot write the audit log {path}: {error}",
                event="audit.failed",
                path=str(self.path),
                error=trouble.strerror or str(trouble),
            )
        if trouble is None and self._failing:
            self._failing = False
            self._log.warn(
                "the audit log {path} can be written again; records lost: {lost}",
                event="audit.recovered",
                path=str(self.path),
                lost=self.lost,
            )
            self.lost = 0
        if not self._stopped and (self._waiting or self._reopen):
            delay = RETRY if trouble is not None else GATHER
            self._timer = self._reactor.callLater(delay, self._flush)
        if writing is not None:
            writing.callback(None)

    def _finish(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._waiting:
            _, trouble = self._file.write(b"".join(self._waiting)[self._done :])
            if trouble is not None:
                self._log.error(
                    "the audit log {path} ends early: {error}; records lost: {lost}",
                    event="audit.failed",
                    path=str(self.path),
                    error=trouble.strerror or str(trouble),
                    lost=self.lost + len(self._waiting),
                )
        self._waiting.clear()
        self._size = 0
        self._file.close()


def open_audit(path: str | None, reactor: Any, pool: Pool) -> AuditLog | None:
    """
    The audit log at *path*, open; None where there is to be none.

    Args:
        path: As configured.
        reactor: For the moment of gathering, and to get back from threads.
        pool: Runs what waits for the disk.

    Raises:
        StartError: It cannot be opened.
    """
    if not path:
        return None
    audit = AuditLog(
        Path(path),
        reactor=reactor,
        run_in_thread=pool.run,
        from_thread=reactor.callFromThread,
    )
    try:
        audit.start()
    except OSError as error:
        raise StartError(os_error_text(error, path)) from error
    return audit
