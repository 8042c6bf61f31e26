# SPDX-License-Identifier: MIT
"""
Frames, and what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodecomm.wire.framing import MAX_RECORD, TransactionBuffer
from nodecomm.wire.run_output import OutputLines, Printed


def payloads(frames: bytes) -> list[bytes]:
    """
    What is in whole frames, none of which says that more follow.
    """
    buffer = TransactionBuffer()
    buffer.feed(frames)
    found = []
    while (transaction := buffer.next_transaction()) is not None:
        assert not transaction.more
        found.append(transaction.payload)
    assert not len(buffer)
    return found


def lines_of(pieces: Sequence[bytes]) -> list[bytes]:
    """
    The payloads that come of output in these pieces; every record must be one that
    real programs can read.
    """
    lines = OutputLines()
    whole = [lines.feed(piece) for piece in pieces]
    whole.append(lines.finish())
    records = [record for each in whole for record in Printed(each).records]
    assert all(0 < len(record) <= MAX_RECORD for record in records)
    return [payload for record in records for payload in payloads(record)]
