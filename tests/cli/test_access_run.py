# SPDX-License-Identifier: MIT
"""
`nodecomm access explain --exec`: who may have what run, on real files.
"""

from __future__ import annotations

import functools
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import nodecomm
from nodecomm.access.explain import Explanation, explain
from nodecomm.access.requests import AccessRequest
from nodecomm.access.snapshot import Snapshot
from nodecomm.cli import main
from nodecomm.identity.keys import PublicKey
from nodecomm.identity.matches import StoredKey
from nodecomm.identity.peer import Peer
from nodecomm.identity.server_keys import ServerKeyStore
from nodecomm.identity.store import FileKeyStore
from nodecomm.service.loading import load
from nodecomm.testing import MemoryRunner, key_pair, memory_server

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

DOCS = Path(nodecomm.__file__).parent.parent / "docs"
KEY = PublicKey(2**2047 + 2**64 + 1, 65537)
OTHER = PublicKey(2**2047 + 2**66 + 1, 65537)
NOBODYS = "MD5=" + "0" * 32

SERVER = """\
[server]
state_dir = "{root}/state"
denyconnects = ["10.9.0.0/16"]
allowlegacyconnects = ["10.2.0.0/16"]
allowusers = ["root", "bob"]
cfruncommand = ["{root}/bin/link", "-K"]

[[access]]
path = "{root}/bin/agent"
ifencrypted = true
admit_ips = ["10.0.0.0/8"]

[[access]]
path = "b[12]"
resource_type = "bundle"
admit_ips = ["10.0.0.0/8"]

[[access]]
path = "b1"
resource_type = "bundle"
admit_ips = ["10.0.0.0/8"]
deny_keys = ["{key}"]

[[access]]
path = "named"
resource_type = "bundle"
admit_hostnames = [".example.com"]

[[roles]]
pattern = "debug|info"
authorize = ["root", "bob"]

[[roles]]
pattern = "x_.*"
authorize = ["bob"]

[run]
classes = ["special"]
"""

