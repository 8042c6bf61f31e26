# SPDX-License-Identifier: MIT
"""
Rules that follow from the nodes: each node's files are open to its key alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodecomm.access.compile import compile_snapshot
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.nodes import ServedNode, is_served_here
from nodecomm.access.requests import AccessRequest
from nodecomm.access.snapshot import Snapshot
from nodecomm.config.errors import Origin
from nodecomm.config.inventory import InventorySettings
from nodecomm.config.model import AccessSettings, ServerSettings, Settings
from nodecomm.config.node_files import CommonFileSettings, NodeFileSettings
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.peer import Peer
from tests.access.cases import KEY, OTHER_KEY, file, folder, peer, reason, resolve

A, B = "2bb4e01b-be7e-4c9e-9c30-177aada44869", "E51ED2A4-node"
SHARE = "/srv/nodes/{node_id}/"
NODES = (
    ServedNode(A, KEY, "Web1.Example.com.", ("10.0.0.1", "127.0.0.1", "fe80::1")),
    ServedNode(B, OTHER_KEY, "web2.example.com", ("10.0.0.2", "::ffff:10.0.0.3")),
)


def built(
    *paths: str | Mapping[str, Any],
    access: Sequence[Mapping[str, Any]] = (),
    common: Sequence[str] = (),
    networks: Sequence[str] = ("10.0.0.0/8",),
    **server: Any,
) -> tuple[Snapshot, list[str]]:
    """
    The snapshot of these `[[node_files]]`, and what is wrong, one line for each.
    """
    tables = [
        NodeFileSettings(**({"path": path} if isinstance(path, str) else path))
        for path in paths
    ]
    origins = {
        f"node_files[{index}].path": Origin("server.toml", 100 + index, 1)
        for index in range(len(tables))
    }
    whole = Settings(
        server=ServerSettings(**server),
        access=tuple(AccessSettings(**table) for table in access),
        inventory=InventorySettings(networks=tuple(networks)),
        node_files=tuple(tables),
        common_files=tuple(CommonFileSettings(path=path) for path in common),
        origins=origins,
    )
    snapshot, problems = compile_snapshot(whole, resolve=resolve)
    return snapshot, [
        f"{p.severity} {p.key_path}: {p.message} [{p.hint}]" for p in problems
    ]


def served(*paths: str | Mapping[str, Any], **more: Any) -> Snapshot:
    """
    The snapshot with two nodes in force.
    """
    snapshot, problems = built(*paths, **more)
    assert not [problem for problem in problems if problem.startswith("error")]
    return snapshot.with_nodes(NODES)


OTHER = peer(key=OTHER_KEY)
STRANGER = peer(key=PublicKey(2**2047 + 2**70 + 1, 65537))
NOBODY: dict[str, Any] = {"user": "backup", "uid": 1234}
PRIVATE: dict[str, Any] = {"mode": 0o100600}

DECISIONS: list[tuple[Peer, AccessRequest, str]] = [
    (peer(), folder(f"/srv/nodes/{A}"), "admitted"),
    (peer(), folder(f"/srv/nodes/{A}/rules/x"), "admitted"),
    (peer(), file(f"/srv/nodes/{A}/rules/x/y"), "admitted"),
    (peer(), file(f"/srv/nodes/{A}/rules/x/y", "exec"), "admitted"),
    (peer(**NOBODY), file(f"/srv/nodes/{A}/secret", **PRIVATE), "admitted"),
    (
        peer(**NOBODY, encrypted=False, protocol=1),
        file(f"/srv/nodes/{A}/secret", "get", **PRIVATE),
        "admitted",
    ),
    (OTHER, folder(f"/srv/nodes/{B}"), "admitted"),
    (OTHER, folder(f"/srv/nodes/{A}"), "not_admitted"),
    (OTHER, file(f"/srv/nodes/{A}/rules/x"), "not_admitted"),
    (STRANGER, folder(f"/srv/nodes/{A}"), "not_admitted"),
    (peer(key=None), folder(f"/srv/nodes/{A}"), "not_admitted"),
    # What is nobody's, or nearly somebody's.
    (peer(), folder("/srv/nodes"), "no_rule"),
    (peer(), file(f"/srv/nodes/{A}"), "no_rule"),
    (peer(), folder(f"/srv/nodes/{A.upper()}"), "no_rule"),
    (peer(), folder(f"/srv/nodes/{A}x"), "no_rule"),
    (peer(), folder(f"/srv/nodes/{A}."), "no_rule"),
    (peer(), folder(f"/srv/nodes/x/{A}"), "no_rule"),
    (peer(), folder("/srv/nodes/unknown"), "no_rule"),
    (peer(), folder(f"/srv/nodes2/{A}"), "no_rule"),
    (peer(), folder(f"/srv/nodes/{A}/../{B}"), "unresolved_path"),
    (peer(), folder(f"/srv/nodes//{A}"), "unresolved_path"),
]


@pytest.mark.parametrize(("who", "request_", "expected"), DECISIONS)
def test_folder_of_a_node_is_open_to_its_key_alone(
    who: Peer, request_: AccessRequest, expected: str
) -> None:
    """Its key counts, under any user name, and nothing else does."""
    assert reason(served(SHARE), who, request_) == expected


def test_decision_names_the_table_and_the_node() -> None:
    """Whoever reads a log finds the place in the configuration."""
    snapshot = served(SHARE)
    decision = AccessEvaluator(snapshot).evaluate(
        snapshot, peer(), folder(f"/srv/nodes/{A}")
    )

    assert decision.rule is not None
    assert (decision.rule.node, decision.rule.table) == (A, "node_files")
    assert decision.rule.written == (SHARE,)
    assert decision.text == (
        f'rule /srv/nodes/{A}/ (server.toml:100) admits: entry "{KEY.md5}" of '
        "admit_keys (server.toml:100)"
    )


@pytest.mark.parametrize("digest", KEY.digests)
def test_rule_has_both_digests(digest: str) -> None:
    """A node's key is known by either name."""
    rule = served(SHARE).find(f"/srv/nodes/{A}".encode(), True)

    assert rule is not None
    assert digest in [entry.text for entry in rule.admit_keys]


