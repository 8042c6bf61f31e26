# SPDX-License-Identifier: MIT
"""
The commands that ask a server, as programs against a server on this host.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nodecomm.cli import main
from nodecomm.cli.stat import Options
from nodecomm.identity.own import create_own_key, load_own_key
from nodecomm.identity.servers import ServerKeyStore
from tests.forking import Forked
from tests.identity.sample import key, pair
from tests.interop.harness import NodecommServer, config_for
from tests.ports import free_port

PROGRAM = str(Path(sys.executable).with_name("nodecomm"))

CODE = "import sys; from nodecomm.cli.main import main; sys.exit(main())"

BIG = bytes(range(256)) * 20_000


class Done(NamedTuple):
    """
    How a command ended.
    """

    status: int
    out: bytes
    err: str


class Site:
    """
    A server with something to ask for, and a node with a key and nothing else.
    """

    def __init__(self, server: NodecommServer, root: Path, state: Path) -> None:
        self.server = server
        self.root = root
        self.state = state
        self.name = f"127.0.0.1:{server.port}"
        self.store = ServerKeyStore(state / "server-keys")
        self.key = load_own_key(server.ppkeys).public

    def start(self, *words: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        """
        `nodecomm WORDS`, started.
        """
        return Forked(
            [PROGRAM, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            env={**os.environ, "NODECOMM_STATE_DIR": str(self.state)},
            start_new_session=True,
            **more,
        )

    def run(self, *words: str | Path, **more: Any) -> Done:
        """
        `nodecomm WORDS`, to its end.
        """
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err.decode())

    def ask(self, *words: str | Path, **more: Any) -> Done:
        """
        The same as `root`, whom the server trusts, with the server's key known.
        """
        self.store.add(self.name, self.key)
        return self.run(*words, "--user", "root", **more)

    def at(self, path: str) -> str:
        """
        A name on the server.
        """
        return f"{self.name}:{path}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodecommServer]:
    """
    A server with one share.
    """
    folder = tmp_path_factory.mktemp("server")
    share = folder / "share"
    (share / "sub").mkdir(parents=True)
    (share / "file").write_bytes(b"content\n")
    (share / "file").chmod(0o4751)
    (share / "empty").write_bytes(b"")
    (share / "big").write_bytes(BIG)
    (share / "link").symlink_to("file")
    (share / "hidden").mkdir()
    (share / "error").write_bytes(b"BAD: Unspecified server refusal")
    for name in (b"a\x1b[2Jb", b"\xff", b"back\\slash"):
        with open(os.path.join(os.fsencode(share / "sub"), name), "wb"):
            pass
    fresh = "manifest_max_age = 0\n"
    with NodecommServer(folder, config_for({"share": share}, server=fresh)) as running:
        yield running


@pytest.fixture
def site(server: NodecommServer, tmp_path: Path) -> Site:
    """
    A new node.
    """
    state = tmp_path / "state"
    create_own_key(state / "ppkeys", pair(7))
    share = Path(server.ppkeys).parent.parent / "share"
    return Site(server, share, state)


@pytest.mark.programs
class TestStat:
    """
    `nodecomm stat`.
    """

    def test_a_file(self, site: Site) -> None:
        """
        Every value that the server tells is there, for people and for programs.
        """
        done = site.ask("stat", site.at("share/file"))
        assert (done.status, done.err) == (0, "")
        lines = dict(
            line.split(":", 1) for line in done.out.decode().splitlines() if line
        )
        there = (site.root / "file").stat()
        assert lines["path"].strip() == "share/file"
        assert lines["type"].strip() == "file"
        assert lines["mode"].strip() == "4751 (-rwsr-x--x)"
        assert lines["size"].strip() == "8 bytes"
        facts = json.loads(site.ask("stat", "--json", site.at("share/file")).out)
        assert facts["mtime"] == int(there.st_mtime)
        assert (facts["size"], facts["mode"], facts["uid"]) == (8, "4751", there.st_uid)

    def test_what_is_refused(self, site: Site) -> None:
        """
        What the server does not give is status 5 and one line.
        """
        done = site.ask("stat", site.at("share/none"))
        assert (done.status, done.out) == (5, b"")
        assert done.err.startswith("error: share/none: the server says BAD: ")
        assert "missing or not allowed" in done.err
        done = site.ask("stat", "--json", site.at("share/none"))
        facts = json.loads(done.out)["error"]
        assert (done.status, facts["status"], facts["code"]) == (5, 5, "refused")


@pytest.mark.programs
class TestLs:
    """
    `nodecomm ls`.
    """

    def test_names(self, site: Site) -> None:
        """
        One name a line, in order, and nothing that a terminal would act on.
        """
        done = site.ask("ls", site.at("share"))
        assert (done.status, done.err) == (0, "")
        names = ["big", "empty", "error", "file", "hidden", "link", "sub"]
        assert done.out.decode().splitlines() == names
        done = site.ask("ls", site.at("share/sub/"))
        assert done.out.decode().splitlines() == [
            "a\\x1b[2Jb",
            "back\\\\slash",
            "\\xff",
        ]

    def test_long(self, site: Site) -> None:
        """
        With `-l` each name has its status; with `--json` all of it.
        """
        done = site.ask("ls", "-l", site.at("share"))
        assert (done.status, done.err) == (0, "")
        line = done.out.decode().splitlines()[3].split()
        assert line[0] == "-rwsr-x--x"
        assert line[3] == "8"
        assert line[5] == "file"
        facts = json.loads(site.ask("ls", "-l", "--json", site.at("share")).out)
        assert [x["type"] for x in facts if x["name"] in ("file", "sub")] == [
            "file",
            "folder",
        ]
        done = site.ask("ls", "-l", site.at("share/sub"))
        assert b"\x1b" not in done.out
        assert len(done.out.splitlines()) == 3

    def test_a_file_is_listed_as_itself(self, site: Site) -> None:
        """
        What is no folder is listed as itself, what is not there is status 5.
        """
        done = site.ask("ls", site.at("share/file"))
        assert (done.status, done.out) == (0, b"share/file\n")
        assert site.ask("ls", site.at("share/none")).status == 5


@pytest.mark.programs
class TestGet:
    """
    `nodecomm get`.
    """

    def test_to_a_file(self, site: Site, tmp_path: Path) -> None:
        """
        Content and permissions are the server's, set-user-ID apart; the name is the
        server's, or the one given, also in a folder given.
        """
        for words, name in (
            ([], "file"),
            (["other"], "other"),
            (["folder"], "folder/file"),
        ):
            here = tmp_path / "here"
            shutil.rmtree(here, ignore_errors=True)
            (here / "folder").mkdir(parents=True)
            done = site.ask("get", site.at("share/file"), *words, cwd=here)
            assert (done.status, done.err) == (0, "")
            assert (here / name).read_bytes() == b"content\n"
            assert (here / name).stat().st_mode & 0o7777 == 0o751
            left = {path.name for path in here.rglob("*") if path.is_file()}
            assert left == {Path(name).name}

    def test_every_size(self, site: Site, tmp_path: Path) -> None:
        """
        Empty files, large ones, and those that hold an error text are all right.
        """
        for name in ("empty", "big", "error"):
            target = tmp_path / name
            done = site.ask("get", "--json", site.at(f"share/{name}"), target)
            assert (done.status, done.err) == (0, "")
            assert target.read_bytes() == (site.root / name).read_bytes()
            digest = hashlib.md5(target.read_bytes()).hexdigest()
            assert json.loads(done.out)["md5"] == digest

    def test_to_standard_output(self, site: Site) -> None:
        """
        `-` writes to standard output, byte for byte.
        """
        done = site.ask("get", site.at("share/big"), "-")
        assert (done.status, done.err) == (0, "")
        assert done.out == BIG

    def test_a_reader_who_stops(self, site: Site) -> None:
        """
        An output that is closed early is status 1 and one line.
        """
        site.store.add(site.name, site.key)
        words = ("get", "-u", "root", site.at("share/big"), "-")
        process = site.start(*words)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        with process.stderr:
            err = process.stderr.read().decode()
        assert process.wait(60) == 1
        assert err.startswith("error: ")
        assert err.count("\n") == 1

    def test_what_is_replaced(self, site: Site, tmp_path: Path) -> None:
        """
        A file is replaced in one step, through a link the file behind it; what is no
        file is not replaced, and what fails leaves the old file.
        """
        old = tmp_path / "old"
        old.write_text("old")
        link = tmp_path / "link"
        link.symlink_to(old)
        assert site.ask("get", site.at("share/none"), link).status == 5
        assert old.read_text() == "old"
        assert site.ask("get", site.at("share/file"), link).status == 0
        assert (link.is_symlink(), old.read_bytes()) == (True, b"content\n")
        os.mkfifo(tmp_path / "fifo")
        for name in (tmp_path / "fifo", "/dev/null"):
            done = site.ask("get", site.at("share/file"), name)
            assert (done.status, done.out) == (2, b"")
            assert "no ordinary file" in done.err
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "fifo",
            "link",
            "old",
            "state",
        ]

    def test_no_file_there(self, site: Site, tmp_path: Path) -> None:
        """
        A folder is not fetched; the message names the command that does.
        """
        done = site.ask("get", site.at("share/sub"), tmp_path / "sub")
        assert done.status == 5
        assert "`nodecomm sync`" in done.err


@pytest.mark.programs
class TestSync:
    """
    `nodecomm sync`.
    """

    def test_fresh_unchanged_and_repaired(self, site: Site, tmp_path: Path) -> None:
        """
        The first run brings everything, the second one nothing, the third what was
        damaged here; a dry run only tells.
        """
        dest = tmp_path / "dest"
        words = ("sync", site.at("share/sub"), dest)
        done = site.ask(*words, "-v")
        assert (done.status, done.err) == (0, "")
        *changes, last = done.out.decode().splitlines()
        assert changes == [
            "added       .",
            "added       a\\x1b[2Jb",
            "added       back\\\\slash",
            "added       \\xff",
        ]
        assert last.startswith(f"{dest} updated: 3 files checked, ")
        assert sorted(os.listdir(os.fsencode(dest))) == [
            b"a\x1b[2Jb",
            b"back\\slash",
            b"\xff",
        ]
        done = site.ask(*words)
        assert done.out.decode().startswith(f"{dest} unchanged: 3 files checked, 0 ")
        (dest / "back\\slash").write_text("damaged")
        (dest / "mine").write_text("mine")
        done = site.ask(*words, "--dry-run", "--purge")
        assert done.out.decode().splitlines()[:-1] == [
            "updated     back\\\\slash",
            "removed     mine",
        ]
        assert (dest / "back\\slash").read_text() == "damaged"
        facts = json.loads(site.ask(*words, "--json", "--purge").out)
        assert facts["changes"] == [
            {"name": "back\\\\slash", "what": "updated"},
            {"name": "mine", "what": "removed"},
        ]
        assert (facts["removed"], facts["changed"]) == (1, True)
        assert (dest / "back\\slash").read_text() == ""

    def test_a_file(self, site: Site, tmp_path: Path) -> None:
        """
        A file of the server becomes a file here.
        """
        for name in ("big", "error"):
            done = site.ask("sync", site.at(f"share/{name}"), tmp_path / name)
            assert (done.status, done.err) == (0, "")
            assert (tmp_path / name).read_bytes() == (site.root / name).read_bytes()

    def test_failures(self, site: Site, tmp_path: Path) -> None:
        """
        A failure has its status, and the destination is as it was.
        """
        dest = tmp_path / "dest"
        dest.mkdir()
        (dest / "old").write_text("old")
        name = site.name
        table = [
            (f"127.0.0.1:{free_port()}:share", ["--trust-server"], dest, 3),
            (site.at("share"), ["--server-key", key(1).md5], dest, 4),
            (site.at("none"), [], dest, 5),
            (site.at("share"), ["--user", "nobody-here"], dest, 5),
            (site.at("share"), [], tmp_path / "missing" / "dest", 1),
        ]
        for source, words, where, status in table:
            site.store.add(name, site.key, replace=True)
            done = site.run("sync", source, where, "--user=root", "--json", *words)
            assert done.status == status, done
            assert done.err.startswith("error: ")
            assert done.err.count("\n") == 1
            assert json.loads(done.out)["error"]["status"] == status
        assert os.listdir(dest) == ["old"]

    def test_two_at_once(self, site: Site, tmp_path: Path) -> None:
        """
        While another update holds the destination, `--lock-wait` says how long to
        wait for it, and the message says which destination.
        """
        lock = tmp_path / ".dest.nodecomm-lock"
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            words = ("sync", site.at("share"), tmp_path / "dest", "--lock-wait=0")
            done = site.ask(*words)
        assert (done.status, done.out) == (1, b"")
        assert str(tmp_path / "dest") in done.err
        assert not (tmp_path / "dest").exists()

    def test_progress_on_a_terminal(self, site: Site, tmp_path: Path) -> None:
        """
        On a terminal one line tells how far it is, and goes away.
        """
        site.store.add(site.name, site.key)
        words = ["sync", site.at("share"), str(tmp_path / "dest"), "--user", "root"]
        shown, status = _at_a_terminal(site, b"", words, {"TERM": "xterm"})
        assert status == 0
        assert "\x1b" not in shown
        *before, last = shown.replace("\r\n", "\n").split("\n")[-2].split("\r")
        assert last.startswith(f"{tmp_path / 'dest'} updated: ")
        assert len(before) >= 2
        assert before[-1].strip() == ""

    def test_interrupted(self, site: Site, tmp_path: Path) -> None:
        """
        SIGINT leaves the destination and its folder as they were.
        """
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            where = f"127.0.0.1:{port}:x"
            process = site.start("sync", where, tmp_path / "dest", "--timeout", "60")
            accepted, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            accepted.close()
        assert (process.returncode, out) == (130, b"")
        assert err == b"error: interrupted\n"
        left = {path.name for path in tmp_path.iterdir()}
        assert left <= {"state", ".dest.nodecomm-lock"}


@pytest.mark.programs
class TestStatuses:
    """
    Each thing that can be wrong has its own exit status and one line.
    """

    def one_line(self, done: Done, status: int, *parts: str) -> None:
        assert (done.status, done.out) == (status, b"")
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        for part in parts:
            assert part in done.err

    def test_unreachable(self, site: Site) -> None:
        """
        Nobody listens there, or there is no such name: 3.
        """
        done = site.ask("stat", f"127.0.0.1:{free_port()}:x")
        self.one_line(done, 3, "connection refused")
        done = site.ask("stat", "name.invalid:x")
        self.one_line(done, 3, "name.invalid")

    def test_untrusted(self, site: Site) -> None:
        """
        A key that is not known, or is another one: 4, and how to accept it.
        """
        done = site.run("stat", site.at("share"))
        self.one_line(done, 4, site.key.md5, "--trust-server")
        site.store.add(site.name, key(0))
        done = site.run("stat", site.at("share"), "--trust-server")
        self.one_line(done, 4, "HAS CHANGED", "nodecomm server-key accept")
        done = site.run("stat", site.at("share"), f"--server-key={key(1).md5}")
        self.one_line(done, 4, key(1).md5)
        assert site.store.keys(site.name) == (key(0),)

    def test_trusted_when_asked_for(self, site: Site) -> None:
        """
        `--trust-server` stores the first key, `--server-key` the one that it names.
        """
        at, user = site.at("share"), ("--user", "root")
        assert site.run("stat", at, "--trust-server", *user).status == 0
        assert site.store.keys(site.name) == (site.key,)
        assert site.run("stat", at, *user).status == 0
        site.store.add(site.name, key(0), replace=True)
        pem = site.state / "hub.pub"
        pem.write_bytes(site.key.to_pem())
        for named in (site.key.md5, site.key.sha.upper(), str(pem)):
            site.store.add(site.name, key(0), replace=True)
            both = ("--server-key", key(1).md5, "--server-key", named)
            assert site.run("stat", at, *both, *user).status == 0
            assert site.store.keys(site.name) == (site.key,)

    def test_rejected(self, site: Site) -> None:
        """
        A server that does not trust us: 5, with what its administrator must do.
        """
        site.store.add(site.name, site.key)
        done = site.run("stat", site.at("share"), "--user", "nobody-here")
        self.one_line(done, 5, pair(7).public.md5, "nobody-here")

    def test_local(self, site: Site) -> None:
        """
        This host has no key: 1, and how to make one.
        """
        shutil.rmtree(site.state / "ppkeys")
        done = site.run("stat", site.at("share"))
        self.one_line(done, 1, "nodecomm key generate", "nodecomm bootstrap")

    def test_a_store_that_cannot_be_read(self, site: Site) -> None:
        """
        A damaged file of the server's key: 1, and nothing was trusted.
        """
        site.store.add(site.name, site.key)
        Path(site.store.path(site.name)).write_text("junk\n")
        done = site.run("stat", site.at("share"), "--trust-server")
        self.one_line(done, 1, site.store.path(site.name))

    def test_wrong_command_lines(self, site: Site) -> None:
        """
        A command line that cannot be meant: 2, before anything is asked.
        """
        at = site.at("share")
        table: list[tuple[list[str], str]] = [
            (["stat"], "which HOST[:PORT]:PATH?"),
            (["stat", "share"], "names no server"),
            (["stat", at, "more"], "too many arguments"),
            (["stat", at, "--encrypt"], "about --protocol classic"),
            (["stat", at, "--protocol", "4"], "takes 2, 3, latest or classic"),
            (["stat", at, "--timeout", "0"], "--timeout takes seconds"),
            (["stat", at, "--user", "two words"], "--user"),
            (["stat", at, "--server-key", "MD5=12"], "neither a key's digest"),
            (["stat", f"{at}/a\\x0ab"], "newline"),
            (["stat", f"{at}/{'x' * 4100}"], "at most"),
            (["get", at, "-", "--json"], "standard output"),
            (["get", site.at("/"), "."], "which LOCAL"),
            (["server-key", "accept", "a b"], "no host name"),
            (["server-key", "accept", "hub", "--trust-server"], "not recognized"),
            (["server-key", "forget", "hub", "MD5=1"], "no key digest"),
        ]
        for words, part in table:
            out, err = io.StringIO(), io.StringIO()
            assert main.run(words, out, err) == 2, words
            (first, _) = err.getvalue().splitlines()
            assert part in first, (words, err.getvalue())
            assert bool(out.getvalue()) == ("--json" in words)

    def test_both_protocols(self, site: Site) -> None:
        """
        Version 2 is spoken when asked for, under either name.
        """
        for name, number in (("2", 2), ("TLS", 2), ("3", 3), ("cookie", 3)):
            options = Options()
            options.parseOptions(["--protocol", name, site.at("share")])
            assert options.newest == number
            done = site.ask("stat", site.at("share"), "--protocol", name)
            assert (done.status, done.err) == (0, "")

    def test_interrupted(self, site: Site, tmp_path: Path) -> None:
        """
        SIGINT ends a command that waits, with status 130, and leaves nothing; SIGTERM
        with 143.
        """
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
                where = f"127.0.0.1:{port}:x"
                process = site.start("get", where, tmp_path / "x")
                accepted, _ = silent.accept()
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
                accepted.close()
                assert (process.returncode, out) == (status, b"")
                assert err == b"error: interrupted\n"
        assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.programs
class TestServerKey:
    """
    `nodecomm server-key`.
    """

    def test_accept_list_forget(self, site: Site) -> None:
        """
        A key is accepted from a file or by its digest, listed, and forgotten.
        """
        done = site.run("server-key", "list")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(b"no server is known")
        done = site.run("server-key", "accept", site.name, site.key.md5)
        assert (done.status, done.err) == (0, "")
        assert done.out.decode() == f"accepted: {site.name}  {site.key.md5}\n"
        pem = site.state / "hub.pub"
        pem.write_bytes(key(0).to_pem())
        # From a file nobody is asked; the name may be one that is not there yet.
        done = site.run("server-key", "accept", "--keep-old", site.name, pem)
        assert done.status == 0
        assert site.store.keys(site.name) == (site.key, key(0))
        done = site.run("server-key", "accept", "Hub.Example.com", pem, "--json")
        assert json.loads(done.out)["server"] == "hub.example.com:5308"
        facts = json.loads(site.run("server-key", "list", "--json").out)
        assert [(x["server"], [k["md5"] for k in x["keys"]]) for x in facts["servers"]]
        listed = site.run("server-key", "list").out.decode().splitlines()
        assert listed == [
            f"{site.name}  {site.key.md5}  {site.key.bits} bits",
            f"{site.name}  {key(0).md5}  {key(0).bits} bits",
            f"hub.example.com:5308  {key(0).md5}  {key(0).bits} bits",
        ]
        done = site.run("server-key", "forget", site.name, key(0).sha)
        assert done.out.decode() == f"forgotten: {site.name}  {key(0).md5}\n"
        assert site.run("server-key", "forget", "hub.example.com").status == 0
        assert site.run("server-key", "forget", "hub.example.com").status == 1
        assert [entry.server for entry in site.store.entries()] == [site.name]

    def test_accept_replaces(self, site: Site) -> None:
        """
        After a change of key one command makes the server known again; a digest that
        is not the server's changes nothing.
        """
        site.store.add(site.name, key(0))
        done = site.run("server-key", "accept", site.name, key(1).md5)
        assert (done.status, site.store.keys(site.name)) == (4, (key(0),))
        assert site.key.md5 in done.err
        done = site.run("server-key", "accept", site.name, site.key.sha)
        assert (done.status, site.store.keys(site.name)) == (0, (site.key,))
        assert site.run("server-key", "accept", site.name).status == 0

    def test_nobody_to_ask(self, site: Site) -> None:
        """
        Without a key on the command line and without a terminal nothing is accepted.
        """
        done = site.run("server-key", "accept", site.name)
        assert (done.status, done.out) == (4, b"")
        assert f"server-key accept {site.name} {site.key.md5}" in done.err
        assert site.store.keys(site.name) == ()


@pytest.mark.programs
def test_asking_at_a_terminal(site: Site) -> None:
    """
    At a terminal the key is shown, and only a yes accepts it.
    """
    for answers, status in ((b"maybe\nyes\n", 0), (b"no\n", 4)):
        site.store.forget(site.name)
        words = ["server-key", "accept", site.name]
        shown, ended = _at_a_terminal(site, answers, words)
        assert ended == status
        assert site.key.md5 in shown
        assert ("Please type 'yes', 'no' or the digest" in shown) == (status == 0)
        assert (site.store.keys(site.name) == (site.key,)) == (status == 0)


def _at_a_terminal(
    site: Site, answers: bytes, words: list[str], environ: dict[str, str] | None = None
) -> tuple[str, int]:
    """
    What `nodecomm WORDS` shows on a terminal of its own, and its status.
    """
    code = (
        "import fcntl, os, sys, termios\n"
        "os.setsid()\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])\n"
    )
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, CODE, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={
            **os.environ,
            "NODECOMM_STATE_DIR": str(site.state),
            **(environ or {}),
        },
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:
                return
            if not data:
                return
            asked = b"[digest])? " in shown
            shown.extend(data)
            # What is typed before the question is no answer.
            if not asked and b"[digest])? " in shown:
                os.write(ours, answers)

    reader = threading.Thread(target=read)
    reader.start()
    status = process.wait(60)
    reader.join(60)
    os.close(ours)
    return shown.decode(), status
