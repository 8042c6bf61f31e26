# SPDX-License-Identifier: MIT
"""
`nodecomm plugins list`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nodecomm.cli import main, plugins
from nodecomm.service.plugins import BrokenPlugin, FoundPlugin, FoundPlugins

FOUND = FoundPlugins(
    (
        FoundPlugin("command", "hello", "a.b:Hello", 1, (b"HELLO", b"HI\xff"), None),
        FoundPlugin("command", "old", "a.b:Old", 0, (b"OLD",), None, "it is too old"),
    ),
    (FoundPlugin("source", "facts", "a.b:Facts", 1, (), None),),
    (BrokenPlugin("ImportError: no \x1b[2J", "/x/y.py:3"),),
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with the plugins above installed."""
    monkeypatch.setattr(plugins, "find_plugins", lambda: FOUND)

    def run(*arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        status = main.run(["plugins", *arguments], out, err)
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that names two of them."""
    path = tmp_path / "server.toml"
    path.write_text(
        '[plugins]\ncommands = ["hello"]\n'
        '[[access]]\npath = "/facts"\nsource = "facts"\nadmit_ips = ["10.0.0.1"]\n'
    )
    return path


def test_table(run: Run) -> None:
    """The table shows kind, name, words, origin, and what is wrong."""
    status, out, err = run("list")

    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["KIND", "NAME", "WORDS", "FROM", "STATE"],
        ["command", "hello", "HELLO", "HI\\xff", "a.b:Hello"],
        ["command", "old", "OLD", "a.b:Old", "it", "is", "too", "old"],
        ["source", "facts", "a.b:Facts"],
        ["cannot", "be", "imported:", "ImportError:", "no", "\\x1b[2J", "(/x/y.py:3)"],
    ]


def test_json(run: Run, config: Path) -> None:
    """As JSON the same facts, with what a configuration makes active."""
    status, out, _ = run("list", "--json", "-c", str(config))

    facts = json.loads(out)
    assert status == 0
    assert [(each["name"], each["active"]) for each in facts["plugins"]] == [
        ("hello", True),
        ("old", False),
        ("facts", True),
    ]
    assert facts["plugins"][0] == {
        "kind": "command",
        "name": "hello",
        "api": 1,
        "words": ["HELLO", "HI\\xff"],
        "origin": "a.b:Hello",
        "fault": None,
        "active": True,
    }
    assert facts["broken"] == [
        {"error": "ImportError: no \x1b[2J", "where": "/x/y.py:3"}
    ]


def test_active_in_the_table(run: Run, config: Path) -> None:
    """With a configuration the table says which are active."""
    _, out, _ = run("list", "--config", str(config))

    states = {line.split()[1]: line.split()[-1] for line in out.splitlines()[1:4]}
    assert (states["hello"], states["facts"]) == ("active", "active")


def test_nothing_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is installed it says so."""
    monkeypatch.setattr(plugins, "find_plugins", FoundPlugins)

    assert run("list") == (0, "no plugins are installed\n", "")


def test_a_wrong_configuration(run: Run, tmp_path: Path) -> None:
    """A configuration with mistakes is told with all of them, status 1."""
    path = tmp_path / "server.toml"
    path.write_text("[server]\nlisten = 5\nunknown = 1\n")
    status, out, err = run("list", "-c", str(path))

    assert (status, out) == (1, "")
    assert err.count(f"{path}:") == 2


def test_what_to_do_must_be_said(run: Run) -> None:
    """Without a word the command says which there are."""
    status, _, err = run()

    assert status == 2
    assert "list" in err
