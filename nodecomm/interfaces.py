# SPDX-License-Identifier: MIT
"""
The interfaces that embedders build on.

A method may return its value or a Deferred of it, unless its docstring says
*synchronous*. Each interface has a real implementation, an in-memory one in
`nodecomm.testing`, and one set of tests that both pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from twisted.internet.defer import Deferred

    from nodecomm.access.decision import Decision
    from nodecomm.access.requests import AccessRequest
    from nodecomm.access.snapshot import Snapshot
    from nodecomm.identity.keys import PublicKey
    from nodecomm.identity.peer import Peer
    from nodecomm.identity.store import KeyMatch, StoredKey
    from nodecomm.inventory.lifecycle import Decision as NodeDecision
    from nodecomm.inventory.nodes import (
        Event,
        KeptDocument,
        Node,
        NodeNews,
        NodesAt,
        Status,
    )
    from nodecomm.inventory.records import Received
    from nodecomm.server.held import FileStatus
    from nodecomm.server.replies import Reply
    from nodecomm.server.requests import Request

#: The version of the plugin interfaces below. A plugin declares the one it was
#: written for in its `api` attribute; another number is a configuration error.
API = 1


class IKeyStore(Interface):
    """
    The public keys that are trusted, each under a user name.
    """

    def known(key: PublicKey) -> KeyMatch | Deferred[KeyMatch]:
        """
        What the store holds for this key: the user names it is stored under, and
        whether a *different* key with the same digest is stored under any name.

        Raises:
            InsaneKey: The key is outside the bounds of `check_sane`, where another
                key with a stored key's digest can be built. So in `lookup` and `add`.
        """

    def lookup(
        user: str, key: PublicKey, address: str
    ) -> KeyMatch | Deferred[KeyMatch]:
        """
        As `known`, for one user name. A key stored in the old style under the
        peer's address is compared first and renamed only when it is equal.
        """

    def add(user: str, key: PublicKey) -> str | Deferred[str]:
        """
        Store *key* under *user* and return the entry's name. Storing the same key
        again changes nothing.

        Raises:
            KeyConflict: A different key with this digest is stored.
        """

    def remove(name: str) -> Sequence[str] | Deferred[Sequence[str]]:
        """
        Remove the entries that *name* (an entry's name, a digest) stands for and
        return their names.
        """

    def entries() -> Sequence[StoredKey] | Deferred[Sequence[StoredKey]]:
        """
        Everything stored, in name order.
        """


class INodeRegistry(Interface):
    """
    The nodes that have sent inventories, and what operators have decided about them.
    Ids of nodes are the same in any case of letters.
    """

    def receive(
        document: bytes,
        signature: bytes | None,
        *,
        when: datetime | None = None,
        accept_as: str | None = None,
    ) -> Received | Deferred[Received]:
        """
        Read and judge a document (not compressed) with the content of its signature's
        file, and keep what follows, durably. A refused document is no error: the
        result says why. *when* is the time at which it had come, if not now: its age
        counts from then. With *accept_as* a node that is pending then is accepted in
        that name, if it can be.
        """

    def decide(decision: NodeDecision, by: str) -> Node | Deferred[Node]:
        """
        Put an operator's decision in force, durably, and return the node.

        Raises:
            NotPossible: It cannot be. Nothing has changed.
        """

    def node(node_id: str) -> Node | Deferred[Node | None] | None:
        """
        The node with this id.
        """

    def nodes(*statuses: Status) -> NodesAt | Deferred[NodesAt]:
        """
        The nodes with one of these statuses, or all, as they are at one moment.
        """

    def document(node_id: str) -> KeptDocument | Deferred[KeptDocument | None] | None:
        """
        The newest document of a node.
        """

    def history(node_id: str) -> Sequence[Event] | Deferred[Sequence[Event]]:
        """
        What happened to a node, the oldest first.
        """

    def purge(before: datetime) -> Sequence[str] | Deferred[Sequence[str]]:
        """
        Forget the history and the documents of nodes that were deleted or refused
        before that moment, and return their ids. What decides about their next
        inventories stays.
        """

    def generation() -> int | Deferred[int]:
        """
        A number that grows whenever what follows from any node for its connections
        changes, in whichever process that shares the nodes.
        """

    def news(generation: int, number: int) -> NodeNews | Deferred[NodeNews]:
        """
        What has changed after that generation (negative: all there is), and the keys
        that were withdrawn after the one with that number.
        """


class IAccessEvaluator(Interface):
    """
    Who may have what. Synchronous: it works on an immutable snapshot.
    """

    snapshot: Snapshot = Attribute(
        "The snapshot in force. A session takes it once per request."
    )

    def evaluate(snapshot: Snapshot, peer: Peer, request: AccessRequest) -> Decision:
        """
        Decide. Never raises for any peer or request, never blocks.
        """


class IHeldObject(Interface):
    """
    An object of a source, held open: nothing is looked up by name again, so what
    was checked is what is served.
    """

    path: bytes = Attribute(
        "The resolved absolute name that access rules are applied to, without a "
        "final slash."
    )

    def stat() -> FileStatus:
        """
        Type, mode, owner, size and times. Synchronous.
        """

    def entries() -> Sequence[bytes] | Deferred[Sequence[bytes]]:
        """
        The names in a folder, `.` and `..` included.

        Raises:
            NotADirectoryError: This is no folder.
        """

    def read(offset: int, size: int) -> bytes | Deferred[bytes]:
        """
        At most *size* bytes from *offset*; empty at the end of the file.
        """

    def digest(algorithm: str) -> bytes | Deferred[bytes]:
        """
        The digest of the whole content; *algorithm* is `md5` or `sha256`.
        """

    def unchanged(size: int) -> bool:
        """
        Whether the first *size* bytes are still those of the time the object was
        held; asked before the last of them are sent. Synchronous.
        """

    def close() -> None:
        """
        Let go of the object. May be called more than once. Synchronous.
        """


class IFileSource(Interface):
    """
    Where served objects come from: a file system, or generated content.
    """

    api: int = Attribute("1")
    name: str = Attribute('What `source = "..."` in an access rule calls it.')

    def resolve(peer: Peer, name: bytes) -> Any:
        """
        Hold the object called *name* and return it (an `IHeldObject`), or a
        Deferred of it. For a source bound to an access rule *name* is relative to
        the rule's path, without a leading slash; empty for the path itself. The
        held object's `path` is then absolute all the same: the rule's path is
        put before it by the server where it is relative.

        Raises:
            FileNotFoundError: There is no such object. This is answered with the
                protocol's refusal; every other exception closes the connection.
        """


class ICommand(Interface):
    """
    One command of the wire protocol.
    """

    api: int = Attribute("1")
    name: str = Attribute("What `[plugins] commands = [...]` calls it.")
    words: tuple[bytes, ...] = Attribute("The command words it answers.")
    versions: frozenset[int] = Attribute(
        "The protocol versions it exists in: 2 and 3 over TLS, 1 the classic one. There"
        " the encrypted form of a word is unwrapped before and the answer encrypted"
        " after; `request.encrypted` tells."
    )

    def answer(request: Request) -> Reply | Deferred[Reply]:
        """
        Answer one request. Replies leave in the order of the requests, whatever
        finishes first. `request.collect` gives the transactions behind it, for
        requests of several; `nodecomm.server.replies.Live` is a reply that is made
        over time.

        Raises:
            RemoteProtocolError: The request is malformed. It is answered with the
                protocol error and the connection is closed.
            Exception: Anything else closes the connection without an answer.
        """
