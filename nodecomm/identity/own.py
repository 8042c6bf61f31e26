# SPDX-License-Identifier: MIT
"""
This machine's own key pair: `localhost.priv` and `localhost.pub`.
"""

from __future__ import annotations

import os

from nodecomm.identity.files import ensure_folder, read_small, write_new
from nodecomm.identity.keys import KeyPair, PublicKey, UnusableKey

__all__ = ["KEYS_FOLDER", "PRIVATE_NAME", "PUBLIC_NAME", "OwnKeyError"]
__all__ += ["create_own_key", "load_own_key"]

#: The folder of keys in the state folder, and the files of the own pair in it.
#: Source: CFEngine 3.21.
KEYS_FOLDER = "ppkeys"
PRIVATE_NAME = "localhost.priv"
PUBLIC_NAME = "localhost.pub"


class OwnKeyError(Exception):
    """
    The own key pair is missing, damaged, or in the way. The text names the file and
    what to do.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


def load_own_key(folder: str | os.PathLike[str]) -> KeyPair:
    """
    Read the own key pair from a folder of keys.

    The private file is what counts. The public one may be missing; if it is there
    it must be of the same key, for other programs read it.

    Raises:
        OwnKeyError: There is none, or it cannot be used.
    """
    path = os.path.join(folder, PRIVATE_NAME)
    data = _read(path)
    if data is None:
        reason = "there is no key; make one with `nodecomm key generate`, or copy one"
        raise OwnKeyError(path, reason)
    try:
        pair = KeyPair.load(data)
    except UnusableKey as error:
        reason = (
            f"{error}; put the right file there, or move it away and make a new key"
        )
        raise OwnKeyError(path, reason) from error
    public = os.path.join(folder, PUBLIC_NAME)
    data = _read(public)
    if data is not None:
        try:
            same = PublicKey.from_pem(data) == pair.public
        except UnusableKey as error:
            reason = f"{error}; remove it, or copy the right one there"
            raise OwnKeyError(public, reason) from error
        if not same:
            reason = (
                f"it is not the public half of {PRIVATE_NAME}; remove the wrong one"
            )
            raise OwnKeyError(public, reason)
    return pair


def create_own_key(
    folder: str | os.PathLike[str], pair: KeyPair | None = None, *, bits: int = 2048
) -> KeyPair:
    """
    Make an own key pair and save it; nothing is ever overwritten. The folder is made
    if it is missing.

    Args:
        folder: The folder of keys.
        pair: The pair to save; a new one by default.
        bits: The size of a new one.

    Raises:
        OwnKeyError: There is a key already.
        InsaneKey: *bits* is not a size that a peer would accept.
        OSError: It could not be written.
    """
    folder = os.fspath(folder)
    for name in (PRIVATE_NAME, PUBLIC_NAME):
        if os.path.lexists(os.path.join(folder, name)):
            raise _in_the_way(folder, name)
    pair = pair or KeyPair.generate(bits)
    ensure_folder(folder)
    # The private half first: after a crash in between the pair can still be loaded.
    if not write_new(folder, PRIVATE_NAME, pair.to_pem()):
        raise _in_the_way(folder, PRIVATE_NAME)
    if not write_new(folder, PUBLIC_NAME, pair.public.to_pem()):
        raise _in_the_way(folder, PUBLIC_NAME)
    return pair


def _in_the_way(folder: str, name: str) -> OwnKeyError:
    reason = (
        "there is a key already and it is not overwritten: nodes know this machine "
        "by it; move it away first if you mean to replace it"
    )
    return OwnKeyError(os.path.join(folder, name), reason)


def _read(path: str) -> bytes | None:
    try:
        return read_small(path)[1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OwnKeyError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise OwnKeyError(path, str(error)) from error
