# SPDX-License-Identifier: MIT
"""
Which names an update leaves alone, on both sides.
"""

from __future__ import annotations

import re
from fnmatch import translate

from attrs import define, field

__all__ = ["Exclusion"]

#: A part of a glob that stands for any number of folders, also none.
ANY_FOLDERS = b"**"


@define
class _Glob:
    """
    One glob.

    Attributes:
        parts: What each part of a name must look like; None is `ANY_FOLDERS`.
        whole: Whether it is about the whole relative name.
        folders: Whether it is about folders alone.
    """

    parts: tuple[re.Pattern[bytes] | None, ...]
    whole: bool
    folders: bool

    def matches(self, name: bytes) -> bool:
        if self.whole:
            return _match(self.parts, name.split(b"/"))
        (pattern,) = self.parts
        last = name.rpartition(b"/")[2]
        return pattern is None or pattern.match(last) is not None


@define
class Exclusion:
    """
    The globs of a request, ready to be asked.

    A glob without a slash is about the last part of a name, one with a slash about
    the whole name relative to the source; a slash at its beginning only makes it one
    of these. A slash at its end makes it about folders alone. `*`, `?` and `[...]`
    stand for no slash; a part `**` stands for any number of folders, and at the end
    for everything below.

    Args:
        globs: As a person wrote them.
    """

    globs: tuple[bytes, ...] = ()
    _any: tuple[_Glob, ...] = field(init=False)
    _folders: tuple[_Glob, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        made = [_compile(glob) for glob in self.globs]
        self._any = tuple(glob for glob in made if not glob.folders)
        self._folders = tuple(glob for glob in made if glob.folders)

    def __call__(self, name: bytes, folder: bool) -> bool:
        """
        Whether *name* itself is left alone; what is below a folder that is left alone
        is not asked about here.

        Args:
            name: Relative, without leading slash.
            folder: Whether it is a folder. False is also for what is not known yet.
        """
        return any(glob.matches(name) for glob in self._any) or (
            folder and any(glob.matches(name) for glob in self._folders)
        )


def _compile(glob: bytes) -> _Glob:
    folders = glob.endswith(b"/")
    text = glob.rstrip(b"/")
    whole = b"/" in text
    parts = text.lstrip(b"/").split(b"/")
    if parts[-1] == ANY_FOLDERS:
        # What is below a folder, not the folder itself.
        parts.append(b"*")
    return _Glob(tuple(map(_part, parts)) if whole else (_part(text),), whole, folders)


def _part(part: bytes) -> re.Pattern[bytes] | None:
    if part == ANY_FOLDERS:
        return None
    # The expressions of fnmatch take linear time, whatever the name: names come from
    # a server. Latin 1 leaves each byte what it is.
    return re.compile(translate(part.decode("latin-1")).encode("latin-1"))


def _match(parts: tuple[re.Pattern[bytes] | None, ...], words: list[bytes]) -> bool:
    """
    Whether all of *words* are what *parts* say; each `**` takes as little as it can,
    and only the last one met takes more, which finds every match.
    """
    at = part = 0
    star = -1
    begin = 0
    while at < len(words):
        if part < len(parts):
            pattern = parts[part]
            if pattern is None:
                star, begin = part, at
                part += 1
                continue
            if pattern.match(words[at]) is not None:
                at += 1
                part += 1
                continue
        if star < 0:
            return False
        begin += 1
        at, part = begin, star + 1
    return all(pattern is None for pattern in parts[part:])