AGENT = """\
[agent]
state_dir = "{root}/state"
policy_servers = ["192.0.2.1"]
listen = ["tcp6:5308"]
run_keys = ["{run_key}"]
cfruncommand = ["{root}/bin/agent"]

[[copy]]
source = "masterfiles"
destination = "{root}/inputs"

[[access]]
path = "b1"
resource_type = "bundle"
admit_ips = ["10.0.0.0/8"]

[[roles]]
pattern = "debug"
authorize = ["root"]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """
    A program, and the configurations of a server and of an agent that run it.
    """
    root = tmp_path.resolve()
    (root / "bin").mkdir()
    (root / "bin/agent").write_text("#!/bin/sh\n")
    (root / "bin/agent").chmod(0o700)
    (root / "bin/link").symlink_to("agent")
    values = {"root": root, "key": KEY.md5, "run_key": NOBODYS}
    (root / "server.toml").write_text(SERVER.format(**values))
    (root / "agent.toml").write_text(AGENT.format(**values))
    return root


def run(root: Path, *arguments: str, config: str = "server.toml") -> tuple[int, str]:
    """
    Exit status, and output with errors, of `nodecomm access explain --exec`.
    """
    said = io.StringIO()
    named = ["-c", str(root / config), "--exec"]
    status = main.run(["access", "explain", *named, *arguments], said, said)
    return status, said.getvalue()


def answered(root: Path, *arguments: str, config: str = "server.toml") -> Any:
    """
    The same as values.
    """
    status, text = run(root, *arguments, "--json", config=config)
    answer = json.loads(text)
    assert status == (0 if answer["allowed"] else 1)
    return answer


FROM = ("--ip", "10.1.1.1")


@pytest.mark.parametrize(
    ("arguments", "reason", "step"),
    [
        (FROM, "admitted", None),
        ((*FROM, "--user", "bob"), "admitted", None),
        ((*FROM, "-D", "debug,info", "--remote-bundles", "b1,b2"), "admitted", None),
        ((*FROM, "-D", "", "--remote-bundles", "b1"), "admitted", None),
        (("--ip", "10.9.1.1"), "in_denyconnects", "connection"),
        (("--ip", "11.1.1.1"), "not_admitted", "program"),
        ((*FROM, "--user", "carl"), "not_in_allowusers", "user"),
        ((*FROM, "--user", "Root"), "not_in_allowusers", "user"),
        ((*FROM, "-D", "other"), "no_role", "role"),
        ((*FROM, "-D", "debug", "-D", "other"), "no_role", "role"),
        ((*FROM, "-D", "x_1"), "not_authorized", "role"),
        ((*FROM, "-D", "x_1", "--user", "bob"), "admitted", None),
        ((*FROM, "-D", "debug,,info"), "no_role", "role"),
        ((*FROM, "--remote-bundles", "b3"), "no_rule", "bundle"),
        ((*FROM, "--key", KEY.md5, "--remote-bundles", "b1"), "denied", "bundle"),
        ((*FROM, "--key", KEY.md5, "--remote-bundles", "b2"), "admitted", None),
        ((*FROM, "--remote-bundles", "named"), "hostname_needed", "bundle"),
        (
            (*FROM, "--remote-bundles", "named", "--hostname", "a.example.com"),
            "admitted",
            None,
        ),
        ((*FROM, "--select-class", "any"), "admitted", None),
        ((*FROM, "--define-class", "other"), "no_role", "role"),
        ((*FROM, "-s", "nothing,special"), "admitted", None),
        ((*FROM, "-s", "nothing", "-s", "spec.*"), "admitted", None),
        ((*FROM, "-s", "nothing"), "class_match", "select"),
        ((*FROM, "-s", "(a+)+$,nothing", "-D", "x"), "class_match", "select"),
        ((*FROM, "-D", "a;b"), "malformed", "arguments"),
        ((*FROM, "-D", "debug other"), "malformed", "arguments"),
        # What stands before a mistake is judged before it.
        ((*FROM, "-D", "other", "--remote-bundles", "b 1"), "no_role", "role"),
        ((*FROM, "--protocol", "classic"), "not_in_allowlegacyconnects", "connection"),
        # An EXEC in the clear is no reason for ifencrypted to refuse.
        (("--ip", "10.2.1.1", "--protocol", "classic"), "admitted", None),
    ],
)
def test_what_a_server_decides(
    root: Path, arguments: tuple[str, ...], reason: str, step: str | None
) -> None:
    """The first step that refuses decides, and says why."""
    answer = answered(root, *arguments)

    assert (answer["reason"], answer["step"]) == (reason, step)
    assert answer["undecidable"] == (reason == "hostname_needed")
    assert (answer["told"] is None) == answer["allowed"]


def test_every_step_is_shown(root: Path) -> None:
    """Steps behind the one that refuses are shown too, each with its rule and line."""
    answer = answered(
        root, *FROM, "--user", "carl", "-D", "x_1", "--remote-bundles", "b1", "-s", "no"
    )

    assert [(s["step"], s["subject"], s["reason"]) for s in answer["steps"]] == [
        ("connection", "10.1.1.1", "admitted"),
        ("command", "cfruncommand", "admitted"),
        ("program", f"{root}/bin/link", "admitted"),
        ("user", "carl", "not_in_allowusers"),
        ("select", "no", "class_match"),
        ("role", "x_1", "not_authorized"),
        ("bundle", "b1", "admitted"),
    ]
    program, role = answer["steps"][2], answer["steps"][5]
    assert program["rule"]["line"] == 9
    assert {"about": "file", "text": f"{root}/bin/link leads to {root}/bin/agent"} in (
        program["steps"]
    )
    assert (role["rule"]["type"], role["rule"]["line"]) == ("role", 34)
    (other,) = role["others"]
    assert other["rule"]["line"] == 30
    assert other["text"] == (
        "its expression does not match the whole name of the class; it does not "
        "authorize user carl"
    )
    assert "(" + str(root) + "/server.toml:5" in answer["steps"][3]["text"]


def test_text_for_a_person(root: Path) -> None:
    """First what becomes of the request and of the peer, then all steps."""
    status, text = run(root, *FROM, "-D", "x_1")

    lines = text.splitlines()
    where = f"{root}/server.toml"
    assert status == 1
    assert lines[:4] == [
        f"denied [not_authorized]: role x_1: role x_.* ({where}:34) is about the class "
        "x_1, and does not authorize user root",
        "the peer is told that the role activation is denied, and may go on",
        "",
        "peer: 10.1.1.1, host name not given, user root (uid 0), key not given",
    ]
    assert f"   - runs: {root}/bin/link -K" in lines
    assert "   - user: as the service itself" in lines
    assert (
        "   - right: it is run and not given away, which needs no right on it" in lines
    )
    assert "   - authorize: it authorizes bob" in lines
    assert any(
        line.startswith(f"   - not role debug|info ({where}:30):") for line in lines
    )

    status, text = run(root, *FROM)

    assert status == 0
    assert text.startswith("allowed [admitted]: all that is asked for may be run\n\n")


def test_arguments_that_no_server_takes(root: Path) -> None:
    """A request that is none is told with the text that the peer gets."""
    _, text = run(root, *FROM, "-D", "a;\x1b[2J")

    assert "arguments EXEC -D a;\\x1b[2J: an item is made of letters, digits" in text
    assert "the peer is told: EXEC denied role activation" in text
    assert "\x1b" not in text

    _, text = run(root, *FROM, "--remote-bundles", "a -K")

    assert "this is no option of EXEC: -K" in text


def test_nothing_to_run(root: Path) -> None:
    """Without a command everybody is refused, and a program that is gone likewise."""
    config = root / "server.toml"
    written = config.read_text()
    config.write_text(written.replace("cfruncommand", "# "))

    answer = answered(root, *FROM, "-D", "debug")

    assert (answer["reason"], answer["step"]) == ("no_command", "command")
    assert "program" not in [step["step"] for step in answer["steps"]]

    config.write_text(written)
    (root / "bin/agent").unlink()
    answer = answered(root, *FROM)
    assert (answer["reason"], answer["step"]) == ("not_found", "program")

    (root / "bin/agent").mkdir()
    answer = answered(root, *FROM)
    assert (answer["reason"], answer["step"]) == ("no_program", "program")


def test_commands_are_shown(root: Path) -> None:
    """A text for the shell and the node's own sync are shown as what they are."""
    config = root / "server.toml"
    written = config.read_text()
    listed = f'["{root}/bin/link", "-K"]'
    config.write_text(written.replace(listed, f'"{root}/bin/link -K; true"'))

    _, text = run(root, *FROM)

    assert f"   - runs: /bin/sh -c '{root}/bin/link -K; true'" in text

    config.write_text(written.replace(listed, '"sync"') + "\n")
    answer = answered(root, *FROM, "-D", "debug")

    program, *_, role = answer["steps"][2:]
    assert program["subject"].endswith("/nodecomm")
    assert (role["reason"], role["allowed"]) == ("takes_none", False)


