# SPDX-License-Identifier: MIT
"""
`nodecomm nodes`.
"""

from __future__ import annotations

import io
import json
import os
import pwd
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from nodecomm.cli import main, nodes, nodes_decisions
from nodecomm.inventory.document import read_document
from nodecomm.inventory.keys import key_pin, read_certificate
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.node_tables import NodeTables
from nodecomm.inventory.records import put_document, read_files
from nodecomm.inventory.signature import sign
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    OTHER_NODE,
    WRITTEN,
    agent,
    certificate,
    document,
    node_document,
    real,
    rudder,
)

ROOT = Path(__file__).parents[2]

MINUTE = timedelta(minutes=1)


class Server:
    """
    A server's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "nodes.sqlite"

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """
        Status, output, errors of `nodecomm nodes`.
        """
        out, err = io.StringIO(), io.StringIO()
        given = ["nodes", *map(str, words), "--state-dir", str(self.folder)]
        return main.run(given, out, err), out.getvalue(), err.getvalue()

    def facts(self, *words: str | Path) -> Any:
        """
        What a command that succeeds prints as JSON.
        """
        status, out, err = self.run(*words, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    def denied(self, *words: str | Path) -> tuple[str, str]:
        """
        Code and text of a command that fails.
        """
        status, out, err = self.run(*words, "--json")
        error = json.loads(out)["error"]
        assert (status, error["status"]) == (1, 1)
        assert err == f"error: {error['text']}\n"
        return error["code"], error["text"]

    def receive(
        self,
        number: int = 0,
        node_id: str = NODE,
        written: datetime = WRITTEN,
        data: bytes | None = None,
    ) -> None:
        """
        A node's document comes.
        """
        data = data or node_document(pair(number), written, node_id=node_id)
        read = read_files(data, sign(data, pair(number)))
        with open_nodes(self.path) as run:
            run(lambda records: put_document(records, read, written + MINUTE), True)

    def key(self, number: int = 1) -> Path:
        """
        A file with a public key.
        """
        path = self.folder / f"{number}.pub"
        path.write_bytes(key(number).to_pem())
        return path


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """
    A server that no node is known to.
    """
    return Server(tmp_path)


def test_nobody(server: Server) -> None:
    """
    Where there are no nodes yet, looking for them makes no database.
    """
    status, out, _ = server.run("list")
    assert (status, out.startswith("there are no nodes: ")) == (0, True)
    assert server.facts("list") == {"nodes": [], "warnings": []}
    for command in ("show", "history", "accept", "refuse", "delete", "reset-date"):
        code, text = server.denied(command, NODE)
        assert code == "unknown-node"
        assert NODE in text
    assert not server.path.exists()


def test_a_node_that_is_named_otherwise(server: Server) -> None:
    """
    Who writes a host name or the first part of an id is told the whole id.
    """
    server.receive()
    for name in ("node", "Node.example.com", NODE[:4], NODE[:8].upper()):
        for command in ("show", "accept", "history"):
            code, text = server.denied(command, name)
            assert code == "unknown-node"
            assert f"by its whole id: {NODE} (node.example.com, pending)" in text
    server.facts("register", "unnamed", server.key(5))
    assert "unnamed (no name, accepted)" in server.denied("show", "UNNA")[1]
    for name in ("", "nod", NODE[:3], "example.com", f"{NODE}1"):
        assert "whole id" not in server.denied("accept", name)[1]
    for number in range(1, 5):
        server.receive(number, f"other-{number}")
    assert server.denied("accept", "node")[1].endswith(" and 2 more")


def test_lists_without_a_node(server: Server) -> None:
    """
    It is told whether there are others, and on a relay where the nodes are.
    """
    server.receive()
    server.facts("refuse", NODE)
    for words, told in (((), "such a status (see --all)"), (("-s", "pending"), "this")):
        assert f"no nodes with {told}" in server.run("list", *words)[1]
    config = server.folder / "relay.toml"
    text = f'upstream = "https://hub.example.com"\nupstream_key = ["{key_pin(key())}"]'
    config.write_text(f'[server]\nlisten = ["tcp:1"]\n[inventory]\n{text}')
    state = server.folder / "relay"
    stdout = io.StringIO()
    given = ["nodes", "--state-dir", str(state), "list", "-c", str(config)]
    assert main.run(given, stdout, io.StringIO()) == 0
    assert "passed on to https://hub.example.com" in stdout.getvalue()
    assert not state.exists()


def test_accept(server: Server) -> None:
    """
    It prints the digests of the key in each form, and what to compare them with.
    """
    server.receive()
    status, out, err = server.run("accept", NODE)

    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"accepted: node.example.com, node {NODE}"
    digests = [key().md5, key().sha, key_pin(key())]
    assert lines[1:4] == [f"key {x}" for x in digests]
    assert "nodecomm key show" in lines[4]
    assert "rudder agent info" in lines[4]
    assert server.facts("show", NODE)["status"] == "accepted"


def test_pin() -> None:
    """
    It is the digest that OpenSSL makes of the key, as curl wants it: `openssl pkey
    -pubin -outform der | openssl dgst -sha256 -binary | base64`.
    """
    text = read_document(real("8.0/debian12.ocs")[0]).agent.certificate
    found = key_pin(read_certificate(text or "").key)

    assert found == "sha256//FcpLzif93gkwF1YayqeS9EaZgWqcye3E31uMkx/1LaI="


def test_accept_by_digest(server: Server) -> None:
    """
    With --key another key is not accepted.
    """
    server.receive()

    assert server.denied("accept", NODE, "--key", key(1).md5)[0] == "other-key"
    assert server.facts("accept", NODE, "--key", key().sha)["key"]["md5"] == key().md5
    status, out, _ = server.run("accept", NODE, "--key", key_pin(key()))
    assert (status, out.partition(":")[0]) == (0, "accepted before")


def test_accept_says_what_is_in_the_way(server: Server) -> None:
    """
    A copy cannot be accepted; a second node of one name can, if that is said.
    """
    server.receive()
    server.receive(node_id="copy")
    server.receive(1, OTHER_NODE)
    server.facts("accept", NODE)

    assert server.denied("accept", "copy")[0] == "key-in-use"
    code, text = server.denied("accept", OTHER_NODE)
    assert code == "duplicate-hostname"
    assert "--duplicate-hostname" in text
    facts = server.facts("accept", OTHER_NODE, "--duplicate-hostname")
    assert [x["code"] for x in facts["warnings"]] == ["duplicate-hostname"]


def test_many_alike(server: Server) -> None:
    """
    What is said about thousands does not name them all at each of them.
    """
    for number in range(25):
        server.receive(node_id=f"node-{number:02}")
    facts = server.facts("list")

    ids = [f"node-{number:02}" for number in range(25)]
    for warning in facts["warnings"]:
        assert (warning["nodes"], warning["count"]) == (ids, 25)
    for each in (*facts["nodes"], server.facts("show", "node-24")):
        own = [(x["code"], x["nodes"], x["count"]) for x in each["warnings"]]
        assert own == [
            ("duplicate-key", ids[:20], 25),
            ("duplicate-hostname", ids[:20], 25),
        ]
    waited = server.run("wait")[1]
    assert waited.count("warning:") == 2
    assert len(server.facts("wait")["nodes"]) == 25


def test_one_of_many(server: Server) -> None:
    """
    What is about one node reads few others: nobody else decides meanwhile.
    """
    server.receive()
    server.receive(1, OTHER_NODE)
    with mock.patch.object(NodeTables, "nodes", side_effect=AssertionError):
        shown = server.facts("show", NODE)
        accepted = server.facts("accept", NODE, "--duplicate-hostname")
        server.facts("history", NODE)
        server.facts("delete", NODE)
        server.facts("refuse", OTHER_NODE)
    for facts in (shown, accepted):
        assert [x["nodes"] for x in facts["warnings"]] == [[OTHER_NODE, NODE]]


def test_list(server: Server) -> None:
    """
    Refused and deleted nodes are left out unless they are wanted.
    """
    server.receive()
    server.receive(1, OTHER_NODE)
    server.facts("delete", OTHER_NODE)
    server.facts("block", "blocked")

    def ids(*words: str) -> list[str]:
        return [node["id"] for node in server.facts("list", *words)["nodes"]]

    assert ids() == [NODE, "blocked"]
    assert ids("--all") == [OTHER_NODE, NODE, "blocked"]
    assert ids("--status", "deleted") == [OTHER_NODE]
    status, out, _ = server.run("list")
    assert status == 0
    assert out.splitlines()[0].split() == [
        *(NODE, "pending", "node.example.com", key().md5, "2024-03-21T16:07:29+00:00")
    ]


def test_show(server: Server) -> None:
    """
    All that is known is printed, for people and for programs.
    """
    server.receive()
    facts = server.facts("show", NODE.upper())
    _, out, _ = server.run("show", NODE)

    assert facts["id"] == NODE
    assert facts["hostname"] == "node.example.com"
    assert facts["policy_server"] == "root"
    assert facts["received"] == "2024-03-21T16:08:29+00:00"
    assert facts["key"]["bits"] == key().bits
    for part in (NODE, "pending", key().md5, "node.example.com", "root", "Debian"):
        assert part in out


@pytest.mark.parametrize("configured", [True, False])
def test_nodes_of_other_servers(server: Server, configured: bool) -> None:
    """
    A node of another policy server is shown with that one; which one this is, is said
    by its configuration, or by the id that it has made.
    """
    for number, (node_id, named) in enumerate(
        ((NODE, "Relay-7"), (OTHER_NODE, "HERE"))
    ):
        own = agent(certificate=certificate(pair(number), node_id), server=named)
        section = rudder(own, node_id=node_id, hostname=f"host-{number}")
        server.receive(number, data=document(section))
    known: tuple[str | Path, ...] = ()
    assert "served by" not in server.run("list")[1]
    if configured:
        known = ("-c", server.folder / "server.toml")
        text = '[server]\nlisten = ["tcp:1"]\n[inventory]\nserver_id = "here"\n'
        (server.folder / "server.toml").write_text(text)
    else:
        (server.folder / "uuid").write_text("Here\n")

    listed = {x["id"]: x["served_by"] for x in server.facts("list", *known)["nodes"]}
    assert listed == {NODE: "Relay-7", OTHER_NODE: None}
    lines = server.run("list", *known)[1].splitlines()
    assert [line.endswith("  served by Relay-7") for line in lines] == [False, True]
    shown = server.run("show", NODE, *known)[1]
    assert "Relay-7 (served by Relay-7, not here)" in shown
    _, accepted, _ = server.run("accept", NODE, *known)
    assert "served by Relay-7: nothing is open to it on this server" in accepted
    assert "served by" not in server.run("accept", OTHER_NODE, *known)[1]
    server.run("delete", NODE, *known)
    assert server.facts("show", NODE, *known)["served_by"] is None


def test_what_a_node_says_is_made_safe(server: Server) -> None:
    """
    Nothing of a document reaches the terminal as it is.
    """
    own = agent(certificate=certificate(pair()), owner="ro\u202eot\u009b2J")
    server.receive(data=document(rudder(own)))

    for command in ("show", "accept", "history"):
        _, out, _ = server.run(command, NODE)
        assert not re.search("[\u202e\u009b]", out)


def test_history(server: Server) -> None:
    """
    Who did what when.
    """
    server.receive()
    server.facts("refuse", NODE)
    events = server.facts("history", NODE)["history"]

    assert [x["what"] for x in events] == ["pending", "refused"]
    assert events[0]["when"] == "2024-03-21T16:08:29+00:00"
    assert events[1]["by"] == nodes_decisions._operator()
    assert server.run("history", NODE)[1].count("\n") == 2


def test_operator() -> None:
    """
    The name of who runs the command, or of who became root for it.
    """
    name = pwd.getpwuid(os.getuid()).pw_name
    with mock.patch.dict(os.environ, {"SUDO_USER": "alice"}):
        assert nodes_decisions._operator() == ("alice" if os.getuid() == 0 else name)
        with mock.patch.object(os, "getuid", lambda: 4_000_000):
            assert nodes_decisions._operator() == "uid 4000000"
    with (
        mock.patch.dict(os.environ, {"SUDO_USER": os.fsdecode(b"m\xff")}),
        mock.patch.object(os, "getuid", lambda: 0),
    ):
        assert nodes_decisions._operator() == "m\\xff"


def test_register(server: Server) -> None:
    """
    A node is accepted before it comes, with a key or the certificate of this very node.
    """
    facts = server.facts("register", NODE, server.key())
    assert (facts["status"], facts["key"]["md5"]) == ("accepted", key(1).md5)

    path = server.folder / "cert.pem"
    path.write_text(certificate(pair(2), OTHER_NODE))
    assert server.denied("register", "other", path)[0] == "subject-mismatch"
    facts = server.facts("register", OTHER_NODE, path)
    assert facts["key"]["md5"] == key(2).md5


def test_set_key(server: Server) -> None:
    """
    The new key is printed, and the former one is among the refused ones.
    """
    server.receive()
    facts = server.facts("set-key", NODE, server.key())

    assert facts["key"]["md5"] == key(1).md5
    assert facts["refused_keys"] == [key().md5]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"x" * 70_000])
def test_no_key(server: Server, content: bytes) -> None:
    """
    A file that is no key is named.
    """
    path = server.folder / "bad.pem"
    path.write_bytes(content)
    code, text = server.denied("register", NODE, path)

    assert code == "bad-key"
    assert str(path) in text


def test_missing_file(server: Server) -> None:
    """
    A file that is not there is named.
    """
    status, _, err = server.run("register", NODE, server.folder / "none.pem")

    assert status == 1
    assert "none.pem" in err


def test_block_and_lift(server: Server) -> None:
    """
    What to do about a blocked node is said, about this state folder.
    """
    server.receive()
    server.facts("block", NODE)
    code, text = server.denied("accept", NODE)

    assert code == "status"
    advice = f"`nodecomm nodes block {NODE} --lift --state-dir {server.folder}`"
    assert advice in text
    assert server.facts("block", NODE, "--lift")["status"] == "deleted"


def test_trust_again_and_reset_date(server: Server) -> None:
    """
    The next document decides, and may be older.
    """
    server.receive()

    assert server.facts("reset-date", NODE)["last_inventory"] is None
    assert server.facts("trust-again", NODE)["key"] is None
    assert "the next inventory decides" in server.run("show", NODE)[1]


def test_wait(server: Server) -> None:
    """
    It looks again until the node is there.
    """
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            server.receive()

    with mock.patch("time.sleep", look):
        facts = server.facts("wait")

    assert [node["id"] for node in facts["nodes"]] == [NODE]
    assert looks == [nodes._LOOK_EVERY] * 2
    assert server.facts("wait", NODE) == facts


def test_wait_for_nothing(server: Server) -> None:
    """
    When the time is over, it fails.
    """
    server.receive()
    server.facts("accept", NODE)

    assert server.facts("wait", NODE, "-t", "0")["nodes"][0]["status"] == "accepted"
    for words in ([], ["--status", "blocked"], [NODE, "-s", "pending"], [OTHER_NODE]):
        assert server.denied("wait", *words, "--timeout", "0")[0] == "timeout"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--status", "nonsense"],
        ["wait", "--timeout", "soon"],
        ["wait", "--timeout", "nan"],
        ["wait", "--timeout", "-1"],
        ["list", "--database", "mysql://x"],
        ["accept"],
        ["accept", NODE, "--key", "nonsense"],
        ["register", NODE],
        [],
    ],
)
def test_wrong_command_lines(server: Server, words: list[str]) -> None:
    """
    What is wrong with a command line is told, with the status for that.
    """
    assert server.run(*words)[0] == 2


def test_before_the_first_start(tmp_path: Path) -> None:
    """
    Nodes can be registered before there is a state folder, which is made then for its
    owner alone, but for no other command.
    """
    server = Server(tmp_path / "lib" / "state")
    (tmp_path / "1.pub").write_bytes(key(1).to_pem())

    assert server.denied("accept", NODE)[0] == "unknown-node"
    assert not server.folder.exists()
    assert server.run("register", NODE, tmp_path / "1.pub")[0] == 0
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert [x["status"] for x in server.facts("list")["nodes"]] == ["accepted"]


def test_no_database(server: Server) -> None:
    """
    A file that is none, or of a newer release, is named and left as it is.
    """
    server.path.write_bytes(b"nonsense" * 1000)
    code, text = server.denied("list")

    assert code == "database"
    assert str(server.path) in text
    assert server.path.read_bytes() == b"nonsense" * 1000


def test_other_database(server: Server) -> None:
    """
    The file may be elsewhere.
    """
    server.receive()
    place = f"sqlite:///{server.folder}/other.sqlite"
    assert server.facts("list", "--database", place)["nodes"] == []
    place = f"sqlite:///{server.path}"
    assert len(server.facts("list", "--database", place)["nodes"]) == 1


def test_documented(server: Server) -> None:
    """
    Each command, each fact of a node and each event of a history is in the
    documentation.
    """
    text = (ROOT / "docs" / "nodes.rst").read_text()
    server.receive()
    facts = server.facts("show", NODE)
    for fact in (*facts, *facts["key"]):
        assert f"``{fact}``" in text
    for command in nodes.Options.subCommands:
        name = cast(Sequence[str], command)[0]
        assert f"``nodecomm nodes {name}" in text
    source = (ROOT / "nodecomm" / "inventory" / "nodes.py").read_text()
    told = source.partition("what: A stable word:")[2].partition("by: Who")[0]
    events = re.findall("`([a-z-]+)`", told)
    assert len(events) > 10
    for event in events:
        assert f"``{event}``" in text
