# SPDX-License-Identifier: MIT
"""
The manifest of a tree: one text that says of every object what STAT says of it, and
the SHA-256 of every file.

It is asked for under the reserved name `NAME` in a folder, with the ordinary STAT, MD5
and GET. Lines end in a newline, fields are parted by tabs (there are nine, the
last is empty but for links)::

    nodecomm-manifest 1
    d 0755 UID GID SIZE MTIME - .
    f 0644 UID GID SIZE MTIME SHA256 NAME
    l 0777 UID GID SIZE MTIME - NAME TARGET
    end COUNT

The first object is the folder itself, called `.`; the others are named relative to it,
in the order of the bytes of their names, so that a folder stands before what is in it.
Names and targets are written as `nodecomm.wire.text.to_text` does. There is exactly one
way to write a tree, so equal trees have equal bytes, and a text that was cut never
reads.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from nodecomm.wire.errors import LocalProtocolError, RemoteProtocolError
from nodecomm.wire.text import from_text, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "NAME",
    "NAMES",
    "NAME_OF_NEW",
    "ManifestEntry",
    "ManifestKind",
    "encode_manifest",
    "parse_manifest",
]

#: The reserved name. Its number is that of the format.
NAME = b".nodecomm-manifest-1"

#: The name of the same text, made of a look at the tree that began after this name was
#: asked for. A server that does not know it refuses it like any other absent file.
NAME_OF_NEW = NAME + b"-new"

#: All reserved names.
NAMES = (NAME, NAME_OF_NEW)

_HEADER = b"nodecomm-manifest 1"
_END = b"end %d"

#: What the folder itself is called in the text; no object in it can be called so.
_ROOT = "."

#: A digest field that is none, and that of a folder which lists less than it has.
_NONE, _PARTIAL = b"-", b"+"

#: Numbers fit the 64 bits, owners the 32 bits that systems have for them.
_LARGEST, _LARGEST_ID = 2**63 - 1, 2**32 - 1

_LINE = re.compile(
    rb"([fdlo])\t([0-7]{4})\t"
    rb"(0|[1-9][0-9]{0,9})\t(0|[1-9][0-9]{0,9})\t"
    rb"(0|[1-9][0-9]{0,18})\t(0|-?[1-9][0-9]{0,18})\t"
    rb"([-+]|[0-9a-f]{64})\t([^\t]+)\t([^\t]*)"
)
_NO_NAMES = frozenset({b"", b".", b".."})


class ManifestKind(Enum):
    """
    What an object is; the values are the letters of the text.
    """

    FILE = "f"
    FOLDER = "d"
    LINK = "l"
    OTHER = "o"


class ManifestEntry(NamedTuple):
    """
    One object.

    Attributes:
        name: Relative to the folder of the manifest, without a final slash; `b""` is
            that folder itself.
        kind: What it is, links followed: `LINK` is a link that leads nowhere, `OTHER`
            what is neither file nor folder, or a folder that contains itself.
        mode: Permission bits, 0 to 0o7777.
        uid: Owner.
        gid: Group.
        size: Bytes.
        mtime: Seconds since the epoch.
        sha256: Of a file's content, 32 bytes; None for everything else.
        target: The text of a link, else empty.
        partial: A folder that has further names, about which the peer is told
            nothing here; OPENDIR says which. Never remove local files in such a
            folder because they are not listed.
    """

    name: bytes
    kind: ManifestKind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    sha256: bytes | None = None
    target: bytes = b""
    partial: bool = False


def encode_manifest(entries: Iterable[ManifestEntry]) -> bytes:
    """
    The text about *entries*, given in any order.

    Raises:
        LocalProtocolError: They are no tree: the folder itself or a folder of an
            object is missing, two have one name, or a value has no form in the text.
    """
    ordered = sorted(entries, key=_by_name)
    lines = [_HEADER]
    folders: set[bytes] = set()
    last: bytes | None = None
    for entry in ordered:
        wrong = _wrong(entry, last, folders)
        if wrong:
            raise LocalProtocolError("manifest entry", entry.name, wrong)
        last = entry.name
        lines.append(_line(entry))
    if last is None:
        raise LocalProtocolError("manifest", None, "must list the folder itself")
    lines.append(_END % len(ordered))
    return b"\n".join(lines) + b"\n"


def parse_manifest(data: bytes, max_entries: int) -> list[ManifestEntry]:
    """
    The objects that *data* is about, the folder itself first, folders before what is
    in them.

    Args:
        data: All of the text.
        max_entries: How many objects are taken.

    Raises:
        RemoteProtocolError: It is no manifest, not all of one, lists more than
            *max_entries*, or is not written in the one way there is.
    """
    if data.count(b"\n") > max_entries + 2:
        raise RemoteProtocolError("manifest", None, f"at most {max_entries} objects")
    lines = data.split(b"\n")
    if lines[0] != _HEADER:
        raise RemoteProtocolError("manifest header", lines[0], _HEADER.decode())
    count = len(lines) - 3
    if count < 1 or lines[-1] or lines[-2] != _END % count:
        raise RemoteProtocolError("manifest", None, "is cut or was added to")
    entries = []
    folders: set[bytes] = set()
    last: bytes | None = None
    for line in lines[1:-2]:
        entry = _entry(line)
        wrong = _wrong(entry, last, folders)
        if wrong:
            raise RemoteProtocolError("manifest entry", entry.name, wrong)
        last = entry.name
        entries.append(entry)
    return entries


def _by_name(entry: ManifestEntry) -> bytes:
    return entry.name


def _line(entry: ManifestEntry) -> bytes:
    name, kind, mode, uid, gid, size, mtime, sha256, target, partial = entry
    digest = "-" if sha256 is None else sha256.hex()
    if partial:
        digest = "+"
    return (
        f"{kind.value}\t{mode:04o}\t{uid}\t{gid}\t{size}\t{mtime}\t{digest}\t"
        f"{to_text(name) if name else _ROOT}\t{to_text(target)}"
    ).encode()


def _entry(line: bytes) -> ManifestEntry:
    found = _LINE.fullmatch(line)
    if found is None:
        raise RemoteProtocolError("manifest line", line, "nine fields")
    letter, mode, uid, gid, size, mtime, digest, name, target = found.groups()
    plain = _raw(name)
    return ManifestEntry(
        b"" if plain == b"." else plain,
        _KINDS[letter],
        int(mode, 8),
        int(uid),
        int(gid),
        int(size),
        int(mtime),
        bytes.fromhex(digest.decode("ascii")) if len(digest) == 64 else None,
        _raw(target) if target else b"",
        digest == _PARTIAL,
    )


_KINDS = {kind.value.encode(): kind for kind in ManifestKind}


def _raw(field: bytes) -> bytes:
    """
    What *field* stands for, if it is written in the one way there is.
    """
    try:
        text = field.decode()
        # Most names are their own text.
        raw = field if "\\" not in text else from_text(text)
    except ValueError:
        raise RemoteProtocolError("manifest name", field, "no text form") from None
    if to_text(raw) != text:
        raise RemoteProtocolError("manifest name", field, "has another text form")
    return raw


def _wrong(entry: ManifestEntry, last: bytes | None, folders: set[bytes]) -> str:
    """
    Why *entry* cannot follow the object called *last*; empty when it can. *folders*
    are those listed so far, and it is added.
    """
    name, kind, mode, uid, gid, size, mtime, sha256, target, partial = entry
    if not (
        0 <= mode <= 0o7777
        and 0 <= uid <= _LARGEST_ID
        and 0 <= gid <= _LARGEST_ID
        and 0 <= size <= _LARGEST
        and -_LARGEST <= mtime <= _LARGEST
    ):
        return "a number is too large or too small"
    if (len(sha256) if sha256 is not None else 0) != (
        32 if kind is ManifestKind.FILE else 0
    ):
        return "a file has a SHA-256, and nothing else has"
    if bool(target) is not (kind is ManifestKind.LINK) or b"\0" in target:
        return "a link has a target, and nothing else has"
    if partial and kind is not ManifestKind.FOLDER:
        return "only a folder can list less than it has"
    if last is None:
        if name or kind is not ManifestKind.FOLDER:
            return "the folder itself comes first"
        folders.add(b"")
        return ""
    if name <= last:
        return "names are in order, each once"
    folder, _, own = name.rpartition(b"/")
    if own in _NO_NAMES or b"\0" in own or name[:1] == b"/":
        return "no name of an object"
    if folder not in folders:
        return "its folder is not listed"
    if kind is ManifestKind.FOLDER:
        folders.add(name)
    return ""