PLACES = [
    ("/srv/{node_id}/policy/", f"/srv/{A}/policy", True, True),
    ("/srv/{node_id}/policy/", f"/srv/{A}", True, False),
    ("/srv/{node_id}/policy/", f"/srv/{A}/policy2", True, False),
    ("/srv/node-{node_id}.d/", f"/srv/node-{A}.d/x", False, True),
    ("/srv/node-{node_id}.d/", f"/srv/node-{A}.d.d/x", False, False),
    ("/srv/node-{node_id}.d/", f"/srv/{A}/x", False, False),
    ("/srv/{node_id}/{node_id}/", f"/srv/{A}/{A}/x", False, True),
    ("/srv/{node_id}/{node_id}/", f"/srv/{A}/{B}/x", False, False),
    ("/srv/{node_id}-{node_id}/", f"/srv/{A}-{A}/x", False, True),
    ("/srv/{node_id}-{node_id}/", f"/srv/{A}-{B}/x", False, False),
    ("/srv/{node_id}-{node_id}/", f"/srv/{A}/x", False, False),
    ("/srv/{node_id}.tar", f"/srv/{A}.tar", False, True),
    ("/srv/{node_id}.tar", f"/srv/{A}.tar", True, True),
    ("/srv/{node_id}.tar", f"/srv/{A}.tar/x", False, True),
    ("/srv/{node_id}.tar", f"/srv/{A}.tarx", False, False),
    ("/srv/{node_id}", f"/srv/{A}", False, True),
    # The folder above is a link.
    ("/srv/link/{node_id}/", f"/data/real/{A}/x", False, True),
    ("/srv/link/{node_id}/", f"/srv/link/{A}/x", False, False),
    # It is a link's folder that is still to be made.
    ("/srv/link/new/{node_id}/", f"/data/real/new/{A}/x", False, True),
]


@pytest.mark.parametrize(("path", "asked", "is_directory", "allowed"), PLACES)
def test_id_stands_anywhere_in_a_path(
    path: str, asked: str, is_directory: bool, allowed: bool
) -> None:
    """As a whole name, as a part of one, more than once, behind links."""
    request = AccessRequest("stat", asked.encode(), is_directory, 0, 0o644)

    assert (reason(served(path), peer(), request) == "admitted") is allowed


ODD_IDS = ["..", ".", "", "a/b", "a/../b", "$(connection.key)", "a b", "-a", "x" * 51]


