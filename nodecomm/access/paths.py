# SPDX-License-Identifier: MIT
"""
What a path rule covers.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import NamedTuple

from nodecomm.access.findings import Findings
from nodecomm.access.requests import is_resolved
from nodecomm.wire.text import from_text, to_text

__all__ = ["PathReader", "Resolve", "Resolved", "RulePath", "real_parent"]


class Resolved(NamedTuple):
    """
    What a path in a rule really is: all links followed, no final slash.
    """

    path: bytes
    is_directory: bool


#: What a path is now, or None when it does not exist. May raise OSError.
Resolve = Callable[[bytes], Resolved | None]


class RulePath(NamedTuple):
    """
    The path of a rule, without a final slash (`/` is the root); whether it covers a
    folder and all below it; whether there was nothing of that name.
    """

    path: bytes
    tree: bool
    missing: bool


class PathReader:
    """
    Makes rule paths of what the configuration says.
    """

    def __init__(self, findings: Findings, resolve: Resolve) -> None:
        self._findings = findings
        self._resolve = resolve

    def read(self, key: str, text: str, source: str | None) -> RulePath | None:
        """
        What a path rule covers.

        A path that exists is resolved, and a folder covers all below it. One that
        does not exist is taken as it is written, and then the final slash decides.
        """
        try:
            raw = from_text(text)
        except ValueError as error:
            self._findings.tell(key, str(error), text)
            return None
        if not raw.startswith(b"/"):
            hint = f"write '/{text}'" if not text.startswith((".", "~", "$")) else ""
            self._findings.tell(key, "the path is not absolute", text, hint)
            return None
        if b"\0" in raw or b"\n" in raw:
            self._findings.tell(
                key, "no request can name a path with NUL or newline", text
            )
            return None
        if source is not None:
            return RulePath(raw.rstrip(b"/") or b"/", True, False)
        try:
            resolved = self._resolve(raw)
            named = raw.rstrip(b"/")
            if resolved is None and raw != named:
                resolved = self._resolve(named)
            if resolved is not None and raw != named and not resolved.is_directory:
                self._findings.tell(
                    key,
                    "this is no folder, so the rule covers nothing",
                    text,
                    f"write '{text.rstrip('/')}'",
                )
                return None
        except OSError as error:
            said = error.strerror or type(error).__name__
            self._findings.tell(key, f"the path cannot be resolved: {said}", text)
            return None
        if resolved is None:
            return self._missing(key, raw, text)
        return RulePath(
            resolved.path.rstrip(b"/") or b"/", resolved.is_directory, missing=False
        )

    def _missing(self, key: str, raw: bytes, text: str) -> RulePath:
        """
        A path that does not exist when the rules are loaded.
        """
        if raw.endswith(b"/."):
            raw = raw[:-1]
        tree = raw.endswith(b"/")
        path = raw.rstrip(b"/") or b"/"
        if b"$(connection." not in raw:
            if tree:
                says, hint = "a folder of that name and all below it", ""
            else:
                says = "one file of that exact name, and nothing when it is a folder"
                hint = f"write '{text}/' if it is to be a folder"
            self._findings.tell(
                key,
                f"the path does not exist now; the rule will cover {says}",
                text,
                hint,
                "warning",
            )
        elif not tree and raw.endswith((b".ip)", b".hostname)", b".key)")):
            self._findings.tell(
                key,
                "without a final slash the rule will cover files of that exact name, "
                "and nothing where it is a folder",
                text,
                f"write '{text}/' if it is to be a folder",
                "warning",
            )
        real = real_parent(path, self._resolve)
        if real is None and not is_resolved(path):
            real = posixpath.normpath(path)
        if real is not None:
            self._findings.tell(
                key,
                "requests are resolved before rules are applied, and this path would "
                "then have another name; the rule covers nothing",
                text,
                f"write '{to_text(real)}{'/' if tree else ''}'",
                "warning",
            )
        return RulePath(path, tree, missing=True)


def real_parent(path: bytes, resolve: Resolve) -> bytes | None:
    """
    What *path* would be called after its existing folders were resolved, when that
    differs.
    """
    for parent in _parents(path):
        try:
            resolved = resolve(parent)
        except OSError:
            return None
        if resolved is not None:
            rest = path[len(parent.rstrip(b"/")) :]
            real = resolved.path.rstrip(b"/") + rest
            while b"//" in real:
                real = real.replace(b"//", b"/")
            return real if real != path else None
    return None


def _parents(path: bytes) -> Iterator[bytes]:
    """
    The folders above *path*, the nearest first.
    """
    while path != b"/" and path:
        path = path[: path.rstrip(b"/").rfind(b"/")] or b"/"
        yield path
