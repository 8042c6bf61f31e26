"""
`remote_run` with the real server, in memory, which runs what the test says.

    python -m unittest test_remote_run
"""

import tempfile
import unittest

from remote_run import remote_run
from twisted.internet.defer import Deferred

from nodecomm.client.address import ServerAddress
from nodecomm.client.dialing import Dialer
from nodecomm.identity.servers import ServerKeyStore, ServerTrust
from nodecomm.testing import MemoryNetwork, MemoryRunner, key_pair, memory_server
from nodecomm.transport.context import client_context

NODE = ServerAddress("node")


class RemoteRunTests(unittest.TestCase):
    def test_a_run_and_a_denial(self):
        runner = MemoryRunner()
        server = memory_server(
            {"path": "/bin/sh", "admit_ips": ["127.0.0.1"]},
            server={"cfruncommand": ["/bin/sh"], "allowusers": ["root"]},
            execution=runner,
        )
        network = MemoryNetwork(server.clock, latency=0.05)
        network.listen(NODE, server.factory)
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
        session = network.result_of(dialer.connect(NODE))
        shown = []

        running = Deferred.fromCoroutine(remote_run(session, shown.append))
        network.advance(1)
        runner.runs[0].say(b"one\n\x1b[2J\n")
        runner.runs[0].end(0)
        self.assertTrue(network.result_of(running))
        self.assertEqual(["one", "\\x1b[2J"], shown)

        shown.clear()
        running = remote_run(session, shown.append, defined=[b"unknown"])
        self.assertFalse(network.result_of(Deferred.fromCoroutine(running)))
        self.assertIn("EXEC denied role activation", shown[0])
        network.result_of(session.close())