@pytest.mark.parametrize("odd", [*ODD_IDS, "é", "a\n", "{node_id}", "*"])
def test_odd_id_is_no_path(odd: str) -> None:
    """What no node may be called opens nothing, even where it was stored."""
    snapshot = served(SHARE, "/srv/{node_id}.tar").with_nodes([ServedNode(odd, KEY)])

    assert list(snapshot.rules_of_nodes()) == []
    for path in (f"/srv/nodes/{odd}", "/srv/nodes", "/srv", f"/srv/{odd}.tar"):
        assert reason(snapshot, peer(), folder(path)) != "admitted"


def test_node_without_key_has_nothing() -> None:
    """There is no rule with an empty digest: it has none at all."""
    snapshot = served(SHARE).with_nodes([ServedNode(A, None, "web1.example.com")])

    assert list(snapshot.rules_of_nodes()) == []
    assert reason(snapshot, peer(), folder(f"/srv/nodes/{A}")) == "no_rule"
    assert reason(snapshot, peer(key=None), folder(f"/srv/nodes/{A}")) == "no_rule"


WIDE = {"path": "/srv/nodes/", "admit_ips": ("127.0.0.1",)}
INSIDE = {"path": f"/srv/nodes/{A}/open/", "admit_ips": ("127.0.0.1",)}
SAME = {"path": f"/srv/nodes/{A}/", "admit_ips": ("127.0.0.1",)}
DENIES = {"path": f"/srv/nodes/{A}/", "deny_keys": (KEY.sha,)}
ENCRYPTED = {"path": f"/srv/nodes/{A}/", "ifencrypted": True}

TOGETHER = [
    # The longest path counts.
    (WIDE, OTHER, f"/srv/nodes/{A}/x", "not_admitted"),
    (WIDE, peer(), f"/srv/nodes/{A}/x", "admitted"),
    (WIDE, OTHER, "/srv/nodes/unknown/x", "admitted"),
    (INSIDE, OTHER, f"/srv/nodes/{A}/open/x", "admitted"),
    (INSIDE, peer("127.0.0.9"), f"/srv/nodes/{A}/open/x", "not_admitted"),
    (INSIDE, OTHER, f"/srv/nodes/{A}/x", "not_admitted"),
    # The same path is one rule.
    (SAME, OTHER, f"/srv/nodes/{A}/x", "admitted"),
    (SAME, peer("127.0.0.9"), f"/srv/nodes/{A}/x", "admitted"),
    (SAME, peer("127.0.0.9", key=OTHER_KEY), f"/srv/nodes/{A}/x", "not_admitted"),
    (DENIES, peer(), f"/srv/nodes/{A}/x", "denied"),
    (DENIES, OTHER, f"/srv/nodes/{B}/x", "admitted"),
    (
        ENCRYPTED,
        peer(encrypted=False, protocol=1),
        f"/srv/nodes/{A}/x",
        "not_encrypted",
    ),
]


@pytest.mark.parametrize(("table", "who", "path", "expected"), TOGETHER)
def test_rules_of_nodes_and_of_the_configuration_are_one_set(
    table: dict[str, Any], who: Peer, path: str, expected: str
) -> None:
    """The longest path counts; for the same path the lists add up, and deny wins."""
    assert reason(served(SHARE, access=[table]), who, file(path)) == expected


def test_same_path_says_all_of_its_places() -> None:
    """A rule that adds up names both tables."""
    snapshot = served(SHARE, access=[SAME])
    rule = snapshot.find(f"/srv/nodes/{A}".encode(), True)

    assert rule is not None
    assert rule.written == (f"/srv/nodes/{A}/", SHARE)
    assert rule.node == A


def test_right_by_key_is_not_given_to_others_of_the_same_rule() -> None:
    """Whom `[[access]]` admits besides the node still needs a right on the file."""
    snapshot = served(SHARE, access=[SAME])
    secret = file(f"/srv/nodes/{A}/x", **PRIVATE)

    assert reason(snapshot, peer(**NOBODY), secret) == "admitted"
    other = peer(key=OTHER_KEY, **NOBODY)
    assert reason(snapshot, other, secret) == "no_right_on_file"


