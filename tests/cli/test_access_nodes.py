# SPDX-License-Identifier: MIT
"""
`nodecomm access` and the nodes of a server: whose key that is, whose folder, and what
is written of them.
"""

from __future__ import annotations

import io
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nodecomm.cli import main
from nodecomm.identity.keys import PublicKey
from nodecomm.inventory.judgement import Known
from nodecomm.inventory.lifecycle import Block, Decision, Delete, Refuse
from nodecomm.inventory.node_sqlite import open_nodes
from nodecomm.inventory.nodes import Facts, Node, Status
from nodecomm.inventory.opening import nodes_place, open_nodes_at
from nodecomm.inventory.records import Records, put_decision
from tests.postgres import cluster

CONFIG = """\
[server]
state_dir = "{root}/state"
allowed_networks = ["10.0.0.0/8"]
allowusers = ["root"]
cfruncommand = ["{root}/run"]

[inventory]
server_id = "root"
database = "{database}"

[[node_files]]
path = "{root}/share/{{node_id}}/"

[[common_files]]
path = "{root}/common/"

[[access]]
path = "{root}/run"
admit_ips = ["10.0.0.0/8"]
"""

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def key(number: int) -> PublicKey:
    """
    One of the keys.
    """
    return PublicKey(2**2047 + 2 * number + 1, 65537)


ALPHA, BETA, GAMMA, DELTA, STRANGER = (key(number) for number in range(5))


def node(
    name: str, own: PublicKey | None, status: Status = Status.ACCEPTED, **facts: Any
) -> Node:
    """
    A node of this server, unless *facts* say otherwise.
    """
    values: dict[str, Any] = {
        "hostname": f"{name}.example.com",
        "policy_server_id": "root",
        "owner": "root",
        "agent_name": "nodecomm",
        "agent_version": "1",
        "system": "Linux",
        "addresses": (),
        "device_id": name,
        "machine_id": None,
        "in_certificate": True,
    }
    known = Known(name, own, signed=True)
    return Node(known, status, NOW, Facts(**(values | facts)))


NODES = (
    node("alpha", ALPHA, addresses=("FD00:0::1", "10.1.1.1", "10.1.1.9")),
    node("beta", BETA, Status.PENDING, addresses=("10.1.1.9",)),
    node("gamma", GAMMA, policy_server_id="relay-1"),
    node("delta", DELTA),
    node("keyless", None),
)


def save_nodes(records: Records) -> None:
    """
    Put the nodes into a database.
    """
    for each in NODES:
        records.save(each)
        records.advance(each.node_id)


