# SPDX-License-Identifier: MIT
"""
What is asked for, as the evaluator sees it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "FILE_OPERATIONS",
    "NAME_OPERATIONS",
    "RIGHT_OPERATIONS",
    "ROLE",
    "AccessRequest",
    "is_resolved",
]

#: Operations on files and folders; path rules decide. `exec` is about the program
#: that is run when a peer asks for a run.
FILE_OPERATIONS = frozenset({"stat", "opendir", "md5", "get", "exec"})

#: Operations for which the right on the file itself counts. Listing is not among
#: them: a folder that a rule opens may be listed by every user. Nor is `exec`: the
#: program is run by the server, and the peer does not get its content.
RIGHT_OPERATIONS = frozenset({"stat", "md5", "get"})

#: Operations on names; the rules with that `resource_type` decide.
NAME_OPERATIONS = frozenset({"literal", "variable", "context", "query", "bundle"})

#: The operation on a class that a run shall have; `[[roles]]` decide, by the user.
ROLE = "role"


class AccessRequest(NamedTuple):
    """
    One request, after everything in it was resolved.

    Attributes:
        operation: One of `FILE_OPERATIONS` or `NAME_OPERATIONS`, or `ROLE`. Every
            class of a CONTEXT request, and every class and bundle of an EXEC, is a
            request of its own.
        path: For a file the resolved absolute path without a final slash (`/` is
            the root); otherwise the handle, class, query name or bundle.
        is_directory: Whether the path is a folder.
        owner: The user number that owns the file; None: nobody known.
        mode: Its permission bits (the type bits may be there too); None: unknown,
            then only root has a right on it.
        encrypted: Whether this request came encrypted, where that differs from
            request to request (classic protocol); None: as the connection.
    """

    operation: str
    path: bytes
    is_directory: bool = False
    owner: int | None = None
    mode: int | None = None
    encrypted: bool | None = None


def is_resolved(path: bytes) -> bool:
    """
    Whether *path* is absolute and has no empty, `.` or `..` component and no final
    slash (the root excepted): only then does its text say what it is below.
    """
    if path[:1] != b"/" or b"//" in path:
        return False
    if path[-1:] == b"/" and path != b"/":
        return False
    return b"/." not in path or not {b".", b".."} & set(path.split(b"/"))
