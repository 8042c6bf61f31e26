# SPDX-License-Identifier: MIT
"""
Decisions about files and folders.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from nodecomm.access import evaluator as evaluator_module
from nodecomm.access.decision import REASONS
from nodecomm.access.evaluator import AccessEvaluator
from nodecomm.access.requests import AccessRequest
from nodecomm.access.rules import Rule
from nodecomm.access.snapshot import HostnameNeededError, Snapshot
from nodecomm.identity.peer import Peer
from nodecomm.interfaces import IAccessEvaluator
from tests.access.cases import (
    KEY,
    OTHER_KEY,
    compiled,
    file,
    folder,
    named,
    peer,
    reason,
    rules,
)

LOCAL = {"admit_ips": ("127.0.0.1",)}
WORDS: dict[str, Any] = {
    "admit_ips": ("$(connection.ip)",),
    "admit_keys": ("$(connection.key)",),
    "admit_hostnames": ("$(connection.hostname)",),
}
OPEN = ({"path": "/srv/files"} | LOCAL,)
NESTED = (*OPEN, {"path": "/srv/files/secret", "admit_ips": ("127.7.7.7",)})
NO_SLASH = ({"path": "/srv/new"} | LOCAL,)
SLASH = ({"path": "/srv/new/"} | LOCAL,)
SLASH_DOT = ({"path": "/srv/new/."} | LOCAL,)
PER_KEY = ({"path": "/srv/perhost/$(connection.key)/"} | WORDS,)
PER_KEY_NO_SLASH = ({"path": "/srv/perhost/$(connection.key)"} | WORDS,)
PER_IP_FILE = ({"path": "/srv/perip/$(connection.ip).json"} | WORDS,)
PER_NAME = ({"path": "/srv/pername/$(connection.hostname)/"} | WORDS,)
DENIED = (
    {"path": "/srv/d", "admit_ips": ("127.0.0.0/8",), "deny_ips": ("127.0.0.1",)},
)
LINK = ({"path": "/srv/link"} | LOCAL,)

LOOK_UPS = [
    (OPEN, file("/srv/files/a"), "admitted"),
    (OPEN, file("/srv/files/x/y/z"), "admitted"),
    (OPEN, folder("/srv/files"), "admitted"),
    (OPEN, folder("/srv/files/x"), "admitted"),
    (OPEN, folder("/srv"), "no_rule"),
    (OPEN, folder("/"), "no_rule"),
    (OPEN, file("/srv/filesx"), "no_rule"),
    (OPEN, file("/srv/files"), "no_rule"),
    (OPEN, file("/srv/file"), "no_rule"),
    # The longest path counts, alone.
    (NESTED, file("/srv/files/a"), "admitted"),
    (NESTED, file("/srv/files/secret/s"), "not_admitted"),
    (NESTED, folder("/srv/files/secret"), "not_admitted"),
    (NESTED, file("/srv/files/secretx"), "admitted"),
    # A path that did not exist: the final slash decides.
    (NO_SLASH, file("/srv/new"), "admitted"),
    (NO_SLASH, folder("/srv/new"), "no_rule"),
    (NO_SLASH, file("/srv/new/a"), "no_rule"),
    (SLASH, file("/srv/new"), "no_rule"),
    (SLASH, folder("/srv/new"), "admitted"),
    (SLASH, file("/srv/new/a"), "admitted"),
    (SLASH_DOT, file("/srv/new/a"), "admitted"),
    # A path that is a file covers that file.
    (({"path": "/srv/files/one.txt"} | LOCAL,), file("/srv/files/one.txt"), "admitted"),
    (({"path": "/srv/files/one.txt"} | LOCAL,), file("/srv/files/two.txt"), "no_rule"),
    # Rules are about where links lead.
    (LINK, file("/data/real/a"), "admitted"),
    (LINK, file("/srv/link/a"), "no_rule"),
    (({"path": "/srv/link.txt"} | LOCAL,), file("/data/real/one.txt"), "admitted"),
    # The root.
    (({"path": "/"} | LOCAL,), file("/a"), "admitted"),
    (({"path": "/"} | LOCAL,), folder("/"), "admitted"),
    (({"path": "/"} | LOCAL,), file("/a/b/c"), "admitted"),
    # The peer's own values.
    (PER_KEY, file(f"/srv/perhost/{KEY.md5}/f"), "admitted"),
    (PER_KEY, file(f"/srv/perhost/{KEY.sha}/f"), "admitted"),
    (PER_KEY, folder(f"/srv/perhost/{KEY.md5}"), "admitted"),
    (PER_KEY, file(f"/srv/perhost/{OTHER_KEY.md5}/f"), "no_rule"),
    (PER_KEY_NO_SLASH, file(f"/srv/perhost/{KEY.md5}/f"), "no_rule"),
    (PER_KEY_NO_SLASH, folder(f"/srv/perhost/{KEY.md5}"), "no_rule"),
    (PER_KEY_NO_SLASH, file(f"/srv/perhost/{KEY.md5}"), "admitted"),
    (PER_IP_FILE, file("/srv/perip/127.0.0.1.json"), "admitted"),
    (PER_IP_FILE, file("/srv/perip/127.0.0.2.json"), "no_rule"),
    (PER_IP_FILE, file("/srv/perip/127.0.0.11.json"), "no_rule"),
    (PER_NAME, file("/srv/pername/n1/f"), "no_rule"),
    # Without a word in an admit list the second look-up admits nobody.
    (
        ({"path": "/srv/perip/$(connection.ip)/"} | LOCAL,),
        file("/srv/perip/127.0.0.1/f"),
        "not_admitted",
    ),
    # Words count only where the path has one.
    (({"path": "/srv/files"} | WORDS,), file("/srv/files/127.0.0.1"), "not_admitted"),
    (
        ({"path": "/srv/files"} | WORDS, *PER_IP_FILE),
        file("/srv/files/127.0.0.1"),
        "not_admitted",
    ),
    # Either look-up may grant.
    (
        (
            {"path": "/srv/files", "admit_ips": ("9.9.9.9",)},
            {"path": "/srv/files/$(connection.ip)/"} | WORDS,
        ),
        file("/srv/files/127.0.0.1/f"),
        "admitted",
    ),
    (
        (*OPEN, {"path": "/srv/files/$(connection.ip)/", "admit_ips": ("9.9.9.9",)}),
        file("/srv/files/127.0.0.1/f"),
        "admitted",
    ),
    # In both look-ups a deny list is about the peer itself.
    (
        (
            {"path": "/srv/perip/$(connection.ip)/", "deny_ips": ("127.0.0.0/8",)}
            | WORDS,
        ),
        file("/srv/perip/127.0.0.1/f"),
        "denied",
    ),
    (
        (
            {"path": "/srv/perip/$(connection.ip)/", "deny_ips": ("$(connection.ip)",)}
            | WORDS,
        ),
        file("/srv/perip/127.0.0.1/f"),
        "denied",
    ),
    (DENIED, file("/srv/d/a"), "denied"),
    ((), file("/srv/files/a"), "no_rule"),
    (({"path": "/srv/files"},), file("/srv/files/a"), "not_admitted"),
    # Tables for one path are one rule.
    (
        ({"path": "/srv/files", "admit_ips": ("9.9.9.9",)}, *OPEN),
        file("/srv/files/a"),
        "admitted",
    ),
    (
        (*OPEN, {"path": "/srv/files/", "deny_ips": ("127.0.0.1",)}),
        file("/srv/files/a"),
        "denied",
    ),
    (
        ({"path": "/srv/link"}, {"path": "/srv/files"} | LOCAL),
        file("/data/real/a"),
        "not_admitted",
    ),
    # What is not resolved is nowhere.
    (({"path": "/"} | LOCAL,), file("a"), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file(""), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("/a/../b"), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("/a/./b"), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("/a/.."), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("/a//b"), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("/a/"), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("//a"), "unresolved_path"),
    (({"path": "/"} | LOCAL,), folder("/a/.."), "unresolved_path"),
    (({"path": "/"} | LOCAL,), folder(""), "unresolved_path"),
    (({"path": "/"} | LOCAL,), file("/a/.b/..c/d."), "admitted"),
    (OPEN, folder("/srv/files/"), "admitted"),
    (OPEN, AccessRequest("delete", b"/srv/files/a"), "unknown_operation"),
]


@pytest.mark.parametrize(("tables", "request_", "expected"), LOOK_UPS)
def test_rule_for_a_path(
    tables: tuple[dict[str, Any], ...], request_: AccessRequest, expected: str
) -> None:
    """
    The rule that decides is the one with the longest path, found for the path itself
    or for the path with the peer's own values in place of `$(connection.*)`.
    """
    snapshot = rules(*tables)
    who = peer()

    assert expected == reason(snapshot, who, request_)
    # What was remembered says the same, also after a request for the root itself.
    reason(snapshot, who, folder("/"))
    assert expected == reason(snapshot, who, request_)


def lists(**given: Any) -> tuple[dict[str, Any], ...]:
    """
    One rule on /srv/files with these lists.
    """
    return ({"path": "/srv/files"} | given,)


UNKNOWN: dict[str, Any] = {"hostname": None, "hostname_known": False}
NODE: dict[str, Any] = {"hostname": "n1.example.com"}
LISTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"admit_ips": ("127.0.0.1",)}, {}, "admitted"),
    ({"admit_ips": ("127.0.0.2",)}, {}, "not_admitted"),
    ({"admit_hostnames": ("n1.example.com",)}, NODE, "admitted"),
    ({"admit_hostnames": (".example.com",)}, NODE, "admitted"),
    ({"admit_hostnames": (".example.com",)}, {}, "not_admitted"),
    ({"admit_keys": (KEY.md5,)}, {}, "admitted"),
    ({"admit_keys": (KEY.sha,)}, {}, "admitted"),
    ({"admit_keys": (OTHER_KEY.md5,)}, {}, "not_admitted"),
    ({"admit_keys": (KEY.md5,)}, {"key": None}, "not_admitted"),
    # Any deny denies, whatever admits.
    ({"admit_ips": ("127.0.0.1",), "deny_keys": (KEY.sha,)}, {}, "denied"),
    ({"admit_keys": (KEY.md5,), "deny_ips": ("127.0.0.0/8",)}, {}, "denied"),
    (
        {"admit_ips": ("127.0.0.1",), "deny_hostnames": (".example.com",)},
        NODE,
        "denied",
    ),
    ({"admit_ips": ("127.0.0.1",), "deny_hostnames": (".x.org",)}, NODE, "admitted"),
    ({"deny_ips": ("127.0.0.1",)}, {}, "denied"),
    # A host name is needed only where it makes a difference.
    ({"admit_hostnames": (".example.com",)}, UNKNOWN, "hostname_needed"),
    (
        {"admit_hostnames": (".a.org",), "admit_ips": ("127.0.0.1",)},
        UNKNOWN,
        "admitted",
    ),
    ({"admit_hostnames": (".a.org",), "admit_keys": (KEY.md5,)}, UNKNOWN, "admitted"),
    ({"admit_hostnames": (".a.org",), "deny_ips": ("127.0.0.1",)}, UNKNOWN, "denied"),
    (
        {"admit_ips": ("127.0.0.1",), "deny_hostnames": (".a.org",)},
        UNKNOWN,
        "hostname_needed",
    ),
    (
        {"admit_ips": ("9.9.9.9",), "deny_hostnames": (".a.org",)},
        UNKNOWN,
        "not_admitted",
    ),
    (
        {"admit_hostnames": ("$(connection.hostname)",)},
        UNKNOWN,
        "not_admitted",
    ),
    # The old lists.
    ({"admit": ("127.0.0.1",)}, {}, "admitted"),
    ({"admit": (r".*\.example\.com",)}, NODE, "admitted"),
    ({"admit": (KEY.md5,), "deny": ("127.0.0.0/8",)}, {}, "denied"),
    ({"admit": ("127.0.0.1",), "deny": (".*example.com",)}, NODE, "denied"),
    ({"admit": ("local.*",)}, {"hostname": "localhost"}, "not_admitted"),
]


@pytest.mark.parametrize(("given_", "who", "expected"), LISTS)
def test_lists_of_a_rule(
    given_: dict[str, Any], who: dict[str, Any], expected: str
) -> None:
    """
    One admitting entry is needed and no denying one; where the host name would make
    the difference and is not known, nothing is decided.
    """
    decision = AccessEvaluator().evaluate(
        rules(*lists(**given_)), peer(**who), file("/srv/files/a")
    )

    assert expected == decision.reason
    assert decision.allowed is (expected == "admitted")
    assert decision.undecidable is (expected == "hostname_needed")


PRIVATE: dict[str, Any] = {"owner": 1000, "mode": 0o100640}
BOB: dict[str, Any] = {"user": "bob", "uid": 1000}
EVE: dict[str, Any] = {"user": "eve", "uid": 1001}
NOBODY: dict[str, Any] = {"user": "x", "uid": None}
RIGHTS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("stat", {}, PRIVATE, "admitted"),
    ("stat", {"user": "root", "uid": None}, PRIVATE, "admitted"),
    ("stat", {"user": "toor", "uid": 0}, PRIVATE, "admitted"),
    ("stat", BOB, PRIVATE, "admitted"),
    ("stat", EVE, PRIVATE, "no_right_on_file"),
    ("get", EVE, PRIVATE, "no_right_on_file"),
    ("md5", EVE, PRIVATE, "no_right_on_file"),
    ("get", NOBODY, PRIVATE, "no_right_on_file"),
    ("get", NOBODY, {"owner": None, "mode": 0o640}, "no_right_on_file"),
    ("get", NOBODY, {"owner": None, "mode": None}, "no_right_on_file"),
    ("get", {}, {"owner": None, "mode": None}, "admitted"),
    ("stat", EVE, {"owner": 1000, "mode": 0o100604}, "admitted"),
    ("stat", EVE, {"owner": 1000, "mode": 0o100642}, "no_right_on_file"),
    ("get", NOBODY, {"owner": None, "mode": 0o4}, "admitted"),
    # Folders: who may list one may see it.
    ("stat", EVE, PRIVATE | {"is_directory": True, "mode": 0o40700}, "admitted"),
    ("opendir", EVE, PRIVATE | {"is_directory": True, "mode": 0o40700}, "admitted"),
    ("opendir", EVE, PRIVATE, "admitted"),
]


@pytest.mark.parametrize(("operation", "who", "status", "expected"), RIGHTS)
def test_right_on_the_file(
    operation: str, who: dict[str, Any], status: dict[str, Any], expected: str
) -> None:
    """
    Whoever a rule admits must also be root, own the file, or find it readable by
    others; STAT, MD5 and GET agree, and folders are listed and seen without.
    """
    request = file("/srv/files/a", operation, **status)

    assert expected == reason(rules(*OPEN), peer(**who), request)


MAPROOT: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("127.0.0.1",), {"encrypted": False}, "admitted"),
    (("127.0.0.1",), {"encrypted": True}, "no_right_on_file"),
    (("9.9.9.9",), {"encrypted": False}, "no_right_on_file"),
    ((".example.com",), {"encrypted": False} | NODE, "admitted"),
    ((".example.com",), {"encrypted": True} | NODE, "no_right_on_file"),
    ((".example.com",), {"encrypted": False} | UNKNOWN, "hostname_needed"),
    ((".example.com",), {"encrypted": True} | UNKNOWN, "no_right_on_file"),
]


@pytest.mark.parametrize(("entries", "who", "expected"), MAPROOT)
def test_maproot(entries: tuple[str, ...], who: dict[str, Any], expected: str) -> None:
    """
    `maproot` gives the right on any file, but never over TLS.
    """
    snapshot = rules(*lists(admit_ips=("127.0.0.1",), maproot=entries))

    assert expected == reason(
        snapshot, peer(**EVE, **who), file("/srv/files/a", "get", **PRIVATE)
    )


@pytest.mark.parametrize(
    ("connection", "request_", "expected"),
    [
        (True, None, "admitted"),
        (False, None, "not_encrypted"),
        (False, True, "admitted"),
        (True, False, "not_encrypted"),
    ],
)
def test_ifencrypted(connection: bool, request_: bool | None, expected: str) -> None:
    """
    `ifencrypted` denies a request that came in the clear.
    """
    snapshot = rules(*lists(admit_ips=("127.0.0.1",), ifencrypted=True))
    who = peer(encrypted=connection)

    assert expected == reason(snapshot, who, file("/srv/files/a", encrypted=request_))


def test_decision_names_rule_list_and_entry() -> None:
    """
    A decision says by which rule, list and entry it was made.
    """
    snapshot = rules(*NESTED)
    evaluator = AccessEvaluator(snapshot)

    decision = evaluator.evaluate(snapshot, peer(), file("/srv/files/a"))

    assert decision.rule is snapshot.rules[0]
    assert (decision.list_name, decision.entry) == ("admit_ips", "127.0.0.1")
    assert decision.text == (
        'rule /srv/files/ (access[0]) admits: entry "127.0.0.1" of admit_ips'
    )


def test_right_is_explained() -> None:
    """
    A refusal for want of a right says whose right on what was missing.
    """
    snapshot = rules(*OPEN)

    decision = AccessEvaluator().evaluate(
        snapshot, peer(**EVE), file("/srv/files/a", **PRIVATE)
    )

    assert "user eve has no right" in decision.text
    assert "owner 1000, mode 0640" in decision.text


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (
            {"hostname": "n1.example.com", "hostname_known": True},
            "hostname_needed",
            "admitted",
        ),
        ({"hostname_known": True}, "hostname_needed", "not_admitted"),
        ({"key": OTHER_KEY}, "hostname_needed", "admitted"),
    ],
)
def test_memory_ends_when_more_is_known(
    change: dict[str, Any], before: str, after: str
) -> None:
    """
    What was remembered of a peer does not outlive what was known of it.
    """
    snapshot = rules(
        *lists(admit_hostnames=(".example.com",), admit_keys=(OTHER_KEY.md5,))
    )
    who = peer(**UNKNOWN)

    assert before == reason(snapshot, who, file("/srv/files/a"))
    for name, value in change.items():
        setattr(who, name, value)
    assert after == reason(snapshot, who, file("/srv/files/a"))


def test_memory_ends_with_the_snapshot() -> None:
    """
    New rules hold at once for a peer that was here before, and old ones for requests
    that began with them.
    """
    old, new = rules(*OPEN), rules(*DENIED)
    who = peer()

    assert reason(old, who, file("/srv/files/a")) == "admitted"
    assert reason(new, who, file("/srv/files/a")) == "no_rule"
    assert reason(old, who, file("/srv/files/a")) == "admitted"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A peer that walks through many folders and rules is not remembered without end.
    """
    monkeypatch.setattr(evaluator_module, "MEMO_FOLDERS", 5)
    monkeypatch.setattr(evaluator_module, "MEMO_RULES", 3)
    many = [{"path": f"/srv/r{i}/"} | LOCAL for i in range(20)]
    many += [{"path": f"/srv/w{i}/$(connection.ip)/"} | WORDS for i in range(20)]
    snapshot = rules(*many)
    who = peer()

    for i in range(20):
        assert reason(snapshot, who, file(f"/srv/r{i}/a/b")) == "admitted"
        assert reason(snapshot, who, file(f"/srv/w{i}/127.0.0.1/b")) == "admitted"
        view = who.memo["access"]
        assert len(view.folders) <= 5
        assert len(view.found) <= 3
        assert len(view.words) <= 3


