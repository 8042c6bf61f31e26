# SPDX-License-Identifier: MIT
"""
As whom a program runs, and the environment that follows from it.
"""

from __future__ import annotations

import os
import pwd
from typing import Any

from attrs import field, frozen

__all__ = ["Account", "AccountError", "find_account", "own_account"]

#: Where programs that are named without a path are looked for.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class AccountError(Exception):
    """
    Nothing can be run as that user. Name one of this machine, or run the service as
    root.
    """


@frozen
class Account:
    """
    A user of this machine.

    Attributes:
        name: Its name.
        uid: Its number.
        gid: The number of its group.
        groups: The numbers of all its groups; None: the process has them already.
        home: Its folder.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] | None = field(default=None)
    home: str = "/"

    @property
    def environment(self) -> dict[str, str]:
        """
        All that a program finds in its environment.
        """
        return {
            "PATH": _PATH,
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "LANG": "C.UTF-8",
        }

    @property
    def switch(self) -> dict[str, Any]:
        """
        The arguments with which `subprocess.Popen` becomes this user.
        """
        if self.groups is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": self.groups}


def own_account() -> Account:
    """
    The user of this process.
    """
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account("root" if uid == 0 else str(uid), uid, os.getegid())
    return Account(entry.pw_name, uid, os.getegid(), home=entry.pw_dir or "/")


def find_account(name: str | None) -> Account:
    """
    The user of that name; blocks for a look into the system's list of users.

    Args:
        name: As in `cfrunuser`; None: the user of this process.

    Raises:
        AccountError: There is none, or this process may not become that user.
    """
    own = own_account()
    if name is None:
        return own
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise AccountError(f'there is no user "{name}" on this machine') from None
    if entry.pw_uid == own.uid:
        return own
    if own.uid != 0:
        raise AccountError(
            f'only root can run a program as "{name}", and this process is {own.name}'
        )
    groups = tuple(os.getgrouplist(name, entry.pw_gid))
    return Account(
        entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir or "/"
    )
