# SPDX-License-Identifier: MIT
"""
Decisions about keys, and the windows for first use, as values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import field, frozen

__all__ = ["CODES", "TrustDecision", "TrustWindow", "WindowState"]

#: Every code a decision can have. Programs and logs may rely on them.
CODES = {
    # Trusted, or good enough to read the identity of:
    "accepted_node": "the key of a node that an operator has accepted",
    "stored": "this key is stored under this user name",
    "stored_key": "this key is stored under some user name",
    "pinned": "unknown, but its digest was named beforehand",
    "in_window": "unknown, but a window is open for its address",
    "first_use": "saved on first use, through an open window",
    "first_use_pinned": "saved on first use, its digest was named beforehand",
    "changed_key_trusted": "saved on first use, though another key was seen there",
    # Refused:
    "node_refused": "the key of a node that was refused, is blocked, or just removed",
    "node_withdrawn": "stored nowhere, and taken from a node by a decision",
    "nodes_unknown": "stored nowhere, and nobody can say whether it is a node's",
    "not_rsa": "the peer's key is not an RSA key",
    "insane_key": "a key that could share its digest with another one",
    "conflict": "another key is stored where this one would be",
    "bad_user": "a user name that is accepted from nobody",
    "user_not_trusted": "unknown under this user name, which is not in trustusers",
    "changed_key_refused": "unknown, and another key was seen at this address",
    "unknown_key": "unknown, and no window is open for its address",
    "window_expired": "unknown, and the window for its address is over",
    "window_used_up": "unknown, and the window for its address is used up",
}


@frozen
class TrustWindow:
    """
    A time and a number within which unknown keys are trusted on first use.

    Attributes:
        matches: Whether an address is inside its network.
        text: The network as it is configured.
        until: When it ends, in seconds since 1970; None: never.
        count: How many keys it may let in; None: any number.
    """

    matches: Callable[[str], bool] = field(eq=False, repr=False)
    text: str
    until: float | None = None
    count: int | None = None

    @property
    def window_id(self) -> str:
        """
        What its uses are counted under. A larger count goes on with the same
        window; a new end is a new one.
        """
        return self.text if self.until is None else f"{self.text} {self.until:.0f}"

    def expired(self, now: float) -> bool:
        """
        Whether it is over.
        """
        return self.until is not None and now >= self.until


@frozen
class WindowState:
    """
    A window at one moment.

    Attributes:
        window: The window.
        state: Only an `open` one trusts anybody.
        used: How many keys came in through it; None where nobody counts.
    """

    window: TrustWindow
    state: Literal["open", "expired", "used up"]
    used: int | None


@frozen
class TrustDecision:
    """
    Whether a key is trusted.

    Attributes:
        trusted: The decision.
        code: One of `CODES`.
        text: The reason in words, and what the operator can do.
        first_use: Whether the key was saved just now.
        window: The window that let it in, or the one that would have.
        stored_name: The entry that vouches for it.
        previous: For a changed key, the digest or entry that stood there before.
        node: The id of the node whose key it is, where that decides.
    """

    trusted: bool
    code: str
    text: str
    first_use: bool = False
    window: TrustWindow | None = None
    stored_name: str | None = None
    previous: str | None = None
    node: str | None = None

    def __bool__(self) -> bool:
        return self.trusted
