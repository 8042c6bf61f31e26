# SPDX-License-Identifier: MIT
"""
Which files the trouble of a connection may be about, and when it is enough.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodecomm.client.errors import BadAnswer, ConnectionBroken
from nodecomm.sync.errand import Errand, State, is_refusal, why_never_right
from nodecomm.sync.errors import VerificationFailed

__all__ = ["blame", "suspects_of"]


def suspects_of(
    files: Mapping[bytes, Errand],
    unfinished: list[Errand],
    passed: int,
    careful: Errand | None,
    error: Exception | None,
) -> list[Errand]:
    """
    The files that what happened may be about.

    Args:
        files: All.
        unfinished: Those of which not all has come, in the order of asking.
        passed: The last group of the stream that was checked and right.
        careful: The one that came alone.
        error: What happened.
    """
    if error is None:
        return []
    if careful is not None:
        return [careful]
    if isinstance(error, BadAnswer):
        # Up to the last check that was passed, all was well.
        return [
            errand
            for errand in files.values()
            if errand.state in (State.COMING, State.VERIFY)
            and not errand.carried
            and errand.group == passed
        ]
    return unfinished[:1]


def blame(errand: Errand, error: Exception | None, attempts: int, path: bytes) -> None:
    """
    Treat a file with more care from now on.

    Args:
        errand: Which.
        error: What happened.
        attempts: As often as its content may be asked for.
        path: What it is called on the server.

    Raises:
        VerificationFailed: It had as much care as it may have.
        ConnectionBroken: The same, and the connection broke each time.
    """
    if errand.blamed == errand.attempt:
        # The same content shows in more than one way that it is wrong.
        return
    errand.blamed = errand.attempt
    errand.tries += 1
    errand.level += 1
    if errand.tries < attempts:
        return
    if isinstance(error, ConnectionBroken) and not is_refusal(errand.head):
        raise error
    raise VerificationFailed("digest", why_never_right(errand, path, error))