def test_memory_of_own_folder_is_not_for_others_files() -> None:
    """
    A file whose name holds the peer's address opens nothing for its neighbours.
    """
    snapshot = rules(
        {"path": "/srv/x/$(connection.ip)/"} | WORDS,
        {"path": "/srv/x/$(connection.ip)"} | WORDS,
    )
    who = peer()

    assert reason(snapshot, who, file("/srv/x/127.0.0.1")) == "admitted"
    assert reason(snapshot, who, file("/srv/x/127.0.0.2")) == "no_rule"
    assert reason(snapshot, who, file("/srv/x/127.0.0.1/a")) == "admitted"
    assert reason(snapshot, who, file("/srv/x/127.0.0.2/a")) == "no_rule"


def test_host_name_in_the_path_of_a_rule() -> None:
    """
    The name decides about a path that could be somebody's own, and only about that.
    """
    snapshot = rules(*PER_NAME, *OPEN)
    request = file("/srv/pername/n1.example.com/f")

    assert reason(snapshot, named("n1.example.com"), request) == "admitted"
    assert reason(snapshot, named("n2.example.com"), request) == "no_rule"
    assert reason(snapshot, peer(), request) == "no_rule"
    assert reason(snapshot, peer(**UNKNOWN), request) == "hostname_needed"
    assert reason(snapshot, peer(**UNKNOWN), file("/srv/x/f")) == "no_rule"
    assert reason(snapshot, peer(**UNKNOWN), file("/srv/files/f")) == "admitted"