def test_single_file_does_not_open_its_folder() -> None:
    """What was allowed for one file is not remembered for those beside it."""
    snapshot = served(
        "/srv/keys/{node_id}",
        access=[{"path": "/srv/keys/", "admit_ips": ("127.0.0.1",)}],
    )
    who, evaluator = peer("127.0.0.9"), AccessEvaluator(snapshot)

    def allowed(asker: Peer, name: str) -> bool:
        request = file(f"/srv/keys/{name}")
        return evaluator.evaluate(snapshot, asker, request).allowed

    assert [allowed(who, name) for name in (A, B, "other")] == [True, False, False]
    # And the other way around: its folder is open to this one.
    local = peer()
    assert [allowed(local, n) for n in ("other", A, B)] == [True, True, False]


def test_nodes_are_put_in_force_for_the_next_request() -> None:
    """A peer's memory of what it may have ends with the nodes that it was true of."""
    snapshot, _ = built(SHARE)
    evaluator = AccessEvaluator(snapshot.with_nodes(NODES))
    who, asked = peer(), file(f"/srv/nodes/{A}/x")

    def now() -> str:
        return evaluator.evaluate(evaluator.snapshot, who, asked).reason

    said = [now(), now()]
    evaluator.snapshot = evaluator.snapshot.with_nodes(NODES[1:])
    said.append(now())
    changed = ServedNode(A, OTHER_KEY)
    evaluator.snapshot = evaluator.snapshot.with_nodes([changed])
    said.append(now())
    evaluator.snapshot = evaluator.snapshot.with_nodes({A: NODES[0]})
    said.append(now())

    assert said == ["admitted", "admitted", "no_rule", "not_admitted", "admitted"]


def test_unchanged_nodes_keep_their_rules() -> None:
    """Nothing is made anew for a node that is the same, equal or identical."""
    snapshot = served(SHARE, "/srv/{node_id}.tar")
    before = {rule.path: rule for rule in snapshot.rules_of_nodes()}
    same = ServedNode(A, PublicKey(KEY.modulus, KEY.exponent), *"x")
    again = ServedNode(
        A, PublicKey(KEY.modulus, KEY.exponent), "web1.example.com", ("10.0.0.1",)
    )

    after = {
        rule.path: rule for rule in snapshot.with_nodes([again, same]).rules_of_nodes()
    }
    assert all(before[path] is not rule for path, rule in after.items())
    after = {r.path: r for r in snapshot.with_nodes([again]).rules_of_nodes()}
    assert after
    assert all(before[path] is rule for path, rule in after.items())
    assert snapshot.with_nodes(list(NODES)) is snapshot


def test_nodes_are_told_apart_without_case_and_their_folders_with_it() -> None:
    """However the table that they came in is sorted, the folder is as the node says."""
    shouting = ServedNode("WEB-1", KEY)
    snapshot = served(SHARE).with_nodes({"whatever": shouting})

    assert reason(snapshot, peer(), folder("/srv/nodes/WEB-1")) == "admitted"
    assert reason(snapshot, peer(), folder("/srv/nodes/web-1")) == "no_rule"
    assert snapshot.nodes == {"web-1": shouting}
    assert snapshot.with_nodes(snapshot.nodes) is snapshot


def test_rules_of_nodes_are_sorted_by_id() -> None:
    """Whatever order they were given in."""
    snapshot = served(SHARE, "/srv/{node_id}.tar").with_nodes(NODES[::-1])

    assert [(rule.node, rule.text) for rule in snapshot.rules_of_nodes()] == [
        (A, f"/srv/nodes/{A}/"),
        (A, f"/srv/{A}.tar"),
        (B, f"/srv/nodes/{B}/"),
        (B, f"/srv/{B}.tar"),
    ]


# -- nodes that are not known ------------------------------------------------

UNKNOWN = [
    ((), f"/srv/nodes/{A}/x", "nodes_unknown"),
    ((), "/srv/nodes/whoever/x", "nodes_unknown"),
    ((), "/srv/other/x", "no_rule"),
    ((), "/srv/nodes/not_an_id/x", "no_rule"),
    ((WIDE,), f"/srv/nodes/{A}/x", "nodes_unknown"),
    ((WIDE,), "/srv/nodes/not_an_id/x", "admitted"),
    ((SAME,), f"/srv/nodes/{A}/x", "admitted"),
    ((DENIES,), f"/srv/nodes/{A}/x", "nodes_unknown"),
    ((INSIDE,), f"/srv/nodes/{A}/open/x", "admitted"),
    (({"path": f"/srv/nodes/{A}/open/"},), f"/srv/nodes/{A}/open/x", "not_admitted"),
    (
        (
            {
                "path": "/srv/nodes/$(connection.key)/",
                "admit_keys": ("$(connection.key)",),
            },
        ),
        f"/srv/nodes/{KEY.md5}/x",
        "admitted",
    ),
]


