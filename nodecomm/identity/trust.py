# SPDX-License-Identifier: MIT
"""
Whose key is trusted, and why: decisions as values.

The key of an accepted node is trusted under any user name, that of a refused or
blocked one under none. A stored key is trusted under the user name it is stored under.
An unknown key may be trusted on first use, once, if the operator named its digest
beforehand or a window of `trustkeysfrom` is open for the peer's address. Everything
else is refused with a code for programs and a text that says what the operator can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from attrs import evolve
from zope.interface import implementer

from nodecomm.identity.accepted import INodeKeys, first_use_refused, hint, judge_key
from nodecomm.identity.decisions import (
    CODES,
    TrustDecision,
    TrustWindow,
    WindowState,
)
from nodecomm.identity.interfaces import ISeen, IWindowCounter
from nodecomm.identity.keys import InsaneKey, PublicKey, check_sane
from nodecomm.identity.matches import KeyConflict, KeyMatch
from nodecomm.identity.users import UntrustedUser, check_user, valid_user

__all__ = [
    "CODES",
    "ISeen",
    "IWindowCounter",
    "MemoryCounter",
    "TrustDecision",
    "TrustPolicy",
    "TrustWindow",
    "UntrustedUser",
    "WindowState",
    "refuse_unusable",
    "valid_user",
]


@implementer(IWindowCounter)
class MemoryCounter:
    """
    An `IWindowCounter` that forgets when the process ends; for tests, and for
    programs whose windows have no count.
    """

    def __init__(self) -> None:
        self._taken: dict[str, set[str]] = {}

    def take(self, window_id: str, limit: int, token: str) -> bool:
        """
        Take a place.
        """
        if not self.has_room(window_id, limit, token):
            return False
        self._taken.setdefault(window_id, set()).add(token)
        return True

    def has_room(self, window_id: str, limit: int, token: str) -> bool:
        """
        Whether `take` would succeed.
        """
        taken = self._taken.get(window_id, set())
        return token in taken or len(taken) < limit

    def used(self, window_id: str) -> int:
        """
        How many places are taken.
        """
        return len(self._taken.get(window_id, ()))


class TrustPolicy:
    """
    Decides about keys.

    Its methods return a decision, or a Deferred of one where the store, the counter
    or the table of sightings answers with a Deferred. For a stored key in a
    `FileKeyStore` the decision is there at once. A failure of any of them goes to
    the caller: close the connection, trust nobody.

    Args:
        store: The stored keys, an `IKeyStore`.
        windows: `trustkeysfrom`.
        users: `trustusers`: the user names accepted on first use.
        counter: An `IWindowCounter`.
        now: Civil time, in seconds since 1970.
        pins: Digests named beforehand: whatever has `contains(key)`.
        seen: An `ISeen`, to tell a changed key.
        nodes: Whose keys are those of nodes; None: nobody's.
    """

    def __init__(
        self,
        store: Any,
        windows: Iterable[TrustWindow],
        users: Collection[str],
        counter: Any,
        now: Callable[[], float] = time.time,
        *,
        pins: Any = None,
        seen: Any = None,
        nodes: INodeKeys | None = None,
    ) -> None:
        self.store = store
        self.nodes = nodes
        self.windows = tuple(windows)
        self.users = frozenset(users)
        self._counter = counter
        self._now = now
        self._pins = pins
        self._seen = seen

    def check_key(self, key: PublicKey | None, address: str) -> Any:
        """
        Right after the handshake, before any line is read: may this key's holder
        say who he is? Saves nothing.

        Args:
            key: The peer's key; None if it is not an RSA key.
            address: Where it comes from.
        """
        refused = refuse_unusable(key)
        if refused is not None or key is None:
            return refused
        of_node = self._of_node(key)
        if of_node is not None:
            return of_node

        def judge(match: KeyMatch) -> Any:
            if match.state == "conflict":
                return _conflict(key, match.conflict)
            if match.state == "equal":
                names = ", ".join(match.names)
                text = f"key {key.md5} is stored as {names}"
                return TrustDecision(True, "stored_key", text, stored_name=names)
            barred = self._barred(key)
            if barred is not None:
                return barred
            if self._pinned(key):
                text = f"the digest of the unknown key {key.md5} was named beforehand"
                return TrustDecision(True, "pinned", text)

            def found(window: TrustWindow | None) -> Any:
                if window is None:
                    return self._refuse_unknown(key, address, match)
                text = f"unknown key {key.md5}, but {window.text} is open for {address}"
                return TrustDecision(True, "in_window", text, window=window)

            return _then(self._through_window(key, address, take=False), found)

        return _then(self.store.known(key), judge)

    def check_identity(
        self, key: PublicKey | None, user: str, address: str, *, save: bool = True
    ) -> Any:
        """
        After the identity line: is this key trusted under this user name? May save
        it, on first use.

        Args:
            key: The peer's key; None if it is not an RSA key.
            user: The user name it claims, see `valid_user`.
            address: Where it comes from.
            save: False: the peer has yet to show that the key is its own. The same is
                decided, but nothing saved and no place in a window taken.
        """
        refused = refuse_unusable(key)
        if refused is not None or key is None:
            return refused
        try:
            check_user(user)
        except UntrustedUser as error:
            return TrustDecision(False, "bad_user", str(error))
        of_node = self._of_node(key)
        if of_node is not None:
            return of_node

        def judge(match: KeyMatch) -> Any:
            if match.state == "conflict":
                return _conflict(key, match.conflict)
            if match.state == "equal":
                name = match.names[0]
                text = f"key {key.md5} is stored as {name}"
                return TrustDecision(True, "stored", text, stored_name=name)
            return self._first_use(key, user, address, match, save)

        return _then(self.store.lookup(user, key, address), judge)

    def window_states(self, now: float | None = None) -> Any:
        """
        The state of every window, in order; or a Deferred of it.
        """
        when = self._now() if now is None else now
        states: list[WindowState] = []

        def step(index: int) -> Any:
            if index == len(self.windows):
                return states
            window = self.windows[index]

            def counted(used: int | None) -> Any:
                full = window.count is not None and (used or 0) >= window.count
                state: Literal["open", "expired", "used up"] = "open"
                if window.expired(when):
                    state = "expired"
                elif full:
                    state = "used up"
                states.append(WindowState(window, state, used))
                return step(index + 1)

            if window.count is None:
                return counted(None)
            return _then(self._counter.used(window.window_id), counted)

        return step(0)

    def _first_use(
        self, key: PublicKey, user: str, address: str, match: KeyMatch, save: bool
    ) -> Any:
        barred = self._barred(key)
        if barred is not None:
            return barred
        if user not in self.users:
            other = ", ".join(sorted(repr(name) for name in match.users))
            known = f"is stored under {other} only" if other else "is unknown"
            text = (
                f"key {key.md5} {known} and user {user!r} is not in trustusers: "
                f"store it with `nodecomm key trust FILE --user NAME`, "
                "or add the user to trustusers"
            )
            return TrustDecision(False, "user_not_trusted", text)
        if self._pinned(key):
            text = f"key {key.md5} is trusted from now on: its digest was named"
            if not save:
                return TrustDecision(True, "first_use_pinned", text, True)
            return self._save(key, user, address, match, "first_use_pinned", text, None)

        def found(window: TrustWindow | None) -> Any:
            if window is None:
                return self._refuse_unknown(key, address, match)
            text = (
                f"key {key.md5} is trusted from now on: {address} is in the open "
                f"window {window.text} of trustkeysfrom"
            )
            if not save:
                return TrustDecision(True, "first_use", text, True, window)
            return self._save(key, user, address, match, "first_use", text, window)

        return _then(self._through_window(key, address, take=save), found)

    def _of_node(self, key: PublicKey) -> TrustDecision | None:
        return None if self.nodes is None else judge_key(self.nodes, key)

    def _barred(self, key: PublicKey) -> TrustDecision | None:
        return None if self.nodes is None else first_use_refused(self.nodes, key)

    def _save(
        self,
        key: PublicKey,
        user: str,
        address: str,
        match: KeyMatch,
        code: str,
        text: str,
        window: TrustWindow | None,
    ) -> Any:
        def with_previous(previous: str | None) -> Any:
            # What was decided while the counter was asked.
            for asked in (self._of_node, self._barred):
                decision = asked(key)
                if decision is not None:
                    return decision

            def saved(name: str) -> TrustDecision:
                decision = TrustDecision(True, code, text, True, window, name)
                if previous is None:
                    return decision
                loud = f"CHANGED KEY at {address}, where {previous} was before: {text}"
                return evolve(
                    decision, code="changed_key_trusted", text=loud, previous=previous
                )

            def clashed(error: KeyConflict) -> TrustDecision:
                return _conflict(key, str(error))

            return _attempt(partial(self.store.add, user, key), saved, clashed)

        return _then(self._previous(key, address, match), with_previous)

    def _refuse_unknown(self, key: PublicKey, address: str, match: KeyMatch) -> Any:
        """
        No window let this key in; say why, and whether it looks like a change.
        """
        inside = [window for window in self.windows if window.matches(address)]
        now = self._now()
        window = None
        if not inside:
            code = "unknown_key"
            why = f"no window of trustkeysfrom is for {address}"
        else:
            window = inside[0]
            for candidate in inside:
                if not candidate.expired(now):
                    window = candidate
            if window.expired(now):
                code = "window_expired"
                why = f"the window {window.text} of trustkeysfrom is over"
            else:
                code = "window_used_up"
                room = "1 key is" if window.count == 1 else f"{window.count} keys are"
                why = f"of the window {window.text} the {room} used up"
        elsewhere = ", ".join(sorted(repr(name) for name in match.users))
        known = f"stored only under {elsewhere}" if elsewhere else "unknown"
        text = (
            f"key {key.md5} is {known}, and {why}: store it with "
            f"`nodecomm key trust FILE` or `nodecomm key trust-digest {key.md5}`, "
            "or open a window"
        )
        if self.nodes is not None:
            text += hint(self.nodes, key)

        def with_previous(previous: str | None) -> TrustDecision:
            if previous is None:
                return TrustDecision(False, code, text, window=window)
            loud = f"CHANGED KEY at {address}, where {previous} was before: {text}"
            return TrustDecision(
                False, "changed_key_refused", loud, window=window, previous=previous
            )

        return _then(self._previous(key, address, match), with_previous)

    def _previous(self, key: PublicKey, address: str, match: KeyMatch) -> Any:
        """
        What stood at this address before, if it was another key.
        """
        if match.replaced is not None:
            return match.replaced
        if self._seen is None:
            return None

        def last(digests: Sequence[str]) -> str | None:
            if not digests or key.md5 in digests:
                return None
            return digests[0]

        return _then(self._seen.digests_at(address), last)

    def _pinned(self, key: PublicKey) -> bool:
        return self._pins is not None and bool(self._pins.contains(key))

    def _through_window(self, key: PublicKey, address: str, *, take: bool) -> Any:
        """
        The first open window that lets this key in, taking one of its places if
        asked to; None if none does.
        """
        now = self._now()
        inside = [
            window
            for window in self.windows
            if not window.expired(now) and window.matches(address)
        ]
        ask = self._counter.take if take else self._counter.has_room

        def step(index: int) -> Any:
            if index == len(inside):
                return None
            window = inside[index]
            if window.count is None:
                return window

            def answered(room: bool) -> Any:
                return window if room else step(index + 1)

            # The place belongs to the key, whatever user names it comes with.
            return _then(ask(window.window_id, window.count, key.sha), answered)

        return step(0)


def refuse_unusable(key: PublicKey | None) -> TrustDecision | None:
    """
    The refusal of a key that is good for nobody; None for any other.

    Args:
        key: The peer's key; None if it is not an RSA key.
    """
    if key is None:
        text = "the peer's key is not an RSA key; only RSA keys are used here"
        return TrustDecision(False, "not_rsa", text)
    try:
        check_sane(key)
    except InsaneKey as error:
        text = (
            f"key {key.md5} is refused: {error}. Such a key can be made to share its "
            "digest with another one; if the peer is yours, make it a new key"
        )
        return TrustDecision(False, "insane_key", text)
    return None


def _conflict(key: PublicKey, reason: str | None) -> TrustDecision:
    text = (
        f"KEY CONFLICT: key {key.md5} is refused, {reason}. Look at that file; if it "
        "is the wrong one, remove it with `nodecomm key remove NAME`"
    )
    return TrustDecision(False, "conflict", text)


def _then(value: Any, function: Callable[[Any], Any]) -> Any:
    """
    Go on with a value, now or, if it is a Deferred, when it is there.
    """
    if hasattr(value, "addCallback"):
        return value.addCallback(function)
    return function(value)


def _attempt(
    function: Callable[[], Any],
    done: Callable[[Any], Any],
    clashed: Callable[[KeyConflict], Any],
) -> Any:
    """
    Call what may raise `KeyConflict`, now or later, and go on with the outcome.
    """
    try:
        value = function()
    except KeyConflict as error:
        return clashed(error)
    if not hasattr(value, "addCallbacks"):
        return done(value)

    def failed(failure: Any) -> Any:
        failure.trap(KeyConflict)
        return clashed(failure.value)

    return value.addCallbacks(done, failed)
