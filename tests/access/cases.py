# SPDX-License-Identifier: MIT
"""
What the tests of this room share: rules from plain tables, and peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.requests import AccessRequest
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.errors import Problem
from nodecomm.config.model import AccessSettings, ServerSettings, Settings
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.peer import Peer

KEY = PublicKey(2**2047 + 2**64 + 1, 65537)
OTHER_KEY = PublicKey(2**2047 + 2**65 + 1, 65537)

#: What exists: path to what it really is.
DISK = {
    b"/": Resolved(b"/", True),
    b"/srv": Resolved(b"/srv", True),
    b"/srv/files": Resolved(b"/srv/files", True),
    b"/srv/files/secret": Resolved(b"/srv/files/secret", True),
    b"/srv/files/one.txt": Resolved(b"/srv/files/one.txt", False),
    b"/srv/d": Resolved(b"/srv/d", True),
    b"/srv/link": Resolved(b"/data/real", True),
    b"/srv/link.txt": Resolved(b"/data/real/one.txt", False),
}


def resolve(path: bytes) -> Resolved | None:
    """
    What *path* is in the table above.
    """
    return DISK.get(path.rstrip(b"/") or b"/")


def compiled(
    *tables: Mapping[str, Any], **server: Any
) -> tuple[Snapshot, list[Problem]]:
    """
    The snapshot of these `[[access]]` tables, and what is wrong with them.
    """
    access = tuple(AccessSettings(**table) for table in tables)
    settings = Settings(server=ServerSettings(**server), access=access)
    return compile_snapshot(settings, resolve=resolve, generation=7)


def rules(*tables: Mapping[str, Any], **server: Any) -> Snapshot:
    """
    The snapshot of tables without errors.
    """
    snapshot, problems = compiled(*tables, **server)
    assert [p for p in problems if p.is_error] == []
    return snapshot


def peer(address: str = "127.0.0.1", **more: Any) -> Peer:
    """
    A peer over TLS whose name was looked for and not found.
    """
    values: dict[str, Any] = {
        "key": KEY,
        "user": "root",
        "uid": 0,
        "hostname_known": True,
        "protocol": 3,
        "encrypted": True,
    }
    return Peer(address=address, **(values | more))


def named(hostname: str, **more: Any) -> Peer:
    """
    A peer with a confirmed host name.
    """
    return peer(hostname=hostname, **more)


def file(path: str, operation: str = "stat", **more: Any) -> AccessRequest:
    """
    A request for a file that everybody may read.
    """
    values: dict[str, Any] = {"owner": 0, "mode": 0o100644}
    return AccessRequest(operation, path.encode(), **(values | more))


def folder(path: str, operation: str = "opendir") -> AccessRequest:
    """
    A request for a folder that only root may read.
    """
    return AccessRequest(operation, path.encode(), True, 0, 0o40700)


def reason(snapshot: Snapshot, who: Peer, request: AccessRequest) -> str:
    """
    The reason code of the decision.
    """
    return AccessEvaluator(snapshot).evaluate(snapshot, who, request).reason