@pytest.mark.parametrize("hostname", ["..", "a/b", ".", "srv/pername", "-\n", "ä"])
def test_strange_host_names_are_no_part_of_a_path(hostname: str) -> None:
    """
    A name from the DNS with a slash or worse is never put in place of a word.
    """
    snapshot = rules(
        {"path": "/srv/$(connection.hostname)/", "shortcut": "own"} | WORDS
    )

    assert reason(snapshot, named(hostname), file(f"/srv/{hostname}/f")) in {
        "no_rule",
        "unresolved_path",
    }
    assert snapshot.expand_shortcut(named(hostname), b"own/f") == (
        b"/srv/$(connection.hostname)/f"
    )


SHORTCUTS = [
    (b"files", b"/srv/files"),
    (b"files/", b"/srv/files/"),
    (b"files/sub/f", b"/srv/files/sub/f"),
    (b"files/../x", b"/srv/files/../x"),
    (b"filesx", None),
    (b"file", None),
    (b"", None),
    (b"./files", None),
    (b"linked/a", b"/srv/link/a"),
    (b"own/f", f"/srv/own/{KEY.md5}/f".encode()),
    (b"ip", b"/srv/ip/127.0.0.1.json"),
    (b"name/x", b"/srv/name/n1.example.com/x"),
]


