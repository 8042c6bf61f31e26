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

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.client.errors import Refused
from nodecomm.sync.blaming import blame, suspects_of
from nodecomm.sync.doubting import Doubted
from nodecomm.sync.errand import (
    ConnectionWrong,
    Errand,
    FreshConnectionNeeded,
    ManifestContradicted,
    Sink,
    State,
)
from nodecomm.sync.model import Kind, RemoteEntry, SyncRequest
from nodecomm.sync.questions import Questions
from nodecomm.sync.queueing import Queue
from nodecomm.sync.receiving import Receiving
from nodecomm.sync.walking import join
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from nodecomm.sync.asking import Asking
    from nodecomm.sync.books import Books
    from nodecomm.sync.clocks import Moment
    from nodecomm.sync.lane import Lane
    from nodecomm.sync.refusals import Refusals

__all__ = ["Errands"]

#: Files in a group that is checked by itself.
GROUP = 16

#: Content that is asked for and has not come. A link of 1 Gbit/s and 200 ms holds
#: 25 MB.
MAX_BYTES_OUT = 32 << 20

#: Files that are asked for and have not come.
MAX_GETS_OUT = 2000

#: A single file of at most so many bytes is small enough to be hashed by the server
#: some dozen times, which makes a check of the stream without anything else known.
SMALL = 64 << 10