@pytest.mark.parametrize(("tables", "path", "expected"), UNKNOWN)
def test_what_may_be_a_nodes_is_not_decided_while_nodes_are_unknown(
    tables: tuple[dict[str, Any], ...], path: str, expected: str
) -> None:
    """Neither refused, nor open by a rule that the node's own would go before."""
    snapshot, _ = built(SHARE, access=tables)

    for unknown in (snapshot, snapshot.with_nodes(NODES).with_nodes(None)):
        decision = AccessEvaluator(unknown).evaluate(unknown, peer(), file(path))
        assert decision.reason == expected
        assert decision.undecidable is (expected == "nodes_unknown")


def test_without_node_files_nodes_need_not_be_known() -> None:
    """A server without `[[node_files]]` refuses as ever."""
    snapshot, _ = built(common=["/srv/files/"])

    assert reason(snapshot, peer(), file("/srv/nodes/x/y")) == "no_rule"
    assert reason(snapshot, peer("10.1.1.1"), file("/srv/files/y")) == "admitted"
    assert snapshot.with_nodes(NODES).nodes is not None


# -- one node's files are never another's ------------------------------------

RESERVED = [
    # (paths, common, id, what it would be given)
    (("/srv/share/{node_id}/", "/srv/{node_id}/"), (), "share", "/srv/share/x"),
    (("/srv/{node_id}/", "/srv/share/{node_id}/"), (), "share", "/srv/share"),
    (("/srv/{node_id}/",), ("/srv/common/tools/",), "common", "/srv/common"),
    (("/srv/{node_id}/",), ("/srv/common/",), "common", "/srv/common"),
    (("/srv/n-{node_id}/",), ("/srv/n-x/tools/",), "x", "/srv/n-x"),
    (("/var/lib/{node_id}/",), (), "nodecomm", "/var/lib/nodecomm/ppkeys"),
    (("/srv/{node_id}/b/", "/srv/a/{node_id}/"), (), "a", "/srv/a/b"),
    (("/srv/{node_id}/b/", "/srv/a/{node_id}/"), (), "b", "/srv/a/b"),
]


@pytest.mark.parametrize(("paths", "common", "node_id", "asked"), RESERVED)
def test_node_cannot_call_itself_as_something_else(
    paths: tuple[str, ...], common: tuple[str, ...], node_id: str, asked: str
) -> None:
    """A folder that is of other nodes, of all, or of the server is nobody's own."""
    snapshot = served(*paths, common=common).with_nodes([ServedNode(node_id, KEY)])
    other = ServedNode("other", KEY)

    assert reason(snapshot, peer("192.0.2.1"), folder(asked)) != "admitted"
    mine = snapshot.with_nodes([other])
    for path in paths:
        place = path.replace("{node_id}", "other").rstrip("/")
        assert reason(mine, peer(), folder(place)) == "admitted"


def test_what_is_the_same_nodes_either_way_is_open() -> None:
    """A node may call itself so that two of its own folders are one."""
    paths = ("/srv/{node_id}/x/", "/srv/x/{node_id}/")
    snapshot = served(*paths).with_nodes([ServedNode("x", KEY)])

    assert reason(snapshot, peer(), folder("/srv/x/x")) == "admitted"
    assert reason(snapshot, peer("192.0.2.1"), folder("/srv/x/y")) != "admitted"


CLASHES = [
    (("/srv/a{node_id}/", "/srv/{node_id}/"), "in another one's"),
    (("/srv/{node_id}-{node_id}/", "/srv/{node_id}/x/"), "in another one's"),
    (("/srv/nodes/{node_id}/", "/srv/./nodes/{node_id}/"), "no absolute path"),
    (("/srv/link/{node_id}/", "/data/real/{node_id}"), "the same path as"),
]


@pytest.mark.parametrize(("paths", "expected"), CLASHES)
def test_paths_that_could_be_those_of_two_nodes_are_an_error(
    paths: tuple[str, ...], expected: str
) -> None:
    """Where the ids that nodes choose could make one folder two nodes'."""
    _, problems = built(*paths)

    found = [line for line in problems if line.startswith("error")]
    assert [line.partition(":")[0] for line in found] == ["error node_files[1].path"]
    assert expected in found[0]