@pytest.mark.parametrize(("name", "expected"), SHORTCUTS)
def test_shortcut_is_expanded(name: bytes, expected: bytes | None) -> None:
    """
    The first component stands for the path as it was written, the peer's values put
    in.
    """
    snapshot = rules(
        {"path": "/srv/files", "shortcut": "files"},
        {"path": "/srv/link", "shortcut": "linked"},
        {"path": "/srv/own/$(connection.key)/", "shortcut": "own"},
        {"path": "/srv/ip/$(connection.ip).json", "shortcut": "ip"},
        {"path": "/srv/name/$(connection.hostname)/", "shortcut": "name"},
    )

    assert expected == snapshot.expand_shortcut(named("n1.example.com"), name)
    if name == b"name/x":
        with pytest.raises(HostnameNeededError):
            snapshot.expand_shortcut(peer(**UNKNOWN), name)


def test_source_covers_its_path_and_below() -> None:
    """
    A rule with a source needs nothing on the disk and covers its path whatever that
    turns out to be.
    """
    snapshot = rules({"path": "/generated", "source": "gen"} | LOCAL)

    assert dict(snapshot.mounts) == {b"/generated": "gen"}
    for request in (
        file("/generated"),
        folder("/generated"),
        file("/generated/a/b"),
    ):
        assert reason(snapshot, peer(), request) == "admitted"
    assert reason(snapshot, peer(), file("/generatedx")) == "no_rule"


