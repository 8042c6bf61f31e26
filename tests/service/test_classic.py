# SPDX-License-Identifier: MIT
"""
The classic protocol in a service: what is stated about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.logger import Logger

from nodecomm.config.model import ServerSettings, Settings
from nodecomm.service.classic import tell_classic

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
