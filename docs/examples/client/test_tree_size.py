"""
`tree_size` with the real server, in memory.

    python -m unittest test_tree_size
"""

import tempfile
import unittest

from tree_size import tree_size
from twisted.internet.defer import Deferred

from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import Dialer
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.testing import MemoryNetwork, MemorySource, key_pair, memory_server
from nodecomm.transport.context import client_context

HUB = ServerAddress("hub")


class TreeSizeTests(unittest.TestCase):
    def test_two_files(self):
        server = memory_server(
            {
                "path": "/virtual/",
                "shortcut": "files",
                "source": "memory",
                "admit_ips": ["127.0.0.1"],
            },
            sources={"memory": MemorySource({b"a": b"12345", b"b": b"67"})},
        )
        network = MemoryNetwork(server.clock, latency=0.05)
        network.listen(HUB, server.factory)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        dialer = Dialer(
            network.clock,
            endpoint_for=network.endpoint_for,
            now=lambda: server.now,
            monotonic=network.clock.seconds,
            context=client_context(key_pair(1)),
            trust=ServerTrust(ServerKeyStore(folder.name), first_use=True),
            user=b"root",
        )
        session = network.result_of(dialer.connect(HUB))
        counted = Deferred.fromCoroutine(tree_size(session, b"files"))

        self.assertEqual((2, 7), network.result_of(counted))
        network.result_of(session.close())