NAMES = (
    {"path": "lit", "resource_type": "literal"} | LOCAL,
    {"path": "var", "resource_type": "variable"} | LOCAL,
    {"path": "delta", "resource_type": "query"} | LOCAL,
    {"path": "some.*", "resource_type": "context"} | LOCAL,
    {"path": ".*_two", "resource_type": "context", "deny_ips": ("127.0.0.1",)},
    {"path": "pkg_.*", "resource_type": "bundle", "admit_keys": (OTHER_KEY.md5,)},
    {"path": "pkg_a", "resource_type": "bundle"} | LOCAL,
)


@pytest.mark.parametrize(
    ("operation", "name", "protocol", "expected"),
    [
        ("literal", b"lit", 3, "admitted"),
        ("literal", b"lit2", 3, "no_rule"),
        ("literal", b"var", 3, "no_rule"),
        ("literal", b"var", 1, "admitted"),
        ("variable", b"var", 3, "admitted"),
        ("query", b"delta", 3, "admitted"),
        ("query", b"lit", 3, "no_rule"),
        ("context", b"someclass", 3, "admitted"),
        ("context", b"some_two", 3, "denied"),
        ("context", b"other", 3, "no_rule"),
        ("context", b"xsomeclass", 3, "no_rule"),
        ("bundle", b"pkg_a", 3, "admitted"),
        ("bundle", b"pkg_b", 3, "not_admitted"),
        ("bundle", b"other", 3, "no_rule"),
    ],
)
def test_rules_about_names(
    operation: str, name: bytes, protocol: int, expected: str
) -> None:
    """
    Handles and queries are found by name; of classes and bundles all rules that match
    are asked, one must admit and none deny.
    """
    request = AccessRequest(operation, name)

    assert expected == reason(rules(*NAMES), peer(protocol=protocol), request)