def test_paths_that_cannot_meet_are_no_error() -> None:
    """Different folders, and names that no id makes equal."""
    _, problems = built(
        "/srv/{node_id}/a/",
        "/srv/{node_id}/b/",
        "/srv/{node_id}.d/",
        "/srv/_{node_id}/",
        "/srv/files/{node_id}/",
        "/srv/files/{node_id}.tar",
    )

    assert problems == []


PIECES = ("a", "{node_id}", "a{node_id}", "{node_id}a", "{node_id}-{node_id}")
IDS = ("a", "aa", "aaa", "a-a", "x", "xa", "ax")
KEYS = {name: PublicKey(2**2047 + 2 * n + 1, 65537) for n, name in enumerate(IDS)}
PATTERNS = [
    "/" + "/".join(("srv", *parts)) + end
    for count in (1, 2, 3)
    for parts in product(PIECES, repeat=count)
    for end in ("/", "")
    if "{node_id}" in "".join(parts)
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True))
def test_no_path_is_open_to_two_nodes(paths: list[str]) -> None:
    """Whatever was configured without an error, and whatever nodes call themselves."""
    snapshot, _ = built(*paths)
    snapshot = snapshot.with_nodes([ServedNode(n, key) for n, key in KEYS.items()])
    peers = {name: peer(key=key) for name, key in KEYS.items()}

    for rule in snapshot.rules_of_nodes():
        root = rule.path.decode()
        for request in (
            folder(root),
            file(root),
            file(f"{root}/x"),
            folder(f"{root}/x"),
        ):
            allowed = {
                n
                for n, p in peers.items()
                if reason(snapshot, p, request) == "admitted"
            }
            assert allowed <= {rule.node}


ANSWERS = [
    "/srv",
    "/srv/nodes",
    *(f"/srv/nodes/{name}{rest}" for name in IDS for rest in ("", "/x", "/x/y")),
    *(f"/srv/{name}.tar" for name in IDS),
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(IDS), unique=True),
    st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from(IDS)), max_size=3),
    st.lists(
        st.tuples(st.sampled_from(ANSWERS), st.booleans(), st.sampled_from(IDS)),
        min_size=1,
        max_size=20,
    ),
)
def test_decisions_are_those_of_rules_written_by_hand(
    names: list[str],
    others: list[tuple[str, str]],
    asked: list[tuple[str, bool, str]],
) -> None:
    """As if somebody had written an `[[access]]` for each path of each node."""
    tables = [
        {"path": f"{path}/", "admit_keys": (KEYS[name].md5,)} for path, name in others
    ]
    by_hand = [
        {"path": path, "admit_keys": KEYS[name].digests}
        for name in names
        for path in (f"/srv/nodes/{name}/", f"/srv/{name}.tar", f"/srv/{name}.tar/")
    ]
    found, _ = built(SHARE, "/srv/{node_id}.tar", access=tables)
    found = found.with_nodes([ServedNode(name, KEYS[name]) for name in names])
    expected, _ = built(access=[*tables, *by_hand])
    peers = {name: (peer(key=KEYS[name]), peer(key=KEYS[name])) for name in IDS}

    for path, is_directory, name in asked:
        request = AccessRequest("stat", path.encode(), is_directory, 0, 0o644)
        mine, theirs = peers[name]
        assert reason(found, mine, request) == reason(expected, theirs, request)


# -- the old rule ------------------------------------------------------------

LEGACY = {"path": SHARE, "legacy_hosts": True}

HOSTS: list[tuple[dict[str, Any], str]] = [
    ({"hostname": "WEB1.example.com"}, "admitted"),
    ({"hostname": "web1.example.com", "key": None}, "admitted"),
    ({"hostname": "xweb1.example.com"}, "not_admitted"),
    ({"hostname": "web1.example.com.evil.org"}, "not_admitted"),
    ({"hostname": "sub.web1.example.com"}, "not_admitted"),
    ({"hostname": "web1xexample.com"}, "not_admitted"),
    ({"hostname": "web2.example.com"}, "not_admitted"),
    ({"hostname": None, "hostname_known": False}, "hostname_needed"),
    ({"address": "10.0.0.1"}, "admitted"),
    ({"address": "10.0.0.2"}, "not_admitted"),
    # What every machine has tells none from another.
    ({"address": "127.0.0.1"}, "not_admitted"),
    ({"address": "fe80::1"}, "not_admitted"),
]


