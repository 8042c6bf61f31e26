# SPDX-License-Identifier: MIT
"""
Trust windows and keys that were seen, where several servers share a database: a window
is as wide for all of them together as the configuration says.
"""

from __future__ import annotations

from nodecomm.storage.postgres import Area

__all__ = ["KEYS"]

#: The tables of `nodecomm.storage.windows` and `nodecomm.storage.seen`, with the same
#: columns as in SQLite.
KEYS = Area(
    "keys",
    2,
    (
        (
            """
            CREATE TABLE seen (
                digest TEXT NOT NULL,
                address TEXT NOT NULL,
                direction TEXT NOT NULL CHECK (direction IN ('incoming', 'outgoing')),
                last DOUBLE PRECISION NOT NULL,
                PRIMARY KEY (digest, address, direction)
            )
            """,
            "CREATE INDEX seen_by_address ON seen (address, direction, last)",
            "CREATE INDEX seen_by_time ON seen (last)",
            """
            CREATE TABLE window_uses (
                "window" TEXT NOT NULL,
                token TEXT NOT NULL,
                PRIMARY KEY ("window", token)
            )
            """,
        ),
    ),
)
