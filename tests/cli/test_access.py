# SPDX-License-Identifier: MIT
"""
`nodecomm access explain` on real files.
"""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest

import nodecomm
from nodecomm.access.compile import Resolved, compile_snapshot
from nodecomm.access.decision import REASONS
from nodecomm.access.explain import explain
from nodecomm.access.requests import AccessRequest
from nodecomm.cli import main
from nodecomm.cli.explaining import NO_SHORTCUT, NOT_FOUND
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.peer import Peer
from nodecomm.identity.store import FileKeyStore
from nodecomm.service.loading import load

DOCS = Path(nodecomm.__file__).parent.parent / "docs"
KEY = PublicKey(2**2047 + 2**64 + 1, 65537)
NO_KEY = "MD5=" + "0" * 32

CONFIG = """\
[server]
state_dir = "{root}/state"
allowed_networks = ["10.0.0.0/8"]
denyconnects = ["10.9.0.0/16"]
allowlegacyconnects = ["10.2.0.0/16"]

[[access]]
path = "{root}/files"
shortcut = "files"
admit_ips = ["@allowed_networks"]

[[access]]
path = "{root}/files/secret"
admit_keys = ["{key}"]

[[access]]
path = "{root}/new"
admit_ips = ["@allowed_networks"]

[[access]]
path = "{root}/named/"
shortcut = "named"
admit_hostnames = [".example.com"]

[[access]]
path = "{root}/own/$(connection.hostname)/"
shortcut = "own"
admit_hostnames = ["$(connection.hostname)"]

[[access]]
path = "/generated"
source = "gen"
admit_ips = ["10.1.1.1"]

[[access]]
path = "delta"
resource_type = "query"
admit_ips = ["10.1.1.1"]

[[access]]
path = "{root}/sealed"
shortcut = "sealed"
ifencrypted = true
admit_ips = ["@allowed_networks"]
maproot = ["10.2.1.1"]

[[access]]
path = "secret"
resource_type = "variable"
ifencrypted = true
admit_ips = ["@allowed_networks"]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """
    A small tree, and a configuration that serves it.
    """
    root = tmp_path.resolve()
    for folder in ("files/secret", "named", "new", "outside", "sealed"):
        (root / folder).mkdir(parents=True)
    for name in ("files/a", "files/secret/s", "named/n", "new/f", "outside/o"):
        (root / name).write_text("content")
    (root / "files/private").write_text("content")
    (root / "files/private").chmod(0o600)
    (root / "sealed/private").write_text("content")
    (root / "sealed/private").chmod(0o600)
    (root / "files/link").symlink_to(root / "outside/o")
    (root / "files/nowhere").symlink_to(root / "gone")
    (root / "files/near").symlink_to("a")
    (root / "files/secret/out").symlink_to("../a")
    text = CONFIG.format(root=root, key=KEY.md5)
    (root / "server.toml").write_text(text)
    return root


def explained(root: Path, *arguments: str) -> tuple[int, str, str]:
    """
    Exit status, output and errors of `nodecomm access explain`.
    """
    out, err = io.StringIO(), io.StringIO()
    given = [argument.replace("ROOT", str(root)) for argument in arguments]
    config = str(root / "server.toml")
    status = main.run(["access", "explain", "-c", config, *given], out, err)
    return status, out.getvalue(), err.getvalue()


CASES = [
    (["--ip", "10.1.1.1", "files/a"], 0, "admitted"),
    (["--ip", "::ffff:10.1.1.1", "files/a"], 0, "admitted"),
    (["files/a", "--ip", "10.1.1.1"], 0, "admitted"),
    (["--ip", "10.1.1.1", "ROOT/files/a"], 0, "admitted"),
    (["--ip", "10.1.1.1", "ROOT/files/secret/../a"], 0, "admitted"),
    (["--ip", "10.1.1.1", "files", "--operation", "opendir"], 0, "admitted"),
    (["--ip", "10.1.1.1", "files/", "--operation=opendir"], 0, "admitted"),
    (["--ip", "11.1.1.1", "files/a"], 1, "not_admitted"),
    (["--ip", "10.9.1.1", "files/a"], 1, "in_denyconnects"),
    (["--ip", "10.1.1.1", "files/gone"], 1, "not_found"),
    (["--ip", "10.1.1.1", "files/a/"], 1, "not_found"),
    # A link that leads nowhere is shown as it is, and can be nothing else.
    (["--ip", "10.1.1.1", "files/nowhere"], 0, "admitted"),
    (["--ip", "11.1.1.1", "files/nowhere"], 1, "not_admitted"),
    (["--ip", "10.1.1.1", "files/nowhere", "--operation", "get"], 1, "not_found"),
    (["--ip", "10.1.1.1", "files/nowhere/"], 1, "not_found"),
    (["--ip", "10.1.1.1", "files/link"], 1, "no_rule"),
    (["--ip", "10.1.1.1", "other/a"], 1, "no_shortcut"),
    (["--ip", "10.1.1.1", "new/f"], 1, "no_shortcut"),
    (["--ip", "10.1.1.1", "files/secret/s"], 1, "not_admitted"),
    (["--ip", "10.1.1.1", "files/secret/s", "--key", KEY.md5], 0, "admitted"),
    (["--ip", "10.1.1.1", "files/secret/s", "--key", NO_KEY], 1, "not_admitted"),
    (
        ["--ip", "10.1.1.1", "files/secret/s", "--key", NO_KEY, "--key", KEY.md5],
        0,
        "admitted",
    ),
    (["--ip", "10.1.1.1", "files/private"], 0, "admitted"),
    (["--ip", "10.1.1.1", "files/private", "--user", "x-y"], 1, "no_right_on_file"),
    (["--ip", "10.1.1.1", "ROOT/named/n"], 1, "hostname_needed"),
    (["--ip", "10.1.1.1", "named/n", "--hostname", ""], 1, "not_admitted"),
    (["--ip", "10.1.1.1", "named/n", "--hostname", "a.example.com"], 0, "admitted"),
    (["--ip", "10.1.1.1", "own/x"], 1, "hostname_needed"),
    (["--ip", "10.1.1.1", "own/x", "--hostname", "n1"], 1, "not_found"),
    (["--ip", "10.1.1.1", "/generated/any/thing"], 0, "admitted"),
    (["--ip", "10.1.1.2", "/generated/any/thing"], 1, "not_admitted"),
    (["--ip", "10.1.1.1", "delta", "--operation", "query"], 0, "admitted"),
    (["--ip", "10.1.1.1", "delta", "--operation", "literal"], 1, "no_rule"),
]

CLASSIC = ["--protocol", "classic"]
GET = ["--operation", "get"]
VAR = ["secret", "--operation", "literal"]

#: As above, of nodes that speak the classic protocol.
CLASSIC_CASES = [
    (["--ip", "10.1.1.1", "files/a", *CLASSIC], 1, "not_in_allowlegacyconnects"),
    (["--ip", "10.9.1.1", "files/a", *CLASSIC], 1, "in_denyconnects"),
    (["--ip", "10.2.1.1", "files/a", *CLASSIC], 0, "admitted"),
    (["--ip", "10.2.1.1", "files/a", "--unencrypted"], 0, "admitted"),
    (["--ip", "10.1.1.1", "files/a", "--unencrypted"], 1, "not_in_allowlegacyconnects"),
    # A STAT counts as encrypted, whatever it is.
    (["--ip", "10.2.1.1", "sealed/private", *CLASSIC], 0, "admitted"),
    (["--ip", "10.2.1.1", "sealed/private", *GET, *CLASSIC], 1, "not_encrypted"),
    (["--ip", "10.2.1.1", "sealed/private", *GET, "--unencrypted"], 1, "not_encrypted"),
    (
        ["--ip", "10.2.1.1", "files/a", "--unencrypted", "--protocol", "classic"],
        *(0, "admitted"),
    ),
    (
        ["--ip", "10.2.1.1", "sealed/private", *GET, *CLASSIC, "--encrypt"],
        0,
        "admitted",
    ),
    (["--ip", "10.2.1.1", "sealed/private", *GET], 0, "admitted"),
    (
        ["--ip", "10.2.1.1", "sealed", "--operation", "opendir", *CLASSIC],
        1,
        "not_encrypted",
    ),
    # maproot lifts the right on the file itself, on the classic protocol only.
    (
        ["--ip", "10.2.1.1", "sealed/private", "--user", "x-y", "--protocol", "1"],
        0,
        "admitted",
    ),
    (
        ["--ip", "10.2.1.1", "sealed/private", "--user", "x-y", "--protocol", "2"],
        1,
        "no_right_on_file",
    ),
    (
        ["--ip", "10.2.1.2", "sealed/private", "--user", "x-y", *CLASSIC],
        1,
        "no_right_on_file",
    ),
    # A rule of type variable counts for a VAR on the classic protocol.
    (["--ip", "10.2.1.1", *VAR], 1, "no_rule"),
    (["--ip", "10.2.1.1", *VAR, *CLASSIC], 1, "not_encrypted"),
    (["--ip", "10.2.1.1", *VAR, *CLASSIC, "--encrypt"], 0, "admitted"),
]


@pytest.mark.parametrize(("arguments", "status", "reason"), CASES + CLASSIC_CASES)
def test_decision_and_exit_status(
    root: Path, arguments: list[str], status: int, reason: str
) -> None:
    """
    The exit status is the decision, and the text and the JSON name its reason.
    """
    found, text, errors = explained(root, *arguments)
    _, shown, _ = explained(root, *arguments, "--json")

    assert (status, "") == (found, errors)
    assert f"[{reason}]" in text.splitlines()[0]
    assert json.loads(shown)["reason"] == reason
    assert json.loads(shown)["allowed"] is (status == 0)


def test_output_names_rule_with_file_and_line(root: Path) -> None:
    """
    The rule that decided stands with its line, and so do those that did not.
    """
    _, text, _ = explained(root, "--ip", "10.1.1.1", "files/secret/s")

    config = root / "server.toml"
    assert f"{root}/files/secret/ ({config}:13)" in text
    assert f"- {root}/files/ ({config}:8): hidden: only the longest path" in text
    assert "shortcut: files stands for the path" in text


def test_missing_final_slash_is_explained(root: Path) -> None:
    """
    A rule that was written before its folder existed covers nothing in it, and that
    is said.
    """
    (root / "new/f").unlink()
    (root / "new").rmdir()
    _, text, _ = explained(root, "--ip", "10.1.1.1", "ROOT/new/f")

    assert f"it has no final slash, so it covers exactly {root}/new" in text
    assert f"write '{root}/new/'" in text


def test_link_is_explained(root: Path) -> None:
    """
    Rules are about where a link leads, and the answer says so.
    """
    _, text, _ = explained(root, "--ip", "10.1.1.1", "files/link")

    assert f"{root}/files/link leads to {root}/outside/o" in text
    assert "rules are applied to where a path leads" in text


def test_right_on_the_file_is_named(root: Path) -> None:
    """
    A file that the user may not read is told with owner and mode.
    """
    _, text, _ = explained(
        root, "--ip", "10.1.1.1", "files/private", "--user", "x-y", "--operation", "md5"
    )

    assert f"(owner {os.getuid()}, mode 0600)" in text
    assert "user x-y (nobody here) may not read it" in text
    assert "a node that copies with purge deletes its copy" in text
    _, given, _ = explained(
        root, "--ip", "10.1.1.1", "files/private", "--user", "x-y", "--json"
    )
    (note,) = json.loads(given)["notes"]
    assert "purge" in note


def test_a_link_over_the_classic_protocol(root: Path) -> None:
    """
    There a STAT shows a link as one, if its own place is admitted, too; over TLS, and
    to other requests, it is what it leads to.
    """
    asked = ("--ip", "10.2.1.1", *CLASSIC)
    _, shown, _ = explained(root, *asked, "files/near")
    _, hidden, _ = explained(root, *asked, "files/secret/out")
    _, plain, _ = explained(root, *asked, "files/a")
    _, got, _ = explained(root, *asked, "files/near", "--operation", "get")
    _, tls, _ = explained(root, "--ip", "10.2.1.1", "files/near")

    assert f"link: the node sees a link, {root}/files/near, and its text" in shown
    assert "link: the node sees what it leads to, and no link: for" in hidden
    assert f"rule {root}/files/secret/" in hidden
    assert all("link: " not in text for text in (plain, got, tls))


def test_a_classic_peer_is_shown(root: Path) -> None:
    """
    The answer says that the node speaks the classic protocol and whether its request
    is encrypted; of one over TLS neither.
    """
    asked = ("--ip", "10.2.1.1", "sealed/private", "--operation", "get")
    shown = []
    for more in ((), CLASSIC, (*CLASSIC, "--encrypt")):
        _, text, _ = explained(root, *asked, *more)
        _, given, _ = explained(root, *asked, *more, "--json")
        peer = json.loads(given)["peer"]
        (line,) = [line for line in text.splitlines() if line.startswith("peer: ")]
        shown.append(
            (peer["protocol"], peer["encrypted"], line.partition("key not given")[2])
        )

    assert shown == [
        ("tls", True, ""),
        ("classic", False, ", over the classic protocol in the clear"),
        ("classic", True, ", over the classic protocol, encrypted"),
    ]


def test_steps_of_a_classic_request(root: Path) -> None:
    """
    The steps begin with the list that lets the node speak the classic protocol, and
    say what a rule with ifencrypted makes of the request.
    """
    asked = ("--ip", "10.2.1.1", "sealed/private", *CLASSIC)
    _, text, _ = explained(root, *asked)
    _, refused, _ = explained(root, *asked, "--operation", "md5")
    _, name, _ = explained(root, "--ip", "10.2.1.1", *VAR, *CLASSIC)

    assert 'connection: entry "10.2.0.0/16" of allowlegacyconnects lets' in text
    assert "ifencrypted: a STAT of the classic protocol counts as encrypted" in text
    assert "ifencrypted: not encrypted" in refused
    assert "look-up: variable secret (" in name
    assert "ifencrypted: not encrypted" in name


def test_stored_key_is_known_by_both_names(root: Path) -> None:
    """
    One name of a stored key is enough for rules that have the other.
    """
    FileKeyStore(root / "state/ppkeys").add("root", KEY)

    status, text, _ = explained(
        root, "--ip", "10.1.1.1", "files/secret/s", "--key", KEY.sha
    )

    assert status == 0
    assert KEY.md5 in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["files/a"], "--ip ADDRESS is missing"),
        (["--ip", "n1.example.com", "files/a"], "--ip takes an address"),
        (["--ip", "10.1.1.1"], "which REQUEST_PATH?"),
        (["--ip", "10.1.1.1", "a", "b"], "one REQUEST_PATH"),
        (["--ip", "10.1.1.1", "a", "--operation", "put"], "unknown operation 'put'"),
        (["--ip", "10.1.1.1", "a", "--key", "x"], "--key"),
        (["--ip", "10.1.1.1", "a", "--protocol", "4"], "latest or classic, not '4'"),
        (["--ip", "10.1.1.1", "a", "--encrypt"], "TLS is always encrypted"),
        (
            ["--ip", "10.1.1.1", "a", "--encrypt", "--unencrypted"],
            "contradict each other",
        ),
        (
            ["--ip", "10.1.1.1", "a", "--unencrypted", "--protocol", "latest"],
            "contradicts latest: TLS is always encrypted",
        ),
        (["--ip", "10.1.1.1", "a", "--nonsense"], "nonsense"),
        (["--ip", "10.1.1.1", "a\\q"], "no escape"),
    ],
)
def test_wrong_command_line(root: Path, arguments: list[str], says: str) -> None:
    """
    A wrong command line has exit status 2 and says what is wrong.
    """
    status, _, errors = explained(root, *arguments)

    assert status == 2
    assert says in errors


def test_wrong_configuration(root: Path) -> None:
    """
    A configuration that cannot be used has exit status 2; its errors are printed
    with their lines.
    """
    config = root / "server.toml"
    config.write_text(config.read_text() + 'deny_ips = ["192.168."]\n')

    status, out, errors = explained(root, "--ip", "10.1.1.1", "files/a")

    assert (status, out) == (2, "")
    assert f"{config}:52:13: error: access[8].deny_ips[0]" in errors
    assert "write '192.168' or '192.168.0.0/16'" in errors


def test_subcommand_is_required(root: Path) -> None:
    """
    `nodecomm access` alone says what there is.
    """
    err = io.StringIO()

    assert main.run(["access"], io.StringIO(), err) == 2
    assert "nodecomm access explain" in err.getvalue()


def test_output_is_safe_for_a_terminal(root: Path) -> None:
    """
    What was asked for never reaches the terminal as control characters.
    """
    for arguments in (
        ["--ip", "10.1.1.1", "\\x1b[2J", "--user", "a\x1b[2J"],
        ["--ip", "10.1.1.1", "ROOT/files/\\x1b[2J", "--hostname", "h\x1b[2J"],
    ):
        _, text, _ = explained(root, *arguments)

        assert "\x1b" not in text


def test_page_lists_every_reason() -> None:
    """
    The page about rules has every reason code with its meaning, and of others those
    for a name that no rule is asked about.
    """
    page = (DOCS / "access.rst").read_text()

    listed = re.findall(r"^   \* - `(\w+)`\n     - (.+)$", page, re.M)

    reasons = dict(listed)
    assert reasons.pop(NO_SHORTCUT).startswith("the path is not absolute")
    assert reasons.pop("absent").startswith("there is nothing of this name")
    assert f"explain`` calls it `{NOT_FOUND}`" in page
    assert reasons == REASONS


def test_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The example that the page about rules shows is what comes out.
    """
    page = (DOCS / "access.rst").read_text()
    block = page.split(".. code-block:: toml\n\n", 1)[1].split("\n\n", 1)[0]
    lines = [line.removeprefix("   ") for line in block.splitlines()]
    (tmp_path / "server.toml").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    settings = load(Path("server.toml"), environ={}).usable()
    snapshot, problems = compile_snapshot(
        settings, resolve=lambda path: Resolved(path, True)
    )
    who = Peer("10.1.2.3", user="root", uid=0, encrypted=True)
    request = AccessRequest(
        "stat", b"/srv/policy/masterfiles/promises.cf", False, 0, 0o100644
    )

    answer = explain(snapshot, who, request)

    assert problems == []
    assert f"   allowed [admitted]: {answer.decision.text}\n" in page
    for number, step in enumerate(answer.steps, 2):
        assert f"   {number}. {step.about}: {step.text}\n" in page
    assert len(answer.steps) == 5
