# SPDX-License-Identifier: MIT
"""
The state folder and the key in it, as every service needs them at start.
"""

from __future__ import annotations

import fcntl
import os

from twisted.logger import Logger

from nodecomm.identity.files import ensure_folder
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.own import (
    KEYS_FOLDER,
    PRIVATE_NAME,
    OwnKeyError,
    create_own_key,
    load_own_key,
)

__all__ = ["FolderLock", "StartError", "lock_holder", "open_own_key", "os_error_text"]


class StartError(Exception):
    """
    The service cannot start. The text is one line that says what is in the way.
    """


def open_own_key(folder: str, log: Logger) -> KeyPair:
    """
    This machine's key; folder and key are made if they are missing.

    Args:
        folder: The state folder.
        log: Says what was made, and what is open to others.

    Raises:
        StartError: There is no key and none can be made.
    """
    keys = os.path.join(folder, KEYS_FOLDER)
    try:
        ensure_folder(folder)
        for place in (folder, keys):
            _warn_exposed(place, log)
        if os.path.lexists(os.path.join(keys, PRIVATE_NAME)):
            return load_own_key(keys)
        pair = create_own_key(keys)
    except OwnKeyError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(os_error_text(error, folder)) from error
    log.info(
        "made a key for this machine, {key}, in {folder}",
        event="key.generated",
        key=pair.public.md5,
        folder=keys,
    )
    return pair


def _warn_exposed(place: str, log: Logger) -> None:
    """
    Whoever can write there can give himself any right.
    """
    try:
        mode = os.stat(place).st_mode
    except FileNotFoundError:
        return
    if mode & 0o022:
        log.warn(
            "others may write to {folder} (mode {mode}), and so become trusted:"
            " chmod 700 it",
            event="state.exposed",
            folder=place,
            mode=f"{mode & 0o7777:04o}",
        )


def os_error_text(error: OSError, place: str) -> str:
    """
    An error of the system with the name of what it is about.
    """
    return f"{error.filename or place}: {error.strerror or error}"


class FolderLock:
    """
    A file that only one process holds at a time, with its number in it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> bool:
        """
        Hold it from now on; False if another process does.

        Raises:
            OSError: The file cannot be made.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """
        Let go. The file stays, so that nobody holds one that is no longer there.
        """
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def lock_holder(path: str) -> int | None:
    """
    The number of the process that holds the lock at *path*, 0 if its number is not
    known; None when nobody does.

    Raises:
        OSError: It cannot be told.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 32).decode("ascii", "replace").strip()
            return int(text) if text.isdecimal() else 0
        return None
    finally:
        os.close(descriptor)
