# SPDX-License-Identifier: MIT
"""
What the exit status of a command that talks to a server says.
"""

from __future__ import annotations

import os
import re
from enum import IntEnum

from nodecomm.client.errors import (
    BadAnswer,
    CodedError,
    ConnectionBroken,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.identity.own import OwnKeyError
from nodecomm.sync.errors import (
    LimitExceeded,
    LocalError,
    SourceRefused,
    SyncError,
    VerificationFailed,
)
from nodecomm.wire.cipher import CipherMissing
from nodecomm.wire.errors import LocalProtocolError

__all__ = ["Status", "code_of", "status_of", "text_of"]


class Status(IntEnum):
    """
    Exit statuses. They are part of the public interface.

    Attributes:
        DONE: Done; nothing had to be done, or all of it was.
        LOCAL: This host is in the way: its key, its disk, a lock.
        USAGE: The command line is wrong.
        UNREACHABLE: No connection, or none that lasted.
        UNTRUSTED: The server's key is not the one that is expected.
        REFUSED: The server does not want us, or does not give what was asked for.
        UNVERIFIED: What came is not what the server has, or makes no sense.
        INTERRUPTED: By SIGINT, as shells number it.
        TERMINATED: By SIGTERM.
    """

    DONE = 0
    LOCAL = 1
    USAGE = 2
    UNREACHABLE = 3
    UNTRUSTED = 4
    REFUSED = 5
    UNVERIFIED = 6
    INTERRUPTED = 130
    TERMINATED = 143


#: The first that fits counts.
_STATUSES: tuple[tuple[type[Exception], Status], ...] = (
    (UntrustedServer, Status.UNTRUSTED),
    (Unreachable, Status.UNREACHABLE),
    (ConnectionBroken, Status.UNREACHABLE),
    (Rejected, Status.REFUSED),
    (Refused, Status.REFUSED),
    (SourceRefused, Status.REFUSED),
    (BadAnswer, Status.UNVERIFIED),
    (VerificationFailed, Status.UNVERIFIED),
    (LimitExceeded, Status.UNVERIFIED),
    (SyncError, Status.LOCAL),
    (OwnKeyError, Status.LOCAL),
    (CipherMissing, Status.LOCAL),
    # A name that no request can carry.
    (LocalProtocolError, Status.USAGE),
    (OSError, Status.LOCAL),
)

#: Codes that mean something else than their class: the server's key was not looked
#: at, the server never said anything, the update took too long.
_BY_CODE = {
    "store-unusable": Status.LOCAL,
    "dialog-timeout": Status.UNREACHABLE,
    "duration": Status.UNREACHABLE,
}


_IN_CONFIGURATION = re.compile(r'replace = "(\w+)"')


def status_of(error: BaseException) -> Status | None:
    """
    The exit status for an error; None for a bug.
    """
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return _BY_CODE.get(code_of(error), status)
    return None


def code_of(error: BaseException) -> str:
    """
    The stable word for an error.
    """
    if isinstance(error, CodedError):
        return error.code
    if isinstance(error, LocalProtocolError):
        return "bad-name"
    if isinstance(error, CipherMissing):
        return "cipher-missing"
    return "own-key" if isinstance(error, OwnKeyError) else "io"


def text_of(error: BaseException) -> str:
    """
    What to tell a person, in one line; `safe` it before it is printed.
    """
    if isinstance(error, OwnKeyError) and "there is no key" in str(error):
        return (
            f"{error.path}: this host has no key yet; make one with `nodecomm key "
            "generate` (`nodecomm bootstrap` makes one too)"
        )
    if isinstance(error, Refused) and error.code == "refused":
        return (
            f"{error}: it is missing or not allowed, one answer stands for both; on the"
            " server, its log or `nodecomm access explain` says which (with --protocol"
            " classic where that is spoken; a rule may ask for --encrypt then)"
        )
    if isinstance(error, CipherMissing):
        return f"{error}, or leave out --encrypt"
    if isinstance(error, LocalError):
        # An update tells it as a configuration says it.
        return _IN_CONFIGURATION.sub(r"--replace \1", str(error))
    if isinstance(error, BrokenPipeError):
        return "the output was closed before all of it was written"
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        if error.filename is not None:
            return f"{os.fsdecode(error.filename)}: {what}"
        return what
    return str(error)
