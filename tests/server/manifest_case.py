# SPDX-License-Identifier: MIT
"""
A folder with a manifest, and what was said of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nodecomm.testing import (
    MemoryServer,
    memory_server,
)
from nodecomm.testing.client import MemoryClient
from nodecomm.wire.commands import encode_digest, encode_stat
from nodecomm.wire.manifest import NAME, NAME_OF_NEW
from nodecomm.wire.replies import REFUSAL

if TYPE_CHECKING:
    from twisted.logger import ILogObserver

#: The name of the manifest.
ASKED = b"t/" + NAME

#: The name of one that is made for whoever asks.
ASKED_NEW = b"t/" + NAME_OF_NEW


class ManifestCase(SynchronousTestCase):
    """
    A folder that is served as `t` to 127.0.0.1 and 127.0.0.2.
    """

    def setUp(self) -> None:
        self.root = Path(os.path.realpath(self.mktemp()))
        (self.root / "t" / "sub").mkdir(parents=True)
        (self.root / "t" / "a").write_bytes(b"hello")
        (self.root / "t" / "sub" / "b").write_bytes(b"x" * 5000)
        self.events: list[dict[str, Any]] = []
        observer = cast("ILogObserver", self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def rule(self, name: str = "t", **more: Any) -> dict[str, Any]:
        """A rule for the folder *name*."""
        admitted = {"admit_ips": ["127.0.0.1", "127.0.0.2"]}
        return {"path": str(self.root / name), **(more or admitted)}

    def make(self, *more: dict[str, Any], **arguments: Any) -> MemoryServer:
        """A server of the folder."""
        return memory_server({**self.rule(), "shortcut": "t"}, *more, **arguments)

    def refusals(self) -> list[str]:
        """Why requests were refused since this was last asked."""
        found = [
            event["reason"]
            for event in self.events
            if event.get("event") == "request.refused"
        ]
        self.events.clear()
        return found

    def assert_refused(self, client: MemoryClient, reason: str) -> None:
        """The manifest is refused for *reason*, and the connection goes on."""
        self.refusals()
        now = int(client.now())
        digest = bytes(16)
        self.assertEqual(
            [REFUSAL, REFUSAL],
            client.request(encode_stat(now, ASKED), encode_digest(ASKED, digest)),
        )
        self.assertEqual([reason, reason], self.refusals())
        self.assertFalse(client.closed)
