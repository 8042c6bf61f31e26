# SPDX-License-Identifier: MIT
"""
What nodes are answered about their own folders and about others', from the outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from nodecomm.access.nodes import ServedNode
from nodecomm.testing import MemoryServer, key_pair, memory_server
from nodecomm.testing.client import MemoryClient
from nodecomm.testing.server import settings_of, snapshot_of
from nodecomm.wire.commands import (
    encode_digest,
    encode_get,
    encode_opendir,
    encode_stat,
)
from nodecomm.wire.replies import REFUSAL
from tests.server.manifest_case import ManifestCase
from tests.server.walked import manifest, walked

A, B = key_pair(1), key_pair(2)
NODE_A, NODE_B = ServedNode("node-a", A.public), ServedNode("node-b", B.public)


class NodeFilesTests(ManifestCase):
    """
    Two nodes, each with a folder.
    """

    def setUp(self) -> None:
        super().setUp()
        for name in ("node-a", "node-b"):
            (self.root / "nodes" / name).mkdir(parents=True)
            (self.root / "nodes" / name / "policy").write_bytes(b"policy")
            (self.root / "nodes" / name / "policy").chmod(0o600)

    def serve(
        self, *nodes: ServedNode, access: Iterable[dict[str, Any]] = ()
    ) -> MemoryServer:
        """A server with these nodes in force."""
        server = memory_server(server={"allowlegacyconnects": ["127.0.0.1"]})
        tree = {
            "server": {
                "allowallconnects": ["0.0.0.0/0"],
                "allowlegacyconnects": ["127.0.0.1"],
            },
            "access": list(access),
            "inventory": {"networks": ["127.0.0.1"]},
            "node_files": [{"path": f"{self.root}/nodes/{{node_id}}/"}],
        }
        snapshot = snapshot_of(settings_of(tree))
        server.factory.serving.evaluator.snapshot = snapshot
        if nodes:
            self.put(server, *nodes)
        return server

    def put(self, server: MemoryServer, *nodes: ServedNode) -> None:
        """Put other nodes in force."""
        evaluator = server.factory.serving.evaluator
        evaluator.snapshot = evaluator.snapshot.with_nodes(nodes)

    def path(self, name: str) -> bytes:
        """The name on the wire of something of the nodes."""
        return os.fsencode(self.root / "nodes" / name)

    def answers(self, client: MemoryClient, name: str) -> list[bytes]:
        """What comes back for each way to ask."""
        path = self.path(name)
        return client.request(
            encode_stat(int(client.now()), path),
            encode_opendir(path),
            encode_digest(path, bytes(16)),
            encode_get(path),
        )

    def test_node_has_its_own_folder(self) -> None:
        """Files that only root may read included, over both protocols."""
        server = self.serve(NODE_A, NODE_B)
        for client in (server.connect(key=A), server.connect_classic(key=A)):
            self.assertEqual(
                {b".", b"..", b"policy"}, set(client.opendir(self.path("node-a")) or [])
            )
            self.assertEqual(b"policy", client.get(self.path("node-a/policy"), 6))

    def test_what_is_another_nodes_is_refused_as_what_is_not_there(self) -> None:
        """No answer tells whether a node, its folder or a file of it exists."""
        (self.root / "nodes" / "pending").mkdir()
        (self.root / "nodes" / "node-a" / "out").symlink_to("../node-b/policy")
        client = self.serve(NODE_A, NODE_B).connect(key=A)
        for name in (
            "node-b",
            "node-b/policy",
            "node-a/out",
            "node-b/none",
            "pending",
            "pending/x",
            "none",
            "none/x",
            "node-a/none",
            "node-a/../node-b",
            "node-a/../node-b/policy",
            "",
        ):
            self.assertEqual([REFUSAL] * 4, self.answers(client, name), name)
        self.assertFalse(client.closed)

    def test_decision_is_in_force_on_open_sessions(self) -> None:
        """For the next request, whatever was answered before."""
        server = self.serve(NODE_B)
        client = server.connect(key=A)
        folder, policy = self.path("node-a"), self.path("node-a/policy")
        self.assertIsNone(client.stat(folder))

        self.put(server, NODE_A, NODE_B)
        self.assertIsNotNone(client.stat(folder))
        self.assertEqual(b"policy", client.get(policy, 6))

        self.put(server, NODE_B, ServedNode("node-a", B.public))
        self.assertIsNone(client.stat(folder))
        self.assertIsNone(client.stat(policy))
        self.assertFalse(client.closed)

    def test_folder_that_is_made_later(self) -> None:
        """Is served as soon as it is there."""
        client = self.serve(ServedNode("new", A.public)).connect(key=A)
        self.assertIsNone(client.stat(self.path("new")))

        (self.root / "nodes" / "new").mkdir()
        (self.root / "nodes" / "new" / "x").write_bytes(b"x")

        self.assertIsNotNone(client.stat(self.path("new")))
        self.assertEqual(b"x", client.get(self.path("new/x"), 1))

    def test_while_nodes_are_unknown_nothing_of_theirs_is_refused(self) -> None:
        """The connection is closed instead: who is refused would delete its copy."""
        server = self.serve(access=[self.rule()])
        for key in (A, B):
            client = server.connect(key=key)
            self.assertIsNotNone(client.stat(os.fsencode(self.root / "t" / "a")))
            self.assertIsNone(client.stat(os.fsencode(self.root / "none")))
            self.assertFalse(client.closed)
            answered = client.request(
                encode_stat(int(client.now()), self.path("node-a/policy"))
            )
            self.assertEqual([], answered)
            self.assertTrue(client.closed)

    def test_manifest_of_a_node_is_its_own(self) -> None:
        """It lists what only root may read, whatever the node's agent calls itself;
        whoever else may list the folder is told what it may have, whoever is first."""
        rule = self.rule("nodes/node-a", admit_ips=["127.0.0.1"])
        folder = self.path("node-a")
        for order in ((A, B), (B, A)):
            server = self.serve(NODE_A, NODE_B, access=[rule])
            server.factory.trust.users = frozenset({"backup"})
            for key in order:
                client = server.connect(key=key, user=b"backup")
                listed = manifest(client, folder)
                assert listed is not None
                self.assertEqual(walked(client, folder), listed)
                names = {entry.name for entry in listed}
                self.assertEqual(key is A, b"policy" in names)
