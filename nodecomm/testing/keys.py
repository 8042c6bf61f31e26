# SPDX-License-Identifier: MIT
"""
Keys for tests, and a key store in memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from zope.interface import implementer

from nodecomm.identity.keys import KeyPair, PublicKey, check_sane
from nodecomm.identity.matches import KeyConflict, KeyMatch, StoredKey
from nodecomm.interfaces import IKeyStore

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryKeyStore", "key_pair"]


@lru_cache(maxsize=64)
def key_pair(number: int = 0, bits: int = 2048) -> KeyPair:
    """
    A key pair; the same one for the same number, as long as the process lives.
    Making one costs some tenths of a second.
    """
    del number
    return KeyPair.generate(bits)


@implementer(IKeyStore)
class MemoryKeyStore:
    """
    An `IKeyStore` that forgets when the process ends.
    """

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, PublicKey]] = {}

    def _match(self, key: PublicKey, user: str | None) -> KeyMatch:
        check_sane(key)
        same = [
            (name, stored_user)
            for name, (stored_user, stored) in sorted(self._keys.items())
            if stored == key
        ]
        clash = self._clash(key)
        users = frozenset(stored_user for _, stored_user in same)
        if clash is not None:
            return KeyMatch(
                "conflict", users, conflict=f"{clash} holds a different key"
            )
        names = tuple(name for name, stored_user in same if user in (None, stored_user))
        return KeyMatch("equal" if names else "unknown", users, names)

    def _clash(self, key: PublicKey) -> str | None:
        for name, (_, stored) in sorted(self._keys.items()):
            if stored != key and (stored.md5 == key.md5 or stored.sha == key.sha):
                return name
        return None

    def known(self, key: PublicKey) -> KeyMatch:
        """What is stored for *key*, under any user."""
        return self._match(key, None)

    def lookup(self, user: str, key: PublicKey, address: str) -> KeyMatch:
        """What is stored for *key* under *user*."""
        return self._match(key, user)

    def add(self, user: str, key: PublicKey) -> str:
        """
        Store *key* under *user*.

        Raises:
            InsaneKey: No peer may have such a key.
            KeyConflict: A different key with this digest is stored.
        """
        check_sane(key)
        clash = self._clash(key)
        if clash is not None:
            raise KeyConflict(clash, "holds a different key")
        name = f"{user}-{key.md5}.pub"
        self._keys[name] = (user, key)
        return name

    def remove(self, name: str) -> Sequence[str]:
        """Remove the entry or the entries with that digest."""
        gone = [
            entry
            for entry, (_, key) in sorted(self._keys.items())
            if name == entry or name in key.digests
        ]
        for entry in gone:
            del self._keys[entry]
        return gone

    def entries(self) -> Sequence[StoredKey]:
        """Everything stored."""
        return [
            StoredKey(name, user, key, key.md5)
            for name, (user, key) in sorted(self._keys.items())
        ]