@pytest.mark.parametrize(("values", "expected"), HOSTS)
def test_legacy_hosts_admits_name_and_addresses_besides_the_key(
    values: dict[str, Any], expected: str
) -> None:
    """Any of the three is enough, and a name is compared as a whole."""
    snapshot = served(LEGACY)
    strange: dict[str, Any] = {"address": "192.0.2.7", "key": STRANGER.key} | values

    assert reason(snapshot, peer(**strange), folder(f"/srv/nodes/{A}")) == expected
    # Not where it is off.
    assert (
        reason(served(SHARE), peer(**strange), folder(f"/srv/nodes/{A}"))
        == "not_admitted"
    )
    assert snapshot.uses_hostnames
    assert not served(SHARE).uses_hostnames


@pytest.mark.parametrize(
    ("encrypted", "expected"), [(True, "no_right_on_file"), (False, "admitted")]
)
def test_legacy_hosts_maps_root_as_the_old_rule_did(
    encrypted: bool, expected: str
) -> None:
    """On the classic protocol, for the same name and addresses."""
    who = peer(
        "10.0.0.1",
        key=STRANGER.key,
        encrypted=encrypted,
        protocol=3 if encrypted else 1,
        **NOBODY,
    )

    request = file(f"/srv/nodes/{A}/x", **PRIVATE)
    assert reason(served(LEGACY), who, request) == expected


