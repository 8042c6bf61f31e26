# SPDX-License-Identifier: MIT
"""
Whether a file that is here is the one that the server has, as far as that can be said
without the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from nodecomm.sync.model import Compare, Kind, LocalEntry, RemoteEntry
from nodecomm.sync.record import LocalState, Record, ServerState

__all__ = ["Verdict", "judge"]


class Verdict(Enum):
    """
    What is to be done about a file.
    """

    SAME = "nothing"
    FETCH = "fetch it"
    ASK = "ask about the digest that is known from the record"
    HASH = "hash what is here, then ask, or compare with the manifest"


def judge(
    compare: Compare,
    name: bytes,
    entry: RemoteEntry,
    here: LocalEntry | None,
    record: Record,
    held: Mapping[bytes, bytes],
) -> Verdict:
    """
    Decide about one file.

    Args:
        compare: How it is to be found out.
        name: Relative.
        entry: A file, as the server describes it.
        here: What is here under its name.
        record: What is known since earlier runs.
        held: SHA-256 by name, from the manifest that the record was made with.
    """
    if here is None or here.kind is not Kind.FILE or here.size != entry.size:
        return Verdict.FETCH
    if compare == "size":
        return Verdict.SAME
    if compare == "mtime":
        # As upstream: is it newer on the server than the copy here?
        is_newer = here.mtime_ns // 10**9 < entry.mtime
        return Verdict.FETCH if is_newer else Verdict.SAME
    if compare == "digest":
        return Verdict.HASH
    local = LocalState.of(here)
    known = record.known_digest(name, local)
    if known is None:
        return Verdict.HASH
    if entry.sha256 is not None:
        return Verdict.SAME if held.get(name) == entry.sha256 else Verdict.HASH
    if record.unchanged(name, ServerState.of(entry), local) is not None:
        return Verdict.SAME
    return Verdict.ASK
