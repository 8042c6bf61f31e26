# SPDX-License-Identifier: MIT
"""
Files that the network is needed for: does this one differ, give me that one, is it
what you have.

A file is done when the server has confirmed the digest of the very bytes that are on
this disk, or when a manifest's digest agrees. Which way the bytes came does not
matter then.

The protocol cannot say that a GET failed, so everything odd ends the connection, and
what is not done is done again on the next one, more carefully the more often it was
near the trouble:

- at first, everything that is known is asked for, small files first;
- files around the trouble come again in groups of `GROUP`, with a check of the stream
  behind each, which shows which group it is;
- files of that group come one at a time, nothing else under way: STAT, GET, a check,
  MD5.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.client.errors import BadAnswer, ConnectionBroken, Refused
from nodecomm.sync.errand import (
    ConnectionWrong,
    Errand,
    FreshConnectionNeeded,
    ManifestContradicted,
    Sink,
    State,
    algorithms_for,
    is_refusal,
    why_never_right,
)
from nodecomm.sync.errors import LimitExceeded, LocalError, VerificationFailed
from nodecomm.sync.model import Kind, RemoteEntry, SyncRequest
from nodecomm.sync.walking import join, remote_entry
from nodecomm.wire.replies import StatReply
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from nodecomm.sync.asking import Asking
    from nodecomm.sync.clocks import Moment
    from nodecomm.sync.lane import Lane

__all__ = ["Errands"]

#: Files in a group that is checked by itself.
GROUP = 16

#: Content that is asked for and has not come. A link of 1 Gbit/s and 200 ms holds
#: 25 MB.
MAX_BYTES_OUT = 32 << 20

#: Files that are asked for and have not come.
MAX_GETS_OUT = 2000

#: A file of at most so many bytes is written when it is whole; a larger one in pieces
#: of that size.
PIECE = 512 << 10

#: A file of at most so many bytes is hashed at once, in some 20 us, so that the
#: question about it leaves while the disk is still busy with the ones before.
QUICK = 16 << 10

#: A single file of at most so many bytes is small enough to be hashed by the server
#: some dozen times, which makes a check of the stream without anything else known.
SMALL = 64 << 10


@define(eq=False)
class Errands:
    """
    All files of an update that the network is needed for, over all connections.

    Args:
        request: What is wanted.
        clock: For "at the end of this turn".
        lane: The way to the disk.
        prepare: Makes the place that content goes to, before the first is asked for.
        create: Opens the file that the content of a name goes to, and makes the
            digests that are named; may wait.
        steady: The clock that nobody sets.
        progressed: Called when anything has come about.
        space: Bytes that the disk has room for; None: not known.

    Attributes:
        files: By name.
        expecting: Reasons why more files may come.
        bytes_wanted: Content of all files to fetch that are known of.
        bytes_come: Content received, right or not.
        bytes_fetched: Content received and right.
        fetched: Files of the same.
        progress: How many files were brought to an end.
    """

    _request: SyncRequest
    _clock: IReactorTime
    _lane: Lane
    _prepare: Callable[[], Deferred[None]]
    _create: Callable[[bytes, Sequence[str]], Sink]
    _steady: Callable[[], Moment]
    _progressed: Callable[[], None] = lambda: None
    space: int | None = None
    files: dict[bytes, Errand] = field(factory=dict, init=False)
    expecting: int = field(default=0, init=False)
    bytes_wanted: int = field(default=0, init=False)
    bytes_come: int = field(default=0, init=False)
    bytes_fetched: int = field(default=0, init=False)
    fetched: int = field(default=0, init=False)
    progress: int = field(default=0, init=False)
    _wanted: dict[bytes, int] = field(factory=dict, init=False)
    _asking: Asking | None = field(default=None, init=False)
    _done: Deferred[None] | None = field(default=None, init=False)
    _open: int = field(default=0, init=False)
    _heap: list[tuple[int, int, int, Errand]] = field(factory=list, init=False)
    _order: Any = field(factory=itertools.count, init=False)
    _coming: dict[bytes, Errand] = field(factory=dict, init=False)
    _bytes_out: int = field(default=0, init=False)
    _questions: int = field(default=0, init=False)
    _grouped: int = field(default=0, init=False)
    _pump_asked: bool = field(default=False, init=False)
    _careful: Errand | None = field(default=None, init=False)
    _preparing: Deferred[None] | None = field(default=None, init=False)
    _prepared: bool = field(default=False, init=False)

    # Files come in.

    def ask(self, name: bytes, entry: RemoteEntry, md5: bytes) -> None:
        """
        Find out whether the server's file differs from one with digest *md5*.
        """
        errand = self._put(name, entry, State.ASK)
        errand.md5 = md5
        self._ask(errand)

    def fetch(self, name: bytes, entry: RemoteEntry) -> None:
        """
        Get the server's file.

        Raises:
            LimitExceeded: It, or all together, are too large.
            LocalError: The disk has no room for it.
        """
        self._wants(self._put(name, entry, State.GET))

    def verify(self, name: bytes, entry: RemoteEntry) -> None:
        """
        Find out whether what was received of *name* is still right, now that the
        server describes it in another way.
        """
        errand = self._put(name, entry, State.VERIFY)
        errand.carried = True
        if entry.sha256 is None:
            self._verify(errand)
        elif entry.sha256 == errand.sha256:
            self._account(errand, State.FETCHED)
        else:
            self._account(errand, State.GET)
            self._wants(errand)

    def again(self, name: bytes) -> bool:
        """
        On this connection the server says of *name* what it said before: go on where
        it was left.

        Returns:
            Whether anything was left.
        """
        errand = self.files.get(name)
        if errand is None:
            return False
        if errand.state is State.ASK:
            self._ask(errand)
        elif errand.state is State.GET:
            self._wants(errand)
        elif errand.state is State.VERIFY:
            self._verify(errand)
        return True

    def forget(self, name: bytes) -> None:
        """
        The server has no such file any more, or none that the network is needed for.
        """
        errand = self.files.pop(name, None)
        if errand is not None:
            self._account(errand, State.LEFT)
            self._want(name, 0)
            self._look()

    def _put(self, name: bytes, entry: RemoteEntry, state: State) -> Errand:
        errand = self.files.get(name)
        if errand is None:
            errand = self.files[name] = Errand(name, entry, state)
            self._open += 1
        else:
            errand.entry = entry
            self._account(errand, state)
        errand.seen = self._steady()
        return errand

    def _account(self, errand: Errand, state: State) -> None:
        """
        Change the state of *errand*.
        """
        before, errand.state = errand.state, state
        self._open += state.is_open - before.is_open
        if before.is_open and not state.is_open:
            self.progress += 1
        if before is State.FETCHED:
            self.fetched -= 1
            self.bytes_fetched -= errand.received
        if state is State.FETCHED:
            self.fetched += 1
            self.bytes_fetched += errand.received
        self._progressed()

    def _want(self, name: bytes, size: int) -> None:
        before = self._wanted.pop(name, 0)
        if size:
            self._wanted[name] = size
        self.bytes_wanted += size - before
        limits = self._request.limits
        if limits.file_size is not None and size > limits.file_size:
            msg = f"{to_text(name)} has {size} bytes, the limit is {limits.file_size}"
            raise LimitExceeded("file-size", msg)
        if limits.total_size is not None and self.bytes_wanted > limits.total_size:
            msg = (
                f"more than {limits.total_size} bytes would have to be fetched, which"
                " is the limit"
            )
            raise LimitExceeded("total-size", msg)
        if self.space is not None and self.bytes_wanted > self.space:
            msg = (
                f"at least {self.bytes_wanted} bytes are to be fetched, and the disk"
                f" has room for {self.space}"
            )
            raise LocalError("no-space", msg)

    # Connections.

    def attach(self, asking: Asking) -> Deferred[None]:
        """
        Work on a connection. Files that are known wait for `again`.

        Returns:
            Fires when nothing is open and nothing more is expected. Fails with the
            first thing that went wrong; call `detach` then.
        """
        self._asking = asking
        self._done = Deferred()
        self._heap.clear()
        self._bytes_out = self._questions = self._grouped = 0
        self._careful = None
        session = asking.session
        self._lane.regulate(session.pause, session.resume)
        return self._done

    def begin(self) -> None:
        """
        Look whether there is anything to do at all.
        """
        self._look()

    def detach(self, error: Exception | None = None) -> None:
        """
        The connection is over, because of *error*. The files that may have to do with
        it are treated with more care from now on.

        Raises:
            VerificationFailed: One of them had as much care as it may have.
        """
        asking, self._asking = self._asking, None
        self._done = None
        self._lane.let_go()
        if asking is None:
            return
        if asking.trouble is not None:
            error = asking.trouble
        # What came whole is on its way to disk, and only has to be verified.
        partial = [each for each in self._coming.values() if not each.complete]
        suspects = self._suspects(asking, partial, error)
        for errand in partial:
            del self._coming[errand.name]
            errand.pieces.clear()
            self._account(errand, State.GET)
        for errand in self.files.values():
            errand.carried = True
        for errand in suspects:
            self._suspect(errand, error)

    def _suspects(
        self, asking: Asking, partial: list[Errand], error: Exception | None
    ) -> list[Errand]:
        """
        The files that what happened may be about.
        """
        if error is None:
            return []
        if self._careful is not None:
            return [self._careful]
        if isinstance(error, BadAnswer):
            # Up to the last check that was passed, all was well.
            return [
                errand
                for errand in self.files.values()
                if errand.state in (State.COMING, State.VERIFY)
                and not errand.carried
                and errand.group == asking.passed
            ]
        return partial[:1]

    def _suspect(self, errand: Errand, error: Exception | None) -> None:
        if errand.blamed == errand.attempt:
            # The same content shows in more than one way that it is wrong.
            return
        errand.blamed = errand.attempt
        errand.tries += 1
        errand.level += 1
        if errand.tries < self._request.limits.attempts:
            return
        if isinstance(error, ConnectionBroken) and not is_refusal(errand.head):
            raise error
        raise VerificationFailed(
            "digest", why_never_right(errand, self._path(errand), error)
        )

    def fail(self, failure: Failure) -> None:
        """
        Something went wrong that ends the work on this connection.
        """
        done, self._done = self._done, None
        if done is not None:
            done.errback(failure)

    def _failed(self, failure: Failure, asking: Asking) -> None:
        if self._asking is asking:
            self.fail(failure)

    def _look(self) -> None:
        """
        Go on at the end of this turn: requests of other kinds go first, and content
        in one piece behind them.
        """
        if not self._pump_asked:
            self._pump_asked = True
            self._clock.callLater(0, self._pump)

    def _pump(self) -> None:
        self._pump_asked = False
        if self._done is None or self._asking is None:
            return
        try:
            self._submit(self._asking)
        except Exception:
            self.fail(Failure())  # type: ignore[no-untyped-call]
            return
        if not self._open and not self.expecting:
            done, self._done = self._done, None
            done.callback(None)

    def _path(self, errand: Errand) -> bytes:
        return join(self._request.source, errand.name)

    # Does it differ?

    def _ask(self, errand: Errand) -> None:
        asking = self._asking
        if asking is None:
            return
        self._questions += 1
        errand.confirmed = self._steady()
        asking.differs(self._path(errand), errand.md5, errand.entry.size).addCallbacks(
            self._asked,
            self._not_asked,
            callbackArgs=(errand, asking),
            errbackArgs=(errand, asking),
        )

    def _asked(self, differs: bool, errand: Errand, asking: Asking) -> None:
        self._questions -= 1
        if self._asking is not asking or errand.state is not State.ASK:
            return
        if differs:
            self._account(errand, State.GET)
            self._guarded(self._wants, errand)
        else:
            self._account(errand, State.SAME)
            self._look()

    def _not_asked(self, failure: Failure, errand: Errand, asking: Asking) -> None:
        self._questions -= 1
        if not isinstance(failure.value, Refused):
            self._failed(failure, asking)
        elif self._asking is asking and errand.state is State.ASK:
            self._account(errand, State.LEFT)
            self._look()

    # Give me that.

    def _wants(self, errand: Errand) -> None:
        self._want(errand.name, errand.entry.size)
        if self._request.dry_run:
            self._account(errand, State.WOULD)
            self._look()
        else:
            self._push(errand)

    def _guarded(self, function: Callable[[Errand], None], errand: Errand) -> None:
        try:
            function(errand)
        except Exception:
            self.fail(Failure())  # type: ignore[no-untyped-call]

    def _push(self, errand: Errand) -> None:
        if self._asking is not None:
            key = (min(errand.level, 2), errand.entry.size, next(self._order))
            heapq.heappush(self._heap, (*key, errand))
            self._look()

    def _submit(self, asking: Asking) -> None:
        """
        Ask for the content of as many files as may be under way.
        """
        heap = self._heap
        if heap and not self._prepared:
            self._make_ready()
            return
        while heap and self._careful is None:
            level, size, _order, errand = heap[0]
            if errand.state is not State.GET or errand.entry.size != size:
                heapq.heappop(heap)
                continue
            out = len(self._coming)
            if out and (out >= MAX_GETS_OUT or self._bytes_out + size > MAX_BYTES_OUT):
                break
            if level > 1 and errand.entry.sha256 is None:
                if out or self._questions or self.expecting:
                    break
                heapq.heappop(heap)
                self._take_care(errand, asking)
                break
            heapq.heappop(heap)
            if level == 1 and not self._grouped:
                self._check(asking)
            self._get(errand, asking)
            if level == 1:
                self._grouped += 1
                if self._grouped == GROUP or not heap or heap[0][0] != 1:
                    self._grouped = 0
                    self._check(asking)

    def _make_ready(self) -> None:
        """
        Content needs a place before it is asked for.
        """
        if self._preparing is not None:
            return

        def ready(_none: None) -> None:
            self._prepared = True
            self._look()

        def over(result: Any) -> None:
            self._preparing = None

        self._preparing = self._prepare()
        self._preparing.addCallbacks(ready, self.fail).addBoth(over)

    def _check(self, asking: Asking) -> None:
        if asking.can_check:
            asking.check()

    def _get(self, errand: Errand, asking: Asking) -> None:
        self._account(errand, State.COMING)
        self._coming[errand.name] = errand
        errand.received = 0
        errand.head = b""
        errand.pieces = []
        errand.pending = 0
        errand.sink = None
        errand.carried = errand.complete = errand.stored = errand.verified = False
        errand.attempt += 1
        errand.group = asking.group
        size = errand.entry.size
        if not size:
            # There is nothing to ask for; that it is empty is verified as ever.
            self._received(None, errand, asking)
            return
        self._bytes_out += size

        def sink(data: bytes) -> None:
            if not errand.received:
                errand.head = data[:100]
            errand.received += len(data)
            self.bytes_come += len(data)
            self._progressed()
            errand.pieces.append(data)
            errand.pending += len(data)
            if errand.pending >= PIECE and errand.received < size:
                self._write(errand)

        asking.get(self._path(errand), size, sink).addCallbacks(
            self._received,
            self._failed,
            callbackArgs=(errand, asking),
            errbackArgs=(asking,),
        )

    def _write(self, errand: Errand) -> None:
        """
        Write what has come of a large file.
        """
        pieces, errand.pieces, errand.pending = errand.pieces, [], 0
        data = b"".join(pieces)

        def work() -> None:
            if errand.sink is None:
                errand.sink = self._create(errand.name, algorithms_for(errand.entry))
            errand.sink.write(data)

        self._lane.put(work, None, len(data))

    def _received(self, _none: object, errand: Errand, asking: Asking) -> None:
        """
        As many bytes came as were announced.
        """
        self._bytes_out -= errand.entry.size
        errand.complete = True
        pieces, errand.pieces = errand.pieces, []
        data = b"".join(pieces)
        attempt = errand.attempt
        is_quick = errand.entry.sha256 is None and errand.entry.size <= QUICK
        algorithms = () if is_quick else algorithms_for(errand.entry)

        def work() -> list[bytes]:
            sink = errand.sink
            if sink is None:
                sink = errand.sink = self._create(errand.name, algorithms)
            if data:
                sink.write(data)
            sink.close()
            return [sink.digest(name) for name in algorithms]

        def done(digests: list[bytes]) -> None:
            if errand.attempt != attempt:
                return
            errand.sink = None
            errand.stored = True
            if is_quick:
                if errand.verified and errand.state is State.VERIFY:
                    self._account(errand, State.FETCHED)
                    self._look()
                return
            errand.md5, *rest = digests
            errand.sha256 = rest[0] if rest else b""
            if self._coming.pop(errand.name, None) is errand:
                self._guarded(self._stored, errand)

        if is_quick:
            del self._coming[errand.name]
            errand.md5 = hashlib.md5(data, usedforsecurity=False).digest()
            self._guarded(self._stored, errand)
        self._lane.put(work, done, len(data))
        self._look()

    def _stored(self, errand: Errand) -> None:
        expected = errand.entry.sha256
        if expected is not None:
            if errand.sha256 != expected:
                self._account(errand, State.GET)
                msg = (
                    f"{to_text(self._path(errand))}: the digest of what came is not"
                    " the one in the manifest"
                )
                raise ManifestContradicted(errand.name, msg)
            errand.confirmed = self._steady()
            self._account(errand, State.FETCHED)
            self._look()
            return
        self._account(errand, State.VERIFY)
        self._verify(errand)

    # Is it right?

    def _verify(self, errand: Errand) -> None:
        asking = self._asking
        if asking is None:
            return
        path, size = self._path(errand), errand.entry.size
        if asking.doubtful and not asking.can_check:
            if size > SMALL:
                self._start_afresh()
                return
            asking.offer(path, errand.md5)
        self._questions += 1
        errand.confirmed = self._steady()
        asking.differs(path, errand.md5, size).addCallbacks(
            self._verified,
            self._not_verified,
            callbackArgs=(errand, asking),
            errbackArgs=(errand, asking),
        )

    def _start_afresh(self) -> None:
        msg = "nothing is known to check the stream by"
        self.fail(Failure(FreshConnectionNeeded(msg)))  # type: ignore[no-untyped-call]

    def _verified(self, differs: bool, errand: Errand, asking: Asking) -> None:
        self._questions -= 1
        if self._asking is not asking or errand.state is not State.VERIFY:
            return
        if not differs:
            if self._careful is errand:
                self._careful = None
            errand.verified = True
            if errand.stored:
                self._account(errand, State.FETCHED)
            self._look()
        elif errand.carried:
            # It came over an earlier connection, and is wrong: no wonder.
            self._account(errand, State.GET)
            self._guarded(self._once_more, errand)
        else:
            self._wrong(errand, "its digest is another one than that of what came")

    def _once_more(self, errand: Errand) -> None:
        self._suspect(errand, None)
        self._wants(errand)

    def _not_verified(self, failure: Failure, errand: Errand, asking: Asking) -> None:
        self._questions -= 1
        if not isinstance(failure.value, Refused):
            self._failed(failure, asking)
        elif self._asking is asking and errand.state is State.VERIFY:
            self._wrong(errand, "it was given, and now it is refused")

    def _wrong(self, errand: Errand, why: str) -> None:
        """
        What came is not what is there now.
        """
        self._account(errand, State.GET)
        text = f"{to_text(self._path(errand))}: {why}"
        # Whose fault it is, is known: nothing else is suspected.
        self._careful = errand
        errand.level = max(errand.level, 1)
        self.fail(Failure(ConnectionWrong("digest", text)))  # type: ignore[no-untyped-call]

    # One at a time.

    def _take_care(self, errand: Errand, asking: Asking) -> None:
        """
        Fetch *errand* with nothing else under way, its status asked anew.
        """
        if asking.doubtful and not asking.can_check:
            self._push(errand)
            self._start_afresh()
            return
        self._careful = errand
        asking.session.window = 1
        asking.stat(self._path(errand)).addCallbacks(
            self._described,
            self._not_described,
            callbackArgs=(errand, asking),
            errbackArgs=(errand, asking),
        )

    def _described(self, reply: StatReply, errand: Errand, asking: Asking) -> None:
        if self._asking is not asking or errand.state is not State.GET:
            return
        entry = remote_entry(reply)
        if entry.kind is not Kind.FILE:
            msg = f"{to_text(self._path(errand))} was a file and is none any more"
            self.fail(Failure(ConnectionWrong("changed", msg)))  # type: ignore[no-untyped-call]
            return
        errand.entry = entry
        errand.seen = self._steady()

        def get(errand: Errand) -> None:
            self._want(errand.name, errand.entry.size)
            self._get(errand, asking)

        self._guarded(get, errand)

    def _not_described(self, failure: Failure, errand: Errand, asking: Asking) -> None:
        if not isinstance(failure.value, Refused):
            self._failed(failure, asking)
        elif self._asking is asking:
            self._careful = None
            self._account(errand, State.LEFT)
            self._want(errand.name, 0)
            self._look()
