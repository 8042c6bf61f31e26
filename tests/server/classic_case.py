# SPDX-License-Identifier: MIT
"""
A folder that is served over the classic protocol, and frames to send to its server.
"""

from __future__ import annotations

import os
from typing import Any

from nodecomm.identity.keys import PublicKey
from nodecomm.testing import MemoryClassicClient, MemoryServer, key_pair
from nodecomm.wire.classic import CLEAR, NONCE_SIZE, Challenge, encode_mpi, encode_sauth
from nodecomm.wire.framing import TransactionBuffer, encode_transaction
from nodecomm.wire.replies import REFUSAL
from tests.server.test_session import TreeTestCase

#: What the server says last to a peer whose dialog it does not like.
REFUSED = encode_transaction(REFUSAL)

#: A challenge in clear.
NONCE = b"\0\0\0\x21\0" + bytes(range(128, 160))

#: What opens a connection.
CAUTH = encode_transaction(b"CAUTH 127.0.0.1 localhost root 0")
SAUTH = encode_transaction(encode_sauth(Challenge(CLEAR, NONCE, NONCE_SIZE)))


def key_frames(key: PublicKey) -> bytes:
    """
    The two messages of a public key.
    """
    numbers = (key.modulus, key.exponent)
    return b"".join(encode_transaction(encode_mpi(number)) for number in numbers)


def payloads(data: bytes) -> list[bytes]:
    """
    The payloads of whole frames, and nothing else.
    """
    buffer = TransactionBuffer()
    buffer.feed(data)
    found = []
    while (payload := buffer.next_payload()) is not None:
        found.append(payload)
    assert not len(buffer), "half a frame was sent"
    return found


class ClassicTestCase(TreeTestCase):
    """
    A folder that is served as `files` to 127.0.0.1, by all protocols.
    """

    def make_server(self, *, server: Any = None, **more: Any) -> MemoryServer:
        """A server of the folder."""
        tables = {"allowlegacyconnects": ["127.0.0.1"], **(server or {})}
        return super().make_server(server=tables, **more)

    def ask(self, *requests: bytes, **more: Any) -> tuple[list[bytes], bool]:
        """
        Send requests on a connection of their own.

        Returns:
            The payloads of the answers, and whether the server closed.
        """
        node = self.node(**more)
        found = node.request(*requests)
        return found, node.closed

    def node(self, **more: Any) -> MemoryClassicClient:
        """A node that may ask."""
        return self.server.connect_classic(**more)

    def dial(self, **more: Any) -> MemoryClassicClient:
        """A node that has said nothing yet."""
        node = self.server.dial_classic(**more)
        assert node is not None
        return node

    def opened(self, **more: Any) -> MemoryClassicClient:
        """A node that has been challenged by the server."""
        node = self.dial(**more)
        node.send(CAUTH + SAUTH + key_frames(node.key_pair.public))
        return node


#: Another node's key.
OTHER = 2


def other_key() -> Any:
    """
    A key pair that no server of these tests knows.
    """
    return key_pair(OTHER)


def name(path: Any) -> bytes:
    """
    A path as on the wire.
    """
    return os.fsencode(path)
