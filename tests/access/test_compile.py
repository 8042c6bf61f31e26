# SPDX-License-Identifier: MIT
"""
What is wrong with rules, told in one run with the place of each mistake.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.config.errors import Origin
from nodecomm.config.model import AccessSettings, ServerSettings, Settings
from tests.access.cases import KEY, compiled, resolve, rules

LOCAL = {"admit_ips": ("127.0.0.1",)}
RULE = {"path": "/srv/files"}

PROBLEMS: list[tuple[dict[str, Any], str, str, str]] = [
    (LOCAL, "error", "access[0]", "does not say what it is about"),
    ({"path": ""} | LOCAL, "error", "access[0].path", "does not say"),
    ({"path": "srv/files"} | LOCAL, "error", "access[0].path", "write '/srv/files'"),
    ({"path": "/srv/a\\q"} | LOCAL, "error", "access[0].path", "no escape"),
    ({"path": "/srv/a\\x00"} | LOCAL, "error", "access[0].path", "NUL"),
    ({"path": "/srv/a\\x0a"} | LOCAL, "error", "access[0].path", "newline"),
    (
        {"path": "/srv/files/one.txt/"} | LOCAL,
        "error",
        "access[0].path",
        "write '/srv/files/one.txt'",
    ),
    (
        {"path": "/srv/new"} | LOCAL,
        "warning",
        "access[0].path",
        "write '/srv/new/' if it is to be a folder",
    ),
    ({"path": "/srv/new/"} | LOCAL, "warning", "access[0].path", "all below it"),
    (
        {"path": "/srv/link/$(connection.ip)/"} | LOCAL,
        "warning",
        "access[0].path",
        "write '/data/real/$(connection.ip)/'",
    ),
    (
        {"path": "/srv/x/../$(connection.key)/"} | LOCAL,
        "warning",
        "access[0].path",
        "another name",
    ),
    (
        {"path": "/srv/$(connection.key)"} | LOCAL,
        "warning",
        "access[0].path",
        "write '/srv/$(connection.key)/'",
    ),
    (RULE, "warning", "access[0]", "admits nobody"),
    (
        RULE | {"admit_ips": ("10.0.0.1", "192.168.")},
        "error",
        "access[0].admit_ips[1]",
        "write '192.168' or '192.168.0.0/16'",
    ),
    (
        RULE | LOCAL | {"deny_ips": ("192.168.",)},
        "error",
        "access[0].deny_ips[0]",
        "matches no address",
    ),
    (
        RULE | {"admit_ips": ("n1.example.com",)},
        "error",
        "access[0].admit_ips[0]",
        "admit_hostnames",
    ),
    (
        RULE | {"admit_hostnames": ("10.0.0.1",)},
        "error",
        "access[0].admit_hostnames[0]",
        "list of addresses",
    ),
    (
        RULE | {"admit_keys": ("root",)},
        "error",
        "access[0].admit_keys[0]",
        "MD5= and 32",
    ),
    (
        RULE | {"admit_ips": ("1(?=0).*",)},
        "warning",
        "access[0].admit_ips[0]",
        "lookahead is not supported; the entry matches nobody",
    ),
    (
        RULE | LOCAL | {"deny_ips": ("1(?=0).*",)},
        "error",
        "access[0].deny_ips[0]",
        "lookahead is not supported",
    ),
    (
        RULE | {"admit_hostnames": (r"(a)\1",)},
        "warning",
        "access[0].admit_hostnames[0]",
        "backreference",
    ),
    (
        RULE | LOCAL | {"deny_hostnames": ("a++",)},
        "error",
        "access[0].deny_hostnames[0]",
        "possessive",
    ),
    (RULE | {"admit": ("local.*",)}, "warning", "access[0].admit[0]", "nobody"),
    (
        RULE | LOCAL | {"deny": ("local.*",)},
        "error",
        "access[0].deny[0]",
        "no counterpart",
    ),
    (
        RULE | {"admit": ("face.de",)},
        "error",
        "access[0].admit[0]",
        "the characters of addresses",
    ),
    (RULE | {"admit": ("MD5=x",)}, "error", "access[0].admit[0]", "32 lower-case"),
    (
        RULE | LOCAL | {"maproot": (KEY.md5,)},
        "error",
        "access[0].maproot[0]",
        "no keys",
    ),
    (
        RULE | LOCAL | {"shortcut": "a/b"},
        "error",
        "access[0].shortcut",
        "without a slash",
    ),
    (
        {"path": "x", "resource_type": "query", "shortcut": "y"} | LOCAL,
        "error",
        "access[0].shortcut",
        "has no shortcut",
    ),
    (
        {"path": "x", "resource_type": "literal", "source": "y"} | LOCAL,
        "error",
        "access[0].source",
        "has no source",
    ),
    (
        {"path": "a(?!b)", "resource_type": "context"} | LOCAL,
        "warning",
        "access[0].path",
        "covers nothing",
    ),
    (
        {"path": "a(?!b)", "resource_type": "bundle", "deny_ips": ("1.1.1.1",)} | LOCAL,
        "error",
        "access[0].path",
        "covers nothing",
    ),
]


@pytest.mark.parametrize(("table", "severity", "key_path", "says"), PROBLEMS)
def test_problem_is_told(
    table: dict[str, Any], severity: str, key_path: str, says: str
) -> None:
    """
    A mistake is told with its key, how bad it is, and what to write instead.
    """
    _, problems = compiled(table)

    told = [p for p in problems if p.key_path == key_path and says in str(p)]
    assert [severity] == [p.severity for p in told]
    if severity == "warning":
        assert not any(p.is_error for p in problems)


@pytest.mark.parametrize(
    "table",
    [
        RULE | LOCAL,
        {"path": "/srv/perip/$(connection.ip).json"} | LOCAL,
        {"path": "/srv/perhost/$(connection.key)/"} | LOCAL,
        {"path": "/generated", "source": "gen"} | LOCAL,
        {"path": "some.*", "resource_type": "context"} | LOCAL,
        RULE | {"admit": ("10.0.0.0/8", KEY.md5, r".*\.example\.com", r"10\.0\..*")},
    ],
)
def test_good_rules_are_told_nothing(table: dict[str, Any]) -> None:
    """
    A rule without a mistake draws no message.
    """
    assert compiled(table)[1] == []


def test_all_problems_in_one_run() -> None:
    """
    No mistake hides another, in rules and among those who may connect.
    """
    _, problems = compiled(
        {"admit_ips": ("1.",)},
        {"path": "x", "admit_ips": ("2.", "3."), "shortcut": "/"},
        RULE | {"deny_keys": ("k",)},
        RULE | LOCAL | {"shortcut": "a"},
        {"path": "/srv/d", "shortcut": "a"} | LOCAL,
        allowconnects=("4.", "n1.example.com"),
        denyconnects=("1(?=0).*",),
        allowallconnects=("$(connection.ip)",),
        allowlegacyconnects=("5.",),
    )

    assert {p.key_path for p in problems if p.is_error} == {
        "access[0]",
        "access[0].admit_ips[0]",
        "access[1].path",
        "access[1].admit_ips[0]",
        "access[1].admit_ips[1]",
        "access[2].deny_keys[0]",
        "access[4].shortcut",
        "server.allowconnects[0]",
        "server.allowconnects[1]",
        "server.denyconnects[0]",
        "server.allowallconnects[0]",
        "server.allowlegacyconnects[0]",
    }


def test_unsupported_entry_of_allowconnects_is_a_warning() -> None:
    """
    In a list that admits, an expression beyond the engine matches nobody, and the
    list is still not an empty one.
    """
    snapshot, problems = compiled(allowconnects=("1(?=0).*",))

    assert [p.severity for p in problems] == ["warning"]
    assert len(snapshot.allowconnects) == 1
    assert snapshot.allowconnects.match("10.0.0.1") is None


def test_problem_names_where_it_stands() -> None:
    """
    A problem, a rule and an entry know their line; what stands nowhere is told with
    the table that would hold it.
    """
    table = Origin("server.toml", 10, 1)
    path = Origin("server.toml", 11, 1)
    entry = Origin("server.toml", 13, 5)
    origins = {
        "access[0]": table,
        "access[0].path": path,
        "access[0].admit_ips[1]": entry,
    }
    access = (
        AccessSettings(path="/srv/files", admit_ips=("10.0.0.1", "1(?=0).*")),
        AccessSettings(),
    )

    snapshot, problems = compile_snapshot(
        Settings(access=access, origins=origins), resolve=resolve, generation=3
    )

    assert entry is problems[0].origin
    assert snapshot.generation == 3
    assert snapshot.rules[0].place == "server.toml:11"
    assert path is snapshot.rules[0].origin
    entries = [e.origin for e in snapshot.rules[0].admit_ips]
    assert [origin.line for origin in entries if origin is not None] == [10, 13]
    assert [(name, e.text) for name, e in snapshot.rules[0].ineffective()] == [
        ("admit_ips", "1(?=0).*")
    ]


def test_path_that_cannot_be_resolved() -> None:
    """
    A path that may exist but cannot be looked at is an error of its rule alone.
    """

    def failing(path: bytes) -> Resolved | None:
        raise OSError(40, "Too many levels of symbolic links")

    access = (AccessSettings(path="/srv/loop", admit_ips=("10.0.0.1",)),)

    snapshot, problems = compile_snapshot(Settings(access=access), resolve=failing)

    assert [p.key_path for p in problems] == ["access[0].path"]
    assert "Too many levels" in problems[0].message
    assert snapshot.rules == ()


def test_tables_for_one_path_become_one_rule() -> None:
    """
    Rules for the same place, by whatever name, are one; lists add up and keep order.
    """
    snapshot = rules(
        {"path": "/srv/link", "admit_ips": ("10.0.0.1",)},
        {"path": "/srv/files", "admit_ips": ("10.0.0.9",)},
        {"path": "/srv/link/", "admit_ips": ("10.0.0.2",), "ifencrypted": True},
    )

    rule = snapshot.rules[0]
    assert [r.path for r in snapshot.rules] == [b"/data/real", b"/srv/files"]
    assert [e.text for e in rule.admit_ips] == ["10.0.0.1", "10.0.0.2"]
    assert rule.ifencrypted
    assert rule.written == ("/srv/link", "/srv/link/")


def test_one_path_with_two_sources_is_an_error() -> None:
    """
    Two tables for one path cannot name two sources.
    """
    _, problems = compiled(
        {"path": "/g", "source": "a"} | LOCAL, {"path": "/g", "source": "b"} | LOCAL
    )

    assert [p.key_path for p in problems] == ["access[1].source"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (RULE | LOCAL, False),
        (RULE | {"admit_hostnames": (".a.org",)}, True),
        (RULE | LOCAL | {"deny_hostnames": (".a.org",)}, True),
        (RULE | LOCAL | {"maproot": (".a.org",)}, True),
        (RULE | {"admit_hostnames": ("a(?=b)",)}, False),
        (RULE | {"admit_hostnames": ("$(connection.hostname)",)}, False),
        ({"path": "/srv/$(connection.hostname)/"} | LOCAL, True),
        ({"path": "x", "resource_type": "query", "admit_hostnames": ("a",)}, True),
    ],
)
def test_whether_host_names_are_needed(table: dict[str, Any], expected: bool) -> None:
    """
    Names are looked up only where a rule could tell the difference.
    """
    assert expected is rules(table).uses_hostnames


def test_connection_lists_are_taken_over() -> None:
    """
    The lists of `[server]` are in the snapshot.
    """
    snapshot = rules(
        allowconnects=("10.0.0.0/8",),
        denyconnects=("10.9.0.0/16",),
        allowallconnects=("10.1",),
        allowlegacyconnects=("::1",),
        allowusers=("root",),
    )

    assert snapshot.allowconnects.match("10.1.1.1") == "10.0.0.0/8"
    assert snapshot.denyconnects.match("10.9.1.1") == "10.9.0.0/16"
    assert snapshot.allowallconnects.match("10.1.1.1") == "10.1"
    assert snapshot.allowlegacyconnects.match("::1") == "::1"
    assert snapshot.allowusers == {"root"}


texts = st.lists(st.text(max_size=12), max_size=3).map(tuple)
LISTS = (
    "admit_ips",
    "admit_hostnames",
    "admit_keys",
    "deny_ips",
    "deny_hostnames",
    "deny_keys",
    "admit",
    "deny",
    "maproot",
)
KINDS = ["path", "literal", "context", "query", "bundle", "variable"]


@settings(max_examples=100)
@given(
    st.text(max_size=12),
    st.sampled_from(KINDS),
    st.fixed_dictionaries({}, optional=dict.fromkeys(LISTS, texts)),
    texts,
)
def test_any_settings_compile(
    path: str, kind: Any, given_: dict[str, Any], connects: tuple[str, ...]
) -> None:
    """
    Whatever the settings say there is a snapshot, and every entry that matches
    nobody has been told of.
    """
    access = (AccessSettings(path="/" + path, resource_type=kind, **given_),)
    server = ServerSettings(allowconnects=connects, denyconnects=connects)

    snapshot, problems = compile_snapshot(
        Settings(server=server, access=access), resolve=resolve
    )

    told = {p.key_path for p in problems}
    for rule in (*snapshot.rules, *snapshot.names):
        for name, entry in rule.ineffective():
            old = name.split("_", 1)[0]
            assert any(key.startswith(f"access[0].{old}") for key in told), entry
    assert len(snapshot.allowconnects) == len(connects)
