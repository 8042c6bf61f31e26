# SPDX-License-Identifier: MIT
"""
One request of a peer, and the way from a name to an object that the peer may have.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define
from twisted.internet.defer import Deferred

from nodecomm.access.requests import AccessRequest
from nodecomm.server.filesystem import FileSystemSource, HeldFile
from nodecomm.wire.commands import split_word
from nodecomm.wire.manifest import NAMES
from nodecomm.wire.replies import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nodecomm.access.decision import Decision
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.peer import Peer
    from nodecomm.interfaces import IAccessEvaluator, IFileSource, IHeldObject
    from nodecomm.server.execution.orders import IRunner
    from nodecomm.server.filesystem import Link
    from nodecomm.server.inodes import InodeNumbers
    from nodecomm.server.manifest import Manifests
    from nodecomm.wire.cipher import SessionCipher

    #: What collects the transactions that belong to a request: up to which, and
    #: whether there may be some with nothing in them.
    Further = Callable[
        ["Request", Callable[[bytes], bool], bool], Deferred[list[bytes]]
    ]

__all__ = ["Announced", "Refused", "Request", "Serving", "Undecidable"]


#: What the names of manifests end with.
_MANIFEST = tuple(b"/" + name for name in NAMES)


class Refused(Exception):  # noqa: N818
    """
    The peer may not have this, or there is no such thing. It is told neither.

    Attributes:
        code: A stable word for the log.
        text: The reason, for the operator.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text


class Undecidable(Exception):  # noqa: N818
    """
    Whether the peer may have this cannot be said now; the connection is closed, so
    that a purging agent keeps its copy.
    """


@define(eq=False)
class Serving:
    """
    What all sessions of a server share.

    Attributes:
        evaluator: Decides, on its current snapshot.
        files: The source of everything that no plugin serves.
        sources: The plugins' sources by name.
        inodes: Gives the numbers for STAT replies.
        now: Civil time in seconds since the epoch.
        deny_bad_clocks: Whether a STAT from a node whose clock is more than
            `MAX_CLOCK_DIFFERENCE` away is refused.
        manifests: The manifests of folders; None: there are none.
        execution: Runs what peers may have run; None: nothing is run here.
    """

    evaluator: IAccessEvaluator
    files: IFileSource
    sources: Mapping[str, IFileSource]
    inodes: InodeNumbers
    now: Callable[[], float]
    deny_bad_clocks: bool = True
    manifests: Manifests | None = None
    execution: IRunner | None = None


class Announced(Protocol):
    """
    The sizes that a connection has told its peer.
    """

    def announce(self, name: bytes, told: tuple[int, int] | None) -> None:
        """The peer was told that *name* has so many bytes; with them goes the inode
        number of the file they are of. None: that it is no plain file, or may not
        be had."""
        ...

    def announced(self, name: bytes) -> tuple[int, int] | None:
        """What the peer was last told; None when it was told nothing."""
        ...


