# SPDX-License-Identifier: MIT
"""
Whether a server trusts a peer's key, as far as its state folder and its configuration
tell: what is asked before any rule. Nothing is stored or counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from nodecomm.access.decision import Decision
from nodecomm.identity.accepted import INodeKeys, first_use_refused, judge_key
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.pins import PINS_NAME, PinnedDigests
from nodecomm.identity.store import FileKeyStore
from nodecomm.wire.text import safe

if TYPE_CHECKING:
    from nodecomm.identity.decisions import TrustDecision, TrustWindow
    from nodecomm.identity.matches import StoredKey
    from nodecomm.identity.peer import Peer

__all__ = ["NOT_LOOKED_AT", "ClientTrust"]

#: The reason where nothing is known about a key; the others are those of a server.
NOT_LOOKED_AT = "not_looked_at"


@frozen
class ClientTrust:
    """
    Whose keys a server trusts.

    Attributes:
        folder: The state folder.
        keys: The folder of keys in it.
        users: `trustusers`.
        windows: `trustkeysfrom`.
        nodes: What is known of nodes' keys; None: the server keeps no nodes.
    """

    folder: Path
    keys: Path
    users: Collection[str] = ()
    windows: Sequence[TrustWindow] = ()
    nodes: INodeKeys | None = None

    def judge(self, key: PublicKey, peer: Peer) -> Decision:
        """
        Whether *key* is trusted for *peer*. Of the key only its digests need be known.
        """
        of_node = self._of_node(key, judge_key)
        if of_node is not None:
            return of_node
        try:
            if not self.keys.is_dir():
                return _unseen(f"there is no folder {self.keys} here")
            entries = FileKeyStore(self.keys).entries()
            named = set(PinnedDigests(self.folder / PINS_NAME).digests())
        except OSError as error:
            where = os.fsdecode(error.filename or self.keys)
            return _unseen(f"{where}: {error.strerror or error}")
        except ValueError as error:
            return _unseen(str(error))
        stored = [entry for entry in entries if _is_of(entry, key, peer.address)]
        return self._decide(key, peer, stored, pinned=bool(named & set(key.digests)))

    def _of_node(
        self,
        key: PublicKey,
        judge: Callable[[INodeKeys, PublicKey], TrustDecision | None],
    ) -> Decision | None:
        """
        What decisions about nodes say; of a key that is none of theirs only the digests
        may be known.
        """
        if self.nodes is None or not isinstance(key, PublicKey):
            return None
        decided = judge(self.nodes, key)
        if decided is None:
            return None
        return _decided(decided.trusted, decided.code, decided.text)

    def _decide(
        self, key: PublicKey, peer: Peer, stored: Iterable[StoredKey], *, pinned: bool
    ) -> Decision:
        users = {entry.user: entry.name for entry in stored}
        name = users.get(peer.user)
        if name is not None:
            return _decided(True, "stored", f"key {key.md5} is stored as {name}")
        barred = self._of_node(key, first_use_refused)
        if barred is not None:
            return barred
        other = ", ".join(sorted(users)) or "nobody"
        known = f"key {key.md5} is stored for {other}" + (" only" if users else "")
        if peer.user not in self.users:
            return _decided(
                False,
                "user_not_trusted",
                f"{known}, and user {peer.user or '(no name)'} is not in trustusers:"
                " store it with `nodecomm key trust FILE --user NAME`",
            )
        if pinned:
            text = f"{known}, and its digest was named: it is trusted when it comes"
            return _decided(True, "first_use_pinned", text)
        now = time.time()
        for window in self.windows:
            if window.matches(peer.address) and not window.expired(now):
                left = "" if window.count is None else ", if a place in it is left"
                return _decided(
                    True,
                    "first_use",
                    f"{known}, and it is trusted when it comes: {peer.address} is in"
                    f" the window {window.text} of trustkeysfrom{left}",
                )
        return _decided(
            False,
            "unknown_key",
            f"{known}, and no window of trustkeysfrom is open for {peer.address}: store"
            " it with `nodecomm key trust FILE`",
        )


def _is_of(entry: StoredKey, key: PublicKey, address: str) -> bool:
    if not any(entry.key.matches(digest) for digest in key.digests):
        return False
    # A file that is named after an address counts for that alone.
    return "=" in entry.name or entry.name == f"{entry.user}-{address}.pub"


def _unseen(why: str) -> Decision:
    text = f"whether this key is trusted was not looked at: {why}"
    return _decided(True, NOT_LOOKED_AT, text)


def _decided(allowed: bool, code: str, text: str) -> Decision:
    return Decision(allowed, code, safe(text))
