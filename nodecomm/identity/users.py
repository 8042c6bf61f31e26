# SPDX-License-Identifier: MIT
"""
The user name that this process has, and which claimed ones are good enough to become
part of a file name.
"""

from __future__ import annotations

import os
import pwd
import unicodedata

__all__ = ["MAX_USER_BYTES", "UntrustedUser", "check_user", "own_user", "valid_user"]

#: Bytes of the longest user name. The real server takes up to 1023, which no file
#: name can hold; Linux accounts have at most 32.
MAX_USER_BYTES = 64

_NEVER = frozenset("/\\")
_NEVER_FIRST = (".", "-")


class UntrustedUser(ValueError):  # noqa: N818
    """
    A peer claims a user name that is not accepted from anybody.

    Attributes:
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"user name {name[:80]!a} {reason}")
        self.reason = reason


def own_user() -> bytes:
    """
    The name of the user who runs this process, as on the wire.
    """
    number = os.geteuid()
    try:
        return os.fsencode(pwd.getpwuid(number).pw_name)
    except KeyError:
        return b"root" if number == 0 else str(number).encode()


def valid_user(raw: bytes) -> str:
    """
    The user name that a peer claims, as text.

    The empty name is legal: a peer that sends none has it.

    Raises:
        UntrustedUser: It is no UTF-8, has more than 64 bytes, has a slash, a
            backslash, white space, a control or an invisible character, or begins
            with `.` or `-`.
    """
    if len(raw) > MAX_USER_BYTES:
        shown = raw[:MAX_USER_BYTES].decode("utf-8", "backslashreplace")
        raise UntrustedUser(shown, f"has {len(raw)} bytes, at most {MAX_USER_BYTES}")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = raw.decode("utf-8", "backslashreplace")
        raise UntrustedUser(shown, "is not UTF-8") from error
    if not name.isascii() or not name.isalnum():
        _check_characters(name)
    return name


def check_user(name: str) -> str:
    """
    As `valid_user`, for a name that is text already.

    Raises:
        UntrustedUser: The name is not acceptable.
    """
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UntrustedUser(name, "is not UTF-8") from error
    return valid_user(raw)


def _check_characters(name: str) -> None:
    """
    Refuse what could leave the folder, deceive a reader or look like an option.
    """
    if name.startswith(_NEVER_FIRST):
        raise UntrustedUser(name, f"begins with {name[0]}")
    for character in name:
        # Cc control, Cf invisible and text direction, Cs surrogate, Z white space.
        category = unicodedata.category(character)
        if character in _NEVER or category in {"Cc", "Cf", "Cs"} or category[0] == "Z":
            raise UntrustedUser(name, f"has the character {character!a}")