@define(eq=False)
class Request:
    """
    One request.

    Attributes:
        payload: The whole transaction.
        peer: Who asks.
        snapshot: The access rules that this request is decided by.
        serving: What the server's sessions share.
        sizes: The sizes that this connection was told.
        name: The requested name, once the command has parsed it.
        decision: What the evaluator said, once it was asked.
        started: Monotonic seconds.
        further: The session's side of `collect`.
        sent: Bytes of the answer so far.
        encrypted: Whether the request counts as encrypted, where that differs from
            request to request; None: as the connection.
        seal: What encrypts the answer; None: it leaves as it is.
    """

    payload: bytes
    peer: Peer
    snapshot: Snapshot
    serving: Serving
    sizes: Announced
    started: float
    further: Further | None = None
    name: bytes = b""
    decision: Decision | None = None
    held: IHeldObject | None = None
    sent: int = 0
    encrypted: bool | None = None
    seal: SessionCipher | None = None

    @property
    def word(self) -> bytes:
        """The command word."""
        return split_word(self.payload)[0]

    @property
    def version(self) -> int:
        """The protocol version in force."""
        return self.peer.protocol

    def collect(
        self, last: Callable[[bytes], bool], *, empty: bool = False
    ) -> Deferred[list[bytes]]:
        """
        The transactions after this one, which belong to this request and are no
        requests: up to the one of which *last* says that it is the last, that one
        included. Whatever comes then waits until this request is answered. More than
        1000 transactions, or 65,536 bytes, end the connection; so does a peer that
        does not send them within the limit for idle connections.

        Args:
            last: Whether a payload is the last one.
            empty: Whether one with nothing in it is a transaction, too; else it ends
                the connection, as elsewhere.

        Returns:
            The payloads; fails with `ConnectionError` when they will not come.

        Raises:
            RuntimeError: This is asked a second time, or when the command's `answer`
                has returned already.
        """
        further, self.further = self.further, None
        if further is None:
            raise RuntimeError("the request came alone, or all of it was asked for")
        return further(self, last, empty)

    def hold(self, operation: str, name: bytes, *, links: bool = False) -> Any:
        """
        The object called *name*, held, if the peer may do *operation* with it; or a
        Deferred of it, where its source takes time. The request owns the object:
        `release` lets go of it.

        Args:
            operation: What the access rules are asked for.
            name: The name as requested.
            links: Whether the object is to know of the link by which it was found
                (`HeldFile.link`), if the peer may know of that, too.

        Raises:
            Refused: It may not, or there is no such object.
            Undecidable: A host name is needed that could not be looked up.
        """
        self.name = name
        full = name
        if not name.startswith(b"/"):
            expanded = self.snapshot.expand_shortcut(self.peer, name)
            if expanded is None:
                raise Refused(
                    "no_shortcut",
                    "the name is not absolute and does not begin with a shortcut",
                )
            full = expanded
        try:
            found: Any
            if self.snapshot.mounts:
                found = self._mounted(full, links)
            elif links:
                found = self._resolve_with_link(full)
            else:
                found = self.serving.files.resolve(self.peer, full)
        except FileNotFoundError as error:
            if full.endswith(_MANIFEST) and operation != "opendir":
                return self._manifest(operation, full)
            raise Refused("absent", _absent(error)) from error
        if full.endswith(_MANIFEST) and self.serving.manifests is not None:
            self.serving.manifests.shadowed(full)
        # The usual case first: the test for a Deferred, an abstract class, is slow.
        if type(found) is not HeldFile and isinstance(found, Deferred):
            found.addErrback(_not_found)
            return found.addCallback(lambda held: self._decide(held, operation))
        return self._decide(found, operation)

    @property
    def full_name(self) -> bytes:
        """
        The name that `hold` was asked for, its shortcut expanded and not resolved.

        Raises:
            HostnameNeededError: It depends on the peer's name, which is not known.
        """
        if self.name.startswith(b"/"):
            return self.name
        return self.snapshot.expand_shortcut(self.peer, self.name) or self.name

    def _manifest(self, operation: str, full: bytes) -> Any:
        """
        As `hold`, for the manifest called *full*: there is no real object of the name.
        """
        manifests = self.serving.manifests
        try:
            if manifests is None:
                raise FileNotFoundError("no manifests here")
            found = manifests.hold(operation, self, full)
        except FileNotFoundError as error:
            raise Refused("absent", _absent(error)) from error
        if isinstance(found, Deferred):
            return found.addCallback(self._own)
        return self._own(found)

    def _own(self, held: IHeldObject) -> IHeldObject:
        self.held = held
        return held

    def _resolve_with_link(self, full: bytes) -> Any:
        """
        Ask the file system for an object and the link that leads to it.
        """
        files = self.serving.files
        if not isinstance(files, FileSystemSource):
            return files.resolve(self.peer, full)
        held = files.resolve_with_link(self.peer, full)
        if held.link is not None and not self._may_know(held.link):
            held.link = None
        return held

    def _may_know(self, link: Link) -> bool:
        """
        Whether the rules for the place of *link* itself let the peer look there.

        Raises:
            Undecidable: A host name is needed that could not be looked up.
        """
        status = link.status
        decision = self.serving.evaluator.evaluate(
            self.snapshot,
            self.peer,
            AccessRequest(
                "stat",
                link.path,
                owner=status.uid,
                mode=status.mode,
                encrypted=self.encrypted,
            ),
        )
        if decision.undecidable:
            raise Undecidable(decision.text)
        return decision.allowed

    def _mounted(self, full: bytes, links: bool) -> Any:
        """
        Ask the source that a rule binds to the longest parent of *full*.
        """
        path = posixpath.normpath(full) if full.startswith(b"/") else full
        mounts = self.snapshot.mounts
        parent = path
        while parent not in mounts:
            if parent in (b"/", b"//", b""):
                if links:
                    return self._resolve_with_link(full)
                return self.serving.files.resolve(self.peer, full)
            parent = posixpath.dirname(parent)
        source = self.serving.sources[mounts[parent]]
        found = source.resolve(self.peer, path[len(parent) :].lstrip(b"/"))
        if isinstance(found, Deferred):
            return found.addCallback(_below, parent)
        return _below(found, parent)

    def _decide(self, held: IHeldObject, operation: str) -> IHeldObject:
        self.held = held
        try:
            status = held.stat()
            decision = self.serving.evaluator.evaluate(
                self.snapshot,
                self.peer,
                AccessRequest(
                    operation,
                    held.path,
                    status.kind == DIRECTORY,
                    status.uid,
                    status.mode,
                    self.encrypted,
                ),
            )
            self.decision = decision
            if not decision.allowed:
                if decision.undecidable:
                    raise Undecidable(decision.text)
                raise Refused(decision.reason, decision.text)
        except BaseException:
            self.release()
            raise
        return held

    def release(self) -> None:
        """
        Let go of the held object.
        """
        held = self.held
        if held is not None:
            self.held = None
            held.close()

    def detach(self) -> IHeldObject:
        """
        The held object, which is the caller's to close from now on.
        """
        held, self.held = self.held, None
        if held is None:
            raise RuntimeError("the request holds nothing")
        return held


def _below(held: Any, parent: bytes) -> Any:
    """
    *held* with an absolute path.
    """
    if not held.path.startswith(b"/"):
        held.path = (parent.rstrip(b"/") + b"/" + held.path).rstrip(b"/")
    return held


def _not_found(failure: Any) -> None:
    failure.trap(FileNotFoundError)
    raise Refused("absent", _absent(failure.value)) from failure.value


def _absent(error: FileNotFoundError) -> str:
    return f"there is no such object ({error.strerror or error})"
