# SPDX-License-Identifier: MIT
"""
Which room of the package may import which.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import nodecomm

PACKAGE = Path(nodecomm.__file__).parent

#: The rooms in import order: each imports only itself and what stands before it.
ROOMS = (
    "interfaces",
    "wire",
    "config",
    "identity",
    "access",
    "transport",
    "storage",
    "server",
    "client",
    "sync",
    "inventory",
    "policy",
    "testing",
    "service",
    "web",
    "cli",
)

#: Rooms that must work where there is no Twisted, as values and decisions.
PURE = ("wire", "config", "identity", "access")

#: Modules of these rooms that may use Twisted all the same.
NOT_PURE = {"nodecomm.identity.store"}

#: Imports the modules named in its arguments with Twisted out of reach, and prints
#: what failed.
IMPORT_ALL = """
import importlib, json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "twisted":
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def module_name(path: Path) -> str:
    """
    The dotted name of the module in *path*.
    """
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """
    The room of a module of the package; empty for the package itself.
    """
    return module.partition(".")[2].partition(".")[0]


def rooms() -> set[str]:
    """
    The rooms that there are: folders, and modules outside any folder.
    """
    return {
        path.stem
        for path in PACKAGE.iterdir()
        if path.stem not in ("__init__", "__pycache__")
        and (path.is_dir() or path.suffix == ".py")
    }


def place(room: str) -> int:
    """
    Where *room* stands in the order. Whatever starts the whole (the modules that
    `twistd` and `python -m` look for) stands at the end: nothing imports it.
    """
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """
    All nodes but those that only a type checker reads.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from runtime_nodes(other)
            continue
        yield node
        yield from runtime_nodes(node)


def imports(source: str, module: str, *, is_package: bool) -> set[str]:
    """
    The modules of nodecomm that *source*, the text of *module*, imports when it runs,
    at its top or later.
    """
    found = set()
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = len(parts) - node.level + is_package
                start = ".".join([*parts[:kept], *filter(None, [start])])
            # `from nodecomm import wire` names a room, not a value.
            found |= (
                {f"{start}.{alias.name}" for alias in node.names}
                if start == "nodecomm"
                else {start}
            )
    return {name for name in found if name.startswith("nodecomm.")}


class ImportOrderTests(SynchronousTestCase):
    """
    The rooms stand in one order.
    """

    def test_every_room_has_a_place(self) -> None:
        """
        A new room must be put in its place in the order.
        """
        unplaced = rooms() - set(ROOMS) - {"__main__"}

        self.assertEqual([], [name for name in unplaced if not name.startswith("tap_")])

    def test_no_room_imports_a_later_one(self) -> None:
        """
        No module imports, at its top or inside a function, from a room that comes after
        its own.
        """
        found = rooms()
        wrong = []
        for path in sorted(PACKAGE.rglob("*.py")):
            module = module_name(path)
            room = room_of(module)
            if not room:
                continue
            is_package = path.stem == "__init__"
            for name in imports(path.read_text(), module, is_package=is_package):
                if place(room_of(name)) > place(room) and room_of(name) in found:
                    wrong.append(f"{module} imports {name}")

        self.assertEqual([], wrong)

    def test_imports_are_found(self) -> None:
        """
        Every form of an import is seen, except those for type checkers.
        """
        source = """
from typing import TYPE_CHECKING
import nodecomm.access.rules as rules
from nodecomm import cli, __version__
from . import framing
from .text import safe
from ..config.model import Settings
if TYPE_CHECKING:
    from nodecomm.web import pages
else:
    import nodecomm.sync.tree
def late():
    from nodecomm.server.sessions import Session
"""
        self.assertEqual(
            {
                "nodecomm.access.rules",
                "nodecomm.cli",
                "nodecomm.__version__",
                "nodecomm.wire",
                "nodecomm.wire.text",
                "nodecomm.config.model",
                "nodecomm.sync.tree",
                "nodecomm.server.sessions",
            },
            imports(source, "nodecomm.wire.errors", is_package=False),
        )
        self.assertEqual(
            {"nodecomm.wire.text"},
            imports("from .text import safe", "nodecomm.wire", is_package=True),
        )


class PureTests(SynchronousTestCase):
    """
    Values and decisions need no Twisted.
    """

    def import_blocked(self, *modules: str) -> dict[str, str]:
        """
        What failed when *modules* were imported where there is no Twisted.
        """
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", IMPORT_ALL, *modules],
            capture_output=True,
            text=True,
            check=False,
            cwd=PACKAGE.parent,
        )
        self.assertEqual("", done.stderr)
        failed: dict[str, str] = json.loads(done.stdout)
        return failed

    def test_imports_without_twisted(self) -> None:
        """
        Every module of the pure rooms imports with Twisted blocked.
        """
        modules = [
            module_name(path)
            for room in PURE
            for path in sorted((PACKAGE / room).rglob("*.py"))
        ]

        self.assertIn("nodecomm.wire.framing", modules)
        self.assertEqual(
            {}, self.import_blocked(*[m for m in modules if m not in NOT_PURE])
        )

    def test_interfaces_without_twisted(self) -> None:
        """
        The interfaces import with Twisted blocked.
        """
        self.assertEqual({}, self.import_blocked("nodecomm.interfaces"))

    def test_block_works(self) -> None:
        """
        Twisted really is out of reach in these tests.
        """
        self.assertEqual(
            {"twisted.internet.defer": "twisted is blocked"},
            self.import_blocked("twisted.internet.defer"),
        )
