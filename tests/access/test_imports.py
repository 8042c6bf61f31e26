# SPDX-License-Identifier: MIT
"""
The room decides; it does not talk.
"""

from __future__ import annotations

import subprocess
import sys

import nodecomm.access

SCRIPT = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "twisted":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
package = importlib.import_module("nodecomm.access")
for module in pkgutil.iter_modules(package.__path__, "nodecomm.access."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_room_imports_without_twisted() -> None:
    """
    Every module of the room can be imported where Twisted cannot.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert done.returncode == 0
    assert "nodecomm.access.evaluator" in done.stdout.split()
    assert nodecomm.access.__doc__
