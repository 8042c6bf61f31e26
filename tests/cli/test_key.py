# SPDX-License-Identifier: MIT
"""
`nodecomm key` on real files, and beside the real cf-key.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from nodecomm.cli import main
from nodecomm.identity.keys import KeyPair, PublicKey
from nodecomm.identity.own import load_own_key
from nodecomm.identity.store import FileKeyStore
from nodecomm.storage.database import DATABASE_NAME, connect
from tests.identity import forgery
from tests.identity.sample import key, pair
from tests.interop.harness import WorkFolder

KEYS = Path(__file__).parent.parent / "identity" / "keys"


class Machine:
    """
    A state folder, and the command that works on it.
    """

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.keys = self.state / "ppkeys"

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """
        Status, output, errors.
        """
        out, err = io.StringIO(), io.StringIO()
        line = ["key", *arguments, "--state-dir", str(self.state)]
        status = main.run(line, out, err)
        return status, out.getvalue(), err.getvalue()

    def done(self, *arguments: str) -> str:
        """
        The output of a command that succeeds.
        """
        status, out, err = self.run(*arguments)
        assert (status, err) == (0, "")
        return out

    def facts(self, *arguments: str) -> Any:
        """
        The same as JSON.
        """
        return json.loads(self.done(*arguments, "--json"))

    def refused(self, *arguments: str) -> str:
        """
        The one line that a command which fails prints.
        """
        status, out, err = self.run(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err


class Closed(io.StringIO):
    """
    An output that nobody reads any more.
    """

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """
    A machine without a key.
    """
    return Machine(tmp_path)


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    """
    A work folder of the real programs, with a key that cf-key made.
    """
    return WorkFolder(tmp_path / "cfengine")


class TestOwnKey:
    """
    `generate` and `show`.
    """

    def test_generate_and_show(self, machine: Machine) -> None:
        """
        The pair is made, private to its owner, and shown.
        """
        made = machine.facts("generate", "--bits", "1024")
        shown = machine.facts("show")

        assert made == shown
        assert shown["bits"] == 1024
        assert shown["exponent"] == 65537
        assert shown["path"] == str(machine.keys / "localhost.priv")
        assert shown["md5"] == load_own_key(machine.keys).public.md5
        assert shown["md5"] in machine.done("show")
        assert shown["sha"] in machine.done("show")
        for name in ("localhost.priv", "localhost.pub"):
            assert stat.S_IMODE((machine.keys / name).stat().st_mode) == 0o600

    def test_generate_never_overwrites(self, machine: Machine) -> None:
        """
        A second run changes nothing and names the file.
        """
        machine.done("generate", "--bits=1024")
        before = (machine.keys / "localhost.priv").read_bytes()

        error = machine.refused("generate")

        assert str(machine.keys / "localhost.priv") in error
        assert before == (machine.keys / "localhost.priv").read_bytes()

    @pytest.mark.parametrize("bits", ["512", "2000", "16384", "-1"])
    def test_generate_refuses_odd_sizes(self, machine: Machine, bits: str) -> None:
        """
        A key that no peer would accept is not made.
        """
        error = machine.refused("generate", f"--bits={bits}")

        assert bits in error
        assert "64" in error
        assert not machine.state.exists()

    def test_show_without_key(self, machine: Machine) -> None:
        """
        The error says how to make one.
        """
        assert "nodecomm key generate" in machine.refused("show")

    def test_show_older_forms(self, machine: Machine) -> None:
        """
        Private keys that older releases encrypted, and PKCS#8, are read.
        """
        machine.keys.mkdir(parents=True)
        expected = PublicKey.from_pem((KEYS / "plain.pub").read_bytes()).md5
        for name in ("old.priv", "pkcs8.priv"):
            shutil.copy(KEYS / name, machine.keys / "localhost.priv")
            assert machine.facts("show")["md5"] == expected
        shutil.copy(KEYS / "other-passphrase.priv", machine.keys / "localhost.priv")
        assert "passphrase" in machine.refused("show")


class TestTrust:
    """
    `trust`, `trust-digest`, `list` and `remove`.
    """

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """
        A node's public key.
        """
        path = tmp_path / "node.pub"
        path.write_bytes(key().to_pem())
        return path

    def test_trust(self, machine: Machine, file: Path) -> None:
        """
        The key is stored under root, or under the user asked for, and listed.
        """
        name = machine.facts("trust", str(file))["name"]
        assert name == f"root-{key().md5}.pub"
        machine.done("trust", str(file), "--user", "bob")
        machine.done("trust", "--user=bob", str(file))

        listed = machine.facts("list")["keys"]
        assert [x["user"] for x in listed] == ["bob", "root"]
        assert {x["md5"] for x in listed} == {key().md5}
        assert name in machine.done("list")
        assert FileKeyStore(machine.keys).known(key()).users == {"root", "bob"}

    def test_forgery(self, machine: Machine, tmp_path: Path) -> None:
        """
        A forged key is refused, whether or not the honest one is stored.
        """
        forged, honest = tmp_path / "forged.pub", tmp_path / "honest.pub"
        forged.write_bytes(forgery.forgery().to_pem())
        honest.write_bytes(forgery.victim().to_pem())

        assert "exponent" in machine.refused("trust", str(forged))
        machine.done("trust", str(honest))
        assert "exponent" in machine.refused("trust", str(forged), "--user=bob")
        assert os.listdir(machine.keys) == [f"root-{forgery.victim().md5}.pub"]

    def test_conflict(self, machine: Machine, file: Path) -> None:
        """
        Where another key stands under this digest nothing is stored, under any user
        name, and the error names the file.
        """
        machine.keys.mkdir(parents=True)
        other = machine.keys / f"root-{key().md5}.pub"
        other.write_bytes(key(1).to_pem())

        for user in ("root", "bob"):
            error = machine.refused("trust", str(file), "--user", user)
            assert "KEY CONFLICT" in error
            assert str(other) in error
        assert os.listdir(machine.keys) == [other.name]

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (None, "No such file"),
            (b"", "PEM"),
            (b"\x1b[2J", "PEM"),
            (b"x" * 100_000, "larger"),
            (pair().to_pem(), "private key"),
        ],
        ids=["missing", "empty", "no-text", "large", "private"],
    )
    def test_bad_file(
        self, machine: Machine, file: Path, content: bytes | None, word: str
    ) -> None:
        """
        The error names the file and what is wrong with it.
        """
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        error = machine.refused("trust", str(file))
        assert str(file) in error
        assert word in error

    def test_bad_user(self, machine: Machine, file: Path) -> None:
        """
        A name that could leave the folder is refused.
        """
        for user in ("../x", "a b", "-x", "\x1b[2J"):
            error = machine.refused("trust", str(file), f"--user={user}")
            assert "user name" in error
            assert "\x1b" not in error

    def test_trust_digest(self, machine: Machine) -> None:
        """
        A digest is named once, listed, and taken back.
        """
        assert machine.facts("trust-digest", key().md5.upper()) == {
            "digest": key().md5,
            "added": True,
        }
        assert machine.facts("trust-digest", key().md5)["added"] is False
        assert machine.facts("list")["named_digests"] == [key().md5]
        assert key().md5 in machine.done("list")
        assert "MD5=" in machine.refused("trust-digest", "root")
        machine.done("remove", key().md5)
        assert machine.facts("list")["named_digests"] == []

    def test_remove(self, machine: Machine, file: Path) -> None:
        """
        By a file's name one entry goes, by a digest all of the key's; what is not
        there is an error, and the own key stays.
        """
        machine.done("generate", "--bits=1024")
        names = [
            machine.facts("trust", str(file), f"--user={user}")["name"]
            for user in ("a", "b", "c")
        ]
        assert machine.facts("remove", names[0]) == {"removed": names[:1]}
        assert machine.facts("remove", key().sha) == {"removed": names[1:]}
        for name in (names[0], key().md5, "localhost.pub", "../ppkeys", "nobody"):
            assert "nodecomm key list" in machine.refused("remove", name)
        assert sorted(os.listdir(machine.keys)) == ["localhost.priv", "localhost.pub"]

    def test_list_shows_what_is_unusable(self, machine: Machine) -> None:
        """
        Damaged files and lines are listed with the reason, safe for a terminal.
        """
        machine.keys.mkdir(parents=True)
        (machine.keys / f"root-{key().md5}.pub").write_bytes(b"half")
        (machine.keys / "\x1b[2J-x.pub").write_bytes(b"half")
        (machine.state / "trusted-digests").write_text("nonsense\x1b\n")

        out = machine.done("list")

        assert out.count("UNUSABLE") == 3
        assert "\x1b" not in out
        assert len(machine.facts("list")["unusable"]) == 3

    def test_list_empty(self, machine: Machine) -> None:
        """
        Nothing stored is said, and makes no folder.
        """
        assert "no key is trusted" in machine.done("list")
        assert "none seen" in machine.done("list", "--seen")
        assert not machine.state.exists()


class TestSeen:
    """
    `list --seen`.
    """

    def test_seen(self, machine: Machine) -> None:
        """
        All trusted keys are listed with when they were last seen, or never; then
        the keys that were seen and are not trusted now.
        """
        machine.state.mkdir()
        known, other = key(1), key(2)
        for number in (1, 2):
            pem = machine.state / f"{number}.pub"
            pem.write_bytes(key(number).to_pem())
            machine.done("trust", str(pem))
        connection = connect(machine.state / DATABASE_NAME)
        connection.executemany(
            "INSERT INTO seen VALUES (?, ?, ?, ?)",
            [
                ("MD5=a", "10.0.0.1", "incoming", 0.5),
                (known.md5, "::1", "outgoing", 60),
                (known.md5, "10.0.0.2", "incoming", 120),
            ],
        )
        connection.close()

        facts = {each["digest"]: each for each in machine.facts("list", "--seen")}
        assert facts == {
            known.md5: {
                "digest": known.md5,
                "name": f"root-{known.md5}.pub",
                "trusted": True,
                "seen": [
                    {
                        "address": "10.0.0.2",
                        "direction": "incoming",
                        "last": "1970-01-01T00:02:00Z",
                    },
                    {
                        "address": "::1",
                        "direction": "outgoing",
                        "last": "1970-01-01T00:01:00Z",
                    },
                ],
            },
            other.md5: {
                "digest": other.md5,
                "name": f"root-{other.md5}.pub",
                "trusted": True,
                "seen": [],
            },
            "MD5=a": {
                "digest": "MD5=a",
                "name": None,
                "trusted": False,
                "seen": [
                    {
                        "address": "10.0.0.1",
                        "direction": "incoming",
                        "last": "1970-01-01T00:00:00Z",
                    }
                ],
            },
        }
        lines = machine.done("list", "--seen").splitlines()
        assert set(lines[:3]) == {
            f"1970-01-01T00:02:00Z  incoming  10.0.0.2  root-{known.md5}.pub",
            f"1970-01-01T00:01:00Z  outgoing  ::1  root-{known.md5}.pub",
            f"never seen  root-{other.md5}.pub",
        }
        assert lines[3:] == [
            "1970-01-01T00:00:00Z  incoming  10.0.0.1  MD5=a (not trusted now)"
        ]

    def test_no_database(self, machine: Machine) -> None:
        """
        A file that is no database is named.
        """
        machine.state.mkdir()
        path = machine.state / DATABASE_NAME
        path.write_bytes(b"this is text, not a database" * 100)

        assert str(path) in machine.refused("list", "--seen")


class TestCommandLine:
    """
    What is wrong with a command line is told.
    """

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            ([], "generate"),
            (["trust"], "FILE"),
            (["trust", "a", "b"], "'b'"),
            (["remove"], "NAME"),
            (["generate", "--bits=x"], "'x'"),
            (["lst"], "did you mean 'list'"),
        ],
    )
    def test_usage(self, arguments: list[str], word: str) -> None:
        """
        A mistake is an error of use, with what would be right.
        """
        out, err = io.StringIO(), io.StringIO()
        assert main.run(["key", *arguments], out, err) == 2
        assert word in err.getvalue()
        assert out.getvalue() == ""

    def test_state_dir_before_the_command(self, tmp_path: Path) -> None:
        """
        The common options are good on either side of the command's name.
        """
        out, err = io.StringIO(), io.StringIO()
        line = ["key", "--state-dir", str(tmp_path), "--json", "list"]
        assert main.run(line, out, err) == 0
        assert json.loads(out.getvalue())["keys"] == []


class TestRealPrograms:
    """
    Files go back and forth between nodecomm and cf-key.
    """

    def test_their_key_here(self, machine: Machine, work: WorkFolder) -> None:
        """
        A pair made by cf-key is ours as it is, with the digest that cf-key prints;
        its public half can be trusted.
        """
        theirs = work.path / "ppkeys"
        shutil.copytree(theirs, machine.keys)
        digest = work.cf_key("-p", str(theirs / "localhost.pub")).output.strip()

        assert machine.facts("show")["md5"] == digest
        pem = (theirs / "localhost.priv").read_bytes()
        assert KeyPair.load(pem).to_pem() == pem
        name = machine.facts("trust", str(theirs / "localhost.pub"))["name"]
        assert name == f"root-{digest}.pub"
        stored = (machine.keys / name).read_bytes()
        assert stored == (theirs / "localhost.pub").read_bytes()

    def test_our_key_there(self, machine: Machine, work: WorkFolder) -> None:
        """
        cf-key reads the public file that we make and prints our digest.
        """
        ours = machine.facts("generate")
        path = machine.keys / "localhost.pub"

        assert work.cf_key("-p", str(path)).output.strip() == ours["md5"]

    def test_our_private_key_there(self, machine: Machine, work: WorkFolder) -> None:
        """
        The real agent loads the pair that we make.
        """
        machine.done("generate")
        for name in ("localhost.priv", "localhost.pub"):
            shutil.copy(machine.keys / name, work.path / "ppkeys" / name)
        policy = work.write_policy("p.cf", "bundle agent main { }\n")

        output = work.run("cf-agent", "-K", "-v", "-f", str(policy)).output

        assert "Loaded private key" in output
        assert "Loaded public key" in output

    def test_trusted_there_known_here(self, machine: Machine, work: WorkFolder) -> None:
        """
        What `cf-key -t` trusts is known here, under the same name; what we trust,
        `cf-key -r` removes.
        """
        machine.done("generate")
        node = machine.keys / "localhost.pub"
        public = PublicKey.from_pem(node.read_bytes())
        work.cf_key("-t", str(node))
        store = FileKeyStore(work.path / "ppkeys")
        match = store.known(public)
        assert match.state == "equal"
        assert match.users == {"root"}
        assert store.lookup("root", public, "10.0.0.1").state == "equal"

        assert list(store.remove(public.md5)) == list(match.names)
        name = store.add("root", public)
        assert name in match.names
        work.cf_key("-x", "-r", public.md5)
        assert store.known(public).state == "unknown"


def test_output_that_nobody_reads(machine: Machine) -> None:
    """
    That is no fault of the state folder.
    """
    machine.done("generate")
    err = io.StringIO()
    line = ["key", "show", "--state-dir", str(machine.state)]
    assert main.run(line, Closed(), err) == 1
    assert err.getvalue().startswith("error: the output was closed")