@pytest.mark.parametrize(
    ("arguments", "reason", "code"),
    [
        (("--key", KEY.md5), "admitted", "stored"),
        (("--key", KEY.sha), "admitted", "stored"),
        (("--key", KEY.md5, "--user", "carl"), "user_not_trusted", None),
        (("--key", OTHER.md5), "unknown_key", None),
        # A file that is named after an address counts for that alone.
        (("--key", OTHER.md5, "--ip", "10.1.1.2"), "admitted", "stored"),
        (("--key", NOBODYS), "unknown_key", None),
        (("--key", "MD5=" + "1" * 32), "admitted", "first_use_pinned"),
        (("--key", NOBODYS, "--ip", "10.5.0.1"), "admitted", "first_use"),
        (("--key", NOBODYS, "--ip", "10.6.0.1"), "unknown_key", None),
        (("--key", NOBODYS, "--ip", "10.5.0.1", "--user", "bob"), "user_not", None),
    ],
)
def test_whose_keys_a_server_trusts(
    root: Path, arguments: tuple[str, ...], reason: str, code: str | None
) -> None:
    """
    A key that the server does not trust is refused before any rule is asked, as is told
    first; nothing is stored or renamed.
    """
    store = FileKeyStore(root / "state/ppkeys")
    store.add("root", KEY)
    (root / "state/ppkeys/root-10.1.1.2.pub").write_bytes(OTHER.to_pem())
    (root / "state/trusted-digests").write_text("MD5=" + "1" * 32)
    windows = (
        '["10.5.0.0/16", { network = "10.6.0.0/16", until = 2001-01-01T00:00:00Z }]'
    )
    config = root / "server.toml"
    text = config.read_text().replace(
        "[server]", f"[server]\ntrustkeysfrom = {windows}"
    )
    config.write_text(text)
    before = sorted((root / "state").rglob("*"))

    answer = answered(root, *FROM, *arguments)

    assert answer["reason"].startswith(reason)
    step = answer["steps"][1]
    assert step["step"] == "key"
    if code is None:
        assert (answer["step"], step["allowed"]) == ("key", False)
        assert "nodecomm key trust FILE" in answer["text"]
    else:
        assert (step["reason"], step["allowed"]) == (code, True)
    assert sorted((root / "state").rglob("*")) == before


