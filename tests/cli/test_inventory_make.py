# SPDX-License-Identifier: MIT
"""
`nodecomm inventory make` and `sign`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from nodecomm.cli import main
from nodecomm.identity.own import create_own_key, load_own_key
from nodecomm.inventory.document import read_document
from nodecomm.inventory.making import UploadFiles
from nodecomm.inventory.own import own_node_id
from nodecomm.inventory.signature import read_signature
from nodecomm.service.agent_inventory_when import Sent
from nodecomm.service.agent_outbox import Kept, Outbox
from nodecomm.service.agent_points import Point
from tests.identity.sample import pair
from tests.inventory.test_writing import FOREIGN


class Node:
    """
    A state folder with a key, and the command that works on it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.document = root / "node.ocs"
        create_own_key(self.state / "ppkeys", pair())
        self.foreign = root / "foreign.xml"
        self.foreign.write_text(FOREIGN)

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """
        Status, output, errors.
        """
        out, err = io.StringIO(), io.StringIO()
        line = ["inventory", "--state-dir", str(self.state), *map(str, words)]
        status = main.run(line, out, err)
        return status, out.getvalue(), err.getvalue()

    def done(self, *words: str | Path) -> str:
        """
        The output of a command that succeeds.
        """
        status, out, err = self.run(*words)
        assert (status, err) == (0, "")
        return out

    def facts(self, *words: str | Path) -> Any:
        """
        The same as JSON.
        """
        return json.loads(self.done(*words, "--json"))

    def refused(self, *words: str | Path) -> str:
        """
        The one line of a command that fails.
        """
        status, out, err = self.run(*words)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    def make(self, *words: str | Path) -> str:
        """
        A document without a look at the machine.
        """
        return self.done("make", "--from", self.foreign, "-o", self.document, *words)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """
    A node with a key.
    """
    return Node(tmp_path)


def test_make_sign_verify(node: Node) -> None:
    """
    What is made of this machine and signed with its key holds.
    """
    made = node.facts("make", "-o", node.document)
    signed = node.facts("sign", node.document)
    verified = node.facts("verify", node.document, f"{node.document}.sign")

    assert made["node_id"] == own_node_id(node.state)
    assert made["bytes"] == node.document.stat().st_size
    assert {tuple(each) for each in made["skipped"]} <= {("source", "reason")}
    assert signed["signature"] == f"{node.document}.sign"
    assert verified["valid"]
    assert verified["node_id"] == made["node_id"]
    digests = {made["key"], signed["key"], signed["document_key"], verified["key"]}
    assert digests == {pair().public.md5}


def test_a_document_is_printed(node: Node) -> None:
    """
    Without a file the document is what is printed, and nothing else.
    """
    printed = node.done("make", "--from", node.foreign)

    assert read_document(printed.encode()).device_id == "web1-2026-02-03-04-05-06"
    assert node.done("make", "--from", node.foreign, "-o", "-") == printed


def test_options(node: Node) -> None:
    """
    The node's id, its name and its server are as the command line has them.
    """
    node.make(
        *("--node-id", "A-1", "--hostname", "shop.example.com"),
        *("--policy-server", "hub:5309", "--policy-server-id", "relay-1"),
    )

    read = read_document(node.document.read_bytes())
    assert (read.node_id, read.hostname) == ("A-1", "shop.example.com")
    assert (read.policy_server_id, read.policy_server_hostname) == (
        "relay-1",
        "hub:5309",
    )


@pytest.mark.parametrize("name", ["localhost", "a b", "", "x" * 300])
def test_names_that_no_server_takes(node: Node, name: str) -> None:
    """
    A name that would not count is refused, though the machine has another one.
    """
    line = node.refused("make", "-o", node.document, "--hostname", name)
    assert "bad-hostname" in line
    assert not node.document.exists()


def test_the_server_stays(node: Node) -> None:
    """
    What is made by hand names the policy server that the agent was told last, so that
    the node does not change its server by it.
    """
    outbox = Outbox(str(node.state))
    sent = Sent(Point(1.8e9, "b", 1), "1", "MD5=", ("https://hub/",))

    def server() -> str:
        node.make()
        return read_document(node.document.read_bytes()).policy_server_id

    assert server() == "root"
    outbox.acknowledged(sent, "")
    assert server() == "root"
    outbox.acknowledged(attrs.evolve(sent, server_id="hub-1"), "")
    assert server() == "hub-1"
    files = UploadFiles("a.ocs", b"document", "a.ocs.sign", b"signature")
    kept = Kept(sent.when, "1", "MD5=", "hub-2", "a", "a", "first", "", *[""] * 4)
    outbox.keep(files, kept)
    assert server() == "hub-2"
    assert "of server hub-2" in node.make()


def test_the_id_stays(node: Node) -> None:
    """
    Every inventory of a node has the same id and certificate.
    """
    node.make("--node-id", "A-1")
    first = read_document(node.document.read_bytes())
    node.make()
    second = read_document(node.document.read_bytes())

    assert (first.node_id, first.agent) == (second.node_id, second.agent)
    assert "node-id: this node is A-1, not B-2" in node.refused(
        "make", "--from", node.foreign, "--node-id", "B-2"
    )