@pytest.mark.parametrize(
    ("more", "who", "expected"),
    [
        ({"deny_hostnames": (".a.org",)}, UNKNOWN, "hostname_needed"),
        ({"deny_hostnames": (".a.org",)}, {"hostname": "x.a.org"}, "denied"),
        ({"deny_hostnames": (".a.org",)}, {}, "admitted"),
        ({"admit_hostnames": (".a.org",)}, UNKNOWN, "admitted"),
        ({"deny_keys": (KEY.md5,), "deny_hostnames": (".a.org",)}, UNKNOWN, "denied"),
    ],
)
def test_second_rule_about_a_class(
    more: dict[str, Any], who: dict[str, Any], expected: str
) -> None:
    """
    Another rule for the same class may deny, and then its host names matter; what it
    admits does not, where one rule admits already.
    """
    snapshot = rules(
        {"path": "c.*", "resource_type": "context"} | LOCAL,
        {"path": "cl.*", "resource_type": "context"} | more,
    )

    assert expected == reason(snapshot, peer(**who), AccessRequest("context", b"class"))


def test_ifencrypted_of_names() -> None:
    """
    `ifencrypted` holds for classes, too.
    """
    snapshot = rules(
        {"path": "c", "resource_type": "context", "ifencrypted": True} | LOCAL
    )
    request = AccessRequest("context", b"c")

    assert reason(snapshot, peer(), request) == "admitted"
    assert reason(snapshot, peer(encrypted=False), request) == "not_encrypted"


@pytest.mark.parametrize(
    ("kind", "encrypted", "expected"),
    [
        ("literal", False, "not_encrypted"),
        ("literal", True, "admitted"),
        ("variable", False, "not_encrypted"),
        ("variable", True, "admitted"),
    ],
)
def test_ifencrypted_of_literals(kind: str, encrypted: bool, expected: str) -> None:
    """
    On the classic protocol a literal may be had by a rule of either type, and the
    `ifencrypted` of that rule holds.
    """
    snapshot = rules({"path": "h", "resource_type": kind, "ifencrypted": True} | LOCAL)
    who = peer(encrypted=False, protocol=1)
    request = AccessRequest("literal", b"h", encrypted=encrypted)

    assert reason(snapshot, who, request) == expected


