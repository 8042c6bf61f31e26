# SPDX-License-Identifier: MIT
"""
`nodecomm inventory verify` and `show`.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from nodecomm.cli import main
from nodecomm.inventory.signature import sign
from tests.identity.sample import key, pair
from tests.inventory.documents import (
    NODE,
    OTHER_NODE,
    REAL,
    SAMPLES,
    agent,
    certificate,
    document,
    node_document,
    real,
    rudder,
)


def run(*words: str | Path) -> tuple[int, str, str]:
    """
    Status, output, errors of `nodecomm inventory`.
    """
    out, err = io.StringIO(), io.StringIO()
    status = main.run(["inventory", *map(str, words)], out, err)
    return status, out.getvalue(), err.getvalue()


def facts(*words: str | Path) -> Any:
    """
    What a command that succeeds prints as JSON.
    """
    status, out, err = run(*words, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


class Files:
    """
    A node's document and signature on disk.
    """

    def __init__(self, folder: Path, data: bytes) -> None:
        self.folder = folder
        self.document = self.put("node.ocs", data)
        self.signature = self.put("node.ocs.sign", sign(data, pair()))

    def put(self, name: str, data: bytes) -> Path:
        """
        A file with this content.
        """
        path = self.folder / name
        path.write_bytes(data)
        return path

    def verify(self, *more: str | Path) -> tuple[int, str, str]:
        """
        Verify one with the other.
        """
        return run("verify", self.document, self.signature, *more)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """
    A pair that holds.
    """
    return Files(tmp_path, node_document(pair()))


@pytest.mark.parametrize("name", REAL)
def test_real_pairs(name: str) -> None:
    """
    Real pairs hold, however old they are.
    """
    real(name)
    path = SAMPLES / name
    status, out, err = run("verify", path, f"{path}.sign")

    assert (status, err) == (0, "")
    assert REAL[name][0] in out
    assert REAL[name][1] in out
    assert REAL[name][0] in run("show", path)[1]


def test_verify(files: Files) -> None:
    """
    A pair that holds is told with its node and its key, compressed or not.
    """
    packed = files.put("node.ocs.gz", gzip.compress(files.document.read_bytes()))
    status, out, err = files.verify()

    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"valid: inventory of node.example.com, node {NODE}",
        "written 2024-03-21T16:07:29+00:00",
        f"signed with {key().md5}, the key in the document",
    ]
    assert run("verify", packed, files.signature) == (status, out, err)
    assert facts("verify", files.document, files.signature) == {
        "valid": True,
        "node_id": NODE,
        "hostname": "node.example.com",
        "written": "2024-03-21T16:07:29+00:00",
        "key": key().md5,
        "key_from": "document",
        "document_key": key().md5,
    }


def test_verify_with_a_key(files: Files) -> None:
    """
    With a key, that one must have signed; it may be in any of its forms.
    """
    own = files.put("own.pub", key().to_pem())
    other = files.put("other.pub", key(1).to_pem())
    enclosed = files.put("own.cert", certificate(pair(), OTHER_NODE).encode())

    for path in (own, enclosed):
        status, out, _ = files.verify("--key", path)
        assert status == 0
        assert "the key given" in out
    status, out, err = files.verify("--key", other)
    assert (status, out) == (1, "")
    assert err.startswith("error: bad-signature: ")
    assert key(1).md5 in err


def test_verify_a_change_of_key(tmp_path: Path) -> None:
    """
    A document that the former key has signed holds by that; its new one is told.
    """
    changing = Files(tmp_path, node_document(pair(1)))
    own = changing.put("own.pub", key().to_pem())
    status, out, _ = changing.verify("--key", own)

    assert status == 0
    assert out.splitlines()[-1] == f"it brings another key: {key(1).md5}"
    assert changing.verify()[0] == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-xml"),
        (document(rudder(node_id=None)), "missing"),
        (document(rudder(agent(certificate="x"))), "bad-certificate"),
        (
            node_document(pair(), pem=certificate(pair(), OTHER_NODE)),
            "subject-mismatch",
        ),
        (gzip.compress(b"<x/>", mtime=0)[:-1], "bad-gzip"),
        (gzip.compress(bytes(3 << 20)), "gzip-bomb"),
        (node_document(pair()) + b" ", "bad-signature"),
    ],
)
def test_refused(files: Files, data: bytes, reason: str) -> None:
    """
    What does not hold is told with its reason, for people and for programs, and the
    exit status is 1.
    """
    files.document.write_bytes(data)
    status, out, err = files.verify()
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {reason}: ")
    assert err.count("\n") == 1

    status, out, again = files.verify("--json")
    error = json.loads(out)["error"]
    assert (status, again) == (1, err)
    assert error["code"] == reason
    assert error["status"] == 1


def test_refused_signature_and_key(files: Files) -> None:
    """
    A file that is no signature, and one that is no key, are told.
    """
    nothing = files.put("nothing", b"nothing\n")
    huge = files.put("huge", bytes(70_000))

    assert run("verify", files.document, nothing)[2] == (
        "error: bad-signature-file: header is missing or empty\n"
    )
    for path in (nothing, huge):
        status, _, err = files.verify("--key", path)
        assert status == 1
        assert err.startswith(f"error: bad-key: {path}: ")


def test_no_such_file(files: Files) -> None:
    """
    A file that is not there is told by its name.
    """
    status, out, err = run("verify", files.folder / "missing", files.signature)

    assert (status, out) == (1, "")
    assert err == f"error: No such file or directory: {files.folder / 'missing'}\n"


def test_show(files: Files) -> None:
    """
    What a document says is printed, and all of it as JSON.
    """
    status, out, err = run("show", files.document)
    told = facts("show", files.document)

    assert (status, err) == (0, "")
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert lines["node"] == NODE
    assert lines["hostname"] == "node.example.com"
    assert lines["key"].startswith(key().md5)
    assert told["node_id"] == NODE
    assert told["key"]["sha"] == key().sha
    assert told["written"] == "2024-03-21T16:07:29+00:00"
    assert told["os"]["kernel_version"] == "6.1.0-13-amd64"


def test_show_what_cannot_be_used(files: Files) -> None:
    """
    A document whose key cannot be used is shown, with what is wrong with the key.
    """
    files.document.write_bytes(document())

    assert "UNUSABLE: unusable certificate" in run("show", files.document)[1]
    error = facts("show", files.document)["key"]["error"]
    assert error["code"] == "bad-certificate"


def test_nothing_reaches_the_terminal_as_it_is(files: Files) -> None:
    """
    Characters that a terminal would obey are shown escaped.
    """
    owner = "root\u202e\x9b31m"
    files.document.write_bytes(
        document(rudder(agent(certificate=certificate(pair()), owner=owner)))
    )
    out = run("show", files.document)[1]

    assert "root\\xe2\\x80\\xae\\xc2\\x9b31m" in out
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("words", [(), ("verify", "one"), ("show",), ("other",)])
def test_wrong_command_lines(words: tuple[str, ...]) -> None:
    """
    A command line that lacks something is told as such.
    """
    status, out, err = run(*words)

    assert (status, out) == (2, "")
    assert err.startswith("error: ")
