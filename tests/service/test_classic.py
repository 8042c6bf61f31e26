# SPDX-License-Identifier: MIT
"""
The classic protocol in a service: what is stated about it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.logger import Logger

from nodecomm.config.errors import Problem
from nodecomm.config.model import ServerSettings, Settings
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.own import KEYS_FOLDER, create_own_key
from nodecomm.service import classic
from nodecomm.service.classic import classic_problems, tell_classic
from nodecomm.service.loading import Loaded
from nodecomm.service.prepared import prepare
from nodecomm.testing.server import snapshot_of

SOME = ("10.0.0.0/8", "::1")
OTHERS = ("10.0.0.0/8",)
LACK = "there is none: install one"


def with_legacy(networks: tuple[str, ...] | None) -> Settings | None:
    """A configuration that allows *networks* the classic protocol; None: none yet."""
    if networks is None:
        return None
    return Settings(server=ServerSettings(allowlegacyconnects=networks))


def told(
    networks: tuple[str, ...],
    before: tuple[str, ...] | None,
    missing: Callable[[], str | None],
) -> list[tuple[str, str]]:
    """The events that are stated, each with its field."""
    events: list[dict[str, Any]] = []
    settings = with_legacy(networks)
    assert settings is not None
    tell_classic(
        settings,
        Logger(observer=cast(Any, events.append)),
        before=with_legacy(before),
        missing=missing,
    )
    assert {event["log_level"].name for event in events} <= {"warn"}
    return [
        (event["event"], event.get("networks") or event["reason"]) for event in events
    ]


ALLOWED = ("classic.allowed", "10.0.0.0/8, ::1")
LACKING = ("classic.cipher-missing", LACK)


@pytest.mark.parametrize(
    ("networks", "before", "lack", "expected"),
    [
        ((), None, LACK, []),
        (SOME, None, None, [ALLOWED]),
        (SOME, None, LACK, [ALLOWED, LACKING]),
        (SOME, SOME, LACK, []),
        (SOME, (), LACK, [ALLOWED, LACKING]),
        (SOME, OTHERS, LACK, [ALLOWED]),
        ((), SOME, LACK, []),
    ],
)
def test_what_is_stated(
    networks: tuple[str, ...],
    before: tuple[str, ...] | None,
    lack: str | None,
    expected: list[tuple[str, str]],
) -> None:
    """
    Who may speak the classic protocol is stated at start and when it has changed,
    a missing cipher with the first of these; nothing where nobody may.
    """
    assert told(networks, before, lambda: lack) == expected


def test_the_cipher_is_not_looked_for_in_vain() -> None:
    """Where nobody may speak the classic protocol no cipher is tried."""

    def missing() -> str | None:
        raise AssertionError("asked for")

    assert told((), None, missing) == []
    assert told(OTHERS, SOME, missing) == [("classic.allowed", "10.0.0.0/8")]


def problems_of(bits: int | None, **server: Any) -> list[Problem]:
    """What is wrong with these settings and an own key of this size."""
    settings = Settings(server=ServerSettings(**server))
    key = None if bits is None else PublicKey((1 << bits) - 1, 65537)
    return classic_problems(settings, snapshot_of(settings), key)


@pytest.mark.parametrize(
    ("bits", "listed", "wrong"),
    [
        (8192, SOME, True),
        (4160, SOME, True),
        (4096, SOME, False),
        (None, SOME, False),
        (8192, (), False),
    ],
)
def test_a_key_that_cannot_be_challenged(
    bits: int | None, listed: tuple[str, ...], wrong: bool
) -> None:
    """
    A longer key than the dialog has room for is warned of, with what to do, where
    anybody may begin that dialog.
    """
    found = problems_of(bits, allowlegacyconnects=listed)

    assert [problem.severity for problem in found] == ["warning"] * wrong
    for problem in found:
        assert f"{bits} bits" in problem.message
        assert "4096" in problem.hint


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ({}, []),
        ({"allowconnects": ("10.0.0.0/8",)}, ["server.allowlegacyconnects[1]"]),
        ({"denyconnects": ("10.1.2.3",)}, ["server.allowlegacyconnects[0]"]),
        ({"allowconnects": ("10.1.2.3", "::1")}, []),
    ],
)
def test_an_address_that_may_not_connect(
    lists: dict[str, tuple[str, ...]], named: list[str]
) -> None:
    """
    Who may not connect at all is listed for the classic protocol in vain; a network,
    of which a part may, is not looked into.
    """
    listed = ("10.1.2.3", "::1", "172.16.0.0/12")
    found = problems_of(None, allowlegacyconnects=listed, **lists)

    assert [problem.key_path for problem in found] == named
    assert not any(problem.is_error for problem in found)


def test_the_key_that_is_there_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whoever checks or starts a configuration is told of the key in its state folder. A
    key that is not there yet, or cannot be used, is no matter of this check.
    """
    # Keys that are longer than the real limit take seconds to make.
    monkeypatch.setattr(classic, "MAX_CHALLENGE", 64)
    settings = Settings(
        server=ServerSettings(
            state_dir=str(tmp_path), allowconnects=SOME, allowlegacyconnects=SOME
        )
    )

    def found() -> list[str]:
        made, checked = prepare(Loaded(settings, (), ("server.toml",), settings))
        assert made is not None
        return [problem.message for problem in checked.problems]

    assert found() == []
    keys = tmp_path / KEYS_FOLDER
    create_own_key(keys, bits=1024)
    (message,) = found()
    assert "1024 bits" in message
    (keys / "localhost.priv").write_text("no key")
    assert found() == []
