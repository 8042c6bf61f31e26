# SPDX-License-Identifier: MIT
"""
What is raised when a message breaks the protocol.
"""

from __future__ import annotations

from nodecomm.wire.text import safe, to_text

#: Characters of a peer's value that an error message shows. A message stands on
#: one line of a log; the whole value stays in the `value` attribute.
SHOWN = 80


class ProtocolError(Exception):
    """
    A message breaks the protocol.

    Attributes:
        field: What was being read or written, for example `payload length`.
        value: What it was, or None where there is nothing to show.
        limit: What it should have been; may be empty.
    """

    def __init__(
        self, field: str, value: bytes | str | int | None = None, limit: str = ""
    ) -> None:
        super().__init__(field, value, limit)
        self.field = field
        self.value = value
        self.limit = limit

    def __str__(self) -> str:
        """
        The field, the value (cut and made safe for a terminal), the limit.
        """
        text = self.field
        value = self.value
        if isinstance(value, int):
            text += f" {value}"
        elif value is not None:
            cut = value[:SHOWN]
            shown = to_text(cut) if isinstance(cut, bytes) else cut
            more = "..." if len(value) > SHOWN else ""
            text += f" '{safe(shown)}'{more}"
        return f"{text}: {self.limit}" if self.limit else text


class LocalProtocolError(ProtocolError):
    """
    This program asked for a message that the protocol cannot carry.

    Nothing was sent. It is a mistake of the caller, or a name that has no form on
    the wire (a path with a newline, for example).
    """


class RemoteProtocolError(ProtocolError):
    """
    The peer sent something that the protocol does not allow.

    The stream cannot be resynchronised: close the connection. When it happens
    again and again, look at what the peer is; it is no bug of this program.
    """
