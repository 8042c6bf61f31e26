# SPDX-License-Identifier: MIT
"""
What every command takes.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nodecomm.cli.options import default_state_dir
from nodecomm.identity.places import standard_state_dir


class StateDirTests(SynchronousTestCase):
    """
    The commands work on the folder that the server uses.
    """

    def test_a_relative_xdg_folder(self) -> None:
        """Like the server's, the commands' default ignores a relative path."""
        self.patch(os, "geteuid", lambda: 1000)
        self.patch(os, "environ", {"XDG_STATE_HOME": "relative", "HOME": "/home/x"})

        self.assertEqual(Path("/home/x/.local/state/nodecomm"), default_state_dir())
        self.assertEqual(standard_state_dir(os.environ, 1000), default_state_dir())

    def test_the_variable(self) -> None:
        """`NODECOMM_STATE_DIR` goes before the default."""
        self.patch(os, "environ", {"NODECOMM_STATE_DIR": "/somewhere"})

        self.assertEqual(Path("/somewhere"), default_state_dir())
