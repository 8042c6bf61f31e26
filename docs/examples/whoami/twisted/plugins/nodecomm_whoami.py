# SPDX-License-Identifier: MIT
"""
A command for nodecomm servers: `WHOAMI` tells a node who it is to the server.

In the server's configuration:

    [plugins]
    commands = ["whoami"]
"""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from nodecomm.interfaces import ICommand
from nodecomm.server.replies import Reply, frame
from nodecomm.server.requests import Request
from nodecomm.wire.errors import RemoteProtocolError


@implementer(IPlugin, ICommand)
class WhoAmICommand:
    """
    Answers one transaction: the user, the key and the address of whoever asks. It
    tells a peer nothing but what the peer itself said, so it asks no access rule.
    """

    api = 1
    name = "whoami"
    words = (b"WHOAMI",)
    versions = frozenset({2, 3})

    def answer(self, request: Request) -> Reply:
        """
        One transaction.

        Raises:
            RemoteProtocolError: The command has no arguments.
        """
        if request.payload.strip(b"\0 \n") != request.word:
            raise RemoteProtocolError("arguments", request.payload, "there are none")
        peer = request.peer
        told = f"OK: {peer.user} {peer.digest} {peer.address}"
        return frame(told.encode("utf-8", "surrogateescape"))


# What Twisted looks for: an object of the module that provides the interfaces.
whoami = WhoAmICommand()
