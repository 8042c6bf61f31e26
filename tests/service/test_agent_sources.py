# SPDX-License-Identifier: MIT
"""
Tests for `nodecomm.service.agent_sources`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nodecomm.client.address import ServerAddress
from nodecomm.client.classic_dialing import ClassicDialer
from nodecomm.client.dialing import Dialer
from nodecomm.identity.server_keys import SERVER_KEYS_FOLDER, ServerKeyStore
from nodecomm.server.pools import InlinePool
from nodecomm.service.agent_sources import SyncSources
from nodecomm.service.own_state import StartError
from nodecomm.sync.syncing import Syncer
from nodecomm.testing import key_pair
from tests.service.agents import Reactor
from tests.service.test_agent_prepared import prepare

HUB = ServerAddress("hub")


def dialer_of(folder: Path, more: str) -> Any:
    """What an agent with such a configuration connects with."""
    prepared, problems = prepare(folder, f'user = "me"\ntimeout = "7s"\n{more}')
    assert prepared is not None, problems
    sources = SyncSources(Reactor())
    source = sources.open(prepared, key_pair(1), InlinePool())(HUB)
    assert isinstance(source, Syncer)
    return source._dialer


def test_tls(tmp_path: Path) -> None:
    """Where nothing else is said, or a number."""
    for more, newest in (("", 3), ("protocol = 2", 2)):
        dialer = dialer_of(tmp_path, more)
        assert isinstance(dialer, Dialer)
        assert (dialer.newest, dialer.user) == (newest, b"me")


def test_classic(tmp_path: Path) -> None:
    """With the agent's own key, and encrypted if that was asked for."""
    for more, encrypt in (("", False), ("encrypt = true", True)):
        dialer = dialer_of(tmp_path, f'protocol = "classic"\n{more}')
        assert isinstance(dialer, ClassicDialer)
        assert (dialer.encrypt, dialer.user) == (encrypt, b"me")
        assert dialer.own_digest == key_pair(1).public.md5
        assert dialer.timeouts.connect == 7.0


def test_the_keys_that_a_server_may_have(tmp_path: Path) -> None:
    """Those that are stored, as a classic server must prove to hold one."""
    dialer = dialer_of(tmp_path, 'protocol = "classic"')
    assert tuple(dialer.trust.candidates(str(HUB))) == ()
    store = ServerKeyStore(str(tmp_path / "state" / SERVER_KEYS_FOLDER))
    store.add(str(HUB), key_pair(2).public)
    assert tuple(dialer.trust.candidates(str(HUB))) == (key_pair(2).public,)


def test_without_the_cipher(tmp_path: Path) -> None:
    """The agent says at start what is missing; in the clear it needs nothing."""
    patch = mock.patch(
        "nodecomm.client.classic_dialing.missing", lambda: "no Blowfish here"
    )
    with patch:
        dialer_of(tmp_path, 'protocol = "classic"')
        with pytest.raises(StartError, match=r"agent.encrypt = true: no Blowf.*out"):
            dialer_of(tmp_path, 'protocol = "classic"\nencrypt = true')


def test_a_name_that_the_protocol_cannot_carry(tmp_path: Path) -> None:
    """The agent says so at start."""
    user = "x" * 256
    prepared, problems = prepare(tmp_path, f'user = "{user}"\nprotocol = "classic"')
    assert prepared is not None, problems
    with pytest.raises(StartError, match=r"user name 'xxx.*at most 255 bytes"):
        SyncSources(Reactor()).open(prepared, key_pair(1), InlinePool())
