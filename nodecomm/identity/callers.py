# SPDX-License-Identifier: MIT
"""
Who may ask an agent for a run: those whom the agent itself would ask, and those whose
keys the operator names.

There is no first use here. A key counts because it is the key of one of the node's
policy servers, or because somebody wrote it down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attrs import define, field

from nodecomm.identity.decisions import TrustDecision
from nodecomm.identity.keys import PublicKey, parse_digest
from nodecomm.identity.server_keys import ServerKeyStore, ServerKeysUnreadable
from nodecomm.identity.trust import refuse_unusable
from nodecomm.identity.users import UntrustedUser, check_user
from nodecomm.wire.text import safe

__all__ = ["CALLER_CODES", "CallerTrust"]

#: Every code that a decision about a caller can have.
CALLER_CODES = {
    # Trusted:
    "server_key": "this key is stored for one of the policy servers",
    "server_pinned": "this key is named in server_keys",
    "run_key": "this key is named in run_keys",
    # Refused:
    "not_rsa": "the peer's key is not an RSA key",
    "insane_key": "a key that could share its digest with another one",
    "bad_user": "a user name that is accepted from nobody",
    "conflict": "another key is known by this digest",
    "not_a_caller": "neither the key of a policy server nor in run_keys",
    "store_unusable": "what is stored for a policy server cannot be read",
}


@define
class _Known:
    """
    The keys of the policy servers, as they are stored at this moment.
    """

    keys: dict[PublicKey, str] = field(factory=dict)
    unreadable: list[str] = field(factory=list)


class CallerTrust:
    """
    Decides whose key may ask for a run, with the two questions that a server asks of
    a `TrustPolicy`.

    What is stored is read anew for each answer: a key that the agent stored a moment
    ago counts, one that was forgotten does not.

    Args:
        store: The stored keys of servers.
        servers: The policy servers, as `str(ServerAddress)` writes them.
        pinned: `server_keys`, whole or by digest. If there are any, of the stored keys
            only those count that are among them.
        named: `run_keys`, whole or by digest.

    Raises:
        ValueError: A digest is none.
    """

    def __init__(
        self,
        store: ServerKeyStore,
        servers: Sequence[str],
        *,
        pinned: Iterable[str | PublicKey] = (),
        named: Iterable[str | PublicKey] = (),
    ) -> None:
        self.store = store
        self.servers = tuple(servers)
        self.pinned = _normal(pinned)
        self.named = _normal(named)

    def check_key(self, key: PublicKey | None, address: str) -> TrustDecision:
        """
        Right after the handshake: may this key's holder say who he is?

        Args:
            key: The peer's key; None if it is not an RSA key.
            address: Where it comes from, which decides nothing.
        """
        refused = refuse_unusable(key)
        if refused is not None or key is None:
            assert refused is not None  # noqa: S101
            return refused
        return self._judge(key)

    def check_identity(
        self, key: PublicKey | None, user: str, address: str, *, save: bool = True
    ) -> TrustDecision:
        """
        After the identity line: is this key good for a caller of this name? Nothing is
        ever saved. Which user may ask for a run is decided with the request.

        Args:
            key: The peer's key; None if it is not an RSA key.
            user: The user name it claims.
            address: Where it comes from, which decides nothing.
            save: Has no meaning here.
        """
        refused = refuse_unusable(key)
        if refused is not None or key is None:
            assert refused is not None  # noqa: S101
            return refused
        try:
            check_user(user)
        except UntrustedUser as error:
            return TrustDecision(False, "bad_user", str(error))
        return self._judge(key)

    def _judge(self, key: PublicKey) -> TrustDecision:
        known = self._known()
        server = known.keys.get(key)
        # Whole keys that are the same say yes, whatever their digests are.
        if key in self.named:
            return _yes("run_key", key, "named in run_keys")
        if key in self.pinned:
            return _yes("server_pinned", key, "named in server_keys")
        if server is not None and (not self.pinned or _matches(key, self.pinned)):
            return _yes("server_key", key, f"stored for {safe(server)}")
        # From here on a digest would be all that speaks for the key.
        if self._is_forged(key, known):
            text = (
                f"KEY CONFLICT: key {key.md5} ({key.bits} bits) is refused: another key"
                " with the same digest is known. Two usable keys never share a digest"
                " by accident: somebody made one of them to look like the other"
            )
            return TrustDecision(False, "conflict", text)
        named = _matches(key, self.named)
        if named or _matches(key, self.pinned) or server is None:
            if known.unreadable:
                text = (
                    f"key {key.md5} cannot be checked: {'; '.join(known.unreadable)}."
                    " Put that right, or remove the file"
                )
                return TrustDecision(False, "store_unusable", text)
            if named:
                return _yes("run_key", key, "named in run_keys")
            if _matches(key, self.pinned):
                return _yes("server_pinned", key, "named in server_keys")
        return TrustDecision(False, "not_a_caller", self._why_not(key, server))

    def _known(self) -> _Known:
        known = _Known()
        for server in self.servers:
            try:
                for key in self.store.keys(server):
                    known.keys.setdefault(key, server)
            except ServerKeysUnreadable as error:
                known.unreadable.append(safe(str(error)))
            except OSError as error:
                path = error.filename or self.store.path(server)
                known.unreadable.append(safe(f"{path}: {error.strerror or error}"))
        return known

    def _is_forged(self, key: PublicKey, known: _Known) -> bool:
        """
        Whether a digest of *key* is that of another key, anywhere here.
        """
        digests = set(key.digests)
        return any(
            digests & set(one.digests) for one in self._all_whole(known) if one != key
        )

    def _all_whole(self, known: _Known) -> Iterator[PublicKey]:
        yield from known.keys
        for one in (*self.pinned, *self.named):
            if isinstance(one, PublicKey):
                yield one
        try:
            entries = self.store.entries()
        except OSError:
            return
        for entry in entries:
            yield from entry.keys

    def _why_not(self, key: PublicKey, server: str | None) -> str:
        remedy = (
            f'if it may ask for runs, write run_keys = ["{key.md5}"] in [agent]; if it'
            " is the key of a policy server, `nodecomm server-key accept` stores it"
        )
        if server is not None:
            return (
                f"key {key.md5} is stored for {safe(server)}, but server_keys names"
                f" others only: {remedy}"
            )
        try:
            others = self.store.others(key)
        except OSError:
            others = ()
        whose = ""
        if others:
            whose = f" (it is that of {safe(', '.join(others))}, which is none of them)"
        return (
            f"key {key.md5} is no key of a policy server of this node{whose} and not in"
            f" run_keys: {remedy}"
        )


def _yes(code: str, key: PublicKey, why: str) -> TrustDecision:
    return TrustDecision(True, code, f"key {key.md5} is {why}")


def _normal(keys: Iterable[str | PublicKey]) -> tuple[str | PublicKey, ...]:
    return tuple(
        one if isinstance(one, PublicKey) else parse_digest(one) for one in keys
    )


def _matches(key: PublicKey, named: Iterable[str | PublicKey]) -> bool:
    """
    Whether *named* has this whole key, or a digest of it.
    """
    return any(
        key == one if isinstance(one, PublicKey) else key.matches(one) for one in named
    )
