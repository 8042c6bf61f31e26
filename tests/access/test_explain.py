# SPDX-License-Identifier: MIT
"""
Explanations: the steps of a decision, and why other rules did not make it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.explain import explain
from nodecomm.access.requests import AccessRequest
from tests.access.cases import KEY, OTHER_KEY, compiled, file, folder, peer, rules
from tests.access.test_evaluator import UNKNOWN, requests, tables

LOCAL = {"admit_ips": ("127.0.0.1",)}
FILES = {"path": "/srv/files"} | LOCAL
SECRET = {"path": "/srv/files/secret", "admit_ips": ("127.7.7.7",)}
PER_KEY = {
    "path": "/srv/perhost/$(connection.key)/",
    "admit_keys": ("$(connection.key)",),
}
PER_KEY_NO_SLASH = PER_KEY | {"path": "/srv/perhost/$(connection.key)"}

OTHERS: list[tuple[tuple[dict[str, Any], ...], AccessRequest, str, str, str]] = [
    (
        (FILES, SECRET),
        file("/srv/files/secret/s"),
        "/srv/files/",
        "hidden",
        "would have admitted this peer",
    ),
    (
        (FILES, SECRET),
        file("/srv/files/a"),
        "/srv/files/secret/",
        "elsewhere",
        "another path",
    ),
    (
        ({"path": "/srv/new"} | LOCAL,),
        file("/srv/new/a"),
        "/srv/new",
        "no_final_slash",
        "write '/srv/new/'",
    ),
    (
        ({"path": "/srv/new"} | LOCAL,),
        folder("/srv/new"),
        "/srv/new",
        "no_final_slash",
        "no folder",
    ),
    (
        ({"path": "/srv/new/"} | LOCAL,),
        file("/srv/new"),
        "/srv/new/",
        "not_a_folder",
        "covers a folder",
    ),
    (
        (PER_KEY,),
        file(f"/srv/perhost/{OTHER_KEY.md5}/f"),
        "/srv/perhost/$(connection.key)/",
        "other_peer",
        "not this peer",
    ),
    (
        (PER_KEY_NO_SLASH,),
        file(f"/srv/perhost/{KEY.md5}/f"),
        "/srv/perhost/$(connection.key)",
        "no_final_slash",
        "write '/srv/perhost/$(connection.key)/'",
    ),
]


@pytest.mark.parametrize(("given_", "request_", "text", "code", "says"), OTHERS)
def test_why_another_rule_did_not_decide(
    given_: tuple[dict[str, Any], ...],
    request_: AccessRequest,
    text: str,
    code: str,
    says: str,
) -> None:
    """
    The rules that one might have expected are told with the reason.
    """
    told = explain(rules(*given_), peer(), request_).others

    assert [(text, code)] == [(other.rule.text, other.code) for other in told]
    assert says in told[0].text


def test_path_that_leads_elsewhere() -> None:
    """
    A rule that covers the path as it was asked for, before links were followed, is
    told of.
    """
    told = explain(
        rules(FILES), peer(), file("/data/real/a"), asked=b"/srv/files/link/a"
    ).others

    assert [(o.rule.text, o.code) for o in told] == [("/srv/files/", "resolved")]


def test_steps_of_a_decision() -> None:
    """
    The steps say what was looked at, in order, up to the right on the file.
    """
    snapshot = rules(
        FILES | {"admit_hostnames": (".a.org",), "deny_keys": (OTHER_KEY.md5,)}
    )

    steps = explain(snapshot, peer(user="eve", uid=5), file("/srv/files/a")).steps

    assert [
        ("request", "stat of /srv/files/a"),
        ("look-up", "the longest rule for it is /srv/files/ (access[0])"),
        ("admit_ips", 'entry "127.0.0.1" matches 127.0.0.1'),
        ("deny_keys", f"no entry matches {KEY.md5} or {KEY.sha} (1 written)"),
        ("right", "file of owner 0, mode 0644; user eve (uid 5) may read it"),
    ] == [(step.about, step.text) for step in steps]


@pytest.mark.parametrize(
    ("who", "request_", "about", "says"),
    [
        ({}, file(f"/srv/perhost/{KEY.md5}/f"), "admit_keys", "stands for this peer"),
        ({}, file("/x"), "look-up with $(connection.*)", "neither the peer's address"),
        (
            {"user": "eve", "uid": 5},
            file("/srv/files/a", mode=0o600),
            "right",
            "may not read it",
        ),
        (
            {"user": "eve", "uid": 5, "encrypted": False},
            file("/srv/files/a", mode=0o600),
            "right",
            'but entry "127.0.0.1" of maproot does',
        ),
        ({}, folder("/srv/files"), "right", "folders need no right"),
        ({}, file("/srv/enc/a"), "ifencrypted", "encrypted"),
        ({"encrypted": False}, file("/srv/enc/a"), "ifencrypted", "not encrypted"),
        (UNKNOWN, file("/srv/named/a"), "admit_hostnames", "is not known"),
        ({}, file("/srv/named/a"), "admit_hostnames", "has no host name"),
        ({"key": None}, file("/srv/keyed/a"), "admit_keys", "no key is known"),
        ({}, file("/srv/none/a"), "admit", "admits nobody"),
        ({}, AccessRequest("query", b"delta"), "look-up", "names it"),
        ({}, AccessRequest("query", b"other"), "look-up", "no rule of that type"),
    ],
)
def test_step_says(
    who: dict[str, Any], request_: AccessRequest, about: str, says: str
) -> None:
    """
    Each thing that can decide has a step with its outcome.
    """
    snapshot = rules(
        FILES | {"maproot": ("127.0.0.1",)},
        PER_KEY,
        {"path": "/srv/enc/", "ifencrypted": True} | LOCAL,
        {"path": "/srv/named/", "admit_hostnames": (".a.org",)},
        {"path": "/srv/keyed/", "admit_keys": (KEY.md5,)},
        {"path": "/srv/none/"},
        {"path": "delta", "resource_type": "query"} | LOCAL,
    )

    steps = explain(snapshot, peer(**who), request_).steps

    assert any(step.about == about and says in step.text for step in steps), steps


def test_entries_that_match_nobody_are_noted() -> None:
    """
    An entry that was left out at loading is told of where its rule is involved.
    """
    snapshot, _ = compiled(FILES | {"admit_hostnames": ("a(?=b)",)})

    notes = explain(snapshot, peer("9.9.9.9"), file("/srv/files/a")).notes

    assert len(notes) == 1
    assert 'entry "a(?=b)" of admit_hostnames' in notes[0]
    assert "lookahead" in notes[0]


def test_as_json() -> None:
    """
    The plain form holds decision, rule, steps and other rules.
    """
    answer = explain(rules(FILES, SECRET), peer(), file("/srv/files/secret/s"))

    shown = json.loads(json.dumps(answer.as_json()))

    assert shown["allowed"] is False
    assert shown["reason"] == "not_admitted"
    assert shown["rule"]["path"] == "/srv/files/secret/"
    assert shown["steps"][0] == {
        "about": "request",
        "text": "stat of /srv/files/secret/s",
    }
    assert shown["others"][0]["code"] == "hidden"


@settings(max_examples=100)
@given(
    st.lists(tables, max_size=6),
    requests,
    st.sampled_from([UNKNOWN, {}, {"hostname": "h.example.com"}, {"key": None}]),
)
def test_explanation_agrees_with_the_evaluator(
    given_: list[dict[str, Any]], request_: AccessRequest, who: dict[str, Any]
) -> None:
    """
    What is explained is what is decided; the rule that decided is in the steps.
    """
    snapshot = rules(*given_)

    answer = explain(snapshot, peer(**who), request_)

    decided = AccessEvaluator().evaluate(snapshot, peer(**who), request_)
    assert decided.reason == answer.decision.reason
    assert decided.allowed is answer.decision.allowed
    if decided.rule is not None:
        label = decided.rule.label
        assert any(label in step.text for step in answer.steps)
        assert decided.rule not in [other.rule for other in answer.others]
