# SPDX-License-Identifier: MIT
"""
The keys of servers, and whether a server that shows a key is the one that is meant.

They are kept apart from the keys in `ppkeys`: whoever is trusted as a client is not
thereby a server, nor the reverse. A key belongs to one server as it is configured,
name and port, and is compared whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import frozen

from nodecomm.identity.keys import PublicKey, UnusableKey, check_sane, parse_digest
from nodecomm.identity.server_keys import (
    SERVER_KEYS_FOLDER,
    ServerKeyStore,
    ServerKeysUnreadable,
    StoredServer,
)
from nodecomm.wire.text import safe

__all__ = [
    "SERVER_CODES",
    "SERVER_KEYS_FOLDER",
    "ServerDecision",
    "ServerKeyStore",
    "ServerKeysUnreadable",
    "ServerTrust",
    "StoredServer",
    "accept_command",
    "few",
]

#: Servers that a text names; a key may be that of hundreds, where machines are copied.
_NAMED = 3

#: Every code that a decision about a server can have.
SERVER_CODES = {
    # Trusted:
    "stored": "this key is stored for this server",
    "pinned": "this key was named beforehand",
    "first-use": "none was known; saved on first use, as was asked for",
    # Refused:
    "key-unusable": "no RSA key, or one that could share its digest with another",
    "key-changed": "another key is known for this server",
    "key-unknown": "no key is known for this server",
    "store-unusable": "what is stored for this server cannot be read or written",
}


@frozen
class ServerDecision:
    """
    Whether a server is the one that is meant.

    Attributes:
        trusted: The decision.
        code: One of `SERVER_CODES`.
        text: The reason in words, and what the operator can do.
        known: The keys that are stored for this server.
        first_use: Whether the key was saved just now because none was known.
    """

    trusted: bool
    code: str
    text: str
    known: tuple[PublicKey, ...] = ()
    first_use: bool = False

    def __bool__(self) -> bool:
        return self.trusted


def accept_command(server: str, *, classic: bool) -> str:
    """
    What to type to know *server* by a new key, when it is spoken with as *classic*
    says: whoever speaks only the classic protocol cannot be asked otherwise.
    """
    protocol = " --protocol classic" if classic else ""
    return f"nodecomm server-key accept {safe(server)}{protocol}"


def few(names: Sequence[str]) -> str:
    """
    The first of *names*, and how many more there are.
    """
    left = len(names) - _NAMED
    named = ", ".join(names[:_NAMED])
    return f"{named} and {left} more" if left > 0 else named


class ServerTrust:
    """
    Decides whether a server is the one that is meant.

    Args:
        store: The stored keys.
        pinned: Keys named beforehand, whole or by a printed digest. If there are any,
            only these are good, whatever is stored; one that is shown is stored, and
            what was stored and is not among them is forgotten then.
        first_use: Whether the key of a server that none is known of is stored and
            trusted.
        run: How to call what waits for the disk; takes a function without arguments
            and returns its result or a Deferred of it. By default it is called at
            once.
        classic: Whether the servers are spoken with in the classic protocol; texts
            that say what to type say so, too.

    Raises:
        ValueError: A digest is none.
    """

    def __init__(
        self,
        store: ServerKeyStore,
        *,
        pinned: Sequence[str | PublicKey] = (),
        first_use: bool = False,
        run: Callable[[Callable[[], ServerDecision]], Any] | None = None,
        classic: bool = False,
    ) -> None:
        self.store = store
        self.classic = classic
        self.pinned = tuple(
            one if isinstance(one, PublicKey) else parse_digest(one) for one in pinned
        )
        self.first_use = first_use
        self._run = run

    def check(self, server: str, key: PublicKey | None) -> Any:
        """
        Whether *server* may show *key*; a `ServerDecision`, or a Deferred of it where
        something has to be stored and there is a `run`. When it says yes, what had
        to be stored is on disk.

        Args:
            server: Name and port, as `str(ServerAddress)` writes them.
            key: What it proved to hold; None if it is no RSA key.
        """
        if key is None:
            text = f"{safe(server)} shows a key that is not an RSA key"
            return ServerDecision(False, "key-unusable", text)
        try:
            check_sane(key)
        except UnusableKey as error:
            text = (
                f"{safe(server)} shows the key {key.md5}, which is refused: {error}. "
                "Such a key can be made to share its digest with another one"
            )
            return ServerDecision(False, "key-unusable", text)
        try:
            known = self.store.keys(server)
        except (OSError, ServerKeysUnreadable) as error:
            return self._store_unusable(server, error)
        same = [k for k in known if k != key and set(k.digests) & set(key.digests)]
        if self.pinned:
            if key in self.pinned or (self._pinned(key) and not same):
                text = f"the key {key.md5} of {safe(server)} was named beforehand"
                decision = ServerDecision(True, "pinned", text, known)
                if key in known:
                    return decision
                return self._call(partial(self._save_pinned, server, key, decision))
            if not same:
                return self._not_pinned(server, key, known)
        elif key in known:
            text = f"the key {key.md5} is stored for {safe(server)}"
            return ServerDecision(True, "stored", text, known)
        if known:
            return self._changed(server, key, known, conflict=bool(same))
        if self.first_use:
            return self._call(partial(self._save_first, server, key))
        return self._unknown(server, key)

    def candidates(self, server: str) -> tuple[PublicKey, ...]:
        """
        The keys that *server* may show, as far as they are known whole: those named
        beforehand, then those that are stored and that no pin forbids, the newest
        first. A store that cannot be read gives none; `check` says so.

        Args:
            server: As for `check`.
        """
        found = [one for one in self.pinned if isinstance(one, PublicKey)]
        try:
            stored = self.store.keys(server)
        except (OSError, ServerKeysUnreadable):
            stored = ()
        found += [
            key for key in reversed(stored) if not self.pinned or self._pinned(key)
        ]
        return tuple(dict.fromkeys(found))

    def _pinned(self, key: PublicKey) -> bool:
        return any(
            key == one if isinstance(one, PublicKey) else key.matches(one)
            for one in self.pinned
        )

    def _call(self, work: Callable[[], ServerDecision]) -> Any:
        return work() if self._run is None else self._run(work)

    def _save_first(self, server: str, key: PublicKey) -> ServerDecision:
        try:
            known = self.store.add_first(server, key)
        except (OSError, ServerKeysUnreadable) as error:
            return self._store_unusable(server, error)
        if key not in known:
            # Another program met the server a moment ago, and it was another one.
            return self._changed(server, key, known, conflict=False)
        text = f"the key {key.md5} of {safe(server)} is stored on first use"
        return ServerDecision(True, "first-use", text, known, first_use=True)

    def _save_pinned(
        self, server: str, key: PublicKey, decision: ServerDecision
    ) -> ServerDecision:
        try:
            self.store.keep_only(server, key, self._pinned)
        except (OSError, ServerKeysUnreadable) as error:
            return self._store_unusable(server, error)
        return decision

    def _store_unusable(self, server: str, error: Exception) -> ServerDecision:
        what = str(error)
        if isinstance(error, OSError):
            path = error.filename or self.store.path(server)
            what = f"{os.fsdecode(path)}: {error.strerror or error}"
        text = f"the key of {safe(server)} cannot be checked: {safe(what)}"
        return ServerDecision(False, "store-unusable", text)

    def _not_pinned(
        self, server: str, key: PublicKey, known: tuple[PublicKey, ...]
    ) -> ServerDecision:
        names = ", ".join(
            one.md5 if isinstance(one, PublicKey) else one for one in self.pinned
        )
        text = (
            f"{safe(server)} shows the key {key.md5}, but only {names} may be its key"
            f"{self._elsewhere(server, key)}. If its key was really changed, name the "
            "new one (--server-key, or server_keys in the configuration of an agent)"
        )
        return ServerDecision(False, "key-changed", text, known)

    def _changed(
        self,
        server: str,
        key: PublicKey,
        known: tuple[PublicKey, ...],
        *,
        conflict: bool,
    ) -> ServerDecision:
        names = ", ".join(one.md5 for one in known)
        if conflict:
            text = (
                f"KEY CONFLICT: {safe(server)} shows another key than the stored one, "
                f"with the same digest {key.md5} ({key.bits} bits). Two usable keys "
                "never share a digest by accident: somebody made one of them to look "
                "like the other. Nothing was sent"
            )
            return ServerDecision(False, "key-changed", text, known)
        text = (
            f"THE KEY OF {safe(server)} HAS CHANGED: it shows {key.md5}, and {names} "
            f"is stored for it{self._elsewhere(server, key)}. Either the server got a "
            "new key, or somebody stands between. Compare with `cf-key -p` or "
            "`nodecomm key show` on the server itself; if it really changed: "
            f"`{accept_command(server, classic=self.classic)}`"
        )
        return ServerDecision(False, "key-changed", text, known)

    def _unknown(self, server: str, key: PublicKey) -> ServerDecision:
        text = (
            f"no key is known for {safe(server)}, which shows {key.md5}"
            f"{self._elsewhere(server, key)}. Compare that with `cf-key -p` or "
            f"`nodecomm key show` on the server, then give --server-key {key.md5}, or "
            f"`{accept_command(server, classic=self.classic)}`; --trust-server trusts "
            "the first key that comes"
        )
        return ServerDecision(False, "key-unknown", text)

    def _elsewhere(self, server: str, key: PublicKey) -> str:
        try:
            others = self.store.others(key, server)
        except OSError:
            return ""
        if not others:
            return ""
        return f" (that is the key of {safe(few(others))})"
