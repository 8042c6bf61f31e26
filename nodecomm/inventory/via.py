# SPDX-License-Identifier: MIT
"""
By which relays a file has come: the `Via` header of HTTP.

Two relays that have each other above, or several in a ring, would pass one file round
without end. So each adds a mark of its own to those that a file has come with, and
takes no file that bears its own mark. What is not the mark of a relay, such as the name
of a proxy, is left out: it says nothing about the server above. Rudder's relay neither
reads nor passes on such a header.

Source: RFC 9110, 7.6.3; the answer is 508 (Loop Detected), RFC 5842, 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

__all__ = ["MOST", "join_via", "mark_of", "read_via", "server_of"]

#: Relays that a file may have come by.
#: Source: Rudder climbs 20 levels of servers, and no more.
MOST = 20

#: What sets the mark of a relay apart from the name of a proxy, which may well be that
#: of the same machine.
_PREFIX = "nodecomm-"

#: Bytes of a header that are looked at: `MOST` of the longest marks, and some proxies.
_LOOKED_AT = 16 * 1024

#: One entry: protocol, mark, and perhaps a comment. The mark is a token.
_ENTRY = re.compile(
    rf"[!#$%&'*+.^_`|~0-9A-Za-z/-]{{1,32}}[ \t]+"
    rf"({_PREFIX}[!#$%&'*+.^_`|~0-9A-Za-z-]{{1,150}})(?:[ \t].*)?",
    re.DOTALL,
)


def mark_of(server_id: str) -> str:
    """
    What a relay with this id calls itself.
    """
    return _PREFIX + quote(server_id, safe="")


def server_of(mark: str) -> str:
    """
    The id in a mark, for people.
    """
    return mark.removeprefix(_PREFIX)


def read_via(lines: Iterable[bytes]) -> tuple[str, ...]:
    """
    The marks of relays in the lines of the header, the first relay first; one more than
    `MOST` at the most.
    """
    text = b",".join(lines)[:_LOOKED_AT].decode("latin-1")
    entries = (_ENTRY.fullmatch(each.strip(" \t")) for each in text.split(","))
    return tuple(found[1] for found in entries if found)[: MOST + 1]


def join_via(marks: Sequence[str]) -> str:
    """
    The header.
    """
    return ", ".join(f"1.1 {mark}" for mark in marks)
