# SPDX-License-Identifier: MIT
"""
What PostgreSQL and its client library say, for people, on one line.
"""

from __future__ import annotations

import difflib
import re

__all__ = ["meant_parameter", "one_line"]

#: What libpq asks besides.
_ADVICE = ("Is the server running",)

#: Parameters that a URL may have, as far as people write them.
#: Source: PostgreSQL 15, its client library.
_KNOWN = (
    "application_name",
    "channel_binding",
    "connect_timeout",
    "host",
    "hostaddr",
    "keepalives",
    "options",
    "passfile",
    "port",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
)


def meant_parameter(text: str) -> str:
    """
    Which parameter was meant by one that libpq does not know.
    """
    unknown = re.search(r'invalid URI query parameter: "([a-z_]+)"', text)
    near = difflib.get_close_matches(unknown[1], _KNOWN, 1) if unknown else []
    return f"; of its parameters, did you mean {near[0]}?" if near else ""


def one_line(text: str) -> str:
    """
    A driver's text on one line.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "; ".join(x for x in lines if x and not x.startswith(_ADVICE))