@pytest.mark.parametrize(
    ("listed", "address", "expected"),
    [
        ((), "10.0.0.1", "not_in_allowlegacyconnects"),
        (("10.0.0.0/8",), "10.0.0.1", "admitted"),
        (("10.0.0.0/8",), "11.0.0.1", "not_in_allowlegacyconnects"),
        (("::1",), "::1", "admitted"),
        # An entry that matches nobody is none that lets everybody in.
        ((r"1(?=0)0.*",), "10.0.0.1", "not_in_allowlegacyconnects"),
    ],
)
def test_who_may_speak_the_classic_protocol(
    listed: tuple[str, ...], address: str, expected: str
) -> None:
    """
    Whoever allowlegacyconnects lists; an empty list is nobody.
    """
    decision = rules(allowlegacyconnects=listed).check_legacy_connection(address)

    assert expected == decision.reason
    assert decision.allowed is (expected == "admitted")
    assert decision.list_name == "allowlegacyconnects"
    assert address in decision.text


@pytest.mark.parametrize(
    ("lists_", "address", "expected"),
    [
        ({}, "10.0.0.1", "admitted"),
        ({"allowconnects": ("10.0.0.0/8",)}, "10.0.0.1", "admitted"),
        ({"allowconnects": ("10.0.0.0/8",)}, "11.0.0.1", "not_in_allowconnects"),
        ({"allowconnects": (r"1(?=0)0.*",)}, "10.0.0.1", "not_in_allowconnects"),
        ({"denyconnects": ("10.0.0.1",)}, "10.0.0.1", "in_denyconnects"),
        (
            {"allowconnects": ("10.0.0.1",), "denyconnects": ("10.0.0.1",)},
            "10.0.0.1",
            "in_denyconnects",
        ),
        ({"allowconnects": ("::1",)}, "::1", "admitted"),
    ],
)
def test_who_may_connect(lists_: dict[str, Any], address: str, expected: str) -> None:
    """
    An empty allowconnects lets everybody in, one without a usable entry nobody;
    denyconnects goes before it.
    """
    decision = rules(**lists_).check_connection(address)

    assert expected == decision.reason
    assert decision.allowed is (expected == "admitted")


def test_provides_the_interface() -> None:
    """
    The evaluator is what sessions expect.
    """
    assert verifyObject(IAccessEvaluator, AccessEvaluator())
    assert AccessEvaluator().snapshot.rules == ()


# Properties

components = st.sampled_from(["a", "b", "127.0.0.1", "h.example.com", ".x", "a b"])
paths = st.lists(components, max_size=5).map(lambda parts: "/" + "/".join(parts))
rule_paths = st.lists(
    st.sampled_from(["a", "b", "$(connection.ip)", "$(connection.hostname)"]),
    min_size=1,
    max_size=3,
).map(lambda parts: "/" + "/".join(parts))
tables = st.fixed_dictionaries(
    {"path": st.builds(str.__add__, rule_paths, st.sampled_from(["", "/"]))},
    optional={
        "admit_ips": st.sampled_from([("127.0.0.1",), ("$(connection.ip)",)]),
        "deny_ips": st.sampled_from([("127.0.0.1",), ("9.9.9.9",)]),
        "admit_hostnames": st.sampled_from(
            [("h.example.com",), (".org",), ("$(connection.hostname)",)]
        ),
        "deny_hostnames": st.sampled_from([("h.example.com",), (".org",)]),
        "admit_keys": st.sampled_from([(KEY.md5,), (OTHER_KEY.md5,)]),
    },
)
requests = st.builds(
    lambda path, is_directory: AccessRequest(
        "stat", path.encode(), is_directory or path == "/", 0, 0o644
    ),
    paths,
    st.booleans(),
)


def longest(snapshot: Snapshot, request: AccessRequest) -> Rule | None:
    """
    The longest rule by trying each: equal, or ending in a slash and the beginning.
    """
    wanted = request.path
    if request.is_directory and wanted != b"/":
        wanted += b"/"
    best: tuple[int, Rule] | None = None
    for rule in snapshot.rules:
        path = rule.path
        if rule.tree and path != b"/":
            path += b"/"
        covers = wanted == path or (path.endswith(b"/") and wanted.startswith(path))
        if covers and (best is None or len(path) > best[0]):
            best = (len(path), rule)
    return best[1] if best is not None else None


@settings(max_examples=100)
@given(st.lists(tables, max_size=6), requests)
def test_longest_rule_is_found(
    given_: list[dict[str, Any]], request_: AccessRequest
) -> None:
    """
    Walking up the folders finds the same rule as trying all of them.
    """
    snapshot = rules(*given_)

    found = snapshot.find(request_.path, request_.is_directory)

    assert found is longest(snapshot, request_)


@settings(max_examples=100)
@given(
    st.lists(tables, max_size=6),
    st.lists(requests, min_size=1, max_size=8),
    st.sampled_from([None, "h.example.com", "x.org"]),
)
def test_remembering_changes_nothing(
    given_: list[dict[str, Any]], asked: list[AccessRequest], hostname: str | None
) -> None:
    """
    A peer that has asked before is answered as one that asks for the first time.
    """
    snapshot = rules(*given_)
    who = peer(hostname=hostname)

    for request in [*asked, *asked]:
        fresh = reason(snapshot, peer(hostname=hostname), request)
        assert fresh == reason(snapshot, who, request)