def test_names_and_addresses_of_several_nodes_admit_none_of_them() -> None:
    """They would open each node's files to the others."""
    snapshot = served(LEGACY)
    nodes = [
        ServedNode("one", KEY, "same.example.com", ("172.17.0.1", "10.0.0.1")),
        ServedNode("two", OTHER_KEY, "SAME.example.com", ("172.17.0.1",)),
    ]

    def answers(now: Snapshot) -> list[str]:
        return [
            reason(now, peer(address, key=STRANGER.key, hostname=name), request)
            for address, name in (
                ("172.17.0.1", None),
                ("192.0.2.1", "same.example.com"),
                ("10.0.0.1", None),
            )
            for request in [folder("/srv/nodes/one")]
        ]

    both = snapshot.with_nodes(nodes)
    alone = both.with_nodes(nodes[:1])
    assert answers(both) == ["not_admitted", "not_admitted", "admitted"]
    assert answers(alone) == ["admitted", "admitted", "admitted"]
    assert answers(alone.with_nodes(nodes)) == answers(both)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Web1.Example.COM", "web1.example.com"),
        ("web_1", "web_1"),
        ("web1.example.com.", "web1.example.com"),
        (".example.com", None),
        ("", None),
        (".", None),
        ("a b", None),
        (".*", None),
        ("web1|.*", None),
        ("$(connection.hostname)", None),
        ("localhost", None),
        ("localhost4.localdomain", None),
        ("10.0.0.1", None),
        ("1", None),
        ("::1", None),
        ("MD5=" + "0" * 32, None),
        ("é.example.com", None),
        ("x" * 300, None),
        (None, None),
    ],
)
def test_only_plain_names_are_kept(name: str | None, kept: str | None) -> None:
    """A name is no expression, no domain, no address, and not every machine's."""
    node = ServedNode(A, KEY, name)

    assert node.hostname == kept
    snapshot = served(LEGACY).with_nodes([node])
    rule = snapshot.find(f"/srv/nodes/{A}".encode(), True)
    assert rule is not None
    assert [entry.text for entry in rule.admit_hostnames] == ([kept] if kept else [])
    assert list(rule.ineffective()) == []


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (("10.0.0.1", "10.0.0.1"), ("10.0.0.1",)),
        (("::ffff:10.0.0.1", "2001:DB8:0::1"), ("10.0.0.1", "2001:db8::1")),
        (("127.3.2.1", "::1", "0.0.0.0", "::", "169.254.1.1"), ()),
        (("224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1%eth0"), ()),
        (("10.0", "10.0.0.0/8", "web1", "10.0.0.1-9", ""), ()),
    ],
)
def test_only_telling_addresses_are_kept(
    given_: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    """What is no address, or another machine's as well, is left out."""
    assert ServedNode(A, KEY, None, given_).addresses == kept


# -- common files ------------------------------------------------------------


def test_common_files_are_open_to_the_networks_of_inventories() -> None:
    """Whatever key comes from there; root's files too, as `maproot` has it."""
    snapshot = served(SHARE, common=["/srv/link/", "/srv/new/"])
    classic: dict[str, Any] = {"encrypted": False, "protocol": 1, **NOBODY}

    for path in ("/data/real/x", "/srv/new/x"):
        assert reason(snapshot, peer("10.9.9.9"), file(path)) == "admitted"
        assert reason(snapshot, peer("192.0.2.1"), file(path)) == "not_admitted"
        secret = file(path, **PRIVATE)
        assert reason(snapshot, peer("10.9.9.9", **classic), secret) == "admitted"
    rule = snapshot.find(b"/data/real", True)
    assert rule is not None
    assert (rule.table, rule.place) == ("common_files", "common_files[0]")


def test_common_files_add_up_with_access() -> None:
    """A deny of `[[access]]` holds, and what it admits besides is admitted."""
    table = {
        "path": "/srv/files",
        "admit_ips": ("192.0.2.1",),
        "deny_ips": ("10.6.0.0/16",),
    }
    snapshot = served(SHARE, common=["/srv/files"], access=[table])
    asked = file("/srv/files/a")

    said = [
        reason(snapshot, peer(address), asked)
        for address in ("10.1.1.1", "10.6.1.1", "192.0.2.1", "192.0.2.2")
    ]
    assert said == ["admitted", "denied", "admitted", "not_admitted"]


# -- what is told ------------------------------------------------------------

TOLD: list[tuple[dict[str, Any], str]] = [
    (
        {"paths": ("/srv/nodes/{node_id}/",)},
        "warning node_files[0].path: /srv/nodes does not exist now",
    ),
    (
        {"paths": ("/srv/files/one.txt/{node_id}/",)},
        "error node_files[0].path: /srv/files/one.txt is no folder",
    ),
    (
        {
            "paths": ("/srv/files/{node_id}/",),
            "access": [{"path": "/srv", "admit_ips": ("127.0.0.1",)}],
        },
        "warning node_files[0].path: rule /srv/ (access[0]) opens the folder above",
    ),
    (
        {
            "paths": ("/srv/files/{node_id}/",),
            "access": [{"path": f"/srv/files/{A}/", "admit_ips": ("127.0.0.1",)}],
        },
        f"warning access[0].path: these are the files of node {A}, too",
    ),
    (
        {"paths": ("/srv/files/{node_id}/",), "state_dir": "/srv/files"},
        "error node_files[0].path: a node that calls itself as a folder of the server",
    ),
    (
        {"paths": ("/srv/\\x2e\\x2e/{node_id}/",)},
        "error node_files[0].path: this is no absolute path",
    ),
    (
        {"paths": ("/srv/\\x0a/{node_id}/",)},
        "error node_files[0].path: no request can name",
    ),
    ({"paths": ("/srv/\\q/{node_id}/",)}, "error node_files[0].path: "),
    ({"common": ("/srv/new",)}, "warning common_files[0].path: the path does not"),
    (
        {"common": ("/srv/files",), "networks": ("10.0.0.0/99",)},
        "error inventory.networks[0]: ",
    ),
]


@pytest.mark.parametrize(("values", "expected"), TOLD)
def test_what_is_doubtful_is_told(values: dict[str, Any], expected: str) -> None:
    """With the key that it is about."""
    more = dict(values)
    _, problems = built(*more.pop("paths", ()), **more)

    assert any(line.startswith(expected) for line in problems), problems


def test_rule_above_that_admits_nobody_is_not_told_of() -> None:
    """It closes what the nodes have not."""
    _, problems = built(
        "/srv/files/{node_id}/",
        access=[
            {"path": "/srv/files"},
            {"path": "/srv", "admit_ips": ("127.0.0.1",)},
        ],
    )

    assert [line for line in problems if "node_files" in line] == []


@pytest.mark.parametrize(
    ("said", "own", "here"),
    [
        ("root", "root", True),
        ("ROOT ", "root", True),
        ("relay-1", "root", False),
        ("", "root", False),
        (None, "root", True),
    ],
)
def test_node_is_served_by_the_server_that_it_names(
    said: str | None, own: str, here: bool
) -> None:
    """Upper and lower case are the same; who has named none yet is this one's."""
    assert is_served_here(said, own) is here
