# SPDX-License-Identifier: MIT
"""
A file source that fails on command, as a plugin of the server's process.

It serves copies of the files of a real folder. A control file says what goes wrong
next: with which name, in which operation, and how. Nothing goes wrong without one.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from nodecomm.interfaces import API, IFileSource
from nodecomm.server.pools import QueueFull
from nodecomm.testing.sources import MemoryObject

#: Environment variables: the folder that is served, and the control file.
TREE = "BRITTLE_TREE"
CONTROL = "BRITTLE_CONTROL"

#: The name of the plugin, for `source` of an access rule.
NAME = "brittle"

#: Seconds between two looks for the end of a wait.
_LOOK = 0.02

_OTHER: dict[str, Callable[[], Exception]] = {
    "QueueFull": lambda: QueueFull("the queue is full"),
    "MemoryError": MemoryError,
    "ValueError": lambda: ValueError("a mistake in a plugin"),
}


def write_plugin(folder: Path) -> Path:
    """
    Make a folder for PYTHONPATH in which the server finds this plugin.
    """
    plugins = folder / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "nodecomm_brittle.py").write_text(
        "from tests.interop.brittle import BrittleSource\nbrittle = BrittleSource()\n"
    )
    return folder


class Control:
    """
    The test's side: says what goes wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reached = path.with_suffix(".reached")

    def fail(self, name: str, operation: str, kind: str, *, later: bool) -> None:
        """
        Let *operation* (`resolve`, `entries`, `read`, `digest`) of *name* fail.

        Args:
            kind: The name of an errno, or of an exception.
            later: By a Deferred that fails, instead of an exception at once.
        """
        self._write(name=name, operation=operation, kind=kind, later=later)

    def wait(self, name: str) -> None:
        """
        Let `resolve` of *name* take until `nothing`; `reached` exists once it has
        begun.
        """
        self.reached.unlink(missing_ok=True)
        self._write(name=name, operation="resolve", kind="wait", later=True)

    def nothing(self) -> None:
        """
        Let nothing fail or wait any more.
        """
        self.path.unlink(missing_ok=True)

    def _write(self, **fault: object) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(fault))
        new.replace(self.path)


def _fault() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(os.environ[CONTROL]).read_text())
    except FileNotFoundError:
        return {}
    return found


def _maybe(name: bytes, operation: str, result: Callable[[], Any]) -> Any:
    """
    *result*, unless the control file has something against it.
    """
    fault = _fault()
    if (fault.get("name"), fault.get("operation")) != (os.fsdecode(name), operation):
        return result()
    kind = fault["kind"]
    if kind == "wait":
        Path(os.environ[CONTROL]).with_suffix(".reached").touch()
        waiting: Deferred[Any] = Deferred()
        _wait(waiting)
        return waiting.addCallback(lambda _: result())
    error = (
        _OTHER[kind]()
        if kind in _OTHER
        else OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))
    )
    if fault["later"]:
        return defer.fail(error)
    raise error


def _wait(waiting: Deferred[Any]) -> None:
    from twisted.internet import reactor  # noqa: PLC0415

    if _fault():
        reactor.callLater(_LOOK, _wait, waiting)
    else:
        waiting.callback(None)


class _BrittleObject(MemoryObject):
    """
    A file or folder whose operations may fail.
    """

    asked = b""

    def entries(self) -> Any:
        """The names, or the failure."""
        return _maybe(self.asked, "entries", super().entries)

    def read(self, offset: int, size: int) -> Any:
        """A part of the content, or the failure."""
        found = super().read(offset, size)
        return _maybe(self.asked, "read", lambda: found)

    def digest(self, algorithm: str) -> Any:
        """The digest, or the failure."""
        found = super().digest(algorithm)
        return _maybe(self.asked, "digest", lambda: found)


@implementer(IPlugin, IFileSource)
class BrittleSource:
    """
    The plugin.
    """

    api = API
    name = NAME

    def resolve(self, peer: object, name: bytes) -> Any:
        """
        Hold what is called *name*, or fail.
        """
        return _maybe(name, "resolve", lambda: self._hold(name))

    def _hold(self, name: bytes) -> _BrittleObject:
        path = os.path.join(os.fsencode(os.environ[TREE]), name)
        status = os.stat(path)
        if os.path.isdir(path):
            held = _BrittleObject(name, None, sorted(os.listdir(path)), mode=0o755)
        else:
            held = _BrittleObject(name, Path(os.fsdecode(path)).read_bytes())
        held.mtime = int(status.st_mtime)
        held.ino = status.st_ino
        held.asked = name
        return held