@settings(max_examples=100)
@given(st.lists(tables, min_size=1, max_size=6), requests)
def test_undecidable_exactly_when_the_name_matters(
    given_: list[dict[str, Any]], request_: AccessRequest
) -> None:
    """
    What is decided without the host name is decided alike with any.
    """
    snapshot = rules(*given_)
    evaluator = AccessEvaluator(snapshot)

    decision = evaluator.evaluate(snapshot, peer(**UNKNOWN), request_)

    if not decision.undecidable:
        for hostname in (None, "h.example.com", "x.org", "other.example.net"):
            known = evaluator.evaluate(snapshot, peer(hostname=hostname), request_)
            assert known.allowed is decision.allowed
            assert not known.undecidable
    else:
        assert snapshot.uses_hostnames


@settings(max_examples=100)
@given(
    st.sampled_from(["stat", "get", "context", "literal", "nonsense", ""]),
    st.binary(max_size=40),
    st.booleans(),
    st.one_of(st.none(), st.integers(-(2**70), 2**70)),
    st.text(max_size=12),
    st.one_of(st.none(), st.text(max_size=12)),
)
def test_never_raises(
    operation: str,
    path: bytes,
    is_directory: bool,
    number: int | None,
    address: str,
    hostname: str | None,
) -> None:
    """
    Any peer and any request give a decision with a known reason.
    """
    snapshot, _ = compiled(*NESTED, *PER_KEY, *PER_IP_FILE, *PER_NAME, *NAMES)
    who = Peer(address=address, hostname=hostname, hostname_known=True, user=address)

    for raw in (path, b"/" + path, b"/srv/files/" + path):
        request = AccessRequest(operation, raw, is_directory, number, number)
        decision = AccessEvaluator().evaluate(snapshot, who, request)
        assert decision.reason in REASONS
        assert decision.text


ONE_FILE = {"path": "/srv/files/one.txt"} | LOCAL
AFTER: list[tuple[tuple[dict[str, Any], ...], AccessRequest, AccessRequest, str]] = [
    # A rule for one file, beside what its folder allows.
    (
        (*OPEN, {"path": "/srv/files/one.txt", "admit_ips": ("9.9.9.9",)}),
        file("/srv/files/a"),
        file("/srv/files/one.txt"),
        "not_admitted",
    ),
    ((ONE_FILE,), file("/srv/files/one.txt"), file("/srv/files/two.txt"), "no_rule"),
    ((ONE_FILE,), file("/srv/files/one.txt"), folder("/srv/files"), "no_rule"),
    # Names that are none, in a folder that is open.
    (OPEN, file("/srv/files/a"), file("/srv/files/.."), "unresolved_path"),
    (OPEN, file("/srv/files/a"), file("/srv/files/."), "unresolved_path"),
    (OPEN, file("/srv/files/a"), file("/srv/files/"), "unresolved_path"),
    # A rule for one file in the peer's own folder.
    (
        (
            {"path": "/srv/$(connection.ip)/"} | WORDS,
            {"path": "/srv/$(connection.ip)/not"},
        ),
        file("/srv/127.0.0.1/a"),
        file("/srv/127.0.0.1/not"),
        "not_admitted",
    ),
    # A folder that is really called so is nobody's own, except for the file in it
    # that has the peer's address for a name.
    (
        ({"path": "/srv/$(connection.ip)/"} | WORDS,),
        file("/srv/$(connection.ip)/127.0.0.1"),
        file("/srv/$(connection.ip)/a"),
        "not_admitted",
    ),
]


@pytest.mark.parametrize(("tables_", "first", "second", "expected"), AFTER)
def test_what_was_allowed_before_allows_nothing_else(
    tables_: tuple[dict[str, Any], ...],
    first: AccessRequest,
    second: AccessRequest,
    expected: str,
) -> None:
    """
    What is remembered of one request decides another only where it must be alike.
    """
    snapshot = rules(*tables_)
    who = peer()

    assert reason(snapshot, who, first) == "admitted"
    assert expected == reason(snapshot, who, second)


def test_memory_ends_with_another_name() -> None:
    """
    A peer whose name turns out to be another is judged by that.
    """
    snapshot = rules(*lists(admit_hostnames=("n1.example.com",)))
    who = named("n1.example.com")

    assert reason(snapshot, who, file("/srv/files/a")) == "admitted"
    who.hostname = "n2.example.com"
    assert reason(snapshot, who, file("/srv/files/a")) == "not_admitted"
