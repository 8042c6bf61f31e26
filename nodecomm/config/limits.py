# SPDX-License-Identifier: MIT
"""
The limits of a server as values.
"""

from __future__ import annotations

from attrs import field, frozen

from nodecomm.config.fields import about

__all__ = ["LimitSettings"]


@frozen(kw_only=True)
class LimitSettings:
    """
    `[limits]`: how long, how much, how many.
    """

    first_byte_timeout: float = field(
        default=10,
        metadata=about(
            "A new connection must send its first byte within this.",
            unit="seconds",
            minimum=0.001,
        ),
    )
    handshake_timeout: float = field(
        default=30,
        metadata=about(
            "The TLS handshake must end within this.", unit="seconds", minimum=0.001
        ),
    )
    dialog_timeout: float = field(
        default=20,
        metadata=about(
            "The identification must end within this: the lines after the handshake, "
            "or all of the classic dialog.",
            unit="seconds",
            minimum=0.001,
        ),
    )
    idle_timeout: float = field(
        default=600,
        metadata=about(
            "A session without a request is closed after this.",
            unit="seconds",
            minimum=0.001,
            upstream="A session is kept for as long as the peer keeps it.",
        ),
    )
    write_timeout: float = field(
        default=120,
        metadata=about(
            "A peer that takes nothing of an answer is cut off after this.",
            unit="seconds",
            minimum=0.001,
        ),
    )
    connections_before_trust: int = field(
        default=1000,
        metadata=about(
            "Connections at a time whose key is not trusted yet.",
            unit="connections",
            minimum=1,
        ),
    )
    connections_per_address: int = field(
        default=0,
        metadata=about(
            "Connections at a time from one address; 0 is no limit. "
            "`allowallconnects` applies as well.",
            unit="connections",
            minimum=0,
        ),
    )
    handshakes_at_once: int = field(
        default=32,
        metadata=about(
            "TLS handshakes at a time, and of proofs of classic dialogs as many again "
            "at the most (see `crypto_threads`); the others wait, and sessions that "
            "exist go first.",
            unit="handshakes",
            minimum=1,
        ),
    )
    answers_at_once: int = field(
        default=8,
        metadata=about(
            "Answers of one session that are worked on at a time, each with at most "
            "one file open; further requests are not read until there is room.",
            unit="answers",
            minimum=1,
            maximum=1000,
        ),
    )
    read_ahead: int = field(
        default=262144,
        metadata=about(
            "Bytes of one answer held in memory.", unit="bytes", minimum=16384
        ),
    )
    digest_cache_entries: int = field(
        default=200000,
        metadata=about(
            "File digests remembered, also across restarts; 0 remembers none.",
            unit="entries",
            minimum=0,
        ),
    )
    name_lookups_at_once: int = field(
        default=8,
        metadata=about(
            "Host name look-ups at a time.", unit="look-ups", minimum=1, maximum=1000
        ),
    )
    name_cache_seconds: float = field(
        default=300,
        metadata=about(
            "A looked-up host name is used again for this long.",
            unit="seconds",
            minimum=0,
        ),
    )
    name_timeout: float = field(
        default=10,
        metadata=about(
            "A host name look-up that takes longer counts as failed.",
            unit="seconds",
            minimum=0.001,
        ),
    )
    disk_threads: int = field(
        default=4,
        metadata=about(
            "Threads for reads that must wait for the disk.",
            unit="threads",
            minimum=1,
            maximum=256,
        ),
    )
    digest_threads: int = field(
        default=2,
        metadata=about(
            "Threads that compute digests.", unit="threads", minimum=1, maximum=256
        ),
    )
    crypto_threads: int = field(
        default=2,
        metadata=about(
            "Threads for the classic protocol: the proofs of its dialog, and the "
            "content that is encrypted. Proofs take all but one of them, where there "
            "are several.",
            unit="threads",
            minimum=1,
            maximum=256,
        ),
    )
    stop_grace: float = field(
        default=10,
        metadata=about(
            "When the server stops, answers under way may take this long to end.",
            unit="seconds",
            minimum=0,
        ),
    )
