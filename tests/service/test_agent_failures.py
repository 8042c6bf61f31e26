# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_failures`.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from nodecomm.client import errors as client_errors
from nodecomm.client.address import ServerAddress
from nodecomm.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionBroken,
    Refused,
    Rejected,
    Unreachable,
    UntrustedServer,
)
from nodecomm.service.agent_failures import describe_failure
from nodecomm.sync import errors as sync_errors
from nodecomm.sync.errors import (
    LimitExceeded,
    LocalError,
    SourceRefused,
    SyncError,
    VerificationFailed,
)

SERVER = ServerAddress("hub", 5308)


@pytest.mark.parametrize(
    ("error", "kind", "flags"),
    [
        # Flags: s of the server, e worth trying elsewhere, h heals.
        (Unreachable("connection-refused", "t"), "unreachable", "seh"),
        (Unreachable("name-unknown", "t"), "unreachable", "seh"),
        (UntrustedServer("key-unknown", "t", SERVER, None), "untrusted", "se"),
        (UntrustedServer("store-unusable", "t", SERVER, None), "untrusted", "se"),
        (UntrustedServer("no-proof", "t", SERVER, None), "untrusted", "se"),
        (Rejected("not-trusted", "t"), "refused", "se"),
        (Rejected("dialog-timeout", "t"), "refused", "seh"),
        (ConnectionBroken("reset", "t"), "broken", "seh"),
        (BadAnswer("bad-listing", "t"), "broken", "seh"),
        (ClientError("other", "t"), "broken", "seh"),
        (Refused("refused", b"x", b"BAD:"), "refused", "e"),
        (SourceRefused("clock", "t"), "refused", "e"),
        (VerificationFailed("digest", "t"), "verification", "eh"),
        (LimitExceeded("entries", "t"), "limit", "e"),
        (LocalError("mount-point", "t"), "local", ""),
        (LocalError("locked", "t"), "local", "h"),
        (SyncError("other", "t"), "refused", "e"),
        (PermissionError(13, "Permission denied", "/x"), "local", ""),
        (ZeroDivisionError("t"), "bug", ""),
    ],
)
def test_each_error(error: Exception, kind: str, flags: str) -> None:
    """Which kind it is, who is to blame, what is worth trying."""
    failure = describe_failure(error, SERVER)

    assert failure.kind == kind
    found = "s" * failure.of_server + "e" * failure.elsewhere + "h" * failure.heals
    assert found == flags
    assert failure.text
    assert failure.remedy


@pytest.mark.parametrize("module", [client_errors, sync_errors])
def test_every_error_has_a_kind(module: object) -> None:
    """No error of client and sync is taken for a mistake of this program."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, (ClientError, SyncError))
    ]
    assert len(classes) >= 5
    for each in classes:
        error = each.__new__(each)
        error.code, error.text = "some-code", "some text"
        assert describe_failure(error, SERVER).kind != "bug"


def test_every_code_of_a_key_and_of_the_disk_has_its_own_way_out() -> None:
    """The codes that the classes name have a remedy of their own."""
    for cls in (LocalError, UntrustedServer):
        codes = re.findall(r"`([a-z-]+)`", cls.__doc__ or "")
        assert len(codes) >= 3
        remedies = set()
        for code in codes:
            error: Any = cls.__new__(cls)
            error.code, error.text = code, "text"
            remedies.add(describe_failure(error, SERVER).remedy)
        assert len(remedies) == len(codes)


def test_the_server_is_named() -> None:
    """What is to be typed can be copied."""
    error = UntrustedServer("key-changed", "t", SERVER, None)

    assert (
        "`nodecomm server-key accept hub:5308`"
        in describe_failure(error, SERVER).remedy
    )
    for code in ("key-changed", "key-unknown"):
        error = UntrustedServer(code, "t", SERVER, None)
        remedy = describe_failure(error, SERVER, classic=True).remedy
        assert "`nodecomm server-key accept hub:5308 --protocol classic`" in remedy


def test_who_decides_is_asked_as_the_agent_asked() -> None:
    """What explains a decision about TLS says nothing about the classic protocol."""
    error = Refused("refused", b"/srv", b"BAD: no")
    for classic, command in (
        (False, "`nodecomm access explain` tells"),
        (True, "`nodecomm access explain --protocol classic` tells"),
    ):
        assert command in describe_failure(error, SERVER, classic=classic).remedy


def test_own_files_that_are_refused_for_another_reason() -> None:
    """Only the refusal that a node meets before it is accepted speaks of that."""
    for code, expected in (("refused", True), ("clock", False), ("error", False)):
        failure = describe_failure(SourceRefused(code, "t"), SERVER, node_id="n-1")
        assert ("`nodecomm nodes accept n-1`" in failure.remedy) is expected


def test_a_key_that_the_server_does_not_trust() -> None:
    """The way in that a node has is named before those that a deleted one has not."""
    remedy = describe_failure(Rejected("not-trusted", "t"), SERVER).remedy

    ways = ("nodecomm nodes accept", "nodecomm key trust", "trustkeysfrom")
    assert sorted(ways, key=remedy.index) == list(ways)


def test_a_file_that_is_named_in_bytes() -> None:
    """Its name is shown as a name."""
    error = PermissionError(13, "Permission denied", b"/srv/a\xff")

    assert describe_failure(error, SERVER).text == "/srv/a\\xff: Permission denied"
