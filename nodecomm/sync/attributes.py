# SPDX-License-Identifier: MIT
"""
What a folder or file has besides its content: owner, mode, access list, extended
attributes, copied from one object to another.
"""

from __future__ import annotations

import errno
import os
import stat

from nodecomm.sync.posix import UNSUPPORTED

__all__ = ["copy_attributes", "copy_default_list", "copy_extended", "set_owner"]

#: Attributes that a process may be unable to give whatever its rights: what the
#: system makes of the object itself, or what other programs keep their notes in.
_BEST_EFFORT = (b"security.ima", b"security.evm", b"trusted.", b"system.nfs4_acl")

#: What a change of mode, owner or content does to these is the system's business.
_NEVER = frozenset({b"security.capability"})

_HAS_XATTR = hasattr(os, "listxattr")


def _extended(descriptor: int) -> dict[bytes, bytes]:
    if not _HAS_XATTR:
        return {}
    try:
        names = [os.fsencode(name) for name in os.listxattr(descriptor)]
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return {}
        raise
    found = {}
    for name in names:
        if name in _NEVER:
            continue
        try:
            found[name] = os.getxattr(descriptor, name)
        except OSError as error:
            if error.errno != errno.ENODATA and not name.startswith(_BEST_EFFORT):
                raise
    return found


def copy_extended(source: int, target: int, *, remove: bool = True) -> None:
    """
    Give an open object the extended attributes of another, access lists included.

    Args:
        remove: Whether what only *target* has is removed. It has some of its own when
            the folder that it was made in hands an access list down.

    Raises:
        OSError: One of them cannot be given or removed.
    """
    wanted = _extended(source)
    present = _extended(target)
    for name, value in wanted.items():
        if present.get(name) == value:
            continue
        try:
            os.setxattr(target, name, value)
        except OSError:
            if not name.startswith(_BEST_EFFORT):
                raise
    if remove:
        for name in present.keys() - wanted.keys():
            try:
                os.removexattr(target, name)
            except OSError as error:
                # A label of a security module cannot be taken away, only changed.
                if error.errno != errno.ENODATA and not name.startswith(b"security."):
                    raise


def set_owner(descriptor: int, uid: int, gid: int) -> None:
    """
    Change the owner of an open object, if it is another one. The mode may lose bits
    by this: set it afterwards.

    Raises:
        OSError: It may not be changed.
    """
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(
            descriptor,
            uid if uid != status.st_uid else -1,
            gid if gid != status.st_gid else -1,
        )


def copy_attributes(source: int, target: int) -> None:
    """
    Give an open object owner, extended attributes, access lists and mode of another.
    Times are not changed.

    Raises:
        OSError: Something of it cannot be given.
    """
    status = os.fstat(source)
    set_owner(target, status.st_uid, status.st_gid)
    copy_extended(source, target)
    # After the access list, whose mask shows as the bits of the group.
    os.fchmod(target, stat.S_IMODE(status.st_mode))


def copy_default_list(source: int, target: int) -> None:
    """
    Let what is made in one open folder get the access list that it would get in
    another.

    Raises:
        OSError: The list cannot be given.
    """
    name = b"system.posix_acl_default"
    wanted = _extended(source).get(name)
    present = _extended(target).get(name)
    if wanted is not None and wanted != present:
        os.setxattr(target, name, wanted)
    elif wanted is None and present is not None:
        os.removexattr(target, name)
