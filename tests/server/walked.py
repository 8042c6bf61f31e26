# SPDX-License-Identifier: MIT
"""
What a peer learns of a tree by asking for each object, and by its manifest.
"""

from __future__ import annotations

from hashlib import md5, sha256
from typing import TYPE_CHECKING

from nodecomm.wire.commands import check_path
from nodecomm.wire.errors import LocalProtocolError
from nodecomm.wire.manifest import NAME, ManifestEntry, ManifestKind, parse_manifest
from nodecomm.wire.replies import DIGEST_EQUAL, DIRECTORY, LINK, REGULAR

if TYPE_CHECKING:
    from nodecomm.testing.client import MemoryClient
    from nodecomm.wire.replies import StatReply

_KINDS = {
    REGULAR: ManifestKind.FILE,
    DIRECTORY: ManifestKind.FOLDER,
    LINK: ManifestKind.LINK,
}


def walked(client: MemoryClient, source: bytes) -> list[ManifestEntry] | None:
    """
    Everything below *source*, by STAT, OPENDIR, MD5 and GET of each; None: refused.
    """
    found = client.stat(source)
    names = client.opendir(source)
    assert not client.closed
    if found is None or names is None:
        return None
    entries: list[ManifestEntry] = []
    _folder(client, source, b"", found, (found.ino,), names, entries)
    return sorted(entries, key=lambda entry: entry.name)


def _folder(
    client: MemoryClient,
    source: bytes,
    name: bytes,
    status: StatReply,
    above: tuple[int, ...],
    names: list[bytes],
    entries: list[ManifestEntry],
) -> None:
    partial = False
    for own in names:
        if own in (b".", b".."):
            continue
        below = name + b"/" + own if name else own
        path = source + b"/" + below
        try:
            check_path(path)
        except LocalProtocolError:
            partial = True
            continue
        found = client.stat(path)
        assert not client.closed, path
        if found is None:
            partial = True
        elif found.kind == DIRECTORY and found.ino not in above:
            inside = client.opendir(path)
            assert inside is not None, path
            _folder(client, source, below, found, (*above, found.ino), inside, entries)
        else:
            entries.append(_object(client, path, below, found))
    entries.append(_entry(name, ManifestKind.FOLDER, status)._replace(partial=partial))


def _object(
    client: MemoryClient, path: bytes, name: bytes, found: StatReply
) -> ManifestEntry:
    kind = _KINDS.get(found.kind, ManifestKind.OTHER)
    if kind is ManifestKind.FOLDER:
        kind = ManifestKind.OTHER
    entry = _entry(name, kind, found)
    if kind is not ManifestKind.FILE:
        return entry
    content = client.get(path, found.size) if found.size else b""
    assert len(content) == found.size, path
    digest = md5(content, usedforsecurity=False).digest()
    assert client.differs(path, digest) == DIGEST_EQUAL, path
    return entry._replace(sha256=sha256(content).digest())


def _entry(name: bytes, kind: ManifestKind, found: StatReply) -> ManifestEntry:
    return ManifestEntry(
        name,
        kind,
        found.mode,
        found.uid,
        found.gid,
        found.size,
        found.mtime,
        None,
        found.target,
    )


def manifest_text(client: MemoryClient, source: bytes) -> bytes | None:
    """
    The manifest of *source*; None: refused.
    """
    path = source + b"/" + NAME
    found = client.stat(path)
    assert not client.closed
    if found is None:
        return None
    assert found.kind == REGULAR
    data = client.get(path, found.size)
    assert len(data) == found.size
    return data


def manifest(client: MemoryClient, source: bytes) -> list[ManifestEntry] | None:
    """
    What the manifest of *source* lists; None: refused.
    """
    data = manifest_text(client, source)
    return None if data is None else parse_manifest(data, 10_000)
