# SPDX-License-Identifier: MIT
"""
Why a file did not get to a server.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CertificateRefused",
    "Permanent",
    "SendFailed",
    "Transient",
    "UntrustedServer",
    "failure_of",
]

#: Answers that will be the same next time, for it is the file that is not wanted: its
#: name, its size, its form, or the way that it came. All others are about the server,
#: the way to it, or its configuration, which may heal.
_PERMANENT = frozenset({400, 409, 411, 412, 413, 414, 415, 422, 508})

#: What to do about an answer, for those that somebody can do something about.
_ADVICE = {
    401: "check the user and the password; the two boxes have different ones",
    403: "this machine's address is not in the server's allowed networks, or the "
    "address of the server is that of something else",
    404: "check the address of the server; nothing takes inventories there",
    405: "check the address of the server; something else answers there",
    407: "a proxy wants a password; connections to servers go without a proxy",
    408: "the way to the server is too slow, or its time limit is too short",
    411: "the server does not take this file without its length",
    412: "the server has a file of that name, or does not read this one",
    413: "the file is larger than the server takes",
    429: "the server has too much to do",
    503: "the server has too much to do, or is starting",
    507: "the server's disk is full",
    508: "it was there before; relays pass it round",
}


class SendFailed(Exception):  # noqa: N818
    """
    Something was not sent, or its answer says no.

    Attributes:
        reason: Why, in words, and what can be done about it.
        status: What the server answered; None if it has not.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Transient(SendFailed):
    """
    It may go well another time: no connection, no answer, or one that says so, or one
    about something that somebody may put right, such as a password.

    Attributes:
        retry_after: Seconds that the server asks to wait; None if it does not.
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, status)
        self.retry_after = retry_after


class CertificateRefused(Transient):
    """
    The server is the right one, and does not take the certificate that we have shown.

    Args:
        words: What it says, in OpenSSL's words.
    """

    def __init__(self, words: str) -> None:
        text = f"the server does not take this node's own certificate ({words})"
        super().__init__(text)


class UntrustedServer(Transient):
    """
    The server is not the one that is meant, or nobody can tell. Nothing was sent to it.

    Attributes:
        code: Why, in a word: `key-changed`, `key-unknown`, `key-unusable`,
            `certificate`, `hostname`, `store-unusable`.
        shown: The names of the key that it showed: `sha256//...`, and `MD5=...` and
            `SHA=...` of an RSA key.
    """

    def __init__(self, reason: str, code: str, shown: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.code = code
        self.shown = tuple(shown)


class Permanent(SendFailed):
    """
    The server does not want this file, and will not want it next time either.
    """


def failure_of(
    status: int, text: str, *, retry_after: float | None = None
) -> Transient | Permanent:
    """
    What an answer means that is no success.

    Args:
        status: Its code.
        text: What it says, checked for odd characters.
        retry_after: Seconds that it asks to wait.
    """
    words = f"the server answers {status}"
    if text:
        words += f" ({text})"
    advice = _ADVICE.get(status)
    if advice:
        words += f": {advice}"
    if status in _PERMANENT:
        return Permanent(words, status)
    return Transient(words, status, retry_after)