def test_keys_that_cannot_be_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no keys can be seen, or none is given, that is said."""
    note = answered(root, *FROM)["steps"][0]["notes"]
    assert note == ["which keys are trusted was not looked at: --key says whose it is"]

    key = answered(root, *FROM, "--key", NOBODYS)["steps"][1]
    assert (key["reason"], key["allowed"]) == ("not_looked_at", True)
    assert f"there is no folder {root}/state/ppkeys here" in key["text"]

    def closed(self: FileKeyStore) -> list[StoredKey]:
        raise PermissionError(13, "Permission denied", self.directory)

    FileKeyStore(root / "state/ppkeys").add("root", KEY)
    monkeypatch.setattr(FileKeyStore, "entries", closed)
    key = answered(root, *FROM, "--key", KEY.md5)["steps"][1]
    assert key["reason"] == "not_looked_at"
    assert f"{root}/state/ppkeys: Permission denied" in key["text"]


@pytest.mark.parametrize(
    ("arguments", "reason", "step"),
    [
        (("--key", NOBODYS), "admitted", None),
        (("--key", NOBODYS, "-D", "debug", "--remote-bundles", "b1"), "admitted", None),
        (("--key", KEY.md5), "admitted", None),
        (("--key", KEY.sha), "admitted", None),
        (("--key", OTHER.md5), "not_a_caller", "key"),
        ((), "no_key", "key"),
        (("--key", KEY.md5, "--user", "bob"), "not_in_allowusers", "user"),
        (("--key", KEY.md5, "-D", "other"), "no_role", "role"),
        (("--key", KEY.md5, "--remote-bundles", "b2"), "no_rule", "bundle"),
        (("--key", KEY.md5, "--protocol", "classic"), "not_tls", "connection"),
    ],
)
def test_what_an_agent_decides(
    root: Path, arguments: tuple[str, ...], reason: str, step: str | None
) -> None:
    """Keys decide who may connect to an agent; then all is as with a server."""
    store = ServerKeyStore(str(root / "state/server-keys"))
    store.add("192.0.2.1:5308", KEY)
    store.add("192.0.2.7:5308", OTHER)

    answer = answered(root, *FROM, *arguments, config="agent.toml")

    assert (answer["reason"], answer["step"]) == (reason, step)


def test_agent_that_does_not_listen(root: Path) -> None:
    """An agent that listens nowhere is asked for nothing."""
    config = root / "agent.toml"
    config.write_text(config.read_text().replace('["tcp6:5308"]', "[]"))

    answer = answered(root, *FROM, "--key", NOBODYS, config="agent.toml")

    assert (answer["reason"], answer["step"]) == ("no_listener", "connection")


def test_configuration_of_an_agent_by_another_name(root: Path) -> None:
    """What is in a file, or `--agent`, says whose it is."""
    (root / "other.toml").write_text((root / "agent.toml").read_text())

    guessed = answered(root, *FROM, "--key", NOBODYS, config="other.toml")
    told = answered(root, *FROM, "--agent", "--key", NOBODYS, config="other.toml")

    assert guessed == told
    assert guessed["steps"][0]["step"] == "key"


def test_configuration_that_cannot_be_used(root: Path) -> None:
    """What is wrong with the file is told, and the exit status is another one."""
    for config in ("server.toml", "agent.toml"):
        (root / config).write_text("[server]\n[agent]\nx = 1\n")

        status, text = run(root, *FROM, config=config)

        assert status == 2
        assert "unknown key" in text
        assert text.endswith("error: the configuration cannot be used\n")


def test_agents_serve_nothing_by_name(root: Path) -> None:
    """Whoever asks an agent's configuration about a path is told what it knows of."""
    said = io.StringIO()
    words = ["access", "explain", "-c", str(root / "agent.toml"), *FROM, "masterfiles"]

    assert main.run(words, said, said) == 2
    assert said.getvalue() == (
        f"error: {root}/agent.toml is an agent's, which serves nothing by name; --exec "
        "asks whom it runs something for\n"
    )


