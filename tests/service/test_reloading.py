# SPDX-License-Identifier: MIT
"""
A new configuration in a running factory.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from attrs import evolve

from nodecomm.config.model import AccessSettings as Access
from nodecomm.config.model import (
    LimitSettings,
    LogSettings,
    PluginSettings,
    ServerSettings,
    Settings,
    TrustWindowSettings,
)
from nodecomm.service import reloading
from nodecomm.service.loading import Loaded, resolve_path
from nodecomm.service.plugins import FoundPlugin, FoundPlugins
from nodecomm.service.prepared import Prepared, prepare
from nodecomm.service.reloading import apply, connections_that_fit, needs_restart
from nodecomm.testing import MemorySource, memory_server

OLD = Settings()


def loaded(settings: Settings) -> Loaded:
    """As if these had been read from a file without a mistake."""
    return Loaded(settings, (), ("server.toml",), settings)


def prepared(settings: Settings, **more: FoundPlugins) -> Prepared:
    """These settings, ready to be put in force."""
    found = more.get("found", FoundPlugins())
    made, checked = prepare(loaded(settings), generation=7, find=lambda: found)
    assert made is not None, checked.problems
    return made


@pytest.mark.parametrize(
    ("new", "keys"),
    [
        (OLD, []),
        (Settings(server=ServerSettings(state_dir="/x")), ["server.state_dir"]),
        (
            Settings(server=ServerSettings(allowciphers="AES256-GCM-SHA384")),
            ["server.allowciphers"],
        ),
        (Settings(limits=LimitSettings(disk_threads=9)), ["limits.disk_threads"]),
        (Settings(log=LogSettings(audit="/x")), ["log.audit"]),
        (Settings(limits=LimitSettings(idle_timeout=9)), []),
        (Settings(server=ServerSettings(listen=("tcp:1",))), []),
    ],
)
def test_what_needs_a_restart(new: Settings, keys: list[str]) -> None:
    """Only what is read at start needs one."""
    assert needs_restart(OLD, new) == keys


@pytest.mark.parametrize(
    ("descriptors", "asked", "fit"),
    [
        (1024, 10_000, 768),
        (1024, 100, 100),
        (100_000, 200_000, 90_000),
        (100, 10, 1),
        (0, 10_000, 10_000),
        (resource.RLIM_INFINITY, 10_000, 10_000),
    ],
)
def test_connections_that_fit(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, asked: int, fit: int
) -> None:
    """Descriptors for files are kept free; no limit means no limit."""
    monkeypatch.setattr(
        reloading, "raise_descriptor_limit", lambda: (descriptors, descriptors)
    )

    assert connections_that_fit(asked)[0] == fit


def test_rules_change_for_open_sessions(tmp_path: Path) -> None:
    """A session that is open is served by the new rules, limits and windows."""
    (tmp_path / "a").write_text("a")
    path = str(tmp_path)
    server = memory_server({"path": path, "admit_ips": ["127.0.0.1"]})
    node = server.connect()
    name = f"{path}/a".encode()
    assert node.stat(name) is not None

    settings = Settings(
        server=ServerSettings(
            trustkeysfrom=(TrustWindowSettings(network="10.0.0.0/8", count=3),),
            trustusers=("joe",),
            denybadclocks=False,
            manifest_max_age=3,
        ),
        access=(Access(path=path, admit_ips=("10.0.0.1",)),),
        limits=LimitSettings(
            idle_timeout=5, connections_before_trust=6, handshakes_at_once=7
        ),
    )
    apply(server.factory, prepared(settings), 8)

    assert node.stat(name) is None
    assert not node.closed
    factory = server.factory
    assert factory.limits.idle_timeout == 5
    assert factory.admission.max_connections == 8
    assert factory.admission.before_trust == 6
    assert factory.gate.at_once == 7
    assert factory.trust.users == {"joe"}
    (window,) = factory.trust.windows
    assert (window.text, window.count) == ("10.0.0.0/8", 3)
    assert window.matches("10.1.2.3")
    assert not window.matches("11.1.2.3")
    assert not factory.serving.deny_bad_clocks
    assert factory.manifests.max_age == 3
    assert factory.serving.evaluator.snapshot.generation == 7
    server.sweep(7)
    node.pump()
    assert node.closed


def test_a_source_arrives() -> None:
    """A source that the new rules name is there when the rules are."""
    source = MemorySource({b"a": b"aaa"})
    plugin = FoundPlugin("source", "memory", "x:y", 1, (), source)
    settings = Settings(
        access=(Access(path="/made", source="memory", admit_ips=("127.0.0.1",)),)
    )
    server = memory_server()
    node = server.connect()
    assert node.stat(b"/made/a") is None
    apply(server.factory, prepared(settings, found=FoundPlugins(sources=(plugin,))), 10)
    status = node.stat(b"/made/a")

    assert status is not None
    assert status.size == 3


@pytest.mark.parametrize(
    ("settings", "key_path"),
    [
        (
            Settings(
                server=ServerSettings(
                    trustkeysfrom=(TrustWindowSettings(network="10.0."),)
                )
            ),
            "server.trustkeysfrom[0]",
        ),
        (
            Settings(server=ServerSettings(allowciphers="NO-SUCH-CIPHER")),
            "server.allowciphers",
        ),
        (
            Settings(plugins=PluginSettings(commands=("nowhere",))),
            "plugins.commands[0]",
        ),
        (Settings(access=(Access(path="relative"),)), "access[0].path"),
    ],
)
def test_what_preparing_finds(settings: Settings, key_path: str) -> None:
    """What reading alone does not see is found before anything is put in force."""
    made, checked = prepare(loaded(settings), find=FoundPlugins)

    assert made is None
    assert checked.settings is None
    assert [p.key_path for p in checked.problems if p.is_error] == [key_path]


def test_plugins_are_not_looked_for_in_vain() -> None:
    """Without a plugin in the configuration no plugin is imported."""

    def find() -> FoundPlugins:
        raise AssertionError

    made, _ = prepare(loaded(evolve(OLD)), find=find)
    assert made is not None


def test_resolving(tmp_path: Path) -> None:
    """Links are followed; what is not there is None; folders are told apart."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "file").write_text("")
    (tmp_path / "link").symlink_to(real)
    base = str(tmp_path.resolve()).encode()

    assert resolve_path(base + b"/link") == (base + b"/real", True)
    assert resolve_path(base + b"/link/file") == (base + b"/real/file", False)
    assert resolve_path(base + b"/missing") is None
    assert resolve_path(base + b"/real/file/below") is None
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        resolve_path(base + b"/loop")
