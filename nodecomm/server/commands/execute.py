# SPDX-License-Identifier: MIT
"""
EXEC: a remote run. There is no `cfruncommand` here, and the answer is that of a real
server that has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.replies import Frames, Reply
from nodecomm.wire.framing import encode_transaction
from nodecomm.wire.replies import REFUSAL, TERMINATOR

if TYPE_CHECKING:
    from nodecomm.server.requests import Request

__all__ = ["ExecuteCommand"]

#: Source: CFEngine 3.21 with an empty `cfruncommand`, observed.
_NO_COMMAND = encode_transaction(REFUSAL) + encode_transaction(TERMINATOR + b"\0")


@implementer(ICommand)
class ExecuteCommand:
    """
    The refusal, the terminator, and the end of the connection.
    """

    api = API
    name = "execute"
    words = (b"EXEC",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply:
        """Two transactions."""
        return Frames(
            _NO_COMMAND, "refused", True, "no_command", "there is no cfruncommand here"
        )
