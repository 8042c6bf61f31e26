# SPDX-License-Identifier: MIT
"""
VERSION: what release the server behaves like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from nodecomm.interfaces import API, ICommand
from nodecomm.server.replies import frame
from nodecomm.wire.replies import version_reply

if TYPE_CHECKING:
    from nodecomm.server.replies import Reply
    from nodecomm.server.requests import Request

__all__ = ["COMPATIBLE_VERSION", "VersionCommand"]

#: The release of cf-serverd whose behaviour this server shows.
COMPATIBLE_VERSION = b"3.21.0"


@implementer(ICommand)
class VersionCommand:
    """
    `VERSION` is answered to every authenticated peer, whatever the access rules.

    Source: CFEngine 3.21, observed.
    """

    api = API
    name = "version"
    words = (b"VERSION",)
    versions = frozenset({1, 2, 3})

    def answer(self, request: Request) -> Reply:
        """`OK: ` and the release."""
        return frame(version_reply(COMPATIBLE_VERSION))
