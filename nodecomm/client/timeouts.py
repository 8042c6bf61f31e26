# SPDX-License-Identifier: MIT
"""
How long a server is waited for.
"""

from __future__ import annotations

from attrs import frozen

__all__ = ["Timeouts"]


@frozen
class Timeouts:
    """
    Seconds, all of them.

    Attributes:
        connect: Until TCP is connected, for each address of a name.
        handshake: For the TLS handshake.
        dialog: From the handshake to the welcome.
        answer: Silence while an answer is awaited.
        digest: Silence while the comparison of a digest is awaited and the file's
            size is not known: the server reads the whole file first.
        slow: Over so long a time at least `SLOW_RATE` bytes a second must come, or
            `SLOW_ANSWERS` answers.
        goodbye: For the server to end the connection when we have said good-bye.
    """

    connect: float = 30.0
    handshake: float = 30.0
    dialog: float = 30.0
    answer: float = 30.0
    digest: float = 600.0
    slow: float = 60.0
    goodbye: float = 2.0

    @classmethod
    def of(cls, seconds: float) -> Timeouts:
        """
        Those of somebody who says how long, in one number. Slowness is judged over
        twice that, but never over less than 20 s (one small answer at a time, from
        very far away, must not count as slow) and never over more than 60.
        """
        return cls(
            connect=seconds,
            handshake=seconds,
            dialog=seconds,
            answer=seconds,
            slow=min(60.0, max(20.0, 2 * seconds)),
        )


#: Bytes a second below which a server counts as too slow.
SLOW_RATE = 1024

#: Answers in `Timeouts.slow` seconds that make a server quick enough whatever their
#: size: answers to single small requests over a long way are few bytes.
SLOW_ANSWERS = 10

#: Bytes a second at which a server is expected to read a file that it compares. The
#: slowest disks in use are some ten times faster.
DIGEST_RATE = 4 << 20
