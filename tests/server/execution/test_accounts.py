# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.server.execution.accounts`.
"""

from __future__ import annotations

import os
import pwd

import pytest

from nodecomm.server.execution.accounts import (
    Account,
    AccountError,
    find_account,
    own_account,
)


def test_ones_own() -> None:
    """Without a name, and by one's own, nothing is switched."""
    entry = pwd.getpwuid(os.geteuid())
    for account in (own_account(), find_account(None), find_account(entry.pw_name)):
        assert account == Account(
            entry.pw_name, entry.pw_uid, os.getegid(), home=entry.pw_dir
        )
        assert account.switch == {}


def test_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root becomes another user with all that makes one."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    entry = pwd.getpwnam("daemon")
    account = find_account("daemon")

    assert account.switch == {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": tuple(os.getgrouplist("daemon", entry.pw_gid)),
    }
    assert account.environment["HOME"] == entry.pw_dir
    assert account.environment["USER"] == account.environment["LOGNAME"] == "daemon"


def test_only_root_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody else cannot become another user, and is told so."""
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)

    assert find_account("nobody").switch == {}
    with pytest.raises(AccountError, match='only root can run a program as "daemon"'):
        find_account("daemon")


@pytest.mark.parametrize("name", ["no-such-user", "a\0b", ""])
def test_nobody_of_that_name(name: str) -> None:
    """A user who is not there is an error that names him."""
    with pytest.raises(AccountError, match="there is no user"):
        find_account(name)


@pytest.mark.parametrize(("number", "name"), [(0, "root"), (54321, "54321")])
def test_a_user_without_an_entry(
    number: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the list of users has no entry for this process, its number has to do."""

    def missing(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(os, "geteuid", lambda: number)
    monkeypatch.setattr(pwd, "getpwuid", missing)

    assert own_account() == Account(name, number, os.getegid())
    assert own_account().environment["HOME"] == "/"
