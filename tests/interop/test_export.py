# SPDX-License-Identifier: MIT
"""
Rules that `nodecomm access export` has written: a real cf-serverd loads them, and
decides as this server does, whoever asks for whatever.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from nodecomm.access.snapshot import Snapshot
from nodecomm.cli import main
from nodecomm.cli.access_reading import read_rules
from nodecomm.cli.explaining import explain_file
from nodecomm.identity.keys import KeyPair
from nodecomm.identity.peer import Peer
from nodecomm.inventory.judgement import Known
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.nodes import Facts, Node, Status
from nodecomm.inventory.records import Records
from nodecomm.wire.text import to_text
from tests.interop.harness import RealServer, WorkFolder, config_for, peer_program
from tests.interop.prepared import public_folder
from tests.interop.rawpeer import QUICK, RawPeer, context
from tests.recorded import key_pair

SERVER, NODE, OTHER = key_pair("server"), key_pair("client"), key_pair("other")

_SHA = next(d for d in NODE.public.digests if d.startswith("SHA="))

#: As small as a server takes them, so that it is made at once.
THIRD = KeyPair.generate(QUICK)

#: Who asks: any of the keys from any of the addresses.
KEYS = {"node": NODE, "other": OTHER, "third": THIRD}
SOURCES = ("127.0.0.1", "127.0.0.3", "127.3.0.12", "127.33.0.1")

#: Folder, and who may have what is in it.
RULES: tuple[tuple[str, str], ...] = (
    ("address", 'admit_ips = ["127.0.0.3"]'),
    ("prefix", 'admit_ips = ["127.3"]'),
    ("network", 'admit_ips = ["127.3.9.9/16"]'),
    ("half", 'admit_ips = ["127.0.0.0/11"]'),
    ("range", 'admit_ips = ["127.0-3.0.3-12"]'),
    ("short-range", 'admit_ips = ["127.1-3"]'),
    ("everybody", 'admit_ips = ["0.0.0.0/0"]'),
    ("six", 'admit_ips = ["::/0"]'),
    # The first alternative is the beginning of the address.
    ("regex", "admit_ips = ['127\\.0\\.0\\.3|127\\.3\\.0\\.1|127\\.3\\.0\\.12']"),
    ("regex-range", "admit_ips = ['127\\.[0-3]\\.0\\.[1-3]']"),
    ("regex-quoted", "admit_ips = ['\\Q127.0.0.3']"),
    ("regex-cased", "admit_ips = ['127.0.0.3(X|x|)']"),
    ("denied", 'admit_ips = ["127.0.0.0/8"]\ndeny_ips = ["127.3"]'),
    (
        "denied-range",
        'admit_ips = ["127.0.0.0/8"]\ndeny_ips = [\'127\\.0.*\', "127.33-40"]',
    ),
    ("denied-key", f'admit_ips = ["127"]\ndeny_keys = ["{OTHER.public.md5}"]'),
    ("key", f'admit_keys = ["{NODE.public.md5}"]'),
    ("sha", f'admit_keys = ["{_SHA}"]'),
    ("denied-sha", f'admit_ips = ["127"]\ndeny_keys = ["{_SHA}"]'),
    ("union", f'admit_ips = ["127.3"]\nadmit_keys = ["{NODE.public.md5}"]'),
    ("nobody", "deny_ips = ['.*']"),
    ("old", f'admit = ["127.0.0.3", "{OTHER.public.md5}"]'),
    ("everybody/inner", f'admit_keys = ["{OTHER.public.md5}"]'),
    ("everybody/one", 'admit_ips = ["127.0.0.1"]'),
    # It has no $(connection.key) in its path, so the word is nothing.
    ("no-word", 'admit_keys = ["$(connection.key)"]'),
    ("per-key/$(connection.key)", 'admit_keys = ["$(connection.key)"]'),
    ("per-ip/$(connection.ip)", 'admit_ips = ["$(connection.ip)"]'),
    ("either/$(connection.key)", 'admit_ips = ["$(connection.ip)"]'),
    (
        "no-key/$(connection.key)",
        'admit_keys = ["$(connection.key)"]\ndeny_ips = ["$(connection.ip)"]',
    ),
    # cf-serverd would not ask who is denied.
    (
        "closed/$(connection.key)",
        'admit_keys = ["$(connection.key)"]\ndeny_ips = ["127.3"]',
    ),
    ("missing-later", 'admit_ips = ["127.0.0.3"]'),
)

_EVERYBODY = 'admit_ips = ["127.0.0.3"]'

#: Names that a string of the language must have escapes for.
ODD_NAMES = (
    b'two "quotes"',
    b"'single'",
    b"`back`",
    b"back\\slash",
    b'\\"both\\\\',
    b"$(sys.host)",
    b"${x}$(y)",
    b"$(const.dollar)(x)",
    b"$$(x)$",
    b"$(connection.kex)",
    b"@(list)",
    b" blanks ",
    b"tab\t",
    b"# comment; }",
    b"%s%d",
    b"[a-z]*?",
    b"\xc3\xa9",
    b"\xff\xfe",
    b"\x01\x7f",
)


_NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def _node(
    name: str,
    key: KeyPair | None,
    status: Status = Status.ACCEPTED,
    server: str | None = None,
    address: str = "127.33.0.1",
) -> Node:
    """
    A node that serves by what it says; one with a key of its own where none is given.
    """
    facts = None
    if server is not None:
        facts = Facts(
            hostname=f"{name}.example.com",
            policy_server_id=server,
            owner="root",
            agent_name="nodecomm",
            agent_version="1",
            system="Linux",
            addresses=(address,),
            device_id=name,
            machine_id=None,
            in_certificate=True,
        )
    public = None if key is None else key.public
    return Node(Known(name, public, signed=True), status, _NOW, facts)


#: The nodes that the server has; the folder of each has a file.
NODES = (
    _node("Node-1", NODE),
    _node("node-2", OTHER, server="ROOT"),
    _node("keyless-3", None),
    _node("elsewhere-4", KeyPair.generate(QUICK), server="other-server"),
    _node("pending-5", KeyPair.generate(QUICK), Status.PENDING, server="root"),
    _node("link-6", THIRD, server="root", address="127.0.0.3"),
)

_INVENTORY = """\
[inventory]
server_id = "root"
networks = ["127.3.0.0/16"]
[[common_files]]
path = "{tree}/common/"
[[node_files]]
path = "{tree}/nodes/{{node_id}}/"
[[node_files]]
path = "{tree}/extra/{{node_id}}.json"
[[node_files]]
path = "{tree}/legacy/{{node_id}}/"
legacy_hosts = true
[[access]]
path = "{tree}/nodes/Node-1/"
admit_ips = ["127.3"]
[[access]]
path = "{tree}/nodes/"
admit_ips = ["127.0.0.3"]
"""


def _fill_nodes(tree: Path, state: Path) -> str:
    """
    Make the nodes and what they have, and return the rules about it.
    """
    (tree / "common").mkdir()
    (tree / "common" / "file").touch()
    (tree / "extra").mkdir()
    (tree / "secret").mkdir()
    (tree / "secret" / "file").touch()
    for node in (*(node.node_id for node in NODES), "unknown-7", "NODE-1"):
        for kind in ("nodes", "legacy"):
            folder = tree / kind / node
            if node == "link-6":
                folder.symlink_to(tree / "secret")
                continue
            folder.mkdir(parents=True)
            (folder / "file").touch()
        (tree / "extra" / f"{node}.json").touch()
    # What may be a file may be a folder, too.
    (tree / "extra" / "Node-1.json").unlink()
    (tree / "extra" / "Node-1.json").mkdir()
    (tree / "extra" / "Node-1.json" / "file").touch()
    with open_nodes(state / "nodes.sqlite") as run:

        def save(records: Records) -> None:
            for node in NODES:
                records.save(node)
                records.advance(node.node_id)

        run(save, True)
    return _INVENTORY.format(tree=tree)


@dataclass(frozen=True)
class Exported:
    """
    A real server with rules of ours.

    Attributes:
        real: The server.
        snapshot: The rules as they are here.
        policy: The file.
        tree: What they are about.
        told: What the command has said.
        status: Its exit status.
    """

    real: RealServer
    snapshot: Snapshot
    policy: Path
    tree: Path
    told: str
    status: int

    def ours(self, key: KeyPair, source: str, path: bytes) -> bool:
        """
        What this server decides.
        """
        peer = Peer(
            address=source,
            key=key.public,
            user="root",
            uid=0,
            hostname="nobody.example.com",
            hostname_known=True,
            protocol=3,
            encrypted=True,
        )
        answer = explain_file(self.snapshot, peer, "stat", path, None)
        assert not answer.decision.undecidable
        return answer.decision.allowed

    def theirs(self, key: KeyPair, source: str, paths: list[bytes]) -> list[bool]:
        """
        What the real one decides.
        """
        with RawPeer(self.real.port, context(key), source=source) as peer:
            peer.handshake().dialog()
            return [peer.stat(path).startswith(b"OK:") for path in paths]


def _text(raw: bytes) -> str:
    """
    A TOML string with this path in it, bytes that are no UTF-8 as escapes.
    """
    quoted = to_text(raw).replace("\\", "\\\\").replace('"', '\\"')
    return "".join(
        c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in quoted
    )


def _fill(tree: Path) -> str:
    """
    Make what is served, and return the rules about it.
    """
    rules = []
    for name, lists in RULES:
        if "$(" not in name and name != "missing-later":
            (tree / name).mkdir(parents=True)
            (tree / name / "file").write_text(name)
        rules.append(f'[[access]]\npath = "{tree}/{name}/"\n{lists}\n')
    for word in ("per-key", "per-ip", "either", "no-key", "closed"):
        for value in (*(k.public.md5 for k in KEYS.values()), *SOURCES):
            folder = tree / word / value
            folder.mkdir(parents=True)
            (folder / "file").write_text(word)
    # A name that happens to hold what the word stands for.
    (tree / "no-word" / NODE.public.md5).write_text("")
    (tree / "everybody" / "single").write_text("")
    rules.append(
        f'[[access]]\npath = "{tree}/everybody/single"\nadmit_ips = ["127.3"]\n'
    )
    for index, odd_name in enumerate(ODD_NAMES):
        odd = os.fsencode(tree / "odd") + b"/" + odd_name
        os.makedirs(odd)
        Path(os.fsdecode(odd + b"/file")).touch()
        rules.append(
            f'[[access]]\npath = "{_text(odd)}"\nshortcut = "odd {index} $(x) \\""\n'
            f"{_EVERYBODY}\n"
        )
    rules.append(
        f'[[access]]\npath = "{tree}/address"\nshortcut = "first"\n{_EVERYBODY}\n'
        f'[[access]]\npath = "{tree}/address"\nshortcut = "second"\n'
        f'[[access]]\npath = "{tree}/per-ip/$(connection.ip)/"\nshortcut = "own"\n'
    )
    return "".join(rules)


@pytest.fixture(scope="module")
def exported() -> Iterator[Exported]:
    """
    The server of all tests.
    """
    peer_program("cf-serverd")
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        tree, state, config = folder / "tree", folder / "state", folder / "server.toml"
        state.mkdir(mode=0o700)
        work = WorkFolder(folder / "work", key=SERVER)
        real = RealServer(work, {})
        text = config_for({}, more=_fill(tree) + _fill_nodes(tree, state))
        text = text.replace("{port}", str(real.port)).replace("{state}", str(state))
        config.write_text(text)
        command = ["access", "export", "--format", "cfengine", "-c", str(config)]
        bundle = work.path / "inputs" / "bundle.cf"
        # What the server would have run with is replaced as a whole.
        policy = work.path / "inputs" / "promises.cf"
        out, err = io.StringIO(), io.StringIO()
        assert main.run([*command, "-o", str(bundle)], out, io.StringIO()) == 1
        status = main.run([*command, "--control", "-o", str(policy)], out, err)
        assert out.getvalue() == ""
        for file in (bundle, policy):
            checked = work.run("cf-promises", "-f", str(file))
            assert (checked.status, checked.output) == (0, "")
        assert bundle.read_bytes().partition(b"bundle server")[2] in policy.read_bytes()
        stack.enter_context(real)
        rules = read_rules(config, None, "", err)
        assert rules is not None
        yield Exported(real, rules.snapshot, policy, tree, err.getvalue(), status)


def _asked(tree: Path) -> list[bytes]:
    """
    All that is asked for: each file, some folders, what has no rule, shortcuts.
    """
    root = os.fsencode(tree)
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
    ]
    folders = [root, root + b"/everybody/", root + b"/network", root + b"/odd/@(list)"]
    shortcuts = [b"first/file", b"second/file", b"second", b"own/file", b"third/file"]
    odd = [b'odd %d $(x) "/file' % index for index in range(len(ODD_NAMES))]
    return sorted(found) + folders + shortcuts + odd


def test_decides_as_here(exported: Exported) -> None:
    """
    For every peer and every path both say the same, and each rule makes a difference.
    """
    paths = _asked(exported.tree)
    may: dict[bytes, set[bool]] = {path: set() for path in paths}
    differ = []
    for name, key in KEYS.items():
        for source in SOURCES:
            theirs = exported.theirs(key, source, paths)
            for path, its in zip(paths, theirs, strict=True):
                mine = exported.ours(key, source, path)
                may[path].add(mine)
                if b"/closed/" in path:
                    # Some may here.
                    mine = False
                if mine is not its:
                    differ.append((name, source, path, mine, its))
    assert differ == []
    root = os.fsencode(exported.tree)
    answers: dict[bytes, set[bool]] = {}
    for path, found in may.items():
        if path.startswith(root + b"/"):
            answers.setdefault(path[len(root) :].split(b"/")[1], set()).update(found)
    nobody = {b"six", b"nobody", b"no-word", b"no-key", b"missing-later", b"secret"}
    assert {name for name, found in answers.items() if True not in found} <= nobody
    assert {name for name, found in answers.items() if False not in found} == set()


def test_what_cannot_be_said_is_told(exported: Exported) -> None:
    """
    The rule that cf-serverd would decide in another way admits nobody there; the
    command tells of it, and of nothing else.
    """
    assert exported.status == 1
    lines = exported.told.splitlines()
    told = [line.removeprefix("warning: ") for line in lines]
    expected = {
        f"{exported.tree}/closed/$(connection.key)/": "does not ask deny_ips",
        f"{exported.tree}/nodes/link-6/": "it is a link",
        f"{exported.tree}/legacy/link-6/": "it is a link",
    }
    for path, why in expected.items():
        assert [line for line in told if line.startswith(path) and why in line]
    assert len(told) == len(expected) + 1
    assert told[-1].startswith("3 parts of the rules cannot be said")


def test_nodes_by_id(exported: Exported) -> None:
    """
    Each node that is served here has its promises, in the order of the ids; the others
    are told of.
    """
    text = exported.policy.read_bytes().decode("utf-8", "surrogateescape")
    promisers = re.findall(r'^      "(/.*/nodes/.*)"$', text, re.M)
    assert promisers == [
        f"{exported.tree}/nodes/{name}" for name in ("Node-1/", "node-2/", "")
    ]
    assert 'MD5="' not in text
    assert "# - node keyless-3 has no key now" in text
    elsewhere = "node elsewhere-4 (elsewhere-4.example.com) is served by other-server"
    assert f"# - {elsewhere}\n" in text
