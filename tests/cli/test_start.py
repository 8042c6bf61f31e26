# SPDX-License-Identifier: MIT
"""
What the commands that ask a server load: a node starts them every few minutes.
"""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Prints every module that is loaded when an update or a run is about to connect.
CODE = """
import sys
import nodecomm.cli.main
import nodecomm.cli.run
import nodecomm.cli.run_report
import nodecomm.cli.sync
import nodecomm.client.acquaintance
import nodecomm.client.dialing
import nodecomm.client.fleet
import nodecomm.client.memory
import nodecomm.client.names
import nodecomm.server.pools
import nodecomm.sync.syncing
import twisted.internet.reactor
print("\\n".join(sys.modules))
"""

#: Rooms and libraries that a server needs, and what is slow to load.
UNWANTED = {
    "cattrs",
    "difflib",
    "nodecomm.access",
    "nodecomm.config.model",
    "nodecomm.config.tree",
    "nodecomm.server.factory",
    "nodecomm.service",
    "nodecomm.storage",
    "nodecomm.testing",
    "nodecomm.web",
    "re2",
    "rich",
    "sqlite3",
    "tomllib",
    "tree_sitter",
    "twisted.web",
    "unittest",
}


class StartTests(SynchronousTestCase):
    """
    What is loaded.
    """

    def test_nothing_that_is_not_needed(self) -> None:
        """
        Neither loads anything of a server, nor a reader of configurations.
        """
        done = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.split())

        self.assertIn("nodecomm.client.session", loaded)
        self.assertEqual(set(), loaded & UNWANTED)
