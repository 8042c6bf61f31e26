# SPDX-License-Identifier: MIT
"""
Why an update did not happen. Whichever it is, the destination is as it was.

What went wrong between this host and the server is told by the errors of
`nodecomm.client.errors`, which an update lets through.
"""

from __future__ import annotations

from nodecomm.client.errors import CodedError

__all__ = [
    "LimitExceeded",
    "LocalError",
    "SourceRefused",
    "SyncError",
    "VerificationFailed",
]


class SyncError(CodedError):
    """
    An update did not happen.
    """


class VerificationFailed(SyncError):  # noqa: N818
    """
    What was received is not what the server has, again and again: a digest that never
    agreed, or a size that never came true (`digest`), answers that contradict each
    other (`contradiction`).
    """


class LocalError(SyncError):
    """
    This host's own disk is in the way: `mount-point`, `read-only`, `no-space`,
    `locked`, `not-a-folder`, `permission`, `exists`, `io`.
    """


class LimitExceeded(SyncError):  # noqa: N818
    """
    The server has more than it may have (`entries`, `depth`, `file-size`,
    `total-size`), it refuses more (`refused`), or it took longer than it may take
    (`duration`). Raise the limit if the tree is meant to be like that.
    """


class SourceRefused(SyncError):  # noqa: N818
    """
    The server does not give the source: it is missing or not allowed, which one
    answer stands for (`refused`), the clocks are too far apart (`clock`), it is
    neither a folder nor a file (`not-copyable`), or the server does something else
    than it says (`error`).
    """