def test_no_configuration_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no file the answer says that it is about no file."""
    nowhere = functools.partial(load, system_file=root / "none.toml")
    monkeypatch.setattr("nodecomm.cli.access_reading.load", nowhere)
    monkeypatch.setattr("nodecomm.cli.access_run.load", nowhere)
    for asked in ("--exec", "masterfiles"):
        out, err = io.StringIO(), io.StringIO()
        words = ["access", "explain", *FROM, "--state-dir", str(root), asked]

        assert main.run(words, out, err) == 1
        assert err.getvalue().startswith(f"warning: there is no {root}/none.toml; ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--exec", "path"), "--exec is about no path"),
        (("--exec", "--encrypt", "--protocol", "classic"), "about requests for a path"),
        ((), "which REQUEST_PATH? Or a run: --exec"),
        (("path", "-D", "x"), "belong to --exec"),
        (("path", "-s", "x"), "belong to --exec"),
        (("path", "--agent"), "belong to --exec"),
        (("--exec", "--operation", "get"), "--operation"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], said: str) -> None:
    """A path and a run are asked about apart."""
    out = io.StringIO()

    status = main.run(["access", "explain", *FROM, *arguments], out, out)

    assert status == 2
    assert said in out.getvalue()


TERMINATOR = "---cfXen/gine/cfXen/gine---"

#: What a peer is told, by the step that refuses.
TOLD = {
    None: b"cf-serverd executing cfruncommand",
    "program": b"BAD: Unspecified server refusal",
    "user": b"BAD: Unspecified server refusal",
    "select": b"EXEC denied due to failed class match",
    "role": b"EXEC denied role activation",
    "bundle": b"EXEC denied bundle activation",
    "arguments": b"EXEC denied: invalid arguments",
}


ADDRESSES = ("10.1.1.1", "11.1.1.1")
USERS = ("root", "bob", "carl")
OPTIONS = (
    "",
    "-D debug",
    "-D debug,other",
    "-D x_1",
    "-b b1,b2",
    "-b b3",
    "-D debug -K",
)
SELECTED = ("", "special", "nothing")

#: Each of these with all else as it is for who may have everything, and some where
#: several things are wrong.
REQUESTS = [
    *((address, "root", "", "") for address in ADDRESSES),
    *(("10.1.1.1", user, "-D x_1", "") for user in USERS),
    *(("10.1.1.1", "root", options, "") for options in OPTIONS),
    *(("10.1.1.1", "root", "", selected) for selected in SELECTED),
    ("11.1.1.1", "carl", "-D other", "nothing"),
    ("10.1.1.1", "carl", "-D other", "nothing"),
    ("10.1.1.1", "bob", "-D other -b b3", "nothing"),
    ("10.1.1.1", "bob", "-D other -b b3", "special"),
    ("10.1.1.1", "bob", "-b b3 -D other", ""),
]


@pytest.mark.parametrize("protocol", ["latest", "classic"])
def test_what_is_explained_is_what_is_done(root: Path, protocol: str) -> None:
    """Every request of a table ends in the step that the command names."""
    config = root / "server.toml"
    everywhere = 'allowallconnects = ["0.0.0.0/0"]\nallowlegacyconnects = ["0.0.0.0/0"]'
    config.write_text(
        re.sub("allowlegacyconnects = .*", everywhere, config.read_text())
    )
    tables = tomllib.loads(config.read_text())
    server = memory_server(
        *tables["access"],
        server=tables["server"],
        roles=tables["roles"],
        execution=MemoryRunner((b"any", b"special")),
    )
    for user in USERS:
        server.store.add(user, key_pair(1).public)
    connect = server.connect_classic if protocol == "classic" else server.connect

    for address, user, options, selected in REQUESTS:
        words = options.split()
        given = ["--ip", address, "--user", user, "--protocol", protocol]
        for word, text in zip(words[::2], words[1::2], strict=False):
            given += [word.replace("-b", "--remote-bundles"), text]
        if words[2:] == ["-K"]:
            given[-1] += " -K"
        said = answered(root, *given, *(["-s", selected] if selected else []))
        node = connect(address, key=key_pair(1), user=user.encode())
        frames = [f"EXEC {options}".strip(), *selected.split(), TERMINATOR]
        found = node.request(*(frame.encode() for frame in frames))
        node.hang_up()

        told = [each for each in found if not each.startswith(b"Hello ")]
        assert told[0].startswith(TOLD[said["step"]]), (given, said["text"], found)


def test_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page about rules shows of a run is what comes out."""
    page = (DOCS / "access.rst").read_text()
    _, _, section = page.partition("Who may have something run\n----")
    block = section.split(".. code-block:: toml\n\n", 1)[1].split("\n\nWhat is", 1)[0]
    shown = section.split("   $ nodecomm ", 1)[1].split("\n\n``-D``", 1)[0]
    command, *lines = [line.removeprefix("   ") for line in shown.splitlines()]
    monkeypatch.chdir(tmp_path)
    written = "\n".join(line.removeprefix("   ") for line in block.splitlines())
    Path("server.toml").write_text(written + "\n")

    (tmp_path / "state/ppkeys").mkdir(parents=True)
    (tmp_path / "state/trusted-digests").write_text(command.split()[-3])
    monkeypatch.setenv("NODECOMM_STATE_DIR", str(tmp_path / "state"))
    # The program of the example need not be there.
    monkeypatch.setattr("nodecomm.cli.access_run.explain_file", _as_if_there)
    monkeypatch.setattr("os.path.isfile", lambda path: True)
    said = io.StringIO()
    status = main.run(command.split(), said, said)

    assert said.getvalue().splitlines() == lines
    assert status == 1


def _as_if_there(
    snapshot: Snapshot, peer: Peer, operation: str, asked: bytes, encrypted: bool | None
) -> Explanation:
    request = AccessRequest(operation, asked, encrypted=encrypted)
    return explain(snapshot, peer, request)