class Server:
    """
    The folder of a server with nodes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "state").mkdir(mode=0o700)
        for name in ("alpha", "beta", "gamma", "delta", "unknown"):
            (root / "share" / name).mkdir(parents=True)
            (root / "share" / name / "file").touch()
        (root / "run").touch(mode=0o755)
        self.configure("sqlite:///nodes.sqlite")

        self.write(save_nodes)

    def configure(self, database: str) -> None:
        """
        Keep the nodes there.
        """
        text = CONFIG.format(root=self.root, database=database)
        (self.root / "server.toml").write_text(text)

    def write(self, work: Any) -> None:
        """
        Change the nodes.
        """
        with open_nodes(self.root / "state" / "nodes.sqlite") as run:
            run(work, True)

    def decide(self, decision: Decision) -> None:
        """
        Put a decision in force.
        """
        self.write(lambda records: put_decision(records, decision, NOW, "test"))

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """
        Exit status, output and errors of `nodecomm access`.
        """
        out, err = io.StringIO(), io.StringIO()
        command, *rest = arguments
        config = str(self.root / "server.toml")
        status = main.run(["access", command, "-c", config, *rest], out, err)
        return status, out.getvalue(), err.getvalue()

    def explain(self, own: PublicKey, of: str, ip: str = "10.9.9.9") -> dict[str, Any]:
        """
        The explanation of a request for a file of a node.
        """
        path = str(self.root / "share" / of / "file")
        status, out, err = self.run(
            "explain", "--json", "--ip", ip, "--key", own.sha, path
        )
        assert err == ""
        answer: dict[str, Any] = json.loads(out)
        assert status == (0 if answer["allowed"] else 1)
        return answer


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """
    A server with nodes of each kind.
    """
    return Server(tmp_path.resolve())


def steps(answer: dict[str, Any], about: str) -> str:
    """
    What the steps of that name say.
    """
    return "\n".join(s["text"] for s in answer["steps"] if s["about"] == about)


def test_own_folder(server: Server) -> None:
    """
    Which node it is, that its key is trusted because of that, and by which rule it may
    have its files.
    """
    answer = server.explain(ALPHA, "alpha", "10.1.1.9")
    assert answer["allowed"]
    rule = answer["rule"]
    assert (rule["table"], rule["node"]) == ("node_files", "alpha")
    assert rule["path"] == f"{server.root}/share/alpha/"
    assert answer["list"] == "admit_keys"
    assert "the accepted node alpha: it is trusted" in steps(answer, "node")
    assert "which (alpha.example.com) is accepted" in steps(answer, "node_files")
    assert "node alpha (accepted), beta (pending)" in steps(answer, "address")
    assert answer["nodes"] == {
        "server_id": "root",
        "known": True,
        "key_of": {"id": "alpha", "standing": "accepted", "served_by": None},
        "address_of": ["alpha", "beta"],
    }


def test_legacy_hosts(server: Server) -> None:
    """
    By which host name and addresses a node may have its files, and by which not.
    """
    text = (server.root / "server.toml").read_text()
    text = text.replace('{node_id}/"', '{node_id}/"\nlegacy_hosts = true')
    (server.root / "server.toml").write_text(text)
    told = steps(server.explain(ALPHA, "alpha"), "node_files")
    assert "to whoever comes from alpha.example.com" in told
    assert "10.1.1.9" in told

    twin = node("twin", STRANGER, hostname="ALPHA.example.com")
    server.write(lambda records: (records.save(twin), records.advance("twin")))
    told = steps(server.explain(ALPHA, "alpha"), "node_files")
    assert "but not alpha.example.com" in told
    assert "which other nodes have too" in told


def test_passwords_out_of_reach(server: Server) -> None:
    """
    An operator who has not the passwords of the server is told all the same; any other
    fault is one.
    """
    text = (server.root / "server.toml").read_text()
    text = text.replace(
        'server_id = "root"',
        'server_id = "root"\nfirst_password = { env = "NODECOMM_TEST_NOT_SET" }',
    )
    (server.root / "server.toml").write_text(text)
    assert server.explain(ALPHA, "alpha")["allowed"]
    status, out, err = server.run("export", "--format", "cfengine")
    assert (status, err) == (0, "")
    assert "/share/alpha/" in out
    status, out, err = server.run("explain", "--exec", "--ip", "10.1.1.1")
    assert (status, err) == (0, "")

    text = text.replace("first_password", "first_word")
    (server.root / "server.toml").write_text(text)
    status, _, err = server.run("export", "--format", "cfengine")
    assert status == 2
    assert "first_word" in err


def test_folder_of_another(server: Server) -> None:
    """
    The rule of the other node refuses.
    """
    answer = server.explain(ALPHA, "delta")
    assert answer["reason"] == "not_admitted"
    assert answer["rule"]["node"] == "delta"


@pytest.mark.parametrize(
    ("own", "of", "told", "of_key"),
    [
        (BETA, "beta", "is pending, so nothing is open", "which waits for a decision"),
        (GAMMA, "gamma", "is served by relay-1", "is accepted and served by relay-1"),
        (STRANGER, "unknown", "no such node is known", ""),
    ],
)
def test_no_rule(
    server: Server, own: PublicKey, of: str, told: str, of_key: str
) -> None:
    """
    Why a node has nothing here.
    """
    answer = server.explain(own, of)
    assert answer["reason"] == "no_rule"
    assert told in steps(answer, "node_files")
    assert of_key in steps(answer, "node")
    assert bool(steps(answer, "node")) is bool(of_key)


def test_deleted(server: Server) -> None:
    """
    A key that was a node's says so.
    """
    server.decide(Delete("delta"))
    answer = server.explain(DELTA, "delta")
    assert answer["reason"] == "no_rule"
    assert "was that of node delta" in steps(answer, "node")
    assert "is deleted" in steps(answer, "node_files")


def test_refused(server: Server) -> None:
    """
    The key of a refused node is not trusted either.
    """
    server.decide(Refuse("beta"))
    answer = server.explain(BETA, "beta")
    assert (answer["allowed"], answer["reason"]) == (False, "node_refused")
    assert "beta, which was refused" in answer["text"]


def test_other_case(server: Server) -> None:
    """
    A folder that is written otherwise than the node writes its id is nobody's.
    """
    (server.root / "share" / "ALPHA").mkdir()
    (server.root / "share" / "ALPHA" / "file").touch()
    answer = server.explain(ALPHA, "ALPHA")
    assert answer["reason"] == "no_rule"
    assert "but alpha, whose id is written so" in steps(answer, "node_files")


def test_blocked(server: Server) -> None:
    """
    The key of a blocked node is not trusted, so nothing else is asked.
    """
    server.decide(Block("alpha"))
    answer = server.explain(ALPHA, "alpha")
    assert (answer["allowed"], answer["reason"]) == (False, "node_refused")
    assert "nodes block alpha --lift" in answer["text"]
    assert answer["nodes"]["key_of"]["standing"] == "blocked"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1"])
def test_addresses_that_every_machine_has(server: Server, address: str) -> None:
    """
    They are no node's, whatever the inventories name.
    """
    twin = node("twin", STRANGER, addresses=("10.1.1.8", address))
    server.write(lambda records: (records.save(twin), records.advance("twin")))
    for ip, names in (("10.1.1.8", ["twin"]), (address, [])):
        answer = server.explain(ALPHA, "alpha", ip)
        assert answer["nodes"]["address_of"] == names
        assert bool(steps(answer, "address")) is bool(names)


def test_text(server: Server) -> None:
    """
    The same for a person.
    """
    path = str(server.root / "share" / "alpha" / "file")
    status, out, err = server.run(
        "explain", "--ip", "10.1.1.1", "--key", ALPHA.md5, path
    )
    assert (status, err) == (0, "")
    assert f"1. node: key {ALPHA.md5} is that of the accepted node alpha" in out
    assert "2. address: 10.1.1.1 is an address of node alpha (accepted)\n" in out
    assert "written as" in out


@pytest.mark.parametrize(
    ("own", "code"),
    [(ALPHA, "accepted_node"), (BETA, "unknown_key"), (STRANGER, "unknown_key")],
)
def test_trust_for_a_run(server: Server, own: PublicKey, code: str) -> None:
    """
    The key of an accepted node is trusted for a run, stored or not.
    """
    (server.root / "state" / "ppkeys").mkdir()
    _, out, _ = server.run(
        "explain", "--exec", "--json", "--ip", "10.1.1.1", "--key", own.md5
    )
    parts = {part["step"]: part for part in json.loads(out)["steps"]}
    assert parts["key"]["reason"] == code


def test_nodes_that_are_not_known(server: Server) -> None:
    """
    Where the database cannot be read, what may be a node's is not decided, and nothing
    is written; all else is told as ever.
    """
    (server.root / "state" / "nodes.sqlite").write_bytes(b"no database" * 1000)
    answer = server.explain(ALPHA, "alpha")
    assert (answer["undecidable"], answer["reason"]) == (True, "nodes_unknown")
    assert "not known" in steps(answer, "nodes")
    assert answer["nodes"]["known"] is False
    path = str(server.root / "share" / "alpha" / "file")
    _, out, _ = server.run("explain", "--ip", "10.1.1.1", path)
    assert out.startswith("cannot be decided: the connection is closed [nodes_unknown]")
    status, out, _ = server.run("explain", "--ip", "10.1.1.1", str(server.root / "run"))
    assert status == 0
    target = server.root / "exported.cf"
    status, out, err = server.run("export", "-o", str(target))
    assert (status, out) == (2, "")
    assert err.startswith("error: the nodes are not known, so nothing is written: ")
    status, out, told = server.run("export", "-o", str(target), "--json")
    assert (status, told) == (2, err)
    text = err.removeprefix("error: ").rstrip()
    assert json.loads(out) == {"error": {"code": "local", "text": text, "status": 2}}
    assert not target.exists()


def test_database_that_is_not_there(server: Server) -> None:
    """
    Before the first start there are no nodes.
    """
    server.configure("sqlite:///other.sqlite")
    answer = server.explain(ALPHA, "alpha")
    assert answer["reason"] == "no_rule"
    assert answer["nodes"]["known"] is True
    assert not (server.root / "state" / "other.sqlite").exists()


def test_export(server: Server) -> None:
    """
    The nodes that are served here have rules, and of the other accepted ones it is told
    why not.
    """
    status, out, err = server.run("export", "--format", "cfengine")
    assert (status, err) == (0, "")
    for name, own in (("alpha", ALPHA), ("delta", DELTA)):
        rule = (
            f'"{server.root}/share/{name}/"\n        admit_keys => {{ "{own.md5}" }};'
        )
        assert rule in out
    assert "/share/beta/" not in out
    assert "/share/gamma/" not in out
    assert "# - node gamma (gamma.example.com) is served by relay-1\n" in out
    assert "# - node keyless (keyless.example.com) has no key now" in out
    assert f'"{server.root}/common/"\n        admit_ips => {{ "10.0.0.0/8" }},' in out


def test_export_as_json(server: Server) -> None:
    """
    The same for a program.
    """
    _, text, _ = server.run("export")
    status, out, err = server.run("export", "--json")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    assert facts["policy"] == text
    assert facts["promises"] == 4
    assert facts["left_out"] == []
    assert [each.split()[1] for each in facts["without_rule"]] == ["gamma", "keyless"]
    assert facts["output"] is None


def test_export_to_a_file(server: Server) -> None:
    """
    The file is replaced as a whole, and only its owner can write it: cf-serverd takes
    no other.
    """
    target = server.root / "exported.cf"
    target.write_text("old")
    target.chmod(0o666)
    _, text, _ = server.run("export", "-o", "-")
    assert server.run("export", "-o", str(target), "--bundle", "more")[:2] == (0, "")
    assert target.read_text() == text.replace("access_rules", "more")
    assert os.stat(target).st_mode & 0o777 == 0o600
    status, out, err = server.run("export", "-o", str(server.root / "no" / "file"))
    assert (status, out) == (2, "")
    assert "cannot be written" in err
    pipe = server.root / "pipe"
    os.mkfifo(pipe)
    assert server.run("export", "-o", str(pipe))[0] == 2
    assert pipe.is_fifo()


def test_export_of_what_cannot_be_said(server: Server) -> None:
    """
    It is told on the standard error output, and by the exit status.
    """
    folder = server.root / "share" / "alpha"
    folder.rename(server.root / "elsewhere")
    folder.symlink_to(server.root / "elsewhere")
    status, out, err = server.run("export")
    assert status == 1
    assert '/share/alpha/"' not in out
    warning, summary = err.splitlines()
    assert warning.startswith(f"warning: {server.root}/share/alpha/ ")
    assert summary.startswith("warning: 1 part of the rules cannot be said")
    assert warning.removeprefix("warning: ") in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "json"], "--format takes cfengine"),
        (["--bundle", "a b"], "--bundle takes letters"),
        (["--bundle", "1a"], "--bundle takes letters"),
        (["more"], "too many arguments"),
    ],
)
def test_export_that_is_not_understood(
    server: Server, arguments: list[str], told: str
) -> None:
    """
    A mistake on the command line is told.
    """
    status, out, err = server.run("export", *arguments)
    assert (status, out) == (2, "")
    assert told in err


def test_export_of_an_agent(tmp_path: Path) -> None:
    """
    An agent has no rules for paths.
    """
    out, err = io.StringIO(), io.StringIO()
    config = tmp_path / "agent.toml"
    config.write_text("[agent]\n")
    assert main.run(["access", "export", "-c", str(config)], out, err) == 2
    assert "is an agent's" in err.getvalue()


@pytest.mark.postgresql
def test_shared_database(server: Server) -> None:
    """
    Nodes that several servers share are read from where they are.
    """
    pytest.importorskip("psycopg")
    shared = cluster()
    url = shared.url(shared.make_database())
    with open_nodes_at(nodes_place(url, server.root / "state")) as run:
        run(save_nodes, True)
    (server.root / "state" / "nodes.sqlite").unlink()
    server.configure(url)
    assert server.explain(ALPHA, "alpha")["rule"]["node"] == "alpha"
    assert server.run("export")[1].count("admit_keys") == 2