def test_json_and_a_printed_document(node: Node) -> None:
    """
    Facts and a document do not fit into one stream: that is a wrong command line.
    """
    status, out, err = node.run("make", "--json")

    assert status == 2
    assert "--output" in err
    assert json.loads(out)["error"]


def test_no_key(node: Node) -> None:
    """
    Without a key there is neither document nor signature; what makes one is named.
    """
    node.make()
    shutil.rmtree(node.state / "ppkeys")

    for words in (["make"], ["sign", node.document]):
        line = node.refused(*words)
        assert line.startswith("error: no-key: ")
        assert f"nodecomm key generate --state-dir {node.state}" in line


def test_no_document(node: Node) -> None:
    """
    What cannot be completed is refused with the file's name, and nothing is written.
    """
    node.foreign.write_text("<html/>")

    line = node.refused("make", "--from", node.foreign, "-o", node.document)

    assert line.startswith(f"error: incomplete: {node.foreign}: no inventory")
    assert not node.document.exists()


def test_what_no_server_would_take(node: Node) -> None:
    """
    A document that would be refused is neither made nor signed.
    """
    line = node.refused("make", "--from", node.foreign, "--hostname", "localhost")
    assert line.startswith("error: bad-hostname: ")

    assert node.refused("sign", node.foreign).startswith("error: missing: RUDDER")


def test_files_that_are_missing(node: Node) -> None:
    """
    A file that is not there is named.
    """
    for words in (["sign", "none.ocs"], ["make", "--from", "none.ocs"]):
        assert node.refused(*words) == "error: No such file or directory: none.ocs\n"


def test_places_that_cannot_be_written(node: Node) -> None:
    """
    The file that was asked for is named.
    """
    wanted = node.root / "none" / "node.ocs"

    line = node.refused("make", "--from", node.foreign, "-o", wanted)

    assert line == f"error: No such file or directory: {wanted}\n"


def test_places_that_are_no_files(node: Node) -> None:
    """
    A pipe stays one, and so does a link, whose file is written.
    """
    node.make()
    pipe, link, real = (node.root / name for name in ("pipe", "link", "real"))
    os.mkfifo(pipe)
    link.symlink_to(real)
    make = ["make", "--from", str(node.foreign)]
    for words in ([*make, "-o"], ["sign", str(node.document), "-o"]):
        status, out, err = node.run(*words, pipe)
        assert (status, out) == (2, "")
        assert "is no ordinary file" in err
        assert node.run(*words, node.root)[0] == 2
        node.done(*words, link)
        assert real.stat().st_size
        real.unlink()
    assert pipe.is_fifo()
    assert link.is_symlink()
    printed = node.done("sign", node.document, "-o", "-")
    assert read_signature(printed.encode())


def test_a_compressed_document(node: Node) -> None:
    """
    What is signed is the content, and the signature is named after that.
    """
    node.make()
    data = node.document.read_bytes()
    compressed = node.root / "packed.ocs.gz"
    compressed.write_bytes(gzip.compress(data))

    node.done("sign", compressed)
    node.done("sign", node.document, "-o", node.root / "other.sign")

    packed = read_signature((node.root / "packed.ocs.sign").read_bytes())
    assert packed == read_signature((node.root / "other.sign").read_bytes())
    node.done("verify", compressed, node.root / "packed.ocs.sign")


def test_the_lines_for_people(node: Node) -> None:
    """
    A signature tells when the key's file was changed, and by which key it was made.
    """
    node.make()
    node.done("sign", node.document)

    found = read_signature(Path(f"{node.document}.sign").read_bytes())
    modulus = load_own_key(node.state / "ppkeys").public.modulus
    assert found.key_id == f"{modulus:X}"[-8:]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9} [+-]\d{4}", found.key_date
    )


def test_a_document_with_another_key(node: Node) -> None:
    """
    A document may bring a new key, signed with the old one; that is said.
    """
    node.make()
    shutil.rmtree(node.state / "ppkeys")
    create_own_key(node.state / "ppkeys", pair(1))

    out = node.done("sign", node.document)

    assert f"signed with {pair(1).public.md5}" in out
    assert f"brings another key: {pair().public.md5}" in out


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_finds_the_signature_right(node: Node) -> None:
    """
    The signature holds for openssl, with the certificate in the document.
    """
    node.make()
    node.done("sign", node.document)
    raw = node.root / "raw"
    raw.write_bytes(read_signature(Path(f"{node.document}.sign").read_bytes()).digest)
    key = node.root / "key.pem"
    certificate = str(node.state / "agent.cert")
    subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-pubkey", "-out", str(key)],
        check=True,
    )

    verified = ["openssl", "dgst", "-sha512", "-verify", str(key)]
    verified += ["-signature", str(raw), str(node.document)]
    done = subprocess.run(verified, capture_output=True, text=True, check=False)

    assert done.stdout == "Verified OK\n"
