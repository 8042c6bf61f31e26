# SPDX-License-Identifier: MIT
"""
What a server has below a source: every folder of a level is asked at once.

A new folder costs two round trips a level, its listing and the status of its names. A
tree that is known from the run before costs one in all: everything that was there is
asked for at once, and an answer counts when the listings above it say that the name
is still there.

An answer that refuses a name deletes nothing: the name is listed, so it is there, and
what is here under it stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nodecomm.client.errors import BadAnswer, Refused
from nodecomm.sync.doubting import Doubted
from nodecomm.sync.errors import LimitExceeded, SourceRefused
from nodecomm.sync.excluding import Exclusion
from nodecomm.sync.model import UNKNOWN, Kind, RemoteEntry, RemoteTree, SyncRequest
from nodecomm.sync.notes import Notes
from nodecomm.sync.refusals import Refusals
from nodecomm.sync.siblings import is_own
from nodecomm.wire.replies import DIRECTORY, LINK, REGULAR, StatReply
from nodecomm.wire.text import to_text

if TYPE_CHECKING:
    from nodecomm.sync.asking import Asking

__all__ = ["MAX_PATH", "Found", "Walk", "join", "remote_entry", "walk"]

#: Bytes in a name on the server that can be asked for with certainty. The frame of a
#: request has room for some more; the real server's buffers for file functions do
#: not. Source: CFEngine 3.21, 4096 less what it keeps for itself, observed.
MAX_PATH = 3900

#: Bytes of all names, each with the folders above it, and of where links lead.
MAX_TEXT = 256 << 20

#: Told of each object as soon as it is described and confirmed.
Found = Callable[[bytes, RemoteEntry], None]

_KINDS = {REGULAR: Kind.FILE, DIRECTORY: Kind.FOLDER, LINK: Kind.LINK}


def walk(
    asking: Asking,
    request: SyncRequest,
    hints: Mapping[bytes, Kind] | None = None,
    found: Found | None = None,
    refusals: Refusals | None = None,
) -> Deferred[RemoteTree]:
    """
    Describe everything below the source of *request*.

    Args:
        asking: The connection.
        request: What is wanted.
        hints: What was there the last time.
        found: Told of each object of the tree, parents before children.
        refusals: What this run knows to be refused; more is noted there.

    Returns:
        The tree. Fails with `SourceRefused`, `LimitExceeded`, or what ended the
        connection.
    """
    known = Refusals() if refusals is None else refusals
    return Walk(asking, request, hints or {}, found, known).run()


def join(source: bytes, name: bytes) -> bytes:
    """
    What the server calls *name*.
    """
    if not name:
        return source
    return source + name if source.endswith(b"/") else source + b"/" + name


def remote_entry(reply: StatReply, *, followed: bool = False) -> RemoteEntry:
    """
    The object that a STAT described. What a server reports as a link is one, whatever
    it leads to.

    Args:
        reply: The description.
        followed: Whether what a link leads to is meant, if it leads anywhere.
    """
    leads = reply.kind != LINK
    is_link = not leads or (reply.link_mode and reply.target and not followed)
    # Beside the text of a link stands the owner of what it leads to.
    is_owned = not (is_link and leads)
    return RemoteEntry(
        Kind.LINK if is_link else _KINDS.get(reply.kind, Kind.OTHER),
        reply.mode & 0o7777,
        reply.uid if is_owned else UNKNOWN,
        reply.gid if is_owned else UNKNOWN,
        reply.size,
        reply.mtime,
        reply.ctime,
        reply.ino,
        reply.dev,
        reply.target,
    )


@define(eq=False)
class Walk:
    """
    One walk. Use `walk`.

    Attributes:
        entries: What was described and confirmed so far.
    """

    _asking: Asking
    _request: SyncRequest
    _hints: Mapping[bytes, Kind]
    _found: Found | None
    _refusals: Refusals
    entries: dict[bytes, RemoteEntry] = field(factory=dict, init=False)
    _source: bytes = field(init=False)
    _excluded: Exclusion = field(init=False)
    _notes: Notes = field(factory=Notes, init=False)
    _done: Deferred[RemoteTree] = field(init=False)
    # What was answered, and not used yet; what was asked is not asked again.
    _stats: dict[bytes, StatReply | Refused] = field(factory=dict, init=False)
    _listings: dict[bytes, list[bytes] | Refused] = field(factory=dict, init=False)
    _stats_asked: set[bytes] = field(factory=set, init=False)
    _listings_asked: set[bytes] = field(factory=set, init=False)
    _doubted: Doubted = field(init=False)
    # Names that the listings above them confirm and that have no entry yet; folders
    # that have an entry and no listing yet.
    _confirmed: set[bytes] = field(factory=set, init=False)
    _open: set[bytes] = field(factory=set, init=False)
    _ready: deque[bytes] = field(factory=deque, init=False)
    _present: set[bytes] = field(factory=set, init=False)
    _unsaid: list[bytes] = field(factory=list, init=False)
    # What was said so far, used or not: it may be for names that no listing confirms.
    _names: int = field(default=0, init=False)
    _text: int = field(default=0, init=False)
    _finished: bool = field(default=False, init=False)
    _advancing: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._source = self._request.source
        self._excluded = Exclusion(self._request.exclude)
        self._done = Deferred(self._cancelled)
        self._doubted = Doubted(self._send_listing)

    def run(self) -> Deferred[RemoteTree]:
        """
        Begin.
        """
        self._confirmed.add(b"")
        self._ask_stat(b"")
        ends = self._asking.ends_at_refusals
        guessing = self._refusals.guessing or not ends
        # A source that nothing is known of most often is a folder; that it is none
        # costs nothing, unless it costs the connection.
        unknown = None if ends else Kind.FOLDER
        if guessing and self._hints.get(b"", unknown) is Kind.FOLDER:
            self._ask_listing(b"")
        for name, kind in self._hints.items():
            if name and not self._is_left_alone(name, kind):
                self._ask_stat(name)
                if guessing and kind is Kind.FOLDER:
                    self._ask_listing(name)
            if self._finished:
                break
        return self._done

    def _is_left_alone(self, name: bytes, kind: Kind) -> bool:
        if not self._request.exclude:
            return False
        if self._excluded(name, kind is Kind.FOLDER):
            return True
        parent = name.rpartition(b"/")[0]
        return bool(parent) and self._is_left_alone(parent, Kind.FOLDER)

    # Asking.

    def _ask_stat(self, name: bytes) -> None:
        if name not in self._stats_asked:
            self._stats_asked.add(name)
            self._asking.stat(join(self._source, name)).addCallbacks(
                self._described,
                self._not_described,
                callbackArgs=(name,),
                errbackArgs=(name,),
            ).addErrback(self._fail)

    def _ask_listing(self, name: bytes) -> None:
        if name not in self._listings_asked:
            self._listings_asked.add(name)
            known = self._refusals.listings.get(name)
            if known is not None:
                self._listings[name] = known
            elif name in self._refusals.doubted:
                self._doubted.add(name)
            else:
                self._send_listing(name)

    def _send_listing(self, name: bytes, *, alone: bool = False) -> None:
        self._refusals.asked(name)
        # One name more than may be is enough to know.
        limit = self._request.limits.entries + 3
        path = join(self._source, name)
        self._asking.opendir(path, limit, alone=alone).addCallbacks(
            self._listed,
            self._not_listed,
            callbackArgs=(name,),
            errbackArgs=(name,),
        ).addErrback(self._fail)

    def _listing_answered(self, name: bytes) -> None:
        self._refusals.answered(name)
        if not self._finished:
            self._doubted.answered(name)

    def _described(self, reply: StatReply, name: bytes) -> None:
        self._stats[name] = reply
        self._weigh(0, len(reply.target))
        self._advance(name)

    def _listed(self, names: list[bytes], name: bytes) -> None:
        self._listing_answered(name)
        self._listings[name] = names
        above = len(name) + 1
        self._weigh(len(names), sum(map(len, names)) + above * len(names))
        self._advance(name)

    def _weigh(self, names: int, text: int) -> None:
        """
        Count what a server has said. What was asked for because it was there the last
        time can be said without ever being confirmed.
        """
        self._names += names
        self._text += text
        # A tree may have changed wholly since the last time.
        limit = 2 * self._request.limits.entries
        shown = to_text(self._source)
        if self._names > limit + 6:
            msg = f"the listings of {shown} have more than {limit} names"
        elif self._text > MAX_TEXT:
            msg = f"the names and links in {shown} have more than {MAX_TEXT} bytes"
        else:
            return
        self._fail(Failure(LimitExceeded("entries", msg)))  # type: ignore[no-untyped-call]

    def _not_described(self, failure: Failure, name: bytes) -> None:
        if isinstance(failure.value, Refused):
            self._stats[name] = failure.value
            self._advance(name)
        else:
            self._fail(failure)

    def _not_listed(self, failure: Failure, name: bytes) -> None:
        if isinstance(failure.value, Refused):
            self._listing_answered(name)
            if self._asking.ends_at_refusals:
                guessed = name not in self._open
                self._refusals.listing(name, failure.value, guessed=guessed)
            self._listings[name] = failure.value
            self._advance(name)
        else:
            self._fail(failure)

    # Deciding.

    def _advance(self, name: bytes) -> None:
        """
        Go on with *name*, and with all that follows from it.
        """
        self._ready.append(name)
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._ready and not self._finished:
                self._step(self._ready.popleft())
        except Exception:
            self._fail(Failure())  # type: ignore[no-untyped-call]
        finally:
            self._advancing = False
        if not self._finished and not self._confirmed and not self._open:
            self._finished = True
            self._done.callback(
                RemoteTree(
                    self.entries,
                    frozenset(self._present),
                    self._notes.lines(),
                    tuple(self._unsaid),
                )
            )

    def _step(self, name: bytes) -> None:
        if name in self._confirmed and name in self._stats:
            self._confirmed.discard(name)
            self._enter(name, self._stats.pop(name))
        if name in self._open and name in self._listings:
            self._open.discard(name)
            self._descend(name, self._listings.pop(name))

    def _enter(self, name: bytes, reply: StatReply | Refused) -> None:
        """
        *name* is there, and this is what it is.
        """
        if isinstance(reply, Refused):
            if not name:
                raise SourceRefused(reply.code, _source_refused(reply))
            self._unsaid.append(name)
            self._leave(name, f"not described: {reply}")
            return
        entry = remote_entry(reply, followed=not name)
        if not name and entry.kind not in (Kind.FILE, Kind.FOLDER):
            msg = f"{to_text(self._source)} is neither a folder nor a file"
            raise SourceRefused("not-copyable", msg)
        if entry.kind is Kind.FOLDER:
            if name and self._excluded(name, True):
                self._present.add(name)
                return
            if self._is_own_ancestor(name, entry):
                self._leave(name, "a folder that is one of those around it: a link up")
                return
            self._check_depth(name)
        elif entry.kind is Kind.OTHER:
            self._leave(name, "neither file nor folder nor link: not made here")
            return
        elif entry.kind is Kind.LINK and not entry.target:
            self._leave(name, "a link of which the server does not say where it leads")
            return
        self.entries[name] = entry
        if entry.kind is Kind.FOLDER:
            self._open.add(name)
            self._ask_listing(name)
            self._ready.append(name)
        if self._found is not None:
            self._found(name, entry)

    def _descend(self, folder: bytes, names: list[bytes] | Refused) -> None:
        """
        *folder* is in the tree, and these are its names.
        """
        if isinstance(names, Refused):
            if not folder:
                raise SourceRefused(names.code, _source_refused(names))
            del self.entries[folder]
            self._unsaid.append(folder)
            self._leave(folder, f"not listed: {names}")
            return
        prefix = folder + b"/" if folder else b""
        for last in dict.fromkeys(names):
            if b"/" in last or b"\0" in last or last in (b"", b".", b".."):
                msg = f"{to_text(last)} in the listing of {to_text(folder)} is no name"
                raise BadAnswer("bad-listing", msg)
            name = prefix + last
            if self._excluded(name, False):
                self._present.add(name)
            elif is_own(name):
                self._leave(name, "a name that this program uses itself")
            elif b"\n" in last:
                self._leave(name, "a name with a newline cannot be asked for")
            elif len(self._source) + len(name) >= MAX_PATH:
                self._leave(name, f"over {MAX_PATH} bytes with the source's name")
            else:
                self._confirmed.add(name)
                self._ask_stat(name)
                self._ready.append(name)
        known = len(self.entries) + len(self._present) + len(self._confirmed)
        if known - 1 > self._request.limits.entries:
            msg = (
                f"{to_text(self._source)} has more than"
                f" {self._request.limits.entries} objects"
            )
            raise LimitExceeded("entries", msg)

    def _leave(self, name: bytes, why: str) -> None:
        self._present.add(name)
        self._notes.add(f"{to_text(name)}: {why}")

    def _is_own_ancestor(self, name: bytes, entry: RemoteEntry) -> bool:
        while name:
            name = name.rpartition(b"/")[0]
            above = self.entries[name]
            if (above.dev, above.ino) == (entry.dev, entry.ino):
                return True
        return False

    def _check_depth(self, name: bytes) -> None:
        limit = self._request.limits.depth
        if name and name.count(b"/") >= limit:
            msg = (
                f"{to_text(self._source)} has more than {limit} folders inside each"
                f" other: {to_text(name)[:200]}"
            )
            raise LimitExceeded("depth", msg)

    # Ending.

    def _fail(self, failure: Failure) -> None:
        if not self._finished:
            self._finished = True
            self._done.errback(failure)

    def _cancelled(self, _done: Deferred[RemoteTree]) -> None:
        self._finished = True


def _source_refused(refused: Refused) -> str:
    if refused.code == "refused":
        return (
            f"{refused}: it is not there, or its access rules do not give it to this"
            " host's key and address; the server does not say which"
        )
    if refused.code == "clock":
        return f"{refused}: set this host's clock, or the server's"
    return str(refused)
