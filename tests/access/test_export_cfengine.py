# SPDX-License-Identifier: MIT
"""
Rules in CFEngine's language: what is said of them, and what is told where there are no
words for it. Whether cf-serverd decides by it alike is for
tests/interop/test_export.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.export_cfengine import Exported, LeftOut, export_policy
from nodecomm.access.nodes import ServedNode
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.execution import RoleSettings
from nodecomm.config.inventory import InventorySettings
from nodecomm.config.model import AccessSettings, Settings
from nodecomm.config.node_files import NodeFileSettings
from nodecomm.identity.keys import PublicKey
from tests.access.cases import KEY, OTHER_KEY, compiled, resolve, rules

SHA = next(digest for digest in KEY.digests if digest.startswith("SHA="))
LOCAL = {"admit_ips": ("127.0.0.1",)}


def nobody(_digest: str) -> str | None:
    """
    No key is known.
    """


def export(snapshot: Snapshot, **options: Any) -> Exported:
    """
    The rules of *snapshot*, on the disk of the other tests.
    """
    return export_policy(snapshot, **({"resolve": resolve, "md5_of": nobody} | options))


def body(made: Exported) -> str:
    """
    The bundle without comments and line ends.
    """
    text = made.policy.decode("utf-8", "surrogateescape")
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("#"))


def test_no_rule() -> None:
    """
    A server that serves nothing has a bundle, too.
    """
    made = export(Snapshot())
    assert body(made) == "bundle server access_rules() { }"
    assert (made.promises, made.left_out, made.notes) == (0, (), ())


def test_rule() -> None:
    """
    A folder has a final slash, and each list its name.
    """
    snapshot = rules(
        {
            "path": "/srv/files",
            "shortcut": "files",
            "admit_ips": ("10.0.0.0/8", "192.168"),
            "admit_hostnames": (".example.com",),
            "admit_keys": (KEY.md5,),
            "deny_ips": ("10.1.0.0/16",),
            "ifencrypted": True,
            "maproot": ("10.0.0.1", "h.example.com"),
        }
    )
    made = export(snapshot, bundle="mine")
    assert body(made) == (
        "bundle server mine() { access: "
        '"/srv/files/" shortcut => "files", ifencrypted => "true", '
        'admit_ips => { "10.0.0.0/8", "192.168" }, '
        'admit_hostnames => { "^(?i).+\\\\.example\\\\.com$" }, '
        f'admit_keys => {{ "{KEY.md5}" }}, '
        'deny_ips => { "10.1.0.0/16" }, '
        'maproot => { "10.0.0.1", "^(?i)h\\\\.example\\\\.com$" }; }'
    )
    assert made.left_out == ()
    assert [note.split(":")[0] for note in made.notes] == ["host names"]


def test_paths_below_others_come_first() -> None:
    """
    Over the classic protocol the first rule that fits decides.
    """
    snapshot = rules(
        {"path": "/"} | LOCAL,
        {"path": "/srv/files"} | LOCAL,
        {"path": "/srv/d"} | LOCAL,
        {"path": "/srv/files/one.txt"} | LOCAL,
        {"path": "/srv/link"} | LOCAL,
    )
    found = [
        part.split('"')[1] for part in body(export(snapshot)).split(";") if '"' in part
    ]
    assert found == ["/srv/files/one.txt", "/data/real/", "/srv/d/", "/srv/files/", "/"]


def test_shortcuts_of_one_path() -> None:
    """
    A promise has one shortcut; the others stand in promises of the same path.
    """
    snapshot = rules(
        {"path": "/srv/files", "shortcut": "a"} | LOCAL,
        {"path": "/srv/files/", "shortcut": 'b"'},
        {"path": "/srv/d", "shortcut": "d"} | LOCAL,
    )
    text = body(export(snapshot))
    assert '"/srv/files/" shortcut => "a", admit_ips' in text
    assert '"/srv/files/" shortcut => "b\\"";' in text
    assert text.count("shortcut") == 3


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"path": "/srv/gen", "source": "made"} | LOCAL, "the source made answers"),
        (
            {"path": "/srv/d", "deny_keys": (SHA,)} | LOCAL,
            "knows keys by their MD5 digests",
        ),
        (
            {"path": "/srv/d", "deny_ips": ("2001:db8:0-ffff::1",)} | LOCAL,
            "more than 1024",
        ),
        (
            {
                "path": "/srv/$(connection.key)/",
                "admit_keys": ("$(connection.key)",),
                "deny_keys": (OTHER_KEY.md5,),
            },
            "does not ask deny_keys",
        ),
    ],
)
def test_what_cannot_be_said_closes(table: dict[str, Any], told: str) -> None:
    """
    Where a rule would admit more if something were left out, it admits nobody; so does
    another one that says the same path.
    """
    made = export(rules(table))
    assert "admit" not in body(made)
    assert table["path"].rstrip("/") in body(made)
    assert any(told in left.text for left in made.left_out)
    head = made.policy.decode().partition("bundle server")[0]
    for left in made.left_out:
        assert f"# - {left}" in head


def test_what_cannot_be_said_of_those_admitted() -> None:
    """
    An entry that admits is left out by itself.
    """
    table = {"path": "/srv/d", "admit_keys": (SHA, OTHER_KEY.md5)}
    made = export(rules(table))
    assert f'admit_keys => {{ "{OTHER_KEY.md5}" }};' in body(made)
    assert len(made.left_out) == 1
    assert SHA in made.left_out[0].text
    known = export(rules(table), md5_of={SHA: KEY.md5}.get)
    assert known.left_out == ()
    assert f'"{KEY.md5}", "{SHA}", "{OTHER_KEY.md5}",' in body(known)


def test_word_in_a_plain_path_is_nothing() -> None:
    """
    There cf-serverd would admit whoever's key is in the name of a file.
    """
    made = export(rules({"path": "/srv/d", "admit_keys": ("$(connection.key)",)}))
    assert body(made) == 'bundle server access_rules() { access: "/srv/d/"; }'
    assert made.left_out == ()


def test_entries_that_match_nobody() -> None:
    """
    What is no entry here is none there.
    """
    snapshot, problems = compiled(
        {"path": "/srv/d", "admit_ips": ("10.0.0.1", "(?=x)y.*")}
    )
    assert [problem.severity for problem in problems] == ["warning"]
    assert 'admit_ips => { "10.0.0.1" };' in body(export(snapshot))


def test_classic_protocol() -> None:
    """
    Where it is open here, it is told what rules are worth over it there.
    """
    table = {"path": "/srv/d", "deny_keys": (KEY.md5,)} | LOCAL
    assert export(rules(table)).notes == ()
    made = export(rules(table, allowlegacyconnects=("10.0.0.0/8",)))
    assert [note.split(":")[0] for note in made.notes] == ["the classic protocol"]
    assert made.left_out == ()


def test_other_resources() -> None:
    """
    What is no path has its type; expressions must match the whole name.
    """
    snapshot = rules(
        {"path": "a|ab", "resource_type": "bundle"} | LOCAL,
        {"path": "c.*", "resource_type": "context", "ifencrypted": True} | LOCAL,
        {"path": "delta", "resource_type": "query", "deny_keys": (SHA,)} | LOCAL,
        {"path": "v", "resource_type": "variable"} | LOCAL,
        {"path": "text", "resource_type": "literal"} | LOCAL,
    )
    made = export(snapshot)
    assert body(made) == (
        "bundle server access_rules() { access: "
        '"^(?:a|ab)$" resource_type => "bundle", admit_ips => { "127.0.0.1" }; '
        '"^(?:c.*)$" resource_type => "context", ifencrypted => "true", '
        'admit_ips => { "127.0.0.1" }; '
        '"delta" resource_type => "query"; '
        '"v" resource_type => "variable", admit_ips => { "127.0.0.1" }; }'
    )
    assert {left.rule.split()[0] for left in made.left_out} == {"query", "literal"}


def test_roles() -> None:
    """
    Roles are promises of their own.
    """
    settings = Settings(
        roles=(
            RoleSettings(pattern="debug|info", authorize=("root", 'o"dd')),
            RoleSettings(pattern="nobody"),
            RoleSettings(pattern="(?=x)", authorize=("root",)),
        )
    )
    snapshot, _ = compile_snapshot(settings, resolve=resolve)
    made = export(snapshot)
    assert body(made) == (
        'bundle server access_rules() { roles: "^(?:debug|info)$" '
        'authorize => { "root", "o\\"dd" }; }'
    )
    assert made.promises == 1


def with_nodes(*paths: str, nodes: list[ServedNode], **others: Any) -> Snapshot:
    """
    The rules of `[[node_files]]` for these nodes.
    """
    settings = Settings(
        inventory=InventorySettings(networks=("10.0.0.0/8",)),
        node_files=tuple(NodeFileSettings(path=path, **others) for path in paths),
        access=(AccessSettings(path="/srv/share/Alpha/", admit_ips=("10.9.9.9",)),),
    )
    snapshot, problems = compile_snapshot(settings, resolve=resolve)
    assert [problem for problem in problems if problem.is_error] == []
    return snapshot.with_nodes(nodes)


def test_nodes() -> None:
    """
    Each node with a key has its promises, by id, with the MD5 digest of its key. What
    may be a file or a folder has one for each.
    """
    snapshot = with_nodes(
        "/srv/share/{node_id}/",
        "/srv/extra/{node_id}",
        nodes=[
            ServedNode("beta", OTHER_KEY),
            ServedNode("Alpha", KEY),
            ServedNode("keyless", None),
        ],
    )
    made = export(snapshot, without_rule=["node x is served by y"])
    one, two = f'{{ "{KEY.md5}" }}', f'{{ "{OTHER_KEY.md5}" }}'
    assert body(made) == (
        "bundle server access_rules() { access: "
        f'"/srv/extra/Alpha" admit_keys => {one}; '
        f'"/srv/extra/Alpha/" admit_keys => {one}; '
        f'"/srv/extra/beta" admit_keys => {two}; '
        f'"/srv/extra/beta/" admit_keys => {two}; '
        f'"/srv/share/Alpha/" admit_ips => {{ "10.9.9.9" }}, admit_keys => {one}; '
        f'"/srv/share/beta/" admit_keys => {two}; }}'
    )
    assert made.left_out == ()
    text = made.policy.decode()
    assert "# - node x is served by y\n" in text
    assert "node beta\n" in text
    assert "keyless" not in text
    assert 'MD5="' not in text


def test_old_rule_of_a_node() -> None:
    """
    With legacy_hosts the host name and the addresses stand beside the key.
    """
    snapshot = with_nodes(
        "/srv/share/{node_id}/",
        nodes=[ServedNode("beta", KEY, "B.example.com", ("10.0.0.1", "2001:db8::1"))],
        legacy_hosts=True,
    )
    text = body(export(snapshot))
    assert (
        '"/srv/share/beta/" admit_ips => { "10.0.0.1", "2001:db8::1" }, '
        'admit_hostnames => { "^(?i)b\\\\.example\\\\.com$" }, '
        f'admit_keys => {{ "{KEY.md5}" }}, maproot => {{'
    ) in text


def test_folder_of_a_node_that_is_a_link() -> None:
    """
    Nothing is served through it here, and cf-serverd would follow it when it loads the
    rules.
    """
    snapshot = with_nodes(
        "/srv/share/{node_id}/",
        "/srv/extra/{node_id}/",
        nodes=[ServedNode("beta", KEY), ServedNode("gamma", OTHER_KEY)],
    )

    def look(path: bytes) -> Resolved | None:
        if path == b"/srv/share/beta":
            return Resolved(b"/etc", True)
        if path == b"/srv/extra/beta":
            raise PermissionError(13, "Permission denied")
        return None

    made = export(snapshot, resolve=look)
    assert "beta" not in body(made)
    assert body(made).count("gamma") == 2
    told = "\n".join(map(str, made.left_out))
    assert "is a link to /etc" in told
    assert "Permission denied" in told


def test_same_path_is_closed_for_all() -> None:
    """
    cf-serverd takes two promises about a path for one, so what closes one of them
    closes both.
    """
    settings = Settings(
        inventory=InventorySettings(networks=("10.0.0.0/8",)),
        node_files=(NodeFileSettings(path="/srv/share/{node_id}"),),
        access=(
            AccessSettings(
                path="/srv/share/beta/", admit_ips=("10.0.0.1",), deny_keys=(SHA,)
            ),
        ),
    )
    snapshot, _ = compile_snapshot(settings, resolve=resolve)
    made = export(snapshot.with_nodes([ServedNode("beta", OTHER_KEY)]))
    assert '"/srv/share/beta/";' in body(made)
    assert f'"/srv/share/beta" admit_keys => {{ "{OTHER_KEY.md5}" }};' in body(made)


def test_head_is_safe() -> None:
    """
    No text leaves the comments: neither a line end in a path's place nor what a
    terminal would obey.
    """
    odd = "evil\n}\nbundle server b { access: \x1b[2J"
    made = export(Snapshot(), source=odd, without_rule=[odd])
    assert body(made) == "bundle server access_rules() { }"
    assert b"\x1b" not in made.policy


def test_many_nodes() -> None:
    """
    Nothing grows with the square of the nodes.
    """
    nodes = [
        ServedNode(f"node-{number:05}", PublicKey(2**2047 + number * 2 + 1, 65537))
        for number in range(2000)
    ]
    made = export(with_nodes("/srv/share/{node_id}/", nodes=nodes))
    assert made.promises == 2001
    assert made.policy.count(b"admit_keys") == 2000


def test_left_out_as_text() -> None:
    """
    What is missing names the rule first.
    """
    assert str(LeftOut("/srv (x:1)", "no words")) == "/srv (x:1): no words"