@define(eq=False)
class Errands:
    """
    All files of an update that the network is needed for, over all connections.

    Args:
        request: What is wanted.
        books: Where the files are kept.
        clock: For "at the end of this turn".
        lane: The way to the disk.
        refusals: What this run knows to be refused; content is noted there.
        prepare: Makes the place that content goes to, before the first is asked for.
        create: Opens the file that the content of a name goes to, and makes the
            digests that are named; may wait.
        steady: The clock that nobody sets.

    Attributes:
        expecting: Reasons why more files may come.
    """

    _request: SyncRequest
    _books: Books
    _clock: IReactorTime
    _lane: Lane
    _refusals: Refusals
    _prepare: Callable[[], Deferred[None]]
    _create: Callable[[bytes, Sequence[str]], Sink]
    _steady: Callable[[], Moment]
    expecting: int = field(default=0, init=False)
    _receiving: Receiving = field(init=False)
    _asking: Asking | None = field(default=None, init=False)
    _done: Deferred[None] | None = field(default=None, init=False)
    _queue: Queue = field(factory=Queue, init=False)
    _doubted: Doubted = field(init=False)
    _coming: dict[bytes, Errand] = field(factory=dict, init=False)
    _bytes_out: int = field(default=0, init=False)
    _questions: Questions = field(init=False)
    _grouped: int = field(default=0, init=False)
    _pump_asked: bool = field(default=False, init=False)
    _careful: Errand | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._receiving = Receiving(
            self._books,
            self._lane,
            self._prepare,
            self._create,
            self._hashed,
            self._written,
        )
        self._questions = Questions(self._steady, self._failed)

    # Files come in.

    def ask(self, name: bytes, entry: RemoteEntry, md5: bytes) -> None:
        """
        Find out whether the server's file differs from one with digest *md5*.
        """
        errand = self._books.enter(name, entry, State.ASK, self._steady())
        errand.md5 = md5
        self._ask(errand)

    def fetch(self, name: bytes, entry: RemoteEntry) -> None:
        """
        Get the server's file.

        Raises:
            LimitExceeded: It, or all together, are too large.
            LocalError: The disk has no room for it.
        """
        self._wants(self._books.enter(name, entry, State.GET, self._steady()))

    def verify(self, name: bytes, entry: RemoteEntry) -> None:
        """
        Find out whether what was received of *name* is still right, now that the
        server describes it in another way.
        """
        errand = self._books.enter(name, entry, State.VERIFY, self._steady())
        errand.carried = True
        if entry.sha256 is None:
            self._verify(errand)
        elif entry.sha256 == errand.sha256:
            self._books.move(errand, State.FETCHED)
        else:
            self._books.move(errand, State.GET)
            self._wants(errand)

    def again(self, name: bytes) -> bool:
        """
        On this connection the server says of *name* what it said before: go on where
        it was left.

        Returns:
            Whether anything was left.
        """
        errand = self._books.files.get(name)
        if errand is None:
            return False
        if errand.state is State.ASK:
            self._ask(errand)
        elif errand.state is State.GET:
            self._wants(errand)
        elif errand.state is State.VERIFY:
            self._verify(errand)
        return True

    def leave(self, name: bytes, entry: RemoteEntry) -> None:
        """
        The server describes *name*, and is known to refuse its content.
        """
        errand = self._books.files.get(name)
        if errand is None:
            errand = self._books.enter(name, entry, State.GET, self._steady())
        if errand.state is not State.LEFT:
            self._leave(errand)

    def _leave(self, errand: Errand) -> None:
        self._books.move(errand, State.LEFT)
        self._books.want(errand.name, 0)
        self._look()

    def forget(self, name: bytes) -> None:
        """
        The server has no such file any more, or none that the network is needed for.
        """
        if self._books.drop(name):
            self._look()

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
        self._refusals.begin()
        self._doubted = Doubted(partial(self._get_doubted, asking))
        self._queue.clear()
        self._bytes_out = self._grouped = 0
        self._questions.attach(asking)
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
        self._questions.attach(None)
        self._done = None
        self._lane.let_go()
        if asking is None:
            return
        if asking.trouble is not None:
            error = asking.trouble
        # What came whole is on its way to disk, and only has to be verified.
        unfinished = [each for each in self._coming.values() if not each.complete]
        files, careful = self._books.files, self._careful
        suspects = suspects_of(files, unfinished, asking.passed, careful, error)
        for errand in unfinished:
            del self._coming[errand.name]
            errand.pieces.clear()
            self._books.move(errand, State.GET)
        for errand in self._books.files.values():
            errand.carried = True
        for errand in suspects:
            self._blame(errand, error)

    def _blame(self, errand: Errand, error: Exception | None) -> None:
        blame(errand, error, self._request.limits.attempts, self._path(errand))

    def fail(self, failure: Failure) -> None:
        """
        Something went wrong that ends the work on this connection: also a mistake
        of this program, or the run would wait for what never comes.
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
        if not self._books.open and not self.expecting:
            done, self._done = self._done, None
            done.callback(None)

    def _path(self, errand: Errand) -> bytes:
        return join(self._request.source, errand.name)

    # Does it differ?

    def _ask(self, errand: Errand) -> None:
        self._questions.compare(errand, self._path(errand), self._asked)

    def _asked(self, errand: Errand, differs: bool | None) -> None:
        if differs:
            self._books.move(errand, State.GET)
            self._guarded(self._wants, errand)
        else:
            state = State.LEFT if differs is None else State.SAME
            self._books.move(errand, state)
            self._look()

    # Give me that.

    def _wants(self, errand: Errand) -> None:
        self._books.want(errand.name, errand.entry.size)
        if self._request.dry_run:
            self._books.move(errand, State.WOULD)
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
            self._queue.push(errand)
            self._look()

    def _submit(self, asking: Asking) -> None:
        """
        Ask for the content of as many files as may be under way.
        """
        queue = self._queue
        if queue and not self._receiving.ready:
            self._receiving.make_ready(self._look, self.fail)
            return
        while self._careful is None and (first := queue.first()) is not None:
            level, size, errand = first
            out = len(self._coming)
            if out and (out >= MAX_GETS_OUT or self._bytes_out + size > MAX_BYTES_OUT):
                break
            if level > 1 and errand.entry.sha256 is None:
                if out or self._doubted or self._questions.open or self.expecting:
                    break
                queue.pop()
                self._take_care(errand, asking)
                break
            queue.pop()
            if errand.name in self._refusals.doubted:
                self._doubted.add(errand.name)
                continue
            if level == 1 and not self._grouped:
                self._check(asking)
            self._get(errand, asking)
            if level == 1:
                self._grouped += 1
                if self._grouped == GROUP or queue.level() != 1:
                    self._grouped = 0
                    self._check(asking)

    def _check(self, asking: Asking) -> None:
        if asking.can_check:
            asking.check()

    def _get_doubted(self, asking: Asking, name: bytes, *, alone: bool) -> None:
        errand = self._books.files.get(name)
        if errand is None or errand.state is not State.GET:
            # It is another file by now, or needed no more.
            self._doubted.answered(name)
        elif self._asking is asking:
            self._get(errand, asking, alone=alone)

    def _get(self, errand: Errand, asking: Asking, *, alone: bool = False) -> None:
        self._books.move(errand, State.COMING)
        self._coming[errand.name] = errand
        errand.begin(asking.group)
        size = errand.entry.size
        if not size:
            # There is nothing to ask for; that it is empty is verified as ever.
            self._received(None, errand)
            return
        self._bytes_out += size
        if asking.ends_at_refused_content:
            self._refusals.asked(errand.name)
        take = partial(self._receiving.take, errand)
        asking.get(self._path(errand), size, take, alone=alone).addCallbacks(
            self._received,
            self._not_received,
            callbackArgs=(errand,),
            errbackArgs=(errand, asking),
        ).addErrback(self.fail)

    def _received(self, _none: object, errand: Errand) -> None:
        """
        As many bytes came as were announced.
        """
        self._bytes_out -= errand.entry.size
        self._answered(errand)
        self._receiving.finish(errand)
        self._look()

    def _answered(self, errand: Errand) -> None:
        self._refusals.answered(errand.name)
        self._doubted.answered(errand.name)

    def _not_received(self, failure: Failure, errand: Errand, asking: Asking) -> None:
        """
        A refusal can be told from content where that is encrypted, by the classic
        protocol; anything else ended the connection.
        """
        if not isinstance(failure.value, Refused):
            self._failed(failure, asking)
            return
        self._refusals.content(errand.name)
        if self._asking is not asking:
            return
        self._answered(errand)
        if self._coming.pop(errand.name, None) is errand:
            self._bytes_out -= errand.entry.size
            errand.take_pieces()
        if self._careful is errand:
            self._careful = None
        self._leave(errand)

    def _hashed(self, errand: Errand) -> None:
        """
        The digest of what came is known.
        """
        if self._coming.pop(errand.name, None) is errand:
            self._guarded(self._judge, errand)

    def _written(self, errand: Errand) -> None:
        """
        What came, and was hashed before, is where it has to be.
        """
        if errand.verified and errand.state is State.VERIFY:
            self._books.move(errand, State.FETCHED)
            self._look()

    def _judge(self, errand: Errand) -> None:
        expected = errand.entry.sha256
        if expected is not None:
            if errand.sha256 != expected:
                self._books.move(errand, State.GET)
                msg = (
                    f"{to_text(self._path(errand))}: the digest of what came is not"
                    " the one in the manifest"
                )
                raise ManifestContradicted(errand.name, msg)
            errand.confirmed = self._steady()
            self._books.move(errand, State.FETCHED)
            self._look()
            return
        self._books.move(errand, State.VERIFY)
        self._verify(errand)

    # Is it right?

    def _verify(self, errand: Errand) -> None:
        asking = self._asking
        if asking is None:
            return
        if asking.doubtful and not asking.can_check:
            if errand.entry.size > SMALL:
                self._start_afresh()
                return
            asking.offer(self._path(errand), errand.md5)
        self._questions.compare(errand, self._path(errand), self._verified)

    def _start_afresh(self) -> None:
        msg = "nothing is known to check the stream by"
        self.fail(Failure(FreshConnectionNeeded(msg)))  # type: ignore[no-untyped-call]

    def _verified(self, errand: Errand, differs: bool | None) -> None:
        if differs is None:
            self._wrong(errand, "it was given, and now it is refused")
        elif not differs:
            if self._careful is errand:
                self._careful = None
            errand.verified = True
            if errand.stored:
                self._books.move(errand, State.FETCHED)
            self._look()
        elif errand.carried:
            # It came over an earlier connection, and is wrong: no wonder.
            self._books.move(errand, State.GET)
            self._guarded(self._once_more, errand)
        else:
            self._wrong(errand, "its digest is another one than that of what came")

    def _once_more(self, errand: Errand) -> None:
        self._blame(errand, None)
        self._wants(errand)

    def _wrong(self, errand: Errand, why: str) -> None:
        """
        What came is not what is there now.
        """
        self._books.move(errand, State.GET)
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
        self._questions.describe(errand, self._path(errand), self._described)

    def _described(self, errand: Errand, entry: RemoteEntry | None) -> None:
        if entry is None:
            self._careful = None
            self._leave(errand)
        elif entry.kind is not Kind.FILE:
            msg = f"{to_text(self._path(errand))} was a file and is none any more"
            self.fail(Failure(ConnectionWrong("changed", msg)))  # type: ignore[no-untyped-call]
        else:
            errand.entry = entry
            errand.seen = self._steady()
            self._guarded(self._get_alone, errand)

    def _get_alone(self, errand: Errand) -> None:
        self._books.want(errand.name, errand.entry.size)
        if self._asking is not None:
            self._get(errand, self._asking)
