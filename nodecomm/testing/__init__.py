# SPDX-License-Identifier: MIT
"""
In-memory server and client, for tests here and in programs that embed nodecomm.

No socket, no thread, no real time: a `Clock` moves when a test says so.

    server = memory_server({"path": "/srv/files", "admit_ips": ["127.0.0.1"]})
    node = server.connect()
    node.request(b"VERSION")        # [b"OK: 3.21.0"]
"""

from __future__ import annotations

from nodecomm.testing.classic import MemoryClassicClient
from nodecomm.testing.client import MemoryClient
from nodecomm.testing.keys import MemoryKeyStore, key_pair
from nodecomm.testing.network import MemoryConnection, MemoryNetwork
from nodecomm.testing.nodes import MemoryNodeRegistry
from nodecomm.testing.runner import MemoryRun, MemoryRunner
from nodecomm.testing.server import MemoryServer, memory_server
from nodecomm.testing.sources import MemoryObject, MemorySource

__all__ = [
    "MemoryClassicClient",
    "MemoryClient",
    "MemoryConnection",
    "MemoryKeyStore",
    "MemoryNetwork",
    "MemoryNodeRegistry",
    "MemoryObject",
    "MemoryRun",
    "MemoryRunner",
    "MemoryServer",
    "MemorySource",
    "key_pair",
    "memory_server",
]
